"""Conversion of one's own networks and arrays, in memory: no config, no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import trees
from theseus_jax.arms import GUIDE, Arm
from theseus_jax.errors import UserError
from theseus_jax.experiment.jobs import fresh, side_variables
from theseus_jax.experiment.rehearse import rehearse
from theseus_jax.methods import convert as conversion
from theseus_jax.methods.conversion import REMEDY
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Variables, seams, variable_shapes
from theseus_jax.plan import Optimizer, sides
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
    example, labels = _checked(guide, target, inputs, labels, settings, batch)
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key) or key.shape:
        raise UserError(f"key is {key!r}, a {type(key).__name__}; give jax.random.key(0)")
    names = conversion.parse_mapping(mapping, guide, target, example)
    check_variables(guide, guide_variables, example)
    shapes = variable_shapes(target, example)
    plan = conversion.plan(guide, target, names, settings, shapes=shapes)
    rows = {
        "inputs": jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype),
        "labels": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    arms = (
        Arm("guide", guide, role=GUIDE),
        Arm("converted", target, lambda turn: plan, guide="guide"),
    )
    rehearse(arms, _Shapes(example, rows, f"inputs are {np.shape(inputs)}"), REMEDY)
    keys = key[None]
    start = {
        **fresh(target, keys, example),
        **jax.vmap(lambda one: side_variables(sides(plan), one))(keys),
    }
    history: list[dict[str, Any]] = []
    state = fit(
        plan,
        State(0, start, guide_variables, None, keys),
        {"inputs": jnp.asarray(inputs), "labels": labels},
        batch=batch,
        name="converted",
        hooks=Hooks(log=history.append),
    )
    final = trees.unstack(state.variables, 0)
    return {name: final.get(name, {}) for name in target.names}, history


def _checked(
    guide: Network,
    target: Network,
    inputs: Any,
    labels: Any,
    settings: conversion.Settings,
    batch: int,
) -> tuple[Any, Any]:
    """(the shape of one input, labels as an array)."""
    count = len(inputs)
    example = jax.ShapeDtypeStruct((1, *np.shape(inputs)[1:]), jnp.asarray(inputs[:1]).dtype)
    classes = {
        name: values_and_mask(list(seams(net, example).values())[-1])[0].shape
        for name, net in (("guide", guide), ("target", target))
    }
    if classes["guide"] != classes["target"] or len(classes["guide"]) != 2:
        raise UserError(
            f"the guide's logits are {classes['guide']} and the target's {classes['target']}; give"
            " two networks whose last stages have as many outputs, (B, O)"
        )
    if labels is None and settings.finish_kl < 1:
        raise UserError(
            f"labels are None and settings read them (finish_kl {settings.finish_kl:g}); give"
            " labels, or finish_kl=1.0"
        )
    labels = np.zeros(count, np.int32) if labels is None else np.asarray(labels)
    outputs = max(classes["guide"][1], 2)  # one logit tells two classes apart
    if (
        labels.shape != (count,)
        or labels.dtype.kind not in "iu"
        or not (0 <= labels).all()
        or not (labels < outputs).all()
    ):
        raise UserError(
            f"labels of shape {labels.shape}, {labels.dtype}, for {count} inputs and {outputs}"
            f" classes; give (N,) integers in 0 .. {outputs - 1}"
        )
    if np.issubdtype(inputs.dtype, np.inexact) and not np.isfinite(inputs).all():
        row = int(np.argwhere(~np.isfinite(inputs))[0][0])
        raise UserError(
            f"inputs hold numbers that are not finite, the first in row {row}; leave such rows out,"
            " or fill them"
        )
    if count < batch:
        raise UserError(
            f"{count} inputs are fewer than a batch of {batch}; lower batch, or give more"
        )
    return example, jnp.asarray(labels, jnp.int32)


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
            if not np.isfinite(np.asarray(theirs[path], np.float64)).all():
                raise UserError(
                    f"guide_variables hold numbers that are not finite in {name}/{path}; the guide"
                    " has diverged: train it again with a lower rate"
                )
