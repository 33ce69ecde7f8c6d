"""The loop: optimizer steps against a plain loop, seeds, data order, frozen parts, compile cache,
FLOPs, resuming.
"""

import dataclasses
import functools
import logging
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from theseus_jax import cost, schedules
from theseus_jax.chunk import Moving, Still, _compile, compiled_chunk
from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed, Whole
from theseus_jax.methods import convert
from theseus_jax.nets.stage import forward, network
from theseus_jax.nets.variables import partition
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Patience, Phase
from theseus_jax.program import constant_terms, loss_fn, program_of
from theseus_jax.train import Hooks, Position, State, batch_rows, fit, fresh_optimizer
from theseus_jax.trees import bit_equal

GUIDE, TARGET = tiny.guide(), tiny.target()
MAPPING = convert.auto_mapping(GUIDE, TARGET, tiny.EXAMPLE)


def phase(net=TARGET, trainable=None, steps=6, **changes):
    terms = (Term("cross_entropy", 1.0, CrossEntropy()),)
    return Phase(
        "finetune", net, trainable or net.names, terms, steps, optimizer=Optimizer(1e-2), **changes
    )


def run(plan, hooks=Hooks(), state=None, position=Position(), windows=None):
    state = state or State(0, tiny.fresh(plan[0].net), {}, None, tiny.keys())
    windows = jnp.asarray(tiny.tokens() if windows is None else windows)
    return fit(plan, state, windows, batch=4, chunk_steps=2, hooks=hooks, position=position)


def test_fit_equals_a_plain_loop_with_the_same_batches():
    state = run((phase(),))
    windows, keys = tiny.tokens(), tiny.keys()
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.98),
        optax.add_decayed_weights(0.05, mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)),
    )
    for seed in range(tiny.SEEDS):
        params = tiny.pick(tiny.fresh(TARGET), seed)
        moments = jax.jit(tx.init)(params)
        rows = batch_rows(
            jax.random.split(jax.random.fold_in(keys[seed], 0), 3)[0], len(windows), 4, 0, 6
        )

        def loss(p, batch):
            return optax.softmax_cross_entropy_with_integer_labels(
                forward(TARGET, p, batch[:, :-1])[0], batch[:, 1:]
            ).mean()

        slope, advance = jax.jit(jax.grad(loss)), jax.jit(tx.update)
        for step in range(6):
            gradient = slope(params, jnp.asarray(windows[rows[step]]))
            updates, moments = advance(gradient, moments, params)
            rate = 1e-2 * schedules.warmup_cosine(jnp.asarray(step), jnp.asarray(6))
            params = jax.jit(lambda p, u, r: jax.tree.map(lambda x, y: x - r * y, p, u))(
                params, updates, rate
            )
        for ours, plain in zip(jax.tree.leaves(state.variables), jax.tree.leaves(params)):
            np.testing.assert_allclose(ours[seed], plain, atol=2e-4)


def test_seeds_run_together_as_they_run_alone():
    both = run((phase(),)).variables
    alone = State(
        0,
        jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[1:]), tiny.fresh(TARGET)),
        {},
        None,
        tiny.keys()[1:],
    )
    single = run((phase(),), state=alone).variables
    for x, y in zip(jax.tree.leaves(both), jax.tree.leaves(single)):
        np.testing.assert_allclose(x[1], y[0], atol=1e-5)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_every_step_and_seed_drops_others():
    """The same window in every batch and a rate of 0: losses differ by what is dropped alone."""
    *stages, head = ((stage.name, stage.module) for stage in TARGET.stages)
    net, logged = network([*stages, ("drop", Dropped()), head]), []
    still = dataclasses.replace(phase(net), optimizer=Optimizer(0.0))
    windows = np.repeat(tiny.tokens()[:1], 8, axis=0)
    run((still,), Hooks(log=logged.append), windows=windows)
    losses = {row["loss"] for row in logged if row["kind"] == "train"}
    assert len(losses) == 3 * tiny.SEEDS  # chunks of two steps


def test_schedule_values():
    got = [
        float(schedules.warmup_cosine(jnp.asarray(t), jnp.asarray(100)))
        for t in (0, 4, 5, 52, 53, 100)
    ]
    decay = [0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (t - 5) / 95)) for t in (5, 52, 53, 100)]
    np.testing.assert_allclose(got, [0.2, 1.0, *decay], rtol=1e-5)
    assert float(schedules.warmup_cosine(jnp.asarray(0), jnp.asarray(1))) == 1.0
    swap = [
        float(schedules.swap_probability(jnp.asarray(t), jnp.asarray(10), begin=0.2, full=0.5))
        for t in (0, 1, 5, 9)
    ]
    np.testing.assert_allclose(swap, [0.2, 0.36, 1.0, 1.0], rtol=1e-6)


