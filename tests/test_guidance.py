"""Guidance: the loss over a list of pairs, its weight, the noise control, and a whole run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killing import rows
from settings import changed
from test_similarity import loop_cka, loop_hsic_0

import theseus_jax as tj
from theseus_jax.balance import Until, at
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.objectives import Alignment, Signals
from theseus_jax.similarity import metric

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
