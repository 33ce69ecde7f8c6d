"""Token streams of a corpus in one file, read as they are needed: 32 bytes SHA-256 of the rest, the
streams one after the other, what they are as JSON, and the JSON's length in 8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theseus_jax.errors import UserError

BLOCK = 1 << 22  # bytes that are summed at a time
SUM, LENGTH = 32, 8


class Streams(NamedTuple):
    """What a file holds. told: what was stored beside the streams; arrays: {name: (T,) on disk}."""

    told: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(
    path: Path, told: Mapping[str, Any], dtype: type, streams: Mapping[str, Iterable[np.ndarray]]
) -> None:
    """Write streams, each in the order of its parts, none held whole; renamed when complete,
    so that a run that is killed, or one beside this, leaves no half-written file.

    Raises UserError for a folder that cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(bytes(SUM))
            summed, lengths = hashlib.sha256(), {}

            def put(content: bytes) -> None:
                summed.update(content)
                file.write(content)

            for name, parts in streams.items():
                lengths[name] = 0
                for part in parts:
                    put(np.ascontiguousarray(part, dtype).tobytes())
                    lengths[name] += len(part)
            head = {"dtype": np.dtype(dtype).name, "lengths": lengths, "told": dict(told)}
            text = json.dumps(head).encode()
            put(text + len(text).to_bytes(LENGTH, "big"))
            file.seek(0)
            file.write(summed.digest())
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(
            f"cache_dir {str(path.parent)!r} cannot be written ({error}); give a directory that can"
        ) from error


def read(path: Path) -> Streams | None:
    """What is in a file, its arrays mapped from it; None where it is not what was written."""
    summed = hashlib.sha256()
    with path.open("rb") as file:
        wanted = file.read(SUM)
        while block := file.read(BLOCK):
            summed.update(block)
        if summed.digest() != wanted:
            return None
        file.seek(-LENGTH, os.SEEK_END)
        length = int.from_bytes(file.read(LENGTH), "big")
        file.seek(-LENGTH - length, os.SEEK_END)
        head = json.loads(file.read(length))
    arrays, begin, dtype = {}, SUM, np.dtype(head["dtype"])
    for name, count in head["lengths"].items():
        arrays[name] = np.memmap(path, dtype, mode="r", offset=begin, shape=(count,))
        begin += count * dtype.itemsize
    return Streams(head["told"], arrays)
