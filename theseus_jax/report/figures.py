"""The pictures of a run as inline SVG; None where a run has nothing to draw."""

from __future__ import annotations

import itertools
import statistics
from typing import Any, NamedTuple

from theseus_jax.report import canvas, curves, units
from theseus_jax.report.read import Run
from theseus_jax.report.tables import loss_unit, named, ordered


class Arm(NamedTuple):
    """A model in training. points: its curve, empty where no cross-entropy was logged; steps, flops: where it ended.

    loss: on test data, or None.
    """

    name: str
    points: list[curves.Point]
    steps: int
    flops: float
    loss: float | None


def _arms(run: Run) -> list[Arm]:
    """Every model with a curve or an end to draw, in the order of the tables."""
    arms = []
    for model in ordered(run.results["models"]):
        loss = model.get("loss")
        loss = loss if units.measured(loss) else None
        points = curves.task_curve(run.rows, model["name"])
        steps, flops = curves.extent(run.rows, model["name"])
        if points or (steps and loss is not None):
            arms.append(Arm(model["name"], points, steps, flops, loss))
    return arms


def training(run: Run) -> str | None:
    """Cross-entropy of every arm against optimizer steps and training FLOPs, test losses at the end."""
    arms = _arms(run)
    if not arms:
        return None
    with canvas.figure(9.2, 4.1) as figure:
        by_steps, by_flops = figure.subplots(1, 2, sharey=True)
        for arm in reversed(arms):
            _draw_arm(by_steps, by_flops, arm)
        by_steps.set(xlabel="optimizer steps", ylabel=f"cross-entropy ({loss_unit(run.results)})")
        by_flops.set_xlabel("training FLOPs of one seed")
        if any(arm.flops > 0 for arm in arms):
            by_flops.set_xscale("log")
            canvas.axis_units(by_flops.xaxis, units.human, log=True)
        _limits(by_steps, arms)
        _shade_alignment(by_steps, curves.curve(run.rows, "converted", "distance"))
        handles, labels = by_steps.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside upper left", ncols=4)
        return canvas.svg(figure, "Training curves of all models")


def _draw_arm(by_steps: Any, by_flops: Any, arm: Arm) -> None:
    points, shade = curves.thinned(arm.points), canvas.color(arm.name)
    values = [point.value for point in points]
    dashes = (0, (4, 1.5)) if arm.name.endswith("_equal_flops") else "-"
    width = 2.2 if arm.name == "converted" else 1.5
    for axes, xs, end in (
        (by_steps, [point.step for point in points], arm.steps),
        (by_flops, [point.flops for point in points], arm.flops),
    ):
        axes.plot(xs, values, label=arm.name, color=shade, linestyle=dashes, linewidth=width)
        if arm.loss is not None:
            edge = {"markeredgecolor": canvas.INK, "markeredgewidth": 0.6}
            axes.plot([end], [arm.loss], marker="D", markersize=5, color=shade, zorder=5, **edge)


def _limits(axes: Any, arms: list[Arm]) -> None:
    """Show where arms differ: losses after the first fifth of the training, steps up to the longest arm's.

    The guide's steps count only where they are not many more; else its test loss is a line.
    """
    longest = max((arm.steps for arm in arms if arm.name != "guide"), default=arms[0].steps)
    guide = next((arm for arm in arms if arm.name == "guide"), None)
    if guide and guide.steps > 1.5 * longest:
        if guide.loss is not None:
            label, place = f"guide's test loss, after {guide.steps} steps", axes.get_yaxis_transform()
            axes.axhline(guide.loss, color=canvas.color("guide"), linewidth=1, linestyle=":")
            axes.text(0.99, guide.loss, label, transform=place, ha="right", va="bottom", fontsize=8)
    elif guide:
        longest = max(longest, guide.steps)
    axes.set_xlim(0, 1.04 * longest)
    shown = [point.value for arm in arms for point in arm.points if point.step >= 0.2 * arm.points[-1].step]
    shown += [arm.loss for arm in arms if arm.loss is not None]
    margin = 0.06 * (max(shown) - min(shown)) or 0.1
    axes.set_ylim(min(shown) - margin, max(shown) + margin)


def _shade_alignment(axes: Any, aligned: list[curves.Point]) -> None:
    aligned = [point for point in aligned if point.phase != curves.FINISH]
    if aligned:
        end, place = aligned[-1].step, axes.get_xaxis_transform()
        axes.axvspan(0, end, color=canvas.color("converted"), alpha=0.08, linewidth=0)
        wide = end > 0.3 * axes.get_xlim()[1]  # else the words begin at its left edge and leave it
        x, side = (0.5 * end, "center") if wide else (0.0, "left")
        axes.text(x, 0.01, "alignment of converted", transform=place, ha=side, va="bottom", fontsize=8)


