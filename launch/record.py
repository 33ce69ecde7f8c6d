"""Measured rows as a data file: with date, command, versions and machine."""
from __future__ import annotations

import json
import pathlib
import platform
import sys
import time
from typing import Any


def record(path: str, rows: list[dict[str, Any]], *, quick: bool) -> None:
    """Write the rows that the running script measured against PyTorch to `path` as JSON."""
    import jax
    import torch

    command = f"python launch/{pathlib.Path(sys.argv[0]).name}" + (" --quick" if quick else "")
    about = {"date": time.strftime("%Y-%m-%d"), "command": command, "python": platform.python_version(),
             "jax": jax.__version__, "torch": torch.__version__,
             "machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "rows": rows}
    pathlib.Path(path).write_text(json.dumps(about, indent=1) + "\n")
