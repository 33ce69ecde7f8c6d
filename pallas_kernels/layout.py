"""What every kernel reads: x transposed and gates packed along the batch; a path is a row, a warp
reads a stretch of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.dispatch import load
from pallas_kernels.gates import WORD, batch_words


class Paths(NamedTuple):
    """Paths over a padded batch, as arrays outside a kernel and as refs within.

    x (I, B), words: per hidden layer uint32 (J, B / 32), inputs int32 (P,), units: per hidden layer
    int32 (P,).
    """

    x: jax.Array
    words: tuple[jax.Array, ...]
    inputs: jax.Array
    units: tuple[jax.Array, ...]


def padded(array: jax.Array, *shape: int) -> jax.Array:
    """`array` with zeros at the end of every axis up to `shape`; itself where it fits already."""
    return jnp.pad(array, [(0, size - old) for size, old in zip(shape, array.shape)])


def indices(
    x: jax.Array, gates: Sequence[jax.Array], inputs: jax.Array, units: Sequence[jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """inputs and units clamped to what exists: a kernel would read past the end of an array without
    a word.
    """
    return (
        jnp.clip(inputs, 0, x.shape[1] - 1),
        tuple(jnp.clip(index, 0, WORD * words.shape[1] - 1) for index, words in zip(units, gates)),
    )


def lay_out(
    x: jax.Array,
    gates: Sequence[jax.Array],
    inputs: jax.Array,
    units: Sequence[jax.Array],
    *,
    batch: int,
    paths: int,
) -> Paths:
    """x (B, I), gates and paths in the layout of the kernels, padded to `batch` samples and `paths`
    paths.

    Padded samples are 0 and closed; padded paths lead from input 0 through unit 0, so their results
    are dropped or meet a weight of 0.
    """
    return Paths(
        padded(x.T, x.shape[1], batch),
        tuple(batch_words(words, batch) for words in gates),
        padded(inputs, paths),
        tuple(padded(index, paths) for index in units),
    )


def gate_tile(
    words: Sequence, units: Sequence[jax.Array], tile: jax.Array, width: int
) -> jax.Array:
    """In a kernel: bool (P, width), whether every unit of a path is open for the samples of the
    tile-th stretch.

    A word is loaded once for its 32 samples and spread in registers; a load per sample would issue
    as many instructions for gates as for x. Layers are one AND each, on words.
    """
    count = units[0].shape[0]
    shape = (count, width // WORD)
    column = tile * shape[1] + lax.broadcasted_iota(jnp.int32, shape, 1)
    word = None
    for ref, unit in zip(words, units):
        layer = load(ref, lax.broadcast_in_dim(unit, shape, (0,)), column)
        word = layer if word is None else lax.bitwise_and(word, layer)
    spread = lax.broadcast_in_dim(word, (*shape, WORD), (0, 1))
    lane = lax.broadcasted_iota(jnp.uint32, spread.shape, 2)
    return (lax.bitwise_and(lax.shift_right_logical(spread, lane), jnp.uint32(1)) == 1).reshape(
        count, width
    )


def path_tile(paths: Paths, rows, tile: jax.Array, width: int) -> jax.Array:
    """In a kernel: S^T (P, width) for the paths in `rows` and the samples of the tile-th stretch of
    the batch.
    """
    inputs, units = paths.inputs[rows], [index[rows] for index in paths.units]
    shape = (inputs.shape[0], width)
    lane = tile * width + lax.broadcasted_iota(jnp.int32, shape, 1)
    x = load(paths.x, lax.broadcast_in_dim(inputs, shape, (0,)), lane)
    return jnp.where(gate_tile(paths.words, units, tile, width), x, jnp.zeros_like(x))


def product(a: jax.Array, b: jax.Array, axes: tuple[int, int] = (1, 0)) -> jax.Array:
    """a . b over one axis of each, summed in float32 or wider; float32 operands are never rounded
    to TF32.
    """
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        preferred_element_type=wide,
        precision=lax.Precision.HIGHEST,
    )
