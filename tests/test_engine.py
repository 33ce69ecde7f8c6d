"""The engine on a method of a few lines: searches, seeds together and apart, arms that are solved
for or not needed.
"""

import dataclasses
import json
import re
import sys
import types

import flax.linen as nn
import jax
import numpy as np
import pytest
from killing import rows, timeless
from settings import changed

import theseus_jax as tj
from theseus_jax.arms import OURS, RESERVED, Arm, Search, Trial
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.experiment.models import stages
from theseus_jax.feeds import Feed
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


def stopped(monkeypatch, when):
    """The engine raises KeyboardInterrupt after the score for which `when(turn, tags)` is true."""
    from theseus_jax.experiment import engine

    scored = engine._score

    def stopping(run, arm, turn, tags, variables):
        scored(run, arm, turn, tags, variables)
        if when(turn, tags):
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_score", stopping)


def test_a_search_goes_on_behind_its_last_whole_trial(together, tmp_path, monkeypatch):
    stopped(monkeypatch, lambda turn, tags: tags.get("trial") == 1)
    with pytest.raises(KeyboardInterrupt):
        tj.run(config(), tmp_path / "b")
    monkeypatch.undo()
    before = rows(tmp_path / "b")
    assert before[-1]["kind"] == "trial" and before[-1]["trial"] == 1
    tj.run(config(), tmp_path / "b")
    assert rows(tmp_path / "b")[: len(before)] == before  # seconds too: nothing was done again
    assert timeless(rows(tmp_path / "b")) == timeless(rows(together[0]))
    assert bit_equal(tj.restore(tmp_path / "b", "tuned")[1], tj.restore(together[0], "tuned")[1])


def test_seeds_apart_go_on_where_one_was_done(tmp_path, monkeypatch):
    """The first stage has no parameters, which no checkpoint holds."""
    whole = tj.run(config(apart=True), tmp_path / "a")
    stopped(monkeypatch, lambda turn, tags: turn.seeds == (1,) and "trial" not in tags)
    with pytest.raises(KeyboardInterrupt):
        tj.run(config(apart=True), tmp_path / "b")
    monkeypatch.undo()
    again = tj.run(config(apart=True), tmp_path / "b")
    assert [m["seeds"] for m in again["models"]] == [m["seeds"] for m in whole["models"]]
    left = sorted(path.name for path in (tmp_path / "b" / "checkpoints").glob("*"))
    assert [name for name in left if name not in RESERVED] == ["fixed", "fresh", "tuned"]
    folders = (tmp_path / "b" / "checkpoints" / name for name in RESERVED)
    assert not [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"name": "tuned"}, "the arm 'tuned' cannot be called so; give it a name without '/'"),
        ({"name": "search"}, "the arm 'search' cannot be called so"),
        ({"role": "our"}, "has the role 'our'; choose guide, ours or rival"),
        ({"plan": None}, "needs a plan or a solve, and one of them alone"),
        ({"guide": "later"}, "is guided by 'later', which is none of the earlier arms (tuned)"),
        ({"examples": "al"}, "may use the examples 'al'; the data have all, share, unlabelled"),
        ({"search": Search((), 2)}, "has a search without trials or seeds"),
        ({"net": tj.network([("head", nn.Dense(3))])}, "has another network than its last phase"),
    ],
)
def test_arms_that_cannot_be_made_are_refused_before_anything_is_trained(
    changes, words, tmp_path, monkeypatch
):
    def wrong(config, task):
        first, *_, last = arms(config, task)
        return first, last._replace(**changes)

    monkeypatch.setattr(sys.modules["toy"], "arms", wrong)
    with pytest.raises(UserError, match=re.escape(words)):
        tj.run(config(), tmp_path / "r")
    assert not (tmp_path / "r" / "metrics.jsonl").exists()


def test_a_phase_with_a_guide_needs_an_arm_with_one(tmp_path, monkeypatch):
    def unguided(config, task):
        first, *_ = arms(config, task)
        phase = first.plan(first.first())[0]
        fed = dataclasses.replace(phase, feed=Feed(guide=first.net))
        return (first, Arm("taught", first.net, lambda turn: (fed,)))

    monkeypatch.setattr(sys.modules["toy"], "arms", unguided)
    with pytest.raises(UserError, match="is fed by a guide and the arm names none; give Arm"):
        tj.dry_run(config())


def test_hybrids_are_means_of_each_models_own_seeds():
    task = types.SimpleNamespace(value=lambda scores: scores["accuracy"])
    measured = [
        {
            "kind": "stage",
            "model": model,
            "stage": "block_1",
            "guide_stage": "block_1",
            "seed": seed,
            "hybrid_accuracy": value,
            "hybrid_loss": 1.0,
            "stitch_parameters": 1,
            "optimizer_steps": 1,
        }
        for model, seed, value in (("a", 0, 0.9), ("a", 1, 0.7), ("a", -1, 0.1), ("b", 0, 0.2))
    ]
    records = stages(measured, task)
    assert [(one["model"], one["hybrid_value"]) for one in records] == [
        ("a", pytest.approx(0.8)),
        ("b", 0.2),
    ]


def test_a_config_of_another_pair_is_refused_by_the_key_that_it_lacks():
    made = base("classification")
    made.method = "toy"
    with pytest.raises(UserError, match="config.apart is missing, which the task 'classification'"):
        tj.dry_run(made)


@pytest.mark.parametrize(
    "text, words",
    [
        ("def sections(", "cannot be imported: SyntaxError"),
        (
            "from jax import nothing",
            "cannot be imported: ImportError: cannot import name 'nothing'",
        ),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_module_that_breaks_is_told_apart_from_none(text, words, tmp_path, monkeypatch):
    (tmp_path / "broken_method.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=re.escape(words)):
        base("classification", "broken_method")
    with pytest.raises(UserError, match="choose one of convert, glai, guide, plasticity, or name"):
        base("classification", "no_such_method")


def test_a_mistyped_key_is_refused_where_it_is_written():
    with pytest.raises((AttributeError, KeyError), match="sorce"):
        config().data.sorce = "digits"


def test_task_and_method_may_not_have_the_same_key(monkeypatch):
    monkeypatch.setattr(sys.modules["toy"], "sections", lambda task: {"data": {"source": "mine"}})
    with pytest.raises(UserError, match="have the key data.source; rename one of them"):
        base("classification", "toy")
