"""The shape of a panel: what a report shows of one subject, drawn from the files of a run."""

from typing import Any, Callable, NamedTuple, Sequence

from theseus_jax.report.grid import Grid
from theseus_jax.report.read import Run

Picture = tuple[Any, str]  # an <svg> element, None for one that has nothing to show; its caption
Verdict = tuple[str, str, str]  # "holds", "fails" or "undecided"; a claim; what decided it
# text as it is: a title, the text, a prompt before it in bold, whether it is folded away
Listing = tuple[str, str, str, bool]
Section = dict[str, Any]  # what a panel has for one run, by the fields of Panel; any may be missing


class Panel(NamedTuple):
    """What is shown of one subject; a panel that has nothing for a run is left out."""

    title: str
    words: Callable[[Run], Sequence[str]] | None = None  # paragraphs
    verdicts: Callable[[Run], Sequence[Verdict]] | None = None
    pictures: Callable[[Run], Sequence[Picture]] | None = None  # called where matplotlib is there
    grids: Callable[[Run], Sequence[Grid]] | None = None
    listings: Callable[[Run], Sequence[Listing]] | None = None
    page: bool = False  # for the page alone, being too long for a terminal


def section(panel: Panel, run: Run, drawn: bool) -> Section:
    """A panel's content for a run, empty where it has none. drawn: if pictures can be drawn."""
    calls = {key: call for key, call in panel._asdict().items() if callable(call)}
    parts = {key: call(run) for key, call in calls.items() if drawn or key != "pictures"}
    parts["pictures"] = [picture for picture in parts.get("pictures", ()) if picture[0]]
    parts["grids"] = [grid for grid in parts.get("grids", ()) if grid.rows and len(grid.header) > 1]
    return {"title": panel.title, **parts} if any(parts.values()) else {}
