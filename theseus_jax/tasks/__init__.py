"""Tasks: what is read, one example of it, the networks that can learn it, and how they are scored.

A task is one module with the class `Task` (its protocol is below) and two functions of its part of
the config: `sections()`, and, where two networks can be converted into each other, `sizes()`;
`RANGES` are those of its keys whose numbers are not just at least 0 (`checks.check_config`).
`config.task` names a module of this package, or one of your own that can be imported.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Callable, NamedTuple, Protocol

from theseus_jax.errors import module_of
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.order import Epochs, Tasks

# as results.json has called them since its schema 1
MODULES = {
    "language_model": "language",
    "classification": "labelled",
    "head": "features",
    "sequences": "sequences",
    "stream": "streams",
}


def module(name: str) -> ModuleType:
    """The module of a task. Raises UserError for one that there is not."""
    inside = f"theseus_jax.tasks.{MODULES[name]}" if name in MODULES else ""
    return module_of("task", name, inside, MODULES)


class Held(Protocol):
    """Held-out examples of one split. One whose answers are right or wrong has besides right(net,
    variables) -> (S, asked) bool, for the consistency of errors.
    """

    def inputs(self) -> Any:
        """Some of the inputs, for similarities."""

    def scores(self, net: Network, variables: Variables) -> dict[str, Any]:
        """{"loss": ..., ...}, each (S,); variables: with a leading seed axis."""


class Sets(NamedTuple):
    """The data of some seeds. train: {name: examples as `train.fit` takes them}; order: in which
    they come; stretches: held-out examples of each stretch of a stream, as they are at its end.
    """

    train: dict[str, Any]
    validation: Held
    test: Held
    order: Epochs | Tasks = Epochs()
    stretches: tuple[Held, ...] = ()


class Compared(NamedTuple):
    """What models are judged by. key: of `Held.scores`; sign: 1 where higher is better, -1 where
    lower is; unit: in words. values, value: those of a record of results.json that hold it.
    """

    key: str
    sign: float
    unit: str
    values: str = "seeds"
    value: str = "value"


class Data(NamedTuple):
    """What a task read. sets(seed): of a seed, negative in a search; apart: they differ. facts: of
    results.json: metric, higher_is_better, chance and data. results(finished): what the task adds
    to results.json.
    """

    sets: Callable[[int], Sets]
    facts: dict[str, Any]
    results: Callable[[Any], dict[str, Any]] = lambda finished: {}
    apart: bool = False


class Task(Protocol):
    """A checked config's task. example: the shape of one input, (1, ...); batch: of a training
    batch. unit: what a batch consists of; words: the sizes that decide what fits; both for people.

    One whose networks can be converted into each other has besides: samples, how many of each kind
    (`convert.samples`) a batch gives; transforms, of every batch (`feeds`); pair(), a guide and a
    target; and begin(net, fresh, sets), the variables of a guide that is not trained here. Its sets
    name the training examples "all", "share" and "unlabelled". One whose target can be guided has
    target(**changes), the target with other sizes, and may have `cures`, {arm: changes} that help
    the target by itself. A stream has stretches, (how many, optimizer steps of each).
    """

    compared: Compared
    example: Any
    batch: Any
    unit: str
    words: str

    def load(self, cache: Any) -> tuple[Task, Data]:
        """(the task as the data have it, the data). Raises UserError for what is missing."""

    def value(self, scores: dict[str, float]) -> float:
        """A record's value from one seed's scores."""

    def costs(self, net: Network, variables: Variables, repeats: int) -> dict[str, Any]:
        """What using a network takes; variables: of one seed."""
