"""Checkpoints: one folder per state, written whole or not at all, with a checksum for every leaf.

Orbax (see orbax_files) casts dtypes silently and misses a flipped byte: both are checked. Each
top-level item of the saved dict is one orbax item of nested dicts (tuples by position, NamedTuples
by field name), so an item can be read alone. Plain orbax reads a folder without this module:

    from orbax.checkpoint import v1 as ocp
    variables = ocp.load_checkpointables(path, {"variables": None})["variables"]
    metadata = ocp.checkpointables_metadata(path).custom_metadata["manifest"]["metadata"]

There typed PRNG keys are their uint32 data and empty arrays are absent; an item without any
non-empty array is a single False. Arrays are stored as host arrays: a GPU's checkpoint opens on a
CPU.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from theseus_jax import manifest, orbax_files, trees
from theseus_jax.errors import UserError, root_of
from theseus_jax.interrupts import deferred
from theseus_jax.orbax_files import DamagedCheckpoint
from theseus_jax.paths import local

PyTree = Any
_KEPT = 2
_NEW, _OLD = ".theseus-new", ".theseus-old"


def save(path: str | Path, *, tree: dict[str, PyTree], metadata: dict[str, Any]) -> None:
    """Write `tree` ({item: pytree of arrays of any shape and numeric dtype, or typed keys}) as one
    folder.

    An earlier checkpoint at `path` is replaced only once the new one is complete: a kill at any
    moment leaves the old or the new one. `metadata` is any JSON object (tuples become lists). Weak
    types become strong. Raises UserError for leaves or metadata that cannot be stored, and if the
    disk is full or not writable: what was at `path` is then untouched. One process writes a folder
    at a time.
    """
    path = local(path).absolute()
    payload, told = manifest.pack(tree, metadata)
    _refuse_other_folder(path)
    new, old = _beside(path)
    # an exception in the middle of orbax leaves its threads waiting for ever
    with deferred("this save", insist=False), _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _settle(path)
        # what cannot be made must fail here: orbax's threads print tracebacks long after the call
        new.mkdir()
        new.rmdir()
        try:
            orbax_files.write(new, payload, told)
        except BaseException:
            # What orbax's threads still hold now is removed by the next `_settle`.
            for leftover in _leftovers(path):
                shutil.rmtree(leftover, ignore_errors=True)
            raise
        if path.exists():
            path.rename(old)
        _settle(path)


def load(
    path: str | Path, *, like: PyTree | None = None, items: Sequence[str] | None = None
) -> tuple[dict[str, PyTree], dict[str, Any]]:
    """(tree, metadata) as saved: jax arrays (on the default device), numpy arrays and typed keys
    stay such.

    Without `like` the tree is plain nested dicts by path. `like`, a dict of pytrees of arrays or
    ShapeDtypeStruct, gives the containers (optax states) and is strict about paths, shapes and
    dtypes. `items` names the top-level items to read (no other item's files are opened; `()`: the
    metadata alone); `like` then holds just those. Raises UserError if nothing is there, for an
    unknown item, another schema, or a state unlike `like`, and DamagedCheckpoint if anything is
    missing or fails its checksum.
    """
    path = _existing(local(path).absolute())
    told = _manifest(path)
    chosen = told["items"] if items is None else list(items)
    unknown = [item for item in chosen if item not in told["items"]]
    if unknown:
        raise UserError(
            f"checkpoint {path} has no item {', '.join(unknown)}: "
            f"it holds {', '.join(told['items'])}; name some of those"
        )
    leaves = _read(path, {item: told["leaves"][item] for item in chosen})
    if like is None:
        return {item: {} for item in chosen} | trees.nested(leaves), told["metadata"]
    lines = trees.difference(like, trees.nested(leaves))
    if lines:
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError(
            f"checkpoint {path} (theseus_jax {told['theseus_jax']}) does not fit "
            f"the given state: {'; '.join(lines[:3])}{more}; "
            "use the config it was written with, or delete it"
        )
    ordered = [leaves[name] for name in trees.leaves_by_path(like)]
    return jax.tree.unflatten(jax.tree.structure(like), ordered), told["metadata"]


def save_progress(
    directory: str | Path, index: int, tree: dict[str, PyTree], metadata: dict[str, Any]
) -> None:
    """Save the state of an unfinished run as `directory/<index>` (index >= 0) and keep the newest
    two.

    Higher indices are removed as well: they are damaged or of a run that was rewound. Raises as
    `save` does.
    """
    if index < 0:
        raise UserError(f"progress index {index} is negative: count steps from 0")
    directory = local(directory).absolute()
    save(_numbered(directory, index), tree=tree, metadata=metadata)
    kept = sorted(i for i in _indices(directory) if i <= index)[-_KEPT:]
    with _writing(directory):
        for i in set(_indices(directory)) - set(kept):
            shutil.rmtree(_numbered(directory, i))


def latest_progress(
    directory: str | Path, like: PyTree | None = None
) -> tuple[int, PyTree, dict[str, Any]] | None:
    """(index, tree, metadata) of the newest readable state in `directory`, None if there is none at
    all.

    Removes what a killed save left; prints one line for each damaged state it passes over. Raises
    DamagedCheckpoint if every state is damaged, UserError if the newest readable one does not fit
    `like`.
    """
    directory = local(directory).absolute()
    with _writing(directory):
        for name in {
            p.name.split(_NEW)[0].removesuffix(_OLD) for p in directory.glob("*.theseus-*")
        }:
            _settle(directory / name)
    failure = None
    for index in sorted(_indices(directory), reverse=True):
        try:
            return index, *load(_numbered(directory, index), like=like)
        except DamagedCheckpoint as error:
            print(f"skipping a damaged state: {error}", flush=True)
            failure = failure or error
    if failure is not None:
        raise failure
    return None


def _manifest(path: Path) -> dict[str, Any]:
    """The verified manifest of the checkpoint; cheap, no array is read."""
    found = orbax_files.metadata(path)
    if not (isinstance(found, dict) and {"manifest", "sha256"} & set(found)):
        raise DamagedCheckpoint(
            f"{path} has no manifest of theseus_jax: it was written by another program, or its"
            " _CHECKPOINT_METADATA is not whole; read it with orbax.checkpoint, or give a folder of"
            " a run"
        )
    if not manifest.is_sound(found):
        raise _damaged(
            path, "the manifest in _CHECKPOINT_METADATA is missing or does not match its sha256"
        )
    told = found["manifest"]
    if told["schema"] != manifest.SCHEMA:
        raise UserError(
            f"checkpoint {path} has schema {told['schema']}, this code reads {manifest.SCHEMA}: "
            f"use theseus_jax {told['theseus_jax']}, or delete it and run again"
        )
    return told


def _read(path: Path, described: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """{path: leaf} of the described items, every checksum verified."""
    if not described:  # orbax takes an empty request for a request of everything
        return {}
    stored = orbax_files.items(path, list(described))
    leaves = {}
    for item, entries in described.items():
        found = trees.leaves_by_path({item: stored[item]})
        for name, entry in entries.items():
            if problem := manifest.problem(found.get(name), entry):
                raise _damaged(path, f"leaf {name} in the files under {path / item} {problem}")
            leaves[name] = manifest.revive(name, found.get(name), entry)
    return leaves


def _beside(path: Path) -> tuple[Path, Path]:
    name = orbax_files.ODD.sub(lambda found: f"%{ord(found[0]):02x}", path.name)
    return path.with_name(name + _NEW), path.with_name(name + _OLD)


def _numbered(directory: Path, index: int) -> Path:
    return directory / f"{index:08d}"


def _indices(directory: Path) -> list[int]:
    return [
        int(p.name)
        for p in directory.glob("*")
        if p.is_dir() and p.name.isdigit() and len(p.name) >= 8
    ]


def _existing(path: Path) -> Path:
    """The complete checkpoint for `path`: beside it only if a save was killed between its two
    renames.
    """
    found = path if path.exists() else _beside(path)[0]
    if not found.exists():
        raise UserError(f"no checkpoint at {path}: give a folder written by a run, or train first")
    if not _is_checkpoint(found):
        raise DamagedCheckpoint(
            f"{path} is no checkpoint (no _CHECKPOINT_METADATA): give a folder of a run"
        )
    return found


def _is_checkpoint(path: Path) -> bool:
    return any((path / mark).exists() for mark in ("_CHECKPOINT_METADATA", "orbax.checkpoint"))


def _refuse_other_folder(path: Path) -> None:
    """Nothing but a checkpoint or an empty folder is ever replaced, so that a wrong path costs no
    data.
    """
    if path.exists() and not _is_checkpoint(path) and (path.is_file() or any(path.iterdir())):
        raise UserError(
            f"{path} exists and is not a checkpoint: it is not replaced; choose another path"
        )


def _settle(path: Path) -> None:
    """Put a complete new checkpoint in its place if that is free, then remove what saves left
    beside it.
    """
    new, _ = _beside(path)
    if _is_checkpoint(new) and not path.exists():
        new.rename(path)
    for leftover in _leftovers(path):
        shutil.rmtree(leftover)


def _leftovers(path: Path) -> list[Path]:
    new, old = _beside(path)
    unfinished = path.parent.glob(glob.escape(new.name) + ".orbax-checkpoint-tmp*")
    return [*(folder for folder in (new, old) if folder.exists()), *unfinished]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        with orbax_files.quiet():
            yield
    except Exception as error:
        raise UserError(
            f"cannot write checkpoint {path}: {root_of(error)}; the earlier state is kept; "
            "free disk space or choose a writable directory"
        ) from error


def _damaged(path: Path, reason: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"checkpoint {path} is damaged: {reason}; delete this checkpoint: {orbax_files.AGAIN}"
    )
