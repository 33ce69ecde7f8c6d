"""Conversion and guidance of one's own networks and arrays, in memory: no config, no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import trees
from theseus_jax.arms import GUIDE, Arm
from theseus_jax.divergence import finding, told
from theseus_jax.errors import Diverged, UserError
from theseus_jax.experiment.jobs import fresh, side_variables
from theseus_jax.experiment.rehearse import rehearse
from theseus_jax.finite import check_finite
from theseus_jax.methods import convert as conversion
from theseus_jax.methods import guidance
from theseus_jax.methods.conversion import REMEDY
from theseus_jax.methods.guide import REMEDY as GUIDED_REMEDY
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Variables, seams, variable_shapes
from theseus_jax.plan import Optimizer, Plan, sides
from theseus_jax.train import Hooks, State, fit

DEFAULT = conversion.Settings(
    "joint",
    "procrustes",
    500,
    align=0.1,
    samples="pooled",
    finish_kl=1.0,
    finish_align=10.0,
    align_optimizer=Optimizer(3e-3),
    finish_optimizer=Optimizer(3e-3),
)


class _Shapes(NamedTuple):
    """What a rehearsal asks of a task."""

    example: Any
    batch: Any
    words: str


def convert(
    guide: Network,
    guide_variables: Variables,
    target: Network,
    inputs: Any,
    labels: Any = None,
    *,
    key: jax.Array,
    mapping: str = "auto",
    settings: conversion.Settings | None = None,
    batch: int = 64,
) -> tuple[Variables, list[dict[str, Any]]]:
    """Convert a classifier of your own into another architecture: (the target's variables, a row
    for every chunk of steps).

    guide, target: networks (`tj.network`) of the same input and number of classes, whose last
    stages give logits (B, O). guide_variables: the guide's, as of `tj.init` and your training.
    inputs: (N, ...), as both networks read them. labels: (N,) int of 0 .. O - 1; None where
    settings read none (`finish_kl` of 1, the default). mapping: "auto", or seams
    "guide_stage=target_stage, ...", each the end of a part. settings:
    `tj.methods.convert.Settings`; by default 500 steps, a tenth of them joint alignment, then
    distillation with Procrustes distance at every seam, rates untuned. batch: rows a step. key: a
    PRNG key. Each row holds phase, step, losses and rate. The plan is that of
    `tj.methods.convert.plan`. Raises UserError for arrays that do not fit each other or the
    networks, unknown stages, seams that cannot be bridged, too few rows.
    """
    settings, inputs = settings or DEFAULT, np.asarray(inputs)
    if labels is None and settings.finish_kl < 1:
        raise UserError(
            f"labels are None and settings read them (finish_kl {settings.finish_kl:g}); give"
            " labels, or finish_kl=1.0"
        )
    example = _example(inputs, batch)
    shapes = {name: _outputs(net, example) for name, net in (("guide", guide), ("target", target))}
    if shapes["guide"] != shapes["target"] or len(shapes["guide"]) != 2:
        raise UserError(
            f"the guide's logits are {shapes['guide']} and the target's {shapes['target']}; give"
            " two networks whose last stages have as many outputs, (B, O)"
        )
    rows = len(inputs)
    given = np.zeros(rows, np.int32) if labels is None else labels
    labels = _labels(given, rows, shapes["target"])
    names = conversion.parse_mapping(mapping, guide, target, example)
    plan = conversion.plan(guide, target, names, settings, shapes=variable_shapes(target, example))
    sides_of = _Sides("converted", guide, guide_variables, target)
    return _fitted(sides_of, plan, inputs, labels, example, key, batch, REMEDY)


def guide(
    guide: Network,
    guide_variables: Variables,
    target: Network,
    inputs: Any,
    labels: Any,
    *,
    key: jax.Array,
    pairs: str = "auto",
    settings: guidance.Settings | None = None,
    batch: int = 64,
) -> tuple[Variables, list[dict[str, Any]]]:
    """Train a network of your own beside a guide: (the target's variables, a row for every chunk of
    steps).

    guide, target: networks (`tj.network`) of the same inputs; the target's last stage gives logits
    (B, O) or (B, T, O). guide_variables: the guide's, trained, or untrained as of `tj.init`; they
    are never changed. inputs: (N, ...). labels: (N,) or (N, T) int of 0 .. O - 1; in sequences a
    negative one asks for nothing. pairs: "auto", or "guide_stage=target_stage, ...", with inner
    activations ("block_3/attn") and as many to one as are named. settings:
    `tj.methods.guidance.Settings`; by default 500 steps at a rate of 1e-3, mean over pairs,
    debiased CKA, weight 1. batch: rows a step. key: a PRNG key. Each row holds phase, step, losses
    and rate.
    Raises UserError for arrays that do not fit each other or the networks, pairs that name no
    stage or cannot be compared, other classes of the guide where its outputs are distilled, too few
    rows.
    """
    settings, inputs = settings or guidance.Settings(), np.asarray(inputs)
    example = _example(inputs, batch)
    labels = _labels(labels, len(inputs), _outputs(target, example))
    if settings.kl:
        guidance.check_outputs(guide, target, example)
    named = guidance.parse_pairs(pairs, guide, target, example)
    plan = guidance.plan(guide, target, named, settings, example)
    sides_of = _Sides("guided", guide, guide_variables, target)
    return _fitted(sides_of, plan, inputs, labels, example, key, batch, GUIDED_REMEDY)


class _Sides(NamedTuple):
    """Who is trained beside whom. name: of the target, in errors and bars."""

    name: str
    guide: Network
    guide_variables: Variables
    target: Network


def _fitted(
    both: _Sides,
    plan: Plan,
    inputs: np.ndarray,
    labels: jax.Array,
    example: Any,
    key: jax.Array,
    batch: int,
    remedy: str,
) -> tuple[Variables, list[dict[str, Any]]]:
    """The target's variables after a plan, and the rows; everything is checked before."""
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key) or key.shape:
        raise UserError(f"key is {key!r}, a {type(key).__name__}; give jax.random.key(0)")
    check_variables(both.guide, both.guide_variables, example)
    rows = {
        "inputs": jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype),
        "labels": jax.ShapeDtypeStruct((batch, *labels.shape[1:]), jnp.int32),
    }
    arms = (
        Arm("guide", both.guide, role=GUIDE),
        Arm(both.name, both.target, lambda turn: plan, guide="guide"),
    )
    rehearse(arms, _Shapes(example, rows, f"inputs are {np.shape(inputs)}"), remedy)
    keys = key[None]
    start = {
        **fresh(both.target, keys, example),
        **jax.vmap(lambda one: side_variables(sides(plan), one))(keys),
    }
    history: list[dict[str, Any]] = []
    begun = State(0, start, both.guide_variables, None, keys)
    examples = {"inputs": jnp.asarray(inputs), "labels": labels}
    try:
        state = fit(
            plan, begun, examples, batch=batch, name=both.name, hooks=Hooks(log=history.append)
        )
    except Diverged as error:
        found = finding(error, plan, begun, examples, batch=batch, chunk_steps=25)
        raise Diverged(f"{error}{told(found)}", error.phase, error.step) from error
    final = trees.unstack(state.variables, 0)
    return {name: final.get(name, {}) for name in both.target.names}, history


