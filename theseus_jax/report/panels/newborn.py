"""How units that were born in training did beside the others, as the newborn doctor saw them."""

import math
import statistics
from typing import Any

from theseus_jax.report import canvas, series, standing
from theseus_jax.report.canvas import Line, Plot
from theseus_jax.report.panel import Panel, Picture, Run

VERDICTS = ("healthy", "backward-starved", "never learns", "frozen by stale optimizer state")
LOW, HIGH = -2.0, 1.0  # of the heat map, powers of ten


def seen(run: Run, model: str) -> dict[tuple[str, int], dict[int, list[float]]]:
    """{(site, step of birth): {step: means and counts of verdicts}}, means over seeds; of a seed
    without such units nothing.
    """
    found: dict[tuple[str, int], dict[int, list[list[float]]]] = {}
    for row in series.of_kind(run.rows, "watch", model):
        for site, cohorts in ((k, v) for k, v in row.items() if "births" in row and "/" in k):
            for birth, values in zip(row["births"], cohorts):
                if sum(values[4:]):
                    found.setdefault((site, int(birth)), {}).setdefault(row["step"], []).append(
                        values
                    )
    return {
        key: {step: [statistics.fmean(one) for one in zip(*each)] for step, each in steps.items()}
        for key, steps in found.items()
    }


def pictures(run: Run) -> list[Picture]:
    """Curves and a heat map of the first model that was looked at."""
    names = [model["name"] for model in standing.ordered(run.results)]
    watched = ((name, seen(run, name)) for name in names)
    model, cohorts = next(((name, values) for name, values in watched if values), ("", {}))
    text = f"{model}: the gradient of newborn units' incoming weights over the mean of "
    text += "older ones, a line a cohort, mean over sites and seeds; 1 is parity."
    return [(curves(cohorts), text), (heat_map(cohorts), "The same, every site by itself.")]


def curves(cohorts: dict[tuple[str, int], dict[int, list[float]]]) -> Any:
    """An <svg> of the incoming ratio of every cohort; None without any."""
    lines = []
    for i, birth in enumerate(sorted({birth for _, birth in cohorts})):
        steps: dict[int, list[float]] = {}
        for (_, other), values in cohorts.items():
            for step, value in values.items() if other == birth else ():
                if value[0] > 0:  # a ratio of 0 has no place on the axis
                    steps.setdefault(step, []).append(value[0])
        xs, shade = sorted(steps), canvas.STAGES[i % len(canvas.STAGES)]
        ys = [statistics.fmean(steps[step]) for step in xs]
        lines += [Line(xs, ys, shade, f"born at step {birth}")] if xs else []
    settings = {"xlabel": "optimizer steps", "ylabel": "newborn / older", "yscale": "log"}
    return canvas.chart([[Plot(lines, settings)]], [3.0], "Gradients of newborn units")


def heat_map(cohorts: dict[tuple[str, int], dict[int, list[float]]]) -> Any:
    """An <svg> of the incoming ratio's power of ten, cohorts down, steps across."""
    steps = sorted({step for values in cohorts.values() for step in values})
    if not steps:
        return None
    from matplotlib import colormaps

    names = sorted(cohorts)
    power = lambda v: min(HIGH, max(LOW, math.log10(v))) if v > 0 else LOW  # noqa: E731
    matrix = [
        [power(cohorts[name][step][0]) if step in cohorts[name] else math.nan for step in steps]
        for name in names
    ]
    with canvas.figure(canvas.WIDE, min(canvas.WIDE, 1.1 + 0.25 * len(names))) as figure:
        axes, colours = figure.subplots(), colormaps["RdBu"].resampled(12)
        edges = [0, *steps]
        mesh = axes.pcolormesh(
            edges, range(len(names) + 1), matrix, cmap=colours, vmin=LOW, vmax=-LOW
        )
        figure.colorbar(mesh, ax=axes, label="power of ten of the ratio", pad=0.02)
        axes.set_yticks([i + 0.5 for i in range(len(names))], [f"{s}, {b}" for s, b in names])
        axes.set(xlabel="optimizer steps", ylim=(len(names), 0))
        axes.grid(visible=False)
        return canvas.svg(figure, "Gradients of newborn units at every site")


PANEL = Panel("Newborn units", pictures=pictures)
