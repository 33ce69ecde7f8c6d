"""Every linear read-out says how it stores its kernel: read, it is x K + c; written, its
own tree.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theseus_jax.nets.blocks import readout
from theseus_jax.nets.models.gpt2 import Head
from theseus_jax.nets.models.heads import Hidden, Linear, Output, layers_of, mlp, variables_of
from theseus_jax.nets.stage import init
from theseus_jax.trees import bit_equal

WIDTH, OUTPUTS = 5, 3
X = np.random.default_rng(0).normal(size=(7, WIDTH)).astype(np.float32)


class Own(nn.Module):
    """A read-out of somebody else, with its layer inside."""

    readout = readout.Layout("inner")

    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUTPUTS, name="inner")(x)


def drawn(module):
    """Parameters none of which is zero or equal to another."""
    params = module.init(jax.random.key(0), X)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])


MODULES = [
    nn.Dense(OUTPUTS),
    Head(OUTPUTS, WIDTH, use_bias=True),
    Linear(OUTPUTS),
    Output(OUTPUTS),
    Own(),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_readout_is_its_kernel_and_bias_and_is_written_back_bit_by_bit(module):
    params, layout = drawn(module), readout.layout(module)
    kernel, bias = layout.read(params)
    assert (kernel.shape, bias.shape) == ((WIDTH, OUTPUTS), (OUTPUTS,)) and readout.has_bias(module)
    np.testing.assert_allclose(module.apply({"params": params}, X), X @ kernel + bias, rtol=1e-5)
    assert bit_equal(layout.write(kernel, bias), params)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    kernels, biases = layout.read(seeds)
    assert kernels.shape == (2, WIDTH, OUTPUTS) and bit_equal(layout.write(kernels, biases), seeds)


@pytest.mark.parametrize(
    "module",
    [nn.Dense(OUTPUTS, use_bias=False), Head(OUTPUTS, WIDTH)],
    ids=lambda module: type(module).__name__,
)
def test_a_readout_without_a_bias_is_read_with_zeros(module):
    kernel, bias = readout.layout(module).read(drawn(module))
    assert kernel.shape == (WIDTH, OUTPUTS) and not readout.has_bias(module)
    np.testing.assert_array_equal(bias, np.zeros(OUTPUTS))


def test_what_is_no_linear_readout_has_no_layout():
    assert readout.layout(Hidden(OUTPUTS)) is None and readout.layout(nn.LayerNorm()) is None


def test_the_layers_of_an_mlp_make_its_variables_again():
    variables = init(mlp((4, 6), OUTPUTS), jax.random.key(0), X)
    assert bit_equal(variables_of(layers_of(variables)), variables)
