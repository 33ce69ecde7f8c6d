"""Plans: what a method does, as printable data. A method returns a tuple of phases; `train.fit` runs it."""
from __future__ import annotations

import dataclasses
from typing import Any, Callable

from theseus_jax.nets.stage import Network
from theseus_jax.objectives import Term


@dataclasses.dataclass(frozen=True)
class Route:
    """The way of a batch: the target runs from stage `start` to `stop`, fed by the tokens or by a guide's activation.

    source: guide stage whose output feeds `start` (None: the batch's tokens). suffix: the guide stage that reads the
    target's output, for terms that look through the frozen guide suffix (None: no such term).
    """

    start: str | None = None
    stop: str | None = None
    source: str | None = None
    suffix: str | None = None


@dataclasses.dataclass(frozen=True)
class Swap:
    """Each forward, each part is the target's with probability p_t, else the guide's (arXiv 2002.02925, equation 4).

    groups: ((guide first, guide last), (target first, target last)) in order, covering both networks.
    """

    groups: tuple[tuple[tuple[str, str], tuple[str, str]], ...]
    begin: float = 0.3
    full: float = 0.6


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Every part of the target runs by itself on the guide's activation before it, all in the same step.

    segments: (guide stage whose output is read, None: the tokens; first and last target stage of the part).
    """

    segments: tuple[tuple[str | None, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with global-norm clipping; the rate rises, then follows a cosine to a tenth (schedules.warmup_cosine)."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    b2: float = 0.98


@dataclasses.dataclass(frozen=True)
class Stop:
    """End a phase once the held-out debiased CKA has gained less than `gain` over `patience` checks, `every` steps apart.

    Decided on the mean over seeds, so that all seeds spend the same steps. The phase's own steps are the cap.
    """

    every: int = 50
    gain: float = 0.002
    patience: int = 2


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training. trainable: stage names or "stage/submodule" prefixes; everything else stays bit-equal.

    before: Surgery functions `fn(state, inputs) -> state`, run on the state first. after: probes
    `fn(state, inputs) -> rows`, run on the result. absorb: take over the steps that earlier phases' stopping saved.
    """

    name: str
    net: Network
    guide: Network | None
    trainable: tuple[str, ...]
    terms: tuple[Term, ...]
    steps: int
    route: Route | Swap | Parallel = Route()
    optimizer: Optimizer = Optimizer()
    stop: Stop | None = None
    absorb: bool = False
    before: tuple[Callable[..., Any], ...] = ()
    after: tuple[Callable[..., Any], ...] = ()


Plan = tuple[Phase, ...]


def describe(plan: Plan) -> str:
    """The plan as text, a few lines a phase; equal plans give equal texts."""
    return "\n".join(_describe_phase(i, phase) for i, phase in enumerate(plan, start=1))


def _describe_phase(number: int, phase: Phase) -> str:
    terms = " + ".join(f"{term.weight:g} {term.name}" for term in phase.terms)
    if isinstance(phase.route, Swap):
        way = f"every part swapped in with p from {phase.route.begin:g} to 1 at {phase.route.full:.0%} of the steps"
    elif isinstance(phase.route, Parallel):
        way = "; ".join(f"guide's {source} -> {start} .. {stop}" if source else f"tokens -> {start} .. {stop}"
                        for source, start, stop in phase.route.segments)
    else:
        start = phase.route.start or phase.net.names[0]
        way = f"{phase.route.source or 'tokens'} -> {start} .. {phase.route.stop or phase.net.names[-1]}"
        way += f" -> guide's {phase.route.suffix} .. (frozen)" if phase.route.suffix else ""
    lines = [f"{number}. {phase.name}: {phase.steps} steps" + (" at most" if phase.stop else "")
             + (" and those saved before" if phase.absorb else ""),
             f"   trains   {', '.join(phase.trainable)}", f"   loss     {terms}", f"   route    {way}",
             f"   adamw    rate {phase.optimizer.learning_rate:g}, decay {phase.optimizer.weight_decay:g}, "
             f"clip {phase.optimizer.clip:g}"]
    if phase.stop:
        lines.append(f"   stops    when held-out debiased CKA gains under {phase.stop.gain:g} in {phase.stop.patience} "
                     f"checks, {phase.stop.every} steps apart")
    lines += [f"   before   {surgery}" for surgery in phase.before] + [f"   after    {probe}" for probe in phase.after]
    return "\n".join(lines)
