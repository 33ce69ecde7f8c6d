"""When a path selector has settled: how much its gates still change, measured on packed gates
(arXiv 2510.00883).

A snapshot holds the gates of every hidden layer on fixed reference rows, 32 units in a word: unit j
is bit j % 32 of word j // 32. Everything is then popcounts, and nothing of the size of the number
of paths is formed.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from theseus_jax.errors import UserError
from theseus_jax.methods.glai.paths import Layers, patterns


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Gates of a network on B rows. words: one uint32 (B, ceil(J_l / 32)) for each hidden layer.
    widths: J_1, ..., J_L.
    """

    words: tuple[jax.Array, ...]
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def pack(gates: jax.Array) -> jax.Array:
    """Boolean (B, J) -> uint32 (B, ceil(J / 32)): unit j is bit j % 32 of word j // 32, the rest of
    the last word is 0.
    """
    count, width = gates.shape
    padded = jnp.pad(gates, ((0, 0), (0, -width % 32))).reshape(count, -1, 32)
    return jnp.sum(
        padded.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32), axis=2, dtype=jnp.uint32
    )


@jax.jit
def snapshot(layers: Layers, x: jax.Array) -> Snapshot:
    """The packed `patterns` of a network on rows x (B, I): B J_l / 8 bytes for each hidden
    layer.
    """
    gates = patterns(layers, x)
    return Snapshot(tuple(pack(gate) for gate in gates), tuple(gate.shape[1] for gate in gates))


def popcount(words: jax.Array) -> jax.Array:
    """uint32 (..., W) -> int32 (...): how many bits are set in the last axis."""
    return jnp.sum(lax.population_count(words).astype(jnp.int32), axis=-1)


def _check_pair(before: Snapshot, after: Snapshot) -> None:
    shapes = [tuple(words.shape for words in one.words) for one in (before, after)]
    if before.widths != after.widths or shapes[0] != shapes[1]:
        raise UserError(
            f"the snapshots differ: widths {before.widths} and {after.widths}, words {shapes[0]}"
            f" and {shapes[1]}; take both from one network on the same rows"
        )


@jax.jit
def settling(x: jax.Array, before: Snapshot, after: Snapshot) -> jax.Array:
    """m_t: the mean over all paths (i, j_1, ..., j_L) of mean_x |x_i| |ind_t - ind_{t+1}|, a scalar
    >= 0 in units of x.

    arXiv 2510.00883; ind is 1 where all gates of a path are open. x: (B, I), the snapshots' rows.
    It factorises: the paths of a row whose indicator changed number prod a_l + prod b_l - 2 prod
    c_l, with a_l, b_l units open before and after and c_l open both times. Raises UserError for
    snapshots or rows that do not belong together.
    """
    _check_pair(before, after)
    if x.shape[0] != before.words[0].shape[0]:
        raise UserError(
            f"{x.shape[0]} rows for snapshots of {before.words[0].shape[0]}; give the rows they"
            " were taken on"
        )
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # prod a - prod c as a sum of terms >= 0, layer by layer: exactly 0 without a change, no
    # cancellation near it.
    opened, closed, both = (jnp.zeros(x.shape[0], dtype),) * 2 + (jnp.ones(x.shape[0], dtype),)
    for first, second, width in zip(before.words, after.words, before.widths):
        a, b, c = (popcount(words) for words in (first, second, first & second))
        closed = closed * (a / width).astype(dtype) + both * ((a - c) / width).astype(dtype)
        opened = opened * (b / width).astype(dtype) + both * ((b - c) / width).astype(dtype)
        both = both * (c / width).astype(dtype)
    return jnp.mean((opened + closed) * jnp.mean(jnp.abs(x), axis=1))


@jax.jit
def pattern_distance(before: Snapshot, after: Snapshot) -> jax.Array:
    """(L,): for each hidden layer the share of gates, over rows and units, that differ between two
    snapshots, in [0, 1].

    The mean over layers is the change of patterns of arXiv 2602.08333. Raises UserError for
    snapshots of other shapes.
    """
    _check_pair(before, after)
    return jnp.stack(
        [
            jnp.mean(popcount(first ^ second) / width)
            for first, second, width in zip(before.words, after.words, before.widths)
        ]
    )


@jax.jit
def oui(gates: Snapshot) -> jax.Array:
    """Overfitting-underfitting indicator, a scalar in [0, 1]: how differently a network's gates
    respond to different rows.

    The mean over layers and over all pairs of rows of min(d, floor(J_l / 2)) / floor(J_l / 2), with
    d the number of units whose gates differ: 1 if half of the units or more do. arXiv 2504.17160;
    the cap and the divisor as in the authors' functions.py (AlbertoFdezHdez/OUI), which draws at
    most 28 pairs of a batch where this takes all. Streams the rows. Raises UserError for fewer than
    2 rows or a layer of 1 unit.
    """
    rows = gates.words[0].shape[0]
    if rows < 2 or min(gates.widths) < 2:
        raise UserError(
            f"{rows} rows and hidden widths {gates.widths}; OUI needs at least 2 rows and 2 units"
            " in each layer"
        )

    def against_all(words: tuple[jax.Array, ...]) -> jax.Array:
        shares = [
            jnp.minimum(popcount(every ^ own), width // 2) / (width // 2)
            for own, every, width in zip(words, gates.words, gates.widths)
        ]
        return sum(shares).sum() / len(shares)

    # A row has distance 0 to itself, so the sum over all ordered pairs is that over different ones.
    return jnp.sum(lax.map(against_all, gates.words)) / (rows * (rows - 1))


class Maturity(NamedTuple):
    """When a selector is taken as settled: its smoothed m_t has fallen to `share` of the largest
    m_t so far.

    window: epochs over which m_t is averaged; one m_t of a small reference set is noise. share: in
    (0, 1). The defaults are from ReLU networks on scikit-learn's digits (1 to 3 hidden layers, SGD
    and Adam at seven rates): m_t is largest in the first epochs, falls within 4 to 16 of them (22
    and 27 at the largest and the smallest rate of Adam) and then stays on a noisy floor of 3 to 20
    percent for as long as the network trains. A smaller share waits for the network to converge; a
    rule on the slope stops in the flat start of a slow optimizer.
    """

    window: int = 3
    share: float = 0.2


def mature(history: Sequence[float], rule: Maturity = Maturity()) -> bool:
    """Whether the selector has settled, from m_1, ..., m_t of `settling`, the first against the
    network's start.

    The paper's own rule needs the epoch at which the full network converges; this needs the
    selector's past alone. False for fewer values than rule.window, or if one of them is NaN. Raises
    UserError for a window below 1 or a share outside (0, 1).
    """
    if rule.window < 1 or not 0 < rule.share < 1:
        raise UserError(
            f"window = {rule.window}, share = {rule.share}; give a window of at least 1 and a share"
            " in (0, 1)"
        )
    if len(history) < rule.window:
        return False
    return sum(history[-rule.window :]) / rule.window <= rule.share * max(history)
