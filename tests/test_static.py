"""Static attention begun from a guide's: the best constant weights, against numpy in float64 and on
guides whose own weights are constant.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from theseus_jax.errors import UserError
from theseus_jax.methods.begin import inherited
from theseus_jax.methods.static import RIDGE, BestWeights, best_weights
from theseus_jax.methods.surgery import Inherit
from theseus_jax.nets.models.token_mlp import token_mlp
from theseus_jax.nets.models.vit import vit
from theseus_jax.nets.stage import forward, init
from theseus_jax.train import State, inputs_of
from theseus_jax.trees import bit_equal

SIZES = {"classes": 3, "patch": 2, "width": 12, "depth": 2, "hidden": 10}
GUIDE = vit(image=6, channels=1, heads=3, read="mean", **SIZES)
TARGET = token_mlp(mix_rank=2, heads=3, **SIZES)
PAIRS = tuple((name, name) for name in GUIDE.names)
PARTS = ("stem", "ln_1", "attn", "ln_2", "mlp", "pool", "head")
TOKENS, IMAGES = 9, np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)


def sharpened(variables):
    """A guide whose heads choose, and differ."""
    rng, sharp = np.random.default_rng(5), {}
    for name, tree in variables.items():
        params = dict(tree["params"])
        if "attn" in params:
            kernels = {
                part: {**params["attn"][part], "kernel": rng.normal(size=(12, 12)) / 2}
                for part in ("query", "key")
            }
            params["attn"] = params["attn"] | kernels
        sharp[name] = {"params": params}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), sharp)


@functools.lru_cache(maxsize=None)
def begun(net, count):
    start = jax.jit(jax.vmap(lambda key: init(net, key, jnp.zeros((1, 6, 6, 1)))))
    return start(tiny.keys(count))


GUIDE_VARIABLES = sharpened(jax.tree.map(lambda leaf: leaf[0], begun(GUIDE, 1)))


def after(*edits, net=TARGET, guide_variables=GUIDE_VARIABLES):
    state = State(0, begun(net, 2), guide_variables, None, tiny.keys())
    examples = {"inputs": jnp.asarray(IMAGES), "labels": jnp.zeros(len(IMAGES), jnp.int32)}
    inputs = inputs_of(tiny.Stands(net), 0, examples, tiny.keys())
    for edit in edits:
        state = edit(state, inputs)
    return state


def test_weights_are_the_best_of_their_rank():
    rng = np.random.default_rng(1)
    values, seen = rng.normal(size=(2, 8, TOKENS, 6))
    for rank in (1, 4, TOKENS):
        down, up = best_weights(jnp.float32(values), jnp.float32(seen), 2, rank)
        for head in range(2):
            rows, wanted = (
                z[..., 3 * head : 3 * head + 3].swapaxes(1, 2).reshape(-1, TOKENS)
                for z in (values, seen)
            )
            weight = RIDGE * np.trace(rows.T @ rows) / TOKENS
            a = np.concatenate([rows, np.sqrt(weight) * np.eye(TOKENS)])
            b = np.concatenate([wanted, np.zeros((TOKENS, TOKENS))])
            u, s, v = np.linalg.svd(a @ np.linalg.lstsq(a, b, rcond=None)[0], full_matrices=False)
            best = (u[:, :rank] * s[:rank]) @ v[:rank]  # Eckart-Young
            product = np.float64(down[head]) @ np.float64(up[head])
            np.testing.assert_allclose(a @ product, best, rtol=0, atol=2e-4)
            norms = np.linalg.norm(down[head], axis=0), np.linalg.norm(up[head], axis=1)
            np.testing.assert_allclose(*norms, rtol=1e-4)


def test_a_guide_whose_weights_are_constant_is_given_back_by_rank_one():
    params = {name: {"params": dict(tree["params"])} for name, tree in GUIDE_VARIABLES.items()}
    for name in ("block_1", "block_2"):
        attn = params[name]["params"]["attn"]
        flat = {part: jax.tree.map(jnp.zeros_like, attn[part]) for part in ("query", "key")}
        params[name]["params"]["attn"] = attn | flat  # softmax of zeros: every token alike
    net = token_mlp(mix_rank=1, heads=3, **SIZES)
    edits = Inherit(GUIDE, PAIRS, PARTS), BestWeights(GUIDE, PAIRS)
    state = after(*edits, net=net, guide_variables=params)
    wanted = forward(GUIDE, params, IMAGES)[0]
    for seed in (0, 1):
        given = forward(net, tiny.pick(state.variables, seed), IMAGES)[0]
        np.testing.assert_allclose(given, wanted, rtol=0, atol=2e-3)
        attn = tiny.pick(state.variables, seed)["block_1"]["params"]["attn"]["tokens"]
        product = attn["down"]["kernel"] @ attn["up"]["kernel"]
        np.testing.assert_allclose(product, 1 / TOKENS, rtol=0, atol=1e-3)


def apart(state):
    """How far the first block's output is from the guide's, on the guide's own seam."""
    seam = forward(GUIDE, GUIDE_VARIABLES, IMAGES, stop="stem")[0]
    ours = forward(TARGET, tiny.pick(state.variables, 0), seam, start="block_1", stop="block_1")[0]
    theirs = forward(GUIDE, GUIDE_VARIABLES, seam, start="block_1", stop="block_1")[0]
    return float(jnp.mean((ours - theirs) ** 2) / jnp.mean((theirs - seam) ** 2))


def test_it_comes_closer_to_the_guide_and_moves_nothing_but_the_weights():
    before = after(Inherit(GUIDE, PAIRS, PARTS))
    state = after(Inherit(GUIDE, PAIRS, PARTS), BestWeights(GUIDE, PAIRS))
    assert apart(state) < 0.5 * apart(before)
    for stage, tree in before.variables.items():
        ours, theirs = tree["params"], state.variables[stage]["params"]
        for part in ours.keys() - {"attn"}:
            assert bit_equal(ours[part], theirs[part])
        for part in ours.get("attn", {}):
            assert bit_equal(ours["attn"][part], theirs["attn"][part]) == (part != "tokens")


def test_it_begins_a_target_after_what_is_inherited_and_says_so():
    settings = tiny.settings(inherit=PARTS, weights="measured")
    edits = inherited(GUIDE, PAIRS, settings)
    assert [type(edit) for edit in edits] == [Inherit, BestWeights]
    assert str(edits[1]) == "weigh tokens as the guide's heads do at best, on 512 examples"


@pytest.mark.parametrize(
    "net, message",
    [
        (token_mlp(mix_rank=2, **SIZES), "no static attention of the target takes the place of"),
        (
            token_mlp(mix_rank=2, heads=2, **SIZES),
            "the target's block_1 has 2 heads and the guide's block_1 3; set target.heads",
        ),
    ],
)
def test_targets_without_a_place_for_it_are_refused(net, message):
    with pytest.raises(UserError, match=message):
        BestWeights(GUIDE, PAIRS).check(net, begun(net, 2), GUIDE_VARIABLES)
