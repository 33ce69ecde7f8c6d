"""A phase under way: chunks of compiled steps between edits, checks and checkpoints."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import frozen
from theseus_jax.balance import Sums, calibrated, weights_at
from theseus_jax.chunk import Moving, Still, compiled_chunk
from theseus_jax.devices import gathered, mesh_for, spread
from theseus_jax.edits import edited
from theseus_jax.errors import Diverged
from theseus_jax.interrupts import deferred
from theseus_jax.nets.variables import merge, partition
from theseus_jax.order import everywhere, on_device, seed_rows
from theseus_jax.plan import Phase
from theseus_jax.program import program_of
from theseus_jax.state import Hooks, Inputs, Position, State


class _Running(NamedTuple):
    """A phase under way. raw: what edits see; inputs: with the guide's kept outputs beside the
    examples. chunk: optimizer steps of a compiled program. end: the step before which it ends.
    """

    name: str
    index: int
    phase: Phase
    raw: Inputs
    inputs: Inputs
    batch: int
    chunk: int
    end: int
    hooks: Hooks

    @property
    def steps(self) -> int:
        return self.phase.steps

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row of the model."""
        self.hooks.log({"kind": row["kind"], "model": self.name, **row})

    @property
    def count(self) -> int:
        return len(jax.tree.leaves(self.inputs.examples)[0])

    @property
    def epoch(self) -> int:
        return self.count // self.batch

    def stored(self, state: State, told: bool = True) -> Any:
        """What is kept of the target; told: its cost is logged, once for every time it changes."""
        log = self.hooks.log if told else lambda row: None
        return frozen.prefix(self.name, self.phase, state, self.raw.examples, log)

    def length(self, step: int) -> int:
        """Steps until the chunk's end, or until something has to be done."""
        marks = (
            *(at for at, _ in self.phase.edits_at),
            self.epoch if calibrated(self.phase) else self.end,
            self.end,
        )
        return min(self.chunk, *(at - step for at in marks if at > step))


def run_phase(
    name: str,
    phase: Phase,
    state: State,
    position: Position,
    raw: Inputs,
    memory: frozen.Memory,
    batch: int,
    chunk_steps: int,
    end: int,
    hooks: Hooks,
) -> tuple[State, Position]:
    # the last chunk runs through the program of the others: phases of any length share it
    chunk = min(phase.steps, chunk_steps)
    state = _own(phase, state)
    run = _Running(name, position.phase, phase, raw, raw, batch, chunk, end, hooks)
    stored = run.stored(state, told=not state.step)
    run = run._replace(
        inputs=raw._replace(
            examples=everywhere(
                frozen.with_guide(name, phase, state, raw.examples, memory, hooks.log), batch
            )
        )
    )
    bar = hooks.bar(phase, phase.steps, state.step) if hooks.bar else None
    with contextlib.closing(bar) if bar else contextlib.nullcontext():
        state, position = _chunks(run, state, position, stored, bar)
    if end < phase.steps:
        return state, position
    seen = {"optimizer_steps": state.step, "examples_seen": state.step * batch}
    run.log({"kind": "phase", "phase": phase.name, **seen})
    if phase.stop and phase.stop.restore and state.kept:
        state = state._replace(variables=merge(state.variables, state.kept))
    return state, position


def _chunks(
    run: _Running, state: State, position: Position, stored: Any, bar: Any
) -> tuple[State, Position]:
    """The state and position at the phase's end, saved now and then, and when interrupted."""
    hooks, steps, saved_at, done = run.hooks, run.end, time.monotonic(), False
    while state.step < steps and not done:
        with deferred("this chunk of steps") as came:
            state, position, stored, done = _chunk(run, state, position, stored, bar)
            due = came or time.monotonic() - saved_at > hooks.save_seconds
            if due and state.step < steps and not done:
                hooks.save(position, state)
                saved_at = time.monotonic()
    return state, position


def _chunk(
    run: _Running, state: State, position: Position, stored: Any, bar: Any
) -> tuple[State, Position, Any, bool]:
    """The state, position and what is kept of the target after one chunk more, and whether the
    stopping rule ends the phase.
    """
    phase = run.phase
    due = [edit for step, edit in phase.edits_at if step == state.step]
    for edit in due:
        state = _own(phase, edited(phase, state, run.raw, edit, run.log))
    if due:  # an edit may have changed what was frozen
        stored = run.stored(state)
    length = run.length(state.step)
    state, row = _advance(run, state, stored, length, position.sums)
    position = _measured(run, position, row, length, state.step)
    if bar:
        bar.update(length)
        bar.note(f"loss {row['loss']:.3f}")
    state, position, done = _checked(run, state, position, length)
    return state, position, stored, done


def _checked(
    run: _Running, state: State, position: Position, length: int
) -> tuple[State, Position, bool]:
    """After `length` steps: with what the stopping rule keeps, and whether it ends the phase."""
    phase, hooks = run.phase, run.hooks
    if not (phase.stop and hooks.score):
        return state, position, False
    if not (
        phase.stop.last if state.step == phase.steps else state.step % phase.stop.every < length
    ):
        return state, position, False
    position = position._replace(scores=(*position.scores, hooks.score(phase, state)))
    score = {"step": state.step, hooks.score_name: position.scores[-1]}
    run.log({"kind": "score", "phase": phase.name, **score})
    if phase.stop.keeps(position.scores):
        state = state._replace(
            kept=jax.tree.map(jnp.copy, partition(state.variables, phase.trainable)[0])
        )
    return state, position, phase.stop.done(position.scores)


