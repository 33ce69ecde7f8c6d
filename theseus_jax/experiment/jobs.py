"""Running plans one after the other, each resumable: a finished model has a checkpoint, an
unfinished one its progress.
"""

from __future__ import annotations

import functools
import logging
import shutil
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints
from theseus_jax.balance import Sums
from theseus_jax.divergence import finding, told
from theseus_jax.errors import Diverged, UserError
from theseus_jax.experiment.ledger import counted, same_guide
from theseus_jax.experiment.workdir import STEPS, Workdir
from theseus_jax.nets.stage import Network, Variables, init
from theseus_jax.nets.variables import partition
from theseus_jax.objectives import Side
from theseus_jax.plan import Phase, Plan
from theseus_jax.program import over_seeds
from theseus_jax.train import Hooks, Position, State, fit, fresh_optimizer

LOG = logging.getLogger("theseus_jax")


def initial(net: Network, keys: jax.Array, example: Any) -> Variables:
    """Fresh variables for each key of `keys` (S,), with a leading seed axis; example: the shape of
    one input, (1, ...). On a CPU one seed after the other: the QRs of several orthogonal starts at
    once, each of a batch of seeds, wait for XLA's threads for ever.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    return over_seeds(lambda key: init(net, key, zeros), keys)


# run once a network: compiling it well costs more than running it
fresh = jax.jit(
    initial,
    static_argnames=("net", "example"),
    compiler_options={"xla_backend_optimization_level": 0},
)


def side_variables(sides: tuple[Side, ...], key: jax.Array) -> dict[str, Any]:
    """Fresh variables of the modules that only terms read, by name."""

    def zeros(given):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), given)

    return {
        side.name: side.module.init(jax.random.fold_in(key, i), zeros(side.given))
        for i, side in enumerate(sides)
    }


def run_keys(seed: int, purpose: int, count: int) -> jax.Array:
    """(count,) keys: of the run's one key, folded by purpose and number."""
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


def finished(workdir: Workdir, name: str, guide: str = "") -> dict[str, Any] | None:
    """The variables (leading seed axis) of a model that is done, or None. guide: the fingerprint of
    its guide. Raises UserError for one that was made with another.
    """
    path = workdir.model(name)
    if not path.exists():
        return None
    tree, note = checkpoints.load(path)
    same_guide(path, note, guide)
    return tree["variables"]


class Job(NamedTuple):
    """One model to be trained: all that `run_plan` needs besides where to leave it. What is kept
    are the stages of its last phase's network.

    model: whose rows are its. metadata: what its checkpoints say of the run. fresh(): the initial
    variables. shapes(net): the shapes of a phase's variables. score(variables): writes the model's
    rows, before it counts as finished. measure(phase, state): what a stopping rule looks at, logged
    as "score". log(row): adds a row to metrics.jsonl.
    """

    name: str
    model: str
    plan: Plan
    fresh: Callable[[], dict[str, Any]]
    shapes: Callable[[Network], Any]
    guide_variables: Any
    keys: jax.Array
    examples: Any
    batch: int
    chunk: int
    log: Callable[[dict[str, Any]], None]
    score: Callable[[dict[str, Any]], None]
    metadata: dict[str, Any]
    measure: Callable[[Phase, State], float] | None = None


def run_plan(
    workdir: Workdir, job: Job, *, save_seconds: float, show: bool = True, keep: bool = True
) -> dict[str, Any]:
    """The trained variables (leading seed axis) of one model; goes on where an earlier process
    stopped.

    show: a bar for every phase. keep: leave a checkpoint of the model; without it, only work of
    more than save_seconds is saved on the way, and the rows are what remains.
    """
    name, plan = job.name, job.plan
    done = finished(workdir, name, job.metadata.get("guide", ""))
    if done is not None:
        return done
    state, position = _unfinished(workdir, job)
    if position.phase or state.step:
        LOG.info(
            "%s goes on at phase %d of %d, step %d",
            name,
            min(position.phase + 1, len(plan)),
            len(plan),
            state.step,
        )

    began = time.monotonic()

    def save(position: Position, state: State) -> None:
        if keep or time.monotonic() - began >= save_seconds:
            _save(workdir, job, position, state)

    hooks = Hooks(
        log=job.log,
        save=save,
        bar=_bar(name) if show else None,
        save_seconds=save_seconds,
        score=job.measure,
        score_name="score",
    )
    given = {"batch": job.batch, "chunk_steps": job.chunk}
    try:
        state = fit(plan, state, job.examples, **given, name=name, position=position, hooks=hooks)
    except Diverged as error:
        if not keep:  # a search has others
            raise
        raise _explained(workdir, job, error, given) from error
    variables = {
        stage: tree for stage, tree in state.variables.items() if stage in plan[-1].net.names
    }
    job.score(variables)
    if keep:
        checkpoints.save(
            workdir.model(name),
            tree={"variables": variables},
            metadata={**job.metadata, "model": name, "rows": counted(workdir.records, job.model)},
        )
    shutil.rmtree(workdir.progress(name), ignore_errors=True)
    return variables


