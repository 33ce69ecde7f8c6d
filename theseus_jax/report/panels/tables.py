"""The tables that a method adds to results.json, whatever they are."""

from typing import Any

from theseus_jax.report import grid
from theseus_jax.report.panel import Grid, Panel, Run


def grids(run: Run) -> list[Grid]:
    """One a table of results.json["tables"]."""
    return [_grid(name, table) for name, table in (run.results.get("tables") or {}).items()]


def _grid(name: str, table: dict[str, Any]) -> Grid:
    rows = table.get("rows") or []
    columns = [
        (str(column.get("label", column["key"])), column["key"], column.get("unit", ""))
        for column in table.get("columns") or ()
    ]
    # the first columns whose cells are words are names
    worded = [all(isinstance(row.get(key), str) for row in rows) for _, key, _ in columns]
    names = worded.index(False) if False in worded else len(worded)
    title, note = str(table.get("title") or name), str(table.get("note") or "")
    return grid.of(rows, columns, names)._replace(title=title, note=note)


PANEL = Panel("Tables", grids=grids)
