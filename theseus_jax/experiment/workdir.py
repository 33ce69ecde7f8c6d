"""Where a run leaves its files: opened once, refused for another config, written whole."""
from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from typing import Any, NamedTuple

import jax

from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.records import Records


class Workdir(NamedTuple):
    """Where a run leaves what it made."""

    path: pathlib.Path
    records: Records

    def model(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / name

    def progress(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / "unfinished" / name


def open_workdir(config: Any, path: pathlib.Path) -> Workdir:
    """The workdir of this config, new or begun. Raises UserError for one of another config or that cannot be written."""
    wanted = config.to_json(sort_keys=True)
    try:
        path.mkdir(parents=True, exist_ok=True)
        known = path / "config.json"
        begun = (path / "metrics.jsonl").exists()  # else a run ended before it did anything: nothing is lost
        held = json.loads(wanted)
        if begun and known.exists():
            held = {"smoke": held["smoke"], **_current({"smoke": held["smoke"], **json.loads(known.read_text())})}
        if held != json.loads(wanted):
            raise UserError(f"{path} holds a run of another config ({_first_difference(held, json.loads(wanted))}); "
                            "give another --workdir or the same config")
        if not begun or not known.exists():
            write(known, wanted)
            write(path / "versions.json", json.dumps(_versions(), indent=1))
    except OSError as error:
        raise UserError(f"the workdir {path} cannot be written ({error.strerror}); give another --workdir") from error
    return Workdir(path, Records(path / "metrics.jsonl"))


RATES = {"scratch_rate": "from_scratch", **{f"{name}_rate": name for name in (
    "distilled", "one_shot", "one_shot_distilled", "fitnets", "theseus", "ted", "supervised")}}
GONE = {"convert": {"task_weight": 0.0, "kl_weight": 0.0, "stop_every": 0, "stop_gain": None, "stop_patience": None}}


def _current(known: dict[str, Any]) -> dict[str, Any]:
    """An earlier version's config in today's keys: those that moved where they are now, those that are gone left out where
    they switched nothing on (None: whatever they say), those that it did not have at their defaults.
    """
    known = {name: dict(part) if isinstance(part, dict) else part for name, part in known.items()}
    controls = known.get("controls", {})
    moved = {new: controls.pop(old) for old, new in RATES.items() if old in controls}
    if moved:
        controls["rates"] = moved
    for name, idle in GONE.items():
        for key, value in idle.items():
            if key in known.get(name, {}) and value in (None, known[name][key]):
                del known[name][key]
    default = json.loads(base(known.get("task", "language_model")).to_json())
    return _filled(known, default)


def _filled(known: Any, default: Any) -> Any:
    if not isinstance(known, dict) or not isinstance(default, dict):
        return known
    return {**default, **{key: _filled(value, default.get(key)) for key, value in known.items()}}


def _first_difference(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix: tree}
        return {key: value for k, v in tree.items() for key, value in leaves(v, f"{prefix}.{k}" if prefix else k).items()}

    old, new = leaves(known), leaves(wanted)
    key = next(key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
    return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"


def write(path: pathlib.Path, content: str) -> None:
    """Replace a file as a whole. Raises UserError when the disk is full or the folder cannot be written."""
    try:
        path.with_suffix(path.suffix + ".new").write_text(content)
        path.with_suffix(path.suffix + ".new").replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); free some space and start again") from error


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "ml-collections")
    found = {"python": platform.python_version(), "platform": platform.platform(), "device": device()}
    return found | {name: importlib.metadata.version(name) for name in names}


def stored_config(text: str) -> Any:
    """The ConfigDict of a checkpoint's JSON text; keys that its version did not have yet get their defaults."""
    known = json.loads(text)
    config = base(known.get("task", "language_model"))
    with config.unlocked():
        config.update(known)
    return config


def device() -> str:
    """Platform and kind of the first device."""
    device = jax.devices()[0]
    return f"{device.platform} {device.device_kind}"
