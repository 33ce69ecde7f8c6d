"""Curves out of the rows of metrics.jsonl: seeds are averaged, those of a search (< 0) left out."""

import statistics
from typing import Any, NamedTuple, Sequence

from theseus_jax.report.units import measured

Row = dict[str, Any]
Rows = Sequence[Row]
MIXED = "swap"  # the phase that trains networks of which the guide's parts are a share
TIMED = ("train", "conversion", "stored", "maturity")  # rows whose seconds are time of training
STATISTICS = ("settling", "pattern_distance", "oui")
# what rows of training log beside the terms of their loss
TAGS = {"kind", "model", "phase", "seed", "trial", "step", "loss", "gradient_norm", "seconds"}
TAGS |= {"training_flops", "examples_seen", "learning_rate"}


class Point(NamedTuple):
    """Mean over seeds. step, flops: optimizer steps and FLOPs of a seed since it began."""

    phase: str
    step: int
    flops: float
    value: float


class Check(NamedTuple):
    """A validation score (higher is better) after seconds of training, all its phases included."""

    seconds: float
    score: float


def of_kind(rows: Rows, kind: str, model: str) -> list[Row]:
    """The rows of a model of that kind, in file order."""
    mine = (row for row in rows if row.get("kind") == kind and row.get("model") == model)
    return [row for row in mine if row.get("seed", 0) >= 0]


def curve(rows: Rows, model: str, term: str) -> list[Point]:
    """The points at which `term` was logged and finite, in order; a step done twice counts once."""
    phases: dict[str, dict[int, dict[int, Row]]] = {}
    for row in of_kind(rows, "train", model):
        if "phase" in row and "step" in row:
            steps = phases.setdefault(row["phase"], {})
            steps.setdefault(row["step"], {})[row.get("seed", 0)] = row
    points, offset, flops = [], 0, 0.0
    for phase, steps in phases.items():
        for step in sorted(steps):
            seeds = steps[step].values()
            # a row's training_flops are those since the row before it
            flops += statistics.fmean(row.get("training_flops") or 0.0 for row in seeds)
            values = [row[term] for row in seeds if measured(row.get(term))]
            if values:
                points.append(Point(phase, offset + step, flops, statistics.fmean(values)))
        offset += max(steps)
    return points


def terms(rows: Rows, model: str) -> dict[str, list[str]]:
    """phase -> the terms of its loss, in the order of training."""
    phases: dict[str, dict[str, None]] = {}
    for row in of_kind(rows, "train", model):
        logged = [key for key, value in row.items() if key not in TAGS and measured(value)]
        phases.setdefault(row.get("phase", ""), {}).update(dict.fromkeys(logged))
    return {phase: list(names) for phase, names in phases.items()}


def task_curve(rows: Rows, model: str) -> list[Point]:
    """Cross-entropy of the model by itself, which that of a mixed network is not."""
    return [point for point in curve(rows, model, "cross_entropy") if point.phase != MIXED]


def own_curve(rows: Rows, model: str) -> list[Point]:
    """The training loss of a model none of whose phases logs a cross-entropy; else nothing."""
    tasked = any("cross_entropy" in names for names in terms(rows, model).values())
    return [] if tasked else curve(rows, model, "loss")


def extent(rows: Rows, model: str) -> tuple[int, float]:
    """(optimizer steps, training FLOPs) of one seed in all its phases; (0, 0.0) if not trained."""
    points = curve(rows, model, "loss")
    return (points[-1].step, points[-1].flops) if points else (0, 0.0)


def distance_curves(rows: Rows, models: Sequence[str]) -> dict[str, list[Point]]:
    """Distance to the guide by stage, by phase where none or several are recorded for it."""
    logged = {model: points for model in models if (points := curve(rows, model, "distance"))}
    curves: dict[str, list[Point]] = {}
    for model, points in logged.items():
        stages: dict[Any, set[str]] = {}
        for row in of_kind(rows, "stage", model):
            stages.setdefault(row.get("phase"), set()).add(str(row.get("stage")))
        for point in points:
            names = stages.get(point.phase, set())
            label = min(names) if len(names) == 1 else point.phase
            curves.setdefault(label if len(logged) == 1 else f"{model}, {label}", []).append(point)
    return curves


def stage_scores(rows: Rows, key: str) -> dict[str, list[float]]:
    """A score of the hybrid after each stage, one a seed. key: such as "hybrid_loss"."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row.get("kind") == "stage" and row.get("seed", 0) >= 0:
            values = scores.setdefault(str(row.get("stage")), [])
            values += [row[key]] if measured(row.get(key)) else []
    return scores


def thinned(points: Sequence[Point], limit: int = 300) -> list[Point]:
    """At most `limit` points: means of neighbours, each placed at the last of them."""
    size = -(-len(points) // limit) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [group[-1]._replace(value=statistics.fmean(p.value for p in group)) for group in groups]


def score_curves(rows: Rows, model: str) -> dict[int, dict[int, Check]]:
    """seed -> step -> check. A selector's checks are no scores of the model; its time counts."""
    curves: dict[int, dict[int, Check]] = {}
    spent: dict[int, float] = {}
    for row in (row for row in rows if row.get("model") == model and row.get("seed", 0) >= 0):
        seed, kind = row.get("seed", 0), row.get("kind")
        if kind in TIMED and measured(row.get("seconds")):
            spent[seed] = spent.get(seed, 0.0) + row["seconds"]
        if kind == "score" and row.get("phase") != "selector" and measured(row.get("score")):
            points = curves.setdefault(seed, {})
            points[row.get("step", len(points))] = Check(spent.get(seed, 0.0), row["score"])
    return dict(sorted(curves.items()))


def mean_curve(curves: dict[int, dict[int, Check]]) -> list[Check]:
    """Means over seeds, step by step while all seeds train."""
    steps = sorted(set.intersection(*map(set, curves.values()))) if curves else []
    checks = ([points[step] for points in curves.values()] for step in steps)
    return [Check(*map(statistics.fmean, zip(*each))) for each in checks]


def solved(rows: Rows, model: Row) -> list[Check]:
    """One check a seed of a model (its record) whose weights are solved for, after all its time."""
    solves = of_kind(rows, "solve", model["name"])
    times = {row.get("seed", 0): row.get("seconds") for row in solves}
    times |= dict(enumerate(model.get("seconds_seeds") or ())) if times else {}
    finals = of_kind(rows, "model", model["name"])
    scores = {row.get("seed", 0): row.get("validation_score") for row in finals}
    checks = [Check(times.get(seed), score) for seed, score in sorted(scores.items())]
    return [check for check in checks if all(map(measured, check))]


def settling(rows: Rows, model: str) -> dict[str, dict[int, list[float]]]:
    """Statistic -> epoch -> one value a seed; settling (m_t) is over the largest of its seed."""
    watched = [row for row in of_kind(rows, "maturity", model) if measured(row.get("step"))]
    # a selector is watched once an epoch, so the smallest step is that of one epoch
    every = min((row["step"] for row in watched), default=0) or 1
    values: dict[str, dict[int, list[float]]] = {}
    for key in STATISTICS:
        known = [row for row in watched if measured(row.get(key))]
        for row in known:
            mine = [each[key] for each in known if each.get("seed") == row.get("seed")]
            largest = max(mine) if key == "settling" else 1.0
            if largest > 0:
                epochs = values.setdefault(key, {})
                epochs.setdefault(round(row["step"] / every), []).append(row[key] / largest)
    return {key: dict(sorted(epochs.items())) for key, epochs in values.items()}
