"""The newborn doctor, on plain pytrees with a training loop of the test's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity.doctor import VERDICTS, doctor, layer

I, J, O, OLD = 12, 24, 5, 18  # noqa: E741
LAYERS = {"hidden": (("first",), ("second",))}
YOUNG = {"hidden": jnp.arange(J) >= OLD}


def problem(seed):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(256, I)).astype(np.float32)
    y = (np.tanh(x @ draw.normal(size=(I, O))) * 2).argmax(axis=1)
    return jnp.asarray(x), jnp.asarray(y)


def fresh(key):
    first, second = jax.random.split(key)
    init = jax.nn.initializers.he_uniform()
    return {
        "first": {"kernel": init(first, (I, J)), "bias": jnp.zeros(J)},
        "second": {"kernel": init(second, (J, O)), "bias": jnp.zeros(O)},
    }


def loss(params, x, y):
    h = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    logits = h @ params["second"]["kernel"] + params["second"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), h


TX = optax.adam(3e-3)


@jax.jit
def step(params, state, x, y, on):
    """A step of Adam; units that are not on stay 0 on their way out."""
    (_, h), gradients = jax.value_and_grad(loss, has_aux=True)(params, x, y)
    updates, state = TX.update(gradients, state)
    updates["first"] = jax.tree.map(lambda leaf: leaf * on, updates["first"])
    updates["second"]["kernel"] = updates["second"]["kernel"] * on[:, None]
    return optax.apply_updates(params, updates), state, gradients, updates, h


@functools.cache
def grown_up(seed):
    """Parameters and Adam's state after 200 steps with the old units alone."""
    x, y = problem(seed)
    params, old = fresh(jax.random.key(seed)), (jnp.arange(J) < OLD).astype(jnp.float32)
    params["second"]["kernel"] = params["second"]["kernel"] * old[:, None]
    state = TX.init(params)
    for _ in range(200):
        params, state, *_ = step(params, state, x, y, old)
    return params, state


def with_newborn(seed, incoming, outgoing):
    """The new units with fresh weights times these factors, and a fresh state."""
    params, state = grown_up(seed)
    other, old = fresh(jax.random.key(100 + seed)), jnp.arange(J) < OLD
    pick = lambda a, b: jnp.where(old, a, b)  # noqa: E731
    new = {
        "first": {
            "kernel": pick(params["first"]["kernel"], incoming * other["first"]["kernel"]),
            "bias": pick(params["first"]["bias"], 0.0),
        },
        "second": {
            "kernel": pick(params["second"]["kernel"].T, outgoing * other["second"]["kernel"].T).T,
            "bias": params["second"]["bias"],
        },
    }
    return new, with_moments(state, lambda one, rows: jnp.where(old, rows, 0.0))


def with_moments(state, change):
    """Adam's moments with change("mu" or "nu", units last) of every layer."""

    def one(name, tree):
        return {
            "first": {
                "kernel": change(name, tree["first"]["kernel"]),
                "bias": change(name, tree["first"]["bias"]),
            },
            "second": {
                "kernel": change(name, tree["second"]["kernel"].T).T,
                "bias": tree["second"]["bias"],
            },
        }

    adam, *rest = state
    return (adam._replace(mu=one("mu", adam.mu), nu=one("nu", adam.nu)), *rest)


def examined(seed, params, state, steps=1):
    x, y = problem(seed)
    for _ in range(steps):
        before = params
        params, state, gradients, updates, h = step(params, state, x, y, jnp.ones(J))
    return doctor(before, gradients, updates, LAYERS, young=YOUNG, activations={"hidden": h})


def verdicts(report):
    return [VERDICTS[code] for code in np.asarray(report.layers["hidden"].verdict)[OLD:]]


def test_zero_outgoing_weights_starve_a_unit_until_they_have_grown():
    params, state = with_newborn(0, 1.0, 0.0)
    at_once = examined(0, params, state)
    assert set(verdicts(at_once)) == {"backward-starved"}
    ratios = np.asarray(at_once.layers["hidden"].incoming_ratio)
    assert (ratios[OLD:] == 0.0).all() and (ratios[:OLD] > 0).any()
    assert "paired" in at_once.cases()[0]["remedy"] and len(at_once.cases()) == J - OLD
    assert "6 of 6 young units are not healthy" in str(at_once)
    later = examined(0, params, state, steps=60)
    assert set(verdicts(later)) == {"healthy"} and not later.cases()
    ratios = np.asarray(later.layers["hidden"].incoming_ratio)
    assert 0.15 < np.median(ratios[OLD:]) < 1.5


