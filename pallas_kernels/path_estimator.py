"""Y = S W, the linear estimator on path contributions: reference, kernels, derivative, operation.
No kernel stores S.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl

from pallas_kernels.arguments import accumulator, check_matrix, check_paths
from pallas_kernels.derivatives import asked, mark, values
from pallas_kernels.dispatch import call, choose, device, load, whole
from pallas_kernels.input_gradient import pallas_input_gradient, xla_input_gradient
from pallas_kernels.layout import Paths, indices, lay_out, padded, path_tile, product
from pallas_kernels.path_rows import Rows, in_tiles, over_tiles
from pallas_kernels.tiles import Tiles, forward_tiles, input_tiles, round_up, weight_tiles

OP = "path_estimator"


def _xla_forward(x, gates, inputs, units, weights):
    """Y^T = W^T S^T: with the batch along the rows of the result, few outputs are up to 8 times
    faster on a CPU.
    """
    rows = Rows(x, gates)

    def add(total, tile):
        inputs, units, weights = tile
        return total + product(weights, rows.contributions(inputs, units), (0, 0)), None

    start = jnp.zeros((weights.shape[1], x.shape[0]), accumulator(x.dtype))
    return over_tiles(add, start, in_tiles(x, (inputs, units, weights.astype(x.dtype))))[0].T


def _xla_weight_gradient(x, gates, inputs, units, dy):
    """dW (P, O) = S^T dY, summed in float32 or wider."""
    rows, dy = Rows(x, gates), dy.astype(x.dtype)

    def one(_, tile):
        return None, product(rows.contributions(*tile), dy)

    parts = over_tiles(one, None, in_tiles(x, (inputs, units)))[1]
    return parts.reshape(-1, dy.shape[1])[: len(inputs)]


def _xla_input_gradient(x, gates, inputs, units, weights, dy):
    dy = dy.astype(x.dtype)
    return xla_input_gradient(
        x, gates, inputs, units, lambda rows: product(rows, dy, (1, 1)), weights.astype(x.dtype)
    )


def _forward_kernel(paths: Paths, w_ref, y_ref, *, tile: int):
    stretch, width = pl.program_id(0), y_ref.shape[0]

    def body(step, total):
        rows = pl.ds(step * tile, tile)
        return total + product(path_tile(paths, rows, stretch, width), w_ref[rows, :], (0, 0))

    y_ref[...] = lax.fori_loop(0, w_ref.shape[0] // tile, body, jnp.zeros(y_ref.shape, y_ref.dtype))


def _pallas_forward(x, gates, inputs, units, weights, *, interpret):
    tiles = forward_tiles(x.shape[0], *weights.shape, x.dtype.itemsize, device().cores)
    batch, count = (
        round_up(x.shape[0], tiles.batch),
        round_up(len(inputs), tiles.paths * tiles.splits),
    )
    outputs, part = round_up(weights.shape[1], tiles.outputs), count // tiles.splits
    paths = lay_out(x, gates, inputs, units, batch=batch, paths=count)
    block = pl.BlockSpec((part,), lambda b, o, s: (s,))
    y = call(
        functools.partial(_forward_kernel, tile=tiles.paths),
        paths,
        padded(weights.astype(x.dtype), count, outputs),
        name=OP,
        grid=(batch // tiles.batch, outputs // tiles.outputs, tiles.splits),
        in_specs=[
            Paths(whole(paths.x), jax.tree.map(whole, paths.words), block, (block,) * len(units)),
            pl.BlockSpec((part, tiles.outputs), lambda b, o, s: (s, o)),
        ],
        out_specs=pl.BlockSpec((None, tiles.batch, tiles.outputs), lambda b, o, s: (s, b, o)),
        out_shape=jax.ShapeDtypeStruct((tiles.splits, batch, outputs), accumulator(x.dtype)),
        tiles=tiles,
        interpret=interpret,
    )
    return jnp.sum(y, axis=0)[: x.shape[0], : weights.shape[1]]


def _weight_kernel(paths: Paths, dy_ref, dw_ref, *, tile: int):
    """dW of the program's paths and outputs over its part of the batch, in stretches of `tile`
    samples.
    """

    def body(step, total):
        return total + product(
            path_tile(paths, slice(None), step, tile), dy_ref[pl.ds(step * tile, tile), :]
        )

    wide = jnp.promote_types(dy_ref.dtype, jnp.float32)
    start = jnp.zeros((paths.inputs.shape[0], dy_ref.shape[1]), wide)
    dw_ref[...] = lax.fori_loop(0, dy_ref.shape[0] // tile, body, start)


def _weight_operands(x, gates, inputs, units, dy, tiles: Tiles) -> tuple[tuple, tuple]:
    """(paths, dy) padded to `tiles`, and their blocks on the grid (paths, outputs, splits of the
    batch).
    """
    batch, count = (
        round_up(x.shape[0], tiles.batch * tiles.splits),
        round_up(len(inputs), tiles.paths),
    )
    part = batch // tiles.splits
    paths = lay_out(x, gates, inputs, units, batch=batch, paths=count)
    dy = padded(dy.astype(x.dtype), batch, round_up(dy.shape[1], tiles.outputs))
    block = pl.BlockSpec((tiles.paths,), lambda p, o, s: (p,))
    lanes = Paths(
        pl.BlockSpec((x.shape[1], part), lambda p, o, s: (0, s)),
        tuple(
            pl.BlockSpec((len(words), part // 32), lambda p, o, s: (0, s)) for words in paths.words
        ),
        block,
        (block,) * len(units),
    )
    return (paths, dy), (lanes, pl.BlockSpec((part, tiles.outputs), lambda p, o, s: (s, o)))


def _pallas_weight_gradient(x, gates, inputs, units, dy, *, interpret):
    tiles = weight_tiles(x.shape[0], len(inputs), dy.shape[1], x.dtype.itemsize, device().cores)
    (paths, sides), specs = _weight_operands(x, gates, inputs, units, dy, tiles)
    count, outputs = len(paths.inputs), sides.shape[1]
    dw = call(
        functools.partial(_weight_kernel, tile=tiles.batch),
        paths,
        sides,
        name=f"{OP}_dw",
        grid=(count // tiles.paths, outputs // tiles.outputs, tiles.splits),
        in_specs=specs,
        out_specs=pl.BlockSpec((None, tiles.paths, tiles.outputs), lambda p, o, s: (s, p, o)),
        out_shape=jax.ShapeDtypeStruct((tiles.splits, count, outputs), accumulator(x.dtype)),
        tiles=tiles,
        interpret=interpret,
    )
    return jnp.sum(dw, axis=0)[: len(inputs), : dy.shape[1]]


def _multiplied(sources, paths, stretch, width, *, tile: int):
    """dS^T = W dY^T of some paths, over tiles of the outputs."""
    w_ref, dy_ref = sources
    shape = (paths.shape[0], tile)

    def body(step, total):
        column = step * tile + lax.broadcasted_iota(jnp.int32, shape, 1)
        w = load(w_ref, lax.broadcast_in_dim(paths, shape, (0,)), column)
        return total + product(w, dy_ref[pl.ds(step * tile, tile), pl.ds(stretch * width, width)])

    start = jnp.zeros((paths.shape[0], width), jnp.promote_types(w_ref.dtype, jnp.float32))
    return lax.fori_loop(0, w_ref.shape[1] // tile, body, start)


def _pallas_input_gradient(x, gates, inputs, units, weights, dy, *, interpret):
    tiles = input_tiles(x.shape[0], len(inputs), dy.shape[1], x.dtype.itemsize)
    outputs = round_up(dy.shape[1], tiles.outputs)
    sources = (
        padded(weights.astype(x.dtype), len(inputs), outputs),
        padded(dy.astype(x.dtype).T, outputs, round_up(x.shape[0], tiles.batch)),
    )
    return pallas_input_gradient(
        x,
        gates,
        inputs,
        units,
        functools.partial(_multiplied, tile=tiles.outputs),
        sources,
        tuple(map(whole, sources)),
        tiles=tiles,
        name=f"{OP}_dx",
        interpret=interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _estimate(implementation, x, gates, inputs, units, weights):
    if implementation == "xla":
        return _xla_forward(x, gates, inputs, units, weights)
    return _pallas_forward(
        x, gates, inputs, units, weights, interpret=implementation == "pallas_interpret"
    )


def _forward(implementation, x, gates, inputs, units, weights):
    saved = values((x, gates, inputs, units, weights))
    return _estimate(implementation, *saved), (saved, mark(x), mark(weights))


def _backward(implementation, saved, dy):
    (*paths, weights), of_x, of_weights = saved
    dx = dw = None
    if isinstance(dy, SymbolicZero):
        return (None,) * 5
    interpret = implementation == "pallas_interpret"
    if asked(of_weights):
        dw = (
            _xla_weight_gradient(*paths, dy)
            if implementation == "xla"
            else _pallas_weight_gradient(*paths, dy, interpret=interpret)
        )
    if asked(of_x):
        dx = (
            _xla_input_gradient(*paths, weights, dy)
            if implementation == "xla"
            else _pallas_input_gradient(*paths, weights, dy, interpret=interpret)
        )
    return dx, None, None, None, dw


_estimate.defvjp(_forward, _backward, symbolic_zeros=True)
_compiled = jax.jit(_estimate, static_argnums=0)


def path_estimator(
    x: jax.Array,
    gates: Sequence[jax.Array],
    inputs: jax.Array,
    units: Sequence[jax.Array],
    weights: jax.Array,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """Y = S W (B, O), with S the `path_contributions` of the same paths and W one row of output
    weights per path.

    GLAI (arXiv 2510.00883), the estimator of section 3 with the paths chosen jointly for all
    outputs. A constant input (a column of ones) and an always open gate (a bit of one) carry the
    biases; they are ordinary inputs and units.

    x: (B, I) float32 or bfloat16; float64 also, except for "pallas". gates: per hidden layer uint32
    (B, W) as `pack_gates` returns them. inputs: (P,) int32. units: per hidden layer (P,) int32.
    weights: (P, O) float32, float64 if x is. Returns the dtype of weights: bfloat16 x means
    bfloat16 operands (x, weights, dY) and float32 sums; float32 is exact, not TF32. Differentiable
    in x and weights (reverse mode); what is not asked for is not computed. The kernels' sums have a
    fixed order. B, P and O may be 0. implementation: "auto", "xla", "pallas" or "pallas_interpret",
    see `pallas_kernels.dispatch.choose`. "xla" builds S whole up to twice `dispatch.working_set()`
    bytes and by tiles of paths above. Raises ValueError for shapes or dtypes that do not fit
    together, indices out of range, an unknown implementation, or "pallas" without a GPU. Indices
    that are traced cannot be read: out of range, they are clamped.
    """
    check_paths(OP, x, gates, inputs, units)
    check_matrix(OP, "weights", weights, inputs.shape[0], "paths", x)
    batch, (paths, outputs) = x.shape[0], weights.shape
    taken = choose(OP, implementation, dtype=x.dtype, batch=batch, paths=paths, outputs=outputs)
    if not (batch and paths and outputs):
        return jnp.zeros((batch, outputs), weights.dtype)
    return _compiled(taken, x, tuple(gates), *indices(x, gates, inputs, units), weights)
