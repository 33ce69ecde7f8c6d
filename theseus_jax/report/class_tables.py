"""The tables that runs of task "classification" add: hybrids in accuracy, similarity of the guide, features."""

from __future__ import annotations

import math
import statistics
from typing import Any, Sequence

from theseus_jax.report import classes, units
from theseus_jax.report.tables import Grid, cost_grid, drop_empty, ordered, score

TERMINAL_STAGES = 12  # more stages than these have no table in the terminal
AGREEMENT = ("cosine", "pearson", "spearman")
COSTS = ("parameters", "adapter_parameters", "flops_per_example", "latency_us")


def stage_grid(results: dict[str, Any]) -> Grid:
    """One row a seam: held-out similarity, accuracies of the hybrid, and the parameters of the stitch.

    raw: without the stitch. moving: with moving averages in batch norm; recal.: points that recalibrated
    statistics gain over them. accuracy, loss: of the stitched hybrid as it is judged.
    """
    rows = []
    for stage in results.get("stages") or ():
        similarity = stage.get("similarity") or {}
        label, seam = str(stage.get("stage")), stage.get("guide_stage")
        rows.append(
            (
                label if seam in (None, label) else f"{label} = {seam}",
                units.number(similarity.get("cka_debiased"), 3),
                units.number(similarity.get("mutual_knn"), 3),
                classes.percent(stage.get("hybrid_raw_accuracy")),
                classes.percent(stage.get("hybrid_moving_accuracy")),
                classes.points(classes.recalibration(stage)),
                score(results, stage.get("hybrid_value"), stage.get("hybrid_stderr") or None, 0),
                units.number(stage.get("hybrid_loss"), 3),
                units.human(stage.get("stitch_parameters")),
                units.number(stage.get("optimizer_steps"), 0),
            )
        )
    header = ("stage", "CKA", "kNN", "raw", "moving", "recal.", "accuracy", "loss", "stitch", "steps")
    return drop_empty(Grid(header, rows))


def use_grid(results: dict[str, Any]) -> Grid:
    """What using the networks takes: guide, converted, and models whose costs are not those of converted."""
    shown: list[dict[str, Any]] = []
    for model in ordered(results["models"]):
        same = any(_costs(model) == _costs(other) for other in shown)
        if model["name"] in ("guide", "converted") or not same:
            shown.append(model)
    return cost_grid(results | {"models": shown})


def _costs(model: dict[str, Any]) -> Sequence[Any]:
    return tuple(model.get(key) for key in COSTS)


def feature_cells(model: dict[str, Any]) -> tuple[str, ...]:
    """(probe accuracy with its spread where seeds are listed, cosine, Pearson, Spearman); "-" where not measured."""
    agreement, seeds = model.get("agreement") or {}, model.get("probe_seeds") or ()
    error = statistics.stdev(seeds) / math.sqrt(len(seeds)) if len(seeds) > 1 else None
    return (
        classes.percent_spread(model.get("probe_accuracy"), error, len(seeds)),
        *(units.number(agreement.get(key), 3) for key in AGREEMENT),
    )


def feature_grid(results: dict[str, Any]) -> Grid:
    """One row a model whose features were measured: a linear probe's accuracy, agreement with the guide's."""
    rows = [(model["name"], *feature_cells(model)) for model in ordered(results["models"])]
    rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
    full = Grid(("model", "probe", *AGREEMENT), rows)
    kept = [i for i in range(len(full.header)) if i == 0 or any(row[i] != "-" for row in rows)]
    return Grid(tuple(full.header[i] for i in kept), [tuple(row[i] for i in kept) for row in rows])


def similarity_grid(results: dict[str, Any]) -> Grid | None:
    """Debiased CKA of every two stages of the guide, below the diagonal; seams are named with the target's stage."""
    found = classes.guide_similarity(results)
    if found is None:
        return None
    names, matrix = found
    seams = classes.seams(results)
    rows = [
        (
            str(i + 1),
            f"{name} = {seams[name]}" if name in seams else name,
            *(units.number(value, 2) for value in matrix[i][: i + 1]),
            *("" for _ in names[i + 1 :]),
        )
        for i, name in enumerate(names)
    ]
    return Grid(("", "stage = seam", *(str(i + 1) for i in range(len(names)))), rows, names=2)


def stage_words(grid: Grid) -> str:
    """What the columns of `stage_grid` mean, of those that are there."""
    words = {
        "raw": "raw: without the stitch",
        "moving": "moving: with the moving averages of batch norm",
        "recal.": "recal.: points that recalibrated statistics gain over them",
        "stitch": "stitch: parameters of the fitted map",
    }
    return "; ".join(text for name, text in words.items() if name in grid.header)
