"""Finished runs side by side, and where their configs differ."""

import os
import pathlib
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.paths import local
from theseus_jax.report import grid, markup, standing
from theseus_jax.report.grid import Grid, aligned
from theseus_jax.report.panels import scores
from theseus_jax.report.read import Run, read_run

WIDE = 10_000  # characters: a line a run, whatever the terminal
Workdirs = Sequence[str | os.PathLike[str]]
# What must agree before scores may stand in one table. A perplexity per token also depends on the
# tokenizer, and the bytes of the test split tell other held-out documents of a corpus apart.
SAME = ("task", "metric", "data.sha256", "data.tokenizer", "data.vocabulary", "data.bytes.test")
COLUMNS = (
    *(("loss", "loss", "loss"), ("gap", "gap", ""), ("bits/byte", "bits_per_byte", "similarity")),
    ("word ppl", "word_perplexity", "loss"),
    *(*scores.FEATURES, ("examples", "train_examples", "whole"), ("labels", "labels", "whole")),
    *(("steps", "optimizer_steps", "whole"), ("FLOPs", "training_flops", "count")),
    ("params", "parameters", "count"),
)


def compare(workdirs: Workdirs, *, anyway: bool = False) -> str:
    """One row a run and model, then the config keys that differ: plain text.

    Raises UserError for a run that `read_run` refuses, a workdir given twice, and runs of which a
    key of SAME differs; anyway=True shows those too, with the difference above the table.
    """
    runs = _read(workdirs)
    parts = [f"Not comparable: {difference}" for difference in _differences(runs, anyway)]
    parts += [f"Test results; {_meaning(runs)}", aligned(score_grid(runs), WIDE)]
    settings = config_grid(runs)
    return "\n".join([*parts, "", settings.title, *[aligned(settings, WIDE)] * bool(settings.rows)])


def compare_html(
    workdirs: Workdirs, path: str | os.PathLike[str], *, anyway: bool = False
) -> pathlib.Path:
    """The same as a self-contained page at `path`, which is returned. Raises as `compare`."""
    runs = _read(workdirs)
    text = "these runs are not comparable"
    warnings = [("fails", text, difference) for difference in _differences(runs, anyway)]
    note = f"Test data, mean +- standard error over seeds; {_meaning(runs)}."
    settings = config_grid(runs)
    differ, tables = [settings.title], [settings._replace(title="")] * bool(settings.rows)
    sections = [
        {"title": "Not comparable", "verdicts": warnings},
        {"title": "Results", "grids": [score_grid(runs)._replace(note=note)]},
        {"title": "Configs", "words": differ, "grids": tables},
    ]
    return markup.save(path, markup.page(f"{len(runs)} runs compared", sections[not warnings :]))


def _read(workdirs: Workdirs) -> list[Run]:
    paths = [local(workdir) for workdir in workdirs]
    places = [path.resolve() for path in paths]
    if not paths:
        raise UserError("no run is given to compare; give the workdirs of finished runs")
    for i, path in enumerate(paths):
        if places[i] in places[:i]:
            raise UserError(f"{path} is given twice; give each run once")
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    shown = [str(path) if names.count(name) > 1 else name for name, path in zip(names, paths)]
    return [run._replace(name=name) for run, name in zip(runs, shown)]


def _differences(runs: list[Run], anyway: bool) -> list[str]:
    """What forbids one table, in words; raises UserError with the first unless `anyway`."""
    results, differences = [_leaves(run.results) for run in runs], []
    # splits whose bytes are not recorded are told apart by their examples
    counted = [] if all(SAME[-1] in leaves for leaves in results) else ["data.eval_examples"]
    for key in (*SAME, *counted):
        values = [leaves.get(key) for leaves in results]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            pair = f"{values[0]!r} in {runs[0].name} and {values[other]!r} in {runs[other].name}"
            differences.append(f"{key} is {pair}")
    if differences and not anyway:
        remedy = "compare runs of the same task and data, or give --anyway to see them side by side"
        raise UserError(f"these runs cannot be compared: {differences[0]}; {remedy} all the same")
    return differences


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inside = _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        leaves |= inside or {f"{prefix}{key}": value}
    return leaves


def score_grid(runs: list[Run]) -> Grid:
    """One row a run and model."""
    metrics = "/".join(dict.fromkeys(run.results["metric"] for run in runs))
    rows = [
        model
        | scores.features(model)
        | {"run": run.name, "score": standing.model_score(run.results, model)}
        | {"gap": None if (gap := _gap(run, model)) is None else f"{gap:.1%}"}
        for run in runs
        for model in standing.ordered(run.results)
    ]
    names = (("run", "run", ""), ("model", "name", ""))
    return grid.of(rows, (*names, (metrics, "score", ""), *COLUMNS), names=2)


def _gap(run: Run, model: dict[str, Any]) -> float | None:
    return standing.gap_recovered(run.results, model) if model.get("role") == "ours" else None


def config_grid(runs: list[Run]) -> Grid:
    """The config keys that differ: a row a key, or a row a run where runs are more than keys."""
    leaves = [_leaves(run.config) for run in runs]
    every, first, absent = (
        dict.fromkeys(key for leaf in leaves for key in leaf),
        leaves[0],
        object(),
    )
    keys = [k for k in every if any(leaf.get(k, absent) != first.get(k, absent) for leaf in leaves)]
    cells = [("key", *(run.name for run in runs))]
    cells += [(key, *(str(leaf[key]) if key in leaf else "-" for leaf in leaves)) for key in keys]
    if len(runs) > len(keys):
        cells = [("run", *keys), *list(zip(*cells))[1:]]
    differ = f"The configs differ in {len(keys)} {'key' if len(keys) == 1 else 'keys'}"
    rows = [tuple(row) for row in cells[1:]] if keys else []
    return Grid(tuple(cells[0]), rows, title=differ if keys else "The configs are equal.")


def _meaning(runs: list[Run]) -> str:
    """What losses and gaps are measured in, of those that are shown."""
    shown = [run for run in runs for model in run.results["models"] if _gap(run, model) is not None]
    losses = " or ".join(dict.fromkeys(standing.loss_unit(run.results) for run in runs))
    gaps = " or ".join(dict.fromkeys(standing.gap_unit(run.results) for run in shown))
    gap = f"; gap: share of the {gaps} between from_scratch and guide recovered"
    return f"loss in {losses}{gap * bool(gaps)}"
