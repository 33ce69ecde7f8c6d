"""The tables of a run of task "head" as rows of text cells: scores, speed, conversions, budget."""

from __future__ import annotations

import statistics
from typing import Any, Sequence

from theseus_jax.report import heads, units
from theseus_jax.report.tables import Grid, cost_grid, drop_empty, score, seed_count


def score_grid(results: dict[str, Any]) -> Grid:
    """One row a model, families together: test score and spread, loss, size, work of training one seed."""
    contrast = results["metric"] == "loss"  # then the score is the loss
    rows, before = [], ""
    for model in heads.grouped(results["models"]):
        family = heads.family(model["name"])
        rows.append(
            (
                "" if family == before else family,
                model["name"],
                score(results, model.get("value"), model.get("stderr"), seed_count(model)),
                "-" if contrast else units.number(model.get("loss"), 3),
                units.human(model.get("parameters")),
                units.number(model.get("optimizer_steps"), 0),
                units.human(model.get("training_flops")),
            )
        )
        before = family
    header = ("family", "model", results["metric"], "loss", "params", "steps", "FLOPs")
    return drop_empty(Grid(header, rows, names=2))


def speed_grid(results: dict[str, Any]) -> Grid:
    """One row a model: what the search chose, time a step, and seconds to each declared validation score.

    Seconds are means over seeds; where only some seeds reach the score, how many.
    """
    names = list(results.get("declared") or {})

    def reached(model: heads.Model, name: str) -> str:
        times, count = model.get(f"seconds_to_{name}_seeds") or (), model.get(f"reached_{name}")
        if units.measured(model.get(f"seconds_to_{name}")):
            return seconds(model[f"seconds_to_{name}"])
        return f"{count} of {len(times)}" if times and count is not None else "-"

    rows = [
        (
            model["name"],
            _setting(model.get("learning_rate")),
            _setting(model.get("decay")),
            units.duration(model.get("step_us")),
            seconds(model.get("seconds")),
            *(reached(model, name) for name in names),
        )
        for model in heads.grouped(results["models"])
    ]
    return drop_empty(
        Grid(("model", "rate", "decay", "1 step", "training", *(f"to {name}'s" for name in names)), rows)
    )


def use_grid(results: dict[str, Any]) -> Grid:
    """One row a model, families together: parameters, FLOPs and median latency of one example."""
    return cost_grid(results | {"models": heads.grouped(results["models"])})


def conversion_grid(results: dict[str, Any]) -> Grid:
    """One row a converted arm: its selection, seeds, the receipts of the conversion, and how long it took.

    The logit difference is the largest of all seeds, before pruning; the rest are means over seeds.
    """
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in results.get("conversions") or ():
        arms.setdefault(str(row.get("model")), []).append(row)

    def values(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
        return [row[key] for row in rows if row.get(key) is not None]

    def mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
        return statistics.fmean(found) if (found := values(rows, key)) else None

    rows = [
        (
            arm,
            ", ".join(dict.fromkeys(str(row.get("selection", "-")) for row in mine)),
            str(len(mine)),
            _largest(values(mine, "largest_logit_difference")),
            units.number(mean(mine, "pruning_error")),
            units.number(mean(mine, "pruning_bound")),
            seconds(mean(mine, "seconds")),
            _epochs((results.get("selector_epochs") or {}).get(arm)),
        )
        for arm, mine in arms.items()
    ]
    header = ("model", "selection", "seeds", "logit diff.", "pruning error", "bound", "time", "epochs before")
    return drop_empty(Grid(header, rows, names=2))


def budget_facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(letter of the paper, number) of what GLAI may spend: O, R, E, K, mu, P; those that are recorded."""
    found = results.get("budget") or {}
    facts = []
    for letter, key in (("O", "original"), ("R", "reduced"), ("E", "paths"), ("K", "kept")):
        facts += [(letter, f"{found[key]:,}")] if units.measured(found.get(key)) else []
    facts += [("mu", f"{found['share']:.2%}")] if units.measured(found.get("share")) else []
    if units.measured(found.get("pairs")):
        density = f" ({found['density']:.2%})" if units.measured(found.get("density")) else ""
        facts.append(("P", f"{found['pairs']:,}{density}"))
    return facts


def seconds(value: Any) -> str:
    """Seconds with a fitting unit: 0.0138 -> "13.8 ms"."""
    return units.duration(1e6 * value) if units.measured(value) else units.number(value)


def _setting(value: Any) -> str:
    return f"{value:g}" if units.measured(value) else units.number(value)


def _largest(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{max(values):.1e}" if all(map(units.measured, values)) else "nan"


def _epochs(epochs: Any) -> str:
    """ "12 to 20", the selector's epochs over seeds."""
    if not epochs:
        return "-"
    low, high = min(epochs), max(epochs)
    return str(low) if low == high else f"{low} to {high}"
