"""The engine: every arm of a method is searched, trained and scored on a task, then judged, for any
pair of the two.
"""

from __future__ import annotations

import functools
import logging
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints, methods, tasks
from theseus_jax.arms import GUIDE, Arm, Finished, Search, Trial, Turn, check_arms
from theseus_jax.experiment import models
from theseus_jax.experiment.jobs import (
    Job,
    finished,
    fresh,
    initial,
    mark,
    rewind,
    run_keys,
    run_plan,
    searched_mark,
    side_variables,
)
from theseus_jax.experiment.parts import arms_of, parts
from theseus_jax.experiment.rehearse import outline, rehearse
from theseus_jax.experiment.search import best_trial, groups, seeds_of, try_all
from theseus_jax.experiment.workdir import Workdir, write
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Phase, sides
from theseus_jax.train import State

LOG = logging.getLogger("theseus_jax")
Row = dict[str, Any]
GUIDES, SEEDS, SEARCHES = 1, 2, 3  # purposes of the run's one key


class Run(NamedTuple):
    """A run under way. chosen, done: grow from arm to arm."""

    config: Any
    task: Any
    home: Workdir
    data: tasks.Data
    arms: tuple[Arm, ...]
    chosen: dict[str, Trial]
    done: dict[str, Variables]

    @property
    def note(self) -> dict[str, Any]:
        """What every checkpoint says."""
        return {"config": self.config.to_json(sort_keys=True)}

    def seeds(self, arm: Arm) -> tuple[int, ...]:
        return tuple(range(arm.seeds or self.config.seeds))


def rehearsed(config: Any) -> str:
    """plan.txt as the config alone has it, after every phase was traced on shapes. Raises
    UserError.
    """
    (task, method), arms = parts(config), arms_of(config)
    rehearse(arms, task, getattr(method, "REMEDY", ""))
    return outline(config, task, method, arms)


def opened(config: Any, home: Workdir) -> Run:
    """The run of a config, its data read. Raises UserError for missing data."""
    task, method = parts(config)
    task, data = task.load(home.path / "cache")
    arms = tuple(method.arms(config, task))
    check_arms(arms, data.sets(0).train, data.apart)
    return Run(config, task, home, data, arms, {}, {})


def execute(config: Any, home: Workdir) -> dict[str, Any]:
    """Everything of a run; the content of results.json but for schema, names, device and
    seconds.
    """
    run, method = opened(config, home), methods.module(config.method)
    write(home.path / "plan.txt", outline(config, run.task, method, run.arms))
    rewind(home, [name for arm in run.arms for name in (arm.name, *_jobs(run, arm))])
    for arm in run.arms:
        make(run, arm)
    rows = home.records.read()
    there = tuple(arm for arm in run.arms if arm.name in run.done)
    records = [
        models.record(arm, rows, run.task, run.seeds(arm), run.chosen.get(arm.name), run.data)
        for arm in there
    ]
    LOG.info("measuring what using the networks takes")
    costs = models.costs(there, run.done, run.task, config.report.latency_repeats)
    records = [one | cost for one, cost in zip(records, costs)]
    results = {**run.data.facts, "models": records, "stages": models.stages(rows, run.task)}
    adding = [run.data.results, *([method.results] if hasattr(method, "results") else [])]
    for add in adding:
        known = (there, rows, results["models"], run.done, run.chosen)
        added = add(Finished(config, run.task, run.data, *known)) or {}
        tables = {**results.get("tables", {}), **added.get("tables", {})}
        results |= added | ({"tables": tables} if tables else {})
    searched_mark(home).unlink(missing_ok=True)
    return {"claims": [], **results}


def make(run: Run, arm: Arm) -> None:
    """Everything of one arm: the search, the seeds, their checkpoint; nothing of an empty plan."""
    variables = _whole(arm, finished(run.home, arm.name))
    trial = arm.first().trial
    if arm.search:
        if variables is None:
            try_all(run, arm, arm.search, _work)
        trial = run.chosen[arm.name] = best_trial(run, arm, arm.search)
    if variables is None:
        if arm.search:
            edge = (
                " (at the edge of the search)" if models.at_edge(trial, arm.search.trials) else ""
            )
            setting = f"rate {trial.rate:g}, decay" if trial.rate else "penalty"
            seeds = len(run.seeds(arm))
            LOG.info("%s: %s %g%s; %d seeds", arm.name, setting, trial.decay, edge, seeds)
        variables = _seeds(run, arm, trial)
    for name in _jobs(run, arm):  # what is left of them is of no use any more
        if name != arm.name:
            shutil.rmtree(run.home.model(name), ignore_errors=True)
        shutil.rmtree(run.home.progress(name), ignore_errors=True)
    if variables is not None:
        run.done[arm.name] = variables


def _whole(arm: Arm, variables: Variables | None) -> Variables | None:
    """With the stages that have no variables, which checkpoints do not hold."""
    if variables is None:
        return None
    return {**{name: {} for name in arm.net.names}, **variables}


def _seeds(run: Run, arm: Arm, trial: Trial) -> Variables | None:
    """The variables of all seeds of an arm, in its checkpoint."""
    if not arm.apart:
        return _whole(arm, _work(run, arm, trial, 0, run.seeds(arm)))
    parts = [_whole(arm, _work(run, arm, trial, 0, (seed,))) for seed in run.seeds(arm)]
    if any(part is None for part in parts):
        return None
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    _save(run, arm.name, stacked)
    return stacked


