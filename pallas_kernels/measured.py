"""measured.json: what `pallas_kernels.bench` wrote, a run a device; what "auto" reads of it."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

FILE = pathlib.Path(__file__).with_name("measured.json")


def bucket(*sizes: int) -> tuple[int, ...]:
    """Sizes rounded up to powers of two, as exponents."""
    return tuple(max(size - 1, 0).bit_length() for size in sizes)


def runs(path: pathlib.Path) -> list[dict[str, Any]]:
    """The runs of a file; none where there is no file. Raises ValueError for a file that is not of
    this kind.
    """
    if not path.exists():
        return []
    try:
        held = json.loads(path.read_text())["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no file of measured runs; expected what python -m pallas_kernels.bench"
            f" --json={path} writes: remove it, or give another"
        ) from error
    return held


def write(path: pathlib.Path, run: dict[str, Any]) -> None:
    """Put `run` in the place of the file's run on the same device; runs on other devices stay. The
    file changes as a whole.
    """
    kept = [other for other in runs(path) if other["device"] != run["device"]]
    heads = [
        json.dumps({key: value for key, value in one.items() if key != "rows"})[:-1]
        for one in (*kept, run)
    ]
    bodies = [",\n  ".join(json.dumps(row) for row in one["rows"]) for one in (*kept, run)]
    text = ",\n ".join(f'{head}, "rows": [\n  {body}]}}' for head, body in zip(heads, bodies))
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(f'{{"runs": [\n {text}]}}\n')
    os.replace(new, path)


@functools.lru_cache(maxsize=None)
def training_times() -> dict[tuple, dict[str, float]]:
    """Microseconds of a training pass by implementation, by (device kind, op, dtype, bucket of
    batch, paths, outputs).
    """
    return {
        (
            run["device"],
            row["op"],
            row["dtype"],
            bucket(row["batch"], row["paths"], row["outputs"]),
        ): row["microseconds"]
        for run in runs(FILE)
        for row in run["rows"]
        if row["pass"] != "forward"
    }
