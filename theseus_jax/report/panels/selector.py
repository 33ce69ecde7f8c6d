"""How the selectors of a model settled, epoch by epoch."""

import statistics
from typing import Any

from theseus_jax.report import canvas, series, standing
from theseus_jax.report.canvas import Line, Plot
from theseus_jax.report.panel import Panel, Picture, Run

DOTS = {"marker": ".", "linestyle": "none", "markersize": 4, "alpha": 0.4}
# statistic -> label, colour, what it is
LINES = {
    "settling": ("path change m_t", "#e4572e", "change of gates in an epoch, over its largest"),
    "pattern_distance": ("pattern distance", "#2f7fd1", "the share of gates that changed"),
    "oui": ("OUI", "#17a398", "how differently the gates respond to different rows"),
}


def pictures(run: Run) -> list[Picture]:
    """Settling against epochs, of the best of ours or else the first that was watched."""
    best = standing.best(run.results, "ours") or {}
    names = [model["name"] for model in (best, *standing.of_role(run.results, "ours")) if model]
    watched = ((name, series.settling(run.rows, name)) for name in names)
    model, statistic = next(((name, values) for name, values in watched if values), ("", {}))
    meaning = "; ".join(f"{LINES[key][0]}: {LINES[key][2]}" for key in statistic)
    text = f"The selector of {model}, once an epoch: mean over the seeds still training, a dot a "
    text += f"seed. {meaning}."
    ends = (run.results.get("selector_epochs") or {}).get(model)
    if ends:
        text += f" Seeds ended after {min(ends)} to {max(ends)} epochs."
    return [(chart(model, statistic), text)]


def chart(model: str, watched: dict[str, dict[int, list[float]]]) -> Any:
    """An <svg> of means over seeds, and single seeds as dots; None where nothing was watched."""
    lines = []
    for key, epochs in watched.items():
        label, shade, _ = LINES[key]
        means = [statistics.fmean(values) for values in epochs.values()]
        xs, ys = zip(*((epoch, value) for epoch, values in epochs.items() for value in values))
        lines += [Line(list(epochs), means, shade, label), Line(xs, ys, shade, None, DOTS)]
    settings = {"xlabel": f"epochs of {model}'s selector", "ylabel": "share", "ylim": (0, None)}
    return canvas.chart([[Plot(lines, settings)]], [3.0], "Settling of the selector")


PANEL = Panel("Selector", pictures=pictures)
