"""Running numbers of units, UPGD, and what continual backprop and self-normalised resets do with
them: against loops in float64.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_plasticity import J, arrays, by_hand, data, edited, phase, seed_of, small, state

from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity.compact import compact
from theseus_jax.methods.plasticity.edits import Replace
from theseus_jax.methods.plasticity.tracks import Firing, Utility
from theseus_jax.methods.plasticity.units import Held
from theseus_jax.nets.sites import masks, tracked, with_fresh_tracks, with_tracks
from theseus_jax.order import seed_rows
from theseus_jax.plan import Optimizer
from theseus_jax.rules import transformation
from theseus_jax.train import Hooks, fit, inputs_of
from theseus_jax.trees import bit_equal

STEPS, B, RATE, DECAY = 9, 8, 0.1, 0.8


def tracked_phase(steps=STEPS, **given):
    plain = Optimizer(RATE, 0.0, 0.0, rule="sgd", momentum=0.0, schedule="constant")
    tracks = (Utility(small().sites, DECAY), Firing(small().sites))
    return dataclasses.replace(phase(steps=steps, **given), optimizer=plain, tracks=tracks)


def trained(at, **given):
    """{site: tracks of seed 0} after the last step, and the end."""
    seen = {}

    def probe(now, inputs):
        for site in small().sites:
            kept = tracked(now.variables, site)
            seen[site.name] = {name: np.asarray(one[0]) for name, one in kept.items()}
        return []

    end = fit((tracked_phase(probes=(probe,), **given),), at, data(), batch=B, chunk_steps=4)
    return seen, end


def by_loops(at):
    """The same of plain NumPy: training, and the bookkeeping of the published algorithms."""
    variables = jax.tree.map(np.asarray, seed_of(at))
    inputs, examples = inputs_of(tracked_phase(), 0, data(), at.key), data()
    rows = seed_rows(tracked_phase().feed.order, inputs.order, 64, B, 0, STEPS)[0]
    names = [site.name for site in small().sites]
    kept = {name: {"mean": np.zeros(J), "utility": np.zeros(J)} for name in names}
    fires = {name: [] for name in names}
    for t in range(STEPS):
        x, y = (np.asarray(examples[key])[rows[t]] for key in ("inputs", "labels"))
        sites, sides = by_hand(variables, x, y)
        weights = arrays(variables)
        for i, name in enumerate(names):
            h, now = sites[i][1], kept[name]
            now["mean"] = DECAY * now["mean"] + (1 - DECAY) * h.mean(axis=0)
            centred = np.abs(h - now["mean"] / (1 - DECAY ** (t + 1))).mean(axis=0)
            made, read = np.abs(weights[i][0]).mean(axis=0), np.abs(weights[i + 1][0]).mean(axis=1)
            now["utility"] = DECAY * now["utility"] + (1 - DECAY) * centred * read / made
            fires[name].append((h > 0).any(axis=0))
        for i, stage in enumerate(("stem", "block_1", "head")):
            tree = variables[stage]["params"]
            tree = tree if stage == "head" else tree["linear"]
            tree["kernel"] = weights[i][0] - RATE * sides["in"][i].T @ sides["out"][i]
            tree["bias"] = weights[i][1] - RATE * sides["out"][i].sum(axis=0)
    return kept, fires


def test_tracks_are_those_of_a_training_loop_by_hand():
    at = state()
    seen, end = trained(at)
    kept, fires = by_loops(at)
    for site in small().sites:
        now, fired = seen[site.name], np.asarray(fires[site.name])
        np.testing.assert_allclose(now["weight"], 1 - DECAY**STEPS, rtol=1e-6)
        np.testing.assert_allclose(now["mean"], kept[site.name]["mean"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(now["utility"], kept[site.name]["utility"], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(now["seen"], STEPS)
        np.testing.assert_array_equal(now["fired"], fired.sum(axis=0))
        silent = [STEPS - 1 - max([-1, *np.flatnonzero(fired[:, j])]) for j in range(J)]
        np.testing.assert_array_equal(now["silent"], silent)
    assert not any("tracks" in stage for stage in end.variables.values())


def test_a_phase_cut_short_goes_on_with_its_tracks():
    whole, end = trained(state())
    kept = []
    copied = lambda position, now: kept.append((position, jax.tree.map(jnp.copy, now)))  # noqa: E731
    hooks = Hooks(save=copied, save_seconds=0.0)
    fit((tracked_phase(),), state(), data(), batch=B, chunk_steps=4, hooks=hooks)
    position, half = next(one for one in kept if 0 < one[1].step < STEPS)
    seen, again = trained(half)
    assert bit_equal(seen, whole) and bit_equal(again.variables, end.variables)


def with_numbers(at, **rows):
    """Both sites' tracks, with these in place of zeros."""
    variables = with_fresh_tracks(tracked_phase().tracks, at.variables)
    for site in small().sites:
        new = {name: jnp.broadcast_to(jnp.asarray(one), (2, J)) for name, one in rows.items()}
        variables = with_tracks(variables, site, new)
    return at._replace(variables=variables)


def replaced_units(after, site):
    return np.asarray(masks(after.variables, site).born) == after.step


