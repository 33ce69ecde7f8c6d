"""Runs: a config's task and method through the engine, its files and its report."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import time
from typing import Any

from theseus_jax import checkpoints, report, trees
from theseus_jax.arms import RESERVED
from theseus_jax.config import stored_config
from theseus_jax.errors import UserError
from theseus_jax.experiment import engine, parts
from theseus_jax.experiment.lock import locked
from theseus_jax.experiment.workdir import Workdir, device, open_workdir, read_json, write
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.paths import local

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
    path = local(workdir)
    if _finished(path) and not os.access(path, os.W_OK):  # to read one, nothing need be written
        return _read(open_workdir(config, path))
    with locked(path):
        home = open_workdir(config, path)
        return _read(home) if _finished(path) else _made(config, home)


def _finished(path: pathlib.Path) -> bool:
    return (path / "results.json").exists()


def _made(config: Any, home: Workdir) -> dict[str, Any]:
    """Do what is left to do, and write what it gave."""
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
    results |= {"rows_sha256": home.records.sha256()}
    results |= {"sha256": _digest(results)}
    write(home.path / "results.json", json.dumps(results, indent=1))
    report.write(home.path)
    return results


def _read(home: Workdir) -> dict[str, Any]:
    """The results of a finished run. Raises UserError where they are not what the run wrote, or its
    rows are not.
    """
    path, again = home.path / "results.json", "delete it: it is made again from the checkpoints"
    results = read_json(path, again)
    wrong = (
        "it has no models"
        if not isinstance(results.get("models"), list)
        else f"its schema is {results.get('schema')!r}, not {SCHEMA}"
        if results.get("schema") != SCHEMA
        else "its numbers are not those that the run wrote"
        if results.get("sha256", _digest(results)) != _digest(results)
        else ""
    )
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}); bring it back, or {again}")
    if results.get("rows_sha256", home.records.sha256()) != home.records.sha256():
        raise UserError(
            f"{home.records.path} is not the one that {path} was made from; bring it back, or"
            " delete results.json: what the checkpoints count on is compared, and made again"
        )
    LOG.info("%s holds a finished run; nothing to do", home.path)
    gone = [one["name"] for one in results["models"] if not home.model(one["name"]).exists()]
    if gone:
        LOG.warning(
            "checkpoints/%s is gone: delete %s and it is made again",
            ", checkpoints/".join(gone),
            path,
        )
    if not (home.path / "report.html").exists():
        report.write(home.path)
    return results


def _digest(results: dict[str, Any]) -> str:
    """Of all that results.json holds beside this digest: 64 hex digits."""
    told = json.loads(json.dumps({k: v for k, v in results.items() if k != "sha256"}))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def restore(
    workdir: str | pathlib.Path, model: str = "converted", seed: int = 0
) -> tuple[Network, Variables]:
    """(network, variables) of a model of a run, ready for `forward` and `generate`. Raises
    UserError if there is none.
    """
    path = local(workdir) / "checkpoints" / model
    if not path.exists():
        finished = sorted(one.name for one in path.parent.glob("*"))
        there = [name for name in finished if name not in RESERVED]
        raise UserError(
            f"{path.parent.parent} holds no finished model {model!r}; it has"
            f" {', '.join(there) or 'none'}"
        )
    tree, note = checkpoints.load(path, items=("variables",))
    net = parts.network(stored_config(note["config"]), model)
    return net, {**{name: {} for name in net.names}, **trees.unstack(tree["variables"], seed)}
