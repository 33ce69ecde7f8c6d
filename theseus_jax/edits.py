"""What runs between steps: edits of variables, masks and optimizer state; and which axes of them
belong to a unit.
"""

from __future__ import annotations

import time
from typing import Any, Callable

import jax

from theseus_jax import trees
from theseus_jax.errors import UserError
from theseus_jax.nets.sites import Slice
from theseus_jax.nets.stage import Variables
from theseus_jax.nets.variables import partition
from theseus_jax.plan import Phase
from theseus_jax.program import program_of
from theseus_jax.rules import optimizer_init
from theseus_jax.state import Inputs, State


def edited(
    phase: Phase,
    state: State,
    inputs: Inputs,
    edit: Callable[[State, Inputs], State],
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> State:
    """The state after an edit; log: is given the rows of an edit that has a method `told(before,
    after, inputs) -> rows`; those that count FLOPs get the seconds of a seed. Raises UserError
    where it changed the guide, which checkpoints of a run do not hold.
    """
    began = time.monotonic()
    after = jax.block_until_ready(edit(state, inputs))
    seconds = (time.monotonic() - began) / len(inputs.order)
    if after.guide_variables is not state.guide_variables:
        raise UserError(
            f"an edit of phase {phase.name!r} ({edit}) changed the guide's variables, which stay as"
            " they are; change them before the run"
        )
    told = getattr(edit, "told", None)
    for row in told(state, after, inputs) if told else ():
        timed = {"seconds": seconds} if "training_flops" in row else {}
        log({"phase": phase.name, "step": state.step, **timed, **row})
    return after


def fresh_optimizer(phase: Phase, variables: Variables) -> Any:
    """The optimizer state that a phase starts with; variables: with a leading seed axis."""
    return optimizer_init(program_of(phase).optimizer)(partition(variables, phase.trainable)[0])


def unit_axes(tree: Any, wider: Any, width: int, tiled: bool = True) -> tuple[Slice, ...]:
    """The slices of a hidden layer of `width` units in any pytree of arrays or shapes: parameters,
    statistics, the state of an optimizer, factored moments among them.

    wider: the same tree of the same network with one unit more (or with one less): an axis that is
    longer by a share of 1 / width is the units', so nobody types which. tiled: `Slice.tiled`, which
    shapes do not tell. A leaf with two such axes, such as a recurrent kernel, gives two slices.
    Raises UserError, naming the leaf, where the trees differ in anything else.
    """
    before, after = trees.leaves_by_path(tree), trees.leaves_by_path(wider)
    odd = sorted(before.keys() ^ after.keys())
    if odd:
        raise UserError(
            f"with one unit more there is another leaf, {odd[0]}; a unit is to change the length of"
            " axes alone"
        )
    found = []
    for name, leaf in before.items():
        old, new = jax.numpy.shape(leaf), jax.numpy.shape(after[name])
        if old == new:
            continue
        axes = _grown(old, new, width)
        if not axes:
            raise UserError(
                f"with one unit more than {width}, the leaf {name} is {new} in place of {old}; an"
                " axis of a multiple of the units was to grow by the share of one"
            )
        path = tuple(name.split("/")) if name else ()
        found += [Slice(path, axis, old[axis] // width, tiled) for axis in axes]
    return tuple(found)


def _grown(old: tuple[int, ...], new: tuple[int, ...], width: int) -> tuple[int, ...]:
    """The axes whose lengths differ by one unit's share; none where anything else does."""
    if len(old) != len(new):
        return ()
    axes = tuple(i for i, (a, b) in enumerate(zip(old, new)) if a != b)
    shares = {(old[i] % width, abs(new[i] - old[i]) * width == old[i]) for i in axes}
    return axes if shares == {(0, True)} else ()
