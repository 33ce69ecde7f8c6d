"""The pictures of a run of task "head" as inline SVG; None where a run has nothing to draw."""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

from theseus_jax.report import canvas, head_curves, head_tables, heads
from theseus_jax.report.read import Run

SEEDS = 10  # thin lines of more seeds cannot be told apart
DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "v")
LINES = {
    "settling": ("path change m_t, over its largest", canvas.STAGES[0]),
    "pattern_distance": ("pattern distance", canvas.STAGES[4]),
    "oui": ("OUI", canvas.STAGES[3]),
}


class Arm(NamedTuple):
    """One arm to draw: curves by seed and step, or points (a solver's), and when its selector was ready."""

    name: str
    curves: dict[int, dict[int, head_curves.Check]]
    points: list[head_curves.Check]
    ready: list[float]

    @property
    def checks(self) -> list[head_curves.Check]:
        return [check for points in self.curves.values() for check in points.values()] + self.points


def arms(run: Run) -> dict[str, list[Arm]]:
    """Arms with a score to draw, by family, in the order of the tables."""
    rows = [row for row in run.rows if row.get("seed", 0) >= 0]
    found: dict[str, list[Arm]] = {}
    for model in heads.grouped(run.results["models"]):
        name = model["name"]
        ready = [seconds for _, seconds in head_curves.ready(rows, name)]
        arm = Arm(name, head_curves.score_curves(rows, name), head_curves.solved(rows, name), ready)
        if arm.checks:
            found.setdefault(heads.family(name), []).append(arm)
    return found


def scores(run: Run) -> str | None:
    """Validation score against seconds of training: a panel a family, lines or a solver's dots."""
    families = arms(run)
    every = [arm for members in families.values() for arm in members]
    if not any(check.seconds > 0 for arm in every for check in arm.checks):
        return None
    with canvas.figure(9.2, 4.6) as figure:
        panels = figure.subplots(1, len(families), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (family, members) in zip(panels, families.items()):
            for arm in every:
                if heads.family(arm.name) != family:
                    _draw_behind(axes, arm)
            for i, arm in enumerate(members):
                _draw_arm(axes, arm, i)
            axes.set_title(f"{family} arms" if family != "other" else "other arms")
            axes.set_xlabel("seconds of training")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=8, columnspacing=1)
        declared = heads.declared(run.results)
        _draw_declared(panels, declared)
        _limits(panels[0], every, [value for _, value in declared])
        higher, metric = run.results.get("higher_is_better"), run.results["metric"]
        panels[0].set_ylabel(f"validation {metric}" if higher else heads.score_name(run.results))
        return canvas.svg(figure, "Validation score against seconds of training")


def _draw_behind(axes: Any, arm: Arm) -> None:
    """An arm of another family, for comparison: its mean in pale ink."""
    mean = head_curves.mean_curve(arm.curves)
    axes.plot(*_columns(mean), color=canvas.INK, alpha=0.16, linewidth=0.8, zorder=1)
    axes.plot(*_columns(arm.points), ".", color=canvas.INK, alpha=0.16, markersize=3, zorder=1)


def _draw_arm(axes: Any, arm: Arm, place: int) -> None:
    shade = canvas.color(arm.name)
    for seed in list(arm.curves)[:SEEDS]:
        points = list(arm.curves[seed].values())
        axes.plot(*_columns(points), color=shade, alpha=0.28, linewidth=0.7, zorder=2)
    mean = head_curves.mean_curve(arm.curves)
    if arm.curves:
        dashes, marker = DASHES[place % len(DASHES)], "." if len(mean) == 1 else None
        axes.plot(*_columns(mean), color=shade, linestyle=dashes, marker=marker, label=arm.name, zorder=4)
    if arm.points:
        marker = MARKERS[place % len(MARKERS)]
        edge = {"markeredgecolor": canvas.INK, "markeredgewidth": 0.4, "linestyle": "none", "alpha": 0.85}
        axes.plot(
            *_columns(arm.points), marker=marker, color=shade, markersize=5, label=arm.name, zorder=5, **edge
        )
    when = statistics.fmean(arm.ready) if arm.ready else 0.0
    if when > 0:
        tick = {"transform": axes.get_xaxis_transform(), "linewidth": 1.6, "zorder": 3}
        axes.plot([when] * 2, [0, 0.05], color=shade, **tick)


