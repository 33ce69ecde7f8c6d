"""The tables of a run as rows of text cells, and as aligned plain text."""

from __future__ import annotations

import math
import textwrap
from typing import Any, NamedTuple, Sequence

from theseus_jax.judging import FAILS, HOLDS, UNDECIDED, verdict_of
from theseus_jax.report import classes, units

WIDTH = 100
CONTEXTS = (("128", "128"), ("1024", "1k"), ("8192", "8k"))


class Grid(NamedTuple):
    """A table: rows of as many cells as the header; the first `names` columns are names, others figures."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    names: int = 1


def ordered(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Guide first, then converted, then the rest as they were run."""
    first = ("guide", "converted")
    return sorted(
        models, key=lambda model: first.index(model["name"]) if model["name"] in first else len(first)
    )


def named(results: dict[str, Any], name: str) -> dict[str, Any]:
    """The model of that name, or an empty dict."""
    return next((model for model in results["models"] if model["name"] == name), {})


def score(results: dict[str, Any], value: Any, error: Any, count: int) -> str:
    """A value of the run's metric with its spread over `count` seeds; accuracies of classifications in percent."""
    if classes.classifies(results):
        return classes.percent_spread(value, error, count)
    return units.spread(value, error, count, 2 if results["metric"] == "perplexity" else 4)


def seed_count(model: dict[str, Any]) -> int:
    """Seeds behind a model's value; where a record does not list them, one unless it has a standard error."""
    return len(model.get("seeds") or ()) or (2 if model.get("stderr") else 1)


def loss_unit(results: dict[str, Any]) -> str:
    """Unit of every loss of the run."""
    return "nats per token" if results["metric"] == "perplexity" else "nats"


def gap_unit(results: dict[str, Any]) -> str:
    """What the gap between from_scratch and guide is measured in, as in the run's claims: accuracy or loss."""
    return "accuracy" if classes.classifies(results) else "loss"


def gap_recovered(results: dict[str, Any]) -> float | None:
    """(from_scratch - converted) / (from_scratch - guide) in `gap_unit`: 1 is the guide's, 0 is from_scratch's.

    None where one of the three is not measured, or the guide is no better than from_scratch.
    """
    key, sign = ("value", -1) if classes.classifies(results) else ("loss", 1)
    found = [named(results, name).get(key) for name in ("guide", "converted", "from_scratch")]
    if not all(map(units.measured, found)):
        return None
    guide, ours, scratch = (sign * value for value in found)
    return (scratch - ours) / (scratch - guide) if guide < scratch else None


def model_grid(results: dict[str, Any]) -> Grid:
    """One row a model: test score and spread, loss, bits per byte, and what training one seed took.

    examples, labels: how many training examples the model could use, and how many of them with labels. MFU: FLOPs a second as
    a share of the device's peak, where that is known.
    Parameters of classifiers stand with the costs of use alone.
    """
    sized = not classes.classifies(results)
    rows = [
        (
            model["name"],
            score(results, model.get("value"), model.get("stderr"), seed_count(model)),
            units.number(model.get("loss"), 3),
            units.number(model.get("bits_per_byte"), 3),
            units.number(model.get("train_examples"), 0),
            units.number(model.get("labels"), 0),
            units.number(model.get("optimizer_steps"), 0),
            units.human(model.get("training_flops")),
            units.number(model.get("seconds"), 1),
            classes.percent(model.get("mfu")),
            units.human(model.get("parameters")) if sized else "-",
        )
        for model in ordered(results["models"])
    ]
    taken = ("examples", "labels", "steps", "FLOPs", "seconds", "MFU", "params")
    return drop_empty(Grid(("model", results["metric"], "loss", "bits/byte", *taken), rows))


def each_seed(results: dict[str, Any], model: dict[str, Any]) -> str:
    """The value of every seed, accuracies of classifications in percent."""
    factor, decimals = (100, 2) if classes.classifies(results) else (1, 2 if results["metric"] == "perplexity" else 4)
    values = (factor * value if units.measured(value) else value for value in model.get("seeds") or ())
    return " ".join(units.number(value, decimals) for value in values) or "-"


def cost_grid(results: dict[str, Any]) -> Grid:
    """One row a model: what using it takes, with the parameters in adapters where any has some.

    Latencies are medians at batch 1.
    """
    adapted = any(model.get("adapter_parameters") for model in results["models"])
    rows = [
        (
            model["name"],
            units.human(model.get("parameters")),
            units.human(model.get("adapter_parameters")) if adapted else "-",
            units.human(model.get("flops_per_example")),
            units.duration(model.get("latency_us")),
            units.duration(model.get("token_latency_us")),
            *(units.size((model.get("state_bytes") or {}).get(key)) for key, _ in CONTEXTS),
        )
        for model in ordered(results["models"])
    ]
    return drop_empty(
        Grid(
            (
                "model",
                "params",
                "in adapters",
                "FLOPs/ex.",
                "forward",
                "1 token",
                *(f"state {label}" for _, label in CONTEXTS),
            ),
            rows,
        )
    )


def stage_grid(results: dict[str, Any]) -> Grid:
    """One row an alignment stage: held-out similarity, and the hybrid of target prefix and guide suffix."""
    rows = []
    for stage in results.get("stages") or ():
        similarity, raw = stage.get("similarity") or {}, stage.get("hybrid_raw_loss")
        perplexity = results["metric"] == "perplexity" and units.measured(raw) and raw < 700
        label, seam = str(stage.get("stage")), stage.get("guide_stage")
        rows.append(
            (
                label if seam in (None, label) else f"{label} = {seam}",
                units.number(similarity.get("cka_debiased"), 3),
                units.number(similarity.get("mutual_knn"), 3),
                units.number(raw, 3),
                units.number(math.exp(raw) if perplexity else None),
                units.number(stage.get("hybrid_loss"), 3),
                score(results, stage.get("hybrid_value"), stage.get("hybrid_stderr") or None, 0),
                units.human(stage.get("stitch_parameters")),
                units.number(stage.get("optimizer_steps"), 0),
            )
        )
    short = {"perplexity": "ppl"}.get(results["metric"], results["metric"])
    header = ("stage", "CKA", "kNN", "raw loss", f"raw {short}", "loss", short, "stitch", "steps")
    return drop_empty(Grid(header, rows))


def drop_empty(grid: Grid) -> Grid:
    """Without the columns, after the first two, in which no row has anything."""
    kept = [i for i in range(len(grid.header)) if i < 2 or any(row[i] != "-" for row in grid.rows)]
    return Grid(
        tuple(grid.header[i] for i in kept), [tuple(row[i] for i in kept) for row in grid.rows], grid.names
    )


def aligned(grid: Grid) -> str:
    """Plain text: names to the left, figures to the right, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(grid.header, *grid.rows)]
    lines = [grid.header, tuple("-" * width for width in widths), *grid.rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < grid.names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


MARKS = {HOLDS: "holds", FAILS: "FAILS", UNDECIDED: "undecided"}


def claim_lines(claims: Sequence[dict[str, Any]]) -> list[str]:
    """Each claim as "holds", "FAILS" or "undecided" with what was measured."""
    lines = []
    for claim in claims:
        mark = MARKS[verdict_of(claim)]
        lines += textwrap.wrap(f"{mark}  {claim.get('text')}", WIDTH, subsequent_indent=" " * 7)
        measured = str(claim.get("measured", "no measurement is given"))
        lines += textwrap.wrap(measured, WIDTH, initial_indent=" " * 7, subsequent_indent=" " * 7)
    return lines
