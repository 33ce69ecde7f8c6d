"""Where a run leaves its files: opened once, refused for another config, written whole."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import pathlib
import platform
from typing import Any, NamedTuple

import jax

from theseus_jax.arms import RESERVED
from theseus_jax.config import current
from theseus_jax.errors import UserError
from theseus_jax.records import Records

LOG = logging.getLogger("theseus_jax")
STEPS = 10**6  # more than a phase has: an unfinished state is called phase * STEPS + step


class Workdir(NamedTuple):
    """Where a run leaves what it made."""

    path: pathlib.Path
    records: Records

    def model(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / name

    def progress(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / "unfinished" / name


def open_workdir(config: Any, path: pathlib.Path) -> Workdir:
    """The workdir of this config, new or begun. Raises UserError for one of another config, one
    whose config is gone or damaged, and one that cannot be written.
    """
    wanted = json.loads(config.to_json())
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = _held(path, wanted)
        if held is not None and held != wanted:
            raise UserError(
                f"{path} holds a run of another config ({first_difference(held, wanted)}); give"
                " another --workdir or the same config"
            )
        if held is not None:
            _tell_versions(path / "versions.json")
        if held is None or not (path / "config.json").exists():
            write(path / "config.json", config.to_json(sort_keys=True))
            write(path / "versions.json", json.dumps(_versions(), indent=1))
    except OSError as error:
        raise UserError(
            f"the workdir {path} cannot be written ({error.strerror}); give another --workdir"
        ) from error
    return Workdir(path, Records(path / "metrics.jsonl"))


def _held(path: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The config, in today's keys, of the run that a workdir holds, None where it holds none: one
    that ended before it did anything has nothing to lose.
    """
    made = path / "checkpoints"
    models = [one for one in made.glob("*") if one.is_dir()] if made.is_dir() else []
    begun = (path / "metrics.jsonl").exists() or (path / "results.json").exists() or models
    known = path / "config.json"
    if not begun:
        return None
    if known.exists():
        held = read_json(known, "delete it: the checkpoints know the config")
    elif models:
        return wanted  # every checkpoint has the config that it was made with, which is compared
    else:
        raise UserError(
            f"{path} holds a run and no config.json, so that nobody knows of which config; bring it"
            " back, or give another --workdir"
        )
    held = {"smoke": wanted["smoke"], **held}
    return {"smoke": wanted["smoke"], **current(held)}


def read_json(path: pathlib.Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of ours. Raises UserError, with the remedy, for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); bring it back, or {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it holds no object); bring it back, or {remedy}")
    return found


def reached(path: pathlib.Path) -> str:
    """Where a run that was stopped goes on, for people."""
    made = path / "checkpoints"
    states = sorted(made.glob("unfinished/*/[0-9]*"), key=lambda one: one.stat().st_mtime)
    whole = [one.name for one in made.glob("*") if one.is_dir() and one.name not in RESERVED]
    if not states:
        after = f" after {', '.join(sorted(whole))}" if whole else ""
        return f"the same command goes on{after}" if whole else "nothing was saved yet"
    phase, step = divmod(int(states[-1].name), STEPS)
    return f"the same command goes on in {states[-1].parent.name}, phase {phase + 1}, step {step}"


def first_difference(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first key, by name, in which two configs differ, with both values."""

    def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix: tree}
        return {
            key: value
            for k, v in tree.items()
            for key, value in leaves(v, f"{prefix}.{k}" if prefix else k).items()
        }

    old, new = leaves(known), leaves(wanted)
    key = next(key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
    return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"


def write(path: pathlib.Path, content: str) -> None:
    """Replace a file as a whole. Raises UserError when the disk is full or the folder cannot be
    written.
    """
    try:
        path.with_suffix(path.suffix + ".new").write_text(content)
        path.with_suffix(path.suffix + ".new").replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); free some space and start again"
        ) from error


def _tell_versions(path: pathlib.Path) -> None:
    """Warns of other packages or another machine than a run began with: it goes on with them, and
    its numbers are no longer those of one version.
    """
    if not path.exists():
        return
    then, now = read_json(path, "delete it: nothing is read from it"), _versions()
    told = [
        f"{name} {then[name]}, now {now[name]}"
        for name in now
        if then.get(name, now[name]) != now[name]
    ]
    if told:
        LOG.warning("%s was begun with %s", path.parent, "; ".join(told))


def _versions() -> dict[str, str]:
    names = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "tokenizers",
        "ml-collections",
    )
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device(),
    }
    return found | {name: importlib.metadata.version(name) for name in names}


def device() -> str:
    """Platform and kind of the first device."""
    device = jax.devices()[0]
    return f"{device.platform} {device.device_kind}"
