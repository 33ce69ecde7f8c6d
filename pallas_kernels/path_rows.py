"""S^T by rows in plain XLA, all at once or over tiles of paths: what the reference forms are made
of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.dispatch import working_set
from pallas_kernels.gates import WORD, unpack_gates
from pallas_kernels.layout import padded


def take_rows(array: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of `array` at an index that is known to be in range."""
    return array.at[index].get(mode="promise_in_bounds")


class Rows:
    """S^T of paths over one batch; rows of x^T rather than columns of x.

    A row is contiguous: with tiles of paths that is 2 to 3 times faster on a CPU, and equal without
    them.
    """

    def __init__(self, x: jax.Array, gates: Sequence[jax.Array]):
        self.x = x.T
        self.open = tuple(unpack_gates(words, WORD * words.shape[1]).T for words in gates)

    def masked(self, values: jax.Array, units: Sequence[jax.Array]) -> jax.Array:
        """values (P, B) where every unit of the path is open, 0 elsewhere, also for values that are
        not finite.
        """
        opened = functools.reduce(
            jnp.logical_and, (take_rows(layer, index) for layer, index in zip(self.open, units))
        )
        return jnp.where(opened, values, jnp.zeros_like(values))

    def contributions(self, inputs: jax.Array, units: Sequence[jax.Array]) -> jax.Array:
        """S^T (P, B) of the paths (inputs, units)."""
        return self.masked(take_rows(self.x, inputs), units)


def in_tiles(x: jax.Array, by_path):
    """A tree of arrays (P, ...) as (tiles, P / tiles, ...), padded with zeros; one tile where all
    of S is small enough.
    """
    paths, row = len(jax.tree.leaves(by_path)[0]), x.shape[0] * x.dtype.itemsize
    limit = working_set()
    known = isinstance(x.shape[0], int)  # else the batch is left open for an export
    fits = not known or paths * row <= 2 * limit
    tile = paths if fits else min(paths, max(limit // row // 128, 1) * 128)
    count = -(-paths // tile)
    return jax.tree.map(
        lambda a: padded(a, count * tile, *a.shape[1:]).reshape(count, tile, *a.shape[1:]), by_path
    )


def over_tiles(body: Callable, start, tiles) -> tuple:
    """`lax.scan`, without a loop where there is one tile."""
    return lax.scan(body, start, tiles, unroll=len(jax.tree.leaves(tiles)[0]) == 1)
