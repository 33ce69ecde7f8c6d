"""Growth and pruning in training: signals, scores, edits of all seeds, budgets, and whole runs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killing import killed_and_ended, rows, timeless
from settings import changed

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import budget, gradmax, units
from theseus_jax.methods.plasticity.cohorts import Parity, kept_beside_pruned
from theseus_jax.methods.plasticity.compact import Compact, narrowed
from theseus_jax.methods.plasticity.edits import Freeze, Grow, Prune, Replace, Rewind, Start
from theseus_jax.methods.plasticity.elastic import elastic
from theseus_jax.methods.plasticity.scores import ACTIVE
from theseus_jax.methods.plasticity.signals import readings
from theseus_jax.nets.models.cnn import cnn
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.sites import Rates, leaf, masks
from theseus_jax.nets.stage import forward, init
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase
from theseus_jax.program import program_of
from theseus_jax.train import Hooks, State, fit, fresh_optimizer, inputs_of
from theseus_jax.trees import bit_equal

I, J, O = 6, 10, 4  # noqa: E741
EXAMPLE = jax.ShapeDtypeStruct((1, I), jnp.float32)
STAGES = ("stem", "block_1", "head")
KEY = jax.random.key(0)


@functools.cache
def small():
    return elastic(mlp(classes=O, width=J, depth=2, norm="none"), EXAMPLE)


def data(count=64):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, I)).astype(np.float32)
    return {"inputs": jnp.asarray(x), "labels": jnp.asarray(np.abs(x).argmax(axis=1) % O)}


def phase(*, steps=20, rule="sgd", **given):
    optimizer = Optimizer(3e-2, 0.0, 0.0, rule=rule, momentum=0.9, schedule="constant")
    terms = (Term("ce", 1.0, CrossEntropy()),)
    return Phase("train", small(), STAGES, terms, steps, optimizer=optimizer, **given)


def state(seeds=2):
    keys = jax.random.split(jax.random.key(0), seeds)
    variables = jax.vmap(lambda key: init(small(), key, jnp.zeros((1, I))))(keys)
    return State(0, variables, {}, fresh_optimizer(phase(), variables), keys)


def edited(edit, at, **given):
    return edit(at, inputs_of(phase(**given), 0, data(), at.key))


def seed_of(at, i=0):
    return jax.tree.map(lambda leaf: leaf[i], at.variables)


def arrays(variables):
    """((kernel, bias), ...) of the three layers in float64."""
    trees = [variables[name]["params"]["linear"] for name in ("stem", "block_1")]
    trees.append(variables["head"]["params"])
    return [
        tuple(np.asarray(tree[key], np.float64) for key in ("kernel", "bias")) for tree in trees
    ]


def by_hand(variables, x, y):
    """(z, h, dz, da) of both sites and the gradients of all kernels, in float64 NumPy."""
    (w1, b1), (w2, b2), (w3, b3) = arrays(variables)
    m1, m2 = (np.asarray(variables[s]["masks"]["units"]["live"]) for s in ("stem", "block_1"))
    x = np.asarray(x, np.float64)
    z1 = x @ w1 + b1
    a1 = np.maximum(z1, 0) * m1
    z2 = a1 @ w2 + b2
    a2 = np.maximum(z2, 0) * m2
    logits = a2 @ w3 + b3
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d3 = (p - np.eye(O)[np.asarray(y)]) / len(x)
    da2 = d3 @ w3.T
    dz2 = da2 * (z2 > 0) * m2
    da1 = dz2 @ w2.T
    dz1 = da1 * (z1 > 0) * m1
    sites = [(z1, np.maximum(z1, 0), dz1, da1), (z2, np.maximum(z2, 0), dz2, da2)]
    return sites, {"in": (x, a1, a2), "out": (dz1, dz2, d3)}


def halved(at, seed=0):
    """Both sites with some units off."""
    draw, variables = np.random.default_rng(seed), at.variables
    for site in small().sites:
        live = draw.random((len(at.key), J)) < 0.6
        live[:, :2] = True, False
        old = masks(variables, site)
        variables = units.with_masks(variables, site, old._replace(live=jnp.asarray(live)))
    return at._replace(variables=variables)


def test_readings_are_those_of_a_network_by_hand():
    at, examples = halved(state()), data()
    for i in range(2):
        variables = seed_of(at, i)
        got, slopes = readings(
            program_of(phase()), variables, {}, examples, jax.random.key(0), small().sites
        )
        sites, parts = by_hand(variables, examples["inputs"], examples["labels"])
        for site, wanted in zip(small().sites, sites):
            for value, mine in zip(got[site.name], wanted):
                np.testing.assert_allclose(value, mine, atol=2e-6)
        np.testing.assert_allclose(
            slopes["block_1"]["params"]["linear"]["kernel"],
            parts["in"][1].T @ parts["out"][1],
            atol=1e-6,
        )


def scored(name, at, i=0):
    """The score of every unit of the second site in loops, on the whole data."""
    variables, examples = seed_of(at, i), data()
    sites, parts = by_hand(variables, examples["inputs"], examples["labels"])
    (w1, _), (w2, _), (w3, _) = arrays(variables)
    (_, h, _, da), live = sites[1], np.asarray(variables["block_1"]["masks"]["units"]["live"])
    found = []
    usual = np.mean([np.abs(h[:, k]).mean() for k in range(J) if live[k]])
    for j in range(J):
        found.append(
            {
                "activation": np.mean([value > ACTIVE for value in h[:, j]]),
                "gradient": abs(sum(h[b, j] * da[b, j] for b in range(len(h)))),
                "magnitude": np.mean([abs(w) for w in w2[:, j]]),
                "dormancy": np.abs(h[:, j]).mean() / usual,
                "contribution": np.abs(h[:, j] - h[:, j].mean()).mean()
                * np.abs(w3[j]).mean()
                / np.abs(w2[:, j]).mean(),
                "gradmax": np.linalg.norm(sum(h[b, j] * parts["out"][2][b] for b in range(len(h)))),
            }[name]
        )
    return np.asarray(found)


@pytest.mark.parametrize("score", ("activation", "gradient", "gradmax"))
def test_growth_chooses_the_units_that_loops_choose(score):
    at = halved(state())
    after = edited(Grow((0, 3), score, "stored"), at)
    site = small().sites[1]
    for i in range(2):
        before, now = (np.asarray(masks(one.variables, site).live[i]) for one in (at, after))
        values = np.where(before, -np.inf, scored(score, at, i))
        wanted = set(np.argsort(-values, kind="stable")[: min(3, (~before).sum())])
        assert set(np.flatnonzero(now & ~before)) == wanted
    born = np.asarray(masks(after.variables, site).born)
    assert set(born[born >= 0]) == {0}
    old, new = (masks(one.variables, small().sites[0]).live for one in (at, after))
    np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("score", ("magnitude", "dormancy", "contribution"))
def test_pruning_chooses_the_units_that_loops_choose(score):
    at = halved(state())
    after = edited(Prune((0, 2), score), at)
    site = small().sites[1]
    for i in range(2):
        before, now = (np.asarray(masks(one.variables, site).live[i]) for one in (at, after))
        values = np.where(before, scored(score, at, i), np.inf)
        wanted = set(np.argsort(values, kind="stable")[: min(2, before.sum() - 1)])
        assert set(np.flatnonzero(before & ~now)) == wanted
    assert edited(Prune((99, 99)), at).variables["stem"]["masks"]["units"]["live"].sum() == 2


def test_dormant_units_are_replaced_and_young_ones_are_not():
    at = halved(state())
    site = small().sites[1]
    after = edited(Replace((J, J), "dormancy", threshold=0.7), at)
    for i in range(2):
        live = np.asarray(masks(at.variables, site).live[i])
        wanted = live & (scored("dormancy", at, i) <= 0.7)
        born = np.asarray(masks(after.variables, site).born[i]) == 0
        assert wanted.any() and (born == wanted).all()
        out = np.asarray(after.variables["head"]["params"]["kernel"][i])
        assert not out[wanted].any() and out[live & ~wanted].any()
        np.testing.assert_array_equal(
            out[~wanted], np.asarray(at.variables["head"]["params"]["kernel"][i])[~wanted]
        )
    again = edited(Replace((J, J), "dormancy", threshold=9.0, maturity=5), after)
    born = [np.asarray(masks(one.variables, site).born) for one in (after, again)]
    assert (born[1][born[0] == 0] == 0).all()


def gradmax_by_svd(variables, examples, count):
    """(directions (count, O), their gradients' norms) of M = sum of d3 a1^T for the second site."""
    _, parts = by_hand(variables, examples["inputs"], examples["labels"])
    left, values, _ = np.linalg.svd(parts["out"][2].T @ parts["in"][1])
    return left.T[:count], values[:count]


def test_gradmax_directions_are_a_numpy_svd():
    variables, examples = seed_of(halved(state())), data()
    site = small().sites[1]
    chosen = ~masks(variables, site).live & (jnp.cumsum(~masks(variables, site).live) <= 3)
    passes = gradmax.Passes(program_of(phase()), site, {}, examples, jax.random.key(0))
    run = jax.jit(functools.partial(gradmax.directions, passes))
    found = run(variables, chosen, jax.random.key(1))["head/params/kernel"]
    rows = np.asarray(found)[np.asarray(chosen)]
    wanted, values = gradmax_by_svd(variables, examples, 3)
    assert values[2] < 0.95 * values[1] < 0.9 * values[0]
    for row, direction in zip(rows, wanted):
        assert abs(row @ direction) == pytest.approx(1.0, abs=2e-3)


def test_a_gradmax_birth_gets_the_largest_gradient_of_all_directions():
    at, examples = halved(state(), seed=2), data()
    site = small().sites[1]
    after = edited(Grow((0, 2), "random", "gradmax", batch=64), at)
    variables = seed_of(after)
    new = np.asarray(masks(after.variables, site).born[0]) == 0
    assert new.sum() == 2
    _, slopes = readings(
        program_of(phase()), variables, {}, examples, jax.random.key(0), small().sites
    )
    gradient = np.asarray(slopes["block_1"]["params"]["linear"]["kernel"])[:, new]
    out = np.asarray(variables["head"]["params"]["kernel"])[new]
    _, values = gradmax_by_svd(seed_of(at), examples, 2)
    for column, row, value in zip(gradient.T, out, values):
        assert np.linalg.norm(column) == pytest.approx(value * np.linalg.norm(row), rel=1e-2)
    live = np.asarray(masks(at.variables, site).live[0])
    old = np.asarray(at.variables["head"]["params"]["kernel"][0])[live]
    usual = np.linalg.norm(old, axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), gradmax.SCALE * usual, rtol=1e-4)
    bias = np.asarray(variables["block_1"]["params"]["linear"]["bias"])[new]
    np.testing.assert_allclose(bias, gradmax.OPEN)
    assert not np.asarray(variables["block_1"]["params"]["linear"]["kernel"])[:, new].any()


