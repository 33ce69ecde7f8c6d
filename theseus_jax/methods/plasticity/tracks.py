"""Running numbers of units, which every step adds to: what a score of one batch cannot know.

A track is a hashable function (site, now, record) -> new of {name: (J,) float32}, with `sites`,
`fresh(site)` (what it begins with, and a newborn unit again) and the activations that it reads
(`target`, as a term's). `Phase.tracks` has a step call it.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from theseus_jax.methods.plasticity.units import Rows, rows_of, side
from theseus_jax.nets.sites import Site
from theseus_jax.program import StepRecord

Numbers = dict[str, jax.Array]  # {name: (J,)}


@dataclasses.dataclass(frozen=True)
class _Track:
    sites: tuple[Site, ...]
    guide: ClassVar[tuple[str, ...]] = ()
    names: ClassVar[tuple[str, ...]] = ()

    @property
    def target(self) -> tuple[str, ...]:
        return tuple(f"{site.name}/h" for site in self.sites)

    def fresh(self, site: Site) -> Numbers:
        """All zeros."""
        return {name: jnp.zeros(site.width) for name in self.names}


def _activations(record: StepRecord, site: Site) -> jax.Array:
    return record.signals.target[f"{site.name}/h"].reshape(-1, site.width).astype(jnp.float32)


def magnitudes(site: Site, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """(J,) twice: the mean |weight| of what makes a unit and of what reads it."""
    made, read = (jnp.abs(side(site, rows, incoming)).mean(axis=1) for incoming in (True, False))
    return made, read


@dataclasses.dataclass(frozen=True)
class Utility(_Track):
    """Of continual backprop (Dohare et al. 2024, Nature 632, algorithm 1): the running mean of
    |h - its running mean| times the mean |outgoing weight| over the mean |incoming weight|.

    weight: 1 - decay ** steps, which a running mean is divided by, since it begins at 0.
    """

    decay: float = 0.99
    names: ClassVar[tuple[str, ...]] = ("weight", "mean", "utility")

    def __call__(self, site: Site, now: Numbers, record: StepRecord) -> Numbers:
        h = _activations(record, site)
        rows = rows_of(record.params, site.parameters)
        made, read = magnitudes(site, rows)

        def run(old: jax.Array, new: jax.Array | float) -> jax.Array:
            return self.decay * old + (1 - self.decay) * new

        weight, mean = run(now["weight"], 1.0), run(now["mean"], h.mean(axis=0))
        spread = jnp.abs(h - mean / weight).mean(axis=0)
        value = spread * read / jnp.maximum(made, jnp.finfo(made.dtype).tiny)
        return {"weight": weight, "mean": mean, "utility": run(now["utility"], value)}

    def __str__(self) -> str:
        return f"running utility, decay {self.decay:g}"


@dataclasses.dataclass(frozen=True)
class Firing(_Track):
    """How often units fire, which is to be above 0 on some example of a batch. seen: steps of it;
    fired: those in which it did; silent: how many have passed since the last of them.
    """

    names: ClassVar[tuple[str, ...]] = ("seen", "fired", "silent")

    def __call__(self, site: Site, now: Numbers, record: StepRecord) -> Numbers:
        fires = (_activations(record, site) > 0).any(axis=0)
        return {
            "seen": now["seen"] + 1,
            "fired": now["fired"] + fires,
            "silent": jnp.where(fires, 0.0, now["silent"] + 1),
        }

    def __str__(self) -> str:
        return "how often units fire"
