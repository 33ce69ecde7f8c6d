"""The estimator on every path of one hidden layer: one matrix product, then a masked sum. Fit for
few outputs; XLA alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from pallas_kernels.arguments import accumulator, check_gates
from pallas_kernels.derivatives import asked, mark, values
from pallas_kernels.gates import unpack_gates
from pallas_kernels.layout import product

OP = "dense_estimator"


def _operands(x, gates, kernel):
    inputs, units, outputs = kernel.shape
    return unpack_gates(gates, units)[:, :, None], kernel.astype(x.dtype).reshape(
        inputs, units * outputs
    )


def _product(x, gates, kernel):
    opened, flat = _operands(x, gates, kernel)
    z = product(x, flat).reshape(x.shape[0], *kernel.shape[1:])
    return jnp.sum(jnp.where(opened, z, jnp.zeros_like(z)), axis=1)


@jax.custom_vjp
def _estimate(x, gates, kernel):
    return _product(x, gates, kernel)


def _forward(x, gates, kernel):
    saved = values((x, gates, kernel))
    return _product(*saved), (saved, mark(x), mark(kernel))


def _backward(saved, dy):
    """dZ = a (x) dY; dV = X^T dZ and dX = dZ V^T, each only if asked for, and dV never rounded to
    x's dtype.
    """
    (x, gates, kernel), of_x, of_kernel = saved
    if isinstance(dy, SymbolicZero):
        return None, None, None
    opened, flat = _operands(x, gates, kernel)
    dz = jnp.where(opened, dy[:, None, :].astype(x.dtype), jnp.zeros((), x.dtype)).reshape(
        x.shape[0], flat.shape[1]
    )
    dx = product(dz, flat, (1, 1)).astype(x.dtype) if asked(of_x) else None
    dkernel = product(x, dz, (0, 0)).reshape(kernel.shape) if asked(of_kernel) else None
    return dx, None, dkernel


_estimate.defvjp(_forward, _backward, symbolic_zeros=True)
_compiled = jax.jit(_estimate)


def dense_estimator(x: jax.Array, gates: jax.Array, kernel: jax.Array) -> jax.Array:
    """y[b, o] = sum over open units j of sum_i x[b, i] kernel[i, j, o]: (B, O), every path of one
    hidden layer.

    GLAI (arXiv 2510.00883), the estimator before pruning, summed over inputs first: Z = X V with V
    (I, J O) is one matrix product and (B, J, O), where the order of the paper's listing 1 holds (B,
    I, J), I / O times as much.

    x: (B, I) float32, bfloat16 or float64. gates: uint32 (B, W) as `pack_gates` returns them.
    kernel: (I, J, O) float32, float64 if x is. Returns kernel's dtype; bfloat16 x means bfloat16
    operands and float32 sums. Differentiable in x and kernel (reverse mode), gates are constants.
    Raises ValueError for shapes or dtypes that do not fit together.
    """
    check_gates(OP, x, (gates,))
    if kernel.ndim != 3 or kernel.shape[0] != x.shape[1]:
        raise ValueError(
            f"{OP}: kernel is {list(kernel.shape)} and x has {x.shape[1]} inputs; give"
            f" ({x.shape[1]}, J, O)"
        )
    if kernel.dtype != accumulator(x.dtype):
        raise ValueError(
            f"{OP}: kernel is {kernel.dtype} and x {x.dtype}; give kernel as {accumulator(x.dtype)}"
        )
    if kernel.shape[1] > 32 * gates.shape[1]:
        raise ValueError(
            f"{OP}: kernel has {kernel.shape[1]} units and gates hold {32 * gates.shape[1]}; pack"
            " all units"
        )
    return _compiled(x, gates, kernel)