def test_gradmax_is_refused_where_it_is_not_defined():
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    net = elastic(cnn(classes=3, channels=(4,), hidden=(6,), norm="batch"), image)
    with pytest.raises(UserError, match="has a norm before its units"):
        gradmax.check(net.sites[0])


def test_edits_of_training_compile_once_and_leave_what_is_off_alone():
    logged = []
    grow = tuple((step, Grow((1, step % 3))) for step in range(2, 40, 2))
    at = tuple((step, Prune((step % 2, 1))) for step in range(3, 40, 4))
    plan = phase(steps=40, edits=(Start((3, 2)), Grow((1, 0))), edits_at=(*grow, *at))
    from theseus_jax.chunk import _compile
    from theseus_jax.methods.plasticity.seeds import _run

    begin = state()
    sizes = []
    for _ in range(2):
        fit((plan,), begin, data(), batch=16, chunk_steps=1, hooks=Hooks(log=logged.append))
        sizes.append((_compile.cache_info().currsize, _run._cache_size()))
    assert sizes[0] == sizes[1]
    rows = [row for row in logged if row["kind"] == "units"]
    assert len(rows) == 2 * 2 * 2 * (1 + len(grow) + len(at))
    before = _run._cache_size()
    fit((plan,), begin, data(), batch=16, chunk_steps=1)
    more = dataclasses.replace(plan, edits_at=tuple((s, Grow((2, 2))) for s in range(1, 40)))
    fit((more,), begin, data(), batch=16, chunk_steps=1)
    assert _run._cache_size() == before