def _explained(workdir: Workdir, job: Job, error: Diverged, given: dict[str, int]) -> Diverged:
    """The error with what was not finite first; the batch is left in the workdir."""
    LOG.info("%s; looking where that begins", error)
    state, position = _unfinished(workdir, job)
    found = finding(error, job.plan, state, job.examples, **given, position=position)
    left = ""
    if found:
        path = workdir.path / "diverged" / f"{job.name.replace('/', '-')}.npz"
        path.parent.mkdir(exist_ok=True)
        batch = found.batch if isinstance(found.batch, dict) else {"windows": found.batch}
        arrays = {
            jax.tree_util.keystr(at, simple=True, separator="/"): np.asarray(leaf)
            for at, leaf in jax.tree_util.tree_leaves_with_path(batch)
        }
        np.savez(path, rows=found.rows, step=found.step, seed=found.seed, **arrays)
        left = f", in {path}"
    return Diverged(
        f"{error}{told(found)}{left}; the same command goes there again from the last checkpoint",
        error.phase,
        error.step,
    )


def _save(workdir: Workdir, job: Job, position: Position, state: State) -> None:
    tree = {
        "variables": state.variables,
        "opt_state": state.opt_state if state.opt_state is not None else {},
        "kept": state.kept,
    }
    note = {
        **job.metadata,
        "rows": counted(workdir.records, job.model),
        "kept": bool(state.kept),
        "carried": state.opt_state is not None,
        "step": state.step,
        "phase": position.phase,
        "scores": list(position.scores),
        "sums": [list(one) for one in position.sums],
    }
    checkpoints.save_progress(
        workdir.progress(job.name), position.phase * STEPS + state.step, tree, note
    )


def _unfinished(workdir: Workdir, job: Job) -> tuple[State, Position]:
    folder = workdir.progress(job.name)
    progress = checkpoints.latest_progress(folder)
    if progress is None:
        return State(0, job.fresh(), job.guide_variables, None, job.keys), Position()
    index, _, note = progress
    same_guide(folder / f"{index:08d}", note, job.metadata.get("guide", ""))
    if not 0 <= note["phase"] <= len(job.plan):
        raise UserError(
            f"{folder / f'{index:08d}'} is of phase {note['phase'] + 1} and {job.name} has"
            f" {len(job.plan)}; delete it: the run goes on from an earlier state"
        )
    position = Position(
        note["phase"], tuple(note["scores"]), tuple(Sums(*one) for one in note.get("sums", ()))
    )
    # between phases the variables are still those of the phase that ended: edits come first in the
    # next
    phase = job.plan[note["phase"] if note["step"] else max(0, note["phase"] - 1)]
    variables = job.shapes(phase.net)
    # of checkpoints from before optimizer states were carried on
    held = note.get("carried", note["step"] > 0)
    opt_state = jax.eval_shape(functools.partial(fresh_optimizer, phase), variables) if held else {}
    like = {
        "variables": variables,
        "opt_state": opt_state,
        "kept": partition(variables, phase.trainable)[0] if note["kept"] else {},
    }
    tree, _ = checkpoints.load(folder / f"{index:08d}", like=like)
    return (
        State(
            note["step"],
            tree["variables"],
            job.guide_variables,
            tree["opt_state"] if held else None,
            job.keys,
            tree["kept"],
        ),
        position,
    )


class _Bar:
    """A tqdm bar of one phase."""

    def __init__(self, name: str, phase: Phase, steps: int, done: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=steps,
            initial=done,
            desc=f"{name} {phase.name}",
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def update(self, count: int) -> None:
        self.bar.update(count)

    def note(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        self.bar.close()


def _bar(name: str):
    return lambda phase, steps, done: _Bar(name, phase, steps, done)
