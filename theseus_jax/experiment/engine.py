"""The engine: every arm of a method is searched, trained and scored on a task, then judged, for any
pair of the two.
"""

from __future__ import annotations

import functools
import logging
import shutil
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints, methods, report, tasks
from theseus_jax.arms import GUIDE, Arm, Finished, Trial, Turn, check_arms
from theseus_jax.experiment import models
from theseus_jax.experiment.jobs import (
    Job,
    finished,
    fresh,
    initial,
    run_keys,
    run_plan,
    side_variables,
)
from theseus_jax.experiment.ledger import (
    counted,
    data_sha256,
    fingerprint,
    mark,
    searched_mark,
    settle,
)
from theseus_jax.experiment.parts import arms_for, arms_of, parts
from theseus_jax.experiment.rehearse import outline, rehearse
from theseus_jax.experiment.search import best_trial, job_name, job_names, try_all
from theseus_jax.experiment.workdir import Workdir, write
from theseus_jax.finite import check_finite
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Phase, sides
from theseus_jax.train import State

LOG = logging.getLogger("theseus_jax")
Row = dict[str, Any]
GUIDES, SEEDS, SEARCHES = 1, 2, 3  # purposes of the run's one key


class Run(NamedTuple):
    """A run under way. chosen, done, prints (of guides) grow from arm to arm."""

    config: Any
    task: Any
    home: Workdir
    data: tasks.Data
    arms: tuple[Arm, ...]
    chosen: dict[str, Trial]
    done: dict[str, Variables]
    prints: dict[str, str]

    def note(self, arm: Arm) -> dict[str, Any]:
        """What every checkpoint of an arm says of the run."""
        note = {"config": self.config.to_json(sort_keys=True), "data": data_sha256(self.data.facts)}
        if arm.guide not in self.done:
            return note
        if arm.guide not in self.prints:
            self.prints[arm.guide] = fingerprint(_first(self.done[arm.guide]))
        return {**note, "guide": self.prints[arm.guide]}

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
    arms = arms_for(method, config, task)
    sets = data.sets(0)
    check_arms(arms, sets.train, data.apart)
    for name, examples in sets.train.items():
        if not isinstance(examples, np.ndarray):  # windows of tokens
            check_finite(examples, f"the {name} training examples", "mend the data")
    return Run(config, task, home, data, arms, {}, {}, {})


def execute(config: Any, home: Workdir) -> dict[str, Any]:
    """Everything of a run; the content of results.json but for schema, names, device and
    seconds.
    """
    run, method = opened(config, home), methods.module(config.method)
    if told := report.data_line(run.data.facts):
        LOG.info("data: %s", told)
    write(home.path / "plan.txt", outline(config, run.task, method, run.arms))
    models_and_jobs = [(arm.name, job_names(arm, run.seeds(arm))) for arm in run.arms]
    settle(home, config, data_sha256(run.data.facts), models_and_jobs)
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
    guide = run.note(arm).get("guide", "")
    variables = whole(arm, finished(run.home, arm.name, guide))
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
    for name in job_names(arm, run.seeds(arm)):  # what is left of them is of no use any more
        if name != arm.name:
            shutil.rmtree(run.home.model(name), ignore_errors=True)
        shutil.rmtree(run.home.progress(name), ignore_errors=True)
    if variables is not None:
        run.done[arm.name] = variables


def whole(arm: Arm, variables: Variables | None) -> Variables | None:
    """With the stages that have no variables, which checkpoints do not hold."""
    if variables is None:
        return None
    return {**{name: {} for name in arm.net.names}, **variables}


def _seeds(run: Run, arm: Arm, trial: Trial) -> Variables | None:
    """The variables of all seeds of an arm, in its checkpoint."""
    if not arm.apart:
        return whole(arm, _work(run, arm, trial, 0, run.seeds(arm)))
    parts = [whole(arm, _work(run, arm, trial, 0, (seed,))) for seed in run.seeds(arm)]
    if any(part is None for part in parts):
        return None
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    _save(run, arm, arm.name, stacked)
    return stacked


def _save(run: Run, arm: Arm, name: str, variables: Variables) -> None:
    note = {**run.note(arm), "model": name, "rows": counted(run.home.records, arm.name)}
    checkpoints.save(run.home.model(name), tree={"variables": variables}, metadata=note)


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
    home, searching, name = run.home, seeds[0] < 0, job_name(arm, number, seeds)
    if not arm.solve:
        made = job(run, arm, trial, number, seeds)
        if made is None:
            return None
        seconds = run.config.train.save_seconds
        return run_plan(home, made, save_seconds=seconds, show=not arm.apart, keep=not searching)
    if not searching and (done := finished(home, name)) is not None:
        return done
    turn, score = _turn(run, arm, trial, number, seeds)
    variables = arm.solve(turn)
    check_finite(variables, f"the weights of {arm.name}", "mend them, or their data")
    score(variables)
    if not searching:
        _save(run, arm, name, variables)
    return variables


def _turn(
    run: Run, arm: Arm, trial: Trial, number: int, seeds: tuple[int, ...]
) -> tuple[Turn, Callable[[Variables], None]]:
    """What the arm is told, and what writes its scores."""
    keys, home, searching = _keys(run, arm, seeds), run.home, seeds[0] < 0
    tags = {"model": arm.name} | ({"trial": number} if searching else {})
    turn = Turn(
        trial,
        seeds,
        keys,
        run.data.sets(seeds[0]),
        run.chosen,
        run.done,
        home.records.read,
        functools.partial(_log, home, seeds if arm.apart or searching else None, tags),
        lambda net: fresh(net, keys, run.task.example),
    )
    return turn, functools.partial(_score, run, arm, turn, tags)


def job(run: Run, arm: Arm, trial: Trial, number: int, seeds: tuple[int, ...]) -> Job | None:
    """The training of some seeds of an arm at one point of the search; None of an empty plan."""
    turn, score = _turn(run, arm, trial, number, seeds)
    plan = arm.plan(turn) or ()
    if not plan:
        return None
    keys, example = turn.keys, run.task.example
    extra = jax.vmap(functools.partial(side_variables, sides(plan)))

    def shapes(net: Network) -> Any:
        return jax.eval_shape(lambda: {**initial(net, keys, example), **extra(keys)})

    return Job(
        job_name(arm, number, seeds),
        arm.name,
        plan,
        fresh=lambda: {**turn.fresh(plan[0].net), **extra(keys)},
        shapes=shapes,
        guide_variables=_first(run.done[arm.guide]) if arm.guide else {},
        keys=keys,
        examples=turn.sets.train[arm.examples],
        batch=run.config.train.batch,
        chunk=run.config.train.get("chunk") or getattr(run.task, "steps_per_epoch", 25),
        log=turn.log,
        score=score,
        measure=functools.partial(_measure, run.task, turn.sets.validation),
        metadata=run.note(arm),
    )


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
        mark(run.home, arm.name)
    means = {k: v for k, v in scores.items() if k.startswith("validation")}
    if not arm.apart:
        shown = ", ".join(f"{key} {value.mean():.3f}" for key, value in means.items())
        trial = f", trial {tags['trial'] + 1}" if turn.searching else ""
        LOG.info("%s%s: %s", arm.name, trial, shown)
