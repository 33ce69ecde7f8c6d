"""report.html: one page that explains a run, made of its files alone."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
from html import escape
from typing import Any, Callable

from theseus_jax.judging import HOLDS, UNDECIDED, verdict_of
from theseus_jax.report import class_page, classes, curves, figures, glossary, head_page, heads, markup, units
from theseus_jax.report.read import Run, read_run
from theseus_jax.report.tables import (
    Grid,
    cost_grid,
    each_seed,
    gap_recovered,
    gap_unit,
    loss_unit,
    model_grid,
    named,
    ordered,
    score,
    seed_count,
    stage_grid,
)


def html(run: Run) -> str:
    """The report as an HTML document without scripts, links or addresses; all text of the run is escaped.

    Without matplotlib the page says so where pictures would be.
    """
    results = run.results
    title, sections = _title, _conversion_sections
    if heads.compares_heads(results):
        title, sections = head_page.title, _head_sections
    elif classes.classifies(results):
        title, sections = class_page.title, _class_sections
    drawable = importlib.util.find_spec("matplotlib") is not None
    note = (
        ""
        if drawable
        else markup.paragraph(
            "Pictures are left out: matplotlib is not installed. Install it and write the report again.",
            "note",
        )
    )

    def draw(picture: Callable[[Run], str | None], caption: str) -> str:
        return markup.figure(picture(run), caption) if drawable else ""

    return markup.page(
        title(run),
        markup.paragraph(units.SMOKE, "banner") if results.get("smoke") else "",
        markup.paragraph(_meta(run), "meta"),
        markup.paragraph(summary(run), "lead"),
        note,
        _claims(results),
        *sections(run, draw),
        _provenance(run),
    )


def _title(run: Run) -> str:
    return f"{run.name}: {str(run.results.get('task', 'a run')).replace('_', ' ')}"


def _conversion_sections(run: Run, draw: Callable[..., str]) -> list[str]:
    return [
        _scores(run.results),
        markup.section("Training", draw(figures.training, _training_caption(run))),
        markup.section("Alignment", *_alignment(run, draw)),
        markup.section(
            "Cost of use",
            draw(
                figures.costs,
                "Bytes a model keeps between tokens of one text, and median "
                "latencies at batch 1 with their interquartile ranges.",
            ),
            _costs(run.results),
        ),
        _samples(run.results),
        _glossary(run.results),
    ]


def _head_sections(run: Run, draw: Callable[..., str]) -> list[str]:
    return [
        head_page.results_section(run.results),
        head_page.training_section(run, draw),
        head_page.conversion_section(run.results),
        head_page.cost_section(run.results),
    ]


def _class_sections(run: Run, draw: Callable[..., str]) -> list[str]:
    return [
        _scores(run.results),
        class_page.features(run.results),
        markup.section("Training", draw(figures.training, _training_caption(run))),
        class_page.guide_section(run, draw),
        markup.section("Alignment", *class_page.alignment(run, draw)),
        class_page.cost_section(run, draw),
        _glossary(run.results),
    ]


def _glossary(results: dict[str, Any]) -> str:
    return markup.section("Words", markup.facts(glossary.terms(results)))


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Write report.html of the finished run in `workdir`; returns its path. Raises as `read_run`."""
    return markup.save(pathlib.Path(workdir) / "report.html", html(read_run(workdir)))


def summary(run: Run) -> str:
    """One paragraph: what became what, how good it is, and how much of the gap to the guide that recovers.

    Of a comparison of heads: see `head_page.summary`.
    """
    results = run.results
    if heads.compares_heads(results):
        return head_page.summary(run)
    guide, ours, scratch = (named(results, name) for name in ("guide", "converted", "from_scratch"))
    if not (guide and ours):
        return (
            f"{len(results['models'])} models were compared on {_data_name(results)} by {results['metric']}."
        )
    text = class_page.subject(run) if classes.classifies(results) else _subject(run, guide, ours)
    text += f"Test {results['metric']}: converted {_score(results, ours)}, guide {_score(results, guide)}"
    text += f", the same target trained from scratch {_score(results, scratch)}. " if scratch else ". "
    gap, unit = gap_recovered(results), gap_unit(results)
    if gap is None:
        return text + "No gap between from_scratch and guide was measured that a conversion could recover."
    if gap < 0:
        return text + (
            f"The conversion is worse than training from scratch by {-gap:.0%} of the {unit} between "
            "from_scratch and guide."
        )
    return text + f"The conversion recovers {gap:.0%} of the {unit} between from_scratch and guide."


def _subject(run: Run, guide: dict[str, Any], ours: dict[str, Any]) -> str:
    schedule = (run.config.get("convert") or {}).get("schedule")
    way = f" by the {schedule} schedule" if schedule else ""
    steps = (
        f" in {units.number(ours['optimizer_steps'], 0)} optimizer steps"
        if ours.get("optimizer_steps")
        else ""
    )
    return (
        f"The guide ({_architecture(run, 'guide', guide)}) became a target of another architecture "
        f"({_architecture(run, 'target', ours)}){way}{steps} on "
        f"{_data_name(run.results)}. "
    )


