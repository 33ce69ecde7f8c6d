"""FitNets, BERT-of-Theseus and TED between networks of different shapes, and activations of the
guide that are remembered.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from theseus_jax.errors import UserError
from theseus_jax.experiment.jobs import side_variables
from theseus_jax.feeds import Cached
from theseus_jax.frozen import Memory, with_guide
from theseus_jax.methods import baselines, convert
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.stage import forward, init
from theseus_jax.objectives import Regression
from theseus_jax.plan import Optimizer, describe, sides
from theseus_jax.program import loss_fn, program_of
from theseus_jax.similarity import metric
from theseus_jax.train import Hooks, State, fit
from theseus_jax.trees import bit_equal

GUIDE, TARGET = (
    mlp(classes=3, width=7, depth=4, norm="batch"),
    mlp(classes=3, width=5, depth=3, norm="layer"),
)
VECTOR = jax.ShapeDtypeStruct((1, 4), jnp.float32)
MAPPING = (("block_1", "block_1"), ("block_3", "block_2"))
KEYS = jax.random.split(jax.random.key(3), 2)


def data(count=48):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    return {
        "inputs": jnp.asarray(rng.normal(size=(count, 4)) + 2 * np.eye(4)[y], jnp.float32),
        "labels": jnp.asarray(y, jnp.int32),
    }


def control(name, **changes):
    settings = baselines.Settings(
        **dict(steps=10, optimizer=Optimizer(1e-2), hint_share=0.4, rank=3) | changes
    )
    return baselines.plan(name, GUIDE, TARGET, MAPPING, settings, example=VECTOR)


def fresh(net, extra=()):
    def one(key):
        return {**init(net, key, VECTOR), **side_variables(extra, key)}

    return jax.jit(jax.vmap(one))(KEYS)


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def run(plan, **hooks):
    guide = first(fresh(GUIDE))
    state = State(0, fresh(TARGET, sides(plan)), guide, None, KEYS)
    return fit(plan, state, data(), batch=8, chunk_steps=4, hooks=Hooks(**hooks))


def loss(phase, variables, guide, batch, seed=0, progress=(0.0, 1.0)):
    return jax.jit(loss_fn, static_argnums=0)(
        program_of(phase), variables, {}, guide, batch, progress, jax.random.key(seed)
    )


@pytest.mark.parametrize(
    "name, first_phase, trained",
    [
        ("fitnets", "hint", {"stem", "block_1", "hint_regressor"}),
        (
            "theseus",
            "swap",
            {
                "stem",
                "block_1",
                "block_2",
                "head",
                "to_guide_1",
                "to_target_1",
                "to_guide_2",
                "to_target_2",
            },
        ),
        (
            "ted",
            "filters",
            {
                f"{side}_filter{kind}_{i}"
                for side in ("guide", "target")
                for kind in ("", "_head")
                for i in (1, 2)
            },
        ),
    ],
)
def test_a_control_spends_its_first_share_on_what_it_says_and_moves_nothing_else(
    name, first_phase, trained
):
    plan, kept, rows = control(name), [], []
    assert [(phase.name, phase.steps) for phase in plan] == [(first_phase, 4), ("finetune", 6)]
    assert set(plan[0].trainable) == trained
    before = fresh(TARGET, sides(plan))
    run(plan, save=lambda position, state: kept.append(state.variables), log=rows.append)
    assert {key for key in before if not bit_equal(before[key], kept[0][key])} == trained
    stages = {"stem", "block_1", "block_2", "head"}
    moved = {key for key in before if not bit_equal(kept[0][key], kept[1][key])}
    assert moved == stages | ({"target_filter_1", "target_filter_2"} if name == "ted" else set())
    assert all(np.isfinite(row["loss"]) for row in rows if row["kind"] == "train")
    assert first_phase in describe(plan)


def test_a_hint_is_half_the_mean_squared_error_of_its_regressor():
    phase = control("fitnets")[0]
    variables, guide, batch = first(fresh(TARGET, sides((phase,)))), first(fresh(GUIDE)), data(8)
    kernel, bias = (
        np.asarray(variables["hint_regressor"]["params"]["map"][key]) for key in ("kernel", "bias")
    )
    given = tiny.apply(TARGET, variables, batch["inputs"], stop="block_1")
    wanted = tiny.apply(GUIDE, guide, batch["inputs"], stop="block_1")
    np.testing.assert_allclose(
        loss(phase, variables, guide, batch)[0],
        0.5 * ((given @ kernel + bias - wanted) ** 2).mean(),
        rtol=1e-5,
    )


def dense(variables, name, x):
    params = variables[name]["params"]
    params = params.get("map", params)
    return x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def test_teds_two_stages_are_their_formulas():
    plan = control("ted", kl=0.5)
    variables, guide, batch = first(fresh(TARGET, sides(plan))), first(fresh(GUIDE)), data(8)
    ours = [np.asarray(tiny.apply(TARGET, variables, batch["inputs"], stop=t)) for _, t in MAPPING]
    theirs = [np.asarray(tiny.apply(GUIDE, guide, batch["inputs"], stop=g)) for g, _ in MAPPING]
    terms = loss(plan[0], variables, guide, batch)[1][0]
    for side, activations in (("guide", theirs), ("target", ours)):
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(
                dense(
                    variables, f"{side}_filter_head_{i}", dense(variables, f"{side}_filter_{i}", z)
                ),
                batch["labels"],
            ).mean()
            for i, z in enumerate(activations, start=1)
        ]
        np.testing.assert_allclose(terms[f"{side}_filters"], np.mean(losses), rtol=1e-5)
    total, (terms, *_) = loss(plan[1], variables, guide, batch)
    squares = [
        (
            (dense(variables, f"target_filter_{i}", a) - dense(variables, f"guide_filter_{i}", b))
            ** 2
        ).mean()
        for i, (a, b) in enumerate(zip(ours, theirs), start=1)
    ]
    np.testing.assert_allclose(terms["filtered"], 0.5 * np.mean(squares), rtol=1e-5)
    np.testing.assert_allclose(
        total, 0.5 * terms["cross_entropy"] + 0.5 * terms["kl"] + terms["filtered"], rtol=1e-5
    )


def test_a_mix_of_other_shapes_goes_through_its_bridges():
    phase = control("theseus")[0]
    variables, guide, batch = first(fresh(TARGET, sides((phase,)))), first(fresh(GUIDE)), data(8)

    def mixed(taken):
        for_target = for_guide = batch["inputs"]
        ends = (
            ("stem", "block_1", "stem", "block_1"),
            ("block_2", "block_3", "block_2", "block_2"),
            ("head",) * 4,
        )
        for i, (ours, (g0, g1, t0, t1)) in enumerate(zip(taken, ends), start=1):
            t = forward(TARGET, variables, for_target, start=t0, stop=t1)[0]
            g = forward(GUIDE, guide, for_guide, start=g0, stop=g1)[0]
            if i == 3:
                return optax.softmax_cross_entropy_with_integer_labels(
                    t if ours else g, batch["labels"]
                ).mean()
            for_target = t if ours else dense(variables, f"to_target_{i}", g)
            for_guide = dense(variables, f"to_guide_{i}", t) if ours else g

    possible = [float(mixed((a, b, c))) for a in (0, 1) for b in (0, 1) for c in (0, 1)]

    def begun(share):
        return dataclasses.replace(
            phase,
            feed=dataclasses.replace(
                phase.feed, route=dataclasses.replace(phase.feed.route, begin=share)
            ),
        )

    half = begun(0.5)
    seen = {
        int(
            np.argmin(
                np.abs(
                    np.array(possible)
                    - float(loss(half, variables, guide, batch, seed, (0.0, 10.0))[0])
                )
            )
        )
        for seed in range(25)
    }
    values = [float(loss(half, variables, guide, batch, seed, (0.0, 10.0))[0]) for seed in range(5)]
    assert all(min(abs(value - p) for p in possible) < 1e-5 for value in values) and len(seen) > 4
    for begin, taken in ((0.0, (0, 0, 0)), (1.0, (1, 1, 1))):
        found = loss(begun(begin), variables, guide, batch, progress=(0.0, 10.0))[0]
        np.testing.assert_allclose(found, mixed(taken), rtol=1e-5)


def test_equal_shapes_need_no_bridges():
    plan = baselines.plan(
        "theseus",
        GUIDE,
        GUIDE,
        (("block_1", "block_1"), ("block_3", "block_3")),
        baselines.Settings(10, Optimizer(1e-2)),
        example=VECTOR,
    )
    assert sides(plan) == ()


@pytest.mark.parametrize("name", ["fitnets", "theseus", "ted"])
def test_a_share_that_leaves_a_phase_without_steps_is_refused(name):
    with pytest.raises(UserError, match=f"{name} with 10 steps and a controls.hint_share of 0"):
        control(name, hint_share=0.0)


def settings(**changes):
    given = (
        dict(
            schedule="progressive",
            metric=metric("cka_debiased"),
            steps=12,
            align=0.5,
            samples="sequences",
            finish_kl=1.0,
            stitch="none",
            align_optimizer=Optimizer(1e-2),
            finish_optimizer=Optimizer(1e-2),
        )
        | changes
    )
    return convert.Settings(**given)


def converted(**changes):
    shapes = jax.eval_shape(lambda key: init(TARGET, key, VECTOR), jax.random.key(0))
    return convert.plan(GUIDE, TARGET, MAPPING, settings(**changes), shapes=shapes)


def test_remembered_activations_train_the_same_network_and_are_charged_once():
    rows, plain = [], []
    ours = run(converted(remember=True), log=rows.append)
    theirs = run(converted(), log=plain.append)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.variables, theirs.variables
    )
    stored = [row for row in rows if row["kind"] == "stored"]
    assert [row["phase"] for row in stored] == ["align_1", "align_2", "finetune"]
    assert all(row["training_flops"] > 0 for row in stored) and not [
        row for row in plain if row["kind"] == "stored"
    ]

    def flops(found):
        return sum(row["training_flops"] for row in found if row["kind"] == "train")

    assert flops(rows) < flops(plain)


def test_a_guide_costs_all_its_blocks_and_once_however_it_is_kept():
    """1,200 examples are three blocks of 400; pooled and whole outputs are of one pass."""
    phase, variables = converted(remember=True)[-1], first(fresh(GUIDE))
    state = State(0, {}, variables, None, None)
    pooled = dataclasses.replace(phase.feed, cached=(Cached("guide", pooled=True),))

    def charged(count, memory, phase=phase):
        rows, x = [], np.random.default_rng(0).normal(size=(count, *VECTOR.shape[1:]))
        with_guide(
            "any", phase, state, {"inputs": jnp.asarray(x, jnp.float32)}, memory, rows.append
        )
        return [row["training_flops"] for row in rows]

    memory = Memory({}, set())
    (one,), (three,) = charged(400, Memory({}, set())), charged(1200, memory)
    assert three == pytest.approx(3 * one, rel=1e-3) and one > 0
    assert charged(1200, memory, dataclasses.replace(phase, feed=pooled)) == []


def test_going_on_does_not_charge_what_was_charged():
    from theseus_jax.train import Position

    plan, rows, saved = converted(remember=True), [], []
    run(plan, save=lambda position, state: saved.append((position, state)))
    position, state = saved[0]
    assert position == Position(1, ())
    ended = fit(
        plan, state, data(), batch=8, chunk_steps=4, position=position, hooks=Hooks(log=rows.append)
    )
    assert [row["phase"] for row in rows if row["kind"] == "stored"] == ["align_2", "finetune"]
    assert bit_equal(ended.variables, saved[-1][1].variables)


def test_a_phase_that_trains_sides_alone_runs_the_target_as_it_is():
    phase = control("ted")[0]
    noisy = mlp(classes=3, width=5, depth=3, norm="layer", dropout=0.5)
    phase = dataclasses.replace(phase, net=noisy)
    variables, guide, batch = first(fresh(noisy, sides((phase,)))), first(fresh(GUIDE)), data(8)
    values = [float(loss(phase, variables, guide, batch, seed)[0]) for seed in range(3)]
    assert len(set(values)) == 1 and isinstance(control("ted")[1].terms[-1].fn, Regression)
