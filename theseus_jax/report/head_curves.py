"""Curves of a run of task "head" out of metrics.jsonl: validation scores over seconds, a selector's settling.

Negative seeds are those of the search and left out everywhere.
"""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple, Sequence

from theseus_jax.report.units import measured

Rows = Sequence[dict[str, Any]]
STATISTICS = ("settling", "pattern_distance", "oui")


class Check(NamedTuple):
    """A validation score (higher is better) after seconds of training, selector and conversion included."""

    seconds: float
    score: float


def by_seed(rows: Rows, model: str) -> dict[int, list[dict[str, Any]]]:
    """The rows of each seed of `model`, in file order."""
    seeds: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("model") == model and row.get("seed", 0) >= 0:
            seeds.setdefault(row.get("seed", 0), []).append(row)
    return dict(sorted(seeds.items()))


def score_curves(rows: Rows, model: str) -> dict[int, dict[int, Check]]:
    """seed -> step -> check of a trained arm. The checks of a selector are no scores; its time counts."""
    curves = {}
    for seed, mine in by_seed(rows, model).items():
        points, spent = {}, 0.0
        for row in mine:
            if row.get("kind") in ("train", "conversion", "stored", "maturity"):
                spent += _seconds(row)
            scored = row.get("kind") == "score" and row.get("phase") != "selector"
            if scored and measured(row.get("score")):
                points[row.get("step", len(points))] = Check(spent, row["score"])
        if points:
            curves[seed] = points
    return curves


def mean_curve(curves: dict[int, dict[int, Check]]) -> list[Check]:
    """Means over seeds, step by step while all seeds train."""
    shared = set.intersection(*(set(points) for points in curves.values())) if curves else set()
    return [
        Check(*(statistics.fmean(column) for column in zip(*(points[step] for points in curves.values()))))
        for step in sorted(shared)
    ]


def solved(rows: Rows, model: str) -> list[Check]:
    """One check a seed of an arm whose weights are solved for; time counts that of the paths it reads."""
    before = dict(ready(rows, "glai_joint")) if model.startswith("glai_joint_") else {}
    checks = []
    for seed, mine in by_seed(rows, model).items():
        times = [_seconds(row) for row in mine if row.get("kind") == "solve"]
        scores = [row.get("validation_score") for row in mine if row.get("kind") == "model"]
        if times and scores and measured(scores[-1]):
            checks.append(Check(before.get(seed, 0.0) + sum(times), scores[-1]))
    return checks


def ready(rows: Rows, model: str) -> list[tuple[int, float]]:
    """(seed, seconds until its selector was trained and converted), for seeds with a conversion."""
    found = []
    for seed, mine in by_seed(rows, model).items():
        if any(row.get("kind") == "conversion" for row in mine):
            counted = [row for row in mine if row.get("kind") in ("conversion", "maturity") or _selects(row)]
            found.append((seed, sum(map(_seconds, counted))))
    return found


def _selects(row: dict[str, Any]) -> bool:
    return row.get("kind") == "train" and row.get("phase") == "selector"


def _seconds(row: dict[str, Any]) -> float:
    return row["seconds"] if measured(row.get("seconds")) else 0.0


class Settling(NamedTuple):
    """A selector's path to its end. values: statistic -> epoch -> one value a seed; ends: seed -> its epochs.

    settling (m_t) is over the largest of its seed.
    """

    model: str
    values: dict[str, dict[int, list[float]]]
    ends: dict[int, int]


def settling(rows: Rows) -> Settling | None:
    """The selectors of glai_joint, or else of the first arm whose selector was watched; None without one.

    A selector is watched once an epoch, so the smallest step of all is that of one epoch.
    """
    watched = [row for row in rows if row.get("kind") == "maturity" and row.get("seed", 0) >= 0]
    watched = [row for row in watched if measured(row.get("step")) and row["step"] > 0]
    if not watched:
        return None
    names = [row.get("model") for row in watched]
    model = "glai_joint" if "glai_joint" in names else names[0]
    watched = [row for row in watched if row.get("model") == model]
    every = min(row["step"] for row in watched)
    values: dict[str, dict[int, list[float]]] = {key: {} for key in STATISTICS}
    ends = {}
    lengths = {
        row.get("seed", 0): row["optimizer_steps"]
        for row in rows
        if row.get("kind") == "phase" and row.get("model") == model and row.get("phase") == "selector"
        if measured(row.get("optimizer_steps"))
    }
    for seed, mine in by_seed(watched, str(model)).items():
        epochs = {round(row["step"] / every): row for row in mine}
        # the end of the longest selector is not watched any more
        ends[seed] = max(round(lengths.get(seed, 0) / every), *epochs)
        for key in STATISTICS:
            known = {epoch: row[key] for epoch, row in epochs.items() if measured(row.get(key))}
            largest = max(known.values(), default=0.0) if key == "settling" else 1.0
            for epoch in sorted(known) if largest > 0 else ():
                values[key].setdefault(epoch, []).append(known[epoch] / largest)
    return Settling(str(model), values, ends)
