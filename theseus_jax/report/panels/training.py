"""How models trained: losses against steps and FLOPs, validation scores against seconds."""

from typing import Any, Sequence

from theseus_jax.report import canvas, series, standing, units
from theseus_jax.report.canvas import Line, Plot
from theseus_jax.report.panel import Panel, Picture, Run
from theseus_jax.report.standing import Model

SEEDS = 10  # thin lines of more seeds cannot be told apart
DIAMOND = {"marker": "D", "markersize": 5, "zorder": 5, "linestyle": "none"}
DIAMOND |= {"markeredgecolor": canvas.INK, "markeredgewidth": 0.6}
DOTTED = {"linestyle": (0, (1, 2)), "linewidth": 0.9}
THIN = {"alpha": 0.28, "linewidth": 0.7, "zorder": 2}
FIELDS = ("step", "flops")
DOTS = {"marker": "o", "markersize": 5, "linestyle": "none", "alpha": 0.85}


def pictures(run: Run) -> list[Picture]:
    """Losses, and the race for the validation score."""
    return [(losses(run), _loss_caption(run)), (race(run), _race_caption(run))]


def losses(run: Run) -> Any:
    """An <svg> of losses against steps and FLOPs, cross-entropies above; None without any."""
    rows, heights, unit = [], [], standing.loss_unit(run.results)
    for curve, lines_of, label, height in (
        (series.task_curve, _task_lines, f"cross-entropy ({unit})", 3.6),
        (series.own_curve, _own_lines, "training loss of models\nwithout a cross-entropy", 2.4),
    ):
        models = standing.ordered(run.results)
        if any(curve(run.rows, model["name"]) for model in models):
            pair = [[li for m in models for li in lines_of(run, m, key)] for key in FIELDS]
            near = {"ylabel": label, "ylim": canvas.focus(pair[0])}
            far = {"ylabel": label, "yscale": "log"}  # losses of different kinds
            positive = all(value > 0 for line in pair[0] for value in line.ys)
            rows.append(_plots(run, pair, far if curve is series.own_curve and positive else near))
            heights.append(height)
    return canvas.chart(rows, heights, "Training curves of all models")


def _plots(run: Run, pair: Sequence[list[Line]], settings: dict[str, Any]) -> list[Plot]:
    """Against steps, of which a guide's may be many more than are of interest, and FLOPs."""
    steps = {m["name"]: series.extent(run.rows, m["name"])[0] for m in run.results["models"]}
    guides = {model["name"] for model in standing.of_role(run.results, "guide")}
    longest, others = max(steps.values()), [steps[name] for name in steps.keys() - guides]
    end = 1.04 * min(longest, 1.5 * max(others, default=0) or longest)
    by_steps = Plot(pair[0], settings | {"xlabel": "optimizer steps", "xlim": (0, end)})
    counted = any(x > 0 for line in pair[1] for x in line.xs or ())
    by_flops = {"xlabel": "training FLOPs of one seed", "xscale": "log" if counted else "linear"}
    return [by_steps, Plot(pair[1], by_flops, units.human)]


def _curve(model: Model, curve: Sequence[series.Point], field: str, label: str | None) -> Line:
    points, ours = series.thinned(curve), model.get("role") == "ours"
    longer = model["name"].endswith(canvas.LONGER)
    style = {"linestyle": (0, (4, 1.5)) if longer else "-", "linewidth": 2.2 if ours else 1.5}
    style |= {"zorder": 4 if ours else 3, "marker": "." if len(points) == 1 else None}
    xs = [getattr(point, field) for point in points]
    return Line(xs, [point.value for point in points], canvas.color(model["name"]), label, style)


def _task_lines(run: Run, model: Model, field: str) -> list[Line]:
    """A curve, and the test loss at its end; a guide's, which may train for longer, as a level."""
    name, loss = model["name"], model.get("loss")
    points = series.task_curve(run.rows, name)
    lines = [_curve(model, points, field, name)] if points else []
    steps, flops = series.extent(run.rows, name)
    if steps and units.measured(loss):
        guide = model.get("role") == "guide"
        alone = guide or not (points or series.own_curve(run.rows, name))  # else a curve names it
        label, style = f"{name}, test loss" if alone else None, DOTTED if guide else DIAMOND
        end = None if guide else [steps if field == "step" else flops]
        lines.append(Line(end, [loss], canvas.color(name), label, style))
    return lines


