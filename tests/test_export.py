"""Every network exports with a batch whose size is left open, and the exported program gives what
the network gives.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import export

from theseus_jax.nets import zoo
from theseus_jax.nets.masked import Masked, values_and_mask
from theseus_jax.nets.models.cells import CELLS
from theseus_jax.nets.models.glai import fused_network, joint_network
from theseus_jax.nets.models.heads import low_rank_mlp, mlp
from theseus_jax.nets.stage import forward, init, variable_shapes

PICTURES = zoo.Reading((32, 32, 3), (0.0,) * 3, (1.0,) * 3)
SIZES = {"width": 8, "depth": 2, "heads": 2, "hidden": 8, "patch": 8, "units": 8}


def exported(net, shape, dtype, variables=None):
    """The exported program of a network for inputs ("b", *shape); no variables: shapes alone."""
    example = jax.ShapeDtypeStruct((1, *shape), dtype)
    given = variables if variables is not None else variable_shapes(net, example)
    scope = export.SymbolicScope()
    batch = jax.ShapeDtypeStruct((export.symbolic_shape("b", scope=scope)[0], *shape), dtype)
    run = jax.jit(lambda v, x: values_and_mask(forward(net, v, x)[0])[0])
    return export.export(run)(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given), batch
    )


def assert_same(net, shape, dtype, high):
    one = jnp.zeros((1, *shape), dtype)
    variables = init(net, jax.random.key(0), one)
    program = exported(net, shape, dtype, variables)
    for count in (1, 3):
        x = jnp.asarray(np.random.default_rng(0).integers(0, high, (count, *shape)), dtype)
        np.testing.assert_allclose(
            program.call(variables, x), forward(net, variables, x)[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["resnet18", "plain18", "mlp", "vit", "token_mlp", "mixer"])
def test_image_networks_export_and_give_the_same(name):
    own = {"norm": "layer", "heads": 0} if name == "token_mlp" else {}
    net = zoo.build(zoo.Architecture(name, **{**SIZES, **own}), PICTURES, 5)
    assert_same(net, (32, 32, 3), jnp.float32, 256)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_large_image_networks_export(name):
    net = zoo.build(zoo.Architecture(name, width=8, size=64), PICTURES, 5)
    assert exported(net, (32, 32, 3), jnp.float32).out_avals[0].shape[1:] == (5,)


@pytest.mark.parametrize("name", ["guide", *CELLS])
def test_language_models_export_and_give_the_same(name):
    net = tiny.guide() if name == "guide" else tiny.target(kind=name)
    assert_same(net, (tiny.CONTEXT,), jnp.int32, tiny.VOCABULARY)


@pytest.mark.parametrize(
    "net",
    [
        mlp((7,), 3),
        low_rank_mlp(5, 7, 3, parameters=60),
        fused_network((7,), 3, 20),
        joint_network((7,), 3, 20),
    ],
    ids=["mlp", "low_rank", "fused", "joint"],
)
def test_heads_export_and_give_the_same(net):
    assert_same(net, (5,), jnp.float32, 4)


@pytest.mark.parametrize("name", ["minilm", "birnn"])
def test_text_encoders_export(name):
    net = zoo.build(
        zoo.Architecture(name, width=8, depth=1, heads=2, hidden=8, units=4), zoo.Reading((6,)), 3
    )
    example = Masked(*[jax.ShapeDtypeStruct((1, 6), jnp.int32)] * 2)
    shapes = variable_shapes(net, example)
    size = export.symbolic_shape("b")[0]
    batch = [jax.ShapeDtypeStruct((size, 6), jnp.int32)] * 2
    program = export.export(
        jax.jit(lambda v, tokens, mask: forward(net, v, Masked(tokens, mask))[0])
    )(shapes, *batch)
    assert program.out_avals[0].shape[1:] == (3,)