def _measured(
    run: _Running, position: Position, row: dict[str, float], length: int, step: int
) -> Position:
    """The position with `length` steps more in its sums, as long as the first epoch lasts; logs the
    weights at its end.
    """
    terms = calibrated(run.phase)
    if step > run.epoch or not terms:
        return position
    before = position.sums or (Sums(),) * len(terms)
    sums = tuple(
        Sums(
            one.own + length * row[term.name],
            one.other + length * row[term.weight.to],
            one.steps + length,
        )
        for one, term in zip(before, terms)
    )
    if step == run.epoch:
        for term, one in zip(terms, sums):
            run.log(
                {
                    "kind": "weight",
                    "phase": run.phase.name,
                    "step": step,
                    "term": term.name,
                    "weight": term.weight.bounds(one)[0],
                }
            )
    return position._replace(sums=sums)


def _own(phase: Phase, state: State) -> State:
    """The state with trained parameters and an optimizer state that nobody else holds: they will be
    donated.
    """
    params, rest = partition(state.variables, phase.trainable)
    params, opt_state = jax.tree.map(jnp.copy, (params, state.opt_state))
    return state._replace(variables=merge(rest, params), opt_state=opt_state)


def _advance(
    run: _Running, state: State, stored: Any, length: int, sums: tuple[Sums, ...]
) -> tuple[State, dict[str, Any]]:
    """`length` optimizer steps in a program of `run.chunk`; logs them, and returns the state and
    the row of the seeds' means.
    """
    phase, program = run.phase, program_of(run.phase)
    params, rest = partition(state.variables, phase.trainable)
    rows = seed_rows(phase.feed.order, run.inputs.order, run.count, run.batch, state.step, length)
    rows = np.pad(rows, ((0, 0), (0, run.chunk - length), (0, 0)), mode="edge")
    numbers = (
        jnp.asarray(number, jnp.int32) for number in (state.step, state.step + length, run.steps)
    )
    examples, rows = on_device(run.inputs.examples, stored, rows)
    still = Still(
        rest,
        state.guide_variables,
        run.inputs.noise,
        examples,
        stored,
        jnp.asarray(rows),
        *numbers,
        jnp.asarray(phase.optimizer.learning_rate, jnp.float32),
        weights_at(phase, sums, state.step, run.epoch),
    )
    mesh = mesh_for(run.batch)
    moving, still = spread((Moving(params, state.opt_state), still), mesh)
    compiled = compiled_chunk(program, moving, still, mesh)
    began = time.monotonic()
    done = jax.block_until_ready(compiled.run(moving, still))
    params, statistics, opt_state, metrics, watched = gathered(done, mesh)
    seconds = time.monotonic() - began
    metrics = {key: np.asarray(value)[:, :length] for key, value in metrics.items()}
    finite = np.isfinite(metrics["loss"]).all(axis=0)
    if not finite.all():
        at = state.step + int(np.argmin(finite))
        raise Diverged(
            f"the loss of {run.name}, phase {phase.name}, is not finite at step {at} of"
            f" {run.steps}; lower its learning rate of {phase.optimizer.learning_rate:g}",
            run.index,
            at,
        )
    values = {key: np.asarray(value, np.float64).mean(axis=1) for key, value in metrics.items()}
    _log_chunk(run, state.step, length, values, compiled.step_flops, seconds / len(rows))
    for watch in program.watches:
        _log_watch(run, watch, state.step, length, watched[str(watch)])
    state = state._replace(
        step=state.step + length,
        variables=merge(merge(rest, statistics), params),
        opt_state=opt_state,
    )
    return state, {key: float(value.mean()) for key, value in values.items()}


def _log_chunk(
    run: _Running,
    step: int,
    length: int,
    values: dict[str, np.ndarray],
    step_flops: float,
    seconds: float,
) -> None:
    """A row a seed; seconds: of one of them."""
    for seed in range(len(values["loss"])):
        run.log(
            {
                "kind": "train",
                "phase": run.phase.name,
                "seed": seed,
                "step": step + length,
                **{key: float(value[seed]) for key, value in values.items()},
                "training_flops": step_flops * length,
                "seconds": seconds,
            }
        )


def _log_watch(run: _Running, watch: Any, step: int, length: int, values: dict[str, Any]) -> None:
    """A row a seed for every step of the chunk that the watch looked at."""
    for k in range(-(step + 1) % watch.every, length, watch.every):
        for seed in range(len(run.inputs.order)):
            run.log(
                {
                    "kind": "watch",
                    "phase": run.phase.name,
                    "seed": seed,
                    "step": step + k + 1,
                    **{
                        key: np.asarray(value[seed, k], np.float64).tolist()
                        for key, value in values.items()
                    },
                }
            )
