"""Convolutions whose gradients are fast inside a loop on a CPU.

XLA's CPU back end puts a convolution's axes in the order that its fast kernels need in a program's
outermost computation only (jax issue 12868). A gradient's convolution has its axes in another
order, so inside a `lax.scan` it falls to a plain loop nest and takes 5 to 50 times as long. Here
the gradients are convolutions in the usual order, of operands that were transposed first.
"""

from __future__ import annotations

import functools
from typing import Any, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

ORDER = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads) -> jax.Array:
    """x (B, height, width, I) * kernel (h, w, I, O) -> (B, rows, columns, O), a cross-correlation;
    pads: (before, after) an axis.
    """
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=ORDER)


def _forward(x, kernel, strides, pads):
    return convolve(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: tuple[int, int], pads: Pads, saved: Any, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    sides = tuple(zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3], strides, pads))
    # every output is spread back over its window: the flipped kernel slides over dy with zeros
    # between its entries
    before = [k - 1 - low for _, k, _, _, (low, _) in sides]
    rims = [(b, n + k - 1 - ((o - 1) * s + 1) - b) for b, (n, k, o, s, _) in zip(before, sides)]
    dx = jax.lax.conv_general_dilated(
        dy,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        rims,
        lhs_dilation=strides,
        dimension_numbers=ORDER,
    )
    # channels as examples and examples as channels: dy is the kernel that slides over x
    rims = [(low, k - 1 + (o - 1) * s + 1 - n - low) for n, k, o, s, (low, _) in sides]
    dk = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        rims,
        rhs_dilation=strides,
        dimension_numbers=ORDER,
    )
    return dx, dk.transpose(1, 2, 0, 3)


convolve.defvjp(_forward, _backward)


def _pads(
    padding: str | int | Sequence[Any],
    x: jax.Array,
    size: tuple[int, int],
    strides: tuple[int, int],
) -> Pads:
    if isinstance(padding, str):
        return tuple(jax.lax.padtype_to_pads(x.shape[1:3], size, strides, padding))
    sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
    return tuple((side, side) if isinstance(side, int) else tuple(side) for side in sides)


class Conv(nn.Module):
    """`nn.Conv` of two axes with the gradients above on a CPU, and its parameters: kernel (h, w, I,
    O) and bias (O,).

    (B, height, width, I) -> (B, rows, columns, O). padding: "SAME", "VALID", a number, or one or
    (before, after) an axis.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str | int | Sequence[Any] = "SAME"
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, strides = tuple(self.kernel_size), self.strides
        strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
        kernel = self.param(
            "kernel", self.kernel_init, (*size, x.shape[-1], self.features), jnp.float32
        )
        pads = _pads(self.padding, x, size, strides)
        x, kernel = promote_dtype(x, kernel, dtype=None)
        if jax.default_backend() == "cpu":
            y = convolve(x, kernel, strides, pads)
        else:
            y = jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=ORDER)
        return (
            y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            if self.use_bias
            else y
        )
