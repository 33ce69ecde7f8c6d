"""The one training loop: `fit` runs a plan's phases for several seeds at once and goes on where a
checkpoint stopped.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import jax

from theseus_jax import frozen, trees
from theseus_jax.balance import calibrated
from theseus_jax.edits import edited, fresh_optimizer
from theseus_jax.errors import UserError
from theseus_jax.nets.sites import of_before, with_fresh_tracks, without_tracks
from theseus_jax.nets.variables import missing_parts
from theseus_jax.order import batch_rows
from theseus_jax.plan import Phase, Plan, check_plan
from theseus_jax.program import guide_stages, program_of
from theseus_jax.running import run_phase
from theseus_jax.state import Hooks, Inputs, Position, State, inputs_of

__all__ = [
    "Hooks",
    "Inputs",
    "Position",
    "State",
    "batch_rows",
    "fit",
    "fresh_optimizer",
    "inputs_of",
]


Log = Callable[[dict[str, Any]], None]


def fit(
    plan: Plan,
    state: State,
    examples: Any,
    *,
    batch: int,
    chunk_steps: int = 25,
    name: str = "run",
    position: Position = Position(),
    hooks: Hooks = Hooks(),
    until: tuple[int, int] | None = None,
) -> State:
    """Run the phases of `plan` from `position` on; returns the state after the last, or before the
    given (phase, step).

    examples: windows (N, T + 1) of tokens, or a dict of "inputs" and "labels", arrays with N rows;
    of an `np.memmap` only the rows of a chunk are read and put on the device.
    A fresh run gives State(0, variables, guide_variables, None, keys) with a leading seed axis on
    variables and keys. Raises Diverged, a UserError, when a loss is no longer finite; checkpoints
    saved before stay.
    """
    check_plan(plan)
    epoch = len(jax.tree.leaves(examples)[0]) // batch
    short = [phase for phase in plan if calibrated(phase) and phase.steps <= epoch]
    if short:
        raise UserError(
            f"phase {short[0].name!r} has {short[0].steps} steps and an epoch {epoch}, so that"
            " nothing is calibrated; give more steps, or a number for the weight"
        )
    memory = frozen.Memory({}, set())
    # an array would have the sums of calibrated weights in float32
    state = state._replace(step=int(state.step))
    for index in range(position.phase, len(plan)):
        phase = plan[index]
        inputs = inputs_of(phase, index, examples, state.key)
        if not state.step:
            state = _begun(phase, state, inputs, lambda row: hooks.log({"model": name, **row}))
        if phase.feed.cache("guide"):
            memory.charged.update(
                (p.feed.guide, stage)
                for p in plan[: index + bool(state.step)]
                if p.feed.cache("guide")
                for stage in guide_stages(program_of(p))
            )
        end = until[1] if until and until[0] == index else phase.steps
        state, position = run_phase(
            name, phase, state, position, inputs, memory, batch, chunk_steps, end, hooks
        )
        if until and until[0] == index:
            return state
        for probe in phase.probes:
            for row in probe(state, inputs):
                hooks.log({"model": name, "phase": phase.name, **row})
        carried = index + 1 < len(plan) and plan[index + 1].carry
        position = Position(index + 1, ())
        state = state._replace(variables=without_tracks(state.variables))
        state = state._replace(step=0, opt_state=state.opt_state if carried else None, kept={})
        hooks.save(position, state)
    return state


def _begun(phase: Phase, state: State, inputs: Inputs, log: Log) -> State:
    """The state after the phase's first edits, with an optimizer state: carried on, or fresh for
    what the edits left.

    Edits see an optimizer state unless they are to make a part of what is trained. Raises UserError
    for edits that changed the shapes of parameters and not of a carried state.
    """
    state = state._replace(variables=of_before(phase.net.sites, state.variables))
    if state.opt_state is None and not missing_parts(state.variables, phase.trainable):
        state = state._replace(opt_state=fresh_optimizer(phase, state.variables))
    for edit in phase.edits:
        state = edited(phase, state, inputs, edit, log)
    state = state._replace(variables=with_fresh_tracks(phase.tracks, state.variables))
    wanted = jax.eval_shape(functools.partial(fresh_optimizer, phase), state.variables)
    if state.opt_state is None or trees.difference(wanted, state.opt_state):
        if phase.carry:
            raise UserError(
                f"the edits of phase {phase.name!r} leave an optimizer state of other shapes than"
                " what it trains; an edit that changes parameters changes it too, or leave"
                " carry out"
            )
        state = state._replace(opt_state=fresh_optimizer(phase, state.variables))
    return state
