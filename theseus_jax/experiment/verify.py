"""Whether a finished run repeats itself: the first steps of every model, once more."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from theseus_jax.arms import Arm
from theseus_jax.config import stored_config
from theseus_jax.errors import UserError
from theseus_jax.experiment import engine
from theseus_jax.experiment.jobs import finished
from theseus_jax.experiment.ledger import data_sha256
from theseus_jax.experiment.search import best_trial
from theseus_jax.experiment.workdir import Workdir, read_json
from theseus_jax.paths import local
from theseus_jax.records import Records
from theseus_jax.train import Hooks, State, fit

OWN = ("seconds", "training_flops", "model")  # of a row: not of what was trained


class Repeated(NamedTuple):
    """The first steps of a model, then and now: digests of their rows, and the first value that
    differs ("" where none does).
    """

    model: str
    steps: int
    then: str
    now: str
    difference: str


def verify(workdir: str | pathlib.Path) -> list[Repeated]:
    """For every model that a finished run trained, what its first steps give again. Nothing in the
    workdir is changed but its cache.

    Raises UserError for a workdir without a finished run, and for data that have changed.
    """
    path = local(workdir)
    if not (path / "results.json").exists():
        raise UserError(f"{path} holds no finished run; give the --workdir of one, or finish it")
    home = Workdir(path, Records(path / "metrics.jsonl"))
    told = read_json(path / "config.json", "give another workdir")
    run = engine.opened(stored_config(json.dumps(told)), home)
    then = read_json(path / "results.json", "give another workdir").get("data")
    if isinstance(then, dict) and data_sha256(run.data.facts) != data_sha256({"data": then}):
        raise UserError(
            f"the data of {path} have changed since the run; bring those of the run back"
        )
    rows = home.records.read()
    for arm in run.arms:
        variables = finished(home, arm.name, run.note(arm).get("guide", ""))
        if variables is not None:
            run.done[arm.name] = engine.whole(arm, variables)
        if arm.search and arm.name in run.done:
            run.chosen[arm.name] = best_trial(run, arm, arm.search)
    return [
        _repeated(run, arm, rows)
        for arm in run.arms
        if arm.plan and any(row["kind"] == "train" for row in _of(arm, rows))
    ]


def _of(arm: Arm, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("model") == arm.name and "trial" not in row]


def _repeated(run: engine.Run, arm: Arm, rows: list[dict[str, Any]]) -> Repeated:
    trial = run.chosen.get(arm.name, arm.first().trial)
    seeds = run.seeds(arm)[:1] if arm.apart else run.seeds(arm)
    job = engine.job(run, arm, trial, 0, seeds)
    found: list[dict[str, Any]] = []
    train = [row for row in _of(arm, rows) if row["kind"] == "train"]
    phase, steps = train[0]["phase"], train[0]["step"]
    fit(
        job.plan,
        State(0, job.fresh(), job.guide_variables, None, job.keys),
        job.examples,
        batch=job.batch,
        chunk_steps=job.chunk,
        name=arm.name,
        hooks=Hooks(log=found.append),
        until=(0, steps),
    )
    before, after = (
        [_numbers(row) for row in some if row["kind"] == "train" and row["step"] == steps]
        for some in ([row for row in train if row["phase"] == phase], found)
    )
    before = before[: len(after)]
    return Repeated(arm.name, steps, _digest(before), _digest(after), _difference(before, after))


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in OWN}


def _digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _difference(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
    for old, new in zip(before, after):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return f"{key} of seed {old.get('seed')}: {old.get(key)} then, {new.get(key)} now"
    return "" if len(before) == len(after) else f"{len(before)} rows then, {len(after)} now"
