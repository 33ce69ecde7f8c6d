"""What runs between steps: edits of variables, masks and optimizer state."""

from __future__ import annotations

from typing import Any, Callable

from theseus_jax.errors import UserError
from theseus_jax.nets.stage import Variables
from theseus_jax.nets.variables import partition
from theseus_jax.plan import Phase
from theseus_jax.program import optimizer_init, program_of
from theseus_jax.state import Inputs, State


def edited(
    phase: Phase, state: State, inputs: Inputs, edit: Callable[[State, Inputs], State]
) -> State:
    """The state after an edit. Raises UserError where it changed the guide, which checkpoints of a
    run do not hold.
    """
    after = edit(state, inputs)
    if after.guide_variables is not state.guide_variables:
        raise UserError(
            f"an edit of phase {phase.name!r} ({edit}) changed the guide's variables, which stay as"
            " they are; change them before the run"
        )
    return after


def fresh_optimizer(phase: Phase, variables: Variables) -> Any:
    """The optimizer state that a phase starts with; variables: with a leading seed axis."""
    return optimizer_init(program_of(phase).optimizer)(partition(variables, phase.trainable)[0])
