"""Token-wise MLPs and Mixers against loops in float64, and what their tokens can and cannot know of
one another.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import refusal

from theseus_jax.nets.models.token_mlp import MIXER_B16, mixer, token_mlp
from theseus_jax.nets.models.vit import vit
from theseus_jax.nets.stage import forward, init
from theseus_jax.trees import leaves_by_path, nested, parameter_count

SIZES = {"classes": 5, "patch": 3, "width": 7, "depth": 2, "hidden": 11}
NETS = {
    "plain": token_mlp(**SIZES),
    "adapted": token_mlp(**SIZES, mix_rank=2),
    "bare": token_mlp(**SIZES, norm="none"),
    "placeless": token_mlp(**SIZES, positions=0),
    "numbered": token_mlp(**SIZES, positions=6),
    "batch": token_mlp(**SIZES, norm="batch", mix_rank=1),
    "static": token_mlp(**SIZES | {"width": 8}, mix_rank=3, heads=2),
    "mixer": mixer(classes=5, patch=3, width=7, depth=2, tokens_hidden=4, channels_hidden=11),
}
IMAGE, TOKENS = (2, 6, 9, 2), 6  # 2 x 3 patches


def images(seed=0, shape=IMAGE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(net, shape=IMAGE):
    return jax.eval_shape(lambda key: init(net, key, jnp.zeros(shape)), jax.random.key(0))


@functools.lru_cache(maxsize=None)
def drawn(name):
    """A network and variables without zeros, variances above 0."""
    generator = np.random.default_rng(7)
    leaves = {
        path: generator.normal(size=leaf.shape) / max(math.prod(leaf.shape[:-1]), 1) ** 0.5
        for path, leaf in leaves_by_path(shapes(NETS[name])).items()
    }
    return NETS[name], nested(
        {
            path: np.float32(0.2 + abs(value) if path.endswith("var") else value)
            for path, value in leaves.items()
        }
    )


@functools.lru_cache(maxsize=None)
def runner(name, train=False):
    net = NETS[name]
    return jax.jit(
        lambda variables, x: forward(net, variables, x, train=train, capture=net.names)[1]
    )


def activations(name, x):
    return runner(name)(drawn(name)[1], x)


# Values, by loops over single numbers' vectors in float64


def normalised(kind, x, stage, name):
    """x (T, D) of one image; of batch norm the running statistics."""
    if kind == "none":
        return x
    params = {key: np.float64(value) for key, value in stage["params"][name].items()}
    if kind == "batch":
        mean, variance = (np.float64(stage["batch_stats"][name][key]) for key in ("mean", "var"))
        return np.stack(
            [
                (token - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]
                for token in x
            ]
        )
    return np.stack(
        [
            (token - token.mean()) / np.sqrt(token.var() + 1e-5) * params["scale"] + params["bias"]
            for token in x
        ]
    )


def perceptron(vector, params):
    h = vector @ np.float64(params["up"]["kernel"]) + params["up"]["bias"]
    h = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in h])
    return h @ np.float64(params["down"]["kernel"]) + params["down"]["bias"]


def embedded(image, params):
    rows = []
    for i in range(0, image.shape[0], 3):
        for j in range(0, image.shape[1], 3):
            square, conv = np.float64(image[i : i + 3, j : j + 3]), params["patches"]["conv"]
            pixels = [
                square[a, b] @ np.float64(conv["kernel"][a, b]) for a in range(3) for b in range(3)
            ]
            rows.append(sum(pixels) + conv["bias"])
    return np.stack(rows) + (np.float64(params["positions"][0]) if "positions" in params else 0)


def static_attention(y, params, heads):
    values = y @ np.float64(params["value"]["kernel"]) + params["value"]["bias"]
    mixed, each = np.zeros_like(values), y.shape[1] // heads
    down, up = (np.float64(params["tokens"][name]["kernel"]) for name in ("down", "up"))
    for head in range(heads):
        for token in range(len(y)):
            for other in range(len(y)):
                weight = sum(down[head, other] * up[head, :, token])
                mine = slice(head * each, (head + 1) * each)
                mixed[token, mine] += weight * values[other, mine]
    return mixed @ np.float64(params["out"]["kernel"]) + params["out"]["bias"]


def token_block(x, stage, kind):
    if "attn" in stage["params"]:
        y = normalised(kind, x, stage, "ln_1")
        x = x + static_attention(y, stage["params"]["attn"], 2)
    if "adapter" in stage["params"]:
        inner = {collection: tree["adapter"] for collection, tree in stage.items()}
        y, kernels = normalised(kind, x, inner, "norm"), inner["params"]["tokens"]
        # (T, T), transposed
        product = np.float64(kernels["down"]["kernel"]) @ np.float64(kernels["up"]["kernel"])
        x = x + np.stack([sum(product[s, t] * y[s] for s in range(len(y))) for t in range(len(y))])
    y = normalised(kind, x, stage, "ln_2" if kind == "layer" else "norm")
    return np.stack([token + perceptron(row, stage["params"]["mlp"]) for token, row in zip(x, y)])


def mixer_block(x, stage):
    params = stage["params"]
    y = normalised("layer", x, stage, "ln_1")
    x = x + np.stack(
        [perceptron(y[:, channel], params["tokens_mlp"]) for channel in range(x.shape[1])], axis=1
    )
    y = normalised("layer", x, stage, "ln_2")
    return np.stack([token + perceptron(row, params["mlp"]) for token, row in zip(x, y)])


@pytest.mark.parametrize("name", NETS)
def test_every_stage_is_what_loops_in_float64_give(name):
    (net, variables), batch = drawn(name), images()
    kind = {"bare": "none", "batch": "batch"}.get(name, "layer")
    given = activations(name, batch)
    assert net.names == ("stem", "block_1", "block_2", "pool", "head")
    for i, image in enumerate(batch):
        x = embedded(image, variables["stem"]["params"])
        wanted = {"stem": x}
        for block in ("block_1", "block_2"):
            x = (
                mixer_block(x, variables[block])
                if name == "mixer"
                else token_block(x, variables[block], kind)
            )
            wanted[block] = x
        wanted["pool"] = normalised(kind, x, variables.get("pool", {}), "norm").mean(0)
        head = variables["head"]["params"]
        wanted["head"] = wanted["pool"] @ np.float64(head["kernel"]) + head["bias"]
        for stage, values in wanted.items():
            assert given[stage].dtype == jnp.float32 and np.std(values) > 0.1, stage
            np.testing.assert_allclose(given[stage][i], values, rtol=0, atol=2e-5, err_msg=stage)


# What tokens know of one another


def moved(name, patch):
    """{stage: (T,) by how much each token of the first image moves at most} when only patch number
    `patch` changes.
    """
    x = images()
    row, column = 3 * (patch // 3), 3 * (patch % 3)
    other = x.copy()
    other[0, row : row + 3, column : column + 3] += images(1, (3, 3, 2))
    before, after = activations(name, x), activations(name, other)
    return {
        stage: np.abs(after[stage][0] - before[stage][0]).max(-1)
        for stage in ("stem", "block_1", "block_2")
    }


@pytest.mark.parametrize("patch", range(TOKENS))
@pytest.mark.parametrize("name", ["plain", "bare", "placeless", "numbered"])
def test_without_an_adapter_a_patch_changes_its_own_token_alone(name, patch):
    for stage, change in moved(name, patch).items():
        assert change[patch] > 0.1, stage
        np.testing.assert_array_equal(np.delete(change, patch), 0, err_msg=stage)


@pytest.mark.parametrize("patch", [0, 4])
@pytest.mark.parametrize("name", ["adapted", "mixer", "batch", "static"])
def test_an_adapter_or_a_mixer_tells_every_token_of_a_patch(name, patch):
    changes = moved(name, patch)
    np.testing.assert_array_equal(np.delete(changes["stem"], patch), 0)
    assert changes["block_1"].min() > 1e-4 and changes["block_2"].min() > 1e-4


def test_an_adapter_is_a_product_of_its_rank_over_the_tokens_and_the_same_for_every_channel():
    net, variables = drawn("adapted")
    variables = variables | {"block_1": {"params": dict(variables["block_1"]["params"])}}
    mlp = variables["block_1"]["params"]["mlp"]
    variables["block_1"]["params"]["mlp"] = mlp | {"down": jax.tree.map(np.zeros_like, mlp["down"])}
    tokens = images(2, (1, TOKENS, 7))
    out = forward(net, variables, tokens, start="block_1", stop="block_1")[0]
    assert np.linalg.matrix_rank(np.asarray(out - tokens)[0], tol=1e-4) == 2
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    adapter = variables["block_1"]["params"]["adapter"]
    turned = {"norm": {key: value[order] for key, value in adapter["norm"].items()}}
    variables["block_1"]["params"]["adapter"] = adapter | turned
    given = forward(net, variables, tokens[..., order], start="block_1", stop="block_1")[0]
    np.testing.assert_allclose(given, out[..., order], rtol=0, atol=1e-5)


def test_a_fresh_adapter_already_mixes():
    net = NETS["adapted"]
    variables = jax.jit(lambda key: init(net, key, jnp.zeros(IMAGE)))(jax.random.key(0))
    tokens = images(2, (1, TOKENS, 7))
    other = tokens.copy()
    other[0, 0, 0] += 1
    one, two = (
        forward(net, variables, x, start="block_1", stop="block_1")[0] for x in (tokens, other)
    )
    assert np.abs(one - two)[0].max(-1).min() > 1e-4


@pytest.mark.parametrize("name", ["plain", "placeless", "mixer"])
def test_permuted_patches_permute_the_tokens_up_to_their_positions(name):
    order = np.array([4, 2, 0, 5, 1, 3])
    x = images()
    squares = x.reshape(2, 2, 3, 3, 3, 2).swapaxes(2, 3).reshape(2, TOKENS, 3, 3, 2)
    shuffled = squares[:, order].reshape(2, 2, 3, 3, 3, 2).swapaxes(2, 3).reshape(IMAGE)
    before, after = activations(name, x), activations(name, shuffled)
    positions = drawn(name)[1]["stem"]["params"].get("positions", np.zeros((1, TOKENS, 7)))
    np.testing.assert_allclose(
        after["stem"] - positions, (before["stem"] - positions)[:, order], rtol=0, atol=1e-5
    )
    same = [
        np.allclose(after[stage], before[stage][:, order], atol=1e-5)
        for stage in ("block_1", "block_2")
    ]
    assert same == [name == "placeless"] * 2
    assert np.allclose(after["head"], before["head"], atol=1e-5) == (name == "placeless")


def test_batch_norm_takes_its_statistics_over_all_tokens_in_training():
    x, (_, variables) = images(), drawn("batch")
    before = runner("batch", True)(variables, x)
    pool = variables["pool"]["params"]["norm"]
    h = np.float64(before["block_2"])
    normal = (h - h.mean((0, 1))) / np.sqrt(h.var((0, 1)) + 1e-5)
    np.testing.assert_allclose(
        before["pool"], (normal * pool["scale"] + pool["bias"]).mean(1), rtol=0, atol=1e-5
    )
    assert np.abs(before["pool"] - activations("batch", x)["pool"]).max() > 0.1


# Sizes and settings


def test_mixer_b16_has_its_published_number_of_parameters():
    assert parameter_count(shapes(mixer(classes=1000, **MIXER_B16), (1, 224, 224, 3))) == 59_880_472


def test_parameters_are_counted_in_closed_form_and_the_adapter_s_apart():
    stem, norm, mlp, head = 18 * 7 + 7 + TOKENS * 7, 14, 7 * 11 + 11 + 11 * 7 + 7, 7 * 5 + 5
    counts = {
        name: parameter_count(
            {stage: tree.get("params", {}) for stage, tree in shapes(net).items()}
        )
        for name, net in NETS.items()
    }
    plain = stem + 2 * (norm + mlp) + norm + head
    assert counts["plain"] == counts["numbered"] == plain
    assert counts["placeless"] == plain - TOKENS * 7 and counts["bare"] == plain - 3 * norm
    assert counts["adapted"] == plain + 2 * (2 * TOKENS * 2 + norm) and counts[
        "batch"
    ] == plain + 2 * (2 * TOKENS + norm)
    wide = 18 * 8 + 8 + TOKENS * 8 + 16 + 8 * 5 + 5
    blocks = 2 * 16 + 8 * 11 + 11 + 11 * 8 + 8 + 2 * (64 + 8) + 2 * (2 * TOKENS * 3)
    assert counts["static"] == wide + 2 * blocks
    adapters = [
        leaf
        for path, leaf in leaves_by_path(shapes(NETS["adapted"])).items()
        if "/params/adapter/" in path
    ]
    assert parameter_count(adapters) == counts["adapted"] - plain
    tokens = TOKENS * 4 + 4 + 4 * TOKENS + TOKENS
    assert counts["mixer"] == plain - TOKENS * 7 + 2 * (norm + tokens)


def test_what_is_left_of_a_vit_has_the_same_names_and_shapes():
    guide = vit(
        classes=5, image=6, patch=3, width=8, depth=2, heads=2, hidden=11, channels=2, read="mean"
    )
    theirs, ours = (
        leaves_by_path(shapes(net, (1, 6, 6, 2)))
        for net in (guide, token_mlp(**SIZES | {"width": 8}))
    )
    assert {path: leaf.shape for path, leaf in ours.items()} == {
        path: leaf.shape
        for path, leaf in theirs.items()
        if "/attn/" not in path and "/ln_1/" not in path
    }
    static = leaves_by_path(
        shapes(token_mlp(**SIZES | {"width": 8}, mix_rank=2, heads=2), (1, 6, 6, 2))
    )
    assert {path: leaf.shape for path, leaf in static.items() if "/tokens/" not in path} == {
        path: leaf.shape
        for path, leaf in theirs.items()
        if "/query/" not in path and "/key/" not in path
    }


def test_images_that_do_not_fit_are_refused():
    for name in ("plain", "mixer"):
        net, variables = drawn(name)
        for shape in ((2, 6, 8, 2), (2, 7, 9, 2), (2, 0, 9, 2), (2, 6, 9)):
            assert f"of shape {shape} do not divide into patches of 3 x 3; resize" in refusal(
                forward, net, variables, jnp.zeros(shape)
            )
            assert "do not divide" in refusal(init, net, jax.random.key(0), jnp.zeros(shape))
    larger = jnp.zeros((2, 9, 9, 2))
    for name, start, path in (
        ("plain", "stem", "positions"),
        ("adapted", "block_1", "adapter/tokens/down/kernel"),
        ("mixer", "block_1", "tokens_mlp/up/kernel"),
        ("static", "block_1", "attn/tokens/down/kernel"),
    ):
        x = larger if start == "stem" else jnp.zeros((2, 9, 8 if name == "static" else 7))
        assert f"9 tokens are not the 6 that {path} was made for; give" in refusal(
            forward, *drawn(name), x, start=start
        )
    assert "image of 9 patches has not the 6 positions asked for" in refusal(
        forward, *drawn("numbered"), larger
    )
    assert runner("placeless")(drawn("placeless")[1], larger)["block_2"].shape == (2, 9, 7)


def test_impossible_settings_are_refused():
    assert "no norm 'group'; take one of layer, batch, none" in refusal(
        token_mlp, **SIZES, norm="group"
    )
    assert "mix_rank of -1 is negative" in refusal(token_mlp, **SIZES, mix_rank=-1)
    for positions in ("six", -1, 2.0):
        assert f"positions {positions!r} are neither 'learned' nor a number from 0" in refusal(
            token_mlp, **SIZES, positions=positions
        )
    for heads in (0, 7):
        assert "a mix_rank of 7 is more than the 6 tokens" in refusal(
            init, token_mlp(**SIZES, mix_rank=7, heads=heads), jax.random.key(0), jnp.zeros(IMAGE)
        )
    for heads, rank in ((2, 1), (7, 0), (-7, 1)):
        assert f"{heads} heads do not divide a width of 7, or have no mix_rank ({rank})" in refusal(
            token_mlp, **SIZES, mix_rank=rank, heads=heads
        )
