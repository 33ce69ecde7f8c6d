"""GLAI and its rivals on the same features: one search for all, then every seed of every arm, then the table."""
from __future__ import annotations

import logging
import shutil
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints
from theseus_jax.config import ARMS
from theseus_jax.data.labelled import DataSet
from theseus_jax.errors import Diverged
from theseus_jax.evaluate import class_scores, contrast_loss
from theseus_jax.experiment import heads_data, heads_results, heads_solve
from theseus_jax.experiment.heads_setup import (SELECTION, SOLVED, Facts, Trial, arm_plan, check, epoch_steps, example,
                                                facts_of, outline, trained_network, trials)
from theseus_jax.experiment.jobs import Job, finished, fresh, initial, rewind, run_keys, run_plan
from theseus_jax.experiment.workdir import Workdir, write
from theseus_jax.methods.glai import watch
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Phase
from theseus_jax.train import State

LOG = logging.getLogger("theseus_jax")
Sets = Callable[[int], DataSet]  # of a seed; the search's seeds are -1, -2, ...


def plan_text(config: Any) -> str:
    """The outline of a run, from the config alone. Raises UserError."""
    check(config)
    return outline(config, facts_of(config))


def network(config: Any, model: str) -> Network:
    """The network of an arm of a run of this config."""
    return trained_network(config, facts_of(config), model)


def execute(config: Any, home: Workdir) -> dict[str, Any]:
    """Search, train and measure every arm; the content of results.json but for schema, task, device and seconds."""
    data = heads_data.load(config, home)
    facts = heads_data.check_facts(facts_of(config), data(0), config.head.loss == "infonce")
    write(home.path / "plan.txt", outline(config, facts))
    rewind(home, [name for arm in config.arms for name in (arm, *_jobs(config, arm))])
    chosen: dict[str, Trial] = {}
    for arm in [name for name in ARMS if name in config.arms]:  # arms that take another's settings come after it
        chosen[arm] = _arm(config, facts, home, data, arm, chosen.get("mlp_reduced", Trial(0.0, 0.0)))
    return heads_results.collect(config, facts, home, data(0), chosen, {
        arm: (trained_network(config, facts, arm), finished(home, arm)) for arm in chosen})


def _job(arm: str, seed: int, trial: int = 0) -> str:
    return f"search/{arm}-{trial}-{-seed}" if seed < 0 else f"seeds/{arm}-{seed}"


def _jobs(config: Any, arm: str) -> list[str]:
    """Names of all jobs behind an arm's checkpoint."""
    searched = [_job(arm, -1 - s, k) for k in range(len(trials(config, arm))) for s in range(config.search.seeds)]
    return [*searched, *(_job(arm, seed) for seed in range(config.seeds))]


def _arm(config: Any, facts: Facts, home: Workdir, data: Sets, arm: str, selector: Trial) -> Trial:
    """Everything of one arm: the search, the seeds, their checkpoint. Returns the point that the search chose."""
    points = trials(config, arm)
    run = _solve if arm in SOLVED else _train
    done = {(row["trial"], row["seed"]) for row in _trial_rows(home, arm)}  # rows of trials without a state were cut
    if not home.model(arm).exists():
        for k, point in enumerate(points):
            for seed in range(-1, -1 - config.search.seeds, -1):
                if (k, seed) not in done:
                    try:
                        run(config, facts, home, data(seed), arm, point, selector, seed, k)
                    except Diverged as error:
                        LOG.info("%s", error)
                        home.records.write({"kind": "trial", **_tags(arm, seed, k), "validation_score": None,
                                            "validation_loss": None})
    best = _best(home, arm, points)
    if home.model(arm).exists():
        return best
    setting = f"penalty {best.decay:g}" if arm in SOLVED else f"rate {best.rate:g}, decay {best.decay:g}"
    LOG.info("%s: %s%s; %d seeds", arm, setting, " (at the edge of the search)" if heads_results.at_edge(best, points) else "", config.seeds)
    made = [run(config, facts, home, data(seed), arm, best, selector, seed, 0) for seed in range(config.seeds)]
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)
    checkpoints.save(home.model(arm), tree={"variables": stacked}, metadata={
        "config": config.to_json(sort_keys=True), "model": arm, "offset": home.records.offset()})
    for name in _jobs(config, arm):
        shutil.rmtree(home.model(name), ignore_errors=True)
    return best


def _trial_rows(home: Workdir, arm: str) -> list[dict[str, Any]]:
    return [row for row in home.records.read() if row["kind"] == "trial" and row["model"] == arm]


