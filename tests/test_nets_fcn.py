"""Fully connected networks against float64 NumPy, the published sizes to the digit, and what they
refuse.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import refusal

from theseus_jax.nets.blocks.norms import NORMS
from theseus_jax.nets.models.fcn import ACTIVATIONS, Hidden, Residual, deep_fcn, mlp, wide_fcn
from theseus_jax.nets.stage import forward, init, seams
from theseus_jax.trees import leaves_by_path, parameter_count

SIZES = {"classes": 3, "width": 8, "depth": 3}
X = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
EXACT = {
    "relu": lambda v: max(v, 0.0),
    "tanh": math.tanh,
    "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
}


def drawn(net, x=X):
    """Random variables of the network: kernels of order 1, scales and variances above 0."""
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda key: init(net, key, x), jax.random.key(0))

    def draw(path, leaf):
        positive = jax.tree_util.keystr(path[-1:], simple=True) in ("scale", "var")
        values = (
            generator.uniform(0.5, 1.5, leaf.shape)
            if positive
            else generator.normal(size=leaf.shape)
        )
        return (values / math.sqrt(leaf.shape[0] if leaf.ndim == 2 else 1)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def shapes_of(net, inputs):
    """{path: shape} of the network's parameters on vectors of `inputs` numbers; nothing is
    allocated.
    """
    x = jax.ShapeDtypeStruct((1, inputs), jnp.float32)
    fresh = jax.eval_shape(lambda key: init(net, key, x), jax.random.key(0))
    return leaves_by_path({name: tree.get("params", {}) for name, tree in fresh.items()})


# A float64 reference, in NumPy


def normed(kind, h, tree, train):
    if kind == "none":
        return h
    # 36 units are 18 groups of two
    split = {"batch": h, "layer": h[:, None], "group": h.reshape(len(h), -1, 2)}[kind]
    axis = 0 if kind == "batch" else 2
    mean, var = split.mean(axis, keepdims=True), split.var(axis, keepdims=True)
    if kind == "batch" and not train:
        mean, var = (np.float64(tree["batch_stats"]["norm"][name]) for name in ("mean", "var"))
    centred = ((split - mean) / np.sqrt(var + 1e-5)).reshape(h.shape)
    return centred * tree["params"]["norm"]["scale"] + tree["params"]["norm"]["bias"]


def affine(h, tree):
    linear = tree["linear"]
    if "product" not in linear:
        return h @ np.float64(linear["kernel"]) + linear["bias"]
    down, up = (np.float64(linear["product"][name]["kernel"]) for name in ("down", "up"))
    return h @ (down @ up) + linear["bias"]


def reference(variables, x, *, norm, activation="relu", residual=False, train=False):
    h, act = np.float64(x).reshape(len(x), -1), np.vectorize(EXACT[activation])
    for name, tree in variables.items():
        if name == "head":
            return h @ np.float64(tree["params"]["kernel"]) + tree["params"]["bias"]
        if residual and name != "stem":
            h = h + affine(act(normed(norm, h, tree, train)), tree["params"])
        else:
            h = act(normed(norm, affine(h, tree["params"]), tree, train))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_logits_are_those_of_the_formulas(norm, residual):
    net = mlp(**SIZES | {"width": 36}, norm=norm, residual=residual)
    variables = drawn(net)
    assert net.names == ("stem", "block_1", "block_2", "head")
    for train in (False, True):
        y = jax.jit(lambda v, x, t=train: forward(net, v, x, train=t)[0])(variables, X)
        wanted = reference(
            {name: variables[name] for name in net.names},
            X,
            norm=norm,
            residual=residual,
            train=train,
        )
        assert y.shape == (5, 3) and np.std(wanted, 0).min() > 0.02
        np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_activations_and_low_rank_kernels_are_those_of_the_formulas(activation, residual):
    net = mlp(**SIZES, norm="none", activation=activation, residual=residual, rank=2)
    variables = drawn(net)
    y = jax.jit(lambda v, x: forward(net, v, x)[0])(variables, X)
    ordered = {name: variables[name] for name in net.names}
    wanted = reference(ordered, X, norm="none", activation=activation, residual=residual)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)


def test_running_statistics_of_batch_norm_are_unbiased():
    net = mlp(**SIZES, norm="batch")
    variables = drawn(net)
    _, _, statistics = forward(net, variables, X, train=True)
    h = affine(np.float64(X).reshape(5, -1), variables["stem"]["params"])
    old = variables["stem"]["batch_stats"]["norm"]
    new = statistics["stem"]["norm"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * h.mean(0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        new["var"], 0.9 * old["var"] + 0.1 * h.var(0, ddof=1), rtol=0, atol=1e-6
    )


# Shapes and sizes


def test_images_and_their_vectors_are_the_same_to_it():
    net = mlp(**SIZES, stem_width=6)
    variables = drawn(net)
    flat = np.array(
        [[row[i, j, c] for i in range(3) for j in range(2) for c in range(2)] for row in X]
    )
    np.testing.assert_array_equal(forward(net, variables, X)[0], forward(net, variables, flat)[0])
    assert {name: seam.shape for name, seam in seams(net, X).items()} == {
        "stem": (5, 6),
        "block_1": (5, 8),
        "block_2": (5, 8),
        "head": (5, 3),
    }
    assert mlp(classes=3, width=8, depth=1).names == ("stem", "head")


@pytest.mark.parametrize(
    "build, stem, block, count, parameters",
    [
        (
            deep_fcn,
            Hidden(2048, "batch", "relu"),
            Hidden(1024, "batch", "relu", 0.1),
            47,
            359_788_520,
        ),
        (wide_fcn, Hidden(8192, "batch", "relu"), Hidden(8192, "batch", "relu"), 2, 1_375_609_832),
    ],
)
def test_the_published_networks_have_their_sizes(build, stem, block, count, parameters):
    assert [stage.module for stage in build().stages[:-1]] == [stem] + [block] * count
    shapes = shapes_of(build(), 224 * 224 * 3)
    widths = [224 * 224 * 3, stem.width] + [block.width] * count
    # a bias, a scale and a bias for each unit
    hidden = sum(i * j + 3 * j for i, j in zip(widths, widths[1:]))
    assert parameter_count(shapes) == hidden + 1000 * (block.width + 1) == parameters
    assert build(7).stages[-1].module.features == 7


@pytest.mark.parametrize("residual", [False, True])
def test_the_parameters_of_low_rank_products_count_apart(residual):
    shapes = shapes_of(
        mlp(classes=3, width=8, depth=4, norm="layer", residual=residual, rank=2), 12
    )
    products = {path: leaf.shape for path, leaf in shapes.items() if "/product/" in path}
    assert products == {
        "stem/linear/product/down/kernel": (12, 2),
        "stem/linear/product/up/kernel": (2, 8),
    } | {
        f"block_{i}/linear/product/{side}/kernel": (8, 2) if side == "down" else (2, 8)
        for i in (1, 2, 3)
        for side in ("down", "up")
    }
    assert parameter_count(shapes) == 2 * (12 + 8) + 3 * 2 * (8 + 8) + 4 * (8 + 16) + 27
    dense = shapes_of(mlp(classes=3, width=8, depth=4, norm="layer", residual=residual), 12)
    assert parameter_count(dense) == (12 + 3 * 8) * 8 + 4 * (8 + 16) + 27


# Dropout


@pytest.mark.parametrize("residual", [False, True])
def test_dropout_zeroes_its_share_of_a_block_in_training_alone(residual):
    net = mlp(classes=3, width=200, depth=2, norm="none", dropout=0.25, residual=residual)
    stem, block = (stage.module for stage in net.stages[:2])
    assert isinstance(block, Residual if residual else Hidden) and (
        stem.dropout,
        block.dropout,
    ) == (0.0, 0.25)
    x = np.abs(np.random.default_rng(2).normal(size=(40, 200))).astype(np.float32)
    variables = block.init(jax.random.key(0), x)
    kept = block.apply(variables, x) - (x if residual else 0)
    run = jax.jit(
        lambda key: (
            block.apply(variables, x, train=True, rngs={"dropout": key}) - (x if residual else 0)
        )
    )
    first, second = (run(jax.random.key(seed)) for seed in (1, 2))
    share = np.abs(kept) > 1e-3
    ratio = (first / np.where(share, kept, 1))[share]
    zeroed = np.abs(ratio) < 1e-2
    np.testing.assert_allclose(ratio[~zeroed], 4 / 3, rtol=1e-2)
    assert abs(zeroed.mean() - 0.25) < 4 * (0.25 * 0.75 / zeroed.size) ** 0.5
    assert (np.abs(first - second) > 1e-2).mean() > 0.1
    y = forward(net, drawn(net), X, train=False, key=jax.random.key(1))[0]
    np.testing.assert_array_equal(y, forward(net, drawn(net), X)[0])


# Errors


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"norm": "instance"}, "no norm 'instance'; take one of batch, layer, group, none"),
        ({"activation": "elu"}, "no activation 'elu'; take one of relu, gelu, tanh"),
        ({"depth": 0}, "depth 0, widths 8 and 8 and 3 classes: each is at least 1"),
        ({"classes": 0}, "3, widths 8 and 8 and 0 classes: each"),
        ({"width": 0, "stem_width": 4}, "widths 4 and 0 and 3 classes: each"),
        ({"stem_width": -1}, "widths -1 and 8 and 3 classes: each"),
        ({"dropout": 1.0}, "a dropout rate of 1 is not in [0, 1)"),
        ({"dropout": -0.1}, "a dropout rate of -0.1 is not in [0, 1)"),
        ({"rank": -1}, "a rank of -1 is not in 0..8"),
        ({"rank": 5, "stem_width": 4}, "a rank of 5 is not in 0..4"),
        ({"residual": True, "stem_width": 4}, "a stem of 4 units cannot be added to blocks of 8"),
    ],
)
def test_networks_that_cannot_be_are_refused(changes, said):
    assert said in refusal(mlp, **SIZES | changes)


def test_inputs_that_cannot_be_are_refused():
    net = mlp(**SIZES, rank=5)
    key = jax.random.key(0)
    assert "a product 4 -> 8 has no rank of 5; lower the rank" in refusal(
        init, net, key, np.zeros((2, 4), np.float32)
    )
    assert "reads examples (B, ...), given an array (4,)" in refusal(
        init, net, key, np.zeros(4, np.float32)
    )


def test_running_inputs_have_the_moments_of_all_that_came_by():
    net = mlp(classes=3, width=4, depth=2, norm="none", running=True)
    draw = np.random.default_rng(0)
    batches = [draw.normal(5.0 + i, 1 + i, size=(7, 6)).astype(np.float32) for i in range(3)]
    variables = init(net, jax.random.key(0), batches[0])
    for x in batches:
        _, _, changed = forward(net, variables, x, train=True)
        variables = {**variables, "stem": {**variables["stem"], "batch_stats": changed["stem"]}}
    seen = np.concatenate(batches).astype(np.float64)
    held = variables["stem"]["batch_stats"]["inputs"]
    np.testing.assert_allclose(held["mean"], seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(held["squares"] / held["count"], seen.var(axis=0), rtol=1e-5)
    assert float(held["count"]) == 21
    fixed = [jnp.ones((4, 6)) * 3, jnp.ones((2, 6)) * 3]
    still = init(net, jax.random.key(0), fixed[0])
    y, _, changed = forward(net, still, fixed[0], train=True)
    assert (
        np.isfinite(np.asarray(y)).all()
        and not np.asarray(changed["stem"]["inputs"]["squares"]).any()
    )
