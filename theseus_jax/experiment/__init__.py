"""The only reader of a ConfigDict: wires data, networks, plans, the loop, checkpoints and the report."""
from __future__ import annotations

import json
import logging
import pathlib
import time
from types import ModuleType
from typing import Any

from theseus_jax import checkpoints, report, trees
from theseus_jax.errors import UserError
from theseus_jax.experiment import classify, heads, language
from theseus_jax.experiment.workdir import device, open_workdir, stored_config, write
from theseus_jax.nets.stage import Network, Variables

LOG = logging.getLogger("theseus_jax")
SCHEMA = 1
TASKS = {"language_model": language, "classification": classify, "head": heads}


def _task(config: Any) -> ModuleType:
    if config.task not in TASKS:
        raise UserError(f"config.task is {config.task!r}; choose one of {', '.join(TASKS)}")
    return TASKS[config.task]


def dry_run(config: Any) -> str:
    """The run's outline: shapes at each seam, exact parameters, every phase. No data is read. Raises UserError."""
    return _task(config).plan_text(config)


def run(config: Any, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Do what a config says and return results.json as a dict; a finished workdir is read, an unfinished one resumed.

    config: a ConfigDict from a file in configs/. Raises UserError, one line, for the user's mistakes; what earlier
    work left in the workdir stays.
    """
    task = _task(config)
    task.plan_text(config)
    home = open_workdir(config, pathlib.Path(workdir))
    if (home.path / "results.json").exists():
        LOG.info("%s holds a finished run; nothing to do", home.path)
        if not (home.path / "report.html").exists():
            report.write(home.path)
        return json.loads((home.path / "results.json").read_text())
    began = time.monotonic()
    found = {"schema": SCHEMA, "task": config.task, "smoke": bool(config.smoke), **task.execute(config, home), "device": device(),
             "seconds_total": time.monotonic() - began}
    write(home.path / "results.json", json.dumps(found, indent=1))
    report.write(home.path)
    return found


def restore(workdir: str | pathlib.Path, model: str = "converted", seed: int = 0) -> tuple[Network, Variables]:
    """(network, variables) of a model of a run, ready for `forward` and `generate`. Raises UserError if there is none."""
    path = pathlib.Path(workdir) / "checkpoints" / model
    if not path.exists():
        there = sorted(p.name for p in path.parent.glob("*") if p.name not in ("unfinished", "seeds")) if path.parent.exists() else []
        raise UserError(f"{workdir} holds no finished model {model!r}; it has {', '.join(there) or 'none'}")
    tree, note = checkpoints.load(path, items=("variables",))
    config = stored_config(note["config"])
    net = _task(config).network(config, model)
    return net, {**{name: {} for name in net.names}, **trees.unstack(tree["variables"], seed)}
