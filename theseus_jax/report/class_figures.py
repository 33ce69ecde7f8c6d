"""The pictures that runs of task "classification" add: accuracy of hybrids, similarity of the guide, costs."""

from __future__ import annotations

import statistics
from typing import Any, Callable

from theseus_jax.report import canvas, classes, curves, units
from theseus_jax.report.read import Run
from theseus_jax.report.tables import named

HYBRIDS = (
    ("hybrid", "hybrid_accuracy", "#e4572e", 0.0),
    ("hybrid, moving averages", "hybrid_moving_accuracy", "#a463d6", -0.08),
    ("hybrid, raw", "hybrid_raw_accuracy", "#17a398", 0.08),
)
LEVELS = (("guide", "guide"), ("converted", "converted at the end"), ("from_scratch", "from_scratch"))
WORDED = 8  # more parts than these are numbered only
WRITTEN = 14  # more stages than these show colours only
SEAM = "#00a6a6"
COLOURS = ("#fbf3e4", "#f6dfb9", "#f3c58e", "#efa76a", "#e98551", "#de6244", "#c04443", "#963049", "#68234a", "#3d1a40")


def hybrids(run: Run) -> str | None:
    """Validation accuracy of the hybrid by the number of replaced parts: a dot a seed, lines through means."""
    kinds = [(label, curves.stage_scores(run.rows, key), shade, shift) for label, key, shade, shift in HYBRIDS]
    if not any(any(scores.values()) for _, scores, _, _ in kinds):
        return None
    stages = list(kinds[0][1])
    with canvas.figure(9.2, 3.2) as figure:
        axes = figure.subplots()
        for label, scores, shade, shift in kinds:
            there = [(i + shift, scores[stage]) for i, stage in enumerate(stages, start=1) if scores[stage]]
            if there:
                means = [100 * statistics.fmean(values) for _, values in there]
                axes.plot([x for x, _ in there], means, color=shade, label=label, linewidth=1.3)
                dots = [(x, 100 * value) for x, values in there for value in values]
                axes.plot(*zip(*dots), "o", color=shade, markersize=5, alpha=0.75)
        for name, words in LEVELS:
            _level(axes, run, name, words)
        ticks = [f"{i}\n{stage}" if len(stages) <= WORDED else str(i) for i, stage in enumerate(stages, start=1)]
        axes.set_xticks(range(1, len(stages) + 1), ticks)
        axes.set(xlabel="replaced parts", ylabel="accuracy (%)", xlim=(0.5, len(stages) + 0.5))
        figure.legend(loc="outside upper left", ncols=3)
        return canvas.svg(figure, "Accuracy of the hybrid after each replaced part")


def _level(axes: Any, run: Run, name: str, words: str) -> None:
    """A line at a model's validation accuracy, as hybrids are measured; at its test accuracy where no other is known."""
    found, kind = curves.final(run.rows, name, "validation_accuracy"), "validation"
    if not found:
        value = named(run.results, name).get("value")
        found, kind = ([value] if units.measured(value) else []), "test"
    if found:
        level = 100 * statistics.fmean(found)
        alone = ", one seed" if kind == "validation" and len(found) == 1 else ""
        label = f"{words} ({kind}{alone})"
        axes.axhline(level, color=canvas.color(name), linestyle=(0, (4, 2)), linewidth=1.3, label=label)


def similarity(run: Run) -> str | None:
    """Debiased CKA of every two stages of the guide as a heat map; lines after the stages at which seams lie."""
    found = classes.guide_similarity(run.results)
    if found is None:
        return None
    names, matrix = found
    seams, count = classes.seams(run.results), len(names)
    from matplotlib.colors import BoundaryNorm, ListedColormap

    with canvas.figure(9.2, min(9.2, 1.1 + 0.3 * count)) as figure:
        axes = figure.subplots()
        colours = ListedColormap(COLOURS)
        bounds = [i / len(COLOURS) for i in range(len(COLOURS) + 1)]
        norm = BoundaryNorm(bounds, colours.N, clip=True)
        mesh = axes.pcolormesh(range(count + 1), range(count + 1), matrix, cmap=colours, norm=norm)
        figure.colorbar(mesh, ax=axes, label="debiased CKA", ticks=bounds[::2], pad=0.02)
        for i, row in enumerate(matrix if count <= WRITTEN else []):
            for j, value in enumerate(row):
                ink = "white" if value >= 0.6 else "#222222" if value == value else canvas.INK
                axes.text(j + 0.5, i + 0.5, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
        for i, name in enumerate(names, start=1):
            if name in seams:
                axes.plot([0, count], [i, i], color=SEAM, linewidth=2, label=f"{name} = {seams[name]}", zorder=4)
                axes.plot([i, i], [0, count], color=SEAM, linewidth=2, zorder=4)
        middles = [i + 0.5 for i in range(count)]
        axes.set_yticks(middles, [f"{name} = {seams[name]}" if name in seams else name for name in names])
        axes.set_xticks(middles, names, rotation=90 if count > 10 else 0)
        axes.set(xlim=(0, count), ylim=(count, 0))
        axes.grid(visible=False)
        return canvas.svg(figure, "Similarity of the guide's stages to each other")


def costs(run: Run) -> str | None:
    """Parameters, FLOPs and latency of one example, of guide and converted."""
    pair = [model for name in ("guide", "converted") if (model := named(run.results, name))]
    panels: list[tuple[str, str, Callable[[Any], str]]] = [
        ("parameters", "parameters", units.human),
        ("flops_per_example", "FLOPs of one example", units.human),
        ("latency_us", "median latency of one example", lambda value: units.duration(value).replace("us", "µs")),
    ]
    panels = [panel for panel in panels if any(units.measured(model.get(panel[0])) for model in pair)]
    if not panels:
        return None
    with canvas.figure(9.2, 1.5) as figure:
        for axes, (key, title, text) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            shown = [model for model in pair if units.measured(model.get(key))]
            spread = [model.get(key.replace("_us", "_iqr_us")) if key == "latency_us" else None for model in shown]
            for i, (model, error) in enumerate(zip(shown, spread)):
                bar = error / 2 if units.measured(error) else None
                axes.barh(i, model[key], height=0.6, color=canvas.color(model["name"]), xerr=bar, ecolor=canvas.INK)
                place = model[key] + (bar or 0)
                axes.annotate(text(model[key]), (place, i), (4, 0), textcoords="offset points", va="center")
            axes.set_yticks(range(len(shown)), [model["name"] for model in shown])
            axes.set(title=title, xlim=(0, 1.35 * max(model[key] for model in shown) or 1), ylim=(len(shown) - 0.5, -0.5))
            axes.tick_params(axis="x", labelbottom=False, length=0)
            axes.grid(visible=False)
        return canvas.svg(figure, "Costs of use of guide and converted")