def test_every_epoch_is_a_fresh_permutation_without_repeats():
    rows = batch_rows(jax.random.key(0), 11, 3, 0, 7)
    first, second = rows[:3].ravel(), rows[3:6].ravel()
    assert len(set(first)) == len(set(second)) == 9 and list(first) != list(second)
    np.testing.assert_array_equal(rows[2:5], batch_rows(jax.random.key(0), 11, 3, 2, 3))
    with pytest.raises(UserError, match="fewer than a batch of 12"):
        batch_rows(jax.random.key(0), 11, 12, 0, 1)


def test_what_is_not_trained_stays_bit_equal_and_the_callers_arrays_live():
    start = tiny.fresh(TARGET)
    kept = jax.tree.map(np.array, start)
    got = run(
        (phase(trainable=("block_2/rnn", "head")),), state=State(0, start, {}, None, tiny.keys())
    ).variables
    _, rest = partition(got, ("block_2/rnn", "head"))
    _, before = partition(kept, ("block_2/rnn", "head"))
    assert bit_equal(rest, before) and bit_equal(start, kept)
    assert not bit_equal(got["block_2"]["params"]["rnn"], start["block_2"]["params"]["rnn"])
    assert not bit_equal(got["head"], start["head"])


def test_batch_statistics_move_in_trained_stages_alone():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=not train, momentum=0.5)(
                nn.Dense(tiny.WIDTH)(x)
            )

    net = network(
        [
            ("words", nn.Embed(tiny.VOCABULARY, tiny.WIDTH)),
            ("first", Normed()),
            ("second", Normed()),
            ("read", nn.Dense(tiny.VOCABULARY)),
        ]
    )
    start = tiny.fresh(net)
    got = run(
        (phase(net, ("second", "read"), steps=2),), state=State(0, start, {}, None, tiny.keys())
    ).variables
    assert bit_equal(got["first"], start["first"])
    assert not bit_equal(got["second"]["batch_stats"], start["second"]["batch_stats"])


def test_batch_statistics_go_on_inside_a_chunk():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)

    read = ("read", nn.Dense(tiny.VOCABULARY))
    net = network([("words", nn.Embed(tiny.VOCABULARY, tiny.WIDTH)), ("normed", Normed()), read])
    start = State(0, tiny.fresh(net), {}, None, tiny.keys())
    windows = jnp.asarray(tiny.tokens())
    found = [
        fit((phase(net),), start, windows, batch=4, chunk_steps=steps).variables["normed"]
        for steps in (1, 6)
    ]
    for one, other in zip(*(jax.tree.leaves(tree["batch_stats"]) for tree in found)):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_phase_that_stops_ends_with_the_best_parameters_where_its_rule_restores_them():
    """Scores rise until step 4 and fall: the parameters of 4 of all 8 steps."""
    plain = dataclasses.replace(phase(steps=8), optimizer=Optimizer(1e-2, schedule="constant"))
    hooks = Hooks(score=lambda phase, state: -abs(state.step - 4.0))
    best = run((dataclasses.replace(plain, steps=4),)).variables
    for restore in (True, False):
        rule = Patience(every=2, patience=9, restore=restore)
        got = run((dataclasses.replace(plain, stop=rule),), hooks).variables
        assert bit_equal(got, best) == restore


def test_a_phase_begins_with_moments_of_its_own_unless_it_carries_them():
    first, second = phase(), dataclasses.replace(phase(), name="again")
    for carry in (False, True):
        plan = (first, dataclasses.replace(second, carry=carry))
        between = run((first,))
        fresh = State(0, between.variables, {}, None, tiny.keys())
        alone = run(plan, state=fresh, position=Position(1, ()))
        assert bit_equal(run(plan).variables, alone.variables) != carry


def test_a_frozen_prefix_with_batch_norm_runs_on_its_running_statistics():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=not train)(x) * (1.0 if train else 2.0)

    net = network(
        [
            ("words", nn.Embed(tiny.VOCABULARY, tiny.VOCABULARY)),
            ("normed", Normed()),
            ("read", nn.Dense(tiny.VOCABULARY)),
        ]
    )
    variables, batch = tiny.single(net), jnp.asarray(tiny.tokens(4))
    loss = jax.jit(loss_fn, static_argnums=0)(
        program_of(phase(net, ("read",))), variables, {}, {}, batch, (0.0, 1.0), jax.random.key(0)
    )[0]
    logits = tiny.apply(net, variables, batch[:, :-1])
    np.testing.assert_allclose(
        loss,
        optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean(),
        rtol=1e-6,
    )


