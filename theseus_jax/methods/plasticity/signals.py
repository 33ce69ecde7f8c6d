"""What units do on a batch: their inputs and activations, and the gradients that reach them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from theseus_jax.nets.sites import Site
from theseus_jax.nets.stage import Variables
from theseus_jax.nets.variables import merge, partition
from theseus_jax.program import Program, StepRecord, loss_fn


class Reading(NamedTuple):
    """Of one site, each (M, J), M = examples times positions.

    z: what units read, weighted and normed. h: their activations, also of units that are off. dz:
    the loss by z, 0 for units that are off. da: the loss by what the next layer reads, also for
    those.
    """

    z: jax.Array
    h: jax.Array
    dz: jax.Array
    da: jax.Array


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A watch that asks for activations and says nothing."""

    target: tuple[str, ...]
    every: int = 1
    guide: ClassVar[tuple[str, ...]] = ()

    def __call__(self, record: StepRecord) -> dict[str, jax.Array]:
        return {}


def readings(
    program: Program,
    variables: Variables,
    guide_variables: Variables,
    batch: Any,
    key: jax.Array,
    sites: Sequence[Site],
    taps: dict[str, jax.Array] | None = None,
    pulled: dict[str, jax.Array] | None = None,
) -> tuple[dict[str, Reading], Any]:
    """({name of a site: reading}, gradient of the trained parameters) of one batch, by the loss
    that the program minimises, in training. taps: {name: what is added to the site's output}.
    pulled: {name: c (M, J)}, gradients are those of the sum of c z over these sites instead.
    """
    names = tuple(f"{site.name}/{part}" for site in sites for part in ("z", "h"))
    program = dataclasses.replace(program, watches=(_Reader(names),))
    params, rest = partition(variables, program.trainable)
    progress = jnp.zeros(()), jnp.ones(())

    def loss(params: Any, parts: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        given = _with_taps(rest, sites, parts)
        value, (_, _, signals) = loss_fn(
            program, params, given, guide_variables, batch, progress, key
        )
        if pulled is not None:
            value = sum(
                (signals.target[f"{name}/z"] * c.reshape(signals.target[f"{name}/z"].shape)).sum()
                for name, c in pulled.items()
            )
        return value, signals.target

    seen = jax.eval_shape(loss, params, ())[1]
    parts = []
    for site in sites:
        nothing = jnp.zeros(seen[f"{site.name}/h"].shape, seen[f"{site.name}/h"].dtype)
        added = nothing if taps is None else taps.get(site.name, nothing)
        parts.append({"z": nothing, "a": added.reshape(nothing.shape)})
    (slopes, felt), found = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, parts)
    read = {}
    for site, d in zip(sites, felt):
        values = found[f"{site.name}/z"], found[f"{site.name}/h"], d["z"], d["a"]
        read[site.name] = Reading(*(value.reshape(-1, site.width) for value in values))
    return read, slopes


def _with_taps(rest: Variables, sites: Sequence[Site], parts: Any) -> Variables:
    for site, part in zip(sites, parts):
        for name in reversed(site.path):
            part = {name: part}
        rest = merge(rest, {site.stage: {"taps": part}})
    return rest
