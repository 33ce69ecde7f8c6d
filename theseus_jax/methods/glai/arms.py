"""The method `glai` as a run compares it: GLAI and its rivals, heads on the same features, searched
alike.
"""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax import solvers
from theseus_jax.arms import OURS, RIVAL, Arm, Search, Trial, Turn
from theseus_jax.feeds import Feed
from theseus_jax.methods.glai.budget import Budget, budget, narrow_line, reduced_hidden
from theseus_jax.methods.glai.config import (
    ARMS,
    FAMILIES,
    RANGES,
    SEEDS,
    SELECTION,
    SGD,
    SOLVED,
    check,
    sections,
)
from theseus_jax.methods.glai.maturity import Maturity
from theseus_jax.methods.glai.plan import Held, Settings, final_network, head_parameters
from theseus_jax.methods.glai.plan import plan as glai_plan
from theseus_jax.methods.glai.results import results
from theseus_jax.methods.glai.settled import Settled, watch
from theseus_jax.nets.models.glai import LinearEstimator
from theseus_jax.nets.models.heads import Output, low_rank_mlp, mlp
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.plan import Optimizer, Patience, Phase, Plan

__all__ = ["ARMS", "RANGES", "SEEDS", "arms", "check", "outline", "results", "sections"]
RECEIPT_ROWS = 1000  # of validation, behind a conversion's receipts


class Heads(NamedTuple):
    """A checked config and its task."""

    config: Any
    task: Any

    @property
    def budget(self) -> Budget:
        """The GLAI budget of the config's MLP. Raises UserError where GLAI cannot be."""
        head, task = self.config.head, self.task
        return budget(task.inputs, tuple(head.hidden), task.outputs, self.config.glai.rho)

    @property
    def reduced(self) -> tuple[int, ...]:
        """Hidden widths of the selector."""
        return reduced_hidden(tuple(self.config.head.hidden), self.config.glai.rho)

    def kept(self, selection: str) -> int:
        """How many paths (joint) or single entries (else) an estimator keeps: the budget's share,
        at most all there are.
        """
        spent, outputs = self.budget, self.task.outputs
        kept = round(self.config.glai.budget * spent.kept)
        kept = max(outputs, min(kept, spent.paths))
        each = kept // outputs
        return {"joint": each, "per_output": each * outputs, "global": kept}[selection]

    def network(self, name: str) -> Network:
        """The network that an arm ends with."""
        hidden, task = tuple(self.config.head.hidden), self.task
        if FAMILIES[name] == "GLAI":
            return final_network(self.settings(name, Trial(1.0), Trial(1.0), 1))
        if FAMILIES[name] == "linear":
            return mlp((), task.outputs)
        if name == "low_rank":
            kept = self.budget.reduced
            return low_rank_mlp(task.inputs, hidden[0], task.outputs, parameters=kept)
        return mlp(self.reduced if name == "mlp_reduced" else hidden, task.outputs)

    def parameters(self, name: str) -> int | None:
        """Trained numbers that a deployed GLAI head holds: the selector's hidden layers and the K
        or P O weights. None for the others, which hold what their variables do.
        """
        if FAMILIES[name] != "GLAI":
            return None
        selection = SELECTION.get(name, "joint")
        each = self.task.outputs if selection == "joint" else 1
        return head_parameters(self.reduced, self.task.inputs, self.kept(selection) * each)

    def optimizer(self, name: str, trial: Trial) -> Optimizer:
        rule = "sgd" if name in SGD else "adamw"
        return Optimizer(
            trial.rate, trial.decay, clip=0.0, b2=0.999, rule=rule, schedule="constant"
        )

    def settings(self, name: str, trial: Trial, selector: Trial, epochs: int) -> Settings:
        c, task, every = self.config.glai, self.task, self.task.steps_per_epoch
        selection = SELECTION.get(name, "joint")
        rule = Maturity(c.settled_window, c.settled_share)
        settled = Settled(every, rule) if c.selector == "maturity" else None
        selector_epochs = 0 if name == "glai_untrained" else c.selector_epochs
        return Settings(
            task.inputs,
            self.reduced,
            task.outputs,
            selection,
            self.kept(selection),
            task.terms,
            self.optimizer(name, selector),
            every * selector_epochs,
            settled,
            self.optimizer(name, trial),
            every * epochs,
            Patience(every, self.config.train.patience),
            task.transforms,
            min(c.reference, task.train),
            tuple(self.config.head.hidden) if c.begin == "whole" and selector_epochs else (),
        )


def network(config: Any, task: Any, model: str) -> Network:
    """The network of a model, whatever else the config says."""
    return Heads(config, task).network(model)


def arms(config: Any, task: Any) -> tuple[Arm, ...]:
    """Every arm of config.arms, those that take another's settings after it. Raises UserError."""
    check(config, task)
    heads = Heads(config, task)
    return tuple(_arm(heads, name) for name in ARMS if name in config.arms)


