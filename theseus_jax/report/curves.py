"""Training curves out of the rows of metrics.jsonl: phases follow each other, seeds are averaged."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple, Sequence

from theseus_jax.report.units import measured

Rows = Sequence[dict[str, Any]]


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
    }
    return [point for point in curve(rows, model, "cross_entropy") if point.phase not in mixed]


def extent(rows: Rows, model: str) -> tuple[int, float]:
    """(optimizer steps, training FLOPs) of one seed of `model`, all its phases; (0, 0.0) if not trained."""
    points = curve(rows, model, "loss")
    return (points[-1].step, points[-1].flops) if points else (0, 0.0)


def distance_curves(rows: Rows, model: str = "converted") -> dict[str, list[Point]]:
    """Alignment distance by stage (by phase where no stage is recorded for it), in order of training."""
    stages = {
        row.get("phase"): str(row.get("stage"))
        for row in rows
        if row.get("kind") == "stage" and row.get("model") == model
    }
    curves: dict[str, list[Point]] = {}
    for point in curve(rows, model, "distance"):
        curves.setdefault(stages.get(point.phase, point.phase), []).append(point)
    return curves


def stage_losses(rows: Rows, key: str) -> dict[str, list[float]]:
    """Loss of the hybrid after each stage, one a seed. key: "hybrid_loss" (stitched) or "hybrid_raw_loss"."""
    losses: dict[str, list[float]] = {}
    for row in rows:
        if row.get("kind") == "stage" and row.get("model", "converted") == "converted":
            losses.setdefault(str(row.get("stage")), []).extend([row[key]] if measured(row.get(key)) else [])
    return losses


def thinned(points: Sequence[Point], limit: int = 300) -> list[Point]:
    """At most `limit` points: means of neighbours, each placed at the last of them."""
    size = -(-len(points) // limit) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [group[-1]._replace(value=statistics.fmean(point.value for point in group)) for group in groups]
