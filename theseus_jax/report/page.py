"""report.html: one page that explains a run, made of its files alone."""

import importlib.util
import os
import pathlib

from theseus_jax.paths import local
from theseus_jax.report import markup, units
from theseus_jax.report.panel import section
from theseus_jax.report.panels import PANELS, lead
from theseus_jax.report.read import Run, read_run


def html(run: Run) -> str:
    """The report as an HTML document without scripts, links or addresses; its text is escaped."""
    drawn = importlib.util.find_spec("matplotlib") is not None
    return markup.page(
        lead.title(run),
        list(filter(None, (section(panel, run, drawn) for panel in PANELS[1:]))),  # but the lead
        banner=units.SMOKE if run.results.get("smoke") else "",
        meta=" · ".join(lead.facts(run.results)),
        lead=lead.PANEL.words(run),
        note="" if drawn else "Pictures are left out: matplotlib is not installed.",
    )


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Write report.html of the run in `workdir`; returns its path. Raises as `read_run`."""
    return markup.save(local(workdir) / "report.html", html(read_run(workdir)))
