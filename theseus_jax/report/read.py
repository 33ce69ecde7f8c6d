"""The files of a finished run, checked: what cannot be shown is refused, with the file and the remedy."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, NamedTuple

from theseus_jax.errors import UserError

SCHEMA = 1


class Run(NamedTuple):
    """A finished run.

    config: nested dict. plan: text. versions: name -> version. rows: those of metrics.jsonl in file order.
    results: results.json. name: the folder's name.
    """

    config: dict[str, Any]
    plan: str
    versions: dict[str, Any]
    rows: list[dict[str, Any]]
    results: dict[str, Any]
    name: str = "run"


def read_run(workdir: str | os.PathLike[str]) -> Run:
    """Everything a report needs of the finished run in `workdir`.

    Raises UserError, one line with the file and the remedy, when the folder holds no run, an unfinished
    one, or a file that is missing, cut short or not what this version writes.
    """
    path = pathlib.Path(workdir)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the workdir of a finished run")
    if not (path / "config.json").exists():
        raise UserError(f"{path} holds no run: it has no config.json; give the workdir of a finished run")
    if not (path / "results.json").exists():
        raise UserError(
            f"{path} holds an unfinished run: it has no results.json; start the run again with the same "
            "config and --workdir, and it goes on from its last checkpoint"
        )
    return Run(
        _object(path / "config.json"),
        _text(path / "plan.txt"),
        _object(path / "versions.json"),
        _rows(path / "metrics.jsonl"),
        _results(path / "results.json"),
        path.resolve().name or "run",
    )


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(
            f"{path} cannot be read ({reason}); copy it again from where the run was made, or run again in "
            "an empty --workdir"
        ) from error


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{place} is damaged: it is not JSON ({error}); copy it again from where the run was made, or "
            "run again in an empty --workdir"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{place} is damaged: expected a JSON object, found {type(value).__name__}; copy it again from "
            "where the run was made, or run again in an empty --workdir"
        )
    return value


def _object(path: pathlib.Path) -> dict[str, Any]:
    return _parse(_text(path), str(path))


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    lines = _text(path).splitlines()
    return [_parse(line, f"line {i} of {path}") for i, line in enumerate(lines, start=1) if line.strip()]


def _results(path: pathlib.Path) -> dict[str, Any]:
    results = _object(path)
    if results.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has schema {results.get('schema')!r} and this version reads {SCHEMA}; use the version "
            "that made the run, or run again in an empty --workdir"
        )
    models = results.get("models")
    named = isinstance(models, list) and models and all(isinstance(m, dict) and "name" in m for m in models)
    if not named or "metric" not in results:
        raise UserError(
            f"{path} is damaged: expected a metric and a list of named models; copy it again from where the "
            "run was made, or run again in an empty --workdir"
        )
    return results
