"""Scores of all models, and what was measured of their features."""

import math
import statistics
from typing import Any

from theseus_jax.report import grid, standing, units
from theseus_jax.report.panel import Grid, Panel, Run
from theseus_jax.report.standing import Model, Results

EACH = 10  # more seeds than these show as a range
TAKEN = (
    *(("loss", "loss", "loss"), ("bits/byte", "bits_per_byte", "similarity")),
    ("word ppl", "word_perplexity", "loss"),
    *(("examples", "train_examples", "whole"), ("labels", "labels", "whole")),
    *(("steps", "optimizer_steps", "whole"), ("FLOPs", "training_flops", "count")),
    *(("time", "seconds", "s"), ("MFU", "mfu", "share")),
)
CHOSEN = (
    *(("model", "name", ""), ("rate", "learning_rate", ""), ("decay", "decay", "")),
    *(("at edge", "edge", ""), ("1 step", "step_us", "us")),
)
AGREEMENT = ("cosine", "pearson", "spearman")
FEATURES = (("probe", "probe", ""), *((key, key, "similarity") for key in AGREEMENT))
NOTE = (
    "probe: test accuracy of a linear classifier on the features. Agreement with the guide's of "
    "the same examples: mean cosine, and correlations over pairs of how similar both find them."
)
SEARCHED = "rate, decay (of a solver: its penalty): what the search chose; at edge: of the tried."


def grids(run: Run) -> list[Grid]:
    """Scores, settings and speed, and features, where any were measured."""
    models, keys = standing.ordered(run.results), {"probe_accuracy", "agreement"}
    rows = [{"name": model["name"], **features(model)} for model in models if keys & set(model)]
    content = grid.of(rows, (("model", "name", ""), *FEATURES))
    probed = content._replace(title="Features: what a network's head reads", note=NOTE)
    return [score_grid(run.results), speed_grid(run.results), probed]


def score_grid(results: Results) -> Grid:
    """One row a model: test score and spread, loss, and what training one seed took."""
    families = any(model.get("family") for model in results["models"])
    names = (*[("family", "family", "")] * families, ("model", "name", ""))
    taken = TAKEN[1:] if results["metric"] == "loss" else TAKEN  # then the score is the loss
    each = (f"each seed{' (%)' * bool(standing.scale(results)[2])}", "each", "")
    columns = (*names, (results["metric"], "score", ""), *taken, each)
    rows, before = [], None
    for model in standing.ordered(results):
        family = model.get("family", "")
        shown = {"family": "" if family == before else family, "each": each_seed(results, model)}
        rows.append(model | shown | {"score": standing.model_score(results, model)})
        before = family
    content = grid.of(rows, columns, names=len(names))
    best, wide = standing.best(results, "ours") or {}, int(content.header[-1] == each[0])
    return content._replace(note=_note(results, content), bold=(best.get("name"),), wide=wide)


def each_seed(results: Results, model: Model) -> str:
    """The value of every seed, accuracies in percent; of many their range."""
    seeds = list(model.get("seeds") or ())
    many = len(seeds) > EACH and all(map(units.measured, seeds))
    shown = (min(seeds), max(seeds)) if many else seeds
    cells = (standing.level(results, value).removesuffix(" %") for value in shown)
    return (" to " if many else " ").join(cells) or "-"


def _note(results: Results, content: Grid) -> str:
    parts = [f"Test {results['metric']}, mean +- standard error over seeds"]
    parts += [f"loss in {standing.loss_unit(results)}"] * ("loss" in content.header)
    if "examples" in content.header:
        parts.append("examples: those a model could use, labels: those of them with labels")
    taken = [label for label in ("steps", "FLOPs", "time") if label in content.header]
    parts += [f"{', '.join(taken)}: the training of one seed"] if taken else []
    return f"{'; '.join(parts)}."


def features(model: Model) -> dict[str, Any]:
    """Accuracy of a linear probe, with its spread where seeds are listed, and agreement."""
    agreement, seeds = model.get("agreement") or {}, model.get("probe_seeds") or ()
    error = statistics.stdev(seeds) / math.sqrt(len(seeds)) if len(seeds) > 1 else None
    probe = standing.score({"metric": "accuracy"}, model.get("probe_accuracy"), error, len(seeds))
    return {"probe": probe, **{key: agreement.get(key) for key in AGREEMENT}}


def speed_grid(results: Results) -> Grid:
    """One row a model: what the search chose, time a step, seconds to each declared score."""
    declared = results.get("declared") or {}
    columns = (*CHOSEN, *((f"to {name}'s", f"reached {name}", "s") for name in declared))
    rows = [
        model
        | {"edge": "yes" if model.get("at_edge") is True else None}
        | {f"reached {name}": model.get(f"seconds_to_{name}") for name in declared}
        | {f"reached {name}": text for name in declared if (text := _partly(model, name))}
        for model in standing.ordered(results)
    ]
    content = grid.of(rows, columns)
    scores = [(" and ".join(names), value) for names, value in standing.declared(results)]
    levels = ", ".join(f"{names} {standing.level(results, value)}" for names, value in scores)
    title = "What the search chose, and speed" if "decay" in content.header else "Speed"
    note = SEARCHED if "decay" in content.header else "One seed's."
    if levels:
        note += f" To a score: training until the best {standing.score_name(results)} that every "
        note += f"seed of that model reaches ({levels}); where not all seeds reach it, how many do."
    return content._replace(title=title, note=note)


def _partly(model: Model, name: str) -> str:
    """How many seeds reach the score of `name`, where not all do and so no mean is recorded."""
    times, count = model.get(f"seconds_to_{name}_seeds") or (), model.get(f"reached_{name}")
    known = units.measured(model.get(f"seconds_to_{name}")) or not times or count is None
    return "" if known else f"{count} of {len(times)}"


PANEL = Panel("Results", grids=grids)
