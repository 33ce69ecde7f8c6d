"""Runs: a config's task and method through the engine, its files and its report."""

from __future__ import annotations

import json
import logging
import pathlib
import time
from typing import Any

from theseus_jax import checkpoints, report, trees
from theseus_jax.arms import RESERVED
from theseus_jax.config import stored_config
from theseus_jax.errors import UserError
from theseus_jax.experiment import engine, parts
from theseus_jax.experiment.workdir import device, open_workdir, write
from theseus_jax.nets.stage import Network, Variables

LOG = logging.getLogger("theseus_jax")
SCHEMA = 1


def dry_run(config: Any) -> str:
    """The run's outline: shapes at each seam, exact parameters, every phase. No data is read.
    Raises UserError.
    """
    return engine.rehearsed(config)


def run(config: Any, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Do what a config says and return results.json as a dict; a finished workdir is read, an
    unfinished one resumed.

    config: a ConfigDict from a file in configs/. Raises UserError, one line, for the user's
    mistakes; what earlier work left in the workdir stays.
    """
    engine.rehearsed(config)
    home = open_workdir(config, pathlib.Path(workdir))
    if (home.path / "results.json").exists():
        LOG.info("%s holds a finished run; nothing to do", home.path)
        if not (home.path / "report.html").exists():
            report.write(home.path)
        return json.loads((home.path / "results.json").read_text())
    began = time.monotonic()
    results = {
        "schema": SCHEMA,
        "task": config.task,
        "method": config.method,
        "smoke": bool(config.smoke),
        **engine.execute(config, home),
        "device": device(),
        "seconds_total": time.monotonic() - began,
    }
    write(home.path / "results.json", json.dumps(results, indent=1))
    report.write(home.path)
    return results


def restore(
    workdir: str | pathlib.Path, model: str = "converted", seed: int = 0
) -> tuple[Network, Variables]:
    """(network, variables) of a model of a run, ready for `forward` and `generate`. Raises
    UserError if there is none.
    """
    path = pathlib.Path(workdir) / "checkpoints" / model
    if not path.exists():
        finished = sorted(one.name for one in path.parent.glob("*"))
        there = [name for name in finished if name not in RESERVED]
        raise UserError(
            f"{workdir} holds no finished model {model!r}; it has {', '.join(there) or 'none'}"
        )
    tree, note = checkpoints.load(path, items=("variables",))
    net = parts.network(stored_config(note["config"]), model)
    return net, {**{name: {} for name in net.names}, **trees.unstack(tree["variables"], seed)}
