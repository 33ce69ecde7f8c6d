"""Networks of stages: causality, step-by-step decoding, reuse, ties, partition, and every
refusal.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theseus_jax.errors import UserError
from theseus_jax.nets.decode import generate, initial_carries, state_bytes, step
from theseus_jax.nets.models.cells import CELLS, Elman, GatedLinear
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.recurrent import BLOCKS, recurrent
from theseus_jax.nets.stage import (
    Network,
    Stage,
    Tie,
    forward,
    init,
    network,
    replace,
    seams,
    variable_shapes,
)
from theseus_jax.nets.variables import merge, partition
from theseus_jax.trees import bit_equal, leaves_by_path, nested

V, D, J, T, B = 11, 8, 6, 9, 2
GPT2 = gpt2(vocabulary=V, width=D, depth=2, heads=2, positions=2 * T, expansion=2)
FITS = {"": {}, "-adapted": {"seam_width": 12, "rank": 3}}
DEPTH = {"plain": 2, "residual": 1}
RECURRENT = {
    f"{kind}-{block}{fit}": recurrent(
        vocabulary=V,
        width=D,
        depth=DEPTH[block],
        hidden=J,
        kind=kind,
        block=block,
        expansion=2,
        **FITS[fit],
    )
    for kind in CELLS
    for block in BLOCKS
    for fit in FITS
}
MIXED = {
    f"{kind}-{len(keep)}{fit}": recurrent(
        vocabulary=V,
        width=D,
        depth=2,
        kind=kind,
        heads=2,
        expansion=2,
        mixing=mixing,
        keep=keep,
        **FITS[fit],
    )
    for kind, mixing, keep in (
        ("linear_attention", {}, ()),
        ("linear_attention", {"features": "elu", "decay": False}, (2,)),
        ("window", {"window": 3, "sinks": 1}, ()),
    )
    for fit in FITS
}
NETS = {"gpt2": GPT2, **RECURRENT, **MIXED}
TOKENS = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)


@functools.lru_cache(maxsize=None)
def variables_of(net):
    """Variables far from fresh ones, so that no bias is zero and no residual branch negligible."""
    shapes = jax.eval_shape(lambda key: init(net, key, TOKENS), jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), shapes
    )


@functools.partial(jax.jit, static_argnums=0)
def both(net, variables, tokens):
    """Logits (B, T, V) of the whole sequence at once, and token by token."""
    state = initial_carries(net, tokens.shape[0], tokens.shape[1] + 3)
    logits = jax.lax.scan(lambda s, token: step(net, variables, token, s)[::-1], state, tokens.T)[1]
    return forward(net, variables, tokens)[0], jnp.swapaxes(logits, 0, 1)


@pytest.mark.parametrize("name", NETS)
def test_decoding_equals_the_forward_pass_and_no_logit_sees_a_later_token(name):
    net = NETS[name]
    variables = variables_of(net)
    logits, stepwise = (np.asarray(value) for value in both(net, variables, TOKENS))
    assert logits.shape == (B, T, V) and logits.dtype == np.float32 and logits.std() > 0.1
    np.testing.assert_allclose(stepwise, logits, rtol=0, atol=1e-4)
    for place in (T - 1, T // 2, 0):
        changed = TOKENS.copy()
        changed[:, place] = (changed[:, place] + 1) % V
        for before, after in zip((logits, stepwise), both(net, variables, changed)):
            after = np.asarray(after)
            assert after[:, :place].tobytes() == before[:, :place].tobytes()
            # the change must show, at once and at the last token: a network without memory is
            # causal too
            assert np.all(np.abs(after - before)[:, [place, -1]].max(axis=-1) > 1e-7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def random_layer(module, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, 12, D)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: module.init(key, x), jax.random.key(0))["params"]
    return x, jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def test_elman_equals_its_loop_in_float64():
    module = Elman(J)
    x, params = random_layer(module, 2)
    p = jax.tree.map(np.float64, params)
    h, out = np.zeros((B, J)), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ p["input"]["kernel"] + p["input"]["bias"] + h @ p["recurrent"])
        out.append(h)
    y = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(y, np.stack(out, axis=1), rtol=0, atol=2e-6)


def test_gated_linear_recurrence_equals_its_loop_in_float64():
    module = GatedLinear(J, taps=3)
    x, params = random_layer(module, 3)
    p = jax.tree.map(np.float64, params)
    u, r, i, g = np.split(x @ p["input"]["kernel"] + p["input"]["bias"], 4, axis=-1)
    h, out = np.zeros((B, J)), []
    for t in range(x.shape[1]):
        mixed = sum(p["taps"][2 - back] * u[:, t - back] for back in range(3) if t >= back)
        a = np.exp(-8 * np.log1p(np.exp(p["decay"])) * sigmoid(r[:, t]))
        h = a * h + np.sqrt(1 - a**2) * sigmoid(i[:, t]) * mixed
        out.append(gelu(g[:, t]) * h)
    y = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(y, np.stack(out, axis=1), rtol=0, atol=5e-6)


def test_gated_linear_recurrence_in_bfloat16_keeps_its_memory():
    """In bfloat16 itself every decay above 0.996 is 1 and a state of 256 terms of 1 stops
    growing.
    """
    module = GatedLinear(3, taps=1)
    x = jax.random.normal(jax.random.key(0), (1, 600, 4))
    # a = 1 - 5e-4 where r = 0
    params = module.init(jax.random.key(1), x)["params"] | {"decay": jnp.full((3,), -9.0)}
    exact = module.apply({"params": params}, x)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
    y = module.apply({"params": rounded[0]}, rounded[1])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), exact, atol=0.03 * float(jnp.abs(exact).max()))
    carry, steps = module.initial_carry(1), []
    for t in range(5):
        step, carry = module.apply({"params": rounded[0]}, rounded[1][:, t], carry, method="step")
        steps.append(step)
    assert carry["state"].dtype == jnp.float32 and steps[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(jnp.stack(steps, 1)), exact[:, :5], atol=0.03 * float(jnp.abs(exact).max())
    )


def test_gated_linear_starts_with_long_memory():
    x = jnp.zeros((1, 1, 1))
    decay = jax.jit(lambda key: GatedLinear(2000).init(key, x)["params"]["decay"])(
        jax.random.key(0)
    )
    a = np.exp(-np.log1p(np.exp(np.float64(decay))))
    assert 0.9 - 1e-6 < a.min() < 0.901 and 0.998 < a.max() < 0.999 + 1e-6
    assert abs(a.mean() - 0.9495) < 5 * 0.099 / 12**0.5 / 2000**0.5


SHALLOW = gpt2(vocabulary=V, width=D, depth=1, heads=2, positions=2 * T, expansion=2)


def continued(**changes):
    given = {"key": jax.random.key(5), "length": 6, "temperature": 1.0} | changes
    return np.asarray(
        generate(SHALLOW, variables_of(SHALLOW), TOKENS[:, :3], given.pop("key"), **given)
    )


def test_generation_depends_on_the_key_alone_and_not_on_the_size_of_the_state():
    tokens = continued(length=12)
    assert (
        tokens.shape == (B, 12)
        and tokens.dtype == np.int32
        and 0 <= tokens.min() <= tokens.max() < V
    )
    assert bit_equal(tokens, continued(length=12))
    assert not np.array_equal(tokens, continued(length=12, key=jax.random.key(6)))
    assert np.array_equal(tokens[:, :6], continued(length=6))


def test_cold_generation_takes_the_largest_logit_of_the_forward_pass():
    padded = np.zeros((B, T), np.int32)
    padded[:, :3] = TOKENS[:, :3]
    for t in range(3, T):
        padded[:, t] = np.argmax(both(SHALLOW, variables_of(SHALLOW), padded)[0][:, t - 1], axis=-1)
    assert np.array_equal(continued(temperature=1e-4), padded[:, 3:])


def test_generation_samples_the_softmax_of_the_logits_over_the_temperature():
    net = network([("embed", nn.Embed(4, 4))])
    table = np.float32([[0.0, 1.0, 2.0, 3.0]] * 4)
    drawn = generate(
        net,
        {"embed": {"params": {"embedding": table}}},
        jnp.zeros((20000, 1), jnp.int32),
        jax.random.key(1),
        length=1,
        temperature=2.0,
    )
    p = np.exp(table[0] / 2.0) / np.exp(table[0] / 2.0).sum()
    error = np.bincount(np.asarray(drawn)[:, 0], minlength=4) / 20000 - p
    assert np.all(np.abs(error) < 5 * np.sqrt(p * (1 - p) / 20000))


def test_state_bytes_grow_with_the_context_of_attention_alone():
    for context in (1, 100, 1_000_000):
        # keys and values of two blocks, and a counter in each block and in the embedding
        assert state_bytes(GPT2, context) == 2 * 2 * context * D * 4 + 3 * 4
    floats = {"elman": 1, "gru": 1, "lstm": 2, "linear": 4}
    for name, net in RECURRENT.items():
        kind, block = name.split("-")[:2]
        wanted = DEPTH[block] * J * floats[kind] * 4 + 4
        assert state_bytes(net, 1) == state_bytes(net, 1_000_000) == wanted


class Scale(nn.Module):
    """A user's stage without `train`."""

    factor: float

    @nn.compact
    def __call__(self, x):
        return nn.Dense(D)(x) * self.factor