def test_twenty_edits_with_slicing_to_multiples_compile_three_programs_more():
    """From 32 units to 12, sliced to multiples of 8 as soon as they fit: 32, 24, 16 and no more;
    the same network as with masks alone.
    """
    from theseus_jax.chunk import _compile

    wide = elastic(mlp(classes=O, width=32, depth=2, norm="none"), EXAMPLE)
    begun = jax.vmap(lambda key: init(wide, key, jnp.zeros((1, I))))(jax.random.split(KEY, 2))
    begun = State(0, begun, {}, None, jax.random.split(KEY, 2))
    prune = Prune((1, 1), "dormancy")  # magnitude counts the weights of inputs that are off

    def run(sliced):
        net, phases, live = wide, [], 32
        for number in range(20):
            edits = (prune,)
            to = max(8, -(-live // 8) * 8)
            if sliced and to < net.sites[0].width:
                edits = (Compact(net, (to, to)), prune)
                net = narrowed(net, dict.fromkeys(net.sites, to))
            one = dataclasses.replace(phase(steps=2, rule="adamw"), net=net, edits=edits)
            phases.append(dataclasses.replace(one, name=f"p{number}", carry=number > 0))
            live -= 1
        before = _compile.cache_info().misses
        done = fit(tuple(phases), begun, data(), batch=16, chunk_steps=2)
        return net, done, _compile.cache_info().misses - before

    plain, sliced = run(False), run(True)
    assert plain[2] == 1 and sliced[2] <= 3
    assert [site.width for site in sliced[0].sites] == [16, 16]
    x = data()["inputs"]
    for i in range(2):
        y, z = (forward(net, seed_of(done, i), x)[0] for net, done, _ in (plain, sliced))
        np.testing.assert_allclose(y, z, atol=2e-5)
        for site in wide.sites:
            assert int(masks(plain[1].variables, site).live[i].sum()) == 12


@pytest.mark.parametrize("rule", ("sgd", "adamw"))
def test_units_that_are_off_or_frozen_stay_bit_equal_in_training(rule):
    decayed = Optimizer(3e-2, 0.1, 0.0, rule=rule, schedule="constant")
    warm = dataclasses.replace(phase(steps=10, rule=rule), optimizer=decayed)
    plan = dataclasses.replace(warm, edits_at=((3, Prune((4, 4))), (6, Freeze((2, 2)))))
    kept = {}

    def told(row):
        kept[row.get("step")] = True

    done = fit((plan,), state(), data(), batch=16, chunk_steps=1, hooks=Hooks(log=told))
    shorter = dataclasses.replace(plan, steps=7)
    half = fit((shorter,), state(), data(), batch=16, chunk_steps=1)
    for site in small().sites:
        for i in range(2):
            now = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), masks(done.variables, site))
            still = ~now.live | now.frozen
            assert 4 <= still.sum() < J
            for one in site.parameters:
                leaves = [leaf(end.variables, one.path)[i] for end in (half, done)]
                rows = [np.asarray(one.rows(values)) for values in leaves]
                np.testing.assert_array_equal(rows[0][still], rows[1][still])
                assert (rows[0][~still] != rows[1][~still]).any()


