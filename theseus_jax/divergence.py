"""Where a run left the finite numbers: it is trained once more up to that step, and looked at."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.balance import weights_at
from theseus_jax.errors import Diverged
from theseus_jax.finite import first_bad
from theseus_jax.nets.variables import partition
from theseus_jax.order import seed_rows
from theseus_jax.plan import Phase, Plan
from theseus_jax.program import StepRecord, loss_fn, program_of
from theseus_jax.state import Inputs, Position, State, inputs_of
from theseus_jax.train import fit


class Finding(NamedTuple):
    """What was not finite first, in words, at which step and of which seed's batch: its rows (B,)
    of the examples, and these.
    """

    words: str
    step: int
    seed: int
    rows: np.ndarray
    batch: Any


@dataclasses.dataclass(frozen=True)
class _Everything:
    """A watch that has every stage of the target kept for `signals`."""

    target: tuple[str, ...]
    guide: tuple[str, ...] = ()
    every: int = 1

    def __call__(self, record: StepRecord) -> dict[str, jax.Array]:
        return {}


def finding(
    error: Diverged,
    plan: Plan,
    state: State,
    examples: Any,
    *,
    batch: int,
    chunk_steps: int,
    position: Position = Position(),
) -> Finding | None:
    """What was not finite first in the run that ended with `error`; state, position: from which it
    is trained again. None where this time nothing is found.
    """
    phase, inputs = (
        plan[error.phase],
        inputs_of(plan[error.phase], error.phase, examples, state.key),
    )

    def at(step: int) -> State:
        return fit(
            plan,
            state,
            examples,
            batch=batch,
            chunk_steps=chunk_steps,
            position=position,
            until=(error.phase, step),
        )

    begun = state.step if position.phase == error.phase else 0
    reached = at(error.step)
    if error.step > begun and first_bad(partition(reached.variables, phase.trainable)[0]):
        found = _looked(phase, at(error.step - 1), inputs, batch)
        if found:
            return found
    return _looked(phase, reached, inputs, batch)


def told(found: Finding | None) -> str:
    """The end of an error's line, which says what was found."""
    if found is None:
        return "; trained once more, it was finite there: the machine does not repeat itself"
    rows = ", ".join(map(str, found.rows[:4])) + (", ..." if len(found.rows) > 4 else "")
    return f"; first at step {found.step}, seed {found.seed}: {found.words} (rows {rows})"


def _looked(phase: Phase, state: State, inputs: Inputs, batch: int) -> Finding | None:
    """The first number of the state's next step that is not finite, of any seed."""
    everything = _Everything(phase.net.names)
    program = dataclasses.replace(program_of(phase), watches=(everything,), tracks=())
    slope = jax.jit(jax.value_and_grad(functools.partial(loss_fn, program), has_aux=True))
    count = len(jax.tree.leaves(inputs.examples)[0])
    rows = seed_rows(phase.feed.order, inputs.order, count, batch, state.step, 1)[:, 0]
    weights = weights_at(phase, (), state.step, count // batch)
    progress = jnp.int32(state.step), jnp.int32(phase.steps)
    for seed, own in enumerate(rows):
        given = jax.tree.map(lambda leaf: jnp.asarray(leaf[own]), inputs.examples)
        variables = jax.tree.map(lambda leaf: leaf[seed], state.variables)
        params, rest = partition(variables, phase.trainable)
        noise = jax.random.fold_in(inputs.noise[seed], state.step)
        (loss, (terms, _, signals)), gradient = slope(
            params, rest, state.guide_variables, given, progress, noise, weights
        )
        words = _first(phase, params, signals, {**terms, "loss": loss}, gradient)
        if words:
            return Finding(words, state.step, seed, own, given)
    return None


def _first(phase: Phase, params: Any, signals: Any, terms: Any, gradient: Any) -> str:
    """What is not finite, in the order in which a step computes it."""
    kinds = [("parameter", params), ("guide's activations", signals.guide)]
    by_stage = {name: signals.target[name] for name in phase.net.names if name in signals.target}
    kinds += [("target's activations", by_stage), ("term", terms)]
    # the last stage's gradient is computed first
    backwards = {name: gradient[name] for name in reversed(phase.net.names) if name in gradient}
    kinds += [("gradient", {**backwards, **gradient})]
    for kind, tree in kinds:
        for name, leaves in tree.items():
            bad = first_bad({name: leaves})
            if bad:
                return f"{kind} {bad}"
    return ""
