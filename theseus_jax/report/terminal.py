"""The terminal's report of a run: its panels one under the other, plain text 100 columns wide."""

import textwrap
from typing import Any

from theseus_jax.judging import FAILS, HOLDS, UNDECIDED
from theseus_jax.report import units
from theseus_jax.report.grid import WIDTH, aligned
from theseus_jax.report.panel import Section, section
from theseus_jax.report.panels import PANELS, claims, lead
from theseus_jax.report.read import Run, filled

MARKS = {HOLDS: "holds", FAILS: "FAILS", UNDECIDED: "undecided"}
ROWS = 12  # a table that a picture of the page shows too, and that has more rows, is left out


def table(results: dict[str, Any]) -> str:
    """The terminal's report of results.json: the panels of its page, the claims at the end.

    Keys other than metric and models may be missing, numbers None or nan.
    """
    run = Run({}, "", {}, [], filled(results))
    warning = [units.SMOKE, ""] if results.get("smoke") else []
    title = _wrapped("Test results: " + ", ".join(lead.facts(results)))
    panels = [panel for panel in PANELS if not panel.page and panel is not claims.PANEL]
    shown = [section(panel, run, drawn=False) for panel in (*panels, claims.PANEL)]
    return "\n".join([*warning, *title, *(line for each in shown for line in _text(each))])


def _text(shown: Section) -> list[str]:
    lines = [line for words in shown.get("words", ()) for line in _wrapped(words)]
    lines += [line for verdict in shown.get("verdicts", ()) for line in _claim(*verdict)]
    grids = [grid for grid in shown.get("grids", ()) if not grid.pictured or len(grid.rows) <= ROWS]
    for grid in grids:
        lines += [""] * bool(lines) + _wrapped(grid.title)
        lines += [*aligned(grid).splitlines(), *_wrapped(grid.note)]
    return ["", *filter(None, [shown["title"]]), *lines] if lines else []


def _claim(kind: str, words: str, measured: str) -> list[str]:
    indent = " " * 7
    return [*_wrapped(f"{MARKS[kind]}  {words}", indent), *_wrapped(indent + measured, indent)]


def _wrapped(words: str, indent: str = "") -> list[str]:
    return textwrap.wrap(words, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
