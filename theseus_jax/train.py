"""The one training loop: `fit` runs a plan's phases for several seeds at once and goes on where a checkpoint stopped."""
from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import frozen, trees
from theseus_jax.balance import Sums, is_number
from theseus_jax.chunk import Moving, Still, compiled_chunk
from theseus_jax.errors import Diverged, UserError
from theseus_jax.nets.stage import Variables, merge, missing_parts, partition
from theseus_jax.plan import Phase, Plan, check_plan
from theseus_jax.program import guide_stages, optimizer_init, program_of


class State(NamedTuple):
    """What training changes. step: steps done in the phase. Leading axis S = seeds on variables, opt_state and key.

    key: (S,) keys of the run; a phase folds its number in and splits the result by purpose. kept: the parameters that
    the phase's stopping rule remembers from an earlier check, {} if none.
    """

    step: int
    variables: Variables
    guide_variables: Variables
    opt_state: Any
    key: jax.Array
    kept: Any = {}


class Position(NamedTuple):
    """Where a run stands: the phase's index, held-out scores of this phase, and sums of its calibrated terms, in order."""

    phase: int = 0
    scores: tuple[float, ...] = ()
    sums: tuple[Sums, ...] = ()


class Inputs(NamedTuple):
    """What edits and probes may look at. examples: windows (N, T + 1), or {"inputs": ..., "labels": ...}, for training.

    order, surgery, noise: (S,) keys for the order of the data, for edits, and for dropout and swapping.
    """

    phase: Phase
    examples: Any
    order: jax.Array
    surgery: jax.Array
    noise: jax.Array


def _inputs(phase: Phase, index: int, examples: Any, keys: jax.Array) -> Inputs:
    purposes = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index), 3))(keys)
    return Inputs(phase, examples, purposes[:, 0], purposes[:, 1], purposes[:, 2])


@dataclasses.dataclass(frozen=True)
class Hooks:
    """How `fit` talks to its surroundings; every default does nothing.

    log(row): a metrics row. save(position, state): keep the state. score(phase, state): what the phase's stopping rule
    looks at, logged under score_name. bar(phase, steps, done): an object with update(n), note(text)
    and close().
    """

    log: Callable[[dict[str, Any]], None] = lambda row: None
    save: Callable[[Position, State], None] = lambda position, state: None
    score: Callable[[Phase, State], float] | None = None
    bar: Callable[[Phase, int, int], Any] | None = None
    save_seconds: float = 120.0
    score_name: str = "validation_score"


