"""Mixers that inherit: linear attention's three forms against a loop in float64, windows of
attention against their definition, and what a guide sets in both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from mixing import drawn, stepwise

from theseus_jax.errors import UserError
from theseus_jax.methods.begin import Scored, inherited
from theseus_jax.methods.lookback import LookBack, looked_back
from theseus_jax.methods.surgery import Inherit
from theseus_jax.nets import decode
from theseus_jax.nets.blocks.taps import tapped
from theseus_jax.nets.models.attention import Attention
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.linear_attention import (
    FEATURES,
    LinearAttention,
    Streams,
    chunked,
    forgetting,
    parallel,
)
from theseus_jax.nets.models.recurrent import recurrent
from theseus_jax.nets.stage import forward, init
from theseus_jax.tasks.held import HeldWindows
from theseus_jax.train import State, inputs_of
from theseus_jax.trees import bit_equal

D, H, T, B = 12, 3, 23, 2
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
MIXERS = [(f, d) for f in FEATURES for d in (True, False)]


@functools.lru_cache(maxsize=None)
def mixer(features="hedgehog", decay=True, chunk=64):
    return LinearAttention(D, H, features=features, decay=decay, chunk=chunk)


@functools.lru_cache(maxsize=None)
def variables_of(module):
    return drawn(module, X)


def by_hand(module, variables, x):
    """y_t from its definition, one token and one head at a time, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x, size = np.asarray(x, np.float64), D // H
    z = x @ p["c_attn"]["kernel"] + p["c_attn"]["bias"]
    near = np.zeros_like(z)
    for t in range(z.shape[1]):
        for k in range(4):
            if t - 3 + k >= 0:
                near[:, t] += p["taps"][k] * z[:, t - 3 + k]

    def features(v, matrix):
        if module.features == "elu":
            return np.where(v > 0, v, np.expm1(v)) + 1
        u = v @ matrix
        up, down = np.exp(u), np.exp(-u)
        return np.concatenate([up / up.sum(), down / down.sum()])

    out = np.zeros(x.shape)
    for b in range(len(x)):
        for h in range(H):
            q, k, v = (near[b][:, i * D + h * size : i * D + (h + 1) * size] for i in range(3))
            maps = [
                p[name][h] if module.features == "hedgehog" else None
                for name in ("query_map", "key_map")
            ]
            q = [features(row, maps[0]) for row in q]
            k = [features(row, maps[1]) for row in k]
            kept = np.ones(x.shape[1])
            if module.decay:
                b_h = x[b] @ p["forget"]["kernel"][:, h] + p["forget"]["bias"][h]
                kept = 1 / (1 + np.exp(b_h))
            for t in range(x.shape[1]):
                weights = [q[t] @ k[s] * np.prod(kept[s + 1 : t + 1]) for s in range(t + 1)]
                out[b, t, h * size : (h + 1) * size] = (
                    np.asarray(weights) @ v[: t + 1] / np.sum(weights)
                )
    return out @ p["c_proj"]["kernel"] + p["c_proj"]["bias"]


@pytest.mark.parametrize("features, decay", MIXERS)
def test_every_form_is_the_definition_in_float64(features, decay):
    variables = variables_of(mixer(features, decay))
    wanted = by_hand(mixer(features, decay), variables, X)
    assert np.abs(wanted).max() > 0.5
    for chunk in (64, T, 8, 5, 1):  # one chunk; parts of T, a rest, and none
        y = jax.jit(mixer(features, decay, chunk).apply)(variables, X)
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
    y = jax.jit(functools.partial(stepwise, mixer(features, decay)))(variables, jnp.asarray(X))
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("features, decay", MIXERS)
def test_gradients_of_every_form_are_the_same(features, decay):
    variables, pull = (
        variables_of(mixer(features, decay)),
        np.random.default_rng(2).normal(size=X.shape),
    )

    def slopes(run):
        loss = lambda v, x: (run(v, x) * pull).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, jnp.asarray(X))

    ones = slopes(mixer(features, decay).apply)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(ones))
    for run in (
        mixer(features, decay, 8).apply,
        functools.partial(stepwise, mixer(features, decay)),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale),
            ones,
            slopes(run),
        )


