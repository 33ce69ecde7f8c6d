"""The method: one network with fixed capacity whose units are grown or pruned in cycles, beside the
dense network (arXiv 2605.15435).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Mapping, NamedTuple

from theseus_jax.arms import OURS, RIVAL, Arm, Search, Trial, Turn
from theseus_jax.checks import ABOVE, PART, SHARE, SOME, check_values
from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed
from theseus_jax.methods.plasticity import budget, plan
from theseus_jax.methods.plasticity.births import BIRTHS
from theseus_jax.methods.plasticity.doctor import Doctor
from theseus_jax.methods.plasticity.edits import Replace, ShrinkPerturb, check_birth
from theseus_jax.methods.plasticity.elastic import elastic
from theseus_jax.methods.plasticity.results import results
from theseus_jax.methods.plasticity.scores import SCORES
from theseus_jax.methods.plasticity.seeds import MOMENTS
from theseus_jax.methods.plasticity.tracks import Firing, Utility
from theseus_jax.methods.plasticity.ways import INTERVENTIONS, OF_STREAMS, TICKETS, USUAL, WAYS, Way
from theseus_jax.nets.sites import Rates
from theseus_jax.nets.stage import Network
from theseus_jax.order import Epochs
from theseus_jax.plan import Optimizer, Plan

__all__ = ["RANGES", "SEEDS", "arms", "outline", "results", "sections"]
SEEDS = 10
CHOICES = {
    "plasticity.score": tuple(SCORES),
    "plasticity.worst": tuple(SCORES),
    "plasticity.birth": tuple(BIRTHS),
    "plasticity.moments": MOMENTS,
    "train.rule": ("sgd", "adamw"),
    "train.schedule": ("constant", "cosine"),
}
STREAMED = ("plasticity.interval", "plasticity.doctor", "search.seeds")
POSITIVE = (
    *(f"plasticity.{name}" for name in ("cycles", "steps", "ticket_steps", "doctor")),
    "search.seeds",
)
RANGES = {
    "plasticity.begin": SOME,
    "plasticity.compactness": SOME,
    "plasticity.dormant": SHARE,
    "plasticity.keep": SHARE,
    "plasticity.noise": SHARE,
    "plasticity.rate": ABOVE,
    "plasticity.silence": SHARE,
    "plasticity.speed": ABOVE,
    "plasticity.toward_start": SHARE,
    "plasticity.utility_decay": PART,
    "search.rates": ABOVE,
    "train.momentum": PART,
}


def sections(task: Any) -> dict[str, Any]:
    """The method's part of a config, with defaults and units; a stream says itself how many cycles
    there are, and has other arms. Raises UserError for a task that has no target.
    """
    if not hasattr(task, "sizes"):
        raise UserError(
            f"the method plasticity needs a task with a target, and"
            f" {task.__name__.rpartition('.')[2]} has none; choose another of the two"
        )
    cycles = {
        "cycles": 5,
        "steps": 200,  # optimizer steps of a cycle
        "ticket_steps": 1000,  # of a ticket, trained anew
    }
    cures = {
        "interval": 100,  # steps between two replacements of units
        "dormant": 0.025,  # redo: units of up to this share of the mean activation
        "rate": 1e-4,  # continual_backprop: share of a site's units that is replaced a step
        "maturity": 1000,  # continual_backprop: steps that a unit is left alone
        "utility_decay": 0.99,  # continual_backprop, upgd: a step
        "silence": 0.01,  # self_normalized_resets: of a unit that is this unlikely to be so silent
        "perturb": 1e-3,  # upgd: standard deviation of what is added to gradients
        "keep": 0.8,  # shrink_perturb, before each task
        "noise": 0.2,  # share of a fresh start that is added
        "toward_start": 1e-2,  # l2_to_start
    }
    streaming = "stream" in task.sections()
    return {
        "arms": (*USUAL, *OF_STREAMS) if streaming else (*USUAL, *TICKETS),
        "target": task.sizes()["target"],
        "plasticity": {
            "sites": "auto",  # auto: all | "block_1/units, ..."
            "compactness": 0.2,  # share of the sites' weights at the end
            "bias": (),  # of each site in the budget; (): 1
            "begin": 0.1,  # share of a site's units that growth begins with
            "score": "activation",  # of births: any of scores.SCORES
            "birth": "stored",  # any of births.BIRTHS
            "moments": "fresh",  # of newborn units' optimizer state: fresh | kept | transplanted
            "worst": "magnitude",  # of deaths
            "speed": 5.0,  # two_speed: newborn units' updates times this
            "speed_steps": 100,  # for so many steps
            "doctor": 50,  # steps between two readings of newborn units
        }
        | (cures if streaming else cycles),
        "search": {
            "rates": (3e-3, 1e-2, 3e-2, 1e-1),  # of every arm
            "seeds": 3,  # of every trial
            "shared": True,  # interventions take the rate of grow, that nothing else differs
        },
        "train": {
            "batch": task.USUAL["batch"],
            "rule": "sgd",  # sgd | adamw
            "momentum": 0.0,  # of sgd
            "schedule": "constant",  # constant | cosine, over all cycles
            "weight_decay": 0.0,
            "clip": 0.0,  # global gradient norm; 0: none
            "chunk": 25,  # optimizer steps a compiled scan
            "compute": "float32",  # of stages: float32 | bfloat16; parameters and losses: float32
        },
    }


class Plastic(NamedTuple):
    """A checked config and its task."""

    config: Any
    task: Any

    @property
    def stretches(self) -> tuple[int, int]:
        """(cycles, steps of each): of the stream, or of the config."""
        c = self.config.plasticity
        return getattr(self.task, "stretches", None) or (c.cycles, c.steps)

    def borrows(self, name: str) -> bool:
        """Whether an arm is an intervention that takes the rate of grow."""
        return self.config.search.shared and name in INTERVENTIONS and "grow" in self.config.arms

    def rate(self, turn: Turn) -> float:
        """Of an arm's turn."""
        borrowed = turn.chosen.get("grow", Trial(self.config.search.rates[0])).rate
        return turn.trial.rate or borrowed

    def every(self, way: Way, net: Network) -> tuple[tuple[int, Any], ...]:
        """(steps apart, edit) of a cure."""
        c, sites = self.config.plasticity, net.sites
        if way.cure == "redo":
            counts = tuple(site.width for site in sites)
            return ((c.interval, Replace(counts, "dormancy", threshold=c.dormant)),)
        if way.cure == "continual_backprop":
            counts = tuple(max(1, round(c.rate * c.interval * site.width)) for site in sites)
            return ((c.interval, Replace(counts, "utility", maturity=c.maturity, settle=True)),)
        if way.cure == "self_normalized_resets":
            counts = tuple(site.width for site in sites)
            return ((c.interval, Replace(counts, "silence", threshold=c.silence)),)
        if way.cure == "shrink_perturb":
            return ((self.stretches[1], ShrinkPerturb(c.keep, c.noise)),)
        return ()

    def tracks(self, way: Way, net: Network) -> tuple[Any, ...]:
        """What a cure has the steps count of units."""
        if way.cure == "continual_backprop":
            return (Utility(net.sites, self.config.plasticity.utility_decay),)
        return (Firing(net.sites),) if way.cure == "self_normalized_resets" else ()

    def net(self, way: Way) -> Network:
        """The network of an arm, with its sites."""
        net, text = self.task.target(**way.net), self.config.plasticity.sites
        names = None if text == "auto" else [name.strip() for name in text.split(",")]
        return elastic(net, self.task.example, names)

    def settings(self, way: Way, net: Network, rate: float) -> plan.Settings:
        """Of an arm, at a rate."""
        c, t = self.config.plasticity, self.config.train
        decay = c.toward_start if way.cure == "l2_to_start" else 0.0
        rule = {"rule": t.rule, "momentum": t.momentum}
        if way.cure == "upgd":
            rule = {"rule": "upgd", "momentum": c.utility_decay, "noise": c.perturb}
        own = plan.Settings(
            *self.stretches,
            budget.targets(net, self.task.example, c.compactness, tuple(c.bias)),
            budget.started(net.sites, c.begin),
            Optimizer(
                rate, t.weight_decay, t.clip, schedule=t.schedule, toward_start=decay, **rule
            ),
            c.score,
            c.birth,
            c.moments,
            c.worst,
        )
        changes = dict(way.changes)
        if changes.get("rates") == "two_speed":
            changes["rates"] = Rates(c.speed, c.speed_steps)
        return dataclasses.replace(own, **changes)


