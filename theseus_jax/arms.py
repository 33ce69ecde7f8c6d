"""Arms: the models that a run compares, as printable data. A method returns a tuple of them; the
engine (`experiment.engine`) makes one after the other.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, NamedTuple, Sequence

import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Plan

GUIDE, OURS, RIVAL = "guide", "ours", "rival"
Row = dict[str, Any]


class Trial(NamedTuple):
    """One point of a search: learning rate and decoupled weight decay (of a solver: its
    penalty).
    """

    rate: float = 0.0
    decay: float = 0.0


class Search(NamedTuple):
    """The points that are tried, each on `seeds` seeds of its own; the best mean validation score
    chooses.
    """

    trials: tuple[Trial, ...]
    seeds: int


class Turn(NamedTuple):
    """What is known when some seeds of an arm have their turn. Before data are read, for outlines
    and rehearsals, the first trial alone is.

    seeds: their numbers, negative in a search. keys: theirs, (S,). sets: their data (`tasks.Sets`).
    chosen, done: what the search chose for earlier arms, and their variables (leading seed axis).
    rows(): those of metrics.jsonl so far. log(row): adds one. fresh(net): initial variables (S,
    ...).
    """

    trial: Trial = Trial()
    seeds: tuple[int, ...] = ()
    keys: Any = None
    sets: Any = None
    chosen: dict[str, Trial] = {}
    done: dict[str, Variables] = {}
    rows: Callable[[], list[Row]] = list
    log: Callable[[Row], None] = lambda row: None
    fresh: Callable[[Network], Variables] | None = None

    @property
    def real(self) -> bool:
        """Whether data are there."""
        return self.sets is not None

    @property
    def searching(self) -> bool:
        """Whether a search asks, whose models are not kept."""
        return bool(self.seeds) and self.seeds[0] < 0


class Arm(NamedTuple):
    """One model of a run, and one row of results.json.

    net: the network that it ends with. plan(turn): its phases; none where it turns out that it need
    not be made. solve(turn): its variables (leading seed axis), instead of a plan. role: "guide",
    "ours" or "rival"; family: a word that groups rows. guide: the earlier arm whose first seed's
    variables the plan reads frozen. examples: which training examples it may use, a key of
    `tasks.Sets.train`. labels: whether its losses read labels. seeds: how many; 0: the config's.
    apart: its seeds train one by one, each on its own data and to its own end; else as one program.
    prolongs: the arm whose longer version it is, for claims at equal FLOPs. parameters: that it
    deploys, where that is not what its variables hold.
    """

    name: str
    net: Network
    plan: Callable[[Turn], Plan] | None = None
    solve: Callable[[Turn], Variables] | None = None
    role: str = RIVAL
    family: str = ""
    guide: str = ""
    examples: str = "all"
    labels: bool = True
    search: Search | None = None
    seeds: int = 0
    apart: bool = False
    prolongs: str = ""
    parameters: int | None = None

    def first(self) -> Turn:
        """The turn of an outline: the first point of the search."""
        return Turn(self.search.trials[0] if self.search else Trial())


class Finished(NamedTuple):
    """All that results are made of. arms: those that were made. rows: of metrics.jsonl. models: the
    records so far, as in results.json. first(name): one seed's variables of an arm.
    """

    config: Any
    task: Any
    data: Any
    arms: tuple[Arm, ...]
    rows: list[Row]
    models: list[Row]
    done: dict[str, Variables]
    chosen: dict[str, Trial]

    def first(self, name: str) -> Variables:
        """The variables of an arm's first seed. Raises UserError for an arm that was not made."""
        if name not in self.done:
            raise UserError(f"there is no model {name!r}; this run made {', '.join(self.done)}")
        return jax.tree.map(lambda leaf: leaf[0], self.done[name])


RESERVED = ("unfinished", "seeds", "search", "searched")  # beside the models' checkpoints


def check_arms(
    arms: Sequence[Arm], examples: Iterable[str] | None = None, apart: bool = False
) -> None:
    """Raises UserError for arms that no run can make. examples: what the data call their sets, once
    they are read; apart: whether these differ from seed to seed.
    """
    if not arms:
        raise UserError("the method compares no arms; give at least one")
    earlier: list[str] = []
    for arm in arms:
        problem = _problem(arm, earlier, examples, apart)
        if problem:
            raise UserError(f"the arm {arm.name!r} {problem}")
        earlier.append(arm.name)


def _problem(arm: Arm, earlier: list[str], examples: Iterable[str] | None, apart: bool) -> str:
    """What is wrong with an arm after the earlier ones; "" for nothing."""
    if arm.name in earlier or arm.name in RESERVED or "/" in arm.name or not arm.name:
        taken = ", ".join((*earlier, *RESERVED))
        return f"cannot be called so; give it a name without '/' that is none of {taken}"
    if arm.role not in (GUIDE, OURS, RIVAL):
        return f"has the role {arm.role!r}; choose {GUIDE}, {OURS} or {RIVAL}"
    if (arm.plan is None) == (arm.solve is None):
        return "needs a plan or a solve, and one of them alone"
    if arm.guide and arm.guide not in earlier:
        there = ", ".join(earlier) or "there is none"
        return f"is guided by {arm.guide!r}, which is none of the earlier arms ({there})"
    if examples is not None and arm.examples not in examples:
        return f"may use the examples {arm.examples!r}; the data have {', '.join(examples)}"
    if arm.search and (not arm.search.trials or arm.search.seeds < 1):
        return "has a search without trials or seeds; give some, or leave it out"
    if apart and not arm.apart:
        return "trains its seeds together, and the data differ from seed to seed; give apart=True"
    return ""