def _score(results: dict[str, Any], model: dict[str, Any]) -> str:
    return (
        score(results, model.get("value"), model.get("stderr"), seed_count(model))
        .replace("+-", "±")
        .replace(" one seed", " (one seed)")
    )


def _architecture(run: Run, key: str, model: dict[str, Any]) -> str:
    settings = run.config.get(key)
    settings = settings if isinstance(settings, dict) else {}
    words = [str(settings[name]) for name in ("origin", "cell", "block") if settings.get(name)]
    words += [
        f"{name} {settings[name]}" for name in ("depth", "width", "heads", "hidden") if settings.get(name)
    ]
    if units.measured(model.get("parameters")):
        words.append(f"{units.human(model['parameters'])} parameters")
    return ", ".join(words) or "see the config"


def _data_name(results: dict[str, Any]) -> str:
    data = results.get("data") or {}
    share = data.get("share")
    part = f"{share:.0%} of the training data" if units.measured(share) and share < 1 else "the training data"
    return f"{part} of {data['name']}" if data.get("name") else part


def _meta(run: Run) -> str:
    results = run.results
    better = "higher is better" if results.get("higher_is_better") else "lower is better"
    items = [f"{results['metric']}, {better}"]
    if units.measured(results.get("chance")):
        text = classes.percent if classes.classifies(results) else units.number
        items.append(f"chance {text(results['chance'])}")
    items += [str(results[key]) for key in ("device",) if results.get(key)]
    if units.measured(results.get("seconds_total")):
        items.append(f"{results['seconds_total'] / 60:.1f} minutes in all")
    return " · ".join(items)


def _claims(results: dict[str, Any]) -> str:
    claims = results.get("claims") or []
    verdicts = [verdict_of(claim) for claim in claims]
    undecided = f" {verdicts.count(UNDECIDED)} are undecided." if UNDECIDED in verdicts else ""
    count = f"{verdicts.count(HOLDS)} of {len(claims)} claims hold.{undecided}" if claims else "This run states no claims."
    return markup.section("Claims", markup.paragraph(count), markup.claims(claims) if claims else "")


def _scores(results: dict[str, Any]) -> str:
    content = model_grid(results)
    seeds = [each_seed(results, model) for model in ordered(results["models"])]
    each = "each seed (%)" if classes.classifies(results) else "each seed"
    content = Grid((*content.header, each), [(*row, cell) for row, cell in zip(content.rows, seeds)])
    note = class_page.scores_note(results) if classes.classifies(results) else (
        f"Test {results['metric']}, mean ± standard error over seeds; loss in {loss_unit(results)}; steps, "
        "FLOPs and seconds are the training of one seed."
    )
    return markup.section(
        "Results", markup.grid(content, bold=("converted",)), markup.paragraph(note, "note")
    )


def _training_caption(run: Run) -> str:
    text = "Cross-entropy on training batches, mean over seeds; diamonds are the test losses at the end. "
    if curves.distance_curves(run.rows) and curves.task_curve(run.rows, "converted"):
        text += (
            "The converted network's curve begins after its alignment steps, which have no loss of their own. "
        )
    models = [model["name"] for model in run.results["models"]]
    alone = [m for m in models if curves.extent(run.rows, m)[0] and not curves.task_curve(run.rows, m)]
    if alone:
        text += f"Trained without a cross-entropy of their own, so without a curve: {', '.join(alone)}."
    return text.strip()


def _alignment(run: Run, draw: Callable[..., str]) -> list[str]:
    parts = [
        draw(figures.distances, "Distance to the guide's activations on training batches, mean over seeds."),
        draw(
            figures.hybrids,
            "Target up to the stage, then the frozen guide: on held-out data, one dot a seed. Raw: "
            "the guide reads the target's activations as they are; stitched: through a fitted linear map.",
        ),
    ]
    if run.results.get("stages"):
        note = (
            "CKA: debiased, kNN: share of mutual nearest neighbours, both on held-out data. loss and score: "
            "of the stitched hybrid; raw: without the fitted map."
        )
        return [*parts, markup.grid(stage_grid(run.results)), markup.paragraph(note, "note")]
    return [*parts, markup.paragraph("No stage was measured in this run.", "note")]


def _costs(results: dict[str, Any]) -> str:
    content = cost_grid(results)
    return markup.grid(content, bold=("converted",)) if len(content.header) > 2 else ""


def _samples(results: dict[str, Any]) -> str:
    parts = []
    for sample in results.get("samples") or ():
        parts += [
            markup.paragraph(str(sample.get("model", "a model")), "meta"),
            f'<pre><span class="prompt">{escape(str(sample.get("prompt", "")))}</span>'
            f"{escape(str(sample.get('text', '')))}</pre>",
        ]
    return markup.section("Generated samples", *parts)


def _provenance(run: Run) -> str:
    facts = classes.data_facts(run.results) if classes.classifies(run.results) else [
        (key, json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value)
        for key, value in (run.results.get("data") or {}).items()
    ]
    return markup.section(
        "Where this comes from",
        markup.facts(facts),
        markup.folded("Plan", run.plan),
        markup.folded("Config", json.dumps(run.config, indent=2, ensure_ascii=False)),
        markup.folded("Versions", json.dumps(run.versions, indent=2, ensure_ascii=False)),
    )
