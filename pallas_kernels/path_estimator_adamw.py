"""One AdamW step on the estimator's weights: dW and the update, in the kernel without dW ever reaching memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.arguments import check_matrix, check_paths
from pallas_kernels.dispatch import call, choose, device, whole
from pallas_kernels.layout import indices, padded
from pallas_kernels.path_estimator import weight_operands, weight_tile, xla_weight_gradient
from pallas_kernels.tiles import weight_tiles

OP = "path_estimator_adamw"


def adamw(dw, weights, mu, nu, scalars, *, b1: float, b2: float, eps: float, weight_decay: float) -> tuple:
    """(weights, mu, nu) after one step; scalars = (learning rate, 1 - b1^t, 1 - b2^t), by index.

    Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, with the decay scaled by the learning rate as optax.adamw does.
    """
    mu = b1 * mu + (1 - b1) * dw
    nu = b2 * nu + (1 - b2) * dw * dw
    update = mu / scalars[1] / (jnp.sqrt(nu / scalars[2]) + eps) + weight_decay * weights
    return weights - scalars[0] * update, mu, nu


def _xla(x, gates, inputs, units, dy, state, scalars, **settings):
    return adamw(xla_weight_gradient(x, gates, inputs, units, dy), *state, scalars, **settings)


def _kernel(paths, dy_ref, state, scalars, *new, tile: int, settings: dict):
    dw = weight_tile(paths, dy_ref, tile)
    values = adamw(dw, *(ref[...] for ref in state), [scalars[i] for i in range(3)], **settings)
    for ref, value in zip(new, values):
        ref[...] = value


def _pallas(x, gates, inputs, units, dy, state, scalars, *, interpret, **settings):
    outputs = dy.shape[1]
    tiles = weight_tiles(x.shape[0], len(inputs), outputs, x.dtype.itemsize, device().cores, whole=True)
    (paths, sides), specs = weight_operands(x, gates, inputs, units, dy, tiles)
    shape = len(paths.inputs), sides.shape[1]
    state = tuple(padded(value, *shape) for value in state)
    block = (pl.BlockSpec((tiles.paths, tiles.outputs), lambda p, o, s: (p, o)),) * 3
    before = len(jax.tree.leaves((paths, sides)))
    new = call(functools.partial(_kernel, tile=tiles.batch, settings=settings), paths, sides, state, scalars, name=OP,
               grid=(shape[0] // tiles.paths, shape[1] // tiles.outputs, 1), in_specs=[*specs, block, whole(scalars)],
               out_specs=block, out_shape=tuple(jax.ShapeDtypeStruct(shape, value.dtype) for value in state), tiles=tiles,
               aliases={before + i: i for i in range(3)}, interpret=interpret)
    return tuple(value[:len(inputs), :outputs] for value in new)


@functools.partial(jax.jit, static_argnames=("implementation", "b1", "b2", "eps", "weight_decay"))
def _step(implementation, x, gates, inputs, units, dy, state, count, learning_rate, *, b1, b2, **rest):
    wide = state[0].dtype
    steps = count.astype(wide) + 1
    scalars = jnp.stack([learning_rate.astype(wide), 1 - b1 ** steps, 1 - b2 ** steps])
    if implementation == "xla":
        return _xla(x, gates, inputs, units, dy, state, scalars, b1=b1, b2=b2, **rest)
    return _pallas(x, gates, inputs, units, dy, state, scalars, b1=b1, b2=b2, interpret=implementation == "pallas_interpret",
                   **rest)


def path_estimator_adamw(x: jax.Array, gates: Sequence[jax.Array], inputs: jax.Array, units: Sequence[jax.Array],
                         dy: jax.Array, weights: jax.Array, mu: jax.Array, nu: jax.Array, count: jax.Array,
                         learning_rate: jax.Array, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
                         weight_decay: float = 1e-4, implementation: str = "auto"
                         ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(weights, mu, nu) after one AdamW step on `path_estimator`'s weights, given dY = dL/dY (B, O).

    The same numbers as optax.adamw(learning_rate, b1, b2, eps, weight_decay=...) on dW = S^T dY. The kernel never stores dW,
    which saves 8 of about 36 bytes of traffic a parameter, and updates in place where the caller donates the state.
    Only where nothing needs dW itself: no clipping by its norm, no sum over devices.

    x, gates, inputs, units: as for `path_estimator`. dy, weights (P, O), mu (P, O) and nu (P, O): float32, float64 if x is.
    count: () int32, the number of steps taken before this one (optax's `count`); the caller adds 1. learning_rate: (), an
    array or a number, so that a schedule recompiles nothing. The other settings are static Python numbers.
    Raises ValueError as `path_estimator` does.
    """
    check_paths(OP, x, gates, inputs, units)
    check_matrix(OP, "dy", dy, x.shape[0], "samples", x)
    for name, value in (("weights", weights), ("mu", mu), ("nu", nu)):
        check_matrix(OP, name, value, inputs.shape[0], "paths", x)
        if value.shape[1] != dy.shape[1]:
            raise ValueError(f"{OP}: {name} has {value.shape[1]} outputs and dy {dy.shape[1]}; take the same of both")
    taken = choose(OP, implementation, dtype=x.dtype, batch=x.shape[0], paths=inputs.shape[0], outputs=dy.shape[1])
    if not inputs.shape[0] or not dy.shape[1]:
        return weights, mu, nu
    if not x.shape[0]:
        taken = "xla"
    return _step(taken, x, tuple(gates), *indices(x, gates, inputs, units), dy, (weights, mu, nu), jnp.asarray(count),
                 jnp.asarray(learning_rate), b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
