"""Training curves out of the rows of metrics.jsonl: phases follow each other, seeds are averaged."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple, Sequence

from theseus_jax.report.units import measured

Rows = Sequence[dict[str, Any]]
FINISH = "finetune"  # the phase that trains the whole network: its losses are its own, a distance only one of them


class Point(NamedTuple):
    """Mean over seeds. step, flops: optimizer steps and training FLOPs of one seed since the start."""

    phase: str
    step: int
    flops: float
    value: float


def curve(rows: Rows, model: str, term: str) -> list[Point]:
    """The points of `model` at which `term` was logged, in order of training.

    Negative seeds are those of a search and left out. A row's training_flops are those since the row before
    it, so they are summed. Rows of a step that was done twice count once, the later one. Values that are not
    finite are left out.
    """
    phases: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
    for row in rows:
        if row.get("kind") == "train" and row.get("model") == model and row.get("seed", 0) >= 0:
            phases.setdefault(row["phase"], {}).setdefault(row["step"], {})[row.get("seed", 0)] = row
    points, offset, flops = [], 0, 0.0
    for phase, steps in phases.items():
        for step in sorted(steps):
            seeds = steps[step].values()
            flops += sum(row.get("training_flops") or 0.0 for row in seeds) / len(seeds)
            values = [row[term] for row in seeds if measured(row.get(term))]
            if values:
                points.append(Point(phase, offset + step, flops, sum(values) / len(values)))
        offset += max(steps)
    return points


def task_curve(rows: Rows, model: str) -> list[Point]:
    """Cross-entropy of the model by itself.

    Left out are phases in which the guide's parts stand in for some of its own: alignment (with a distance)
    and stochastic replacement ("swap"), whose cross-entropy is the mixed network's.
    """
    mixed = {
        row.get("phase")
        for row in rows
        if row.get("kind") == "train"
        and row.get("model") == model
        and ("distance" in row or row.get("phase") == "swap")
        and row.get("phase") != FINISH
    }
    return [point for point in curve(rows, model, "cross_entropy") if point.phase not in mixed]


def extent(rows: Rows, model: str) -> tuple[int, float]:
    """(optimizer steps, training FLOPs) of one seed of `model`, all its phases; (0, 0.0) if not trained."""
    points = curve(rows, model, "loss")
    return (points[-1].step, points[-1].flops) if points else (0, 0.0)


def distance_curves(rows: Rows, model: str = "converted") -> dict[str, list[Point]]:
    """Alignment distance by stage (by phase where none or several are recorded for it), in order of training."""
    stages: dict[Any, set[str]] = {}
    for row in rows:
        if row.get("kind") == "stage" and row.get("model") == model:
            stages.setdefault(row.get("phase"), set()).add(str(row.get("stage")))
    curves: dict[str, list[Point]] = {}
    for point in curve(rows, model, "distance"):
        found = stages.get(point.phase, ())
        curves.setdefault(*found if len(found) == 1 else (point.phase,), []).append(point)
    return curves


def final(rows: Rows, model: str, key: str) -> list[float]:
    """What was measured of the trained `model` under `key`, one a seed."""
    return [
        row[key]
        for row in rows
        if row.get("kind") == "model"
        and row.get("model") == model
        and row.get("seed", 0) >= 0
        and measured(row.get(key))
    ]


def stage_scores(rows: Rows, key: str) -> dict[str, list[float]]:
    """A score of the hybrid after each stage, one a seed. key: such as "hybrid_loss", "hybrid_raw_accuracy"."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row.get("kind") == "stage" and row.get("model", "converted") == "converted":
            scores.setdefault(str(row.get("stage")), []).extend([row[key]] if measured(row.get(key)) else [])
    return scores


def thinned(points: Sequence[Point], limit: int = 300) -> list[Point]:
    """At most `limit` points: means of neighbours, each placed at the last of them."""
    size = -(-len(points) // limit) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [group[-1]._replace(value=statistics.fmean(point.value for point in group)) for group in groups]
