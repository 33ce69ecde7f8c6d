"""What a comparison of heads adds to results.json: time to declared scores, receipts, the budget,
and claims.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np

from theseus_jax.arms import Finished
from theseus_jax.judging import judge
from theseus_jax.methods.claims import fact, judged
from theseus_jax.methods.glai.budget import budget
from theseus_jax.methods.glai.config import SOLVED

# times are measured to the best validation score that every seed of these reaches
DECLARED = ("mlp_sgd", "mlp_adam")
COUNTED = ("train", "conversion", "stored", "maturity")  # rows whose seconds are training time
CLAIMING = ("glai_joint", "glai_path")
RIVALS = (
    "mlp_sgd",
    "mlp_adam",
    "mlp_reduced",
    "linear_sgd",
    "linear_adam",
    "logistic",
    "glai_untrained",
)
Row = dict[str, Any]


def results(finished: Finished) -> Row:
    """The models with times to declared scores; declared, budget, conversions, selector_epochs and
    claims.
    """
    config, task = finished.config, finished.task
    rows = [row for row in finished.rows if row.get("seed", -1) >= 0]
    curves = {
        model["name"]: [curve(rows, model["name"], seed) for seed in range(config.seeds)]
        for model in finished.models
    }
    declared = {
        name: min(max(score for _, score in one) for one in curves[name])
        for name in DECLARED
        if name in curves
    }
    models = []
    for model in finished.models:
        for name, target in declared.items():
            times = [reached(one, target) for one in curves[model["name"]]]
            mean = float(np.mean(times)) if None not in times else None
            model = model | {
                f"seconds_to_{name}": mean,
                f"seconds_to_{name}_seeds": times,
                f"reached_{name}": sum(time is not None for time in times),
            }
        models.append(model)
    spent = budget(task.inputs, tuple(config.head.hidden), task.outputs, config.glai.rho)
    tests = finished.data.facts["data"]["eval_examples"]
    return {
        "models": models,
        "budget": spent._asdict(),
        "declared": declared,
        "conversions": [row for row in rows if row["kind"] == "conversion"],
        "selector_epochs": _selector_epochs(rows, task.steps_per_epoch),
        "claims": claims(models, rows, tests),
    }


def curve(rows: Sequence[Row], arm: str, seed: int) -> list[tuple[float, float]]:
    """(seconds of training so far, validation score) of each check of one seed of an arm, in order;
    a solver has one.
    """
    mine = [row for row in rows if row.get("model") == arm and row["seed"] == seed]
    if arm in SOLVED:
        solves = [row for row in mine if row["kind"] == "solve"]
        seconds = sum(row["seconds"] + row.get("before_seconds", 0.0) for row in solves)
        return [(seconds, row["validation_score"]) for row in mine if row["kind"] == "model"]
    points, seconds = [], 0.0
    for row in mine:
        if row["kind"] in COUNTED:
            seconds += row["seconds"]
        if row["kind"] == "score" and row["phase"] != "selector":
            points.append((seconds, row["score"]))
    return points


def reached(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Seconds until the first check at or above the target, None if there is none."""
    return next((seconds for seconds, score in points if score >= target), None)


def _selector_epochs(rows: Sequence[Row], steps: int) -> dict[str, list[int]]:
    """Epochs that each seed's selector was trained, by arm."""
    epochs: dict[str, list[int]] = {}
    for row in rows:
        if row["kind"] == "phase" and row["phase"] == "selector":
            epochs.setdefault(row["model"], []).append(row["optimizer_steps"] // steps)
    return epochs


def claims(models: Sequence[Row], rows: Sequence[Row], test_examples: int) -> list[Row]:
    """What a comparison set out to show, by the rule of `judging`."""
    named = {model["name"]: model for model in models}
    stated = []
    shares = [
        row["largest_logit_difference"] / row["largest_logit"]
        for row in rows
        if "largest_logit_difference" in row
    ]
    if shares:
        stated.append(
            fact(
                "the conversion is exact: before pruning no logit moves by more than 1e-5 of the"
                " largest",
                max(shares) <= 1e-5,
                f"{max(shares):.1e} at most, over {len(shares)} conversions",
            )
        )
    for ours in (named[name] for name in CLAIMING if name in named):
        for rival in RIVALS:
            if rival in named:
                stated.append(_score_claim(ours, named[rival], test_examples))
        for rival in DECLARED:
            if rival in named:
                stated.append(_time_claim(ours, named[rival]))
    return stated


def _score_claim(ours: Row, rival: Row, test_examples: int) -> Row:
    """Losses are compared where there is no accuracy: then both lists of seeds hold losses."""
    accuracy = ours["seeds"] != ours["losses"]
    sign = 1 if accuracy else -1
    found = judge(sign * (np.asarray(ours["seeds"]) - np.asarray(rival["seeds"])))
    count = f", {found.mean * test_examples:+.1f} of {test_examples} test examples"
    return judged(
        f"{ours['name']} scores better than {rival['name']}",
        found,
        f"{ours['value']:.4f} against {rival['value']:.4f}: {found}{count if accuracy else ''}",
    )


def _time_claim(ours: Row, rival: Row) -> Row:
    key = f"seconds_to_{rival['name']}_seeds"
    mine, theirs = ours[key], rival[key]
    text = (
        f"{ours['name']} reaches the validation score that every seed of {rival['name']} reaches,"
        f" sooner than {rival['name']}"
    )
    pairs = [(a, b) for a, b in zip(mine, theirs) if a is not None and b is not None]
    if None in mine or not pairs:
        there = len(mine) - mine.count(None)
        return fact(text, False, f"reached by {there} of {len(mine)} seeds")
    found = judge(np.log([b / a for a, b in pairs]))
    low, high = (math.exp(min(found.mean + side * found.half, 99.0)) for side in (-1, 1))
    ours_mean, theirs_mean = (np.mean(times) for times in zip(*pairs))
    return judged(
        text,
        found,
        f"{math.exp(found.mean):.2f} times as fast [{low:.2f}, {high:.2f}] (geometric mean, 95 %"
        f" over {len(pairs)} paired seeds): {ours_mean:.4f} s against {theirs_mean:.4f} s",
    )