def test_newborn_units_learn_at_their_own_speed():
    rates = Rates(5.0, 3)
    live, born = jnp.asarray([True, True, True, False]), jnp.asarray([-1, 4, 2, 5])
    held = masks({"a": {"masks": {"u": {"live": live, "born": born,
                                        "frozen": jnp.zeros(4, bool)}}}},
                 small().sites[0]._replace(stage="a", path=("u",)))  # fmt: skip
    np.testing.assert_array_equal(rates(held, jnp.int32(5)), [1, 5, 1, 0])
    np.testing.assert_array_equal(Rates()(held, jnp.int32(5)), [1, 1, 1, 0])
    # one step of SGD: newborn slices move five times as far, weights between two newborn 25 times
    plain, fast = (
        dataclasses.replace(phase(steps=1), edits=(Start((5, 5)), Grow((2, 2))), rates=rate)
        for rate in (Rates(), rates)
    )
    ends = [fit((one,), state(), data(), batch=16, chunk_steps=1) for one in (plain, fast)]
    begun = edited(Grow((2, 2)), edited(Start((5, 5)), state()))
    first, second = small().sites
    factor = [
        np.where(np.asarray(masks(begun.variables, site).born[0]) == 0, 5.0, 1.0)
        for site in (first, second)
    ]
    moved = [
        np.asarray(end.variables["block_1"]["params"]["linear"]["kernel"][0])
        - np.asarray(begun.variables["block_1"]["params"]["linear"]["kernel"][0])
        for end in ends
    ]
    np.testing.assert_allclose(moved[1], moved[0] * np.outer(*factor), atol=1e-6)
    assert np.abs(moved[0]).max() > 1e-4


