"""Plans: what a method does, as printable data. A method returns a tuple of phases; `train.fit`
runs it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

from theseus_jax import balance
from theseus_jax.errors import UserError
from theseus_jax.feeds import Feed, live_stages
from theseus_jax.nets.sites import Rates
from theseus_jax.nets.stage import Network, position
from theseus_jax.objectives import Side, Term


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How the trained part moves: by `rule` "adamw", "sgd" with momentum, or "upgd"
    (`rules.transformation`); decay is decoupled from the gradient in all.

    clip: global gradient norm, 0 for none. schedule: "cosine" rises, then falls to a tenth
    (schedules.warmup_cosine); "constant" keeps the rate. momentum: of SGD, and of UPGD's utility.
    toward_start: decay of all parameters towards what they were when the optimizer began, decoupled
    too (L2 to the initialisation, arXiv 2308.11958). noise: standard deviation, of UPGD.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    b2: float = 0.98
    rule: str = "adamw"
    momentum: float = 0.9
    schedule: str = "cosine"
    toward_start: float = 0.0
    noise: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Patience:
    """End a phase after `patience` checks in a row without a score above the best; it ends with the
    best parameters.

    Scores are of validation data, higher is better; checks are `every` steps apart and one is made
    at the end. Decided on the mean over seeds, so that all seeds spend the same steps.

    Any object with these members is a stopping rule: `done(scores)`, asked after each check;
    `keeps(scores)`, whether the parameters just checked are to be remembered (`State.kept`);
    `restore`, whether the phase ends with those; `last`, whether there is a check at its end.
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
        return (
            f"after {self.patience} checks without a better validation score, {self.every} steps"
            " apart; the best is kept"
        )


Edit = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training.

    trainable: stage names or "stage/submodule" prefixes; everything else stays bit-equal.
    feed: what a step reads (`feeds.Feed`).
    edits: `fn(state, inputs) -> state` on `train.State`, with variables, masks and optimizer state,
    run before the first step; with a method `check(net, variables, guide_variables)` they are
    rehearsed on shapes, and with `told(before, after, inputs) -> rows` they add to the records, be
    it of a state that they left as it is. edits_at: (step, edit) pairs, each run after so many
    steps of the phase, in this order. Nothing recompiles for an edit that keeps shapes.
    carry: go on with the optimizer state of the phase before, which trained the same parts by the
    same rule. probes: `fn(state, inputs) -> rows`, run on the result; rates: of units that
    were switched.
    compute: what stages compute in (`nets.precision`); losses, parameters and moments are float32.
    watches: `fn(StepRecord) -> {name: array}`, see `program.StepRecord`. tracks: running numbers of
    units that every step changes (`methods.plasticity.tracks`); they begin anew with the phase.
    """

    name: str
    net: Network
    trainable: tuple[str, ...]
    terms: tuple[Term, ...]
    steps: int
    feed: Feed = Feed()
    optimizer: Optimizer = Optimizer()
    stop: Any = None
    edits: tuple[Edit, ...] = ()
    edits_at: tuple[tuple[int, Edit], ...] = ()
    carry: bool = False
    probes: tuple[Callable[..., Any], ...] = ()
    rates: Rates = Rates()
    compute: str = "float32"
    watches: tuple[Callable[..., Any], ...] = ()
    tracks: tuple[Any, ...] = ()


Plan = tuple[Phase, ...]


def check_plan(plan: Plan) -> None:
    """Raises UserError for edits outside their phase, optimizer states that cannot be carried on,
    and terms that are balanced with what is not there.
    """
    for i, phase in enumerate(plan):
        balance.check_terms(phase.name, phase.terms)
        _check_cached(phase)
        late = [step for step, _ in phase.edits_at if not 0 < step < phase.steps]
        if late:
            raise UserError(
                f"phase {phase.name!r} has {phase.steps} steps and an edit after {late[0]}; give"
                " 1 .. steps - 1, or put it in edits, which run first"
            )
        if not phase.carry:
            continue
        before = plan[i - 1] if i else None
        if before is None or before.trainable != phase.trainable:
            trained = ", ".join(before.trainable) if before else "nothing"
            raise UserError(
                f"phase {phase.name!r} carries the optimizer state of the phase before on, which"
                f" trained {trained} and not {', '.join(phase.trainable)}; train the same parts in"
                " both, or leave carry out"
            )
        if before.optimizer.rule != phase.optimizer.rule:
            raise UserError(
                f"phase {phase.name!r} is trained by {phase.optimizer.rule} and cannot carry on the"
                f" state of {before.optimizer.rule}; take one rule, or leave carry out"
            )


def _check_cached(phase: Phase) -> None:
    """Raises UserError where what is computed once would not be what a step computes."""
    feed = phase.feed
    if feed.cached and feed.transforms:
        raise UserError(
            f"phase {phase.name!r} keeps {feed.cached[0]}, and changes every batch first"
            f" ({feed.transforms[0]}); leave one of the two out"
        )
    kept = feed.cache("target")
    if kept is None:
        return
    start, after = getattr(feed.route, "start", None), position(phase.net, kept.stage) + 1
    if start is None or position(phase.net, start) != after:
        raise UserError(
            f"phase {phase.name!r} keeps the outputs of {kept.stage} and its route is {feed.route};"
            f" let the route start right behind {kept.stage}"
        )
    moving = live_stages(phase.net, phase.trainable) & set(phase.net.names[:after])
    if moving:
        raise UserError(
            f"phase {phase.name!r} keeps the outputs of {kept.stage} and trains"
            f" {', '.join(sorted(moving))} before it; keep what stays frozen"
        )


def sides(plan: Plan) -> tuple[Side, ...]:
    """The modules beside the network that a plan's terms and routes read, each once."""
    found = {
        side.name: side
        for phase in plan
        for owner in (*(term.fn for term in phase.terms), phase.feed.route)
        for side in (*getattr(owner, "sides", ()), *getattr(owner, "guide_sides", ()))
    }
    return tuple(found.values())