def _arm(heads: Heads, name: str) -> Arm:
    s = heads.config.search
    rates = s.sgd_rates if name in SGD else s.adam_rates
    points = tuple(Trial(rate, decay) for rate in rates for decay in s.decays)
    if name in SOLVED:
        points = tuple(Trial(0.0, penalty) for penalty in s.penalties)
    fill = functools.partial(_solve, heads, name) if name in SOLVED else None
    return Arm(
        name,
        heads.network(name),
        plan=None if fill else functools.partial(_plan, heads, name),
        solve=fill,
        role=OURS if FAMILIES[name] == "GLAI" else RIVAL,
        family=FAMILIES[name],
        labels=not heads.task.contrast,
        search=Search(points, s.seeds),
        apart=True,
        parameters=heads.parameters(name),
    )


def _plan(heads: Heads, name: str, turn: Turn) -> Plan:
    """One trained arm at one point of the search; the selector has the settings of the
    reduced MLP.
    """
    config, task = heads.config, heads.task
    epochs = config.search.epochs if turn.searching else config.train.epochs
    if name not in SELECTION:
        net = heads.network(name)
        every = task.steps_per_epoch
        return (
            Phase(
                "train",
                net,
                net.names,
                task.terms,
                every * epochs,
                Feed(transforms=task.transforms),
                heads.optimizer(name, turn.trial),
                stop=Patience(every, config.train.patience),
            ),
        )
    selector = turn.chosen.get("mlp_reduced", turn.trial)
    settings = heads.settings(name, turn.trial, selector, epochs)
    if not turn.real:
        return glai_plan(settings)
    if settings.settled:
        measure = functools.partial(_settling, heads, mlp(settings.hidden, settings.outputs), turn)
        settings = settings._replace(settled=settings.settled.measured_by(measure))
    held = () if turn.searching else (jnp.asarray(turn.sets.validation.x[:RECEIPT_ROWS]),)
    return glai_plan(settings, held_out=Held(held), report=turn.log)


def _settling(heads: Heads, reduced: Network, turn: Turn, state: Any) -> float:
    """m_t of a selector since its last check, all readings of it logged."""
    before = state.kept or turn.fresh(reduced)
    reference = turn.sets.train["all"]["inputs"][: heads.config.glai.reference]
    readings = watch(before, state.variables, reference)
    turn.log({"kind": "maturity", "step": state.step, **readings})
    return readings["settling"]


def _solve(heads: Heads, name: str, turn: Turn) -> Variables:
    """The variables (seed axis of 1) of an arm whose weights are solved for: on the features, or on
    what the paths of a trained joint head carry.
    """
    solver, source = SOLVED[name]
    train, outputs = turn.sets.train["all"], heads.task.outputs
    x, y = train["inputs"], train["labels"]
    base, before, spent = None, 0.0, 0.0
    if source:
        # a trial's solver reads the paths of some seed's head: its weights alone are searched
        seed = turn.seeds[0] if turn.seeds[0] >= 0 else -1 - turn.seeds[0]
        base = jax.tree.map(lambda leaf: leaf[seed % len(leaf)], turn.done[source])
        carried = functools.partial(forward, heads.network(name), stop="contributions")
        run = jax.jit(lambda v, x: carried(v, x)[0])
        features, before = _timed(run, base, x)
        spent = 0.0 if turn.searching else _spent(turn, source, seed)
    else:
        features = jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)
    fit = solvers.ridge if solver == "ridge" else solvers.logistic
    solution, seconds = _timed(fit, features, y, outputs, turn.trial.decay)
    turn.log(
        {
            "kind": "solve",
            "seconds": before + seconds,
            "before_seconds": spent,
            "iterations": solution.iterations,
        }
    )
    weights = solution.weights
    if base is None:
        kernel, bias = weights[:-1][None], weights[-1][None]
        return {"output": {"params": Output.readout.write(kernel, bias)}}
    stacked = jax.tree.map(lambda leaf: leaf[None], base)
    return {**stacked, "estimator": {"params": LinearEstimator.holding(weights[None])}}


def _timed(run: Any, *args: Any) -> tuple[Any, float]:
    """(result, seconds) of the second of two calls, so without compilation."""
    for _ in range(2):
        began = time.perf_counter()
        result = jax.block_until_ready(run(*args))
        seconds = time.perf_counter() - began
    return result, seconds


def _spent(turn: Turn, source: str, seed: int) -> float:
    """Seconds until the paths that a solver reads were there: its selector and its conversion."""
    return sum(
        row["seconds"]
        for row in turn.rows()
        if row.get("model") == source
        and row.get("seed") == seed
        and (
            row["kind"] in ("conversion", "maturity")
            or (row["kind"] == "train" and row["phase"] == "selector")
        )
    )


def outline(config: Any, task: Any) -> list[str]:
    """Lines of plan.txt: the features and the budget."""
    spent = Heads(config, task).budget
    narrow = narrow_line(tuple(config.head.hidden), task.outputs, config.glai.rho)
    return [
        (
            f"features: {task.inputs} wide, {task.outputs} outputs, {task.train:,} training"
            f" examples, {task.steps_per_epoch} steps an epoch"
        ),
        (
            f"GLAI budget: O {spent.original:,}  R {spent.reduced:,}  E {spent.paths:,}  K"
            f" {spent.kept:,}  mu {spent.share:.2%}  P {spent.pairs:,} ({spent.density:.2%} of the"
            " pairs)"
        ),
        *([f"warning: {narrow}"] if narrow else []),
    ]
