"""dX[b, i] = sum of dS[b, p] over the open paths p that start at input i: reference and kernel, for
any source of dS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.arguments import accumulator
from pallas_kernels.dispatch import call, load, whole
from pallas_kernels.layout import Paths, gate_tile, lay_out, product
from pallas_kernels.path_rows import Rows, in_tiles, over_tiles
from pallas_kernels.tiles import INPUTS, Tiles, round_up


def xla_input_gradient(
    x: jax.Array,
    gates: Sequence[jax.Array],
    inputs: jax.Array,
    units: Sequence[jax.Array],
    source: Callable,
    by_path: jax.Array,
) -> jax.Array:
    """dX (B, I) of x's dtype; source(tile of by_path) is dS^T (paths, B).

    On a GPU XLA adds scattered rows in no fixed order; the kernel below does not.
    """
    rows = Rows(x, gates)

    def add(total, tile):
        inputs, units, values = tile
        ds = rows.masked(source(values).astype(total.dtype), units)
        return total.at[inputs].add(ds, mode="promise_in_bounds"), None

    start = jnp.zeros((x.shape[1], x.shape[0]), accumulator(x.dtype))
    return over_tiles(add, start, in_tiles(x, (inputs, tuple(units), by_path)))[0].T.astype(x.dtype)


def _kernel(paths: Paths, starts, order, sources, dx_ref, *, source: Callable, tile: int, dtype):
    """One program owns the inputs [INPUTS i, INPUTS (i + 1)) and walks over their paths, which lie
    together.
    """
    first, stretch, width = pl.program_id(0) * INPUTS, pl.program_id(1), dx_ref.shape[1]
    start, stop = starts[pl.program_id(0)], starts[pl.program_id(0) + 1]

    def body(step, total):
        row = start + step * tile + lax.broadcasted_iota(jnp.int32, (tile,), 0)
        held = row < stop
        row = jnp.where(held, row, 0)
        ds = source(sources, load(order, row), stretch, width)
        units = [load(index, row) for index in paths.units]
        ds = jnp.where(
            gate_tile(paths.words, units, stretch, width), ds, jnp.zeros_like(ds)
        ).astype(dtype)
        owner = jnp.where(held, load(paths.inputs, row) - first, INPUTS)
        mine = lax.broadcast_in_dim(owner, (INPUTS, tile), (1,)) == lax.broadcasted_iota(
            jnp.int32, (INPUTS, tile), 0
        )
        return total + product(mine.astype(dtype), ds)

    steps = lax.div(stop - start + (tile - 1), np.int32(tile))  # a plain int is int64 under x64
    wide = jnp.promote_types(dtype, jnp.float32)
    dx_ref[...] = lax.fori_loop(0, steps, body, jnp.zeros(dx_ref.shape, wide)).astype(dx_ref.dtype)


def pallas_input_gradient(
    x: jax.Array,
    gates: Sequence[jax.Array],
    inputs: jax.Array,
    units: Sequence[jax.Array],
    source: Callable,
    sources: tuple,
    specs: tuple,
    *,
    tiles: Tiles,
    name: str,
    interpret: bool,
) -> jax.Array:
    """dX (B, I) of x's dtype. In the kernel source(sources, paths, stretch, width) is dS^T (paths,
    width).

    Paths are sorted by input here, as indices only: inputs that do not change are sorted once per
    compiled loop. A program's paths are a range, so nothing is added across programs.
    """
    batch, width = round_up(x.shape[0], tiles.batch), round_up(x.shape[1], INPUTS)
    order = jnp.argsort(inputs, stable=True).astype(jnp.int32)
    paths = lay_out(
        x, gates, inputs[order], [index[order] for index in units], batch=batch, paths=len(order)
    )
    starts = jnp.searchsorted(paths.inputs, jnp.arange(0, width + 1, INPUTS)).astype(jnp.int32)
    paths = paths._replace(x=None)
    kernel = functools.partial(_kernel, source=source, tile=tiles.paths, dtype=x.dtype)
    dx = call(
        kernel,
        paths,
        starts,
        order,
        sources,
        name=name,
        grid=(width // INPUTS, batch // tiles.batch),
        in_specs=[jax.tree.map(whole, paths), whole(starts), whole(order), specs],
        out_specs=pl.BlockSpec((INPUTS, tiles.batch), lambda i, b: (i, b)),
        out_shape=jax.ShapeDtypeStruct((width, batch), x.dtype),
        tiles=tiles,
        interpret=interpret,
    )
    return dx[: x.shape[1], : x.shape[0]].T
