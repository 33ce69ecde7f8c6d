"""The models of a conversion's run: the guide, the converted network, every control, and controls at equal FLOPs."""
from __future__ import annotations

import functools
import logging
import math
from typing import Any, NamedTuple

import jax

from theseus_jax import checkpoints
from theseus_jax.errors import UserError
from theseus_jax.experiment.jobs import Job, finished, fresh, initial, run_keys, run_plan
from theseus_jax.experiment.results import training_flops
from theseus_jax.experiment.plans import Setup, control_plan, side_variables
from theseus_jax.experiment.workdir import Workdir
from theseus_jax.methods.probes import HeldClasses, HeldWindows
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Plan, reads_labels, sides

LOG = logging.getLogger("theseus_jax")


class Bench(NamedTuple):
    """What all models of a run share. examples: for conversion and controls; guide_examples: for the guide, or None; pool: for
    arms whose losses read no labels, or None where they use the examples.
    """

    config: Any
    home: Workdir
    made: Setup
    examples: Any
    guide_examples: Any
    validation: HeldWindows | HeldClasses
    test: HeldWindows | HeldClasses
    pool: Any = None

    def of(self, name: str, plan: Plan) -> Any:
        """The examples that an arm may use."""
        if name.removesuffix("_equal_flops") == "supervised":
            return self.guide_examples
        return self.examples if self.pool is None or reads_labels(plan) else self.pool


def names(config: Any, made: Setup) -> list[str]:
    """Every model that a run may leave, in the order in which they are made."""
    return ["guide", *(name for name in made.plans if name != "guide"), *(f"{name}_equal_flops" for name in config.controls.names)]


def score(bench: Bench, name: str, net: Network, variables: Variables) -> dict[str, Any]:
    """Writes a row of kind "model" for every seed, and returns the validation scores, (S,) each."""
    found = {split: getattr(bench, split).scores(net, variables) for split in ("validation", "test")}
    for seed in range(len(found["validation"]["loss"])):
        bench.home.records.write({"kind": "model", "model": name, "seed": seed, **{
            f"{split}_{key}": float(value[seed]) for split, scores in found.items() for key, value in scores.items()}})
    LOG.info("%s: validation %s", name, ", ".join(f"{key} {value.mean():.3f}" for key, value in found["validation"].items()))
    return found["validation"]


def train(bench: Bench, name: str, plan: Plan, net: Network, guide_variables: Any, keys: jax.Array, examples: Any) -> Variables:
    """The variables (leading seed axis) of one model after its plan; goes on where an earlier process stopped."""
    config, example = bench.config, bench.made.case.example
    extra = jax.vmap(functools.partial(side_variables, sides(plan)))

    job = Job(name, plan, fresh=lambda: {**fresh(net, keys, example), **extra(keys)},
              shapes=lambda net: jax.eval_shape(lambda: {**initial(net, keys, example), **extra(keys)}),
              guide_variables=guide_variables, keys=keys, examples=examples, batch=config.train.batch,
              chunk=config.train.chunk, score=lambda variables: score(bench, name, net, variables),
              metadata={"config": config.to_json(sort_keys=True)})
    return run_plan(bench.home, job, save_seconds=config.train.save_seconds)


def guide(bench: Bench, read: Any) -> Variables:
    """The guide's variables: trained on bench.guide_examples, or what `read(keys)` (leading seed axis of 1) gives."""
    config, made = bench.config, bench.made
    keys = run_keys(config.seed, 1, 1)
    stacked = finished(bench.home, "guide")
    if stacked is None and config.guide.origin == "trained":
        stacked = train(bench, "guide", made.plans["guide"], made.guide, {}, keys, bench.guide_examples)
    elif stacked is None:
        stacked = read(keys)
        score(bench, "guide", made.guide, stacked)
        checkpoints.save(bench.home.model("guide"), tree={"variables": stacked}, metadata={
            "config": config.to_json(sort_keys=True), "model": "guide", "offset": bench.home.records.offset()})
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def arms(bench: Bench, guide_variables: Variables) -> dict[str, Variables]:
    """The converted network and every control, then controls prolonged to the conversion's FLOPs where those are more."""
    config, made = bench.config, bench.made
    keys = run_keys(config.seed, 2, config.seeds)
    made_arms = {name: train(bench, name, plan, made.target, guide_variables, keys, bench.of(name, plan))
                 for name, plan in made.plans.items() if name != "guide"}
    if not config.controls.equal_flops:
        return made_arms
    rows = bench.home.records.read()
    spent = {name: training_flops(rows, name) for name in made_arms}
    for name in config.controls.names:
        ratio = spent["converted"] / spent[name]
        if ratio > 1.0:
            steps = math.ceil(config.convert.steps * ratio / config.train.chunk) * config.train.chunk
            longer = f"{name}_equal_flops"
            plan = control_plan(config, name, made, steps)
            made_arms[longer] = train(bench, longer, plan, made.target, guide_variables, keys, bench.of(longer, plan))
    return made_arms


def worse_than_guessing(name: str, loss: float, classes: int, remedy: str) -> None:
    """Raises UserError where a network that was read from a file scores more nats than a uniform guess."""
    if loss > math.log(classes):
        raise UserError(f"the guide in {name} scores {loss:.2f} nats, worse than guessing ({math.log(classes):.2f}): {remedy}")