def test_a_phase_that_its_chunks_do_not_divide_is_one_program_and_does_its_steps_alone():
    _compile.cache_clear()
    rows = []
    # chunks of 2, 2 and 1
    ragged = run((phase(steps=5),), Hooks(log=rows.append)).variables
    assert _compile.cache_info().misses == 1
    assert [row["step"] for row in rows if row["kind"] == "train" and row["seed"] == 0] == [2, 4, 5]
    start = State(0, tiny.fresh(TARGET), {}, None, tiny.keys())
    windows = jnp.asarray(tiny.tokens())
    whole = fit((phase(steps=5),), start, windows, batch=4, chunk_steps=5).variables
    for x, y in zip(jax.tree.leaves(ragged), jax.tree.leaves(whole)):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_equal_programs_compile_once_and_say_so(caplog):
    _compile.cache_clear()
    with caplog.at_level(logging.INFO, logger="theseus_jax"):
        run((phase(), phase()))
        rebuilt = tiny.target()
        run((dataclasses.replace(phase(rebuilt, steps=10), optimizer=Optimizer(5e-3)),))
    assert _compile.cache_info().misses == 1
    assert sum("compiling" in record.message for record in caplog.records) == 1
    run((phase(trainable=("head",)),))
    assert _compile.cache_info().misses == 2


def _chunk_args(one, seeds=1, steps=2):
    params, rest = partition(tiny.fresh(one.net, seeds), one.trainable)
    moments = fresh_optimizer(one, tiny.fresh(one.net, seeds))
    return Moving(params, moments), Still(
        rest,
        tiny.single(GUIDE, 5),
        tiny.keys(seeds),
        jnp.asarray(tiny.tokens()),
        {},
        jnp.zeros((seeds, steps, 4), jnp.int32),
        jnp.asarray(0),
        jnp.asarray(steps),
        jnp.asarray(steps),
        jnp.asarray(1e-3),
        {},
    )


def stage_phases(net=None, **changes):
    net = net or TARGET
    return convert.plan(
        GUIDE,
        net,
        convert.auto_mapping(GUIDE, net, tiny.EXAMPLE),
        tiny.settings(**changes),
        shapes=tiny.shapes(net),
    )


def _flops(one):
    return compiled_chunk(program_of(one), *_chunk_args(one)).step_flops


def test_the_step_of_a_stage_holds_no_work_of_later_stages():
    """A stage's step costs the same in a network and guide that end with it as in the whole
    ones.
    """
    phases = stage_phases()
    whole = _flops(phases[0])
    assert whole < _flops(phases[-1])
    text = (
        jax.jit(
            lambda *a: jax.grad(loss_fn, 1, has_aux=True)(
                program_of(phases[0]), *a, (0.0, 1.0), jax.random.key(0)
            )
        )
        .lower(
            *partition(tiny.single(TARGET), phases[0].trainable),
            tiny.single(GUIDE, 5),
            jnp.asarray(tiny.tokens(4)),
        )
        .as_text(debug_info=True)
    )
    for later in ("block_2", "head"):
        assert not re.search(rf"{later}\b", text)
    short = dataclasses.replace(TARGET, stages=(*TARGET.stages[:2], *TARGET.stages[-2:]))
    assert whole == pytest.approx(_flops(dataclasses.replace(phases[0], net=short)), rel=1e-6)


def test_a_sequential_stage_does_not_differentiate_its_frozen_prefix():
    sequential, progressive = stage_phases()[1], stage_phases(schedule="progressive")[1]
    assert _flops(sequential) < 0.85 * _flops(progressive)


@pytest.mark.parametrize(
    "fn, shape, expected",
    [
        (jnp.linalg.cholesky, (3, 3), 9),
        (jnp.linalg.eigh, (3, 3), 243),
        (jnp.linalg.qr, (6, 2), 16 * (6 - 2 / 3)),
        (jnp.linalg.svd, (4, 4), 22 * 64),
        (functools.partial(jnp.linalg.svd, compute_uv=False), (5, 2), 4 * 5 * 4 - 4 * 8 / 3),
        (functools.partial(jnp.linalg.svd, full_matrices=False), (2, 5), 14 * 5 * 4 + 8 * 8),
        (jax.vmap(jnp.linalg.cholesky), (7, 3, 3), 7 * 9),
    ],
)
def test_flops_of_decompositions_are_those_of_the_textbook(fn, shape, expected):
    assert cost.uncounted(jax.make_jaxpr(fn)(np.ones(shape, np.float32)).jaxpr) == pytest.approx(
        expected
    )
    assert cost.flops(fn, jax.ShapeDtypeStruct(shape, jnp.float32)) >= expected


