"""How far the target is from the guide at every seam, and what hybrids of both are worth."""

import itertools
import math
import statistics
from typing import Any

from theseus_jax.report import canvas, grid, series, standing, units
from theseus_jax.report.canvas import Line, Plot
from theseus_jax.report.panel import Grid, Panel, Picture, Run
from theseus_jax.report.standing import Results

WORDED = 8  # more parts than these are numbered only
DASHED = {"linestyle": (0, (4, 2))}
DOTS = {"marker": "o", "linestyle": "none", "markersize": 5, "alpha": 0.75}
# label, what follows hybrid_ in a row's key, colour, shift of its dots, what the caption says
HYBRIDS = (
    ("hybrid", "", "#e4572e", 0.0, ""),
    ("hybrid, moving averages", "moving_", "#a463d6", -0.08, " Moving averages: of batch norm."),
    ("hybrid, raw", "raw_", "#17a398", 0.08, " Raw: without that map."),
)
MEANING = {
    "CKA": "CKA: debiased",
    "kNN": "kNN: share of mutual nearest neighbours",
    "raw": "raw: without the stitch",
    "moving": "moving: with the moving averages of batch norm",
    "recal.": "recal.: points that recalibrated statistics gain over them",
    "stitch": "stitch: parameters of the fitted map",
}


def grids(run: Run) -> list[Grid]:
    """One row a seam: held-out similarity, scores of the hybrid, parameters of the stitch."""
    short = {"perplexity": "ppl"}.get(run.results["metric"], run.results["metric"])
    columns = (
        *(("stage", "label", ""), ("CKA", "cka_debiased", "similarity")),
        *(("kNN", "mutual_knn", "similarity"), ("raw", "raw", "")),
        *(("moving", "hybrid_moving_accuracy", "share"), ("recal.", "gain", "")),
        *((short, "score", ""), ("loss", "hybrid_loss", "loss")),
        *(("stitch", "stitch_parameters", "count"), ("steps", "optimizer_steps", "whole")),
    )
    rows = [_record(run.results, stage) for stage in run.results.get("stages") or ()]
    content = grid.of(rows, columns)
    meaning = [text for label, text in MEANING.items() if label in content.header]
    title = "Stages (target = guide); hybrid = target up to the stage, guide after it"
    note = "; ".join(["Held-out data; scores are of the stitched hybrid", *meaning])
    return [content._replace(title=title, note=f"{note}.")]


def _record(results: Results, stage: dict[str, Any]) -> dict[str, Any]:
    label, seam = str(stage.get("stage")), stage.get("guide_stage")
    raw, error = stage.get("hybrid_raw_loss"), stage.get("hybrid_stderr") or None
    if results["metric"] == "perplexity":
        raw = math.exp(min(raw, 700.0)) if units.measured(raw) else raw
    elif standing.scale(results)[2]:
        raw = stage.get("hybrid_raw_accuracy")
    value, before = stage.get("hybrid_value"), stage.get("hybrid_moving_accuracy")
    gained = units.measured(value) and units.measured(before)
    return {
        **stage,
        **(stage.get("similarity") or {}),
        "label": label if seam in (None, label) else f"{label} = {seam}",
        "raw": standing.score(results, raw, None, 0),
        "gain": f"{100 * (value - before):+.1f}" if gained else None,
        "score": standing.score(results, value, error, 0),
    }


def pictures(run: Run) -> list[Picture]:
    """Distances in training, and hybrids."""
    near = "Distance to the guide's activations on training batches, mean over seeds."
    text = "Target up to a seam, then the frozen guide, which reads the target through a fitted "
    text += "linear map (the stitch), on held-out data: one dot a seed, lines through means."
    text += "".join(kind[-1] for kind in HYBRIDS if any(_scores(run, kind[1]).values()))
    return [(distances(run), near), (hybrids(run), text)]


def distances(run: Run) -> Any:
    """An <svg> of the distance at each stage against optimizer steps; None without any."""
    names = [model["name"] for model in standing.of_role(run.results, "ours")]
    curves, lines = series.distance_curves(run.rows, names), []
    for (name, points), shade in zip(curves.items(), itertools.cycle(canvas.STAGES)):
        points = series.thinned(points)
        style = {"marker": "o" if len(points) < 12 else None, "markersize": 4}
        lines.append(Line([p.step for p in points], [p.value for p in points], shade, name, style))
    settings = {"xlabel": "optimizer steps", "ylabel": "distance to the guide", "xlim": (0, None)}
    return canvas.chart([[Plot(lines, settings)]], [2.6], "Distance to the guide at each stage")


def _scores(run: Run, kind: str) -> dict[str, list[float]]:
    factor, _, percent = standing.scale(run.results)
    scores = series.stage_scores(run.rows, f"hybrid_{kind}{'accuracy' if percent else 'loss'}")
    return {stage: [factor * value for value in values] for stage, values in scores.items()}


def hybrids(run: Run) -> Any:
    """An <svg> of the hybrids' accuracy, or loss, by replaced parts; None without any."""
    factor, _, percent = standing.scale(run.results)
    lines, stages = [], list(_scores(run, ""))
    for label, kind, shade, shift, _ in HYBRIDS:
        scores = enumerate(_scores(run, kind).values(), start=1)
        known = [(i + shift, values) for i, values in scores if values]
        if known:
            means = [statistics.fmean(values) for _, values in known]
            lines.append(Line([x for x, _ in known], means, shade, label, {"linewidth": 1.3}))
            xs, ys = zip(*((x, value) for x, values in known for value in values))
            lines.append(Line(xs, ys, shade, None, DOTS))
    lines += _levels(run, factor) if lines else []
    names = stages if len(stages) <= WORDED else [""] * len(stages)
    ticks = [f"{i}\n{name}".strip() for i, name in enumerate(names, start=1)]
    unit = "accuracy (%)" if percent else f"loss ({standing.loss_unit(run.results)})"
    settings = {"xlabel": "replaced parts", "ylabel": unit, "xlim": (0.5, len(stages) + 0.5)}
    settings |= {"xticks": range(1, len(stages) + 1), "xticklabels": ticks}
    return canvas.chart([[Plot(lines, settings)]], [2.8], "Hybrids after each replaced part")


def _levels(run: Run, factor: int) -> list[Line]:
    """The models that hybrids stand against: on validation data as they do, else on test data."""
    accurate, results, lines = standing.scale(run.results)[2], run.results, []
    key, record = ("validation_accuracy", "value") if accurate else ("validation_loss", "loss")
    rivals = standing.best(results, "ours"), standing.named(results, "from_scratch")
    for model in filter(None, (*standing.of_role(results, "guide"), *rivals)):
        rows = series.of_kind(run.rows, "model", model["name"])
        values = [row[key] for row in rows if units.measured(row.get(key))]
        kind = "validation, one seed" if len(values) == 1 else "validation" if values else "test"
        values = values or [value for value in [model.get(record)] if units.measured(value)]
        if values:
            name, level = f"{model['name']} ({kind})", factor * statistics.fmean(values)
            lines.append(Line(None, [level], canvas.color(model["name"]), name, DASHED))
    return lines


PANEL = Panel("Alignment", pictures=pictures, grids=grids)