def arms(config: Any, task: Any) -> tuple[Arm, ...]:
    """Every arm of config.arms, tickets last. Raises UserError."""
    streamed = hasattr(task, "stretches")
    check_values(config, CHOICES, STREAMED if streamed else POSITIVE)
    left_out = TICKETS if streamed else OF_STREAMS
    there = tuple(name for name in (*WAYS, *TICKETS) if name not in left_out)
    unknown = [one for one in config.arms if one not in there]
    if unknown:
        raise UserError(f"config.arms has {', '.join(unknown)}; choose from {', '.join(there)}")
    for name in config.arms:
        if TICKETS.get(name, name) not in config.arms:
            raise UserError(
                f"config.arms has {name} without {TICKETS[name]}, whose masks it takes; name both"
            )
    both = Plastic(config, task)
    return tuple(_arm(both, name) for name in there if name in config.arms)


def _arm(both: Plastic, name: str) -> Arm:
    base = TICKETS.get(name, name)
    way, s = WAYS[base], both.config.search
    net = both.net(way)
    birth = both.settings(way, net, s.rates[0]).birth
    for site in net.sites if way.kind == "grow" else ():
        try:
            check_birth(birth, site)
        except UserError as error:
            raise UserError(f"config.arms has {name}: {error}; or leave it out") from error
    make = _ticket if name in TICKETS else _cycles
    return Arm(
        name,
        net,
        functools.partial(make, both, way, net, base),
        role=OURS if way.kind == "grow" and name not in TICKETS else RIVAL,
        family=way.kind,
        search=None if both.borrows(name) else Search(tuple(map(Trial, s.rates)), s.seeds),
    )


