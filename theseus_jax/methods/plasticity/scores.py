"""What ranks units, for birth and for death: each a small function of one site's view.

Every score is (J,), and says which units come first: the highest are grown, the lowest pruned.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import units
from theseus_jax.methods.plasticity.signals import Reading
from theseus_jax.methods.plasticity.units import Rows
from theseus_jax.nets.sites import Masks, Site

ACTIVE = 0.05  # an activation above it counts as one (arXiv 2605.15435, section 3)


class View(NamedTuple):
    """One site of one seed, as scores and births are given it.

    rows: what makes and reads every unit now, {path: (J, F)}; fresh: the same of a fresh start.
    reading: of one batch. credit: {path: (J, F)} of the outgoing slices, the loss by the weights
    that read a unit, were it on and those weights 0. gradmax(view): rows of a birth by GradMax.
    running: {name: (J,)} of the site's tracks, {} without any.
    """

    site: Site
    rows: Rows
    fresh: Rows
    masks: Masks
    chosen: jax.Array
    reading: Reading
    credit: Rows
    key: jax.Array
    step: jax.Array
    gradmax: Any = None
    running: Any = {}

    def side(self, rows: Rows, incoming: bool) -> jax.Array:
        """(J, F): all weights of a unit's one side, of products alone (not biases and scales)."""
        return units.side(self.site, rows, incoming)


Score = Callable[[View], jax.Array]


def activation(view: View) -> jax.Array:
    """The share of a batch on which a unit is active, or would be (the paper's default)."""
    return (view.reading.h > ACTIVE).mean(axis=0, dtype=jnp.float32)


def gradient(view: View) -> jax.Array:
    """|loss by the unit's mask|, at what the mask is: a Taylor saliency of what is on."""
    return jnp.abs((view.reading.h * view.reading.da).sum(axis=0))


def gradmax(view: View) -> jax.Array:
    """The norm of the gradient that the weights reading a unit would get, were it on and they 0
    (the selection after GradMax, arXiv 2201.05125).
    """
    return jnp.sqrt(sum((part**2).sum(axis=1) for part in view.credit.values()))


def random(view: View) -> jax.Array:
    """Uniform in [0, 1)."""
    return jax.random.uniform(view.key, view.chosen.shape)


def magnitude(view: View) -> jax.Array:
    """The mean |incoming weight|."""
    return jnp.abs(view.side(view.rows, incoming=True)).mean(axis=1)


def dormancy(view: View) -> jax.Array:
    """The mean |activation| over that of the mean unit that is on (ReDo, arXiv 2302.12902, equation
    1): at 0 a unit is dormant.
    """
    mean, live = jnp.abs(view.reading.h).mean(axis=0), view.masks.live
    usual = jnp.where(live, mean, 0).sum() / jnp.maximum(live.sum(), 1)
    return mean / jnp.maximum(usual, jnp.finfo(mean.dtype).tiny)


def contribution(view: View) -> jax.Array:
    """mean |h - mean h| times the mean |outgoing weight| over the mean |incoming weight|: the
    utility of continual backprop (Dohare et al. 2024) on one batch.
    """
    h = view.reading.h
    spread = jnp.abs(h - h.mean(axis=0)).mean(axis=0)
    reads = jnp.abs(view.side(view.rows, incoming=False)).mean(axis=1)
    made = magnitude(view)
    return spread * reads / jnp.maximum(made, jnp.finfo(made.dtype).tiny)


def utility(view: View) -> jax.Array:
    """The running utility of continual backprop (Dohare et al. 2024), without the bias of a mean
    that began at 0; of units that no step has seen yet 0. Needs `tracks.Utility`.
    """
    weight, value = tracks_of(view, "utility", "weight", "utility")
    return value / jnp.where(weight > 0, weight, 1.0)


def silence(view: View) -> jax.Array:
    """How likely a unit that fires as often as it did while it still fired is silent for as long as
    it is now, (1 - rate) ** steps: small, and it has fallen out of its own habit (self-normalised
    resets, arXiv 2410.20098, their percentile by a geometric tail). Needs `tracks.Firing`.
    """
    seen, fired, silent = tracks_of(view, "silence", "seen", "fired", "silent")
    rate = (fired + 1) / (seen - silent + 2)
    return (1 - rate) ** silent


def tracks_of(view: View, reader: str, *names: str) -> tuple[jax.Array, ...]:
    """These tracks of the site, each (J,). Raises UserError where the phase does not keep them."""
    missing = [name for name in names if name not in view.running]
    if missing:
        raise UserError(
            f"{reader} reads the running {', '.join(missing)} of {view.site}, which the phase does"
            " not keep; give it the track in Phase.tracks (methods.plasticity.tracks)"
        )
    return tuple(view.running[name] for name in names)


SCORES: dict[str, Score] = {
    one.__name__: one
    for one in (
        *(activation, gradient, gradmax, random, magnitude, dormancy, contribution),
        *(utility, silence),
    )
}


def first(scores: jax.Array, among: jax.Array, count: Any, highest: bool) -> jax.Array:
    """(J,) bool: the `count` units with the highest (lowest) scores among some; ties go to the
    lower index, and a score that is not a number comes last. All of them where they are fewer.
    """
    merit = scores if highest else -scores
    merit = jnp.where(among & ~jnp.isnan(merit), merit, -jnp.inf)
    # those that are not among come after a score of -inf that is
    order = jnp.lexsort((jnp.arange(len(merit)), -merit, ~among))
    rank = jnp.zeros(len(merit), jnp.int32).at[order].set(jnp.arange(len(merit), dtype=jnp.int32))
    return among & (rank < count)
