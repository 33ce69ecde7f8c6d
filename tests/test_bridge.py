"""Bridges between shapes, the stitch that is fitted for one, and mappings across depths and
shapes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed
from theseus_jax.methods.mapping import auto_mapping
from theseus_jax.methods.stitch import fit_stitch, hybrid, hybrid_module_variables, ridge
from theseus_jax.nets.blocks.adapters import adapter_count
from theseus_jax.nets.blocks.bridge import Bridge, bridge, fitted
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.models.resnet import resnet
from theseus_jax.nets.models.token_mlp import token_mlp
from theseus_jax.nets.models.vit import vit
from theseus_jax.nets.stage import init
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Phase
from theseus_jax.train import Inputs, State

IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
GUIDE, TARGET = resnet(depth=18, classes=3, width=4, stem="cifar"), mlp(classes=3, width=6, depth=3)


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 1)).astype(np.float32)


def fresh(net, seed, count=1):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(lambda key: init(net, key, IMAGE)))(keys)


def first(variables):
    return jax.tree.map(lambda leaf: leaf[0], variables)


def test_positions_are_kept_averaged_repeated_or_laid_out():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 3)), jnp.float32)
    assert fitted(x, (4, 6, 9)) is x
    pooled = fitted(x, (2, 2, 9))
    assert pooled.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(pooled[1, 0, 1], np.asarray(x)[1, :2, 3:].mean((0, 1)), rtol=1e-5)
    larger = fitted(x, (8, 12, 9))
    np.testing.assert_array_equal(larger[0, 5, 7], x[0, 2, 3])
    tokens = fitted(x, (24, 9))
    np.testing.assert_array_equal(tokens[0, 13], x[0, 2, 1])
    np.testing.assert_array_equal(fitted(tokens, (4, 6, 9)), x)
    for shape in ((9,), (5, 5, 9), (23, 9)):
        np.testing.assert_array_equal(fitted(x, shape), x.reshape(2, -1))


def shape(*sizes):
    return jax.ShapeDtypeStruct((1, *sizes), jnp.float32)


@pytest.mark.parametrize(
    "given, wanted, rank, numbers",
    [
        ((4, 4, 3), (4, 4, 5), 0, 3 * 5 + 5),
        ((4, 4, 3), (2, 2, 5), 0, 3 * 5 + 5),
        ((7,), (5,), 0, 7 * 5 + 5),
        ((16, 3), (4, 4, 5), 0, 3 * 5 + 5),
        ((7,), (2, 2, 5), 2, 7 * 2 + 2 * 20 + 20),
        ((4, 4, 3), (5,), 2, 48 * 2 + 2 * 5 + 5),
        ((5, 3), (4, 6), 2, 15 * 2 + 2 * 24 + 24),
    ],
)
def test_a_bridge_has_the_parameters_of_its_kind_and_gives_the_wanted_shape(
    given, wanted, rank, numbers
):
    made = bridge(shape(*given), shape(*wanted), rank=2)
    assert made == Bridge(wanted, rank)
    variables = made.init(jax.random.key(0), jnp.zeros((1, *given)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == numbers
    assert made.apply(variables, jnp.ones((3, *given))).shape == (3, *wanted)


def test_a_padded_text_keeps_its_mask():
    x = Masked(jnp.ones((2, 5, 3)), jnp.ones((2, 5), jnp.int32))
    made = bridge(x, Masked(jnp.ones((2, 5, 4)), x.mask), rank=2)
    out = made.apply(made.init(jax.random.key(0), x), x)
    assert isinstance(out, Masked) and out.values.shape == (2, 5, 4) and out.mask is x.mask


@pytest.mark.parametrize(
    "given, wanted, rank, words",
    [
        (shape(7), shape(2, 2, 5), 0, "Bx7 and Bx2x2x5 with a rank of 0"),
        (Masked(shape(5, 3), shape(5)), shape(4), 2, "padded texts keep their tokens"),
        (
            Masked(shape(5, 3), shape(5)),
            Masked(shape(6, 3), shape(6)),
            2,
            "padded texts keep their tokens",
        ),
        (shape(20000), shape(20000), 2, "would need 400,000,000 numbers"),
    ],
)
def test_what_cannot_be_bridged_is_one_line_with_both_shapes(given, wanted, rank, words):
    with pytest.raises(
        UserError, match="no bridge leads from the target's a to the guide's b"
    ) as raised:
        bridge(given, wanted, rank=rank, what="the target's a to the guide's b")
    assert words in str(raised.value) and "\n" not in str(raised.value)


def augmented(x, y, weight):
    """Penalised least squares as plain least squares, in float64."""
    u, v = x - x.mean(0), y - y.mean(0)
    penalty = weight * np.trace(u.T @ u) / x.shape[1]
    return np.vstack([u, np.sqrt(penalty) * np.eye(x.shape[1])]), np.vstack(
        [v, np.zeros((x.shape[1], y.shape[1]))]
    )


def test_a_low_rank_stitch_is_the_best_of_its_rank():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 7)) + 2, rng.normal(size=(60, 9)) - 1
    a, b = augmented(x, y, 0.1)
    fit = a @ np.linalg.lstsq(a, b, rcond=None)[0]
    for rank in (1, 3, 7):
        found = ridge(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), 0.1, rank)
        matrix = np.asarray(found["down"]["kernel"], np.float64) @ np.asarray(
            found["up"]["kernel"], np.float64
        )
        u, s, v = np.linalg.svd(fit, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]  # Eckart-Young: no matrix of this rank is closer
        np.testing.assert_allclose(a @ matrix, best, atol=1e-4)
        np.testing.assert_allclose(found["up"]["bias"], y.mean(0) - x.mean(0) @ matrix, atol=1e-4)


@pytest.mark.parametrize(
    "pair", [("block_2", "block_1"), ("block_8", "block_2"), ("pool", "block_2")]
)
def test_a_stitched_seam_is_numpys_least_squares_and_its_hybrid_reads_it(pair):
    x, y = images(40), np.arange(40) % 3
    ours, theirs = fresh(TARGET, 1, 2), first(fresh(GUIDE, 2))
    phase = Phase(
        "finetune",
        TARGET,
        TARGET.names,
        (Term("cross_entropy", 1.0, CrossEntropy()),),
        1,
        Feed(GUIDE),
    )
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = Inputs(phase, {"inputs": jnp.asarray(x), "labels": jnp.asarray(y)}, keys, keys, keys)
    state = State(0, ours, theirs, None, keys)
    stitch = fit_stitch(state, inputs, GUIDE, pair, ridge_weight=1e-3, rank=3)
    wanted = np.asarray(tiny.apply(GUIDE, theirs, x, stop=pair[0]), np.float64).reshape(40, -1)
    mixed = hybrid(TARGET, GUIDE, pair, stitch.bridge)
    variables = hybrid_module_variables(TARGET, ours, GUIDE, theirs, pair, stitch)
    for seed in range(2):
        mine = tiny.pick(ours, seed)
        given = np.asarray(tiny.apply(TARGET, mine, x, stop=pair[1]), np.float64)
        a, b = augmented(given, wanted, 1e-3)
        fit = np.linalg.lstsq(a, b, rcond=None)[0]
        if stitch.bridge.rank:
            v = np.linalg.svd(a @ fit, full_matrices=False)[2][:3]
            fit = fit @ v.T @ v
        predicted = (given - given.mean(0)) @ fit + wanted.mean(0)
        one = tiny.pick(variables, seed)
        got = tiny.apply(mixed, one, x, stop="stitch")
        np.testing.assert_allclose(got.reshape(40, -1), predicted, atol=2e-3)
        suffix = GUIDE.names[GUIDE.names.index(pair[0]) + 1]
        logits = tiny.apply(
            GUIDE, theirs, jnp.asarray(predicted.reshape(got.shape), jnp.float32), start=suffix
        )
        np.testing.assert_allclose(tiny.apply(mixed, one, x), logits, atol=2e-3)


def test_networks_of_as_many_resolutions_are_matched_run_by_run():
    large, small = (resnet(depth=depth, classes=3, width=4, stem="cifar") for depth in (50, 18))
    assert auto_mapping(large, small, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)) == (
        ("block_2", "block_1"),
        ("block_3", "block_2"),
        ("block_5", "block_3"),
        ("block_7", "block_4"),
        ("block_10", "block_5"),
        ("block_13", "block_6"),
        ("block_15", "block_7"),
        ("pool", "pool"),
    )


def test_networks_of_other_runs_are_matched_by_depth():
    four = mlp(classes=3, width=6, depth=5)
    assert auto_mapping(GUIDE, four, IMAGE) == (
        ("block_2", "block_1"),
        ("block_4", "block_2"),
        ("block_6", "block_3"),
        ("pool", "block_4"),
    )
    a = vit(classes=3, image=8, patch=4, width=8, depth=4, heads=2, hidden=8, channels=1)
    b = token_mlp(classes=3, patch=4, width=6, depth=2, hidden=8)
    assert auto_mapping(a, b, IMAGE) == (
        ("block_2", "block_1"),
        ("block_4", "block_2"),
        ("pool", "pool"),
    )


def test_adapters_inside_networks_are_counted():
    low = mlp(classes=3, width=6, depth=3, rank=2)
    shapes = jax.eval_shape(lambda key: init(low, key, IMAGE), jax.random.key(0))
    assert adapter_count(shapes) == (64 + 6) * 2 + 2 * (6 + 6) * 2
    mixing = token_mlp(classes=3, patch=4, width=6, depth=2, hidden=8, mix_rank=1)
    plain = token_mlp(classes=3, patch=4, width=6, depth=2, hidden=8)
    counts = [
        sum(
            leaf.size
            for leaf in jax.tree.leaves(
                jax.eval_shape(lambda key, n=net: init(n, key, IMAGE), jax.random.key(0))
            )
        )
        for net in (mixing, plain)
    ]
    assert (
        adapter_count(jax.eval_shape(lambda key: init(mixing, key, IMAGE), jax.random.key(0)))
        == counts[0] - counts[1]
        > 0
    )
    assert (
        adapter_count(jax.eval_shape(lambda key: init(GUIDE, key, IMAGE), jax.random.key(0))) == 0
    )