def test_continual_backprop_replaces_the_least_useful_and_leaves_their_mean_in_the_bias():
    draw = np.random.default_rng(3)
    weight, utility, mean = (draw.uniform(0.1, 1, J).astype(np.float32) for _ in range(3))
    before = with_numbers(state()._replace(step=7), weight=weight, utility=utility, mean=mean)
    edit = Replace((2, 1), "utility", settle=True)
    after = edited(edit, before)
    order = np.argsort(utility.astype(np.float64) / weight)
    layers, new = arrays(seed_of(before)), arrays(seed_of(after))
    for i, (site, count) in enumerate(zip(small().sites, (2, 1))):
        gone = np.sort(order[:count])
        assert np.flatnonzero(replaced_units(after, site)[0]).tolist() == gone.tolist()
        held = {name: np.asarray(one[0]) for name, one in tracked(after.variables, site).items()}
        assert all(not one[gone].any() for one in held.values())
        stay = np.setdiff1d(np.arange(J), gone)
        np.testing.assert_array_equal(held["utility"][stay], utility[stay])
        # the first site's newborn units have new biases in the layer that the second's are read by
        given = (mean / weight)[gone] @ layers[i + 1][0][gone]
        kept = np.ones(len(given), bool) if i else ~replaced_units(after, small().sites[1])[0]
        np.testing.assert_allclose(
            new[i + 1][1][kept], (layers[i + 1][1] + given)[kept], rtol=1e-5, atol=1e-6
        )
    young = edited(dataclasses.replace(edit, maturity=8), before)
    assert bit_equal(young.variables, before.variables)


def test_units_that_fall_out_of_their_habit_are_reset():
    seen = np.full(J, 100.0)
    fired, silent = np.full(J, 100.0), np.zeros(J)
    fired[1], silent[1] = 95.0, 5.0  # fired always, silent for 5: (1 - 96 / 97) ** 5
    fired[2], silent[2] = 2.0, 5.0  # fires once in 48 steps: (1 - 3 / 97) ** 5 = 0.85
    fired[3], silent[3] = 0.0, 100.0  # never did: 2 ** -100
    fired[4], silent[4] = 50.0, 6.0  # (1 - 51 / 96) ** 6 = 0.0106
    before = with_numbers(state()._replace(step=100), seen=seen, fired=fired, silent=silent)
    for threshold, wanted in ((0.01, [1, 3]), (0.02, [1, 3, 4])):
        after = edited(Replace((J, J), "silence", threshold=threshold), before)
        for site in small().sites:
            assert np.flatnonzero(replaced_units(after, site)[1]).tolist() == wanted


def test_a_score_without_its_track_is_named():
    with pytest.raises(UserError, match="utility reads the running weight, utility of stem.*track"):
        edited(Replace((1, 1), "utility"), state())


def test_slicing_takes_tracks_along():
    numbers = np.arange(J, dtype=np.float32)
    at = with_numbers(state(), utility=numbers)
    site = small().sites[0]
    live = np.arange(J) % 2 == 0
    old = masks(at.variables, site)
    from theseus_jax.nets.sites import with_masks

    variables = with_masks(at.variables, site, old._replace(live=jnp.asarray([live, live])))
    held = Held(jax.tree.map(lambda leaf: leaf[0], variables), None)
    cut = compact(held, small(), {site: 5})
    np.testing.assert_array_equal(tracked(cut.variables, site)["utility"], numbers[live])


def test_upgd_is_a_loop_by_hand_and_its_noise_is_as_loud_as_said():
    draw, decay = np.random.default_rng(0), 0.9
    w = {"a": draw.normal(size=(3, 4)), "b": draw.normal(size=5)}
    rule = Optimizer(rule="upgd", weight_decay=0.0, clip=0.0, momentum=decay, noise=0.0)
    tx, trace = transformation(rule), {name: np.zeros_like(one) for name, one in w.items()}
    params = jax.tree.map(jnp.float32, w)
    held = tx.init(params)
    for t in range(1, 6):
        g = {name: draw.normal(size=one.shape) for name, one in w.items()}
        moves, held = tx.update(jax.tree.map(jnp.float32, g), held, params, key=jax.random.key(t))
        for name in w:
            trace[name] = decay * trace[name] - (1 - decay) * g[name] * w[name]
        most = max(one.max() for one in trace.values())
        for name in w:
            gate = 1 / (1 + np.exp(-trace[name] / most))
            np.testing.assert_allclose(moves[name], g[name] * (1 - gate), rtol=2e-5, atol=1e-6)
    loud = transformation(dataclasses.replace(rule, noise=0.3))
    nothing = {"a": jnp.zeros((200, 200))}
    moves, _ = loud.update(nothing, loud.init(nothing), nothing, key=jax.random.key(0))
    others, _ = loud.update(nothing, loud.init(nothing), nothing, key=jax.random.key(1))
    for one in (moves["a"], others["a"]):
        assert abs(one.std() - 0.15) < 0.002 and abs(one.mean()) < 0.003
    assert abs(np.corrcoef(moves["a"].ravel(), others["a"].ravel())[0, 1]) < 0.02
