"""Plans: what a method does, as printable data. A method returns a tuple of phases; `train.fit` runs it."""
from __future__ import annotations

import dataclasses
from typing import Any, Callable

from theseus_jax.nets.stage import Network
from theseus_jax.objectives import Side, Term


@dataclasses.dataclass(frozen=True)
class Route:
    """The way of a batch: the target runs from stage `start` to `stop`, fed by the inputs or by a guide's activation.

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

    groups: ((guide first, guide last), (target first, target last)) in order, covering both networks. bridges: where the
    outputs of the parts differ in shape, (to the guide's, to the target's) for every group but the last; they are trained
    along, and no longer used once p_t is 1.
    """

    groups: tuple[tuple[tuple[str, str], tuple[str, str]], ...]
    begin: float = 0.3
    full: float = 0.6
    bridges: tuple[tuple[Side, Side], ...] = ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """The bridges, one after the other."""
        return tuple(side for both in self.bridges for side in both)


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Every part of the target runs by itself on the guide's activation before it, all in the same step.

    segments: (guide stage whose output is read, None: the tokens; first and last target stage of the part).
    """

    segments: tuple[tuple[str | None, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the trained part moves: AdamW, or SGD with momentum; decay is decoupled from the gradient in both.

    clip: global gradient norm, 0 for none. schedule: "cosine" rises, then falls to a tenth (schedules.warmup_cosine);
    "constant" keeps the rate. momentum: of SGD.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    b2: float = 0.98
    rule: str = "adamw"
    momentum: float = 0.9
    schedule: str = "cosine"


@dataclasses.dataclass(frozen=True)
class Stop:
    """End a phase once the held-out debiased CKA has gained less than `gain` over `patience` checks, `every` steps apart.

    Decided on the mean over seeds, so that all seeds spend the same steps. The phase's own steps are the cap.

    Any object with these members is a stopping rule: `done(scores)`, asked after each check; `keeps(scores)`, whether
    the parameters just checked are to be remembered (`State.kept`); `restore`, whether the phase ends with those;
    `last`, whether there is a check at the phase's end.
    """

    every: int = 50
    gain: float = 0.002
    patience: int = 2
    restore: bool = False
    last: bool = False

    def done(self, scores: tuple[float, ...]) -> bool:
        """True when the best of the last `patience` scores is less than `gain` above the best before them."""
        return len(scores) > self.patience and max(scores[-self.patience:]) < max(scores[:-self.patience]) + self.gain

    def keeps(self, scores: tuple[float, ...]) -> bool:
        """Never: the phase ends with the parameters that it has."""
        return False

    def __str__(self) -> str:
        return (f"when held-out debiased CKA gains under {self.gain:g} in {self.patience} checks, {self.every} steps apart")


@dataclasses.dataclass(frozen=True)
class Patience:
    """End a phase after `patience` checks in a row without a score above the best; it ends with the best parameters.

    Scores are of validation data, higher is better; checks are `every` steps apart and one is made at the end.
    """

    every: int
    patience: int = 5
    restore: bool = True
    last: bool = True

    def done(self, scores: tuple[float, ...]) -> bool:
        """True when the best score is `patience` checks old."""
        return len(scores) - 1 - scores.index(max(scores)) >= self.patience

    def keeps(self, scores: tuple[float, ...]) -> bool:
        """True when the last score is the first that high."""
        return scores.index(max(scores)) == len(scores) - 1

    def __str__(self) -> str:
        return f"after {self.patience} checks without a better validation score, {self.every} steps apart; the best is kept"


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training. trainable: stage names or "stage/submodule" prefixes; everything else stays bit-equal.

    before: Surgery functions `fn(state, inputs) -> state`, run on the state first. after: probes
    `fn(state, inputs) -> rows`, run on the result. absorb: take over the steps that earlier phases' stopping saved.
    stored: the last stage of a frozen prefix whose outputs for all examples are computed once and kept, instead of at
    every step; the route starts behind it, and nothing before that start may be random in training. views: a rate above 0
    gives the network every batch of inputs under two dropout masks (`objectives.two_views`), for a contrastive loss. augment:
    `fn(inputs, labels, key) -> (inputs, labels)`, drawn anew for every batch and read by guide and target alike. remember: the
    guide's activations for all examples are computed once and kept, which asks for inputs that never change.
    """

    name: str
    net: Network
    guide: Network | None
    trainable: tuple[str, ...]
    terms: tuple[Term, ...]
    steps: int
    route: Route | Swap | Parallel = Route()
    optimizer: Optimizer = Optimizer()
    stop: Any = None
    absorb: bool = False
    before: tuple[Callable[..., Any], ...] = ()
    after: tuple[Callable[..., Any], ...] = ()
    stored: str | None = None
    views: float = 0.0
    augment: Any = None
    remember: bool = False


Plan = tuple[Phase, ...]


def sides(plan: Plan) -> tuple[Side, ...]:
    """The modules beside the network that a plan's terms and routes read, each once."""
    found = {side.name: side for phase in plan for owner in (*(term.fn for term in phase.terms), phase.route)
             for side in (*getattr(owner, "sides", ()), *getattr(owner, "guide_sides", ()))}
    return tuple(found.values())


def reads_labels(plan: Plan) -> bool:
    """Whether any loss of a plan compares with labels."""
    return any(getattr(term.fn, "reads_labels", False) for phase in plan for term in phase.terms)


def describe(plan: Plan) -> str:
    """The plan as text, a few lines a phase; equal plans give equal texts."""
    return "\n".join(_describe_phase(i, phase) for i, phase in enumerate(plan, start=1))


def _describe_phase(number: int, phase: Phase) -> str:
    terms = " + ".join(f"{term.weight:g} {term.name}" for term in phase.terms)
    if isinstance(phase.route, Swap):
        way = f"every part swapped in with p from {phase.route.begin:g} to 1 at {phase.route.full:.0%} of the steps"
    elif isinstance(phase.route, Parallel):
        way = "; ".join(f"guide's {source} -> {start} .. {stop}" if source else f"inputs -> {start} .. {stop}"
                        for source, start, stop in phase.route.segments)
    else:
        start = phase.route.start or phase.net.names[0]
        way = f"{phase.route.source or 'inputs'} -> {start} .. {phase.route.stop or phase.net.names[-1]}"
        way += f" -> guide's {phase.route.suffix} .. (frozen)" if phase.route.suffix else ""
    lines = [f"{number}. {phase.name}: {phase.steps} steps" + (" at most" if phase.stop else "")
             + (" and those saved before" if phase.absorb else ""),
             f"   trains   {', '.join(phase.trainable)}", f"   loss     {terms}", f"   route    {way}",
             f"   {phase.optimizer.rule:<8} rate {phase.optimizer.learning_rate:g}, decay {phase.optimizer.weight_decay:g}, "
             f"clip {phase.optimizer.clip:g}"]
    if phase.views:
        lines.append(f"   views    two of every example, dropout {phase.views:g} on the inputs")
    if phase.augment:
        lines.append(f"   augment  {phase.augment}")
    if phase.remember:
        lines.append("   remember the guide's activations for all examples")
    if phase.stored:
        lines.append(f"   stored   outputs of {phase.stored} for all examples, computed once")
    if phase.stop:
        lines.append(f"   stops    {phase.stop}")
    lines += [f"   before   {surgery}" for surgery in phase.before] + [f"   after    {probe}" for probe in phase.after]
    return "\n".join(lines)