def test_counts_on_a_gpu_are_those_of_the_program_as_lowered_for_a_cpu(monkeypatch):
    """There a compiled program's own count is 0 for a convolution; `PathEstimator` by name cannot
    be lowered for a CPU.
    """

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    class Compiled:
        def cost_analysis(self):
            return {"flops": 7.0}

    x, kernel = jnp.ones((2, 10, 10, 3)), jnp.ones((3, 3, 3, 5))
    expected = 2 * 2 * 8 * 8 * 9 * 3 * 5
    assert cost.compiled_flops(Compiled(), convolved, x, kernel) == 7.0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (
        cost.compiled_flops(Compiled(), convolved, x, kernel)
        == expected
        == cost.flops(convolved, x, kernel)
    )
    assert cost.lowered_flops(convolved, jax.ShapeDtypeStruct(x.shape, x.dtype), kernel) == expected

    def by_name(x):
        raise ValueError("implementation='pallas' needs an NVIDIA GPU")

    assert cost.compiled_flops(Compiled(), by_name, x) == 7.0


def test_flops_of_decompositions_count_every_step_of_a_scan():
    def looped(x):
        return jax.lax.scan(lambda c, z: (c, jnp.linalg.svd(z)[0]), 0, x)

    one, five = (
        cost.flops(looped, jax.ShapeDtypeStruct((length, 9, 9), jnp.float32)) for length in (1, 5)
    )
    assert 22 * 9**3 <= one <= 1.1 * 22 * 9**3
    assert five == pytest.approx(5 * one, rel=0.05)


def test_flops_count_every_step_of_a_scan():
    x, w = jnp.ones((4, 32)), jnp.ones((32, 32))

    def looped(x, w):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=10)[0]

    def unrolled(x, w):
        for _ in range(10):
            x = jnp.tanh(x @ w)
        return x

    products = 10 * 2 * 4 * 32 * 32
    assert products <= cost.flops(unrolled, x, w) <= 1.2 * products
    assert cost.flops(looped, x, w) == pytest.approx(cost.flops(unrolled, x, w), rel=0.05)
    gradient = cost.flops(jax.grad(lambda x, w: looped(x, w).sum(), 1), x, w)
    assert gradient == pytest.approx(
        cost.flops(jax.grad(lambda x, w: unrolled(x, w).sum(), 1), x, w), rel=0.15
    )


def test_a_loss_that_is_not_finite_stops_with_a_message():
    bad = dataclasses.replace(phase(), optimizer=Optimizer(1e30, clip=1e30))
    with pytest.raises(
        UserError, match=r"not finite at step \d of 6; lower its learning rate of 1e\+30"
    ):
        run((bad,))


def test_a_phase_without_anything_to_train_is_refused():
    with pytest.raises(UserError, match="trainable parts"):
        run((dataclasses.replace(phase(), trainable=()),))
    with pytest.raises(UserError, match="no parameter is named by block_9"):
        run((phase(trainable=("block_9",)),))


def test_going_on_from_any_saved_state_ends_bit_equal():
    phases = stage_phases(schedule="progressive", steps=16)
    saved, rows = [], []
    begin = State(0, tiny.fresh(TARGET), tiny.single(GUIDE, 5), None, tiny.keys())
    hooks = Hooks(
        save=lambda p, s: saved.append((p, jax.tree.map(jnp.copy, s))),
        log=rows.append,
        save_seconds=0.0,
    )
    end = run(phases, hooks, begin).variables
    middles = [item for item in saved if item[1].step]
    assert middles and len(saved) - len(middles) == len(phases)
    for position, state in (middles[1], middles[-1], saved[len(saved) // 2]):
        assert bit_equal(run(phases, state=state, position=position).variables, end)


def test_a_term_that_depends_on_nothing_that_is_trained_is_named():
    from theseus_jax.objectives import Alignment
    from theseus_jax.similarity import metric

    def constant(trainable, pairs, route=Whole()):
        terms = (
            Term("cross_entropy", 1.0, CrossEntropy()),
            Term("distance", 1.0, Alignment(pairs, metric("cka_biased"))),
        )
        one = program_of(Phase("p", TARGET, trainable, terms, 1, Feed(GUIDE, route)))
        params, rest = partition(tiny.shapes(TARGET), trainable)
        batch = jax.ShapeDtypeStruct((4, tiny.CONTEXT + 1), jnp.int32)
        return constant_terms(one, params, rest, tiny.shapes(GUIDE), batch)

    assert constant(TARGET.names, MAPPING) == constant(("block_2",), MAPPING[-1:]) == []
    assert constant(("block_2", "head"), (("block_1", "block_1"),)) == ["distance"]
    assert constant(("block_1",), (("block_1", "block_1"),), Whole(stop="block_1")) == []
