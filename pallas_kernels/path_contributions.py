"""S[b, p] = x[b, inputs[p]] where every gate of path p is open: reference, kernel, derivative,
operation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.arguments import check_paths
from pallas_kernels.dispatch import call, choose, load, whole
from pallas_kernels.input_gradient import pallas_input_gradient, xla_input_gradient
from pallas_kernels.layout import Paths, indices, lay_out, padded, path_tile
from pallas_kernels.path_rows import Rows
from pallas_kernels.tiles import contribution_tiles, round_up

OP = "path_contributions"


def _xla(x, gates, inputs, units):
    return Rows(x, gates).contributions(inputs, units).T


def _xla_gradient(x, gates, inputs, units, ds):
    return xla_input_gradient(x, gates, inputs, units, lambda rows: rows, ds.T)


def _kernel(paths: Paths, s_ref):
    s_ref[...] = path_tile(paths, slice(None), pl.program_id(0), s_ref.shape[0]).T


def _pallas(x, gates, inputs, units, *, interpret):
    tiles = contribution_tiles(x.shape[0], len(inputs), x.dtype.itemsize)
    batch, count = round_up(x.shape[0], tiles.batch), round_up(len(inputs), tiles.paths)
    paths = lay_out(x, gates, inputs, units, batch=batch, paths=count)
    block = pl.BlockSpec((tiles.paths,), lambda b, p: (p,))
    s = call(
        _kernel,
        paths,
        name=OP,
        grid=(batch // tiles.batch, count // tiles.paths),
        in_specs=[
            Paths(whole(paths.x), jax.tree.map(whole, paths.words), block, (block,) * len(units))
        ],
        out_specs=pl.BlockSpec((tiles.batch, tiles.paths), lambda b, p: (b, p)),
        out_shape=jax.ShapeDtypeStruct((batch, count), x.dtype),
        tiles=tiles,
        interpret=interpret,
    )
    return s[: x.shape[0], : len(inputs)]


def _stored(ds_ref, paths, stretch, width):
    """dS^T of some paths, read from memory."""
    shape = (paths.shape[0], width)
    lane = stretch * width + lax.broadcasted_iota(jnp.int32, shape, 1)
    return load(ds_ref, lax.broadcast_in_dim(paths, shape, (0,)), lane)


def _pallas_gradient(x, gates, inputs, units, ds, *, interpret):
    tiles = contribution_tiles(x.shape[0], len(inputs), x.dtype.itemsize)
    ds = padded(ds.T, len(inputs), round_up(x.shape[0], tiles.batch))
    return pallas_input_gradient(
        x,
        gates,
        inputs,
        units,
        _stored,
        ds,
        whole(ds),
        tiles=tiles,
        name=f"{OP}_dx",
        interpret=interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contributions(implementation, x, gates, inputs, units):
    if implementation == "xla":
        return _xla(x, gates, inputs, units)
    return _pallas(x, gates, inputs, units, interpret=implementation == "pallas_interpret")


def _forward(implementation, x, gates, inputs, units):
    return _contributions(implementation, x, gates, inputs, units), (x, gates, inputs, units)


def _backward(implementation, saved, ds):
    if implementation == "xla":
        return _xla_gradient(*saved, ds), None, None, None
    return (
        _pallas_gradient(*saved, ds, interpret=implementation == "pallas_interpret"),
        None,
        None,
        None,
    )


_contributions.defvjp(_forward, _backward)
_compiled = jax.jit(_contributions, static_argnums=0)


def path_contributions(
    x: jax.Array,
    gates: Sequence[jax.Array],
    inputs: jax.Array,
    units: Sequence[jax.Array],
    *,
    implementation: str = "auto",
) -> jax.Array:
    """What each path carries for each sample: S (B, P) of x's dtype, S[b, p] = x[b, inputs[p]] or
    0.

    Path p starts at input inputs[p] and runs through unit units[l][p] of hidden layer l; it carries
    its input where all these units are open. GLAI (arXiv 2510.00883), path activations of section
    3, for any number of hidden layers.

    x: (B, I) float32 or bfloat16; float64 also, except for "pallas". gates: per hidden layer uint32
    (B, W) as `pack_gates` returns them. inputs: (P,) int32. units: per hidden layer (P,) int32.
    Differentiable in x (reverse mode); gates are constants, as in the paper. B = 0 and P = 0 are
    allowed. implementation: "auto", "xla", "pallas" or "pallas_interpret", see
    `pallas_kernels.dispatch.choose`. Raises ValueError for shapes or dtypes that do not fit
    together, indices out of range, an unknown implementation, or "pallas" without a GPU. Indices
    that are traced cannot be read: out of range, they are clamped.
    """
    check_paths(OP, x, gates, inputs, units)
    batch, paths = x.shape[0], inputs.shape[0]
    taken = choose(OP, implementation, dtype=x.dtype, batch=batch, paths=paths, outputs=1)
    if not batch or not paths:
        return jnp.zeros((batch, paths), x.dtype)
    return _compiled(taken, x, tuple(gates), *indices(x, gates, inputs, units))