def test_a_rewind_restores_the_start_and_keeps_the_masks():
    begun, plan = state(), phase(steps=5, edits=(Prune((4, 3)),))
    done = fit((plan,), begun, data(), batch=16, chunk_steps=5)
    done = done._replace(opt_state=fresh_optimizer(plan, done.variables))
    back = edited(Rewind(), done)
    for stage in STAGES:
        assert bit_equal(begun.variables[stage]["params"], back.variables[stage]["params"])
    site = small().sites[0]
    assert bit_equal(masks(done.variables, site), masks(back.variables, site))
    other = edited(Rewind(renewed=True), done)
    kernels = [one.variables["stem"]["params"]["linear"]["kernel"] for one in (begun, other)]
    assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).all()


def test_cohorts_are_means_by_hand():
    at = edited(Grow((2, 2), "random"), halved(state()))
    rows = list(Parity("post", batch=64).told(at, at, inputs_of(phase(), 0, data(), at.key)))
    assert {(row["site"], row["seed"]) for row in rows} == {
        (site.name, seed) for site in small().sites for seed in range(2)
    }
    row = next(r for r in rows if r["site"] == "block_1/units" and r["seed"] == 1)
    variables = seed_of(at, 1)
    sites, parts = by_hand(variables, data()["inputs"], data()["labels"])
    _, h, dz, _ = sites[1]
    now = jax.tree.map(np.asarray, masks(variables, small().sites[1]))
    young = now.live & (now.born == 0)
    for name, cohort in (("newborn", young), ("incumbent", now.live & ~young)):
        credit = np.abs(dz).mean(axis=0)[cohort].mean()
        assert row[f"{name}_credit"] == pytest.approx(credit, rel=1e-4)
        assert row[f"{name}_active"] == pytest.approx((h > ACTIVE).mean(axis=0)[cohort].mean())
        aligned = np.abs(dz.sum(axis=0)) / np.maximum(np.abs(dz).sum(axis=0), 1e-30)
        assert row[f"{name}_aligned"] == pytest.approx(aligned[cohort].mean(), rel=1e-3)
        out = np.linalg.norm(parts["in"][2].T @ parts["out"][2], axis=1)
        assert row[f"{name}_outgoing"] == pytest.approx(out[cohort].mean(), rel=1e-4)
    assert row["live"] == now.live.sum()


def test_what_a_prune_keeps_and_takes_is_told_by_hand():
    at, edit = halved(state()), Prune((1, 2), look=True)
    inputs = inputs_of(phase(), 0, data(), at.key)
    after = edit(at, inputs)
    told = [row for row in edit.told(at, after, inputs) if row["kind"] == "pruned"]
    assert len(told) == 4 and not list(kept_beside_pruned(at, at, inputs))
    (row,) = (one for one in told if one["site"] == "block_1/units" and one["seed"] == 1)
    site = small().sites[1]
    old, new = (np.asarray(masks(one.variables, site).live[1]) for one in (at, after))
    seen = [by_hand(seed_of(one, 1), data()["inputs"], data()["labels"]) for one in (at, after)]
    active, later = ((sites[1][1] > ACTIVE).mean(axis=0) for sites, _ in seen)
    credit = np.abs(seen[0][0][1][2]).mean(axis=0)
    for name, among in (("kept", new), ("pruned", old & ~new)):
        assert row[f"{name}_active"] == pytest.approx(active[among].mean())
        assert row[f"{name}_credit"] == pytest.approx(credit[among].mean(), rel=1e-4)
    assert row["moved"] == pytest.approx(np.abs(later - active)[new].mean()) and row["moved"] > 0


