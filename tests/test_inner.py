"""Activations inside stages: by submodule or by what a module sows, for any linen module, and
without cost where nobody asks.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import theseus_jax as tj
from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed, Whole
from theseus_jax.nets.masked import Masked
from theseus_jax.objectives import Alignment, Signals, Term
from theseus_jax.plan import Optimizer, Phase
from theseus_jax.similarity import metric
from theseus_jax.train import Hooks, State, fit

GUIDE, TARGET = tiny.guide(), tiny.target()
TOKENS = jnp.asarray(tiny.tokens(4)[:, :-1])


class Sowing(nn.Module):
    """Two layers with batch norm; what lies between is sown, not a submodule's output."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.relu(nn.Dense(6, name="first")(x))
        self.sow("intermediates", "middle", h * 2)
        return nn.BatchNorm(use_running_average=not train, name="norm")(
            nn.Dense(3, name="second")(h)
        )


def test_inner_activations_are_what_the_parts_return():
    variables = tiny.single(GUIDE, 5)
    y, found, _ = tj.forward(
        GUIDE,
        variables,
        TOKENS,
        capture=("block_1/attn", "block_2/mlp/c_fc", "block_1", "block_2/ln_1"),
    )
    plain, outer, _ = tj.forward(GUIDE, variables, TOKENS, capture=("block_1",))
    assert list(found) == ["block_1/attn", "block_1", "block_2/mlp/c_fc", "block_2/ln_1"]
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(found["block_1"], outer["block_1"])
    block = variables["block_2"]["params"]
    mean, var = (
        np.asarray(found["block_1"], np.float64).mean(-1, keepdims=True),
        np.asarray(found["block_1"], np.float64).var(-1, keepdims=True),
    )
    normed = (np.asarray(found["block_1"], np.float64) - mean) / np.sqrt(var + 1e-5) * block[
        "ln_1"
    ]["scale"] + block["ln_1"]["bias"]
    np.testing.assert_allclose(found["block_2/ln_1"], normed, atol=1e-5)
    assert found["block_2/mlp/c_fc"].shape == (4, tiny.CONTEXT, 4 * tiny.WIDTH)


def test_what_a_module_sows_is_captured_with_its_statistics_in_training():
    net = tj.network([("one", Sowing()), ("head", nn.Dense(2))])
    x = jax.random.normal(jax.random.key(0), (8, 5))
    variables = tj.init(net, jax.random.key(1), x)
    _, found, statistics = tj.forward(
        net, variables, x, train=True, capture=("one/middle", "one/first")
    )
    np.testing.assert_allclose(found["one/middle"], 2 * nn.relu(found["one/first"]), rtol=1e-6)
    plain = tj.forward(net, variables, x, train=True)[2]
    jax.tree.map(np.testing.assert_array_equal, statistics, plain)
    assert float(jnp.abs(statistics["one"]["norm"]["mean"]).max()) > 0
    with pytest.raises(
        UserError,
        match="a Sowing has no activation 'third' inside; it has first, middle, norm, second",
    ):
        tj.forward(net, variables, x, capture="one/third")
    with pytest.raises(UserError, match=r"stages \['two/first'\] are not among those run"):
        tj.forward(net, variables, x, capture="two/first")


def test_nothing_is_computed_for_captures_that_nobody_asks_for():
    variables = tiny.single(GUIDE, 5)
    plain = jax.jit(lambda v: tj.forward(GUIDE, v, TOKENS)[0]).lower(variables).as_text()
    asked = (
        jax.jit(lambda v: tj.forward(GUIDE, v, TOKENS, capture="block_1/attn")[0])
        .lower(variables)
        .as_text()
    )
    assert plain == asked  # captured and dropped is the same program too


def test_a_term_aligns_what_lies_inside_blocks():
    pairs = (("block_1/attn", "block_1/rnn"), ("block_2/attn", "block_2/rnn"))
    distance = Alignment(pairs, metric("cka_biased"))
    phase = Phase(
        "inner",
        TARGET,
        TARGET.names[:3],
        (Term("distance", 1.0, distance),),
        40,
        Feed(GUIDE, Whole(stop="block_2")),
        Optimizer(1e-2),
    )
    rows, guide = [], tiny.single(GUIDE, 5)
    state = State(0, tiny.fresh(TARGET), guide, None, tiny.keys())
    after = fit(
        (phase,),
        state,
        jnp.asarray(tiny.tokens()),
        batch=8,
        chunk_steps=10,
        hooks=Hooks(log=rows.append),
    ).variables
    trained = [row["distance"] for row in rows if row["kind"] == "train" and row["seed"] == 0]
    assert trained[-1] < 0.8 * trained[0]
    one = tiny.pick(after, 0)
    theirs = tj.forward(GUIDE, guide, TOKENS, capture=[g for g, _ in pairs])[1]
    ours = tj.forward(TARGET, one, TOKENS, capture=[t for _, t in pairs])[1]
    values = [
        1
        - float(
            metric("cka_biased")(
                ours[t].reshape(-1, ours[t].shape[-1]), theirs[g].reshape(-1, tiny.WIDTH)
            )
        )
        for g, t in pairs
    ]
    assert np.mean(values) < trained[0]
    wrong = dataclasses.replace(
        phase,
        terms=(
            Term(
                "distance",
                1.0,
                Alignment((("block_1/attn", "block_1/attn"),), metric("cka_biased")),
            ),
        ),
    )
    with pytest.raises(
        UserError, match="a ResidualBlock has no activation 'attn' inside; it has ln_1, .*rnn"
    ):
        fit((wrong,), state, jnp.asarray(tiny.tokens()), batch=8)


class Padded(nn.Module):
    """A stage of padded texts whose inner layer returns an array without a mask."""

    @nn.compact
    def __call__(self, x):
        self.sow(
            "intermediates",
            "twice",
            2 * x.values,
            reduce_fn=lambda _, new: new,
            init_fn=lambda: None,
        )
        return Masked(nn.Dense(4, name="inside")(x.values), x.mask)


def test_padding_does_not_count_inside_stages_either():
    net = tj.network([("stage", Padded()), ("head", nn.Dense(2))])
    values = jax.random.normal(jax.random.key(0), (6, 5, 3))
    mask = (jnp.arange(5)[None] < jnp.array([5, 3, 2, 4, 1, 5])[:, None]).astype(jnp.int32)
    variables = {"stage": Padded().init(jax.random.key(1), Masked(values, mask))}
    others = Masked(jnp.where(mask[..., None] > 0, values, 99.0), mask)
    terms = Alignment(
        (("stage/inside", "stage/inside"), ("stage/twice", "stage/twice")), metric("cka_biased")
    )

    def distance(x):
        found = tj.forward(
            net, variables, x, stop="stage", capture=("stage/inside", "stage/twice")
        )[1]
        assert isinstance(found["stage/inside"], Masked) and found["stage/twice"].values.shape == (
            6,
            5,
            3,
        )
        mixed = {name: Masked(value.values**2, value.mask) for name, value in found.items()}
        return float(terms(Signals(None, None, found, mixed)))

    assert distance(Masked(values, mask)) == pytest.approx(distance(others), abs=1e-6)
