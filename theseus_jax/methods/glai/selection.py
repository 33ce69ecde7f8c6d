"""Which paths the estimator keeps: scores, a streamed choice of the best, and what dropping the
others costs.

The norm of a path is N = mean over a reference set of |x~_i| times its gates, its score |w| N
(arXiv 2510.00883). The norms of all inputs and a block of unit tuples (j_1, ..., j_L) are one
matrix product |X~|^T (A_1[:, j_1] & ... & A_L[:, j_L]) / m; blocks are streamed, and only what can
still be among the best is kept. The number of paths times outputs never becomes the size of an
array.

| kind | keeps | score of a path |
| --- | --- | --- |
| joint | `keep` paths for all outputs | N times the sum over outputs of its weights' magnitudes |
| per_output | `keep` // O paths of each output | N times its weight's magnitude to that output |
| global | `keep` (path, output) entries in all | the same |

"global" is the paper's; it can leave an output with little. "joint" is ours, the only one without
an index per output.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from theseus_jax.errors import UserError
from theseus_jax.methods.glai import paths as gp
from theseus_jax.methods.glai.budget import path_count
from theseus_jax.methods.glai.paths import Entries, Layers, Paths

KINDS = ("joint", "per_output", "global")
TUPLES_AT_ONCE = 1024
ENTRIES_AT_ONCE = 1 << 19
PAIRS_AT_ONCE = 1 << 22  # scores of 16 MB: any head of the paper
# A bound and a score that are equal may differ by the rounding of their sums; nothing within this
# share is discarded.
SLACK = 1e-4


@jax.jit
def _block_scores(
    magnitudes: jax.Array,
    gates: tuple[jax.Array, ...],
    first: jax.Array,
    units: tuple[jax.Array, ...],
    rest: jax.Array,
) -> jax.Array:
    """(I + 1, S): N |w| without the output matrix, of all inputs and S unit tuples; -1 where no
    path is.

    magnitudes: |x~| (m, I + 1). first: |W~_1| (I + 1, J_1 + 1). units: L arrays (S,). rest: (S,)
    the other factors.
    """
    opened = functools.reduce(operator.and_, (gate[:, unit] for gate, unit in zip(gates, units)))
    norms = gp.product(magnitudes.T, opened.astype(magnitudes.dtype)) / magnitudes.shape[0]
    inputs, constant = (
        jnp.arange(first.shape[0]) < first.shape[0] - 1,
        units[0] == first.shape[1] - 1,
    )
    return jnp.where(inputs[:, None] & constant, -1, norms * first[:, units[0]] * rest)


class _Best:
    """The `capacity` best entries of each group among all that were offered; ties go to the lowest
    index.

    columns: (J_L + 1, M) what a tuple's score is multiplied with, one column for each output (or
    one for all). An entry is tuple * M + column; groups is M (each column by itself) or 1 (all
    columns together).
    """

    def __init__(self, columns: np.ndarray, groups: int, capacity: int) -> None:
        self.columns, self.groups, self.capacity = columns, groups, capacity
        self.limit = max(2 * groups * capacity, ENTRIES_AT_ONCE)
        self.scores, self.index = [], []
        # Replaced, never written to: a reader that keeps the array sees by its identity whether it
        # is still the latest.
        self.least = np.full(groups, -np.inf)

    def add(self, scores: np.ndarray, index: np.ndarray) -> None:
        self.scores.append(scores)
        self.index.append(index)
        if sum(map(len, self.scores)) > self.limit:
            self.compact()

    def compact(self) -> None:
        scores, index = np.concatenate(self.scores), np.concatenate(self.index)
        group = index % self.groups
        order = np.lexsort((index, -scores, group))
        counts = np.bincount(group, minlength=self.groups)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = order[rank < self.capacity]
        self.scores, self.index = [scores[kept]], [index[kept]]
        least = np.full(self.groups, -np.inf)
        least[counts >= self.capacity] = scores[order[rank == self.capacity - 1]]
        self.least = least

    def needed(self) -> np.ndarray:
        """(J_L + 1,): the least score of a tuple that ends there for any of its entries to be kept,
        rounding allowed for.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            least = self.least / self.columns
        least = np.where(self.columns > 0, least, np.where(self.least > 0, np.inf, -np.inf))
        return np.min(least, axis=1) * (1 - SLACK)

    def offer(self, scores: np.ndarray, tuples: np.ndarray, last: np.ndarray) -> None:
        """Tuples with their scores and their unit of the last hidden layer, expanded over the
        columns bit by bit.
        """
        n_columns = self.columns.shape[1]
        step = max(1, self.limit // n_columns)
        while len(scores):
            alive = scores >= self.needed()[last]
            scores, tuples, last = scores[alive], tuples[alive], last[alive]
            entries = scores[:step, None] * self.columns[last[:step]]
            row, column = np.nonzero(entries >= self.least)
            self.add(entries[row, column], tuples[row] * n_columns + column)
            scores, tuples, last = scores[step:], tuples[step:], last[step:]


class _Tuples(NamedTuple):
    """Unit tuples that can carry weight, best bound first. flat: (Q,) in mixed radix (J_1 + 1, ...,
    J_L + 1).

    rest: (Q,) product of |W~_l|, l = 2..L, along them. bound: (Q,) at least the score of any input
    with them.
    """

    flat: np.ndarray
    rest: np.ndarray
    bound: np.ndarray


def _tuples(matrices: Sequence[np.ndarray], magnitudes: jax.Array, gate: jax.Array) -> _Tuples:
    """All unit tuples but the one of constants, ordered by the bound N_{i, j_1, ..., j_L} <= N_{i,
    j_1}.
    """
    singles = gp.product(magnitudes.T, gate.astype(magnitudes.dtype)) / magnitudes.shape[0]
    rest = np.ones(matrices[0].shape[1], matrices[0].dtype)
    real = np.ones(matrices[0].shape[1], bool)
    for matrix in matrices[1:-1]:
        turns_constant = np.zeros(matrix.shape, bool)
        turns_constant[:-1, -1] = True
        rest, real = rest[..., None] * matrix, real[..., None] & ~turns_constant
    highest = np.max(np.asarray(singles) * matrices[0], axis=0)
    bound = rest * highest.reshape(-1, *(1,) * (rest.ndim - 1))
    optimistic = (bound * np.max(matrices[-1], axis=1)).ravel()
    flat = np.flatnonzero(real)[:-1]
    flat = flat[np.argsort(-optimistic[flat], kind="stable")]
    return _Tuples(flat, rest.ravel()[flat], bound.ravel()[flat])


def _stream(
    matrices: Sequence[np.ndarray],
    magnitudes: jax.Array,
    gates: tuple[jax.Array, ...],
    best: _Best,
    at_once: int,
) -> None:
    """Offers every path but the one of constants to `best`, as input * tuples + tuple, in blocks of
    `at_once` tuples.

    A tuple whose bound no longer reaches the least score kept so far is dropped with all its
    inputs.
    """
    widths = tuple(gate.shape[1] for gate in gates)
    n_tuples = math.prod(widths)
    left = _tuples(matrices, magnitudes, gates[0])
    first, at_once, least = jnp.asarray(matrices[0]), min(at_once, len(left.flat)), best.least
    while len(left.flat):
        block = _Tuples(*(column[:at_once] for column in left))
        padding = (0, at_once - len(block.flat))
        units = np.stack(np.unravel_index(np.pad(block.flat, padding), widths)).astype(np.int32)
        scores = np.asarray(
            _block_scores(magnitudes, gates, first, tuple(units), np.pad(block.rest, padding))
        )
        scores, last = scores[:, : len(block.flat)], units[-1, : len(block.flat)]
        inputs, column = np.nonzero(scores >= np.maximum(best.needed()[last], 0))
        best.offer(scores[inputs, column], inputs * n_tuples + block.flat[column], last[column])
        left = _Tuples(*(column[at_once:] for column in left))
        if best.least is not least:
            alive = left.bound * (1 + SLACK) >= best.needed()[left.flat % widths[-1]]
            left, least = _Tuples(*(column[alive] for column in left)), best.least


def _check_finite(finite: bool) -> None:
    if not finite:
        raise UserError(
            "the network's weights or the reference rows hold values that are not finite; check the"
            " training and the data"
        )


def _groups(kind: str, keep: int, total: int, outputs: int) -> tuple[int, int]:
    """(groups, entries kept of each). total: paths to one output."""
    if kind not in KINDS:
        raise UserError(f"there is no selection {kind!r}; choose from {', '.join(KINDS)}")
    least, most = (1, total) if kind == "joint" else (outputs, total * outputs)
    if not least <= keep <= most:
        raise UserError(
            f"{kind} selection cannot keep {keep}: the output bias needs {least} and there are"
            f" {most}; change keep"
        )
    return (outputs, keep // outputs) if kind == "per_output" else (1, keep)


@functools.partial(jax.jit, static_argnames=("keep",))
def _best_pairs(layers: Layers, x: jax.Array, keep: int) -> tuple[Paths, jax.Array]:
    """The joint selection of one hidden layer in one program, and whether all is finite: the scores
    are (I + 1, J + 1).
    """
    first, last = gp.extended(layers)
    gate = gp.open_gates(layers, x)[0].astype(x.dtype)
    norms = gp.product(jnp.abs(gp.augment(x)).T, gate) / len(x)
    scores = norms * jnp.abs(first) * jnp.abs(last).sum(axis=1)
    finite = jnp.isfinite(scores).all()
    # an input does not lead to the constant unit: no path; the path of constants is the output
    # bias: always kept
    scores = scores.at[:-1, -1].set(-jnp.inf).at[-1, -1].set(jnp.inf)
    chosen = jnp.sort(lax.top_k(scores.ravel(), keep)[1]).astype(jnp.int32)
    return Paths(chosen // scores.shape[1], (chosen % scores.shape[1],)), finite


def select(
    layers: Layers, x: jax.Array, *, kind: str, keep: int, at_once: int | None = None
) -> Paths | Entries:
    """The best paths of a network by their scores on reference rows x (B, I), in lexical order.

    kind "joint": Paths, `keep` of them. "per_output": Entries, keep // O of each output. "global":
    Entries, `keep` of them. The path of constants (the output bias) is always kept; equal scores go
    to the lowest index. Streams blocks of (I + 1) x at_once scores on the host (at_once:
    TUPLES_AT_ONCE unless given); the cost is at most 2 B (I + 1) J_1...J_L FLOP, less what a bound
    discards. The pairs of one hidden layer of usual size are ranked by one program. Computes in
    float32, or in float64 if the layers or x are. Raises UserError for another kind, a `keep` that
    is smaller than the output bias or larger than the number of paths, and values that are not
    finite.
    """
    widths, outputs = gp.sizes(layers), layers[-1][1].shape[0]
    groups, capacity = _groups(kind, keep, path_count(widths[0], widths[1:], 1), outputs)
    x = jnp.asarray(x)
    if (
        kind == "joint"
        and len(widths) == 2
        and math.prod(widths) <= PAIRS_AT_ONCE
        and at_once is None
    ):
        chosen, finite = _best_pairs(
            layers, x.astype(jnp.promote_types(x.dtype, jnp.float32)), keep
        )
        _check_finite(bool(finite))
        return chosen
    gates = gp.open_gates(layers, x)
    magnitudes = jnp.abs(gp.augment(x.astype(jnp.promote_types(x.dtype, jnp.float32))))
    matrices = [np.abs(np.asarray(matrix)) for matrix in gp.extended(layers)]
    _check_finite(all(np.isfinite(values).all() for values in (*matrices, np.asarray(magnitudes))))
    columns = matrices[-1].sum(axis=1, keepdims=True) if kind == "joint" else matrices[-1]
    constants = math.prod(width + 1 for width in widths) - 1
    best = _Best(columns, groups, capacity)
    best.add(
        np.full(columns.shape[1], np.inf),
        constants * columns.shape[1] + np.arange(columns.shape[1]),
    )
    _stream([*matrices[:-1], columns], magnitudes, gates, best, at_once or TUPLES_AT_ONCE)
    best.compact()
    flat, column = np.divmod(np.sort(best.index[0]), columns.shape[1])
    nodes = np.unravel_index(flat, tuple(width + 1 for width in widths))
    chosen = Paths(nodes[0].astype(np.int32), tuple(node.astype(np.int32) for node in nodes[1:]))
    return chosen if kind == "joint" else Entries(chosen, column.astype(np.int32))
