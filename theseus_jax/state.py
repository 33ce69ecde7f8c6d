"""What training changes, where it stands, what edits see, and how it talks to its surroundings."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, NamedTuple

import jax

from theseus_jax.balance import Sums
from theseus_jax.nets.stage import Variables
from theseus_jax.plan import Phase


class State(NamedTuple):
    """What training changes. step: steps done in the phase. Leading axis S = seeds on variables,
    opt_state and key.

    key: (S,) keys of the run; a phase folds its number in and splits the result by purpose. kept:
    the parameters that the phase's stopping rule remembers from an earlier check, {} if none.
    """

    step: int
    variables: Variables
    guide_variables: Variables
    opt_state: Any
    key: jax.Array
    kept: Any = {}


class Position(NamedTuple):
    """Where a run stands: the phase's index, held-out scores of this phase, and sums of its
    calibrated terms, in order.
    """

    phase: int = 0
    scores: tuple[float, ...] = ()
    sums: tuple[Sums, ...] = ()


class Inputs(NamedTuple):
    """What edits and probes may look at. examples: windows (N, T + 1), or {"inputs": ..., "labels":
    ...}, for training.

    order, surgery, noise: (S,) keys for the order of the data, for edits, and for dropout and
    swapping.
    """

    phase: Phase
    examples: Any
    order: jax.Array
    surgery: jax.Array
    noise: jax.Array


def inputs_of(phase: Phase, index: int, examples: Any, keys: jax.Array) -> Inputs:
    """What edits see of a phase, with keys of its own: the run's (S,) keys folded by its index."""
    purposes = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index), 3))(keys)
    return Inputs(phase, examples, purposes[:, 0], purposes[:, 1], purposes[:, 2])


@dataclasses.dataclass(frozen=True)
class Hooks:
    """How `fit` talks to its surroundings; every default does nothing.

    log(row): a metrics row. save(position, state): keep the state. score(phase, state): what the
    phase's stopping rule looks at, logged under score_name. bar(phase, steps, done): an object with
    update(n), note(text) and close().
    """

    log: Callable[[dict[str, Any]], None] = lambda row: None
    save: Callable[[Position, State], None] = lambda position, state: None
    score: Callable[[Phase, State], float] | None = None
    bar: Callable[[Phase, int, int], Any] | None = None
    save_seconds: float = 120.0
    score_name: str = "validation_score"
