"""The files of a finished run, checked: what cannot be shown is refused, with file and remedy."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from theseus_jax.errors import UserError
from theseus_jax.paths import local

SCHEMA = 1
AGAIN = "copy it again from where the run was made, or run again in an empty --workdir"
# Results of earlier versions name neither roles nor families: those have models of these names.
GLAI = "glai_joint glai_path glai_per_output glai_untrained glai_joint_logistic glai_joint_ridge"
FAMILIES = {
    "GLAI": GLAI.split(),
    "MLP": ["mlp_sgd", "mlp_adam", "mlp_reduced", "low_rank"],
    "linear": ["linear_sgd", "linear_adam", "logistic", "ridge"],
}
FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}
ROLES = {"guide": "guide", **dict.fromkeys(("converted", *FAMILIES["GLAI"]), "ours")}


class Run(NamedTuple):
    """A finished run, by its files."""

    config: dict[str, Any]
    plan: str
    versions: dict[str, Any]
    rows: list[dict[str, Any]]  # of metrics.jsonl, in file order
    results: dict[str, Any]  # every model with a role
    name: str = "run"  # of the folder


def read_run(workdir: str | os.PathLike[str]) -> Run:
    """Everything a report needs of the finished run in `workdir`.

    Raises UserError, one line with file and remedy, for what is missing, unfinished or damaged.
    """
    path = local(workdir)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the workdir of a finished run")
    if not (path / "config.json").exists():
        raise UserError(f"{path} holds no run, no config.json; give the workdir of a finished run")
    if not (path / "results.json").exists():
        remedy = "start it again with the same config and --workdir, and it goes on"
        raise UserError(f"{path} holds an unfinished run: it has no results.json; {remedy}")
    return Run(
        _parse(_text(path / "config.json"), f"{path / 'config.json'}"),
        _text(path / "plan.txt"),
        _parse(_text(path / "versions.json"), f"{path / 'versions.json'}"),
        _rows(path / "metrics.jsonl"),
        _results(path / "results.json"),
        path.resolve().name or "run",
    )


def filled(results: dict[str, Any]) -> dict[str, Any]:
    """results.json whose models all have a role: of earlier versions role and family by name."""

    def record(model: dict[str, Any]) -> dict[str, Any]:
        if "role" in model:
            return model
        name = str(model["name"])
        family = {"family": FAMILY_OF[name]} if name in FAMILY_OF else {}
        return {"role": ROLES.get(name, "rival"), **family, **model}

    return results | {"models": [record(model) for model in results["models"]]}


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason}); {AGAIN}") from error


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{place} is damaged: it is not JSON ({error}); {AGAIN}") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{place} is damaged: expected a JSON object, found {kind}; {AGAIN}")
    return value


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    lines = enumerate(_text(path).splitlines(), start=1)
    return [_parse(line, f"line {i} of {path}") for i, line in lines if line.strip()]


def _results(path: pathlib.Path) -> dict[str, Any]:
    results = _parse(_text(path), str(path))
    if results.get("schema") != SCHEMA:
        versions = f"{path} has schema {results.get('schema')!r} and this version reads {SCHEMA}"
        raise UserError(f"{versions}; use the version that made the run, or run again")
    models = results.get("models")
    named = isinstance(models, list) and all(isinstance(m, dict) and "name" in m for m in models)
    if not (models and named and "metric" in results):
        raise UserError(f"{path} is damaged: expected a metric and a list of named models; {AGAIN}")
    return filled(results)