def _own_lines(run: Run, model: Model, field: str) -> list[Line]:
    """A line a phase: the losses of two are not of one kind."""
    name, points = model["name"], series.own_curve(run.rows, model["name"])
    logged = [" + ".join(terms) or "loss" for terms in series.terms(run.rows, name).values()]
    label = f"{name}: {', then '.join(dict.fromkeys(logged))}"
    phases = list(dict.fromkeys(point.phase for point in points))
    parts = [[point for point in points if point.phase == phase] for phase in phases]
    return [_curve(model, part, field, None if i else label) for i, part in enumerate(parts)]


def _loss_caption(run: Run) -> str:
    """What is drawn, and nothing else."""
    models = standing.ordered(run.results)
    lines = [line for model in models for line in _task_lines(run, model, "step")]
    others = [m["name"] for m in models if series.own_curve(run.rows, m["name"])]
    tasked = any(series.task_curve(run.rows, model["name"]) for model in models)
    parts = (
        ["Cross-entropy on training batches, mean over seeds, of what logs it."] if tasked else []
    )
    if tasked and any(line.style is DIAMOND for line in lines):
        parts.append("Diamonds: test losses at the end.")
    if others:
        place, names = "Below, on" if tasked else "On", ", ".join(others)
        parts.append(f"{place} a scale of its own: the training loss of {names}, of which no")
        parts.append("cross-entropy was logged; the legend names its terms.")
    return " ".join(parts)


def race(run: Run) -> Any:
    """An <svg> of validation scores against seconds, axes a family; None without any."""
    factor, _, unit = standing.scale(run.results)
    families: dict[str, list[Line]] = {}
    for model in standing.ordered(run.results):
        lines = _race_lines(run, model, factor)
        if lines:
            families.setdefault(model.get("family", ""), []).extend(lines)
    curves = [line for lines in families.values() for line in lines]
    if not curves:
        return None
    levels = [
        Line(None, [factor * value], canvas.INK, f"{' and '.join(names)}'s {text}", DOTTED)
        for names, value in standing.declared(run.results)
        for text in [standing.level(run.results, value)]
    ]
    higher, metric = run.results.get("higher_is_better"), run.results["metric"]
    score = f"validation {metric}{' (%)' * bool(unit)}"
    times = [x for line in curves for x in line.xs]
    common = {"xlabel": "seconds of training", "xlim": (min(times) / 1.3, max(times) * 1.3)}
    common |= {"xscale": "log", "ylim": canvas.focus([*curves, *levels])}
    plots = [
        Plot([*lines, *levels], common | {"title": f"{family} models".strip()}, units.seconds)
        for family, lines in families.items()
    ]
    plots[0].settings["ylabel"] = score if higher else standing.score_name(run.results)
    return canvas.chart([plots], [4.2], "Validation score against seconds of training")


def _race_lines(run: Run, model: Model, factor: int) -> list[Line]:
    """The mean and single seeds of a model, or the dots of one that is solved for."""
    name, curves = model["name"], series.score_curves(run.rows, model["name"])
    mean = series.mean_curve(curves)
    drawn = [(mean, name, {"zorder": 4, "marker": "." if len(mean) == 1 else None})]
    drawn += [(list(curves[seed].values()), None, THIN) for seed in list(curves)[:SEEDS]]
    lines = []
    for checks, label, style in [*drawn, (series.solved(run.rows, model), name, DOTS)]:
        shown = [check for check in checks if check.seconds > 0]  # the axis is logarithmic
        if shown:
            ys = [factor * check.score for check in shown]
            lines.append(Line([c.seconds for c in shown], ys, canvas.color(name), label, style))
    return lines


def _race_caption(run: Run) -> str:
    text = "Validation score against seconds of training, in which all phases of a model count."
    styles = [li.style for m in run.results["models"] for li in _race_lines(run, m, 1)]
    text += f" Strong: mean over seeds; thin: single seeds, {SEEDS} at most." * (THIN in styles)
    text += " Dots: solved directly, a dot a seed." * (DOTS in styles)
    return text + " Dotted: the declared scores." * bool(standing.declared(run.results))


PANEL = Panel("Training", pictures=pictures)
