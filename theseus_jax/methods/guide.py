"""The method `guide` as a run compares it: see `methods.guidance` for what guidance is.

| arm | what it is |
| --- | --- |
| guide, guide_untrained | the frozen networks |
| baseline | the target alone |
| guided_trained, guided_untrained | the target beside them |
| guided_shuffled | beside the trained guide's activations of other examples: what noise does |
| distilled | the trained guide's outputs instead of its layers |
| baseline_norm, baseline_residual, baseline_gated | the task's simple cures of the target alone |

All but the guides are searched over the same rates and trained for the same steps.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.arms import GUIDE, OURS, RIVAL, Arm, Finished, Search, Trial, Turn
from theseus_jax.balance import Calibrated, Ramp, Until
from theseus_jax.checks import ABOVE, SHARE, check_values
from theseus_jax.errors import UserError
from theseus_jax.methods import guidance
from theseus_jax.methods.agreement import error_table, pair_table
from theseus_jax.methods.claims import leads
from theseus_jax.methods.gradients import GradientNorms, depth_table
from theseus_jax.methods.guidance import REDUCTIONS, SAMPLES, Pairs, Settings, parse_pairs
from theseus_jax.methods.guide_modes import batch_mode, guide_mode
from theseus_jax.methods.plasticity import within
from theseus_jax.methods.plasticity.within import Within
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Optimizer, Plan
from theseus_jax.program import inputs_and_labels
from theseus_jax.similarity import METRICS, NamedSimilarity, metric

SEEDS = 5
REMEDY = "name pairs of stages that exist, or choose another metric or kind of samples"
# (guide, shift of the guide's examples) of the guided arms
GUIDED = {
    "guided_trained": ("guide", 0),
    "guided_untrained": ("guide_untrained", 0),
    "guided_shuffled": ("guide", 1),
}
ARMS = ("baseline", *GUIDED, "distilled")
CHOICES = {
    "guidance.samples": SAMPLES,
    "guidance.reduction": REDUCTIONS,
    "guidance.remember": ("auto", "never"),
    **within.CHOICES,
}
CALIBRATION = 2048  # examples behind the statistics of an untrained guide
POSITIVE = ("guide.steps", "guidance.steps", "guidance.neighbours", "search.seeds", "search.steps")
POSITIVE += within.POSITIVE
RANGES = dict.fromkeys(("guide.learning_rate", "guidance.temperature", "search.rates"), ABOVE)
RANGES |= {"guidance.kl": SHARE, **within.RANGES}


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
    guide = {"origin": "trained", "weights": "", "learning_rate": 3e-3}
    guide["steps"] = usual["guide_steps"]
    return {
        "arms": (*ARMS, *usual.get("cures", ())),
        "guide": guide | sizes["guide"],
        "target": sizes["target"],
        "guidance": {
            "pairs": "auto",  # auto | "guide_stage=target_stage, ...", each as often as it is named
            "metric": "cka_debiased",  # any of similarity.METRICS that is differentiable
            "neighbours": 10,  # k of the neighbour measures
            "samples": usual["samples"],  # tokens | sequences | pooled
            "reduction": "mean",  # mean | sum, over pairs
            "remember": "auto",  # auto: the guide runs once for all, where it can | never
            "weight": 1.0,
            "ratio": 0.0,  # > 0: the weight, after an epoch, of so many times the cross-entropy
            "ramp": 0,  # steps over which the weight becomes `final`; 0: it stays
            "final": 0.0,
            "disconnect_after": 0,  # steps; 0: the guide stays
            "kl": 0.5,  # share of distillation in distilled
            "temperature": 2.0,
            "steps": 400,  # optimizer steps of every arm
        },
        "elastic": within.section(),
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
            "compute": "float32",  # of stages: float32 | bfloat16; parameters and losses: float32
            "watch": 50,  # steps between two readings of the gradients' norms by depth
        },
    }


def check(config: Any, task: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    metrics = tuple(name for name, entry in METRICS.items() if entry.differentiable)
    check_values(config, CHOICES | {"guidance.metric": metrics}, POSITIVE)
    there = (*ARMS, *getattr(task, "cures", ()))
    unknown = [one for one in config.arms if one not in there]
    if unknown:
        raise UserError(f"config.arms has {', '.join(unknown)}; choose from {', '.join(there)}")
    c = config.guidance
    if sum(map(bool, (c.ratio, c.ramp, c.disconnect_after))) > 1:
        raise UserError(
            f"config.guidance.ratio is {c.ratio:g}, ramp {c.ramp} and disconnect_after"
            f" {c.disconnect_after}; a weight changes in one way: set the others to 0"
        )
    if config.guide.origin == "untrained":
        raise UserError(
            "config.guide.origin is 'untrained'; guidance has an arm for that, guided_untrained,"
            " beside a guide that is trained: leave it at 'trained', or give weights"
        )
    if config.guide.weights and config.guide.origin != "file":
        raise UserError(
            f"config.guide.weights is {config.guide.weights!r} and guide.origin"
            f" {config.guide.origin!r}, which reads none; set guide.origin to 'file'"
        )


class Guided(NamedTuple):
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
    def pairs(self) -> Pairs:
        """(guide stage, target stage), in order. Raises UserError for text that is none."""
        text = self.config.guidance.pairs
        return parse_pairs(text, self.guide, self.target, self.task.example)

    @property
    def weight(self) -> Any:
        """Of the alignment: a number, or what is balanced or disconnected."""
        c = self.config.guidance
        if c.ratio:
            return Calibrated(c.ratio, "cross_entropy", c.weight)
        if c.ramp:
            return Ramp(c.weight, c.final, c.ramp)
        return Until(c.weight, c.disconnect_after) if c.disconnect_after else c.weight

    def settings(self, name: str, rate: float, steps: int) -> Settings:
        """Of the arm `name`, at a rate."""
        c, train, guided = self.config.guidance, self.config.train, name in GUIDED
        return Settings(
            steps,
            self.measure,
            c.samples,
            c.reduction,
            self.weight if guided else 0.0,
            GUIDED[name][1] if guided else 0,
            c.kl if name == "distilled" else 0.0,
            c.temperature,
            Optimizer(rate, train.weight_decay, train.clip),
            self.remembers(name),
        )

    def within(self, net: Network) -> Within:
        """How units of a trained network come and go."""
        return Within(net, self.task.example, **self.config.elastic)

    def remembers(self, name: str) -> bool:
        """Whether the guide of an arm is run once for all examples: not where its batch norm reads
        every batch's own statistics.
        """
        c = self.config.guidance
        fixed = self.mode != "batch" or name != "guided_untrained"
        return c.remember == "auto" and c.samples == "pooled" and not self.task.transforms and fixed

    @property
    def measure(self) -> NamedSimilarity:
        """Of the alignment."""
        c = self.config.guidance
        return metric(c.metric, k=c.neighbours)

    def plan(self, net: Network, guide: Network, settings: Settings) -> Plan:
        """Of a network that is trained, the guide among them."""
        return guidance.plan(
            guide,
            net,
            self.pairs if settings.weight != 0 else (),
            settings,
            self.task.example,
            transforms=self.task.transforms,
            watches=(GradientNorms(self.config.train.watch),),
        )


def arms(config: Any, task: Any) -> tuple[Arm, ...]:
    """The two guides, and every arm of config.arms. Raises UserError."""
    both = Guided(config, task, *task.pair())
    check(config, task)
    both.pairs
    chosen = [name for name in (*ARMS, *getattr(task, "cures", ())) if name in config.arms]
    if "distilled" in chosen:
        guidance.check_outputs(both.guide, both.target, task.example)
    alone = both.settings("guide", config.guide.learning_rate, config.guide.steps)
    made: dict[str, Any] = {"plan": lambda turn: both.plan(both.guide, both.guide, alone)}
    if config.guide.origin != "trained":
        made = {"solve": lambda turn: task.begin(both.guide, turn.fresh(both.guide), turn.sets)}
    guides = [Arm("guide", both.guide, role=GUIDE, seeds=1, **made)]
    if "guided_untrained" in chosen:
        begin = functools.partial(_untrained, both)
        guides.append(Arm("guide_untrained", both.untrained, solve=begin, role=GUIDE, seeds=1))
    return (*guides, *(_arm(both, name) for name in chosen))


def _arm(both: Guided, name: str) -> Arm:
    net, s = both.target, both.config.search
    if name not in ARMS:
        net = both.task.target(**both.task.cures[name])
        if net == both.target:
            raise UserError(
                f"config.arms has {name}, and the target is what it would make of it; leave it out"
            )
    guide, shift = GUIDED.get(name, ("guide" if name == "distilled" else "", 0))
    return Arm(
        name,
        both.within(net).narrow,
        functools.partial(_plan, both, both.within(net), name),
        role=OURS if name in GUIDED and not shift else RIVAL,
        guide=guide,
        search=Search(tuple(Trial(rate) for rate in s.rates), s.seeds),
    )


def _untrained(both: Guided, turn: Turn) -> Variables:
    fresh = jax.tree.map(lambda leaf: leaf[0], turn.fresh(both.guide))
    some = jax.tree.map(lambda leaf: leaf[:CALIBRATION], turn.sets.train["all"])
    x, _ = inputs_and_labels(some)
    _, variables = guide_mode(both.guide, fresh, x, both.mode)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)


def _plan(both: Guided, inside: Within, name: str, turn: Turn) -> Plan:
    config = both.config
    steps = config.search.steps if turn.searching else config.guidance.steps
    guide = both.untrained if name == "guided_untrained" else both.guide
    return inside(both.plan(inside.wide, guide, both.settings(name, turn.trial.rate, steps)))


def outline(config: Any, task: Any) -> list[str]:
    """Lines of plan.txt: the pairs, and what stays without one."""
    both = Guided(config, task, *task.pair())
    lines = [f"pairs (guide = target): {', '.join(f'{g} = {t}' for g, t in both.pairs)}"]
    for side, net, index in (("guide", both.guide, 0), ("target", both.target, 1)):
        left = guidance.unmapped(net, [pair[index] for pair in both.pairs], task.example)
        lines.append(f"stages of the {side} without a pair: {', '.join(left) or 'none'}")
    return lines + both.within(both.target).lines()


def results(finished: Finished) -> dict[str, Any]:
    """Claims of the guided arms; the gradients' norms by depth, the similarity of every pair and
    the consistency of errors.
    """
    both = Guided(finished.config, finished.task, *finished.task.pair())
    target = both.within(both.target).narrow
    guides = {
        arm.name: "guide_untrained" if arm.name == "guided_untrained" else "guide"
        for arm in finished.arms
        if arm.net == target and arm.role != GUIDE
    }
    compared = both.pairs, both.measure, finished.config.guidance.samples, guides
    similar = {"pairs": pair_table(finished, *compared)} if guides else {}
    told = hasattr(finished.data.sets(0).test, "right")
    errors = {"errors": error_table(finished)} if told else {}
    return {
        "claims": leads(finished.models, finished.task.compared),
        "tables": {"gradients": depth_table(finished), **similar, **errors},
    }
