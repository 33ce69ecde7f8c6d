"""Where a run leaves its files: opened once, refused for another config, written whole."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from typing import Any, NamedTuple

import jax

from theseus_jax.config import current
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
    """The workdir of this config, new or begun. Raises UserError for one of another config or that
    cannot be written.
    """
    wanted = config.to_json(sort_keys=True)
    try:
        path.mkdir(parents=True, exist_ok=True)
        known = path / "config.json"
        # else a run ended before it did anything: nothing is lost
        begun = (path / "metrics.jsonl").exists()
        held = json.loads(wanted)
        if begun and known.exists():
            held = {
                "smoke": held["smoke"],
                **current({"smoke": held["smoke"], **json.loads(known.read_text())}),
            }
        if held != json.loads(wanted):
            raise UserError(
                f"{path} holds a run of another config"
                f" ({_first_difference(held, json.loads(wanted))}); give another --workdir or the"
                " same config"
            )
        if not begun or not known.exists():
            write(known, wanted)
            write(path / "versions.json", json.dumps(_versions(), indent=1))
    except OSError as error:
        raise UserError(
            f"the workdir {path} cannot be written ({error.strerror}); give another --workdir"
        ) from error
    return Workdir(path, Records(path / "metrics.jsonl"))


def _first_difference(known: dict[str, Any], wanted: dict[str, Any]) -> str:
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