def distances(run: Run) -> str | None:
    """Alignment distance of each stage against the conversion's optimizer steps."""
    stages = curves.distance_curves(run.rows)
    if not stages:
        return None
    with canvas.figure(9.2, 3.0) as figure:
        axes = figure.subplots()
        for (name, points), shade in zip(stages.items(), itertools.cycle(canvas.STAGES)):
            points = curves.thinned(points)
            axes.plot(
                [p.step for p in points],
                [p.value for p in points],
                color=shade,
                label=name,
                marker="o" if len(points) < 12 else None,
                markersize=4,
            )
        axes.set(xlabel="optimizer steps of the conversion", ylabel="distance to the guide")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xlim(left=0)
        figure.legend(loc="outside upper left", ncols=min(8, len(stages)))
        return canvas.svg(figure, "Alignment distance of each stage")


def hybrids(run: Run) -> str | None:
    """Loss of the hybrid after each replaced part, raw and stitched: a dot a seed, a line through means."""
    kinds = [
        ("raw", curves.stage_scores(run.rows, "hybrid_raw_loss"), "#17a398", -0.07),
        ("stitched", curves.stage_scores(run.rows, "hybrid_loss"), "#e4572e", 0.07),
    ]
    if not any(any(losses.values()) for _, losses, _, _ in kinds):
        return None
    with canvas.figure(9.2, 3.2) as figure:
        axes = figure.subplots()
        stages = list(kinds[0][1])
        for label, losses, shade, shift in kinds:
            there = [i for i, stage in enumerate(stages) if losses[stage]]
            if not there:
                continue
            axes.plot(
                [i + shift for i in there],
                [statistics.fmean(losses[stages[i]]) for i in there],
                color=shade,
                label=f"hybrid, {label}",
                linewidth=1.3,
            )
            axes.plot(
                [i + shift for i in there for _ in losses[stages[i]]],
                [value for i in there for value in losses[stages[i]]],
                "o",
                color=shade,
                markersize=5,
                alpha=0.75,
            )
        for name in ("guide", "from_scratch"):
            if units.measured(named(run.results, name).get("loss")):
                axes.axhline(
                    named(run.results, name)["loss"],
                    color=canvas.color(name),
                    linestyle=(0, (4, 2)),
                    linewidth=1.3,
                    label=f"{name} (test)",
                )
        axes.set_xticks(range(len(stages)), [f"up to {stage}" for stage in stages])
        axes.set(ylabel=f"loss ({loss_unit(run.results)})", xlim=(-0.5, len(stages) - 0.5))
        figure.legend(loc="outside upper left", ncols=4)
        return canvas.svg(figure, "Loss of the hybrid after each replaced part")


def costs(run: Run) -> str | None:
    """State bytes against context length, and latencies, of guide and converted."""
    pair = [model for name in ("guide", "converted") if (model := named(run.results, name))] or run.results[
        "models"
    ][:4]
    sizes = {
        m["name"]: sorted(
            (int(k), v) for k, v in (m.get("state_bytes") or {}).items() if units.measured(v) and v > 0
        )
        for m in pair
    }
    timed = [
        (key, label)
        for key, label in (("latency", "full forward"), ("token_latency", "one token"))
        if any(units.measured(model.get(f"{key}_us")) for model in pair)
    ]
    if not any(sizes.values()) and not timed:
        return None
    with canvas.figure(9.2, 3.1) as figure:
        panels = iter(
            figure.subplots(
                1,
                bool(any(sizes.values())) + len(timed),
                squeeze=False,
                width_ratios=[2.2] * any(sizes.values()) + [1.0] * len(timed),
            )[0]
        )
        if any(sizes.values()):
            _draw_state(next(panels), sizes)
        for key, label in timed:
            _draw_latency(next(panels), pair, key, label)
        return canvas.svg(figure, "State bytes against context length, and latencies")


def _draw_state(axes: Any, sizes: dict[str, list[tuple[int, float]]]) -> None:
    for name, points in sizes.items():
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker="o",
            markersize=4.5,
            color=canvas.color(name),
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="context (tokens)", title="state kept between tokens")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sorted({x for points in sizes.values() for x, _ in points}))
    axes.margins(y=0.15)
    canvas.axis_units(
        axes.xaxis, lambda value: f"{value / 1024:g} k" if value >= 1024 else f"{value:g}", log=True
    )
    canvas.axis_units(axes.yaxis, units.size, log=True)
    axes.legend(loc="best")


def _draw_latency(axes: Any, models: list[dict[str, Any]], key: str, label: str) -> None:
    shown = [model for model in models if units.measured(model.get(f"{key}_us"))]
    for i, model in enumerate(shown):
        spread = model.get(f"{key}_iqr_us")
        axes.bar(
            i,
            model[f"{key}_us"],
            width=0.6,
            color=canvas.color(model["name"]),
            alpha=0.9,
            yerr=spread / 2 if units.measured(spread) else None,
            ecolor=canvas.INK,
            capsize=3,
        )
    axes.set_xticks(range(len(shown)), [model["name"] for model in shown])
    axes.set(title=f"{label}, median", ylim=(0, None), xlim=(-0.6, len(shown) - 0.4))
    axes.grid(visible=False, axis="x")
    canvas.axis_units(axes.yaxis, lambda value: units.duration(value).replace("us", "µs"))