def _columns(checks: list[head_curves.Check]) -> tuple[list[float], list[float]]:
    shown = [check for check in checks if check.seconds > 0]  # the axis is logarithmic
    return [check.seconds for check in shown], [check.score for check in shown]


def _draw_declared(panels: Any, declared: list[tuple[list[str], float]]) -> None:
    """A thin line for each declared score, named in the right margin: the highest above its line."""
    for i, (names, value) in enumerate(declared):
        for axes in panels:
            axes.axhline(value, color=canvas.INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=3)
        panels[-1].annotate(
            "\n".join([*(f"{name}'s" for name in names), f"{value:.4f}"]),
            (1.02, value),
            xycoords=panels[-1].get_yaxis_transform(),
            va="center" if len(declared) == 1 else "top" if i else "bottom",
            fontsize=7.5,
        )


def _limits(axes: Any, every: list[Arm], declared: list[float]) -> None:
    """Show where arms differ: all but the lowest tenth of each arm's scores after a fifth of its checks."""
    shown = list(declared)
    for arm in every:
        late = [check.score for check in arm.points]
        for points in arm.curves.values():
            late += [check.score for check in list(points.values())[len(points) // 5 :]]
        shown += [sorted(late)[len(late) // 10], max(late)]
    margin = 0.06 * (max(shown) - min(shown)) or 0.01
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    times = [check.seconds for arm in every for check in arm.checks if check.seconds > 0]
    low, high = min(times) / 1.3, max(times) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    _time_ticks(axes, math.log10(high / low))


def _time_ticks(axes: Any, decades: float) -> None:
    from matplotlib.ticker import LogLocator

    steps = (1.0,) if decades > 2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    canvas.axis_units(axes.xaxis, lambda value: head_tables.seconds(value).replace("us", "µs"), log=True)


def selector(run: Run) -> str | None:
    """How a selector settled against epochs: mean and range over seeds, and how many seeds ended when."""
    found = head_curves.settling(run.rows)
    if found is None or not any(found.values.values()):
        return None
    with canvas.figure(9.2, 3.7) as figure:
        from matplotlib.ticker import MaxNLocator

        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        for key, epochs in found.values.items():
            label, shade = LINES[key]
            if epochs:
                lows, highs = [min(v) for v in epochs.values()], [max(v) for v in epochs.values()]
                means = [statistics.fmean(v) for v in epochs.values()]
                marker = "o" if len(epochs) < 30 else None
                upper.fill_between(list(epochs), lows, highs, color=shade, alpha=0.15, linewidth=0)
                upper.plot(list(epochs), means, color=shade, label=label, marker=marker, markersize=3)
        share = rule(run).get("settled_share")
        if share is not None:
            upper.axhline(share, color=LINES["settling"][1], linewidth=0.8, linestyle=(0, (1, 2)))
        upper.set_ylim(0, None)
        upper.set_ylabel("share")
        ends = sorted(found.ends.values())
        shade = canvas.color(found.model)
        lower.bar(sorted(set(ends)), [ends.count(end) for end in sorted(set(ends))], width=0.5, color=shade)
        lower.set(
            xlabel=f"epochs of {found.model}'s selector", ylabel="seeds\nended", xlim=(0.5, ends[-1] + 0.5)
        )
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        lower.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True, min_n_ticks=1))
        figure.legend(loc="outside upper left", ncols=3)
        return canvas.svg(figure, "Settling of the selector against its epochs")


def rule(run: Run) -> dict[str, Any]:
    """The config's rule for the end of a selector where maturity ends it, else an empty dict."""
    settings = run.config.get("glai")
    return settings if isinstance(settings, dict) and settings.get("selector") == "maturity" else {}
