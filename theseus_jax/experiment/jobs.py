"""Running plans one after the other, each resumable: a finished model has a checkpoint, an unfinished one its progress."""
from __future__ import annotations

import logging
import pathlib
import shutil
from typing import Any, Callable, Iterable, NamedTuple

import jax

from theseus_jax import checkpoints
from theseus_jax.evaluate import stage_similarity
from theseus_jax.methods.probes import Held, similarity_windows
from theseus_jax.plan import Parallel, Phase, Plan
from theseus_jax.program import program_of, transformation
from theseus_jax.nets.stage import partition
from theseus_jax.records import Records
from theseus_jax.similarity import metric
from theseus_jax.train import Hooks, Position, State, fit

LOG = logging.getLogger("theseus_jax")


class Streams(NamedTuple):
    """windows: (N, T + 1) tokens on the device, for training; validation, test: windows and masks."""

    windows: jax.Array
    validation: Held
    test: Held


class Workdir(NamedTuple):
    """Where a run leaves what it made."""

    path: pathlib.Path
    records: Records

    def model(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / name

    def progress(self, name: str) -> pathlib.Path:
        return self.path / "checkpoints" / "unfinished" / name


def rewind(workdir: Workdir, names: Iterable[str]) -> None:
    """Cut metrics.jsonl back to the newest state on disk, so that no row is doubled when work is done again.

    Models are made one after the other and rows only appended, so the newest state is the one of the largest offset.
    """
    offsets = [0]
    for name in names:
        if workdir.model(name).exists():
            offsets.append(checkpoints.load(workdir.model(name), items=())[1]["offset"])
        else:
            found = checkpoints.latest_progress(workdir.progress(name))
            offsets += [found[2]["offset"]] if found else []
    workdir.records.cut(max(offsets))


def finished(workdir: Workdir, name: str) -> dict[str, Any] | None:
    """The variables (leading seed axis) of a model that is done, or None."""
    if not workdir.model(name).exists():
        return None
    return checkpoints.load(workdir.model(name))[0]["variables"]


def run_plan(workdir: Workdir, name: str, plan: Plan, fresh: Callable[[], dict[str, Any]], shapes: Any, guide_variables: Any,
             keys: jax.Array, streams: Streams, *, batch: int, chunk: int, save_seconds: float,
             score: Callable[[dict[str, Any]], None], metadata: dict[str, Any]) -> dict[str, Any]:
    """The trained variables (leading seed axis) of one model; goes on where an earlier process stopped.

    fresh(): its initial variables, of these shapes. score(variables): writes the model's rows, before it counts as finished.
    """
    done = finished(workdir, name)
    if done is not None:
        return done
    state, position = _unfinished(workdir, name, plan, fresh, shapes, guide_variables, keys)
    if position.phase or state.step:
        LOG.info("%s goes on at phase %d of %d, step %d", name, min(position.phase + 1, len(plan)), len(plan), state.step)

    def save(position: Position, state: State) -> None:
        tree = {"variables": state.variables, "opt_state": state.opt_state if state.opt_state is not None else {}}
        note = {"step": state.step, "phase": position.phase, "saved": position.saved, "scores": list(position.scores),
                "offset": workdir.records.offset()}
        checkpoints.save_progress(workdir.progress(name), position.phase * 10**6 + state.step, tree, note)

    hooks = Hooks(log=workdir.records.write, save=save, bar=_bar(name), save_seconds=save_seconds,
                  score=lambda phase, state: _held_out_similarity(phase, state, streams.validation))
    state = fit(plan, state, streams.windows, batch=batch, chunk_steps=chunk, name=name,
                position=position, hooks=hooks)
    score(state.variables)
    checkpoints.save(workdir.model(name), tree={"variables": state.variables},
                     metadata={**metadata, "model": name, "offset": workdir.records.offset()})
    shutil.rmtree(workdir.progress(name), ignore_errors=True)
    return state.variables


def _unfinished(workdir: Workdir, name: str, plan: Plan, fresh, variables, guide_variables, keys) -> tuple[State, Position]:
    found = checkpoints.latest_progress(workdir.progress(name))
    if found is None:
        return State(0, fresh(), guide_variables, None, keys), Position()
    index, _, note = found
    position = Position(note["phase"], note["saved"], tuple(note["scores"]))
    opt_state = None
    if note["step"]:
        opt_state = _opt_shapes(plan[note["phase"]], variables)
    like = {"variables": variables, "opt_state": opt_state if opt_state is not None else {}}
    tree, _ = checkpoints.load(workdir.progress(name) / f"{index:08d}", like=like)
    return State(note["step"], tree["variables"], guide_variables, tree["opt_state"] if note["step"] else None,
                 keys), position


def _opt_shapes(phase: Phase, variables: Any) -> Any:
    params, _ = partition(variables, phase.trainable)
    return jax.eval_shape(jax.vmap(transformation(program_of(phase)).init), params)


def _held_out_similarity(phase: Phase, state: State, held_out: Held) -> float:
    pair = next(term.fn.pairs[-1] for term in phase.terms if hasattr(term.fn, "pairs"))
    if isinstance(phase.route, Parallel):
        source, start, _ = phase.route.segments[-1]
    else:
        source, start = phase.route.source, phase.route.start
    values = stage_similarity(phase.net, state.variables, phase.guide, state.guide_variables,
                              similarity_windows(held_out[0]), pair=pair, metrics=(metric("cka_debiased"),),
                              source=source, start=start)
    return float(values[0].mean())


class _Bar:
    """A tqdm bar of one phase."""

    def __init__(self, name: str, phase: Phase, steps: int, done: int) -> None:
        from tqdm import tqdm
        self.bar = tqdm(total=steps, initial=done, desc=f"{name} {phase.name}", unit="step", dynamic_ncols=True,
                        mininterval=0.5)

    def update(self, count: int) -> None:
        self.bar.update(count)

    def note(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        self.bar.close()


def _bar(name: str):
    return lambda phase, steps, done: _Bar(name, phase, steps, done)