@functools.partial(jax.jit, static_argnames=("count",))
def _permutation(key: jax.Array, epoch: jax.Array, count: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def batch_rows(key: jax.Array, count: int, batch: int, begin: int, steps: int) -> np.ndarray:
    """Rows of the batches of steps begin .. begin + steps: (steps, B) int32; each epoch is a fresh permutation.

    The last count % batch rows of an epoch's permutation are left out of it. Raises UserError when count < batch.
    """
    if count < batch:
        raise UserError(f"{count} training examples are fewer than a batch of {batch}; lower train.batch or data.context, "
                        "or give more data")
    per_epoch = count // batch
    wanted = np.arange(begin, begin + steps)
    orders = {epoch: np.asarray(_permutation(key, epoch, count)) for epoch in np.unique(wanted // per_epoch).tolist()}
    return np.stack([orders[step // per_epoch][(step % per_epoch) * batch:][:batch] for step in wanted.tolist()])


def _seed_rows(keys: jax.Array, count: int, batch: int, begin: int, steps: int) -> np.ndarray:
    """(S, K, B): every seed has its own order of the data."""
    return np.stack([batch_rows(key, count, batch, begin, steps) for key in keys])


def fit(plan: Plan, state: State, examples: Any, *, batch: int, chunk_steps: int = 25,
        name: str = "run", position: Position = Position(), hooks: Hooks = Hooks()) -> State:
    """Run the phases of `plan` from `position` on; returns the state after the last.

    examples: windows (N, T + 1) of tokens, or a dict of "inputs" and "labels", arrays with N rows. A fresh run gives
    State(0, variables, guide_variables, None, keys) with a leading seed axis on variables and keys.
    Raises Diverged, a UserError, when a loss is no longer finite; checkpoints saved before stay.
    """
    check_plan(plan)
    epoch = len(jax.tree.leaves(examples)[0]) // batch
    short = [phase for phase in plan if _calibrated(phase) and phase.steps <= epoch]
    if short:
        raise UserError(f"phase {short[0].name!r} has {short[0].steps} steps and an epoch {epoch}, so that nothing is calibrated; give "
                        "more steps, or a number for the weight")
    memory = frozen.Memory({}, set())
    for index in range(position.phase, len(plan)):
        phase = plan[index]
        inputs = _inputs(phase, index, examples, state.key)
        if not state.step:
            state = _begun(phase, state, inputs)
        if phase.feed.cache("guide"):
            memory.charged.update((p.feed.guide, stage) for p in plan[:index + bool(state.step)] if p.feed.cache("guide")
                                  for stage in guide_stages(program_of(p)))
        state, position = _run_phase(name, phase, state, position, inputs, memory, batch, chunk_steps, hooks)
        for probe in phase.probes:
            for row in probe(state, inputs):
                hooks.log({"model": name, "phase": phase.name, **row})
        carried = index + 1 < len(plan) and plan[index + 1].carry
        position = Position(index + 1, ())
        state = state._replace(step=0, opt_state=state.opt_state if carried else None, kept={})
        hooks.save(position, state)
    return state


def _begun(phase: Phase, state: State, inputs: Inputs) -> State:
    """The state after the phase's first edits, with an optimizer state: carried on, or fresh for what the edits left.

    Edits see an optimizer state unless they are to make a part of what is trained. Raises UserError for edits that changed the shapes
    of parameters and not of a carried state.
    """
    if state.opt_state is None and not missing_parts(state.variables, phase.trainable):
        state = state._replace(opt_state=fresh_optimizer(phase, state.variables))
    for edit in phase.edits:
        state = _edited(phase, state, inputs, edit)
    wanted = jax.eval_shape(functools.partial(fresh_optimizer, phase), state.variables)
    if state.opt_state is None or trees.difference(wanted, state.opt_state):
        if phase.carry:
            raise UserError(f"the edits of phase {phase.name!r} leave an optimizer state of other shapes than what it trains; "
                            "an edit that changes parameters changes it too, or leave carry out")
        state = state._replace(opt_state=fresh_optimizer(phase, state.variables))
    return state


def _edited(phase: Phase, state: State, inputs: Inputs, edit: Callable[[State, Inputs], State]) -> State:
    """The state after an edit. Raises UserError where it changed the guide, which checkpoints of a run do not hold."""
    after = edit(state, inputs)
    if after.guide_variables is not state.guide_variables:
        raise UserError(f"an edit of phase {phase.name!r} ({edit}) changed the guide's variables, which stay as they are; change "
                        "them before the run")
    return after


def fresh_optimizer(phase: Phase, variables: Variables) -> Any:
    """The optimizer state that a phase starts with; variables: with a leading seed axis."""
    return optimizer_init(program_of(phase).optimizer)(partition(variables, phase.trainable)[0])


def _run_phase(name: str, phase: Phase, state: State, position: Position, inputs: Inputs, memory: frozen.Memory, batch: int,
               chunk_steps: int, hooks: Hooks) -> tuple[State, Position]:
    steps = phase.steps
    even = -(-steps // max(1, -(-steps // chunk_steps)))  # chunks of one length, so that a phase is one program
    state = _own(phase, state)
    raw = inputs
    stored = frozen.prefix(name, phase, state, raw.examples, hooks.log)
    inputs = raw._replace(examples=frozen.with_guide(name, phase, state, raw.examples, memory, hooks.log))
    bar = hooks.bar(phase, steps, state.step) if hooks.bar else None
    saved_at = time.monotonic()
    while state.step < steps:
        due = [edit for step, edit in phase.edits_at if step == state.step]
        for edit in due:
            state = _own(phase, _edited(phase, state, raw, edit))
        if due:  # an edit may have changed what was frozen
            stored = frozen.prefix(name, phase, state, raw.examples, hooks.log)
        marks = (*(step for step, _ in phase.edits_at), _epoch(inputs, batch) if _calibrated(phase) else steps, steps)
        length = min(even, *(step - state.step for step in marks if step > state.step))
        state, row = _advance(name, phase, state, inputs, stored, batch, length, even, steps, position.sums, hooks)
        position = _measured(name, phase, position, row, length, state.step, _epoch(inputs, batch), hooks)
        if bar:
            bar.update(length)
            bar.note(f"loss {row['loss']:.3f}")
        last = state.step == steps
        if phase.stop and hooks.score and (phase.stop.last if last else state.step % phase.stop.every < length):
            position = position._replace(scores=(*position.scores, hooks.score(phase, state)))
            hooks.log({"kind": "score", "model": name, "phase": phase.name, "step": state.step,
                       hooks.score_name: position.scores[-1]})
            if phase.stop.keeps(position.scores):
                state = state._replace(kept=jax.tree.map(jnp.copy, partition(state.variables, phase.trainable)[0]))
            if phase.stop.done(position.scores):
                break
        if time.monotonic() - saved_at > hooks.save_seconds and state.step < steps:
            hooks.save(position, state)
            saved_at = time.monotonic()
    if bar:
        bar.close()
    hooks.log({"kind": "phase", "model": name, "phase": phase.name, "optimizer_steps": state.step,
               "examples_seen": state.step * batch})
    if phase.stop and phase.stop.restore and state.kept:
        state = state._replace(variables=merge(state.variables, state.kept))
    return state, position


def _epoch(inputs: Inputs, batch: int) -> int:
    return len(jax.tree.leaves(inputs.examples)[0]) // batch


def _calibrated(phase: Phase) -> list[Any]:
    """The terms whose weights are found in the first epoch."""
    return [term for term in phase.terms if hasattr(term.weight, "to")]


def _measured(name: str, phase: Phase, position: Position, row: dict[str, float], length: int, step: int, epoch: int,
              hooks: Hooks) -> Position:
    """The position with `length` steps more in its sums, as long as the first epoch lasts; logs the weights at its end."""
    if step > epoch or not _calibrated(phase):
        return position
    before = position.sums or (Sums(),) * len(_calibrated(phase))
    sums = tuple(Sums(one.own + length * row[term.name], one.other + length * row[term.weight.to], one.steps + length)
                 for one, term in zip(before, _calibrated(phase)))
    if step == epoch:
        for term, one in zip(_calibrated(phase), sums):
            hooks.log({"kind": "weight", "model": name, "phase": phase.name, "step": step, "term": term.name,
                       "weight": term.weight.bounds(one)[0]})
    return position._replace(sums=sums)


def _weights(phase: Phase, sums: tuple[Sums, ...], step: int, epoch: int) -> dict[str, jax.Array]:
    """(begin, end, steps) of every term whose weight is no number."""
    known = dict(zip((term.name for term in _calibrated(phase)), sums)) if step >= epoch else {}
    return {term.name: jnp.asarray(term.weight.bounds(known.get(term.name)), jnp.float32)
            for term in phase.terms if not is_number(term.weight)}


def _own(phase: Phase, state: State) -> State:
    """The state with trained parameters and an optimizer state that nobody else holds: they will be donated."""
    params, rest = partition(state.variables, phase.trainable)
    params, opt_state = jax.tree.map(jnp.copy, (params, state.opt_state))
    return state._replace(variables=merge(rest, params), opt_state=opt_state)


def _advance(name: str, phase: Phase, state: State, inputs: Inputs, stored: Any, batch: int, length: int, padded: int,
             steps: int, sums: tuple[Sums, ...], hooks: Hooks) -> tuple[State, dict[str, Any]]:
    """`length` optimizer steps in a program of `padded`; logs one row a seed and returns the state and the row of the seeds' means."""
    program = program_of(phase)
    params, rest = partition(state.variables, phase.trainable)
    rows = _seed_rows(inputs.order, len(jax.tree.leaves(inputs.examples)[0]), batch, state.step, length)
    rows = np.pad(rows, ((0, 0), (0, padded - length), (0, 0)), mode="edge")
    numbers = (jnp.asarray(number, jnp.int32) for number in (state.step, state.step + length, steps))
    still = Still(rest, state.guide_variables, inputs.noise, inputs.examples, stored, jnp.asarray(rows), *numbers,
                  jnp.asarray(phase.optimizer.learning_rate, jnp.float32), _weights(phase, sums, state.step, _epoch(inputs, batch)))
    moving = Moving(params, state.opt_state)
    compiled = compiled_chunk(program, moving, still)
    began = time.monotonic()
    params, statistics, opt_state, metrics, watched = jax.block_until_ready(compiled.run(moving, still))
    seconds = time.monotonic() - began
    metrics = {key: np.asarray(value)[:, :length] for key, value in metrics.items()}
    values = {key: np.asarray(value, np.float64).mean(axis=1) for key, value in metrics.items()}
    if not np.isfinite(np.asarray(metrics["loss"])).all():
        bad = int(np.argmin(np.isfinite(np.asarray(metrics["loss"])).all(axis=0)))
        raise Diverged(f"the loss of {name}, phase {phase.name}, is not finite at step {state.step + bad} of {steps}; "
                       f"lower its learning rate of {phase.optimizer.learning_rate:g}; earlier checkpoints are kept")
    step = state.step + length
    for seed in range(len(rows)):
        hooks.log({"kind": "train", "model": name, "phase": phase.name, "seed": seed, "step": step,
                   **{key: float(value[seed]) for key, value in values.items()},
                   "training_flops": compiled.step_flops * length, "seconds": seconds / len(rows)})
    for watch in program.watches:
        for k in range(-(state.step + 1) % watch.every, length, watch.every):
            for seed in range(len(rows)):
                hooks.log({"kind": "watch", "model": name, "phase": phase.name, "seed": seed, "step": state.step + k + 1, **{
                    key: np.asarray(value[seed, k], np.float64).tolist() for key, value in watched[str(watch)].items()}})
    state = state._replace(step=step, variables=merge(merge(rest, statistics), params), opt_state=opt_state)
    return state, {key: float(value.mean()) for key, value in values.items()}
