"""Convolutions against float64 loops and flax's, with their gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theseus_jax.nets.blocks.conv import Conv, convolve

SHAPES = [
    ((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((7, 6), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((8, 8), (7, 7), (2, 2), ((3, 3), (3, 3))),
    ((6, 9), (1, 1), (2, 2), ((0, 0), (0, 0))),
    ((8, 12), (4, 4), (4, 4), ((0, 0), (0, 0))),
    ((5, 8), (2, 3), (2, 1), ((0, 1), (2, 0))),
    ((4, 4), (3, 3), (3, 2), ((0, 1), (1, 0))),
]


def loops(x, kernel, strides, pads):
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    h, w = kernel.shape[:2]
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], (h, w), strides))
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for r in range(rows):
        for c in range(columns):
            window = x[:, r * strides[0] : r * strides[0] + h, c * strides[1] : c * strides[1] + w]
            y[:, r, c] = np.einsum("bhwi,hwio->bo", window, kernel)
    return y


def loop_gradients(x, kernel, strides, pads, dy):
    """Of sum(dy * y), one output and one entry of its window at a time."""
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    dx, dk = np.zeros_like(padded), np.zeros_like(kernel)
    for r in range(dy.shape[1]):
        for c in range(dy.shape[2]):
            for i in range(kernel.shape[0]):
                for j in range(kernel.shape[1]):
                    at = (slice(None), r * strides[0] + i, c * strides[1] + j)
                    dx[at] += dy[:, r, c] @ kernel[i, j].T
                    dk[i, j] += padded[at].T @ dy[:, r, c]
    (top, _), (left, _) = pads
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dk


@pytest.mark.parametrize("image, size, strides, pads", SHAPES)
def test_values_and_gradients_are_those_of_float64_loops(image, size, strides, pads):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *image, 3)), rng.normal(size=(*size, 3, 4))
    wanted = loops(x, kernel, strides, pads)
    dy = rng.normal(size=wanted.shape)

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, strides, pads), x, kernel)
        return y, *pull(jnp.asarray(dy, jnp.float32))

    for got, right in zip(
        run(x.astype(np.float32), kernel.astype(np.float32)),
        (wanted, *loop_gradients(x, kernel, strides, pads, dy)),
    ):
        np.testing.assert_allclose(got, right, atol=1e-4)


@pytest.mark.parametrize(
    "strides, padding", [(1, "SAME"), (2, "SAME"), ((2, 1), "VALID"), (2, 1), (1, ((1, 2), (0, 1)))]
)
def test_the_module_is_flaxs_in_a_loop_under_vmap_and_differentiated_twice(strides, padding):
    ours, theirs = Conv(4, (3, 3), strides, padding), nn.Conv(4, (3, 3), strides, padding)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 9, 8, 3)), jnp.float32)
    variables = ours.init(jax.random.key(0), x[0])
    jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x[0]))

    # a gradient inside the loss, so a second derivative in its gradient
    def penalty(module, variables):
        def loss(x):
            return jnp.sum(jnp.tanh(module.apply(variables, x)))

        return jax.lax.map(
            lambda z: jnp.sum(jax.vmap(jax.grad(lambda one: loss(one[None])))(z) ** 2), x
        ).sum()

    for got, right in zip(
        *(
            jax.tree.leaves(jax.jit(jax.value_and_grad(lambda v, m=m: penalty(m, v)))(variables))
            for m in (ours, theirs)
        )
    ):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-4)


def test_a_loops_gradient_has_its_convolutions_in_the_usual_order():
    """The reason for it all: channels last in every convolution of the gradient's program, where
    jax's own are not.
    """

    def orders(module):
        x = jnp.ones((2, 8, 8, 3))
        variables = module.init(jax.random.key(0), x)
        text = (
            jax.jit(jax.grad(lambda v, x: jnp.sum(module.apply(v, x) ** 2), argnums=(0, 1)))
            .lower(variables, x)
            .as_text()
        )
        return {
            line.split("dim_numbers = ")[1].split(",  ")[0].split(", window")[0]
            for line in text.splitlines()
            if "dim_numbers = " in line
        }

    assert orders(Conv(4, (3, 3))) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert len(orders(nn.Conv(4, (3, 3)))) == 3
