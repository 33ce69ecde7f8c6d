"""Conversion: plans as data, surgery against NumPy, and every schedule trained for a few steps."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from theseus_jax.errors import UserError
from theseus_jax.feeds import Segments, Whole
from theseus_jax.methods import baselines, convert
from theseus_jax.methods.probes import StageProbe
from theseus_jax.methods.stitch import Stitch, fit_stitch, hybrid, hybrid_module_variables, ridge
from theseus_jax.methods.surgery import Fold, Inherit
from theseus_jax.nets.blocks.bridge import Bridge
from theseus_jax.nets.stage import network
from theseus_jax.plan import describe
from theseus_jax.similarity import metric
from theseus_jax.tasks.held import HeldWindows
from theseus_jax.train import Hooks, State, fit, inputs_of
from theseus_jax.trees import bit_equal

GUIDE, TARGET = tiny.guide(), tiny.target()
MAPPING = (("block_1", "block_1"), ("norm", "norm"))
HELD = HeldWindows(tiny.tokens(6, seed=9), np.ones((6, tiny.CONTEXT), bool))


def plan(**changes):
    return convert.plan(
        GUIDE,
        TARGET,
        MAPPING,
        tiny.settings(**changes),
        shapes=tiny.shapes(TARGET),
        probe=StageProbe(HELD, neighbours=3),
    )


def run(phases, hooks=Hooks(), variables=None, seed=0):
    state = State(
        0, variables or tiny.fresh(TARGET), tiny.single(GUIDE, 5), None, tiny.keys(seed=seed)
    )
    return fit(phases, state, jnp.asarray(tiny.tokens()), batch=4, chunk_steps=2, hooks=hooks)


def inputs(phase):
    return inputs_of(phase, 0, jnp.asarray(tiny.tokens()), tiny.keys())


def trained_names(phase):
    return [name for name in TARGET.names if name in phase.trainable]


def test_schedules_are_the_stated_table():
    rows = {name: plan(schedule=name) for name in convert.SCHEDULES}
    compared = {
        name: [
            [pair for term in phase.terms for pair in getattr(term.fn, "pairs", ())]
            for phase in phases
        ]
        for name, phases in rows.items()
    }
    one, two = MAPPING
    assert compared["progressive"] == [[one], [one, two], []]
    assert compared["sequential"] == compared["independent"] == [[one], [two], []]
    assert compared["joint"] == compared["parallel"] == [[one, two], []]
    assert compared["one_shot"] == [[]]
    assert [trained_names(p) for p in rows["progressive"][:2]] == [
        ["embed", "block_1"],
        ["embed", "block_1", "block_2", "norm"],
    ]
    assert [trained_names(p) for p in rows["sequential"][:2]] == [
        ["embed", "block_1"],
        ["block_2", "norm"],
    ]
    assert [p.feed.route for p in rows["independent"][:2]] == [
        Whole("embed", "block_1", None),
        Whole("block_2", "norm", "block_1"),
    ]
    assert [p.feed.route.stop for p in rows["sequential"][:2]] == ["block_1", "norm"]
    assert rows["parallel"][0].feed.route == Segments(
        ((None, "embed", "block_1"), ("block_1", "block_2", "norm"))
    )
    for phases in rows.values():
        assert sum(phase.steps for phase in phases) == 12 and phases[-1].trainable == TARGET.names
        assert "finetune: " in describe(phases)


def test_auto_mapping_by_depth_and_shape():
    assert convert.auto_mapping(GUIDE, TARGET, tiny.EXAMPLE) == MAPPING
    assert convert.auto_mapping(tiny.guide(4), tiny.target(2), tiny.EXAMPLE) == (
        ("block_2", "block_1"),
        ("norm", "norm"),
    )
    assert convert.auto_mapping(tiny.guide(), tiny.target(6), tiny.EXAMPLE) == (
        ("block_1", "block_3"),
        ("norm", "norm"),
    )
    assert convert.parse_mapping("block_1=block_2, norm=norm", GUIDE, TARGET, tiny.EXAMPLE) == (
        ("block_1", "block_2"),
        ("norm", "norm"),
    )


def test_what_takes_the_place_of_what_when_depths_differ():
    four, two = tiny.guide(4), tiny.target(2)
    assert convert.stage_pairs(four, two, convert.auto_mapping(four, two, tiny.EXAMPLE)) == (
        ("embed", "embed"),
        ("block_1", "block_1"),
        ("block_3", "block_2"),
        ("norm", "norm"),
        ("head", "head"),
    )
    two, four = tiny.guide(2), tiny.target(4)
    assert convert.stage_pairs(two, four, convert.auto_mapping(two, four, tiny.EXAMPLE)) == (
        ("embed", "embed"),
        ("block_1", "block_1"),
        ("block_1", "block_2"),
        ("block_2", "block_3"),
        ("block_2", "block_4"),
        ("norm", "norm"),
        ("head", "head"),
    )


@pytest.mark.parametrize(
    "text, word",
    [
        ("block_1", "guide_stage=target_stage"),
        ("block_9=block_1, norm=norm", "block_9"),
        ("block_2=block_1, block_1=block_2, norm=norm", "forward"),
        ("block_1=block_1", "end with 'norm'"),
    ],
)
def test_impossible_mappings_are_refused(text, word):
    with pytest.raises(UserError, match=word):
        convert.parse_mapping(text, GUIDE, TARGET, tiny.EXAMPLE)


def test_a_plan_without_steps_or_with_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match="without steps"):
        plan(steps=2)
    with pytest.raises(UserError, match="progressive"):
        plan(schedule="backwards")
    with pytest.raises(UserError, match="from_scratch"):
        baselines.plan("magic", GUIDE, TARGET, MAPPING, baselines.Settings(1), example=tiny.EXAMPLE)


def test_ridge_is_the_closed_form():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)) + 3, rng.normal(size=(40, 3)) - 2
    fit = ridge(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), 0.1)["map"]
    u, v = x - x.mean(0), y - y.mean(0)
    matrix = np.linalg.solve(u.T @ u + 0.1 * np.trace(u.T @ u) / 5 * np.eye(5), u.T @ v)
    np.testing.assert_allclose(fit["kernel"], matrix, atol=1e-5)
    np.testing.assert_allclose(fit["bias"], y.mean(0) - x.mean(0) @ matrix, atol=1e-4)


def test_a_perfect_linear_relation_is_stitched_exactly():
    x = jax.random.normal(jax.random.key(0), (64, 6))
    matrix = jax.random.normal(jax.random.key(1), (6, 4))
    fit = ridge(x, x @ matrix + 2.0, 1e-7)["map"]
    np.testing.assert_allclose(fit["kernel"], matrix, atol=1e-4)
    np.testing.assert_allclose(fit["bias"], 2.0, atol=1e-4)


@pytest.mark.parametrize("biased", [False, True])
def test_folding_gives_the_stitched_hybrid_of_the_last_seam(biased):
    guide = GUIDE
    if biased:
        *stages, _ = ((stage.name, stage.module) for stage in GUIDE.stages)
        guide = network(
            [*stages, ("head", nn.Dense(tiny.VOCABULARY, bias_init=nn.initializers.uniform(2.0)))]
        )
    variables, guide_variables = tiny.fresh(TARGET), tiny.single(guide, 5)
    state = State(0, variables, guide_variables, None, tiny.keys())
    given = inputs(plan()[-1])
    folded = Fold(guide, MAPPING[-1])(state, given).variables
    stitch = fit_stitch(state, given, guide, MAPPING[-1])
    mixed = hybrid(TARGET, guide, MAPPING[-1], stitch.bridge)
    mixed_variables = hybrid_module_variables(
        TARGET, variables, guide, guide_variables, MAPPING[-1], stitch
    )
    for seed in range(tiny.SEEDS):
        ours = tiny.apply(TARGET, tiny.pick(folded, seed), HELD.windows[:, :-1])
        theirs = tiny.apply(mixed, tiny.pick(mixed_variables, seed), HELD.windows[:, :-1])
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert bit_equal(
        {k: v for k, v in folded.items() if k != "head"},
        {k: v for k, v in variables.items() if k != "head"},
    )


def test_a_hybrid_of_the_guide_with_itself_is_the_guide():
    guide_variables = tiny.single(GUIDE, 5)
    stacked = tiny.pick(guide_variables, None)
    identity = Stitch(
        Bridge((tiny.CONTEXT, tiny.WIDTH)),
        {"map": {"kernel": jnp.eye(tiny.WIDTH)[None], "bias": jnp.zeros((1, tiny.WIDTH))}},
    )
    for pair in MAPPING:
        mixed = hybrid(GUIDE, GUIDE, pair, identity.bridge)
        variables = hybrid_module_variables(GUIDE, stacked, GUIDE, guide_variables, pair, identity)
        np.testing.assert_allclose(
            HELD.scores(mixed, variables)["loss"], HELD.scores(GUIDE, stacked)["loss"], rtol=1e-6
        )


def test_inherit_copies_what_fits_and_nothing_else():
    variables, guide_variables = tiny.fresh(TARGET), tiny.single(GUIDE, 5)
    state = State(0, variables, guide_variables, None, tiny.keys())
    surgery = Inherit(GUIDE, convert.stage_pairs(GUIDE, TARGET, MAPPING), tiny.INHERIT)
    got = surgery(state, inputs(plan()[0])).variables
    for seed in range(tiny.SEEDS):
        one = tiny.pick(got, seed)
        assert bit_equal(
            one["block_2"]["params"]["mlp"], guide_variables["block_2"]["params"]["mlp"]
        )
        assert bit_equal(
            one["embed"]["params"]["tokens"], guide_variables["embed"]["params"]["tokens"]
        )
        assert bit_equal(
            one["head"]["params"]["kernel"], guide_variables["embed"]["params"]["tokens"]
        )
    assert bit_equal(got["block_2"]["params"]["rnn"], variables["block_2"]["params"]["rnn"])
    assert bit_equal(got["head"]["params"]["bias"], variables["head"]["params"]["bias"])
    with pytest.raises(UserError, match="attn"):
        Inherit(GUIDE, surgery.pairs, ("mlp", "attn"))(state, inputs(plan()[0]))
    narrow = tiny.target(width=8, seam_width=tiny.WIDTH, rank=4)
    with pytest.raises(UserError, match="cannot inherit"):
        Inherit(GUIDE, surgery.pairs, ("mlp",))(
            state._replace(variables=tiny.fresh(narrow)), inputs(plan()[0])
        )


@pytest.mark.parametrize("schedule", convert.SCHEDULES)
def test_every_schedule_runs_keeps_frozen_parts_and_logs_its_stages(schedule):
    rows, kept = [], []

    def save(position, state):
        kept.append((position.phase, state.variables))

    before = tiny.fresh(TARGET)
    phases = plan(schedule=schedule, inherit=())
    run(phases, Hooks(log=rows.append, save=save), before)
    for (_, after), phase in zip(kept, phases, strict=True):
        moved = {name for name in TARGET.names if not bit_equal(before[name], after[name])}
        assert moved == set(phase.trainable), (phase.name, moved)
        before = after
    stages = [row["stage"] for row in rows if row["kind"] == "stage" and row["seed"] == 1]
    assert stages == ([] if schedule == "one_shot" else ["block_1", "norm"])
    assert sum(row["optimizer_steps"] for row in rows if row["kind"] == "phase") == 12
    assert all(np.isfinite(row["loss"]) for row in rows if row["kind"] == "train")


def test_inherited_parts_can_stay_frozen_during_alignment():
    phases = plan(train_inherited="frozen")[:1]
    assert sorted(phases[0].trainable) == ["block_1/out", "block_1/rnn"]
    guide_variables = tiny.single(GUIDE, 5)
    got = run((dataclasses.replace(phases[0], probes=()),)).variables
    one = tiny.pick(got, 0)
    assert bit_equal(one["block_1"]["params"]["mlp"], guide_variables["block_1"]["params"]["mlp"])
    assert not bit_equal(
        got["block_1"]["params"]["rnn"], tiny.fresh(TARGET)["block_1"]["params"]["rnn"]
    )


@pytest.mark.parametrize(
    "name", ["cka_debiased", "cka_biased", "dmnn", "dmnn_softmax", "mse", "rsa"]
)
def test_every_measure_trains(name):
    first = plan(metric=metric(name, k=3, temperature=0.1), steps=160, align=0.5, inherit=())[0]
    rows = []
    run((dataclasses.replace(first, probes=()),), Hooks(log=rows.append))
    for seed in range(tiny.SEEDS):
        distance = [
            row["distance"] for row in rows if row["kind"] == "train" and row["seed"] == seed
        ]
        assert np.mean(distance[-10:]) < 0.97 * np.mean(distance[:5]), distance


def test_swap_at_probability_one_is_the_target_and_at_zero_the_guide():
    from theseus_jax.program import loss_fn, program_of

    phase = baselines.plan(
        "theseus", GUIDE, TARGET, MAPPING, baselines.Settings(10), example=tiny.EXAMPLE
    )[0]
    variables, guide_variables = tiny.single(TARGET, 1), tiny.single(GUIDE, 5)
    batch = jnp.asarray(tiny.tokens(4))
    for begin, net, mine in ((1.0, TARGET, variables), (0.0, GUIDE, guide_variables)):
        route = dataclasses.replace(phase.feed.route, begin=begin)
        program = program_of(
            dataclasses.replace(phase, feed=dataclasses.replace(phase.feed, route=route))
        )
        loss = jax.jit(loss_fn, static_argnums=0)(
            program, variables, {}, guide_variables, batch, (0.0, 10.0), jax.random.key(3)
        )[0]
        logits = tiny.apply(net, mine, batch[:, :-1])
        np.testing.assert_allclose(
            loss,
            optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean(),
            rtol=1e-5,
        )


def test_a_users_own_modules_are_converted():
    import flax.linen as nn

    class Part(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(tiny.WIDTH)(nn.relu(x))

    mine = network(
        [
            ("words", nn.Embed(tiny.VOCABULARY, tiny.WIDTH)),
            ("first", Part()),
            ("second", Part()),
            ("read", nn.Dense(tiny.VOCABULARY)),
        ]
    )
    mapping = convert.auto_mapping(GUIDE, mine, tiny.EXAMPLE)
    assert mapping == (("block_1", "first"), ("norm", "second"))
    phases = convert.plan(GUIDE, mine, mapping, tiny.settings(inherit=()), shapes=tiny.shapes(mine))
    rows = []
    state = State(0, tiny.fresh(mine), tiny.single(GUIDE, 5), None, tiny.keys())
    fit(
        phases,
        state,
        jnp.asarray(tiny.tokens()),
        batch=4,
        chunk_steps=2,
        hooks=Hooks(log=rows.append),
    )
    assert sum(row["optimizer_steps"] for row in rows if row["kind"] == "phase") == 12
