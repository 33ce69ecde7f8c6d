"""Finished runs side by side, and where their configs differ."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.report import class_tables, classes, heads, markup, units
from theseus_jax.report.read import Run, read_run
from theseus_jax.report.tables import (
    Grid,
    aligned,
    drop_empty,
    gap_recovered,
    gap_unit,
    loss_unit,
    ordered,
    score,
    seed_count,
)

Workdirs = Sequence[str | os.PathLike[str]]
# What must agree before scores may stand in one table. A perplexity per token also depends on the tokenizer,
# and the bytes of the test split tell other held-out documents of the same corpus apart.
SAME = ("task", "metric", "data.sha256", "data.tokenizer", "data.vocabulary", "data.bytes.test")
SAME_CLASSES = ("data.eval_examples",)  # a classification may be judged on fewer examples of the same data


def compare(workdirs: Workdirs, *, anyway: bool = False) -> str:
    """One row a run and model, then the config keys that differ: plain text.

    Raises UserError for a run that `read_run` refuses, a workdir given twice, and runs whose task, metric,
    data, tokenizer or test split differ; anyway=True shows those too, with the difference above the table.
    """
    runs = _read(workdirs)
    parts = [f"Not comparable: {difference}" for difference in _differences(runs, anyway)]
    parts += [
        f"Test results; loss in {_loss_units(runs)}{_gap_meaning(runs)}",
        aligned(_scores(runs)),
        "",
        _config_title(runs),
    ]
    settings = config_grid(runs)
    return "\n".join([*parts, aligned(settings)] if settings.rows else parts)


def compare_html(workdirs: Workdirs, path: str | os.PathLike[str], *, anyway: bool = False) -> pathlib.Path:
    """The same as a self-contained page at `path`, which is returned.

    Raises as `compare`, and UserError when the page cannot be written.
    """
    runs = _read(workdirs)
    warnings = [
        markup.claims([{"text": "these runs are not comparable", "holds": False, "measured": difference}])
        for difference in _differences(runs, anyway)
    ]
    settings = config_grid(runs)
    note = f"Test data, mean ± standard error over seeds; loss in {_loss_units(runs)}{_gap_meaning(runs)}."
    return markup.save(
        path,
        markup.page(
            f"{len(runs)} runs compared",
            *warnings,
            markup.section("Results", markup.grid(_scores(runs)), markup.paragraph(note, "note")),
            markup.section(
                "Configs",
                markup.paragraph(_config_title(runs)),
                markup.grid(settings) if settings.rows else "",
            ),
        ),
    )


def _read(workdirs: Workdirs) -> list[Run]:
    paths = [pathlib.Path(workdir) for workdir in workdirs]
    if not paths:
        raise UserError("no run is given to compare; give the workdirs of finished runs")
    seen: set[pathlib.Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path} is given twice; give each run once")
        seen.add(path.resolve())
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    return [
        run._replace(name=str(path)) if names.count(run.name) > 1 else run for run, path in zip(runs, paths)
    ]


def _differences(runs: list[Run], anyway: bool) -> list[str]:
    """What forbids one table, in words; raises UserError with the first unless `anyway`."""
    found = []
    for key in (*SAME, *(SAME_CLASSES if all(classes.classifies(run.results) for run in runs) else ())):
        values = [_leaves(run.results).get(key) for run in runs]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            found.append(
                f"{key} is {values[0]!r} in {runs[0].name} and {values[other]!r} in {runs[other].name}"
            )
    if found and not anyway:
        raise UserError(
            f"these runs cannot be compared: {found[0]}; compare runs of the same task and data, or give "
            "--anyway to see them side by side all the same"
        )
    return found


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, dict) and value
        leaves |= _leaves(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return leaves


def _scores(runs: list[Run]) -> Grid:
    rows = []
    for run in runs:
        for model in ordered(run.results["models"]):
            gap = gap_recovered(run.results) if model["name"] == "converted" else None
            rows.append(
                (
                    run.name,
                    model["name"],
                    score(run.results, model.get("value"), model.get("stderr"), seed_count(model)),
                    units.number(model.get("loss"), 3),
                    "-" if gap is None else f"{gap:.1%}",
                    units.number(model.get("bits_per_byte"), 3),
                    *class_tables.feature_cells(model),
                    units.number(model.get("train_examples"), 0),
                    units.number(model.get("labels"), 0),
                    units.number(model.get("optimizer_steps"), 0),
                    units.human(model.get("training_flops")),
                    units.human(model.get("parameters")),
                )
            )
    metrics = list(dict.fromkeys(run.results["metric"] for run in runs))
    header = ("run", "model", "/".join(metrics), "loss", "gap", "bits/byte", "probe", *class_tables.AGREEMENT)
    return drop_empty(Grid((*header, "examples", "labels", "steps", "FLOPs", "params"), rows, names=2))


def config_grid(runs: list[Run]) -> Grid:
    """The config keys whose values differ: a row a key, or a row a run where runs are more than keys."""
    leaves = [_leaves(run.config) for run in runs]
    keys = [
        key
        for key in dict.fromkeys(key for leaf in leaves for key in leaf)
        if any(leaf.get(key) != leaves[0].get(key) or (key in leaf) != (key in leaves[0]) for leaf in leaves)
    ]
    cells = [("key", *(run.name for run in runs))]
    cells += [(key, *(str(leaf[key]) if key in leaf else "-" for leaf in leaves)) for key in keys]
    if len(runs) > len(keys):
        cells = list(zip(*cells))
        cells[0] = ("run", *keys)
    return Grid(tuple(cells[0]), [tuple(row) for row in cells[1:]] if keys else [])


def _config_title(runs: list[Run]) -> str:
    settings = config_grid(runs)
    if not settings.rows:
        return "The configs are equal."
    count = len(settings.rows) if settings.header[0] == "key" else len(settings.header) - 1
    return f"The configs differ in {count} {'key' if count == 1 else 'keys'}"


def _loss_units(runs: list[Run]) -> str:
    return " or ".join(dict.fromkeys(loss_unit(run.results) for run in runs))


def _gap_meaning(runs: list[Run]) -> str:
    if all(heads.compares_heads(run.results) for run in runs):
        return ""
    found = " or ".join(dict.fromkeys(gap_unit(r.results) for r in runs if not heads.compares_heads(r.results)))
    return f"; gap: share of the {found} between from_scratch and guide that converted recovers"