# -- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compactness, convnet, dense",
    [
        (0.2, (117, 117, 58), (63, 63)),
        (0.3, (172, 172, 86), (91, 91)),
        (0.4, (225, 225, 112), (118, 118)),
        (0.5, (276, 276, 138), (144, 144)),
    ],
)
def test_budgets_are_those_derived_from_the_paper(compactness, convnet, dense):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    names = [f"block_{i}/units" for i in (1, 2, 3)]
    net = elastic(cnn(classes=100), image, names)
    assert budget.targets(net, image, compactness) == convnet
    digits = jax.ShapeDtypeStruct((1, 784), jnp.float32)
    two = elastic(mlp(classes=10, width=256, depth=2, norm="none"), digits)
    assert budget.targets(two, digits, compactness) == dense


def test_cycles_end_at_their_target():
    for begin, end, cycles in (((51, 51, 26), (117, 117, 58), 5), ((512, 9), (100, 9), 7)):
        made = budget.steps_to(begin, end, cycles)
        assert len(made) == cycles and min(min(one) for one in made) >= 0
        total = [sum(one[i] for one in made) for i in range(len(begin))]
        assert total == [abs(b - a) for a, b in zip(begin, end)]
        for i in range(len(begin)):  # never more in a later cycle
            counts = [one[i] for one in made]
            assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"compactness": 0.0}, "compactness of 0 leaves no weights"),
        ({"compactness": 1e-6}, "leaves stem.width .10 units. without a unit"),
        ({"compactness": 0.5, "bias": (1.0,)}, "a bias of .1.0,. for the sites stem/units"),
    ],
)
def test_budgets_that_cannot_be_are_named(given, message):
    with pytest.raises(UserError, match=message):
        budget.targets(small(), EXAMPLE, **given)
    with pytest.raises(UserError, match="begins with a share of 0.01 has 0 units at stem.width"):
        budget.started(small().sites, 0.01)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Grow((1,), "speed"), "score is 'speed'; choose one of activation"),
        (lambda: Grow((1,), birth="cloned"), "birth is 'cloned'; choose one of stored"),
        (lambda: Replace((1,), moments="old"), "moments is 'old'; choose one of fresh"),
    ],
)
def test_edits_that_cannot_be_meant_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_edit_of_a_frozen_stage_or_of_no_site_is_named():
    frozen = dataclasses.replace(phase(), trainable=("stem", "head"))
    at = state()
    with pytest.raises(UserError, match="stem.width .10 units. is edited and block_1 not trained"):
        Grow((1, 1))(at, inputs_of(frozen, 0, data(), at.key))
    plain = dataclasses.replace(phase(), net=dataclasses.replace(small(), sites=()))
    with pytest.raises(UserError, match="its network no site; make it elastic"):
        Grow((1, 1))(at, inputs_of(plain, 0, data(), at.key))


# -- whole runs -----------------------------------------------------------------------------------

TINY = {
    "data.train": 200,
    "data.validation": 40,
    "data.test": 60,
    "target.arch": "mlp",
    "target.width": 16,
    "target.depth": 2,
    "target.norm": "none",
    "plasticity.cycles": 2,
    "plasticity.steps": 6,
    "plasticity.ticket_steps": 6,
    "plasticity.doctor": 3,
    "search.rates": (1e-2, 1e-1),
    "search.seeds": 2,
    "train.batch": 20,
    "train.chunk": 3,
    "seeds": 2,
    "report.latency_repeats": 2,
}


