"""Guidance (Subramaniam et al. 2024, arXiv 2410.20035): a network that fails on its own is trained
with the task's loss and a layer-wise alignment to a frozen guide, trained or not.

    loss = cross-entropy + weight * (mean or sum over pairs of 1 - similarity(target, guide))

| arm | what it is |
| --- | --- |
| guide, guide_untrained | the frozen networks |
| baseline | the target alone |
| guided_trained, guided_untrained | the target beside them |
| guided_shuffled | beside the trained guide's activations of other examples: what noise does |
| distilled | the trained guide's outputs instead of its layers |
| baseline_norm, baseline_residual | the target with batch norm, or with skips: the simple cures |

All but the guides are searched over the same rates and trained for the same steps.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.arms import GUIDE, OURS, RIVAL, Arm, Finished, Search, Trial, Turn
from theseus_jax.balance import Calibrated, Until
from theseus_jax.checks import check_values
from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed
from theseus_jax.methods.claims import leads
from theseus_jax.methods.gradients import GradientNorms, depth_table
from theseus_jax.methods.guide_modes import batch_mode, guide_mode
from theseus_jax.methods.mapping import auto_mapping
from theseus_jax.nets.stage import Network, Variables, variable_shapes
from theseus_jax.objectives import Alignment, CrossEntropy, Distillation, Term
from theseus_jax.plan import Optimizer, Phase, Plan
from theseus_jax.similarity import METRICS, metric

SEEDS = 5
REMEDY = "name pairs of stages that exist, or choose another metric or kind of samples"
# (guide, shift of the guide's examples) of the guided arms
GUIDED = {
    "guided_trained": ("guide", 0),
    "guided_untrained": ("guide_untrained", 0),
    "guided_shuffled": ("guide", 1),
}
CURES = {"baseline_norm": {"norm": "batch"}, "baseline_residual": {"residual": True}}
ARMS = ("baseline", *GUIDED, "distilled", *CURES)
CHOICES = {
    "guidance.samples": ("tokens", "sequences", "pooled"),
    "guidance.reduction": ("mean", "sum"),
}
CALIBRATION = 2048  # examples behind the statistics of an untrained guide
POSITIVE = ("guide.steps", "guidance.steps", "guidance.neighbours", "search.seeds", "search.steps")


def sections(task: Any) -> dict[str, Any]:
    """The method's part of a config, with defaults and units. Raises UserError for a task that has
    no two networks.
    """
    if not hasattr(task, "sizes"):
        raise UserError(
            f"the method guide needs a task with a guide and a target, and"
            f" {task.__name__.rpartition('.')[2]} has none; choose another of the two"
        )
    usual, sizes = task.USUAL, task.sizes()
    guide = {
        "origin": "trained",
        "weights": "",
        "steps": usual["guide_steps"],
        "learning_rate": 3e-3,
    }
    return {
        "arms": ("baseline", *GUIDED, "distilled", "baseline_norm"),
        "guide": guide | sizes["guide"],
        "target": sizes["target"],
        "guidance": {
            "pairs": "auto",  # auto | "guide_stage=target_stage, ...", each as often as it is named
            "metric": "cka_debiased",  # any of similarity.METRICS that is differentiable
            "neighbours": 10,  # k of the neighbour measures
            "samples": usual["samples"],  # tokens | sequences | pooled
            "reduction": "mean",  # mean | sum, over pairs
            "weight": 1.0,
            # > 0: the weight is found after the first epoch, so that the alignment is so many times
            # the cross-entropy
            "ratio": 0.0,
            "disconnect_after": 0,  # steps; 0: the guide stays
            "kl": 0.5,  # share of distillation in distilled
            "temperature": 2.0,
            "steps": 400,  # optimizer steps of every arm
        },
        "search": {
            "rates": (3e-4, 1e-3, 3e-3),  # of every arm but the guide
            "seeds": 1,  # of every trial
            "steps": 200,  # of a trial
        },
        "train": {
            "batch": usual["batch"],
            "weight_decay": 0.0,
            "clip": 1.0,  # global gradient norm
            "chunk": 25,  # optimizer steps a compiled scan
            "watch": 50,  # steps between two readings of the gradients' norms by depth
        },
    }


def check(config: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    metrics = tuple(name for name, entry in METRICS.items() if entry.differentiable)
    check_values(config, CHOICES | {"guidance.metric": metrics}, POSITIVE)
    unknown = [name for name in config.arms if name not in ARMS]
    if unknown:
        raise UserError(f"config.arms has {', '.join(unknown)}; choose from {', '.join(ARMS)}")
    c = config.guidance
    if c.ratio and c.disconnect_after:
        raise UserError(
            f"config.guidance.ratio is {c.ratio:g} and disconnect_after {c.disconnect_after}; a"
            " weight that is found after an epoch is not taken away again: set one of them to 0"
        )
    if config.guide.origin != "trained":
        raise UserError(
            f"config.guide.origin is {config.guide.origin!r}; guidance trains its guide here and"
            " has an arm for an untrained one: leave it at 'trained'"
        )


class Guidance(NamedTuple):
    """A checked config, its task and both networks."""

    config: Any
    task: Any
    guide: Network
    target: Network

    @property
    def mode(self) -> str:
        """Of an untrained guide's batch norm; a task without any has one mode alone."""
        return self.config.guide.get("mode", "identity")

    @property
    def untrained(self) -> Network:
        """The untrained guide, whose batch norm may read every batch's own statistics."""
        return batch_mode(self.guide, self.task.example) if self.mode == "batch" else self.guide

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(guide stage, target stage), in order. Raises UserError for text that is none."""
        text = self.config.guidance.pairs
        if text == "auto":
            return auto_mapping(self.guide, self.target, self.task.example)
        pairs = tuple(tuple(part.strip() for part in item.split("=")) for item in text.split(","))
        for pair in pairs:
            if len(pair) != 2:
                raise UserError(
                    f"config.guidance.pairs has {'='.join(pair)!r}; write 'auto' or"
                    " 'guide_stage=target_stage, ...'"
                )
            for name, net, side in zip(pair, (self.guide, self.target), ("guide", "target")):
                if name.split("/")[0] not in net.names:
                    raise UserError(
                        f"config.guidance.pairs names {name!r}, which is no stage of the {side};"
                        f" its stages are {', '.join(net.names)}"
                    )
        return pairs

    def alignment(self, shift: int) -> Term:
        c = self.config.guidance
        fn = Alignment(self.pairs, metric(c.metric, k=c.neighbours), c.samples, c.reduction, shift)
        weight: Any = Calibrated(c.ratio, "cross_entropy", c.weight) if c.ratio else c.weight
        if c.disconnect_after:
            weight = Until(c.weight, c.disconnect_after)
        return Term("alignment", weight, fn)

    def optimizer(self, rate: float) -> Optimizer:
        return Optimizer(rate, self.config.train.weight_decay, self.config.train.clip)


def arms(config: Any, task: Any) -> tuple[Arm, ...]:
    """The two guides, and every arm of config.arms. Raises UserError."""
    check(config)
    both = Guidance(config, task, *task.pair())
    both.pairs
    chosen = [name for name in ARMS if name in config.arms]
    guides = [Arm("guide", both.guide, functools.partial(_guide_plan, both), role=GUIDE, seeds=1)]
    if "guided_untrained" in chosen:
        begin = functools.partial(_untrained, both)
        guides.append(Arm("guide_untrained", both.untrained, solve=begin, role=GUIDE, seeds=1))
    return (*guides, *(_arm(both, name) for name in chosen))


def _arm(both: Guidance, name: str) -> Arm:
    net, s = both.target, both.config.search
    if name in CURES:
        missing = [key for key in CURES[name] if key not in both.config.target]
        if missing:
            raise UserError(
                f"config.arms has {name}, and config.target has no {missing[0]} to change for it;"
                " leave it out"
            )
        net = both.task.target(**CURES[name])
    guide, shift = GUIDED.get(name, ("guide" if name == "distilled" else "", 0))
    return Arm(
        name,
        net,
        functools.partial(_plan, both, net, name, shift),
        role=OURS if name in GUIDED and not shift else RIVAL,
        guide=guide,
        search=Search(tuple(Trial(rate) for rate in s.rates), s.seeds),
    )


def _phase(both: Guidance, net: Network, terms: tuple[Term, ...], steps: int, rate: float) -> Phase:
    return Phase(
        "train",
        net,
        trained(net, both.task.example),
        terms,
        steps,
        Feed(transforms=both.task.transforms),
        both.optimizer(rate),
        watches=(GradientNorms(both.config.train.watch),),
    )


def trained(net: Network, example: Any) -> tuple[str, ...]:
    """Every stage that has parameters, in order."""
    shapes = variable_shapes(net, example)
    return tuple(name for name in net.names if shapes[name].get("params"))


def _guide_plan(both: Guidance, turn: Turn) -> Plan:
    c, labels = both.config.guide, (Term("cross_entropy", 1.0, CrossEntropy()),)
    return (_phase(both, both.guide, labels, c.steps, c.learning_rate),)


def _untrained(both: Guidance, turn: Turn) -> Variables:
    fresh = jax.tree.map(lambda leaf: leaf[0], turn.fresh(both.guide))
    x = jax.tree.map(lambda leaf: leaf[:CALIBRATION], turn.sets.train["all"]["inputs"])
    _, variables = guide_mode(both.guide, fresh, x, both.mode)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)


def _plan(both: Guidance, net: Network, name: str, shift: int, turn: Turn) -> Plan:
    c, labels = both.config.guidance, Term("cross_entropy", 1.0, CrossEntropy())
    steps = both.config.search.steps if turn.searching else c.steps
    terms = (labels,)
    if name in GUIDED:
        terms = (labels, both.alignment(shift))
    if name == "distilled":
        outputs = Distillation((both.guide.names[-1],), c.temperature)
        terms = (dataclasses.replace(labels, weight=1 - c.kl), Term("kl", c.kl, outputs))
    phase = _phase(both, net, terms, steps, turn.trial.rate)
    guide = both.untrained if name == "guided_untrained" else both.guide
    fed = dataclasses.replace(phase.feed, guide=guide if len(terms) > 1 else None)
    return (dataclasses.replace(phase, feed=fed),)


def outline(config: Any, task: Any) -> list[str]:
    """Lines of plan.txt: the pairs, and what stays without one."""
    both = Guidance(config, task, *task.pair())
    lines = [f"pairs (guide = target): {', '.join(f'{g} = {t}' for g, t in both.pairs)}"]
    for side, net, index in (("guide", both.guide, 0), ("target", both.target, 1)):
        there = {pair[index].split("/")[0] for pair in both.pairs}
        left = [name for name in trained(net, task.example) if name not in there]
        lines.append(f"stages of the {side} without a pair: {', '.join(left) or 'none'}")
    return lines


def results(finished: Finished) -> dict[str, Any]:
    """Claims of the guided arms, and the gradients' norms by depth."""
    return {
        "claims": leads(finished.models, finished.task.compared),
        "tables": {"gradients": depth_table(finished)},
    }