def _save(run: Run, name: str, variables: Variables) -> None:
    note = {**run.note, "model": name, "offset": run.home.records.offset()}
    checkpoints.save(run.home.model(name), tree={"variables": variables}, metadata=note)


def _job(arm: Arm, trial: int, seeds: tuple[int, ...]) -> str:
    searching, name = seeds[0] < 0, arm.name
    if not arm.apart:
        return f"search/{name}-{trial}" if searching else name
    return f"search/{name}-{trial}-{-seeds[0]}" if searching else f"seeds/{name}-{seeds[0]}"


def _jobs(run: Run, arm: Arm) -> list[str]:
    """Names of all jobs behind an arm's checkpoint."""
    search = arm.search or Search((), 0)
    names = [
        _job(arm, trial, seeds)
        for trial in range(len(search.trials))
        for seeds in groups(arm, seeds_of(search))
    ]
    return [*names, *(_job(arm, 0, seeds) for seeds in groups(arm, run.seeds(arm)))]


def _keys(run: Run, arm: Arm, seeds: tuple[int, ...]) -> jax.Array:
    if seeds[0] < 0:
        return run_keys(run.config.seed, SEARCHES, -seeds[-1])[-1 - np.asarray(seeds)]
    purpose = GUIDES if arm.role == GUIDE else SEEDS
    return run_keys(run.config.seed, purpose, seeds[-1] + 1)[np.asarray(seeds)]


def _work(
    run: Run, arm: Arm, trial: Trial, number: int, seeds: tuple[int, ...]
) -> Variables | None:
    """The variables (S, ...) of some seeds of an arm at one point of the search, scored; goes on
    where an earlier process stopped. None where the arm's plan is empty.
    """
    home, searching = run.home, seeds[0] < 0
    name, sets, keys = _job(arm, number, seeds), run.data.sets(seeds[0]), _keys(run, arm, seeds)
    if arm.solve and not searching and (done := finished(home, name)) is not None:
        return done
    tags = {"model": arm.name} | ({"trial": number} if searching else {})
    turn = Turn(
        trial,
        seeds,
        keys,
        sets,
        run.chosen,
        run.done,
        home.records.read,
        functools.partial(_log, home, seeds if arm.apart or searching else None, tags),
        lambda net: fresh(net, keys, run.task.example),
    )
    score = functools.partial(_score, run, arm, turn, tags)
    if arm.solve:
        variables = arm.solve(turn)
        score(variables)
        if not searching:
            _save(run, name, variables)
        return variables
    plan = arm.plan(turn) or ()
    if not plan:
        return None
    extra = jax.vmap(functools.partial(side_variables, sides(plan)))
    example = run.task.example

    def shapes(net: Network) -> Any:
        return jax.eval_shape(lambda: {**initial(net, keys, example), **extra(keys)})

    job = Job(
        name,
        plan,
        fresh=lambda: {**turn.fresh(plan[0].net), **extra(keys)},
        shapes=shapes,
        guide_variables=_first(run.done[arm.guide]) if arm.guide else {},
        keys=keys,
        examples=sets.train[arm.examples],
        batch=run.config.train.batch,
        chunk=run.config.train.get("chunk") or getattr(run.task, "steps_per_epoch", 25),
        log=turn.log,
        score=score,
        measure=functools.partial(_measure, run.task, sets.validation),
        metadata=run.note,
    )
    seconds = run.config.train.save_seconds
    return run_plan(home, job, save_seconds=seconds, show=not arm.apart, keep=not searching)


def _log(home: Workdir, seeds: tuple[int, ...] | None, tags: Row, row: Row) -> None:
    """Adds a row; of a search, or of a seed by itself, it says which of `seeds` it is of."""
    own = {} if seeds is None else {"seed": seeds[row.get("seed", 0)]}
    home.records.write({**row, **own, **tags})


def _first(stacked: Variables) -> Variables:
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def _measure(task: Any, held: Any, phase: Phase, state: State) -> float:
    """What a stopping rule looks at: its own reading, or the validation score, higher is better."""
    own = getattr(phase.stop, "measure", None)
    if own:
        return own(state)
    scores = held.scores(phase.net, state.variables)[task.compared.key]
    return task.compared.sign * float(np.mean(scores))


def _score(run: Run, arm: Arm, turn: Turn, tags: dict[str, Any], variables: Variables) -> None:
    """Writes a row for every seed: of kind "trial" with validation alone, or "model" with test."""
    splits = ("validation",) if turn.searching else ("validation", "test")
    scores = {
        f"{split}_{key}": values
        for split in splits
        for key, values in getattr(turn.sets, split).scores(arm.net, variables).items()
    }
    for i, seed in enumerate(turn.seeds):
        row = {"kind": "trial" if turn.searching else "model", "seed": seed, **tags}
        run.home.records.write(row | {key: float(value[i]) for key, value in scores.items()})
    if turn.searching:
        mark(run.home)
    means = {k: v for k, v in scores.items() if k.startswith("validation")}
    if not arm.apart:
        shown = ", ".join(f"{key} {value.mean():.3f}" for key, value in means.items())
        trial = f", trial {tags['trial'] + 1}" if turn.searching else ""
        LOG.info("%s%s: %s", arm.name, trial, shown)
