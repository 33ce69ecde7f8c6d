"""bfloat16 in stages: as if they were cast by hand, everything else float32, near to float32."""

import collections
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from settings import changed
from test_configs import build

from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.experiment import dry_run
from theseus_jax.feeds import Feed, Whole
from theseus_jax.methods import convert
from theseus_jax.nets.models.resnet import resnet
from theseus_jax.nets.models.vit import vit
from theseus_jax.nets.stage import forward, init, network
from theseus_jax.objectives import Alignment, CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase, describe
from theseus_jax.program import loss_fn, program_of
from theseus_jax.similarity import metric
from theseus_jax.train import Hooks, State, fit
from theseus_jax.trees import bit_equal

GUIDE, TARGET = tiny.guide(), tiny.target()
PAIRS = convert.auto_mapping(GUIDE, TARGET, tiny.EXAMPLE)


def low(net):
    return dataclasses.replace(net, compute="bfloat16")


def test_stages_run_as_if_their_parameters_and_inputs_were_cast_by_hand():
    net = network([("first", nn.Dense(5)), ("second", nn.Dense(3))])
    x = jax.random.normal(jax.random.key(1), (7, 4))
    variables = init(net, jax.random.key(0), x)
    y, seen, _ = forward(low(net), variables, x, capture=("first",))
    cast = lambda z: jnp.asarray(z).astype(jnp.bfloat16)  # noqa: E731
    a, b = (variables[name]["params"] for name in ("first", "second"))
    between = cast(x) @ cast(a["kernel"]) + cast(a["bias"])
    last = between @ cast(b["kernel"]) + cast(b["bias"])
    assert y.dtype == seen["first"].dtype == jnp.float32 and last.dtype == jnp.bfloat16
    np.testing.assert_array_equal(seen["first"], between.astype(jnp.float32))
    np.testing.assert_array_equal(y, last.astype(jnp.float32))
    assert not np.array_equal(y, forward(net, variables, x)[0])


NETS = {
    "gpt2": (GUIDE, tiny.EXAMPLE),
    "elman": (TARGET, tiny.EXAMPLE),
    "gated": (tiny.target(kind="linear"), tiny.EXAMPLE),
    "linear": (tiny.target(kind="linear_attention", heads=2), tiny.EXAMPLE),
    "resnet": (
        resnet(depth=18, width=4, classes=3, stem="cifar"),
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
    ),
    "vit": (
        vit(image=8, patch=4, width=8, depth=1, heads=2, hidden=16, classes=3),
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
    ),
}


def products(jaxpr, found):
    """Counts the types that matrix products and convolutions read, those in loops included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found[equation.invars[0].aval.dtype.name] += 1
        for value in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                products(inner, found)
    return found


@pytest.mark.parametrize("name", NETS)
def test_every_product_of_a_network_is_in_bfloat16(name):
    net, example = NETS[name]
    variables = jax.eval_shape(lambda: init(net, jax.random.key(0), example))
    for train in (False, True):
        run = lambda v, x: forward(low(net), v, x, train=train, key=jax.random.key(0))  # noqa: B023, E731
        traced = jax.make_jaxpr(run)(variables, example)
        found = products(traced.jaxpr, collections.Counter())
        # the sums of linear attention grow with the text and stay in float32, as its docstring says
        assert found["bfloat16"] > 0 and (name == "linear") == bool(found["float32"]), found
        y, _, statistics = jax.eval_shape(run, variables, example)
        assert {leaf.dtype for leaf in jax.tree.leaves((y, statistics))} == {jnp.dtype("float32")}


def phase(compute="bfloat16", **changes):
    terms = (
        Term("cross_entropy", 1.0, CrossEntropy()),
        Term("cka", 1.0, Alignment(PAIRS, metric("cka_debiased"))),
    )
    given = {"feed": Feed(GUIDE, Whole()), "optimizer": Optimizer(1e-2), "compute": compute}
    return Phase("train", TARGET, TARGET.names[1:], terms, 12, **{**given, **changes})


def gradient(compute):
    batch = jnp.asarray(tiny.tokens(8))
    program, variables = program_of(phase(compute)), tiny.single(TARGET)
    slope = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
    progress = jnp.int32(0), jnp.int32(1)
    given = tiny.single(GUIDE), batch, progress, jax.random.key(0)
    return jax.jit(slope, static_argnums=0)(program, variables, {}, *given)


def test_losses_and_gradients_are_float32_and_near_to_those_of_float32():
    (loss, (terms, _, _)), low_slope = gradient("bfloat16")
    (full, (full_terms, _, _)), full_slope = gradient("float32")
    both = [
        jnp.concatenate([a.ravel() for a in jax.tree.leaves(t)]) for t in (low_slope, full_slope)
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, terms, low_slope))} == {loss.dtype}
    assert loss.dtype == jnp.float32 and loss != full
    for name, value in terms.items():
        np.testing.assert_allclose(value, full_terms[name], rtol=2e-2)
    cosine = both[0] @ both[1] / jnp.linalg.norm(both[0]) / jnp.linalg.norm(both[1])
    assert 0.999 < cosine < 1


def trained(compute):
    rows = []
    state = State(0, tiny.fresh(TARGET), tiny.single(GUIDE), None, tiny.keys())
    given = {"batch": 4, "chunk_steps": 4, "hooks": Hooks(log=rows.append)}
    state = fit((phase(compute),), state, jnp.asarray(tiny.tokens()), **given)
    return state, [row["cross_entropy"] for row in rows if row["kind"] == "train"]


def test_training_keeps_parameters_and_moments_in_float32_and_what_is_frozen_as_it_is():
    (state, losses), (_, full) = trained("bfloat16"), trained("float32")
    leaves = jax.tree.leaves(state.variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    # an update is finer than bfloat16 can say
    assert any((leaf != leaf.astype(jnp.bfloat16)).any() for leaf in leaves)
    assert bit_equal(state.variables["embed"], tiny.fresh(TARGET)["embed"])
    np.testing.assert_allclose(losses, full, rtol=1e-2)
    assert losses != full and losses[-1] < losses[0]


def test_a_plan_says_what_it_computes_in():
    assert "   computes bfloat16" in describe((phase(),))
    assert "computes" not in describe((phase("float32"),))


@pytest.mark.parametrize("name", ["gpt2_to_rnn", "guide_deep_fcn", "grow_digits"])
def test_a_config_says_what_every_arm_computes_in(name):
    given = build(name, "smoke")
    plain = dry_run(given)
    text = dry_run(changed(given, {"train.compute": "bfloat16"}))
    assert "bfloat16" not in plain
    assert text.count("computes bfloat16") == plain.count("loss     ") > 3
    kept = [line for line in text.splitlines() if "computes bfloat16" not in line]
    assert kept == plain.splitlines()


def test_another_type_is_refused():
    config = changed(base("language_model", "convert"), {"train.compute": "float16"})
    with pytest.raises(UserError, match="train.compute is 'float16'; choose one of float32, bfl"):
        dry_run(config)