def test_units_without_weights_on_either_side_never_learn():
    params, state = with_newborn(0, 0.0, 0.0)
    for steps in (1, 60):
        report = examined(0, params, state, steps)
        assert set(verdicts(report)) == {"never learns"}
    seen = report.layers["hidden"]
    assert not np.asarray(seen.incoming)[OLD:].any() and not np.asarray(seen.outgoing)[OLD:].any()


def test_stale_moments_are_flagged_and_fresh_ones_are_not():
    params, state = with_newborn(0, 1.0, 1.0)
    assert set(verdicts(examined(0, params, state))) == {"healthy"}
    young = jnp.arange(J) >= OLD
    stale = with_moments(
        state, lambda name, rows: jnp.where(young, 1.0 if name == "nu" else 0.0, rows)
    )
    report = examined(0, params, stale)
    assert set(verdicts(report)) == {"frozen by stale optimizer state"}
    assert "fresh optimizer state" in report.cases()[0]["remedy"]
    assert (np.asarray(report.layers["hidden"].update_ratio)[OLD:] < 0.25).all()


def test_healthy_newborn_units_are_not_flagged_over_twenty_seeds():
    for seed in range(20):
        params, state = with_newborn(seed, 1.0, 1.0)
        for steps in (1, 30):
            report = examined(seed, params, state, steps)
            assert not report.cases(), (seed, steps, report.cases())


def test_numbers_are_those_of_loops():
    params, state = with_newborn(3, 1.0, 1.0)
    x, y = problem(3)
    _, _, gradients, updates, h = step(params, state, x, y, jnp.ones(J))
    seen = doctor(
        params, gradients, updates, LAYERS, young=YOUNG, activations={"hidden": h}
    ).layers["hidden"]
    g, u, p = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), t)
               for t in (gradients, updates, params))  # fmt: skip
    for j in range(J):
        into = np.sqrt((g["first"]["kernel"][:, j] ** 2).sum() + g["first"]["bias"][j] ** 2)
        out = np.sqrt((g["second"]["kernel"][j] ** 2).sum())
        assert float(seen.incoming[j]) == pytest.approx(into, rel=1e-5)
        assert float(seen.outgoing[j]) == pytest.approx(out, rel=1e-5)
        moved, held = (np.linalg.norm(tree["second"]["kernel"][j]) for tree in (u, p))
        assert float(seen.outgoing_change[j]) == pytest.approx(moved / held, rel=1e-5)
        assert float(seen.active[j]) == pytest.approx((np.asarray(h)[:, j] > 0.05).mean())
    usual = np.mean(np.asarray(seen.incoming)[:OLD])
    np.testing.assert_allclose(seen.incoming_ratio, np.asarray(seen.incoming) / usual, rtol=1e-5)


def test_units_that_are_off_are_neither_patients_nor_a_measure():
    params, state = with_newborn(0, 1.0, 0.0)
    x, y = problem(0)
    _, _, gradients, updates, _ = step(params, state, x, y, jnp.ones(J))
    live = {"hidden": jnp.arange(J) % 2 == 0}
    report = doctor(params, gradients, updates, LAYERS, young=YOUNG, live=live)
    assert {case["unit"] for case in report.cases()} == {18, 20, 22}
    on = np.flatnonzero(np.asarray(live["hidden"]) & (np.arange(J) < OLD))
    seen = report.layers["hidden"]
    usual = np.mean(np.asarray(seen.incoming)[on])
    np.testing.assert_allclose(seen.incoming_ratio, np.asarray(seen.incoming) / usual, rtol=1e-5)
    assert np.isnan(np.asarray(seen.active)).all()


def test_layers_that_are_none_are_named():
    params = fresh(jax.random.key(0))
    site = layer(params, ("first",), ("second/kernel",))
    assert site.width == J and [one.axis for one in site.incoming] == [0, 1]
    with pytest.raises(UserError, match="no parameter is named by 'third'"):
        layer(params, ("third",), ("second",))
    with pytest.raises(UserError, match="last axes of .5, 24. "):
        layer(params, ("first", "second"), ("second",))
    with pytest.raises(UserError, match="axis 0 of first/kernel has 12 numbers, no multiple of"):
        layer(params, ("second",), ("first",))
