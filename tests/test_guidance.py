"""Guidance: the loss over a list of pairs, its weight, the noise control, and a whole run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killing import rows
from settings import changed
from sklearn.metrics import cohen_kappa_score
from test_similarity import loop_cka, loop_hsic_0

import theseus_jax as tj
from theseus_jax import tasks
from theseus_jax.balance import Until, at
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.experiment.parts import arms_of
from theseus_jax.feeds import Cached
from theseus_jax.methods.agreement import kappa
from theseus_jax.methods.guidance import Settings
from theseus_jax.nets import zoo
from theseus_jax.nets.masked import Masked
from theseus_jax.objectives import Alignment, Signals
from theseus_jax.plan import Optimizer
from theseus_jax.similarity import metric
from theseus_jax.trees import bit_equal

PAIRS = tuple((f"g{i % 7}", f"t{i % 3}") for i in range(21))
TINY = {
    "data.train": 120,
    "data.validation": 40,
    "data.test": 60,
    "data.mean": (8.0,),
    "data.deviation": (8.0,),
    "guide.arch": "mlp",
    "guide.width": 16,
    "guide.depth": 4,
    "guide.steps": 10,
    "target.arch": "mlp",
    "target.width": 8,
    "target.depth": 3,
    "target.norm": "none",
    "guidance.steps": 12,
    "search.steps": 4,
    "search.rates": (1e-3, 1e-2),
    "train.batch": 20,
    "train.chunk": 4,
    "train.watch": 4,
    "seeds": 2,
    "report.latency_repeats": 2,
}


def tiny(**changes):
    return changed(base("classification", "guide"), TINY, **changes)


def activations(names, width, seed):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=(9, width + i)) for i, name in enumerate(names)}


def signals():
    guide = activations([f"g{i}" for i in range(7)], 4, 0)
    target = activations([f"t{i}" for i in range(3)], 5, 1)
    arrays = [{k: jnp.asarray(v, jnp.float32) for k, v in side.items()} for side in (target, guide)]
    return target, guide, Signals(None, None, *arrays, None)


def test_many_to_one_pairs_are_summed_over_an_explicit_float64_loop():
    target, guide, both = signals()
    exact = [1 - loop_cka(target[t], guide[g], loop_hsic_0) for g, t in PAIRS]
    for reduction, expected in (("sum", sum(exact)), ("mean", sum(exact) / 21)):
        loss = Alignment(PAIRS, metric("cka_biased"), "sequences", reduction)(both)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    doubled = Alignment((PAIRS[0],) * 2, metric("cka_biased"), "sequences", "sum")(both)
    assert float(doubled) == pytest.approx(2 * exact[0], rel=1e-5)


def test_the_noise_control_reads_another_examples_activations():
    target, guide, both = signals()
    shifted = Alignment(PAIRS[:1], metric("cka_biased"), "sequences", "mean", 1)(both)
    rolled = np.roll(guide["g0"], -1, axis=0)
    exact = 1 - loop_cka(target["t0"], rolled, loop_hsic_0)
    assert float(shifted) == pytest.approx(exact, rel=1e-5)
    plain = Alignment(PAIRS[:1], metric("cka_biased"), "sequences")(both)
    assert abs(float(shifted) - float(plain)) > 1e-3


def test_the_distance_is_the_metric_of_target_and_guide_over_what_is_no_padding():
    """In that order, which the share of one that a linear map predicts from the other tells."""
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(2, 6, 5, 4)).astype(np.float32)
    y[..., :2] = x[..., :2] ** 2
    mask = np.arange(5) < draw.integers(2, 6, 6)[:, None]
    sides = {"t": Masked(jnp.asarray(x), jnp.asarray(mask))}, {"g": jnp.asarray(y)}
    predicted = metric("ridge")
    got = float(Alignment((("g", "t"),), predicted)(Signals(None, None, *sides, None)))
    assert got == pytest.approx(1 - float(predicted(x[mask], y[mask])), abs=1e-5)
    others = predicted(y[mask], x[mask]), predicted(x.reshape(-1, 4), y.reshape(-1, 4))
    assert all(abs(1 - float(other) - got) > 1e-3 for other in others)


def test_a_weight_until_a_step_falls_at_once():
    bounds = jnp.asarray(Until(0.5, 3).bounds(None))
    values = [float(at(bounds, jnp.asarray(step, jnp.float32))) for step in range(6)]
    assert values == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    with pytest.raises(UserError, match="a weight until step 0; give at least 1"):
        Until(0.5, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    return path, tj.run(tiny(guidance__disconnect_after=8), path)


def finished_task(path):
    return tasks.module("classification").Task(tiny()).load(path)


def test_every_arm_has_the_same_search_and_steps(finished):
    path, results = finished
    roles = {model["name"]: model["role"] for model in results["models"]}
    assert list(roles.items())[:2] == [("guide", "guide"), ("guide_untrained", "guide")]
    assert {name for name, role in roles.items() if role == "ours"} == {
        "guided_trained",
        "guided_untrained",
    }
    arms = [model for model in results["models"] if model["role"] != "guide"]
    assert [m["optimizer_steps"] for m in arms] == [12] * 6
    assert all(m["learning_rate"] in (1e-3, 1e-2) and len(m["seeds"]) == 2 for m in arms)
    trials = [row for row in rows(path) if row["kind"] == "trial"]
    assert len(trials) == 6 * 2 and not any("test_accuracy" in row for row in trials)


def test_the_guide_is_disconnected_without_a_new_optimizer_or_schedule(finished):
    """The chunks end at steps 4, 8 and 12; the last holds steps 9 to 12."""
    path, _ = finished
    mine = [
        row
        for row in rows(path)
        if row["kind"] == "train" and row["model"] == "guided_trained" and row["seed"] == 0
    ]
    assert [row["step"] for row in mine] == [4, 8, 12]
    for row, weight in zip(mine, (1.0, 1.0, 0.0)):
        expected = row["cross_entropy"] + weight * row["alignment"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
    kinds = [row["kind"] for row in rows(path) if row["model"] == "guided_trained"]
    assert kinds.count("phase") == 2 + 1  # one of every trial, and one of the seeds together


def test_the_guides_stay_as_they_were_and_the_untrained_one_is_the_trained_ones_start(finished):
    path, results = finished
    net, trained = tj.restore(path, "guide")
    other, untrained = tj.restore(path, "guide_untrained")
    assert net == other
    kernels = [v["stem"]["params"]["linear"]["kernel"] for v in (trained, untrained)]
    assert not np.allclose(*kernels)
    assert jax.tree.structure(trained) == jax.tree.structure(untrained)
    spent = {model["name"]: model["optimizer_steps"] for model in results["models"]}
    assert spent["guide"] == 10 and spent["guide_untrained"] == 0


def test_gradients_by_depth_are_those_of_the_watched_steps(finished):
    path, results = finished
    table = results["tables"]["gradients"]["rows"]
    mine = [row for row in table if row["model"] == "baseline"]
    assert [row["stage"] for row in mine] == ["stem", "block_1", "head"]
    watched = [
        row
        for row in rows(path)
        if row["kind"] == "watch" and row["model"] == "baseline" and row["seed"] == 0
    ]
    assert [row["step"] for row in watched] == [4, 8, 12]
    assert mine[0]["early"] == watched[0]["stem"] and mine[2]["late"] == watched[-1]["head"]


def test_errors_and_pairs_are_compared_with_the_guides(finished):
    path, results = finished
    errors = {row["model"]: row for row in results["tables"]["errors"]["rows"]}
    held = finished_task(path)[1].sets(0).test
    right = {}
    for name in ("guide", "guided_trained"):
        each = [tj.restore(path, name, seed) for seed in range(1 if name == "guide" else 2)]
        logits = [np.asarray(tj.forward(net, v, held.x)[0]) for net, v in each]
        right[name] = [one.argmax(-1) == held.y for one in logits]
    expected = np.mean(
        [cohen_kappa_score(one, right["guide"][0]) for one in right["guided_trained"]]
    )
    assert errors["guided_trained"]["guide"] == pytest.approx(expected, abs=1e-6)
    assert errors["guided_trained"]["right"] == pytest.approx(np.mean(right["guided_trained"]))
    assert "guide" not in errors["guide"]
    scored = {model["name"]: model["value"] for model in results["models"]}
    assert all(row["right"] == pytest.approx(scored[name]) for name, row in errors.items())

    table = results["tables"]["pairs"]
    assert [column["key"] for column in table["columns"]][:3] == ["pair", "fresh", "baseline"]
    assert "baseline_norm" not in table["rows"][0]
    guide, target = table["rows"][0]["pair"].split(" = ")
    x = finished_task(path)[1].sets(0).validation.x
    net, theirs = tj.restore(path, "guide")
    y = tj.forward(net, theirs, x, stop=guide)[0]
    each = [tj.restore(path, "guided_trained", seed) for seed in (0, 1)]
    values = [metric("cka_debiased")(tj.forward(*one, x, stop=target)[0], y) for one in each]
    exact = float(np.mean(values))
    assert table["rows"][0]["guided_trained"] == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("p, q", [(0.3, 0.8), (0.5, 0.5), (0.95, 0.9)])
def test_error_consistency_is_cohens_kappa(p, q):
    draw = np.random.default_rng(0)
    one, other = draw.random(500) < p, draw.random(500) < q
    assert kappa(one, other) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert kappa(one, one) == 1
    assert np.isnan(kappa(np.ones(5, bool), np.ones(5, bool)))


def test_the_outline_names_pairs_and_what_has_none():
    text = tj.dry_run(tiny(guidance__pairs="block_1=block_1, block_2=block_1"))
    assert "pairs (guide = target): block_1 = block_1, block_2 = block_1" in text
    assert "stages of the target without a pair: stem, block_2, head" in text


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"guidance__pairs": "block_9=block_1"}, "'block_9', which is no stage of the guide"),
        ({"guidance__pairs": "block_1=block_9"}, "'block_9', which is no stage of the target"),
        ({"guidance__pairs": "block_1"}, "write 'auto' or"),
        ({"guidance__metric": "svcca"}, "choose one of"),
        (
            {"guidance__ratio": 1.0, "guidance__disconnect_after": 3},
            "changes in one way: set the others to 0",
        ),
        ({"arms": ("luck",)}, "config.arms has luck; choose from baseline"),
        ({"guidance__metric": "mse"}, "expected equal widths"),
        ({"guidance__samples": "pixels"}, "choose one of tokens, sequences, pooled"),
    ],
)
def test_mistakes_are_one_line_before_data_is_read(changes, words, tmp_path):
    with pytest.raises(UserError) as caught:
        tj.run(tiny(**changes), tmp_path / "x")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


GUIDE = tj.network([("a", nn.Dense(6)), ("b", nn.Dense(5)), ("out", nn.Dense(3))])
TARGET = tj.network([("x", nn.Dense(7)), ("y", nn.Dense(4)), ("logits", nn.Dense(2))])
X = np.random.default_rng(3).normal(size=(64, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def own(**changes):
    given = {
        "guide": GUIDE,
        "guide_variables": tj.init(GUIDE, jax.random.key(1), X[:1]),
        "target": TARGET,
        "inputs": X,
        "labels": Y,
        "key": jax.random.key(0),
        "batch": 16,
        "settings": tj.methods.guidance.Settings(steps=40, optimizer=Optimizer(3e-2)),
    }
    return tj.guide(**given | changes)


def test_networks_of_ones_own_are_guided_and_the_guide_stays():
    """The guide has other classes, which only distillation would mind."""
    before = tj.init(GUIDE, jax.random.key(1), X[:1])
    given = jax.tree.map(jnp.copy, before)
    pairs = "a=x, b=x, b=y"
    variables, rows = own(guide_variables=given, pairs=pairs)
    assert bit_equal(given, before)
    train = [row for row in rows if row["kind"] == "train"]
    assert train[-1]["alignment"] < 0.7 * train[0]["alignment"]
    for row in train:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row["alignment"], rel=1e-5)
    right = np.asarray(tj.forward(TARGET, variables, X)[0]).argmax(-1) == Y
    assert right.mean() > 0.8
    again, _ = own(pairs=pairs)
    assert bit_equal(again, variables)
    other, _ = own(pairs=pairs, key=jax.random.key(5))
    assert not bit_equal(other, variables)


@pytest.mark.parametrize("samples, shift", [("pooled", 0), ("pooled", 1), ("sequences", 0)])
def test_outputs_that_are_kept_give_the_losses_of_those_that_are_not(samples, shift):
    """On pictures, whose stages are pooled before they are kept."""
    shape = zoo.Reading((8, 8, 1), (8.0,), (8.0,))
    guide = zoo.build(zoo.Architecture("cnn", width=4), shape, 3)
    target = zoo.build(zoo.Architecture("cnn", width=4, norm="none"), shape, 3)
    x = np.random.default_rng(0).integers(0, 16, (48, 8, 8, 1)).astype(np.uint8)
    given = {"guide": guide, "target": target, "inputs": x}
    given["guide_variables"] = tj.init(guide, jax.random.key(1), x[:1])
    losses = []
    for remember in (True, False):
        settings = Settings(steps=6, samples=samples, shift=shift, kl=0.5, remember=remember)
        rows = own(**given, labels=x[:, 0, 0, 0].astype(int) % 3, settings=settings)[1]
        assert [row["kind"] for row in rows].count("stored") == remember
        losses += [row["loss"] for row in rows if row["kind"] == "train"]
    half = len(losses) // 2
    assert losses[:half] == pytest.approx(losses[half:], rel=1e-5)


def test_an_untrained_guide_that_reads_every_batchs_statistics_is_not_remembered():
    pooled = {"guidance__samples": "pooled"}
    config = tiny(guide__arch="resnet18", guide__width=4, guide__mode="batch", **pooled)
    arms = {arm.name: arm for arm in arms_of(config)}
    kept = {name: arm.plan(arm.first())[0].feed.cached for name, arm in arms.items() if arm.plan}
    assert kept["guided_trained"] == kept["guided_shuffled"] == (Cached("guide", pooled=True),)
    assert kept["guided_untrained"] == kept["baseline"] == kept["guide"] == ()
    for arm in arms_of(tiny(guidance__remember="never", **pooled)):
        assert not arm.plan or not arm.plan(arm.first())[0].feed.cached


def test_labels_of_sequences_may_ask_for_nothing():
    x = np.random.default_rng(0).normal(size=(32, 4, 5)).astype(np.float32)
    labels = np.where(x[..., 0] > 0, 1, -1)
    _, rows = own(inputs=x, labels=labels, pairs="a=x")
    assert [row for row in rows if row["kind"] == "train"][-1]["cross_entropy"] < 0.05


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pairs": "a=z"}, "names 'z', which is no stage of the target; its stages are x, y, log"),
        ({"settings": Settings(kl=0.5)}, "the guide's outputs are (1, 3) and the target's (1, 2)"),
        ({"labels": Y + 1}, "2 classes; give (N,) integers in 0 .. 1"),
        ({"labels": Y[:5]}, "labels of shape (5,)"),
        ({"batch": 65}, "64 inputs are fewer than a batch of 65"),
        ({"batch": 3}, "3 samples given, needs at least 4"),
        ({"guide_variables": {}}, "guide_variables hold nothing"),
        ({"pairs": "a/z=x"}, "has no activation 'z' inside"),
        ({"inputs": np.full_like(X, np.nan)}, "inputs at (0, 0) is nan"),
        ({"key": 3}, "give jax.random.key(0)"),
    ],
)
def test_what_cannot_be_guided_is_refused_in_one_line(changes, words):
    with pytest.raises(UserError) as caught:
        own(**changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"measure": metric("svcca")}, "which has no gradient"),
        ({"samples": "pixels"}, "samples is 'pixels'"),
        ({"steps": 0}, "guidance of 0 steps"),
        ({"kl": 1.5}, "a share of distillation of 1.5"),
    ],
)
def test_settings_that_cannot_be_meant(changes, words):
    with pytest.raises(UserError, match=words):
        Settings(**changes)


def test_the_gradient_of_the_alignment_in_float64_and_of_a_dead_layer():
    with jax.enable_x64(True):
        target, guide, _ = signals()
        pairs = (("g0", "t0"), ("g1", "t0"), ("g1", "t1"))
        loss = Alignment(pairs, metric("cka_debiased"), "sequences", "sum")

        def of(x):
            given = {"t0": x, "t1": jnp.asarray(target["t1"])}
            return loss(Signals(None, None, given, jax.tree.map(jnp.asarray, guide), None))

        x = jnp.asarray(target["t0"])
        gradient = jax.grad(of)(x)
        assert gradient.dtype == jnp.float64
        for i, j in ((0, 0), (4, 2), (8, 4)):
            step = jnp.zeros_like(x).at[i, j].set(1e-5)
            slope = (of(x + step) - of(x - step)) / 2e-5
            assert float(gradient[i, j]) == pytest.approx(float(slope), rel=1e-6, abs=1e-9)
        dead = jnp.zeros_like(x)
        assert float(of(dead)) == pytest.approx(2 + float(of(x)) - float(of_first(x, guide)))
        assert np.isfinite(np.asarray(jax.grad(of)(dead))).all()


def of_first(x, guide):
    both = Signals(None, None, {"t0": x}, jax.tree.map(jnp.asarray, guide), None)
    return Alignment((("g0", "t0"), ("g1", "t0")), metric("cka_debiased"), "sequences", "sum")(both)


class Counting(nn.Module):
    """Batch norm whose calls in training are counted."""

    @nn.compact
    def __call__(self, x, train=False):
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros(()))
        if train:
            calls.value = calls.value + 1
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))


def test_the_target_is_run_once_a_step_and_the_guide_never_in_training():
    """The published code runs the target twice, so that batch norm moves twice."""
    net = tj.network([("a", Counting()), ("b", Counting()), ("out", nn.Dense(2))])
    guide_variables = tj.init(net, jax.random.key(1), X[:1])
    variables, _ = own(
        guide=net, guide_variables=guide_variables, target=net, pairs="a=a, b=a, a=b, b=b"
    )
    assert [float(variables[stage]["batch_stats"]["calls"]) for stage in "ab"] == [40, 40]
    assert [float(guide_variables[stage]["batch_stats"]["calls"]) for stage in "ab"] == [0, 0]


def test_every_arm_has_its_own_loss():
    """Of distilled, kl is the share that the guide's outputs have in the task's loss."""
    config = tiny(guidance__kl=0.3, guidance__weight=2.0, guidance__reduction="sum")
    plans = {arm.name: arm.plan(arm.first()) for arm in arms_of(config) if arm.plan}
    weights = {
        name: {term.name: term.weight for term in phase.terms} for name, (phase,) in plans.items()
    }
    guided = {"cross_entropy": 1.0, "alignment": 2.0}
    assert weights == {
        "guide": {"cross_entropy": 1.0},
        "baseline": {"cross_entropy": 1.0},
        "guided_trained": guided,
        "guided_untrained": guided,
        "guided_shuffled": guided,
        "distilled": {"cross_entropy": 0.7, "kl": 0.3},
        "baseline_norm": {"cross_entropy": 1.0},
    }
    shifts = {
        name: phase.terms[-1].fn.shift for name, (phase,) in plans.items() if "guided" in name
    }
    assert shifts == {"guided_trained": 0, "guided_untrained": 0, "guided_shuffled": 1}
    assert plans["guided_trained"][0].terms[-1].fn.reduction == "sum"