def _example(inputs: np.ndarray, batch: int) -> jax.ShapeDtypeStruct:
    """The shape of one input. Raises UserError for too few, or for numbers that are not finite."""
    check_finite({"inputs": inputs}, "the examples", "leave such rows out, or fill them")
    if len(inputs) < batch:
        raise UserError(
            f"{len(inputs)} inputs are fewer than a batch of {batch}; lower batch, or give more"
        )
    return jax.ShapeDtypeStruct((1, *np.shape(inputs)[1:]), jnp.asarray(inputs[:1]).dtype)


def _outputs(net: Network, example: Any) -> tuple[int, ...]:
    """The shape (1, ..., O) of a network's logits."""
    return values_and_mask(list(seams(net, example).values())[-1])[0].shape


def _labels(labels: Any, count: int, logits: tuple[int, ...]) -> jax.Array:
    """Labels as an array. Raises UserError for others than the logits can have."""
    labels, shape = np.asarray(labels), (count, *logits[1:-1])
    outputs = max(logits[-1], 2)  # one logit tells two classes apart
    lowest = 0 if len(shape) == 1 else np.iinfo(np.int32).min
    if (
        labels.shape != shape
        or labels.dtype.kind not in "iu"
        or not (lowest <= labels).all()
        or not (labels < outputs).all()
    ):
        wanted = ("N", "T")[: len(shape)]
        raise UserError(
            f"labels of shape {labels.shape}, {labels.dtype}, for {count} inputs and {outputs}"
            f" classes; give ({', '.join(wanted)}{',' * (len(shape) == 1)}) integers in 0 .."
            f" {outputs - 1}"
        )
    return jnp.asarray(labels, jnp.int32)


def check_variables(guide: Network, variables: Any, example: Any) -> None:
    """Raises UserError unless `variables` are those of the guide, stage by stage, and finite."""
    remedy = 'give {stage: {"params": ...}} as tj.init returns it'
    wanted = variable_shapes(guide, example)
    if not isinstance(variables, Mapping) or not set(variables) & set(guide.names):
        held = (
            ", ".join(map(str, variables))
            if isinstance(variables, Mapping)
            else type(variables).__name__
        )
        raise UserError(
            f"guide_variables hold {held or 'nothing'} and no stage of the guide"
            f" ({', '.join(guide.names)}); {remedy}"
        )
    for name, tree in wanted.items():
        theirs, ours = trees.leaves_by_path(variables.get(name, {})), trees.leaves_by_path(tree)
        missing = sorted(ours.keys() - theirs.keys())
        if missing:
            raise UserError(
                f"guide_variables have no {name}/{missing[0]}, which the guide's stage {name!r}"
                f" reads; {remedy}"
            )
        for path, leaf in ours.items():
            if np.shape(theirs[path]) != leaf.shape:
                raise UserError(
                    f"guide_variables have {name}/{path} of shape {np.shape(theirs[path])} and the"
                    f" guide's stage {name!r} needs {leaf.shape}; give the variables of this very"
                    " network"
                )
            given = {f"{name}/{path}": theirs[path]}
            check_finite(given, "guide_variables", "the guide has diverged: train it again")
