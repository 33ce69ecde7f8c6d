"""Llama-like guides: logits of transformers (torch 2.13, transformers 5.24, random weights),
settings that are refused, rotary positions and shared keys by complex numbers in float64, and a
whole run.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixing import drawn, stepwise
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.nets import decode
from theseus_jax.nets.blocks.rotary import Rotary
from theseus_jax.nets.models.attention import Attention
from theseus_jax.nets.models.linear_attention import LinearAttention
from theseus_jax.nets.models.llama import llama
from theseus_jax.nets.stage import init
from theseus_jax.nets.weights.containers import read_tensors, read_weights
from theseus_jax.nets.weights.llama import llama_sizes, load_llama
from theseus_jax.tasks import language_nets

FOLDERS = pathlib.Path(__file__).parent / "golden" / "folders"
LOGITS = np.load(FOLDERS / "llama_logits.npz")
FAMILIES = ("llama", "qwen2", "mistral")
SMALL = {"vocabulary": 11, "width": 12, "depth": 2, "heads": 4, "key_heads": 2, "hidden": 10}
DROPPED = "dropped"  # of a config.json that does not say it
D, H, GROUPS, E, T, B = 12, 4, 2, 6, 23, 2
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
LAID = {"key_heads": GROUPS, "size": E, "bias": False, "out_bias": False, "rotary": Rotary(50.0)}


def arguments(folder):
    return {key: value for key, value in llama_sizes(folder).items() if key != "positions"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_gives_the_logits_of_torch(name):
    given = arguments(FOLDERS / name)
    net, variables = llama(**given), load_llama(FOLDERS / name, **given)
    y = np.asarray(tj.forward(net, variables, LOGITS["ids"])[0])[:, -6:]
    np.testing.assert_allclose(y, LOGITS[name], rtol=0, atol=5e-5)
    carries, some = decode.initial_carries(net, 2, 48), []
    one = jax.jit(lambda token, carries: decode.step(net, variables, token, carries))
    for token in LOGITS["ids"].T:
        y, carries = one(jnp.asarray(token), carries)
        some.append(y)
    np.testing.assert_allclose(np.stack(some[-6:], 1), LOGITS[name], rtol=0, atol=5e-5)


def settings(folder, source, drop=(), **changes):
    shutil.copytree(FOLDERS / source, folder)
    file = folder / "config.json"
    given = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: given[key] for key in given if key not in drop}))
    return folder


def test_older_files_say_the_same_of_rotary_positions(tmp_path):
    told = json.loads((FOLDERS / "llama" / "config.json").read_text())["rope_parameters"]
    theta = told.pop("rope_theta")
    for kind in ("rope_type", "type"):
        stretch = {**told, kind: told["rope_type"]}
        stretch = {key: value for key, value in stretch.items() if key in (kind, *told)}
        if kind == "type":
            del stretch["rope_type"]
        old = {"rope_theta": theta, "rope_scaling": stretch, "head_dim": None}
        folder = settings(tmp_path / kind, "llama", ("rope_parameters",), **old)
        assert llama_sizes(folder) == {**llama_sizes(FOLDERS / "llama"), "head_size": 0}
    folder = settings(tmp_path / "plain", "llama", ("rope_parameters",), rope_theta=7.0)
    assert (llama_sizes(folder)["theta"], llama_sizes(folder)["stretch"]) == (7.0, ())


@pytest.mark.parametrize(
    "source, changes, word",
    [
        ("mistral", {"sliding_window": 4096}, "sliding_window = 4096, and this Llama reads every"),
        (
            "qwen2",
            {"use_sliding_window": True},
            "use_sliding_window = True, and this Llama has Fal",
        ),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "reads every token before"),
        ("llama", {"model_type": "qwen3"}, "model_type = 'qwen3', and this Llama has 'llama'"),
        ("llama", {"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn' in its rotary"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear"}},
            "has rope_scaling and rope_parameters",
        ),
        ("llama", {"rope_parameters": {"attn_factor": 2.0}}, "attn_factor = 2.0 in its rotary"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "'linear' and no factor, which"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "'llama3' and no low_freq_factor",
        ),
        ("mistral", {"sliding_window": DROPPED}, "sliding_window = 4096, and this Llama reads"),
        ("qwen2", {"num_key_value_heads": DROPPED}, "has no num_key_value_heads, which a Llama"),
        ("llama", {"logit_scale": 0.25}, "the setting logit_scale = 0.25"),
        ("llama", {"intermediate_size": None}, "has no intermediate_size, which a Llama needs"),
    ],
)
def test_a_setting_that_the_network_has_not_is_refused_by_name(tmp_path, source, changes, word):
    drop = [key for key, value in changes.items() if value == DROPPED]
    folder = settings(tmp_path / "m", source, drop, **changes)
    with pytest.raises(UserError, match=word):
        llama_sizes(folder)


@pytest.mark.parametrize(
    "name, change, word",
    [
        ("norm.weight", lambda a: None, "missing norm.weight"),
        ("layers.0.self_attn.q_norm.weight", lambda a: np.ones(8, np.float32), "extra layers.0"),
        ("layers.1.mlp.up_proj.weight", lambda a: np.ascontiguousarray(a.T), "is transposed"),
        ("lm_head.weight", lambda a: np.ones((61, 32), np.float32), "differs from embed_tokens"),
    ],
)
def test_tensors_that_do_not_fit_are_told(tmp_path, name, change, word):
    from safetensors.numpy import save_file

    arrays = {
        key.removeprefix("model."): array for key, array in read_weights(FOLDERS / "qwen2").items()
    }
    found = change(arrays.pop(name, None))
    save_file(arrays | ({} if found is None else {name: found}), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=word):
        load_llama(tmp_path, **arguments(FOLDERS / "qwen2"))


def test_a_wrong_number_of_heads_is_refused_before_anything_is_computed():
    for changes, word in (
        ({"heads": 5}, "a width of 12 is not a multiple of 5 heads"),
        ({"key_heads": 3}, "4 heads cannot share 3 heads of keys"),
        ({"key_heads": 0}, "heads of 3 features cannot turn by pairs"),
        ({"biased": ("qkv", "head")}, "there is no bias 'head'"),
        ({"head_size": 6, "stretch": ("ntk",)}, "there are no rotary positions 'ntk'"),
        ({"head_size": 6, "activation": "mish"}, "there is no activation 'mish'"),
    ):
        with pytest.raises(UserError, match=word):
            llama(**{**SMALL, **changes})


def turned(x, theta):
    """Features i and i + E / 2 of every head as a complex number, times e^(i angle)."""
    pairs = x[..., : E // 2] + 1j * x[..., E // 2 :]
    angles = np.arange(x.shape[1])[:, None] * theta ** (-2 * np.arange(E // 2) / E)
    pairs = pairs * np.exp(1j * angles)[None, :, None]
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def heads_by_hand(z):
    """Queries, keys and values (B, T, H, E) of projections, keys and values for every head."""
    parts = np.split(z, [H * E, (H + GROUPS) * E], axis=-1)
    q, k, v = (part.reshape(B, T, -1, E) for part in parts)
    owner = np.asarray([0, 0, 1, 1])  # heads 0 and 1 read the first keys
    return turned(q, 50.0), turned(k, 50.0)[:, :, owner], v[:, :, owner]


def test_shared_keys_and_rotary_positions_of_attention_are_their_definition():
    module = Attention(D, H, **LAID)
    variables = drawn(module, X)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    assert set(p["c_attn"]) == set(p["c_proj"]) == {"kernel"}
    q, k, v = heads_by_hand(np.asarray(X, np.float64) @ p["c_attn"]["kernel"])
    scores = np.einsum("bthe,bshe->bhts", q, k) / E**0.5
    weights = np.exp(np.where(np.tri(T, dtype=bool), scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bhts,bshe->bthe", weights, v).reshape(B, T, H * E) @ p["c_proj"]["kernel"]
    np.testing.assert_allclose(module.apply(variables, X), y, rtol=0, atol=2e-5)
    np.testing.assert_allclose(stepwise(module, variables, jnp.asarray(X)), y, rtol=0, atol=2e-5)
    lag = np.arange(T)[:, None] - np.arange(T)
    back = (weights * lag).sum(-1).mean(axis=(0, 2))
    found = module.apply(variables, X, method="look_back")
    np.testing.assert_allclose(found, back, rtol=1e-4)
    assert module.initial_carry(B, T)["keys"].shape == (B, T, GROUPS, E)


@pytest.mark.parametrize("chunk", [64, 8, 5])
def test_they_map_onto_linear_attention_as_it_says(chunk):
    """Keys and values are shared, features, decays and states are each head's own; queries and keys
    turn before their features.
    """
    module = LinearAttention(D, H, **LAID, chunk=chunk)
    variables = drawn(module, X)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = np.asarray(X, np.float64)
    padded = np.pad(x @ p["c_attn"]["kernel"], ((0, 0), (3, 0), (0, 0)))
    q, k, v = heads_by_hand(sum(p["taps"][i] * padded[:, i : i + T] for i in range(4)))

    def features(x, matrices):
        z = np.einsum("bthe,hef->bthf", x, matrices)
        up, down = np.exp(z), np.exp(-z)
        return np.concatenate([one / one.sum(-1, keepdims=True) for one in (up, down)], -1)

    q, k = features(q, p["query_map"]), features(k, p["key_map"])
    total = np.cumsum(-np.logaddexp(0, x @ p["forget"]["kernel"] + p["forget"]["bias"]), axis=1)
    lags = np.moveaxis(total[:, :, None] - total[:, None], -1, 1)
    weights = np.einsum("bthf,bshf->bhts", q, k) * np.exp(
        np.where(np.tri(T, dtype=bool), lags, -np.inf)
    )
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bhts,bshe->bthe", weights, v).reshape(B, T, H * E) @ p["c_proj"]["kernel"]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, X), y, rtol=0, atol=2e-5)
    steps = jax.jit(lambda v, x: stepwise(module, v, x))(variables, jnp.asarray(X))
    np.testing.assert_allclose(steps, y, rtol=0, atol=2e-5)


@pytest.mark.parametrize("stretch", [(), ("linear", 3.0), ("llama3", 4.0, 1.0, 4.0, 32)])
def test_products_of_turned_queries_and_keys_read_their_distance_alone(stretch):
    q, k = np.random.default_rng(3).normal(size=(2, 1, 1, 1, 32)).astype(np.float32)
    rotary = Rotary(100.0, *stretch)

    def product(at, there):
        a, b = (rotary(jnp.asarray(x), jnp.asarray([t])) for x, t in ((q, at), (k, there)))
        return float((a * b).sum())

    for lag in (0, 1, 7):
        given = [product(there + lag, there) for there in (0, 5, 40)]
        np.testing.assert_allclose(given, given[0], atol=1e-4)
    assert abs(product(0, 0) - float((q * k).sum())) < 1e-5
    assert abs(product(1, 0) - product(0, 0)) > 1e-2


def test_stretched_positions_turn_slower_where_it_is_said():
    plain = Rotary(500.0).frequencies(16)
    np.testing.assert_allclose(plain, [500.0 ** (-i / 8) for i in range(8)])
    np.testing.assert_allclose(Rotary(500.0, "linear", 4.0).frequencies(16), plain / 4)
    waves = 2 * np.pi / plain
    given = Rotary(500.0, "llama3", 4.0, 1.0, 4.0, 100).frequencies(16)
    for wave, before, after in zip(waves, plain, given):
        if wave < 100 / 4:
            assert after == before
        elif wave > 100 / 1:
            assert after == pytest.approx(before / 4)
        else:
            share = (100 / wave - 1.0) / (4.0 - 1.0)
            assert after == pytest.approx(share * before + (1 - share) * before / 4)
    assert len({wave < 25 for wave in waves} | {wave > 100 for wave in waves}) == 2


TINY = LANGUAGE | {
    "data.context": 16,
    "data.test": 0.3,
    "guide.arch": "llama",
    "guide.heads": 4,
    "guide.key_heads": 2,
    "target.cell": "linear_attention",
    "convert.schedule": "one_shot",
    "convert.inherit": ("embed", "ln_1", "ln_2", "attn", "mlp", "norm", "head"),
    "convert.decays": "measured",
    "convert.steps": 3,
    "controls.names": ("window_distilled",),
    "controls.equal_flops": False,
}


def test_a_target_takes_norms_mlps_and_heads_from_its_guide():
    config = changed(base(), {**TINY, "guide.biased": ("qkv",), "guide.tied": False})
    guide, target = language_nets.guide(config), language_nets.target(config)
    assert not guide.ties and guide.stages[1].module.mixing().bias
    x = jnp.zeros((1, 4), jnp.int32)
    ours, theirs = (init(net, jax.random.key(0), x) for net in (target, guide))
    for stage in ("block_1", "block_2", "norm"):
        for part, leaves in theirs[stage]["params"].items():
            there = ours[stage]["params"][part]
            shapes = [jax.tree.map(jnp.shape, one) for one in (there, leaves)]
            if isinstance(leaves, dict):  # the mixer has more, never other
                shapes[0] = {key: shapes[0][key] for key in shapes[1]}
            assert shapes[0] == shapes[1]
    assert language_nets.target(config).stages[1].module.mixing().groups == 2
    other = language_nets.target(config, heads=8)  # shares no keys
    assert other.stages[1].module.mixing().groups == 8
    assert language_nets.guide(config, window=3).stages[1].module.mixing().window == 3


def own_folder(folder):
    """A Llama in bytes that guesses: no worse than guessing, as a guide has to be."""
    from safetensors.numpy import save_file

    shutil.copytree(FOLDERS / "mistral", folder)
    for file in folder.glob("model*"):
        file.unlink()
    arrays = {key: array.copy() for key, array in read_tensors(FOLDERS / "mistral").items()}
    arrays["model.embed_tokens.weight"] = np.resize(arrays["model.embed_tokens.weight"], (257, 32))
    arrays["lm_head.weight"] = np.zeros((257, 32), np.float16)
    save_file(arrays, folder / "model.safetensors")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 257}))
    return folder


@pytest.mark.slow
def test_a_folder_of_a_llama_is_converted_and_exported(tmp_path):
    (tmp_path / "texts").mkdir()
    changes = {
        "data.path": str(write_texts(tmp_path / "texts", 40)),
        "guide.origin": "file",
        "guide.weights": str(own_folder(tmp_path / "m")),
        "target.width": 0,
        "target.depth": 0,
    }
    sizes = {f"guide.{key}": base().guide[key] for key in ("width", "depth", "heads", "key_heads")}
    config = changed(base(), {**TINY, **sizes, "guide.arch": "gpt2", **changes})
    results = tj.run(config, tmp_path / "run")
    models = {model["name"]: model for model in results["models"]}
    assert models["guide"]["loss"] == pytest.approx(np.log(257), rel=1e-5)
    assert models["converted"]["loss"] < models["guide"]["loss"]
    tj.export(tmp_path / "run", tmp_path / "out")
    loaded = tj.load(tmp_path / "out")
    mixing = loaded.net.stages[1].module.mixing()
    assert (mixing.groups, mixing.size, mixing.rotary) == (2, 12, Rotary())
    net, variables = tj.restore(tmp_path / "run", model="converted")
    x = jnp.arange(20, dtype=jnp.int32)[None]
    ours, theirs = (
        tj.forward(net, v, x)[0] for net, v in ((net, variables), (loaded.net, loaded.variables))
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
