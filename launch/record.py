"""Measured rows as a data file: with date, command, versions and device."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from typing import Any, Sequence

import numpy as np

from theseus_jax.paths import local


def version(package: str) -> str | None:
    """The installed version of a package, None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def command() -> str:
    """What was typed to start this process, but for where it reads and writes."""
    spec = sys.modules["__main__"].__spec__
    file = pathlib.Path(sys.argv[0]).resolve()
    script = f"-m {spec.name}" if spec else f"{file.parent.name}/{file.name}"
    places = ("--json", "--workdir", "--data")
    return " ".join(
        ["python", script, *(word for word in sys.argv[1:] if not word.startswith(places))]
    )


def about() -> dict[str, Any]:
    """Date, command, versions, machine and device of what this process measures."""
    import jax

    device = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": command(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("jax", "torch")},
        **({"xla_flags": os.environ["XLA_FLAGS"]} if os.environ.get("XLA_FLAGS") else {}),
        "machine": f"{platform.machine()}, {os.cpu_count()} threads",
        "device": device.device_kind,
    }


def record(
    path: str, rows: list[dict[str, Any]], *, headline: Sequence[str] = (), **more: Any
) -> None:
    """Write rows to `path` as JSON, as a whole, so that a reader never sees half a file; headline:
    what they say in a line or two.
    """
    file = local(path)
    new = file.with_suffix(file.suffix + ".new")
    new.write_text(
        json.dumps({**about(), **more, "headline": list(headline), "rows": rows}, indent=1) + "\n"
    )
    new.replace(file)


def spread(name: str, times: np.ndarray) -> dict[str, float]:
    """Median and interquartile range under `name`."""
    return {
        f"{name}_ms": float(np.median(times)),
        f"{name}_iqr_ms": float(np.subtract(*np.percentile(times, [75, 25]))),
    }


def first_line(problem: Exception) -> str:
    """An exception in one short line."""
    line = (str(problem).strip() or "no message").splitlines()[0].strip()
    return f"{type(problem).__name__}: {line}"[:300]
