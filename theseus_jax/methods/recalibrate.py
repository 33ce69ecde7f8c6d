"""Batch-norm statistics measured instead of averaged: recalibration between phases, and the modes
of an untrained guide.

Network of Theseus (arXiv 2512.04198) re-calibrates batch-norm statistics between its stages: the
moving averages of training belong to the networks of earlier steps, not to the one that is kept.
The definition here is our own: every layer gets the mean and the biased variance (Ioffe & Szegedy
2015, arXiv 1502.03167, algorithm 1) of what it reads in evaluation mode, over all rows of one pass,
after every layer before it got its own.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.methods.moments import PARTS, Moments, moments, pooled
from theseus_jax.methods.stitch import drawn
from theseus_jax.nets.modes import mode_arguments
from theseus_jax.nets.stage import Network, Stage, Variables, position, tied
from theseus_jax.nets.variables import merge
from theseus_jax.train import Inputs, State
from theseus_jax.trees import leaves_by_path, nested, stack, unstack

Path = tuple[str, ...]  # of a layer inside its stage; () for a stage that is itself a batch norm


def _evaluated(module: nn.Module, own: Mapping[str, Any], x: Any) -> tuple[Any, Mapping[str, Any]]:
    """A stage's output in evaluation mode, and its batch statistics, which only an interceptor can
    have changed.
    """
    y, changed = module.apply(own, x, mutable=["batch_stats"], **mode_arguments(module, False))
    return y, changed.get("batch_stats", {})


def _is_norm(context: Any) -> bool:
    return isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__"


def _read(own: Mapping[str, Any], path: Path) -> Any:
    return functools.reduce(lambda tree, key: tree[key], path, own)


def _features(module: nn.BatchNorm, x: jax.Array) -> jax.Array:
    """What a batch norm reads as (samples, ...features)."""
    axes = sorted(axis % x.ndim for axis in np.atleast_1d(module.axis))
    x = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return x.reshape(-1, *x.shape[x.ndim - len(axes) :])


def _met(module: nn.Module, path: Path, own: Mapping[str, Any], x: Any) -> Moments:
    """Moments of what the batch norm `path` reads. They leave the module among its statistics, as a
    tracer kept aside could not leave a lifted transform.
    """
    counts = []

    def interceptor(run: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        if not _is_norm(context) or context.module.path != path:
            return run(*args, **kwargs)
        read = args[0] if args else kwargs["x"]
        met = moments(_features(context.module, read))
        counts.append(met.count)
        for name in PARTS:
            context.module.put_variable("batch_stats", name, getattr(met, name))
        return read

    with nn.intercept_methods(interceptor):
        statistics = _read(_evaluated(module, own, x)[1], path)
    return Moments(counts[0], *(statistics[name] for name in PARTS))


def _norms(stage: Stage, own: Mapping[str, Any], x: Any) -> tuple[Path, ...]:
    """The paths of a stage's batch norms in the order of their calls. Raises UserError for one that
    cannot be calibrated.
    """
    met: list[Path] = []

    def interceptor(run: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        if _is_norm(context):
            named = f"batch norm {'/'.join((stage.name, *context.module.path))}"
            if context.module.path in met:
                raise UserError(
                    f"{named} is called twice in its stage, so no single statistics are those of"
                    " its input; give each call a layer of its own, also where nn.scan calls it,"
                    " or leave the stage out"
                )
            running = {"use_running_average": args[1]} if len(args) > 1 else kwargs
            if (
                not nn.merge_param(
                    "use_running_average",
                    context.module.use_running_average,
                    running.get("use_running_average"),
                )
                or kwargs.get("mask") is not None
            ):
                raise UserError(
                    f"{named} has a mask or uses its batch's own statistics in evaluation, so it"
                    " cannot be calibrated; give it use_running_average=not train and no mask, or"
                    " leave the stage out"
                )
            met.append(context.module.path)
        return run(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        jax.eval_shape(lambda v, z: _evaluated(stage.module, v, z), dict(own), x)
    held = {tuple(path.split("/"))[:-1] for path in leaves_by_path(own["batch_stats"])}
    unread = sorted("/".join((stage.name, *path)) for path in held - set(met))
    if unread:
        raise UserError(
            f"the batch statistics of {', '.join(unread)} are read by no nn.BatchNorm in"
            " evaluation, so how to calibrate them is not known; use nn.BatchNorm, or leave the"
            " stage out"
        )
    return tuple(met)


def _in_blocks(fn: Callable[[Any], Any], x: Any, block: int) -> list[Any]:
    """fn of each full block of rows, stacked, and of the rows left over, stacked too; one of the
    two may be missing.

    Nothing is padded: a layer may mix rows with positions as it likes.
    """
    rows = len(jax.tree.leaves(x)[0])
    full, left = divmod(rows, block)

    def taken(begin: Any, size: int) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, size), x)

    blocks = [jax.lax.map(lambda i: fn(taken(i * block, block)), jnp.arange(full))] if full else []
    return blocks + (
        [jax.tree.map(lambda leaf: leaf[None], fn(taken(full * block, left)))] if left else []
    )


@functools.partial(jax.jit, static_argnames=("module", "norms", "block", "onwards"))
def _calibrated(
    module: nn.Module,
    norms: tuple[Path, ...],
    block: int,
    onwards: bool,
    own: Mapping[str, Any],
    x: Any,
) -> tuple[Any, Any]:
    """One stage's new batch statistics, and its outputs for all rows where the next stage needs
    them, else None.
    """
    own = dict(own)
    for path in norms:
        met = pooled(*_in_blocks(functools.partial(_met, module, path, own), x, block))
        old = _read(own["batch_stats"], path)
        new = {
            "mean": met.mean.astype(old["mean"].dtype),
            "var": met.variance.astype(old["var"].dtype),
        }
        placed = nested({"/".join((*path, name)): leaf for name, leaf in new.items()})
        own["batch_stats"] = merge(own["batch_stats"], placed)
    if not onwards:
        return own.get("batch_stats"), None
    parts = _in_blocks(lambda rows: _evaluated(module, own, rows)[0], x, block)
    flat = [jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), part) for part in parts]
    return own.get("batch_stats"), jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *flat)


def batch_statistics(
    net: Network,
    variables: Variables,
    x: Any,
    *,
    stages: tuple[str, ...] | None = None,
    start: str | None = None,
    block: int = 256,
) -> Variables:
    """The variables with the exact mean and biased variance of what every nn.BatchNorm inside
    `stages` reads, over all rows of x and all positions, in evaluation mode and with all layers
    before it recalibrated: what the deployed network meets.

    x: the input of stage `start` (None: the first), an array (N, ...) or a pytree of such. stages:
    names (None: all from `start` on); the others keep their statistics and are only run. variables:
    of one seed; for more, map it with `program.over_seeds` or vmap. block: rows a call, for memory;
    it changes rounding alone. A stage costs one pass over that stage for each of its norms and one
    more for its outputs, which are kept for all N rows; it is one compiled program, shared by equal
    stages. Accumulated in float32 within 1e-5 of float64 (`moments`). All else is returned as
    given. Raises UserError for an unknown stage or one before `start`, for no rows or leaves of
    different N, for block < 1, and for a batch norm that is called twice, has a mask or never uses
    running statistics.
    """
    first = 0 if start is None else position(net, start)
    names = net.names[first:] if stages is None else tuple(stages)
    early = [name for name in names if position(net, name) < first]
    if early:
        raise UserError(
            f"stages {', '.join(early)} stand before {start!r}, which reads x; leave them out or"
            " start earlier"
        )
    rows = sorted({leaf.shape[:1] for leaf in jax.tree.leaves(x)})
    if len(rows) != 1 or rows[0] in ((), (0,)) or block < 1:
        raise UserError(
            f"x has {rows} rows and a block {block}; give leaves of one and the same number of"
            " rows, 1 or more"
        )
    block = min(block, *rows[0])
    chosen = {position(net, name) for name in names if variables.get(name, {}).get("batch_stats")}
    variables = dict(variables)
    for i in range(first, max(chosen, default=-1) + 1):
        stage = net.stages[i]
        own = tied(net, stage.name, variables)
        norms = _norms(stage, own, x) if i in chosen else ()
        statistics, x = _calibrated(stage.module, norms, block, i < max(chosen), own, x)
        if norms:
            variables[stage.name] = {**variables[stage.name], "batch_stats": statistics}
    return variables


@dataclasses.dataclass(frozen=True)
class Recalibrate:
    """Surgery: the batch statistics of `stages` (None: all) of the phase's network measured anew
    for every seed.

    rows: how many training examples are read (all, if there are fewer), drawn once, the same for
    every seed. Parameters are untouched; a network without batch norm is left alone. Errors are
    those of `batch_statistics`.
    """

    stages: tuple[str, ...] | None = None
    rows: int = 2048

    def __call__(self, state: State, inputs: Inputs) -> State:
        net = inputs.phase.net
        held = {
            name
            for name in self.stages or net.names
            if state.variables.get(name, {}).get("batch_stats")
        }
        for name in self.stages or ():
            position(net, name)
        if not held:
            return state
        x = drawn(inputs, self.rows)
        # Seed after seed, by the same compiled programs: every stage's activations for all rows are
        # held at a time
        each = [
            batch_statistics(net, unstack(state.variables, i), x, stages=self.stages)
            for i in range(len(state.key))
        ]
        return state._replace(
            variables={
                name: (
                    {**tree, "batch_stats": stack([new[name]["batch_stats"] for new in each])}
                    if name in held
                    else tree
                )
                for name, tree in state.variables.items()
            }
        )

    def __str__(self) -> str:
        return (
            f"recalibrate batch norm of {', '.join(self.stages or ('all stages',))} on {self.rows}"
            " training examples"
        )