def _best(home: Workdir, arm: str, points: tuple[Trial, ...]) -> Trial:
    """The point of the best mean validation score; of equal scores, the one of the lower loss, then the first."""
    rows = _trial_rows(home, arm)

    def merit(k: int) -> tuple[float, float]:
        mine = [row for row in rows if row["trial"] == k]
        values = [(row["validation_score"], -row["validation_loss"]) for row in mine if row["validation_loss"] is not None]
        if len(values) < len(mine) or not np.isfinite(values).all():
            return -np.inf, -np.inf
        return tuple(np.mean(values, axis=0))

    best = max(range(len(points)), key=merit)
    if merit(best)[0] == -np.inf:
        raise Diverged(f"every trial of {arm} diverged; give lower rates or higher penalties in config.search")
    return points[best]


def scores(config: Any, net: Network, variables: Variables, part: Any) -> dict[str, float]:
    """Score (higher is better) and loss in nats of one network (seed axis of 1) on a split."""
    if config.head.loss == "infonce":
        key = jax.random.fold_in(jax.random.key(config.seed), 7)
        h = config.head
        loss = float(contrast_loss(net, variables, part.x, batch=config.train.batch, temperature=h.temperature, rate=h.dropout,
                                   key=key)[0])
        return {"score": -loss, "loss": loss}
    found = class_scores(net, variables, part.x, part.y)
    return {"score": float(found.accuracy[0]), "loss": float(found.loss[0])}


def _rows(config: Any, home: Workdir, net: Network, variables: Variables, data: DataSet, tags: dict[str, Any]) -> None:
    """The row of a finished trial (validation alone) or of a finished seed (validation and test)."""
    splits = ("validation",) if "trial" in tags else ("validation", "test")
    found = {f"{split}_{key}": value for split in splits
             for key, value in scores(config, net, variables, getattr(data, split)).items()}
    home.records.write({"kind": "trial" if "trial" in tags else "model", **tags, **found})


def _tags(arm: str, seed: int, trial: int) -> dict[str, Any]:
    return {"model": arm, "seed": seed} | ({"trial": trial} if seed < 0 else {})


def _train(config: Any, facts: Facts, home: Workdir, data: DataSet, arm: str, point: Trial, selector: Trial, seed: int,
           trial: int) -> Variables:
    """The variables (seed axis of 1) of a trained arm."""
    name, tags, net = _job(arm, seed, trial), _tags(arm, seed, trial), trained_network(config, facts, arm)
    log = home.records.write
    plan = arm_plan(config, facts, arm, point, selector, epochs=config.search.epochs if seed < 0 else config.train.epochs,
                    held_out=(jnp.asarray(data.validation.x[:1000]),) if seed >= 0 else (),
                    report=lambda row: log({**row, **tags}))
    keys = run_keys(config.seed, 2, seed + 1)[-1:] if seed >= 0 else run_keys(config.seed, 3, -seed)[-1:]
    reference = jnp.asarray(data.train.x[: config.glai.reference])

    def measure(phase: Phase, state: State) -> float:
        if arm in SELECTION and phase.name == "selector":
            before = state.kept or fresh(phase.net, keys, example(facts))
            found = watch(before, state.variables, reference)
            log({"kind": "maturity", "step": state.step, **tags, **found})
            return found["settling"]
        return scores(config, phase.net, state.variables, data.validation)["score"]

    def score(variables: Variables) -> None:
        _rows(config, home, net, variables, data, tags)

    job = Job(name, plan, fresh=lambda: fresh(plan[0].net, keys, example(facts)),
              shapes=lambda net: jax.eval_shape(lambda: initial(net, keys, example(facts))), guide_variables={}, keys=keys,
              examples={"inputs": jnp.asarray(data.train.x), "labels": jnp.asarray(data.train.y)}, batch=config.train.batch,
              chunk=epoch_steps(config, facts), score=score, measure=measure, metadata={"config": config.to_json(sort_keys=True)},
              measure_name="score", tags=tags)
    return run_plan(home, job, save_seconds=config.train.save_seconds, show=False, keep=seed >= 0)


def _solve(config: Any, facts: Facts, home: Workdir, data: DataSet, arm: str, point: Trial, selector: Trial, seed: int,
           trial: int) -> Variables:
    """The variables (seed axis of 1) of an arm whose weights are solved for; as a finished job, like a trained one."""
    name, tags = _job(arm, seed, trial), _tags(arm, seed, trial)
    done = finished(home, name)
    if done is not None:
        return done
    net = trained_network(config, facts, arm)
    base = None
    if arm.startswith("glai_joint"):
        # a trial's solver reads the paths of some seed's head: its weights alone are chosen by the search
        number = seed if seed >= 0 else -1 - seed
        base = jax.tree.map(lambda leaf: leaf[number % len(leaf)][None], finished(home, "glai_joint"))
    solved = heads_solve.solve(net, arm, data.train, facts.outputs, point.decay, base)
    home.records.write({"kind": "solve", **tags, "seconds": solved.seconds, "iterations": solved.iterations})
    _rows(config, home, net, solved.variables, data, tags)
    if seed >= 0:
        checkpoints.save(home.model(name), tree={"variables": solved.variables},
                         metadata={"config": config.to_json(sort_keys=True), "model": name, "offset": home.records.offset()})
    return solved.variables
