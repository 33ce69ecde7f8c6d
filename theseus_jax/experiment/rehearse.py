"""Before data are read: every phase of every arm on shapes alone, and the run as text."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Sequence

import jax
from flax.errors import FlaxError

from theseus_jax import cost
from theseus_jax.arms import Arm
from theseus_jax.errors import UserError
from theseus_jax.experiment.jobs import side_variables
from theseus_jax.nets.stage import forward, variable_shapes
from theseus_jax.nets.variables import partition
from theseus_jax.plan import Phase, describe, sides
from theseus_jax.program import constant_terms, program_of
from theseus_jax.trees import parameter_count

REMEDY = "make what the phase trains, reads and is fed fit each other"


def rehearse(arms: Sequence[Arm], task: Any, remedy: str = "") -> None:
    """Trace every phase on shapes alone, so that what cannot work is refused before data is read.

    remedy: what usually helps. Raises UserError naming the model, the phase and what does not fit.
    """
    nets = {arm.name: arm.net for arm in arms}
    for arm in arms:
        plan = (arm.plan(arm.first()) if arm.plan else ()) or ()
        guide = variable_shapes(nets[arm.guide], task.example) if arm.guide else {}
        extra = jax.eval_shape(functools.partial(side_variables, sides(plan)), jax.random.key(0))
        if plan and plan[-1].net != arm.net:
            raise UserError(
                f"{arm.name} has another network than its last phase, {plan[-1].name}, trains; give"
                " the arm that one"
            )
        for phase in plan:
            if phase.feed.guide is not None and not arm.guide:
                raise UserError(
                    f"{arm.name}, phase {phase.name}, is fed by a guide and the arm names none;"
                    " give Arm(guide=...) the arm whose variables it reads"
                )
            try:
                _trace(arm, phase, guide, extra, task)
            except UserError:
                raise
            except (ValueError, TypeError, FlaxError) as error:
                raise UserError(
                    f"{arm.name}, phase {phase.name}, cannot run on these networks:"
                    f" {_first_sentence(error)}; {task.words}: {remedy or REMEDY}"
                ) from error


def _trace(arm: Arm, phase: Phase, guide: Any, extra: Any, task: Any) -> None:
    shapes = variable_shapes(phase.net, task.example)
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), shapes)
    for edit in phase.edits:
        if hasattr(edit, "check"):
            edit.check(phase.net, stacked, guide)
    params, rest = partition(shapes | extra, phase.trainable)
    batch = _batch(phase, shapes, task.batch)
    idle = constant_terms(program_of(phase), params, rest, guide, batch)
    if idle:
        raise UserError(
            f"{arm.name}, phase {phase.name}: the term {idle[0]} depends on nothing that is trained"
            f" ({', '.join(phase.trainable)}); leave it out, or train what it reads"
        )


def _batch(phase: Phase, shapes: Any, batch: Any) -> Any:
    """A training batch, behind the frozen stages whose outputs are kept."""
    kept = phase.feed.cache("target")
    if kept is None:
        return batch
    if not isinstance(batch, dict):
        raise UserError(
            f"phase {phase.name} keeps the outputs of {kept.stage}, and windows of tokens have no"
            " fixed inputs; leave Cached out"
        )
    prefix = functools.partial(forward, phase.net, stop=kept.stage)
    behind = jax.eval_shape(lambda v, x: prefix(v, x)[0], shapes, batch["inputs"])
    return {**batch, "inputs": behind}


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200]


def outline(config: Any, task: Any, method: ModuleType, arms: Sequence[Arm]) -> str:
    """plan.txt: what the method says first, then every arm with exact parameters, its search and
    its phases. Raises UserError.
    """
    lines = list(method.outline(config, task)) if hasattr(method, "outline") else []
    lines.append(f"seeds {config.seeds}, batch {config.train.batch} {task.unit}")
    sizes: dict[Any, tuple[int, float]] = {}
    for arm in arms:
        if arm.net not in sizes:
            sizes[arm.net] = _size(arm, task)
        count, work = sizes[arm.net]
        count = count if arm.parameters is None else arm.parameters
        plan = (arm.plan(arm.first()) if arm.plan else ()) or ()
        if not plan and not arm.solve:
            continue
        lines.append(
            f"\n[{arm.name}] {count:,} parameters, stages {', '.join(arm.net.names)}, about"
            f" {work:,.0f} FLOPs per example (before optimisation)"
        )
        lines += _search(arm)
        if plan:
            lines += [f"{sum(phase.steps for phase in plan)} optimizer steps", describe(plan)]
        else:
            lines.append("not trained: read, or solved for")
    return "\n".join(lines) + "\n"


def _size(arm: Arm, task: Any) -> tuple[int, float]:
    shapes = variable_shapes(arm.net, task.example)
    run = functools.partial(forward, arm.net)
    work = cost.lowered_flops(lambda v, x: run(v, x)[0], shapes, task.example)
    return parameter_count(shapes), work


def _search(arm: Arm) -> list[str]:
    if not arm.search:
        return []
    trials, each = arm.search.trials, []
    plan = arm.plan(arm.first()._replace(seeds=(-1,))) if arm.plan else ()
    length = f" of {sum(phase.steps for phase in plan or ()):,} steps at most" if plan else ""
    for name in ("rate", "decay"):
        values = dict.fromkeys(getattr(trial, name) for trial in trials)
        if any(values):
            each.append(f"{name}s {', '.join(f'{value:g}' for value in values)}")
    return [
        f"   search   {len(trials)} trials{length}, {arm.search.seeds} seeds each:"
        f" {'; '.join(each)}; first point shown"
    ]