@pytest.mark.parametrize("chunk", [64, 8])
def test_no_output_sees_a_later_token_bit_for_bit(chunk):
    module = mixer(chunk=chunk)
    run = jax.jit(module.apply)
    y, changed = run(variables_of(module), X), X.copy()
    changed[:, 11] += 3.0
    z = run(variables_of(module), changed)
    np.testing.assert_array_equal(y[:, :11], z[:, :11])
    assert (np.abs(y[:, 11:] - z[:, 11:]).max(axis=(0, 2)) > 0).all()


def test_a_past_that_is_far_too_strong_stays_finite():
    """Lags above the diagonal are positive: their exp overflows unless it is masked before."""
    streams = Streams(*[jnp.ones((1, 1, 200, n)) for n in (2, 2, 3)], jnp.full((1, 1, 200), -5.0))
    for run in (parallel, functools.partial(chunked, size=64)):
        slope = jax.grad(lambda s, run=run: run(s).sum())(streams)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in (run(streams), *slope))


def test_a_heads_decay_looks_back_as_far_as_it_says():
    distance = np.asarray([0.5, 3.0, 40.0])
    a = 1 / (1 + np.exp(np.asarray(forgetting(jnp.asarray(distance)), np.float64)))
    lags = np.arange(20000)
    weights = a[:, None] ** lags
    np.testing.assert_allclose((weights * lags).sum(1) / weights.sum(1), distance, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_slope_of_taps_is_that_of_their_definition(count):
    rng = np.random.default_rng(5)
    z, pull = rng.normal(size=(2, 6 + count - 1, 3)), rng.normal(size=(2, 6, 3))
    taps = rng.normal(size=(count, 3))
    y = np.zeros((2, 6, 3))
    for_z, for_taps = np.zeros(z.shape), np.zeros(taps.shape)
    for t in range(6):
        for k in range(count):
            y[:, t] += taps[k] * z[:, t + k]
            for_z[:, t + k] += taps[k] * pull[:, t]
            for_taps[k] += (z[:, t + k] * pull[:, t]).sum(0)
    given = [jnp.asarray(array, jnp.float32) for array in (z, taps)]
    np.testing.assert_allclose(tapped(*given), y, rtol=0, atol=1e-5)
    slopes = jax.grad(lambda z, taps: (tapped(z, taps) * pull).sum(), argnums=(0, 1))(*given)
    np.testing.assert_allclose(slopes[0], for_z, rtol=0, atol=1e-5)
    np.testing.assert_allclose(slopes[1], for_taps, rtol=0, atol=1e-5)


def test_a_fresh_one_has_taps_that_do_nothing_and_heads_that_look_back_differently():
    fresh = mixer().init(jax.random.key(0), X)["params"]
    np.testing.assert_array_equal(fresh["taps"], np.eye(4)[-1][:, None] * np.ones(3 * D))
    back = np.exp(-np.asarray(fresh["forget"]["bias"], np.float64))
    np.testing.assert_allclose(back, [1.0, 8.0, 64.0], rtol=1e-5)


@pytest.mark.parametrize("window, sinks", [(5, 0), (4, 2), (1, 1), (T, 0), (60, 3)])
def test_a_window_reads_the_nearest_tokens_and_the_first(window, sinks):
    cut, whole = Attention(D, H, window=window, sinks=sinks), Attention(D, H)
    variables = variables_of(whole)
    y = cut.apply(variables, X)
    z = np.asarray(X, np.float64) @ np.asarray(variables["params"]["c_attn"]["kernel"], np.float64)
    z += np.asarray(variables["params"]["c_attn"]["bias"], np.float64)
    q, k, v = (z.reshape(B, T, 3, H, D // H)[:, :, i] for i in range(3))
    out = np.zeros((B, T, H, D // H))
    for t in range(T):
        seen = [s for s in range(t + 1) if t - s < window or s < sinks]
        scores = np.einsum("bhd,bshd->bhs", q[:, t], k[:, seen]) / (D // H) ** 0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, t] = np.einsum("bhs,bshd->bhd", weights, v[:, seen])
    wanted = out.reshape(B, T, D) @ np.asarray(variables["params"]["c_proj"]["kernel"], np.float64)
    wanted += np.asarray(variables["params"]["c_proj"]["bias"], np.float64)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(stepwise(cut, variables, jnp.asarray(X)), wanted, rtol=0, atol=1e-5)
    assert cut.initial_carry(1, T)["keys"].shape[1] == min(T, window + sinks)
    if window >= T:
        np.testing.assert_allclose(y, whole.apply(variables, X), rtol=0, atol=1e-6)


GUIDE = tiny.guide()
TARGET = tiny.target(kind="linear_attention", heads=2)
PAIRS = (
    ("embed", "embed"),
    ("block_1", "block_1"),
    ("block_2", "block_2"),
    ("norm", "norm"),
    ("head", "head"),
)
PARTS = (*tiny.INHERIT, "attn")


def begun(*edits, net=TARGET):
    state = State(0, tiny.fresh(net), tiny.single(GUIDE, 5), None, tiny.keys())
    for edit in edits:
        state = edit(state, inputs_of(tiny.Stands(net), 0, jnp.asarray(tiny.tokens()), tiny.keys()))
    return state


def test_an_attention_is_inherited_and_at_the_first_token_nothing_else_counts():
    """Of one token every attention returns its value: the target is the guide without positions."""
    state = begun(Inherit(GUIDE, PAIRS, PARTS))
    for name in ("c_attn", "c_proj"):
        theirs = state.guide_variables["block_2"]["params"]["attn"][name]
        ours = state.variables["block_2"]["params"]["attn"][name]
        assert bit_equal(jax.tree.map(lambda leaf: leaf[1], ours), theirs)
    blind = dict(state.guide_variables)
    blind["embed"] = {
        "params": {k: v * (k == "tokens") for k, v in blind["embed"]["params"].items()}
    }
    x = jnp.asarray(tiny.tokens()[:, :5])
    ours = tiny.apply(TARGET, tiny.pick(state.variables, 0), x)
    theirs = tiny.apply(GUIDE, blind, x)
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=0, atol=1e-5)
    assert np.abs(ours[:, 1:] - theirs[:, 1:]).max() > 1e-4


def test_heads_look_back_as_far_as_the_guides_do():
    variables = jax.tree.map(lambda leaf: 4.0 * leaf, tiny.single(GUIDE, 5))
    x = jnp.asarray(tiny.tokens()[:6, :-1])
    found = looked_back(GUIDE, variables, x, ("block_1", "block_2"))
    h = forward(GUIDE, variables, x, stop="embed")[0]
    for number in (1, 2):
        p = variables[f"block_{number}"]["params"]
        seen = np.asarray(h, np.float64)
        seen = (seen - seen.mean(-1, keepdims=True)) / np.sqrt(seen.var(-1, keepdims=True) + 1e-5)
        seen = seen * np.asarray(p["ln_1"]["scale"]) + np.asarray(p["ln_1"]["bias"])
        z = seen @ np.asarray(p["attn"]["c_attn"]["kernel"]) + np.asarray(
            p["attn"]["c_attn"]["bias"]
        )
        distances = np.zeros((2,))
        for n in range(len(x)):
            for head in range(2):
                q, k = (z[n][:, i * 16 + head * 8 : i * 16 + head * 8 + 8] for i in range(2))
                for t in range(x.shape[1]):
                    w = np.exp(q[t] @ k[: t + 1].T / 8**0.5)
                    distances[head] += (w / w.sum()) @ (t - np.arange(t + 1))
        np.testing.assert_allclose(found[f"block_{number}"], distances / x.size, rtol=1e-4)
        h = forward(GUIDE, variables, h, start=f"block_{number}", stop=f"block_{number}")[0]
    state = begun(LookBack(GUIDE, PAIRS, windows=24))
    wanted = looked_back(
        GUIDE, state.guide_variables, jnp.asarray(tiny.tokens()[:, :-1]), ("block_2",)
    )
    bias = state.variables["block_2"]["params"]["attn"]["forget"]["bias"]
    assert bias.shape == (tiny.SEEDS, 2)
    np.testing.assert_allclose(np.exp(-bias), np.stack([wanted["block_2"]] * 2), rtol=1e-3)


@pytest.mark.parametrize(
    "net, word",
    [
        (
            tiny.target(),
            "set convert.decays to 'fresh', or target.cell to 'linear_attention' and target.decay",
        ),
        (
            tiny.target(kind="linear_attention", heads=4),
            "the target's block_1 has 4 heads and the guide's block_1 2",
        ),
    ],
)
def test_decays_that_cannot_be_measured_are_refused(net, word):
    with pytest.raises(UserError, match=word):
        LookBack(GUIDE, PAIRS).check(net, tiny.fresh(net), tiny.single(GUIDE, 5))


def test_a_block_that_is_kept_has_the_guides_attention_and_its_state_grows():
    net = tiny.target(kind="linear_attention", heads=2, keep=(2,))
    settings = tiny.settings(inherit=tiny.INHERIT, keep=("block_2/attn",))
    state = begun(*inherited(GUIDE, PAIRS, settings), net=net)
    kept = tiny.pick(state.variables, 1)["block_2"]["params"]["attn"]
    assert bit_equal(kept, state.guide_variables["block_2"]["params"]["attn"])
    assert not bit_equal(
        tiny.pick(state.variables, 1)["block_1"]["params"]["attn"]["c_attn"],
        state.guide_variables["block_1"]["params"]["attn"]["c_attn"],
    )
    per_token = 2 * 16 * 4
    grown = decode.state_bytes(net, 100) - decode.state_bytes(net, 60)
    assert grown == 40 * per_token
    assert decode.state_bytes(TARGET, 100) == decode.state_bytes(TARGET, 60)
    # in a target of cells too
    mixed = tiny.target(kind="linear", block="residual", keep=(1,))
    assert "c_attn" in tiny.fresh(mixed)["block_1"]["params"]["attn"]


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"kind": "linear_attention", "block": "plain"}, "a plain block is a cell alone"),
        ({"kind": "elman", "block": "plain", "keep": (1,)}, "cannot hold attention"),
        ({"keep": (3,)}, "there is no block_3 to keep; the target has 2 blocks"),
        ({"kind": "linear_attention", "heads": 3}, "a width of 16 is not a multiple of 3 heads"),
        (
            {"kind": "linear_attention", "heads": 2, "mixing": {"features": "relu"}},
            "no features 'relu'",
        ),
        ({"kind": "linear_attention", "heads": 2, "expansion": 0}, "expansion"),
        (
            {"kind": "delta"},
            "no recurrent cell 'delta'; choose one of elman, .*, or a mixer, linear_attention",
        ),
    ],
)
def test_targets_that_cannot_be_are_refused(changes, word):
    with pytest.raises(UserError, match=word):
        tiny.target(**changes)


def test_every_edit_before_training_is_scored():
    held = HeldWindows(tiny.tokens(6, seed=9), np.ones((6, tiny.CONTEXT), bool))
    settings = tiny.settings(inherit=PARTS, decays="measured")
    edits = inherited(GUIDE, PAIRS, settings, held)
    assert [type(edit) for edit in edits] == [Scored, Scored]

    state = begun()
    for edit in edits:
        given = inputs_of(tiny.Stands(TARGET), 0, jnp.asarray(tiny.tokens()), tiny.keys())
        after = edit(state, given)
        rows = edit.told(state, after, given)
        assert [row["seed"] for row in rows] == [0, 1]
        losses = held.scores(TARGET, after.variables)["loss"]
        np.testing.assert_allclose([row["validation_loss"] for row in rows], losses)
        assert rows[0]["edit"] == str(edit)
        state = after


def test_text_of_any_length_is_read():
    net = recurrent(vocabulary=17, width=16, depth=1, kind="linear_attention", heads=2)
    variables = init(net, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    x = np.random.default_rng(3).integers(0, 17, (1, 301)).astype(np.int32)
    y = forward(net, variables, x)[0]
    assert y.shape == (1, 301, 17) and bool(jnp.isfinite(y).all())
    np.testing.assert_allclose(forward(net, variables, x[:, :90])[0], y[:, :90], rtol=0, atol=1e-5)


def test_a_windowed_gpt2_has_the_same_variables():
    sizes = {"vocabulary": 17, "width": 16, "depth": 2, "heads": 2, "positions": 8}
    whole, cut = gpt2(**sizes), gpt2(**sizes, window=3, sinks=1)
    assert jax.tree.structure(tiny.shapes(whole)) == jax.tree.structure(tiny.shapes(cut))
    x = jnp.asarray(tiny.tokens()[:, :-1])
    variables = tiny.single(whole, 5)
    a, b = tiny.apply(whole, variables, x), tiny.apply(cut, variables, x)
    np.testing.assert_allclose(a[:, :4], b[:, :4], rtol=0, atol=1e-6)
    assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-5
