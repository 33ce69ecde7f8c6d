"""What the page of a run of task "classification" says: lead, data, similarity of the guide, hybrids, costs."""

from __future__ import annotations

from typing import Any, Callable

from theseus_jax.report import class_figures, class_tables, classes, figures, markup, units
from theseus_jax.report.read import Run
from theseus_jax.report.tables import named

SIZES = ("depth", "width", "heads", "hidden", "units", "patch", "rank")
Draw = Callable[..., str]


def title(run: Run) -> str:
    """The page's heading."""
    name = (run.results.get("data") or {}).get("name")
    return f"{run.name}: classification" + (f" of {name}" if name else "")


def subject(run: Run) -> str:
    """What became what, how, and on which examples."""
    guide, ours = named(run.results, "guide"), named(run.results, "converted")
    settings = run.config.get("convert")
    schedule = settings.get("schedule") if isinstance(settings, dict) else None
    way = f" by the {schedule} schedule" if schedule else ""
    steps = f" in {classes.counted(ours['optimizer_steps'])} optimizer steps" if ours.get("optimizer_steps") else ""
    return (
        f"The guide ({_architecture(run, 'guide', guide)}) became the target "
        f"({_architecture(run, 'target', ours)}){way}{steps} on {classes.training_data(run.results, ours)}. "
    )


def _architecture(run: Run, key: str, model: dict[str, Any]) -> str:
    settings = run.config.get(key)
    settings = settings if isinstance(settings, dict) else {}
    words = [" ".join(str(settings[name]) for name in ("origin", "arch") if settings.get(name))]
    words += [f"{settings['cell']} cells"] if settings.get("arch") == "birnn" and settings.get("cell") else []
    words += [f"{name} {settings[name]}" for name in SIZES if settings.get(name)]
    if units.measured(model.get("parameters")):
        words.append(f"{units.human(model['parameters'])} parameters")
    if model.get("adapter_parameters"):
        words.append(f"{units.human(model['adapter_parameters'])} of them in adapters")
    return ", ".join(filter(None, words)) or "see the config"


def scores_note(results: dict[str, Any]) -> str:
    """What the columns of the results mean."""
    chance = results.get("chance")
    text = "Test accuracy, mean ± standard error over seeds"
    text += f"; always the most common class: {classes.percent(chance)}" if units.measured(chance) else ""
    text += "; loss in nats; "
    if any("train_examples" in model for model in results["models"]):
        text += "examples: how many training examples a model could use, labels: how many of them with labels; "
    return text + "steps, FLOPs and seconds are the training of one seed."


def features(results: dict[str, Any]) -> str:
    """What was measured of the features that heads read; nothing where nothing was."""
    content = class_tables.feature_grid(results)
    if not content.rows:
        return ""
    text = (
        "Features: what a network's head reads. probe: test accuracy of a linear classifier fitted on them. Agreement "
        "with the guide's features of the same test examples: mean cosine of corresponding ones, and correlations over "
        "pairs of examples of how similar both networks find them."
    )
    return markup.section("Features", markup.grid(content, bold=("converted",)), markup.paragraph(text, "note"))


def guide_section(run: Run, draw: Draw) -> str:
    """The heat map of the guide's stages; the same as a table where it cannot be drawn."""
    content = class_tables.similarity_grid(run.results)
    if content is None:
        return ""
    names, seams = classes.guide_similarity(run.results)[0], classes.seams(run.results)
    text = (
        "Debiased CKA of every two stages of the guide on validation data: stages that are nearly the same ask for "
        "one seam."
    )
    if set(seams) & set(names):
        text += (
            " Lines: seams, named guide stage = target stage; between two lines lies what one part of the target "
            "replaced."
        )
    outside = [f"{guide} = {target}" for guide, target in seams.items() if guide not in names]
    text += f" Not in the map: {', '.join(outside)}." if outside else ""
    picture = draw(class_figures.similarity, text)
    return markup.section("Stages of the guide", picture or markup.grid(content) + markup.paragraph(text, "note"))


def alignment(run: Run, draw: Draw) -> list[str]:
    """Distances, hybrids, and what was measured at every seam."""
    content = class_tables.stage_grid(run.results)
    words = class_tables.stage_words(content)
    raw = " Raw: without that map." if "raw" in content.header else ""
    moving = " Moving averages: before batch norm was recalibrated." if "moving" in content.header else ""
    parts = [
        draw(figures.distances, "Distance to the guide's activations on training batches, mean over seeds."),
        draw(
            class_figures.hybrids,
            "Target up to a seam, then the frozen guide, which reads the target through a fitted linear map (the stitch): "
            f"accuracy on validation data, one dot a seed.{raw}{moving}",
        ),
    ]
    if not content.rows:
        return [*parts, markup.paragraph("No stage was measured in this run.", "note")]
    note = (
        "target = guide stage. CKA: debiased, kNN: share of mutual nearest neighbours, accuracy, loss: of the "
        f"stitched hybrid, all on validation data{'; ' + words if words else ''}."
    )
    return [*parts, markup.grid(content), markup.paragraph(note, "note")]


def cost_section(run: Run, draw: Draw) -> str:
    """Parameters, FLOPs and latency of the networks."""
    content = class_tables.use_grid(run.results)
    if len(content.header) < 3:
        return ""
    note = "One example at batch 1; whiskers: interquartile range. Controls have converted's network unless they are listed."
    return markup.section(
        "Cost of use", draw(class_figures.costs, note), markup.grid(content, bold=("converted",))
    )