def tiny(**changes):
    return changed(base("classification", "plasticity"), TINY, **changes)


def test_a_run_makes_every_arm_with_its_tables(tmp_path):
    config = tiny()
    results = tj.run(config, tmp_path)
    names = [model["name"] for model in results["models"]]
    assert set(names) == set(config.arms) and {"dense", "prune", "prune_no_rewind", "grow"} <= set(
        names
    )
    (target,) = {
        row["units"] for row in results["tables"]["cycles"]["rows"] if row["model"] != "dense"
    }
    assert target == "4-4" and len(results["tables"]["cycles"]["rows"]) == len(names) - 2
    found = rows(tmp_path)
    units = [row for row in found if row["kind"] == "units" and row["model"] == "prune"]
    units = [row["live"] for row in units if row["seed"] == 1 and row["site"] == "stem/units"]
    assert units == [10, 10, 4, 4]  # a prune and a rewind in each cycle
    trained = [row for row in found if row["kind"] == "train" and row["model"] == "grow"]
    assert {row["seed"] for row in trained} == {-2, -1, 0, 1}  # of trials too
    kept = [row["accuracy"] for row in trained if row["seed"] >= 0]  # chunks of 3 steps each
    (online,) = (r["online"] for r in results["tables"]["cycles"]["rows"] if r["model"] == "grow")
    assert online == pytest.approx(np.mean(kept))
    cycles = [row for row in found if row["kind"] == "cycle" and row["model"] == "grow"]
    assert [(row["cycle"], row["seed"]) for row in cycles] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    last = {model["name"]: model["seeds"] for model in results["models"]}
    for seed in range(2):
        (row,) = (row for row in cycles if row["cycle"] == 2 and row["seed"] == seed)
        assert row["accuracy"] == pytest.approx(last["grow"][seed])
    net, variables = tj.restore(tmp_path, model="grow")
    assert [int(masks(variables, site).live.sum()) for site in net.sites] == [4, 4]
    ticket = tj.restore(tmp_path, model="grow_ticket")[1]
    for site in net.sites:
        np.testing.assert_array_equal(masks(variables, site).live, masks(ticket, site).live)
    pruned = results["tables"]["pruned"]["rows"]
    assert [row["model"] for row in pruned] == ["prune", "prune_no_rewind"]
    page = (tmp_path / "report.html").read_text()
    assert "Newborn units" in page and "Newborn beside incumbent units" in page


@pytest.mark.slow
def test_a_run_that_was_killed_between_edits_ends_the_same(tmp_path):
    arms = ("grow", "prune", "grow_two_speed", "grow_ticket")
    config = tiny(**{"arms": arms, "plasticity.steps": 9, "train.save_seconds": 0.0})
    tj.run(config, tmp_path / "whole")
    moments = ['"model": "grow", "phase": "cycles", "seed": 0, "step": 9']
    moments += ['"model": "grow_two_speed", "phase"']
    killed_and_ended(config, tmp_path / "killed", moments)
    whole, killed = (timeless(rows(tmp_path / name)) for name in ("whole", "killed"))
    assert whole == killed
    for name in arms:
        states = [tj.restore(tmp_path / folder, model=name)[1] for folder in ("whole", "killed")]
        assert bit_equal(*states)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arms": ("grow", "shrink")}, "config.arms has shrink; choose from dense"),
        ({"arms": ("grow_ticket",)}, "config.arms has grow_ticket without grow, whose masks"),
        ({"plasticity.sites": "nowhere"}, "the network has no units nowhere; it has stem/units"),
        ({"plasticity.compactness": 2.0}, "config.plasticity.compactness is 2"),
        ({"plasticity.begin": 0.0}, "config.plasticity.begin is 0"),
        ({"plasticity.score": "speed"}, "config.plasticity.score is 'speed'; choose one of"),
        ({"plasticity.birth": "gradmax", "target.norm": "batch"}, "has a norm before its units"),
        ({"target.norm": "layer"}, "has a norm over its units, so that no birth keeps"),
    ],
)
def test_mistakes_in_a_config_are_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        tj.dry_run(tiny(**changes))
    assert "\n" not in str(caught.value)