def _cycles(both: Plastic, way: Way, net: Network, base: str, turn: Turn) -> Plan:
    settings = both.settings(way, net, both.rate(turn))
    grows, look = way.kind == "grow", not turn.searching
    edits = {
        "dense": lambda: plan.nothing(settings),
        "prune": lambda: plan.pruning(net, settings, look=look),
        "grow": lambda: plan.growth(settings, look=look),
    }[way.kind]()
    births = tuple(range(0, settings.cycles * settings.steps, settings.steps))
    doctor = (Doctor(both.config.plasticity.doctor, net.sites, births),) if grows and look else ()
    besides = {"every": both.every(way, net), "tracks": both.tracks(way, net)}
    return _plan(both, net, edits, settings, turn, doctor, besides)


def _ticket(both: Plastic, way: Way, net: Network, base: str, turn: Turn) -> Plan:
    own = both.settings(way, net, turn.trial.rate)
    settings = dataclasses.replace(own, cycles=1, steps=both.config.plasticity.ticket_steps)
    edits = plan.ticket(turn.done.get(base), settings)
    return _plan(both, net, edits, settings, turn)


def _plan(
    both: Plastic,
    net: Network,
    edits: tuple[plan.Edits, ...],
    settings: plan.Settings,
    turn: Turn,
    doctor: tuple[Doctor, ...] = (),
    besides: Mapping[str, Any] = {},
) -> Plan:
    held, order = None, Epochs()
    if turn.real:
        order = turn.sets.order
        held = turn.sets.stretches or (turn.sets.test,) * settings.cycles
    feed = Feed(transforms=both.task.transforms, order=order)
    given = {"held": None if turn.searching else held, "key": both.task.compared.key}
    example, look = both.task.example, bool(doctor)
    given |= {"feed": feed, "look": look, "watches": doctor, **besides}
    return plan.cycles(net, example, edits, settings, **given)


def outline(config: Any, task: Any) -> list[str]:
    """Lines of plan.txt: the sites, and how many units each begins and ends with."""
    both, lines = Plastic(config, task), []
    net = both.net(WAYS["grow"])
    settings = both.settings(WAYS["grow"], net, config.search.rates[0])
    for site, begin, end in zip(net.sites, settings.start, settings.targets):
        lines.append(f"{site}: growth from {begin} to {end}, pruning from {site.width} to {end}")
    return lines
