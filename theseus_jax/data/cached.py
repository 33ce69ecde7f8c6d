"""Arrays kept on disk: written whole, checked when read, and made again when damaged."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.trees import checksum

CHECKSUM = "sha256"
log = logging.getLogger("theseus_jax")


def content_sha256(tree: Any) -> str:
    """SHA-256 (64 hex digits) of paths, dtypes, shapes and bytes of a tree of arrays."""
    return hashlib.sha256(repr(sorted(checksum(tree).items())).encode()).hexdigest()


def cached_arrays(
    path: Path, make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of the .npz file `path`, or else those of `make()`, which are written there first.

    path: its name must tell everything that the result depends on. The file holds the SHA-256 of
    its content; one that does not match is reported by the logger "theseus_jax" and made again.
    Raises UserError where it cannot be written.
    """
    if path.exists():
        try:
            return _read(path)
        except Exception as error:  # a damaged archive raises whatever its bytes run into
            log.warning(
                "%s is damaged (%s: %s); making it again", path, type(error).__name__, error
            )
    arrays = {name: np.asarray(array) for name, array in make().items()}
    # Renamed when complete, so that a run that is killed, or one beside this, leaves no
    # half-written file
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(unfinished, **arrays, **{CHECKSUM: np.str_(content_sha256(arrays))})
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(
            f"cache_dir {str(path.parent)!r} cannot be written ({error}); give a directory that can"
        ) from error
    return arrays


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    stored = str(arrays.pop(CHECKSUM))
    if content_sha256(arrays) != stored:
        raise ValueError("its content does not have the stored SHA-256")
    return arrays
