"""What converting a selector to its paths did to the logits, and the budget of paths."""

import statistics
from typing import Any, Sequence

from theseus_jax.report import grid, units
from theseus_jax.report.panel import Grid, Panel, Run

COLUMNS = (
    *(("model", "name", ""), ("selection", "selection", ""), ("seeds", "seeds", "")),
    *(("logit diff.", "difference", ""), ("pruning error", "pruning_error", "number")),
    *(("bound", "pruning_bound", "number"), ("time", "seconds", "s"), ("epochs", "epochs", "")),
)
NOTE = (
    "logit diff.: the largest between the selector and all its paths, before pruning, over all "
    "seeds. pruning error: the summed change of an example's logits when only the kept paths "
    "remain, untrained, with its bound (arXiv 2510.00883, theorem 2); epochs: of the selector."
)
# key -> letter of the paper, meaning, unit
BUDGET = {
    "original": ("O", "parameters of the whole MLP", ""),
    "reduced": ("R", "parameters of the reduced MLP, the selector", ""),
    "paths": ("E", "paths of the reduced MLP, from an input or bias to an output", ""),
    "kept": ("K", "path weights that may be kept, O - R", ""),
    "share": ("mu", "K over E", "share"),
    "pairs": ("P", "paths that may be kept if all outputs share them", ""),
    "density": ("P", "their share", "share"),
}


def grids(run: Run) -> list[Grid]:
    """One row a converted model: its selection, seeds, receipts, and its time; and the budget."""
    models: dict[str, list[dict[str, Any]]] = {}
    for row in run.results.get("conversions") or ():
        models.setdefault(str(row.get("model")), []).append(row)
    epochs = run.results.get("selector_epochs") or {}
    rows = [_record(name, mine, epochs.get(name) or ()) for name, mine in models.items()]
    budget = (run.results.get("budget") or {}).items()
    spent = [(*BUDGET[k][:2], units.cell(v, BUDGET[k][2])) for k, v in budget if k in BUDGET]
    conversions = grid.of(rows, COLUMNS, names=2)._replace(note=NOTE)
    return [conversions, Grid(("budget", "meaning", "count"), spent, names=2)]


def _record(name: str, rows: Sequence[dict[str, Any]], epochs: Sequence[int]) -> dict[str, Any]:
    values = {
        key: [row[key] for row in rows if row.get(key) is not None]
        for key in ("largest_logit_difference", "pruning_error", "pruning_bound", "seconds")
    }
    means = {key: statistics.fmean(each) if each else None for key, each in values.items()}
    largest = values["largest_logit_difference"]
    finite = all(map(units.measured, largest))
    return means | {
        "name": name,
        "selection": ", ".join(dict.fromkeys(str(row.get("selection", "-")) for row in rows)),
        "seeds": len(rows),
        "difference": (f"{max(largest):.1e}" if finite else "nan") if largest else None,
        "epochs": " to ".join(map(str, sorted({min(epochs), max(epochs)}))) if epochs else None,
    }


PANEL = Panel("Conversions and budget", grids=grids)
