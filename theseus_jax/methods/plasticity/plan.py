"""Cycles of edits and training, as printable phases (arXiv 2605.15435, section 3)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Iterator

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed
from theseus_jax.methods.plasticity import budget
from theseus_jax.methods.plasticity.cohorts import Parity
from theseus_jax.methods.plasticity.edits import Grow, Prune, Rewind, Start
from theseus_jax.nets.sites import Rates, masks, with_masks
from theseus_jax.nets.stage import Network, Variables, variable_shapes
from theseus_jax.objectives import CrossEntropy, Signals, Term, as_classes, mean_where_asked
from theseus_jax.plan import Edit, Optimizer, Phase, Plan
from theseus_jax.train import Inputs, State

Edits = tuple[Edit, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How units come and go.

    steps: optimizer steps of a cycle. targets: units of every site at the end; start: those that
    growth begins with. score, birth, moments: of `edits.Grow`; worst: the score of `edits.Prune`.
    rewind: what survives a prune goes back to its start. rates: of newborn units.
    """

    cycles: int
    steps: int
    targets: budget.Counts
    start: budget.Counts
    optimizer: Optimizer
    score: str = "activation"
    birth: str = "stored"
    moments: str = "fresh"
    worst: str = "magnitude"
    rewind: bool = True
    rates: Rates = Rates()


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The share of a batch's labels (B,) that are the target's most probable class, or (B, T) of
    those that ask (`mean_where_asked`); it has no gradient, and is for watching, at a weight of 0.
    """

    reads_labels: ClassVar[bool] = True
    target: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        labels = signals.labels
        if jnp.issubdtype(labels.dtype, jnp.floating):
            labels = labels.argmax(axis=-1)
        right = (as_classes(signals.output).argmax(axis=-1) == labels).astype(jnp.float32)
        return mean_where_asked(right, labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """How well the network does on held-out examples, and how many units it has: it changes
    nothing, and gives a row of kind "cycle" a seed. cycle: its number, from 1.
    """

    held: Any
    cycle: int
    key: str

    def __call__(self, state: State, inputs: Inputs) -> State:
        return state

    def told(self, before: State, after: State, inputs: Inputs) -> Iterator[dict[str, Any]]:
        scores = self.held.scores(inputs.phase.net, after.variables)
        for seed, value in enumerate(scores[self.key]):
            row = {"kind": "cycle", "cycle": self.cycle, "seed": seed, self.key: float(value)}
            yield {**row, "loss": float(scores["loss"][seed])}

    def __str__(self) -> str:
        return f"held-out score of cycle {self.cycle}"


@dataclasses.dataclass(frozen=True)
class Last:
    """An edit that only looks, as a probe: after the last step."""

    looks: Any

    def __call__(self, state: State, inputs: Inputs) -> list[dict[str, Any]]:
        return list(self.looks.told(state, state, inputs))

    def __str__(self) -> str:
        return str(self.looks)


@dataclasses.dataclass(frozen=True, eq=False)
class Adopt:
    """The masks of another model: those of its seed i modulo how many it has."""

    variables: Variables

    def __call__(self, state: State, inputs: Inputs) -> State:
        variables, count = state.variables, len(state.key)
        for site in inputs.phase.net.sites:
            theirs = masks(self.variables, site)
            rows = jnp.arange(count) % len(theirs.live)
            ours = masks(variables, site)
            variables = with_masks(variables, site, ours._replace(live=theirs.live[rows]))
        return state._replace(variables=variables)

    def __str__(self) -> str:
        return "take over the masks"


def cycles(
    net: Network,
    example: Any,
    edits: tuple[Edits, ...],
    settings: Settings,
    *,
    held: Any = None,
    key: str = "accuracy",
    feed: Feed = Feed(),
    every: tuple[tuple[int, Edit], ...] = (),
    look: bool = True,
    watches: tuple[Any, ...] = (),
    tracks: tuple[Any, ...] = (),
) -> Plan:
    """One phase that trains all of a network; before each cycle of `settings.steps` steps come
    edits[cycle].

    held: held-out examples that each cycle's end is scored on, by `key` of their scores. feed: of
    the phase. every: (steps apart, edit) that come besides. look: at newborn units beside
    incumbents, after the last step. Raises UserError for another number of edits than cycles.
    """
    if len(edits) != settings.cycles or settings.steps < 1:
        raise UserError(
            f"{len(edits)} edits for {settings.cycles} cycles of {settings.steps} steps; give one a"
            " cycle, and at least 1 step"
        )
    at = []
    for number in range(1, settings.cycles):
        scored = () if held is None else (Scored(held[number - 1], number, key),)
        at += [(number * settings.steps, edit) for edit in (*scored, *edits[number])]
    total = settings.cycles * settings.steps
    at += [(step, edit) for apart, edit in every for step in range(apart, total, apart)]
    last = () if held is None else (Last(Scored(held[-1], settings.cycles, key)),)
    shapes = variable_shapes(net, example)
    phase = Phase(
        "cycles",
        net,
        tuple(name for name in net.names if shapes[name].get("params")),
        (Term("cross_entropy", 1.0, CrossEntropy()), Term("accuracy", 0.0, Accuracy())),
        total,
        feed,
        settings.optimizer,
        edits=edits[0],
        edits_at=tuple(sorted(at, key=lambda one: one[0])),
        probes=(*last, *((Last(Parity("end")),) if look else ())),
        rates=settings.rates,
        watches=watches,
        tracks=tracks,
    )
    return (phase,)


def growth(settings: Settings, *, look: bool = True) -> tuple[Edits, ...]:
    """The edits of cycles that grow from `start` to `targets`. look: at newborn units beside
    incumbents, before and after each.
    """
    made = budget.steps_to(settings.start, settings.targets, settings.cycles)
    s, found = settings, []
    for number, counts in enumerate(made):
        before, after = ((Parity("exit"),), (Parity("post"),)) if look else ((), ())
        grow = (Grow(counts, s.score, s.birth, s.moments), *after) if any(counts) else ()
        first = (Start(s.start),) if number == 0 else before if grow else ()
        found.append((*first, *grow))
    return tuple(found)


def pruning(net: Network, settings: Settings, *, look: bool = False) -> tuple[Edits, ...]:
    """The edits of cycles that prune from all units to `targets`; what survives is rewound. look:
    at what stays beside what goes.
    """
    all_units = tuple(site.width for site in net.sites)
    made = budget.steps_to(all_units, settings.targets, settings.cycles)
    back = (Rewind(),) if settings.rewind else ()
    return tuple(
        (Prune(counts, settings.worst, look=look), *back) if any(counts) else () for counts in made
    )


def nothing(settings: Settings) -> tuple[Edits, ...]:
    """Cycles without an edit."""
    return ((),) * settings.cycles


def ticket(masks_of: Variables | None, settings: Settings) -> tuple[Edits, ...]:
    """One cycle with the masks of another model, from a start of its own (None: before it is
    made).
    """
    adopt = () if masks_of is None else (Adopt(masks_of),)
    return ((*adopt, Rewind(renewed=True)),)
