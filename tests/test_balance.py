"""Weights of terms that rise over steps, or that balance one term with another after the first
epoch.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theseus_jax import balance
from theseus_jax.balance import Calibrated, Ramp, Sums
from theseus_jax.chunk import _compile
from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed
from theseus_jax.nets.stage import init, network
from theseus_jax.objectives import Alignment, CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase, describe
from theseus_jax.similarity import metric
from theseus_jax.train import Hooks, Position, State, fit
from theseus_jax.trees import bit_equal

N, P, O, B = 40, 5, 3, 8  # five batches an epoch
NET = network([("hidden", nn.Dense(7)), ("head", nn.Dense(O))])
GUIDE = network([("first", nn.Dense(9)), ("logits", nn.Dense(O))])
RNG = np.random.default_rng(0)
DATA = {
    "inputs": jnp.asarray(RNG.normal(size=(N, P)), jnp.float32),
    "labels": jnp.asarray(RNG.integers(0, O, N), jnp.int32),
}
KEYS = jax.random.split(jax.random.key(3), 2)
VARIABLES = jax.vmap(lambda key: init(NET, key, jnp.zeros((1, P))))(KEYS)
GUIDE_VARIABLES = init(GUIDE, jax.random.key(9), jnp.zeros((1, P)))
DISTANCE = Alignment((("first", "hidden"),), metric("cka_biased"))


def phase(weight, steps=12):
    terms = (Term("cross_entropy", 1.0, CrossEntropy()), Term("distance", weight, DISTANCE))
    return Phase("train", NET, NET.names, terms, steps, Feed(GUIDE), Optimizer(1e-2))


def run(*plan, chunk=1, state=None, position=Position(), **hooks):
    rows = []
    state = state or State(0, VARIABLES, GUIDE_VARIABLES, None, KEYS)
    end = fit(
        plan,
        state,
        DATA,
        batch=B,
        chunk_steps=chunk,
        position=position,
        hooks=Hooks(log=rows.append, **hooks),
    )
    return end, rows


def weights(rows, seed=0):
    """The weight of the distance that each step's loss was made with, from the logged parts."""
    mine = [row for row in rows if row["kind"] == "train" and row["seed"] == seed]
    return [(row["loss"] - row["cross_entropy"]) / row["distance"] for row in mine]


def test_a_ramp_rises_in_equal_parts_and_stays():
    _, rows = run(phase(Ramp(0.5, 2.5, 8)))
    assert weights(rows) == pytest.approx([*np.linspace(0.5, 2.5, 9)[:8], *[2.5] * 4], abs=2e-5)


def test_ramps_and_calibrations_share_one_program_and_a_constant_ramp_is_a_number():
    _compile.cache_clear()
    ramps = [
        run(phase(weight), chunk=4)[0]
        for weight in (Ramp(3.0, 3.0, 5), Ramp(0.0, 9.0, 2), Calibrated(0.3, "cross_entropy"))
    ]
    assert _compile.cache_info().misses == 1
    number = run(phase(3.0), chunk=4)[0]
    assert _compile.cache_info().misses == 2
    for ours, theirs in zip(jax.tree.leaves(ramps[0].variables), jax.tree.leaves(number.variables)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert not bit_equal(ramps[0].variables, ramps[1].variables)


@pytest.mark.parametrize("chunk", [1, 4])
def test_after_the_first_epoch_a_term_is_the_declared_share_of_another(chunk):
    _, rows = run(phase(Calibrated(0.25, "cross_entropy", 2.0)), chunk=chunk)
    (told,) = [row for row in rows if row["kind"] == "weight"]
    trained = [row for row in rows if row["kind"] == "train"]
    steps = sorted({row["step"] for row in trained})
    first = [
        (row, row["step"] - ([0] + steps)[steps.index(row["step"])])
        for row in trained
        if row["step"] <= N // B
    ]
    sums = {
        key: sum(row[key] * length for row, length in first)
        for key in ("cross_entropy", "distance")
    }
    expected = 0.25 * sums["cross_entropy"] / sums["distance"]
    assert (told["step"], told["term"]) == (5, "distance") and told["weight"] == pytest.approx(
        expected, rel=1e-6
    )
    found = weights(rows, seed=1)
    early = sum(step <= 5 for step in steps)
    assert found[:early] == pytest.approx([2.0] * early, rel=1e-4) and found[
        early:
    ] == pytest.approx([expected] * (len(steps) - early), rel=1e-4)


def test_calibration_does_not_depend_on_the_chunks():
    ends = [
        run(phase(Calibrated(0.25, "cross_entropy"), 12), chunk=chunk)[0].variables
        for chunk in (1, 4, 7, 12)
    ]
    for end in ends[1:]:
        for ours, theirs in zip(*map(jax.tree.leaves, (ends[0], end))):
            # means of chunks are summed in another order
            np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_going_on_inside_and_after_the_first_epoch_ends_bit_equal():
    saved, plan = [], (phase(Calibrated(0.25, "cross_entropy")),)
    ended, _ = run(
        *plan,
        chunk=3,
        save=lambda position, state: saved.append((position, jax.tree.map(jnp.copy, state))),
        save_seconds=0.0,
    )
    middles = [one for one in saved if one[1].step]
    assert [state.step for _, state in middles] == [3, 5, 8, 11]
    for position, state in middles:
        assert position.sums[0].steps == min(state.step, 5)
        assert bit_equal(
            run(*plan, chunk=3, state=state, position=position)[0].variables, ended.variables
        )


def test_what_cannot_be_balanced_is_refused():
    with pytest.raises(
        UserError,
        match=(
            "balances distance with 'kl', which is no other term of it; take one of cross_entropy"
        ),
    ):
        run(phase(Calibrated(1.0, "kl")))
    with pytest.raises(UserError, match="no other term"):
        run(phase(Calibrated(1.0, "distance")))
    with pytest.raises(
        UserError, match="has 5 steps and an epoch 5, so that nothing is calibrated"
    ):
        run(phase(Calibrated(1.0, "cross_entropy"), 5))
    doubled = dataclasses.replace(
        phase(1.0), terms=(*phase(1.0).terms, Term("distance", 1.0, CrossEntropy()))
    )
    with pytest.raises(
        UserError, match="more than one value called 'distance'; terms need distinct names"
    ):
        run(doubled)
    with pytest.raises(UserError, match="more than one value called 'loss'"):
        run(dataclasses.replace(phase(1.0), terms=(Term("loss", 1.0, CrossEntropy()),)))
    assert bit_equal(run(phase(np.float32(0.5)))[0].variables, run(phase(0.5))[0].variables)
    with pytest.raises(UserError, match="a ramp over 0 steps; give at least 1"):
        Ramp(0.0, 1.0, 0)
    with pytest.raises(UserError, match="was 0 over its first epoch; give its weight as a number"):
        Calibrated(1.0, "x").bounds(Sums(0.0, 3.0, 5))


def test_a_plan_prints_its_weights():
    assert "1 cross_entropy + (0 to 2 over 100 steps) distance" in describe(
        (phase(Ramp(0.0, 2.0, 100)),)
    )
    assert "(1, after an epoch 0.5 x cross_entropy over it) distance" in describe(
        (phase(Calibrated(0.5, "cross_entropy")),)
    )
    assert balance.text(0.25) == "0.25" and dataclasses.is_dataclass(Ramp)
