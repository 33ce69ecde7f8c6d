"""Slicing arrays for real: what masks only hide is left out, of parameters, statistics, masks and
the state of any optimizer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from theseus_jax import trees
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import factored
from theseus_jax.methods.plasticity.elastic import resized
from theseus_jax.methods.plasticity.seeds import example_of
from theseus_jax.methods.plasticity.units import Held, Slots
from theseus_jax.methods.plasticity.units import slots as found_slots
from theseus_jax.nets.sites import Masks, Site, Slice, masks, tracked, with_masks, with_tracks
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.nets.variables import partition
from theseus_jax.program import program_of
from theseus_jax.rules import transformation
from theseus_jax.train import Inputs, State


def widths(net: Network, variables: Variables, multiple: int = 1) -> dict[Site, int]:
    """{site: the smallest multiple that holds the units that are on}, not more than there are;
    variables: with or without a leading seed axis, of which the fullest seed counts.
    """
    found = {}
    for site in net.sites:
        live = np.asarray(masks(variables, site).live)
        most = max(1, int(live.sum(axis=-1).max()))
        found[site] = min(site.width, -(-most // multiple) * multiple)
    return found


def narrowed(net: Network, to: Mapping[Site, int]) -> Network:
    """The network with these numbers of units at its sites, which it keeps."""
    sites = tuple(site._replace(width=to.get(site, site.width)) for site in net.sites)
    return dataclasses.replace(resized(net, to), sites=sites)


def compact(
    held: Held,
    net: Network,
    to: Mapping[Site, int],
    *,
    optimizer: optax.GradientTransformation | None = None,
    slots: Slots | None = None,
    trainable: Sequence[str] = (),
) -> Held:
    """One seed with `to[site]` units at each site: those that are on, in order, and where there is
    room others. It computes on `narrowed(net, to)` what it computed on `net`.

    optimizer, slots (`units.slots`), trainable: of the optimizer state, which is None without them.
    Raises UserError for fewer units than are on.
    """
    orders = {site: _order(masks(held.variables, site), site, width) for site, width in to.items()}
    variables = held.variables
    for site, order in orders.items():
        variables = taken(variables, (*site.parameters, *site.statistics), order)
        old = masks(held.variables, site)
        variables = with_masks(variables, site, Masks(*(one[order] for one in old)))
        kept = {name: one[order] for name, one in tracked(held.variables, site).items()}
        variables = with_tracks(variables, site, kept) if kept else variables
    if held.opt_state is None:
        return Held(variables, None)
    if optimizer is None or slots is None:
        raise UserError("an optimizer state is sliced by its optimizer and slots; give both too")
    cut = held.opt_state
    for site, order in orders.items():
        cut = taken(cut, slots[site.name], order)
    before, after = (partition(one, trainable)[0] for one in (held.variables, variables))
    wanted = jax.eval_shape(optimizer.init, after)

    def sliced(tree: Any) -> Any:
        for site, order in orders.items():
            inside = [one for one in site.parameters if one.path[0] in tree]
            tree = taken(tree, inside, order)
        return tree

    return Held(variables, factored.in_form(held.opt_state, cut, wanted, before, sliced))


@dataclasses.dataclass(frozen=True)
class Compact:
    """An edit before a phase whose network is `narrowed(net, to)`: what `compact` does, of every
    seed, with the optimizer state of the phase before where it is carried on.

    net: the network of the phase before; to: units of each of its sites, in order.
    """

    net: Network
    to: tuple[int, ...]

    def __call__(self, state: State, inputs: Inputs) -> State:
        phase, to = inputs.phase, dict(zip(self.net.sites, self.to))
        carried = phase.carry and state.opt_state is not None
        optimizer = transformation(program_of(phase).optimizer)
        example = example_of(inputs.examples)
        given: dict[str, Any] = {}
        if carried:
            found = found_slots(optimizer, self.net, phase.trainable, example)
            given = {"optimizer": optimizer, "slots": found, "trainable": phase.trainable}
        seeds = [
            compact(
                Held(*jax.tree.map(lambda leaf, i=i: leaf[i], (state.variables, opt_state))),
                self.net,
                to,
                **given,
            )
            for i in range(len(state.key))
            for opt_state in [state.opt_state if carried else None]
        ]
        held = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
        return state._replace(variables=held.variables, opt_state=held.opt_state)

    def __str__(self) -> str:
        return f"slice to {', '.join(map(str, self.to))} units"


def _order(old: Masks, site: Site, width: int) -> jax.Array:
    """(width,) int32: the units that stay, in order."""
    on = int(old.live.sum())
    if not on <= width <= site.width:
        raise UserError(
            f"{site} has {on} units on and is to become {width} wide; give from {on} to"
            f" {site.width}"
        )
    return jnp.sort(jnp.argsort(~old.live, stable=True)[:width])


def taken(tree: Any, slices: Sequence[Slice], order: jax.Array) -> Any:
    """The tree with the units `order` alone, in this order."""
    leaves = trees.leaves_by_path(tree)
    for one in slices:
        name = "/".join(one.path)
        leaf = leaves[name]
        shape = (*leaf.shape[: one.axis], len(order) * one.repeat, *leaf.shape[one.axis + 1 :])
        leaves[name] = one.placed(one.rows(leaf)[order], shape)
    return jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))
