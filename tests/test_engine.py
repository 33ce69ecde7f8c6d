"""The engine on a method of a few lines: searches, seeds together and apart, arms that are solved
for or not needed.
"""

import json
import sys
import types

import jax
import numpy as np
import pytest
from killing import rows
from settings import changed

import theseus_jax as tj
from theseus_jax.arms import OURS, Arm, Search, Trial
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.nets.zoo import Architecture, build
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Patience, Phase
from theseus_jax.trees import bit_equal

TRIALS = (Trial(1e-3, 0.0), Trial(1e-2, 0.0), Trial(1e30, 0.0))


def sections(task):
    train = {"batch": 20, "chunk": 4, "save_seconds": 120.0}
    return {"train": train, "report": {"latency_repeats": 2}, "apart": False, "stop": False}


def arms(config, task):
    net = build(Architecture("mlp", width=8, depth=1, norm="layer"), task.reading, task.classes)
    loss = (Term("cross_entropy", 1.0, CrossEntropy()),)
    names = net.names[1:]  # the first only reads pixels

    def plan(turn):
        steps = 4 if turn.searching else 12
        stop = Patience(4, 1) if config.stop else None
        optimizer = Optimizer(turn.trial.rate, turn.trial.decay)
        return (Phase("train", net, names, loss, steps, optimizer=optimizer, stop=stop),)

    return (
        Arm("tuned", net, plan, role=OURS, search=Search(TRIALS, 2), apart=config.apart),
        Arm("fresh", net, solve=lambda turn: turn.fresh(net), labels=False),
        Arm("needless", net, plan=lambda turn: ()),
        Arm("fixed", net, plan),
    )


@pytest.fixture(scope="module", autouse=True)
def module():
    sys.modules["toy"] = types.ModuleType("toy")
    vars(sys.modules["toy"]).update(sections=sections, arms=arms)
    yield
    del sys.modules["toy"]


def config(**changes):
    sizes = {"data.train": 120, "data.validation": 40, "data.test": 60, "seeds": 2}
    return changed(base("classification", "toy"), sizes, **changes)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "together"
    return path, tj.run(config(), path)


def test_a_search_scores_seeds_of_its_own_on_validation_and_its_best_point_is_taken(together):
    path, results = together
    trials = [row for row in rows(path) if row["kind"] == "trial"]
    assert [(row["trial"], row["seed"]) for row in trials] == [
        (number, seed) for number in range(3) for seed in (-1, -2)
    ]
    assert not any(key.startswith("test") for row in trials for key in row)
    assert [row["validation_loss"] is None for row in trials] == [False] * 4 + [True] * 2
    means = [np.mean([row["validation_accuracy"] for row in trials[i : i + 2]]) for i in (0, 2)]
    tuned = results["models"][0]
    assert tuned["learning_rate"] == TRIALS[int(np.argmax(means))].rate
    assert tuned["at_edge"] == (tuned["learning_rate"] in (1e-3, 1e30))
    searched = [
        row for row in rows(path) if row.get("trial") is not None and row["kind"] == "train"
    ]
    assert {row["seed"] for row in searched} == {-1, -2} and {row["model"] for row in searched} == {
        "tuned"
    }
    assert not (path / "checkpoints" / "search").exists()


def test_arms_are_trained_solved_or_left_out(together):
    path, results = together
    assert [model["name"] for model in results["models"]] == ["tuned", "fresh", "fixed"]
    tuned, fresh, fixed = results["models"]
    assert tuned["optimizer_steps"] == 12 and tuned["examples_seen"] == 240
    assert fresh["optimizer_steps"] == 0 and "learning_rate" not in fresh
    assert len(tuned["seeds"]) == len(fresh["seeds"]) == 2
    assert fixed["optimizer_steps"] == 12 and fixed["labels"] == 120
    _, variables = tj.restore(path, "fresh", seed=1)
    net, other = tj.restore(path, "tuned", seed=1)
    assert jax.tree.structure(variables) == jax.tree.structure(other) and net.names[-1] == "head"
    assert results["claims"] == [] and json.loads((path / "results.json").read_text()) == results
    assert "needless" not in (path / "plan.txt").read_text()
    with pytest.raises(
        UserError, match="holds no finished model 'needless'; it has fixed, fresh, tuned"
    ):
        tj.restore(path, "needless")


def test_seeds_apart_are_the_seeds_together(together, tmp_path):
    path, results = together
    apart = tj.run(config(apart=True), tmp_path / "apart")
    phases = [
        row
        for row in rows(tmp_path / "apart")
        if row["kind"] == "phase" and row["model"] == "tuned"
    ]
    assert [row["seed"] for row in phases] == [-1, -2, -1, -2, 0, 1]
    for ours, theirs in zip(results["models"], apart["models"]):
        np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-4)
        assert ours["optimizer_steps"] == theirs["optimizer_steps"]
    shapes = [
        jax.tree.map(np.shape, tj.restore(run, "tuned", 1)[1]) for run in (path, tmp_path / "apart")
    ]
    assert shapes[0] == shapes[1]


def test_a_stopping_rule_looks_at_validation_accuracy(tmp_path):
    results = tj.run(config(stop=True), tmp_path / "s")
    scores = [
        row for row in rows(tmp_path / "s") if row["kind"] == "score" and row["model"] == "fixed"
    ]
    assert [row["step"] for row in scores][:2] == [4, 8] and all(
        0 <= row["score"] <= 1 for row in scores
    )
    assert results["models"][-1]["optimizer_steps"] == scores[-1]["step"]


def test_a_search_goes_on_where_it_was_stopped(together, tmp_path, monkeypatch):
    from theseus_jax.experiment import engine

    scored = engine._score

    def stopping(run, arm, turn, tags, variables):
        scored(run, arm, turn, tags, variables)
        if tags.get("trial") == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_score", stopping)
    with pytest.raises(KeyboardInterrupt):
        tj.run(config(), tmp_path / "b")
    monkeypatch.undo()
    tj.run(config(), tmp_path / "b")
    timeless = [
        {k: v for k, v in row.items() if "seconds" not in k} for row in rows(tmp_path / "b")
    ]
    whole = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(together[0])]
    assert [row for row in timeless if row["kind"] == "model"] == [
        row for row in whole if row["kind"] == "model"
    ]
    assert bit_equal(tj.restore(tmp_path / "b", "tuned")[1], tj.restore(together[0], "tuned")[1])