def reads_labels(plan: Plan) -> bool:
    """Whether any loss of a plan compares with labels."""
    return any(getattr(term.fn, "reads_labels", False) for phase in plan for term in phase.terms)


def describe(plan: Plan) -> str:
    """The plan as text, a few lines a phase; equal plans give equal texts."""
    return "\n".join(_describe_phase(i, phase) for i, phase in enumerate(plan, start=1))


def _moments(edits_at: tuple[tuple[int, Edit], ...]) -> list[str]:
    """A line for every edit, with its steps; of many at equal distances the first and the last."""
    steps: dict[str, list[int]] = {}
    for step, edit in edits_at:
        steps.setdefault(str(edit), []).append(step)
    lines = []
    for edit, at in steps.items():
        apart = {b - a for a, b in zip(at, at[1:])}
        text = ", ".join(map(str, at))
        if len(at) > 3 and len(apart) == 1:
            text = f"{at[0]}, {at[1]} .. {at[-1]}"
        lines.append(f"step {text}: {edit}")
    return lines


def _describe_phase(number: int, phase: Phase) -> str:
    terms = " + ".join(f"{balance.text(term.weight)} {term.name}" for term in phase.terms)
    o = phase.optimizer
    parts = [
        ("trains", [", ".join(phase.trainable)]),
        ("loss", [terms]),
        ("route", [phase.feed.route]),
        (o.rule, [f"rate {o.learning_rate:g}, decay {o.weight_decay:g}, clip {o.clip:g}"]),
        ("carries", ["the optimizer state of the phase before on"] if phase.carry else []),
        ("first", phase.feed.transforms),
        ("keeps", phase.feed.cached),
        ("stops", [phase.stop] if phase.stop else []),
        ("before", phase.edits),
        ("at", _moments(phase.edits_at)),
        ("computes", [phase.compute] if phase.compute != "float32" else []),
        ("rates", [phase.rates] if phase.rates != Rates() else []),
        ("watches", phase.watches),
        ("tracks", phase.tracks),
        ("after", phase.probes),
    ]
    head = f"{number}. {phase.name}: {phase.steps} steps{' at most' if phase.stop else ''}"
    return "\n".join([head, *(f"   {word:<8} {one}" for word, many in parts for one in many)])
