"""The method: one network with fixed capacity whose units are grown or pruned in cycles, beside the
dense network (arXiv 2605.15435).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

from theseus_jax.arms import OURS, RIVAL, Arm, Search, Trial, Turn
from theseus_jax.checks import check_values
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import budget, plan
from theseus_jax.methods.plasticity.births import BIRTHS
from theseus_jax.methods.plasticity.doctor import Doctor
from theseus_jax.methods.plasticity.edits import MOMENTS, check_birth
from theseus_jax.methods.plasticity.elastic import elastic
from theseus_jax.methods.plasticity.results import results
from theseus_jax.methods.plasticity.scores import SCORES
from theseus_jax.nets.sites import Rates
from theseus_jax.nets.stage import Network
from theseus_jax.plan import Optimizer, Plan

__all__ = ["SEEDS", "arms", "outline", "results", "sections"]
SEEDS = 10
TICKET = "_ticket"
SMOOTH = {"activation": "smooth_leaky"}


class Way(NamedTuple):
    """What an arm does otherwise. kind: dense, prune or grow. changes: to `plan.Settings`; net: to
    the target's sizes.
    """

    kind: str
    changes: dict[str, Any] = {}
    net: dict[str, Any] = {}


WAYS = {
    "dense": Way("dense"),
    "prune": Way("prune"),
    "prune_no_rewind": Way("prune", {"rewind": False}),
    "grow": Way("grow"),
    "grow_two_speed": Way("grow", {"rates": "two_speed"}),
    "grow_moment_transplant": Way("grow", {"moments": "transplanted"}),
    "grow_net2wider": Way("grow", {"birth": "copy_split"}),
    "grow_gradmax": Way("grow", {"score": "gradmax"}),
    "grow_variance_matched": Way("grow", {"birth": "variance_matched"}),
    "grow_zero_outgoing": Way("grow", {"birth": "zero_outgoing"}),
    "grow_smooth_leaky": Way("grow", net=SMOOTH),
    "dense_smooth_leaky": Way("dense", net=SMOOTH),
}
TICKETS = tuple(f"{name}{TICKET}" for name in ("prune", "grow"))
CHOICES = {
    "plasticity.score": tuple(SCORES),
    "plasticity.worst": tuple(SCORES),
    "plasticity.birth": tuple(BIRTHS),
    "plasticity.moments": MOMENTS,
    "train.rule": ("sgd", "adamw"),
    "train.schedule": ("constant", "cosine"),
}
POSITIVE = (
    *(f"plasticity.{name}" for name in ("cycles", "steps", "ticket_steps", "doctor")),
    "search.seeds",
)


def sections(task: Any) -> dict[str, Any]:
    """The method's part of a config, with defaults and units. Raises UserError for a task that has
    no target.
    """
    if not hasattr(task, "sizes"):
        raise UserError(
            f"the method plasticity needs a task with a target, and"
            f" {task.__name__.rpartition('.')[2]} has none; choose another of the two"
        )
    return {
        "arms": (*(name for name in WAYS if not name.startswith("dense_")), *TICKETS),
        "target": task.sizes()["target"],
        "plasticity": {
            "sites": "auto",  # auto: all | "block_1/units, ..."
            "compactness": 0.2,  # share of the sites' weights at the end
            "bias": (),  # of each site in the budget; (): 1
            "begin": 0.1,  # share of a site's units that growth begins with
            "cycles": 5,
            "steps": 200,  # optimizer steps of a cycle
            "ticket_steps": 1000,  # of a ticket, trained anew
            "score": "activation",  # of births: any of scores.SCORES
            "birth": "stored",  # any of births.BIRTHS
            "moments": "fresh",  # of newborn units' optimizer state: fresh | kept | transplanted
            "worst": "magnitude",  # of deaths
            "speed": 5.0,  # two_speed: newborn units' updates times this
            "speed_steps": 100,  # for so many steps
            "doctor": 50,  # steps between two readings of newborn units
        },
        "search": {
            "rates": (3e-3, 1e-2, 3e-2, 1e-1),  # of every arm
            "seeds": 3,  # of every trial
        },
        "train": {
            "batch": task.USUAL["batch"],
            "rule": "sgd",  # sgd | adamw
            "momentum": 0.0,  # of sgd
            "schedule": "constant",  # constant | cosine, over all cycles
            "weight_decay": 0.0,
            "clip": 0.0,  # global gradient norm; 0: none
            "chunk": 25,  # optimizer steps a compiled scan
        },
    }


class Plastic(NamedTuple):
    """A checked config and its task."""

    config: Any
    task: Any

    def net(self, way: Way) -> Network:
        """The network of an arm, with its sites."""
        net, text = self.task.target(**way.net), self.config.plasticity.sites
        names = None if text == "auto" else [name.strip() for name in text.split(",")]
        return elastic(net, self.task.example, names)

    def settings(self, way: Way, net: Network, rate: float) -> plan.Settings:
        """Of an arm, at a rate."""
        c, t = self.config.plasticity, self.config.train
        own = plan.Settings(
            c.cycles,
            c.steps,
            budget.targets(net, self.task.example, c.compactness, tuple(c.bias)),
            budget.started(net.sites, c.begin),
            Optimizer(
                rate, t.weight_decay, t.clip, rule=t.rule, momentum=t.momentum, schedule=t.schedule
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
    check_values(config, CHOICES, POSITIVE)
    there = (*WAYS, *TICKETS)
    unknown = [one for one in config.arms if one not in there]
    if unknown:
        raise UserError(f"config.arms has {', '.join(unknown)}; choose from {', '.join(there)}")
    for name in config.arms:
        if name in TICKETS and name.removesuffix(TICKET) not in config.arms:
            raise UserError(
                f"config.arms has {name} without {name.removesuffix(TICKET)}, whose masks it takes;"
                " name both"
            )
    both = Plastic(config, task)
    return tuple(_arm(both, name) for name in there if name in config.arms)


def _arm(both: Plastic, name: str) -> Arm:
    base = name.removesuffix(TICKET)
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
        search=Search(tuple(Trial(rate) for rate in s.rates), s.seeds),
    )


def _cycles(both: Plastic, way: Way, net: Network, base: str, turn: Turn) -> Plan:
    settings = both.settings(way, net, turn.trial.rate)
    look = way.kind == "grow" and not turn.searching
    edits = {
        "dense": lambda: plan.nothing(settings),
        "prune": lambda: plan.pruning(net, settings),
        "grow": lambda: plan.growth(settings, look=look),
    }[way.kind]()
    births = tuple(range(0, settings.cycles * settings.steps, settings.steps))
    doctor = (Doctor(both.config.plasticity.doctor, net.sites, births),) if look else ()
    return _plan(both, net, edits, settings, turn, doctor)


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
) -> Plan:
    held = turn.sets.test if turn.real and not turn.searching else None
    key, transforms = both.task.compared.key, both.task.transforms
    given = {"held": held, "key": key, "transforms": transforms}
    example, look = both.task.example, bool(doctor)
    return plan.cycles(net, example, edits, settings, look=look, watches=doctor, **given)


def outline(config: Any, task: Any) -> list[str]:
    """Lines of plan.txt: the sites, and how many units each begins and ends with."""
    both, lines = Plastic(config, task), []
    net = both.net(WAYS["grow"])
    settings = both.settings(WAYS["grow"], net, config.search.rates[0])
    for site, begin, end in zip(net.sites, settings.start, settings.targets):
        lines.append(f"{site}: growth from {begin} to {end}, pruning from {site.width} to {end}")
    return lines
