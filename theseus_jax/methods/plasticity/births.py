"""How a unit begins: each a small function of a site's view to the rows that it writes.

A birth gives the rows of all units; those of units that neither are chosen nor share with a chosen
one are returned as they are. It says whether the network's function stays: `preserving`.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.methods.plasticity.scores import View
from theseus_jax.methods.plasticity.units import Rows
from theseus_jax.nets.sites import Slice


class Born(NamedTuple):
    """rows: of parameters, all units, written whole. donors: (J,) int32, the unit that each was
    made from, itself where from none.
    """

    rows: Rows
    donors: jax.Array


Birth = Callable[[View], Born]


def _names(slices: tuple[Slice, ...]) -> list[str]:
    return ["/".join(one.path) for one in slices]


def _mixed(view: View, new: Rows) -> Born:
    """Born of nobody: the new rows for chosen units."""
    chosen = view.chosen[:, None]
    rows = {
        name: jnp.where(chosen, new[name], old) if name in new else old
        for name, old in view.rows.items()
    }
    return Born(rows, jnp.arange(len(view.chosen)))


def stored(view: View) -> Born:
    """With the numbers that stand there, those of the network's start where nothing was on since
    (arXiv 2605.15435, section 3).
    """
    return _mixed(view, {})


def random(view: View) -> Born:
    """With fresh numbers on both sides, as the network starts."""
    return _mixed(view, view.fresh)


def zero_outgoing(view: View) -> Born:
    """Fresh incoming numbers, and outgoing ones 0: the function stays, the unit's inputs get no
    gradient at first.
    """
    return _mixed(view, view.fresh | _zeros(view, view.site.outgoing))


def _zeros(view: View, slices: tuple[Slice, ...]) -> Rows:
    return {name: jnp.zeros_like(view.rows[name]) for name in _names(slices)}


def copy_split(view: View) -> Born:
    """Each a copy of a unit that is on, whose outgoing weights both share out at random: the
    function stays (Net2Wider, arXiv 1511.05641, section 2.1), and unequal shares part the twins.

    Donors are different units as long as there are enough.
    """
    shuffle, split = jax.random.split(view.key)
    count = len(view.chosen)
    live = view.masks.live & ~view.chosen
    noise = jax.random.uniform(shuffle, (count,))
    order = jnp.argsort(jnp.where(live, noise, 2.0))  # donors first, in random order
    turn = jnp.cumsum(view.chosen) - 1
    donors = order[turn % jnp.maximum(live.sum(), 1)]
    donors = jnp.where(view.chosen, donors, jnp.arange(count))
    weight = jax.random.uniform(split, (count,), minval=0.5, maxval=1.0)
    # a donor and its copies each take their weight's share of the whole family's
    family = jax.ops.segment_sum(jnp.where(view.chosen | live, weight, 0.0), donors, count)
    alone = jax.ops.segment_sum(view.chosen.astype(jnp.int32), donors, count)[donors] == 0
    share = jnp.where(alone, 1.0, weight / jnp.maximum(family[donors], 1e-9))
    rows = {}
    for name, old in view.rows.items():
        copy = old[donors]
        rows[name] = copy * share[:, None] if name in _names(view.site.outgoing) else copy
    return Born(rows, donors)


def paired(view: View) -> Born:
    """In pairs with the same fresh incoming numbers and opposite outgoing ones, (V, V) and (Z, -Z):
    the function stays and both sides get a gradient at once (arXiv 2306.12700, section 3). Of an
    odd number the last is born with outgoing 0.
    """
    turn = jnp.cumsum(view.chosen) - 1
    total = view.chosen.sum()
    places = jnp.argsort(~view.chosen, stable=True)  # chosen units first, in order
    partner = jnp.where(view.chosen, places[turn - turn % 2], jnp.arange(len(view.chosen)))
    sign = jnp.where(turn % 2 == 0, 1.0, -1.0)
    sign = jnp.where((total % 2 == 1) & (turn == total - 1), 0.0, sign)
    new = {name: view.fresh[name][partner] for name in _names(view.site.incoming)}
    for name in _names(view.site.outgoing):
        new[name] = view.fresh[name][partner] * sign[:, None]
    return _mixed(view, new)


def variance_matched(view: View) -> Born:
    """Fresh numbers with the scale of the units that are on: the incoming weights with the median
    of their norms, the outgoing ones likewise.

    The paper's newborns have a fresh network's scale in a trained one; this takes scale out of the
    comparison (our probe).
    """
    live = view.masks.live & ~view.chosen
    new = dict(view.fresh)
    for name in _names(view.site.parameters):
        if view.rows[name].shape[1] == 1:  # biases and scales
            continue
        norms = jnp.linalg.norm(view.rows[name], axis=1)
        usual = jnp.nanmedian(jnp.where(live, norms, jnp.nan))
        own = jnp.linalg.norm(view.fresh[name], axis=1, keepdims=True)
        scaled = view.fresh[name] * usual / jnp.maximum(own, 1e-12)
        new[name] = jnp.where(live.any(), scaled, view.fresh[name])
    return _mixed(view, new)


def gradmax(view: View) -> Born:
    """Incoming weights 0 and outgoing ones along the directions that give the largest gradient: the
    function stays but for a bias of `gradmax.OPEN` that opens a ReLU (`plasticity.gradmax`).
    """
    return Born(view.gradmax(view), jnp.arange(len(view.chosen)))


BIRTHS: dict[str, Birth] = {
    one.__name__: one
    for one in (stored, random, zero_outgoing, copy_split, paired, variance_matched, gradmax)
}
PRESERVING = ("zero_outgoing", "copy_split", "paired", "gradmax")
