"""Newborn units beside incumbents: what reaches them, forwards and backwards (arXiv 2605.15435,
section 4).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.methods.plasticity.scores import ACTIVE
from theseus_jax.methods.plasticity.seeds import Edit, Seed, each_seed
from theseus_jax.nets.sites import Masks, masks
from theseus_jax.train import Inputs, State


class Cohort(NamedTuple):
    """Means over the units of one cohort at a site, scalars; NaN of a cohort without units.

    active: the share of a batch on which they are active. credit: mean |loss by what they read|.
    aligned: of that credit the part that does not cancel over the batch, in [0, 1]: |sum| / sum of
    |.|. incoming, outgoing: norms of the gradients of the weights that make and read them.
    """

    active: jax.Array
    credit: jax.Array
    aligned: jax.Array
    incoming: jax.Array
    outgoing: jax.Array


def newborn(now: Masks) -> jax.Array:
    """(J,) bool: the units that are on and were born last of all."""
    last = jnp.where(now.live, now.born, -1).max()
    return now.live & (now.born == last) & (last >= 0)


def cohorts(seed: Seed, number: int) -> tuple[Cohort, Cohort]:
    """(of newborn units, of the others that are on) of a site."""
    view = seed.view(number, jnp.int32(0))
    young = newborn(view.masks)
    read, total = view.reading, jnp.abs(view.reading.dz).sum(axis=0)
    per_unit = Cohort(
        (read.h > ACTIVE).mean(axis=0, dtype=jnp.float32),
        jnp.abs(read.dz).mean(axis=0),
        jnp.abs(read.dz.sum(axis=0)) / jnp.maximum(total, jnp.finfo(total.dtype).tiny),
        jnp.linalg.norm(view.side(seed.gradient_rows(number), incoming=True), axis=1),
        jnp.linalg.norm(view.side(seed.gradient_rows(number), incoming=False), axis=1),
    )

    def mean(among: jax.Array) -> Cohort:
        count = jnp.where(among.any(), among.sum(), jnp.nan)
        return Cohort(*(jnp.where(among, one, 0).sum() / count for one in per_unit))

    return mean(young), mean(view.masks.live & ~young)


@dataclasses.dataclass(frozen=True)
class Parity(Edit):
    """Looks at both cohorts of every site and changes nothing: a row of kind "cohorts" a seed and
    site. when: "post" (right after an edit), "exit" (before the next) or "end".
    """

    when: str
    batch: int = 256

    def __call__(self, state: State, inputs: Inputs) -> State:
        return state

    def change(self, seed: Seed, counts: Any, step: Any, start: Any) -> Any:
        return [cohorts(seed, i) for i in range(len(seed.sites))]

    def told(self, before: State, after: State, inputs: Inputs) -> Iterator[dict[str, Any]]:
        found = jax.device_get(each_seed(self, after, inputs))
        for i, site in enumerate(inputs.phase.net.sites):
            live = np.asarray(masks(after.variables, site).live).sum(axis=1)
            for seed, units in enumerate(live):
                row = {"kind": "cohorts", "when": self.when, "seed": seed, "site": site.name}
                for cohort, name in zip(found[i], ("newborn", "incumbent")):
                    for key, value in cohort._asdict().items():
                        number = float(value[seed])
                        row[f"{name}_{key}"] = number if np.isfinite(number) else None
                yield {**row, "live": int(units)}

    def __str__(self) -> str:
        return f"newborn beside incumbent units, {self.when}"


@dataclasses.dataclass(frozen=True)
class Sides(Edit):
    """Looks at every unit: (active, credit) (J,) a site, as of `Cohort`; it changes nothing."""

    batch: int = 256

    def change(self, seed: Seed, counts: Any, step: Any, start: Any) -> Any:
        found = [seed.read[site.name] for site in seed.sites]
        return [
            ((one.h > ACTIVE).mean(axis=0, dtype=jnp.float32), jnp.abs(one.dz).mean(axis=0))
            for one in found
        ]


def kept_beside_pruned(before: State, after: State, inputs: Inputs) -> Iterator[dict[str, Any]]:
    """A row of kind "pruned" a seed and site of a prune between two states: the mean activity and
    credit of the units that it kept and that it took, before it; and `moved`, the mean change of
    the kept units' activity by it (arXiv 2605.15435, section 4: survivor stability).
    """
    sides = jax.device_get([each_seed(Sides(), state, inputs) for state in (before, after)])
    for i, site in enumerate(inputs.phase.net.sites):
        old, new = (np.asarray(masks(one.variables, site).live) for one in (before, after))
        (active, credit), (later, _) = (one[i] for one in sides)
        for seed in range(len(old)):
            kept, gone = new[seed], old[seed] & ~new[seed]
            if not gone.any():
                continue
            row = {"kind": "pruned", "seed": seed, "site": site.name}
            for name, value in (("active", active[seed]), ("credit", credit[seed])):
                row |= {f"kept_{name}": float(value[kept].mean())}
                row |= {f"pruned_{name}": float(value[gone].mean())}
            change = np.abs(later[seed] - active[seed])[kept].mean()
            yield {**row, "moved": float(change), "live": int(kept.sum())}