class Noisy(nn.Module):
    """A user's stage that must be told `train`, with running statistics and dropout."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(D)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


@functools.lru_cache(maxsize=None)
def own():
    net = network(
        [("first", Scale(2.0)), ("second", Noisy()), ("third", Noisy()), ("head", nn.Dense(3))]
    )
    x = np.random.default_rng(4).normal(size=(16, D)).astype(np.float32)
    return net, init(net, jax.random.key(0), x), x


def test_own_modules_are_stages_with_statistics_and_dropout():
    net, variables, x = own()
    assert [sorted(variables[name]) for name in net.names] == [
        ["params"],
        ["batch_stats", "params"],
        ["batch_stats", "params"],
        ["params"],
    ]
    key = jax.random.key(7)
    y, captured, statistics = forward(
        net, variables, x, train=True, key=key, capture=("first", "second")
    )
    assert sorted(statistics) == ["second", "third"] and sorted(captured) == ["first", "second"]
    dense = variables["second"]["params"]["Dense_0"]
    mean = np.mean(
        np.asarray(captured["first"]) @ np.asarray(dense["kernel"]) + dense["bias"], axis=0
    )
    np.testing.assert_allclose(
        statistics["second"]["BatchNorm_0"]["mean"], 0.1 * mean, rtol=0, atol=1e-6
    )
    dropped = np.asarray(captured["second"]) == 0
    assert 0.3 < dropped.mean() < 0.7
    third = forward(
        net, variables, captured["second"], start="third", stop="third", train=True, key=key
    )[0]
    assert not np.array_equal(dropped, np.asarray(third) == 0), (
        "each stage must draw its own dropout"
    )
    assert bit_equal(y, forward(net, variables, x, train=True, key=key)[0])
    assert not bit_equal(y, forward(net, variables, x, train=True, key=jax.random.key(8))[0])


def test_evaluation_neither_drops_nor_moves_the_statistics():
    net, variables, x = own()
    y, _, statistics = forward(net, variables, x, key=jax.random.key(1))
    assert bit_equal(y, forward(net, variables, x)[0])
    assert bit_equal(
        statistics, {name: variables[name]["batch_stats"] for name in ("second", "third")}
    )
    moved = merge(
        variables, {"second": {"batch_stats": {"BatchNorm_0": {"mean": jnp.full(D, 2.0)}}}}
    )
    assert not np.allclose(forward(net, moved, x)[0], y, atol=1e-3)


def test_own_modules_decode_token_by_token():
    net = network([("embed", nn.Embed(V, D)), ("noisy", Noisy()), ("head", nn.Dense(V))])
    scaled = {"noisy": {"batch_stats": {"BatchNorm_0": {"var": jnp.ones(D)}}}}
    logits, stepwise = both(net, merge(variables_of(net), scaled), TOKENS)
    assert np.isfinite(logits).all() and np.std(logits) > 0.1
    np.testing.assert_allclose(stepwise, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_parts_of_a_forward_pass_compose_to_the_whole(train):
    net, variables, x = own()
    run = functools.partial(forward, net, variables, train=train, key=jax.random.key(3))
    y, captured, _ = run(x, capture=net.names)
    assert list(captured) == list(net.names) and bit_equal(captured["head"], y)
    for before, after in zip(net.names, net.names[1:]):
        cut, inside, _ = run(x, stop=before, capture=(before,))
        assert bit_equal(cut, captured[before]) and bit_equal(inside, {before: cut})
        assert bit_equal(run(cut, start=after)[0], y)
    # a stage outside start..stop is never touched: its variables may be absent
    assert bit_equal(
        forward(net, {"first": variables["first"]}, x, stop="first")[0], captured["first"]
    )


def test_init_gives_a_stage_the_same_numbers_in_every_network():
    net, variables, x = own()
    other = network([("first", Scale(1.0)), ("between", nn.Dense(D)), ("head", nn.Dense(3))])
    alone = init(other, jax.random.key(0), x)
    for name in ("first", "head"):
        assert bit_equal(alone[name], variables[name])
    kernels = [variables[name]["params"]["Dense_0"]["kernel"] for name in ("second", "third")]
    assert not np.array_equal(*kernels), "equal modules under two names must differ"
    assert not bit_equal(init(net, jax.random.key(1), x)["first"], variables["first"])
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    assert bit_equal(init(net, jax.random.key(0), shape), variables)


def test_seams_are_the_shapes_of_the_captured_outputs():
    for name in ("gpt2", "lstm-plain-adapted"):
        net = NETS[name]
        captured = jax.eval_shape(
            lambda v: forward(net, v, TOKENS, capture=net.names)[1], variables_of(net)
        )
        assert seams(net, TOKENS) == captured
        assert jax.eval_shape(
            lambda v: forward(net, v, TOKENS, capture="block_1")[1], variables_of(net)
        ) == {"block_1": captured["block_1"]}


def test_variable_shapes_are_those_of_init_without_tied_parameters():
    own_net, _, x = own()
    for net, given in ((GPT2, TOKENS), (NETS["lstm-plain-adapted"], TOKENS), (own_net, x)):
        made = jax.eval_shape(
            lambda key, net=net, given=given: init(net, key, given), jax.random.key(0)
        )
        assert variable_shapes(net, given) == made
    assert "kernel" not in variable_shapes(GPT2, TOKENS)["head"].get("params", {})


def test_shapes_that_are_asked_for_again_are_neither_stale_nor_shared():
    net = network([("first", nn.Dense(D)), ("second", nn.Dense(D))])
    wide, narrow = (jax.ShapeDtypeStruct((B, width), jnp.float32) for width in (5, 3))
    assert variable_shapes(net, wide)["first"]["params"]["kernel"].shape == (5, D)
    variable_shapes(GPT2, TOKENS)["block_1"]["params"]["mlp"].clear()
    seams(net, wide).clear()
    assert variable_shapes(GPT2, TOKENS)["block_1"]["params"]["mlp"]
    assert variable_shapes(net, wide)["first"]["params"]["kernel"].shape == (5, D)
    assert variable_shapes(net, narrow)["first"]["params"]["kernel"].shape == (3, D)
    assert list(seams(net, narrow)) == ["first", "second"]
    double = jax.ShapeDtypeStruct((B, 5), jnp.float64)
    with jax.enable_x64(True):
        assert seams(net, double)["second"].dtype == jnp.float64
    assert seams(net, double)["second"].dtype == jnp.float32


def test_replace_reuses_the_variables_of_the_other_stages():
    net, variables, x = own()
    fresh = replace(net, "second", [Stage("a", nn.Dense(5)), Stage("b", nn.Dense(D))])
    assert fresh.names == ("first", "a", "b", "third", "head")
    assert net.names == ("first", "second", "third", "head")
    kept = {name: variables[name] for name in ("first", "third", "head")}
    mixed = {**init(fresh, jax.random.key(9), x), **kept}
    y, captured, _ = forward(fresh, mixed, x, capture=("first", "b"))
    assert bit_equal(captured["first"], forward(net, variables, x, stop="first")[0])
    assert bit_equal(y, forward(net, variables, captured["b"], start="third")[0])


def test_replace_keeps_ties_between_the_stages_that_stay():
    block = Stage("block_1", nn.Dense(D))
    assert replace(GPT2, "block_1", [block]).ties == GPT2.ties
    assert replace(GPT2, "head", [Stage("head", nn.Dense(V))]).ties == ()
    assert replace(GPT2, "embed", [Stage("table", nn.Embed(V, D))]).ties == ()


def test_tied_parameters_get_the_gradients_of_both_uses():
    embed, head = GPT2.stages[0], GPT2.stages[-1]
    net = Network(
        (embed, Stage("norm", nn.LayerNorm()), head), (Tie("head", "kernel", "embed", "tokens"),)
    )
    variables = variables_of(net)
    assert "head/params/kernel" not in leaves_by_path(variables)
    untied = merge(
        variables, {"head": {"params": {"kernel": variables["embed"]["params"]["tokens"]}}}
    )

    def loss(either, v):
        return jnp.mean(jnp.sin(forward(either, v, TOKENS)[0]))

    both_ways = jax.jit(jax.value_and_grad(loss, 1), static_argnums=0)
    value, together = both_ways(net, variables)
    same, apart = both_ways(Network(net.stages), untied)
    table, kernel = apart["embed"]["params"]["tokens"], apart["head"]["params"]["kernel"]
    assert min(np.abs(table).max(), np.abs(kernel).max()) > 1e-4
    np.testing.assert_allclose(
        together["embed"]["params"]["tokens"], table + kernel, rtol=0, atol=1e-7
    )
    np.testing.assert_allclose(value, same, rtol=0, atol=1e-7)


def test_partition_and_merge_are_inverse():
    _, variables, _ = own()
    nested_parts = ["second", "second/Dense_0"]
    for parts in (["first"], ["second/Dense_0", "head/bias"], list(variables), [], nested_parts):
        chosen, rest = partition(variables, parts)
        inside, outside = leaves_by_path(chosen), leaves_by_path(rest)
        assert not inside.keys() & outside.keys()
        parameters = [path for path in leaves_by_path(variables) if "/params/" in path]
        names = {path: path.replace("/params/", "/") + "/" for path in parameters}
        wanted = {
            path for path in names if any(names[path].startswith(f"{part}/") for part in parts)
        }
        assert set(inside) == wanted
        assert bit_equal(merge(rest, chosen), variables) and bit_equal(
            merge(chosen, rest), variables
        )
    tenth = {
        name: {"params": {"w": np.ones(1), "w2": np.ones(1)}} for name in ("block_1", "block_10")
    }
    assert list(partition(tenth, ["block_1"])[0]) == ["block_1"]
    assert list(leaves_by_path(partition(tenth, ["block_1/w"])[0])) == ["block_1/params/w"]
    gpt = variables_of(GPT2)
    assert bit_equal(merge(*partition(gpt, ["block_1/attn", "block_2/mlp/c_fc/bias", "head"])), gpt)


def test_partition_refuses_a_part_that_is_not_there():
    _, variables, _ = own()
    for part in ("fourth", "second/Dense_1", "second/Dense", "sec", "second/BatchNorm_0/mean"):
        with pytest.raises(
            UserError, match=f"no parameter is named by {part}; the stages are first, second"
        ):
            partition(variables, ["first", part])
    with pytest.raises(UserError, match="first/nonsense"):
        partition(variables, ["first", "first/nonsense"])


def test_merge_prefers_the_second_and_leaves_its_arguments_alone():
    a, b = {"x": {"p": 1, "q": 2}, "y": 3}, {"x": {"q": 4, "r": 5}, "z": {"s": 6}}
    assert merge(a, b) == {"x": {"p": 1, "q": 4, "r": 5}, "y": 3, "z": {"s": 6}}
    assert a == {"x": {"p": 1, "q": 2}, "y": 3} and b == {"x": {"q": 4, "r": 5}, "z": {"s": 6}}
    assert merge(nested({"a/b": 1}), nested({"a/c": 2})) == {"a": {"b": 1, "c": 2}}


def test_equal_networks_share_one_trace():
    sizes = dict(vocabulary=5, width=4, depth=1, hidden=3, kind="elman", seam_width=6, rank=2)
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(net, variables, tokens):
        traced.append(net)
        return forward(net, variables, tokens)[0]

    net, again, other = recurrent(**sizes), recurrent(**sizes), recurrent(**sizes | {"rank": 1})
    assert net == again and hash(net) == hash(again) and net is not again and net != other
    tokens = TOKENS[:, :2] % 5
    for each in (net, again, net, other):
        run(each, variables_of(each), tokens)
    assert len(traced) == 2


def gpt(**changes):
    return gpt2(**{"vocabulary": V, "width": D, "depth": 1, "heads": 2, "positions": 4} | changes)


def rnn(**changes):
    return recurrent(**{"vocabulary": V, "width": D, "depth": 1, "hidden": J} | changes)


@pytest.mark.parametrize(
    "mistake, message",
    [
        (
            lambda: network([("a", nn.Dense(1)), ("b", nn.Dense(2)), ("a", nn.Dense(1))]),
            r"doubled: \['a'\]; ",
        ),
        (lambda: network([]), "needs at least one stage"),
        (lambda: network([("a", nn.Dense)]), "stage 'a' is a type, not a flax.linen module"),
        (
            lambda: network([("a", nn.Dense(1))], [Tie("a", "kernel", "b", "kernel")]),
            "no stage 'b'; .* has a",
        ),
        (
            lambda: network([("a", nn.LayerNorm(reduction_axes=np.arange(2)))]),
            "stage 'a', a LayerNorm, cannot be .* since reduction_axes cannot be hashed; give tup",
        ),
        (
            lambda: variable_shapes(
                network(
                    [("a", nn.Dense(1)), ("b", nn.Dense(1))], [Tie("b", "weight", "a", "kernel")]
                ),
                np.ones((1, 1)),
            ),
            "stage 'b' has no parameter 'weight' to tie; it has bias, kernel",
        ),
        (
            lambda: replace(GPT2, "block_3", []),
            "no stage 'block_3'; the network has embed, block_1",
        ),
        (lambda: replace(GPT2, "block_1", [Stage("norm", nn.Dense(D))]), r"doubled: \['norm'\]"),
        (lambda: forward(GPT2, {}, TOKENS, start="body"), "no stage 'body'"),
        (lambda: forward(GPT2, {}, TOKENS, stop="body"), "no stage 'body'"),
        (lambda: forward(GPT2, {}, TOKENS, start="norm", stop="embed"), "are not among those run"),
        (
            lambda: forward(GPT2, {}, TOKENS, stop="embed", capture=("norm",)),
            r"\['norm'\] are not among",
        ),
        (lambda: gpt(heads=3), "width of 8 is not a multiple of 3 heads; change"),
        (lambda: seams(gpt(), TOKENS), "9 tokens are more than the 4 learned positions; shorten"),
        (
            lambda: generate(GPT2, variables_of(GPT2), TOKENS, jax.random.key(0), length=T + 1),
            "19 tokens are more than the 18 learned positions",
        ),
        (
            lambda: rnn(kind="vanilla"),
            "no recurrent cell 'vanilla'; choose one of elman, gru, lstm, linear",
        ),
        (lambda: rnn(block="dense"), "no block 'dense'; choose one of plain, residual"),
        (lambda: rnn(seam_width=12), "adapter rank of 0 is not in 1..8; set target.adapter_rank"),
        (
            lambda: rnn(seam_width=12, rank=9),
            "guide width 12 and target width 8 differ, .* rank of 9 ",
        ),
        (lambda: rnn(seam_width=5, rank=6), r"not in 1..5"),
    ],
)
def test_mistakes_are_refused_in_one_line(mistake, message):
    with pytest.raises(UserError, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_positions_and_ranks_may_be_used_up_to_their_bound():
    assert seams(gpt(), TOKENS[:, :4])["head"].shape == (B, 4, V)
    full = functools.partial(generate, GPT2, variables_of(GPT2), TOKENS, length=T)
    assert jax.eval_shape(full, jax.random.key(0)).shape == (B, T)
    for seam_width, rank in ((12, 8), (5, 5)):
        shapes = seams(rnn(seam_width=seam_width, rank=rank), TOKENS)
        assert shapes["embed"].shape == shapes["block_1"].shape == (B, T, seam_width)
