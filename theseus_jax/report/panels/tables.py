"""The tables that a method adds to results.json, whatever they are."""

from theseus_jax.report import grid
from theseus_jax.report.panel import Grid, Panel, Run


def grids(run: Run) -> list[Grid]:
    """One a table of results.json["tables"]; its first columns are names if they are all words."""
    shown = []
    for name, table in (run.results.get("tables") or {}).items():
        rows, specs = table.get("rows") or [], table.get("columns") or []
        columns = [(str(c.get("label", c["key"])), c["key"], c.get("unit", "")) for c in specs]
        worded = [all(isinstance(row.get(key), str) for row in rows) for _, key, _ in columns]
        names = worded.index(False) if False in worded else len(worded)
        title, note = str(table.get("title") or name), str(table.get("note") or "")
        shown.append(grid.of(rows, columns, names)._replace(title=title, note=note))
    return shown


PANEL = Panel("Tables", grids=grids)
