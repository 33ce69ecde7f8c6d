"""Edits of units as pure functions on one seed: parameters, statistics, masks, ages and the state
of any optimizer together, all of fixed shapes.

Which units are meant is a (J,) bool everywhere, so that an edit inside `jit` compiles once, however
many units it is about. What an edit is not about stays bit-equal.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax

from theseus_jax import trees
from theseus_jax.edits import unit_axes
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity.elastic import resized
from theseus_jax.nets.sites import Site, Slice, masks, tracked, with_masks, with_tracks
from theseus_jax.nets.stage import Network, Variables, variable_shapes
from theseus_jax.nets.variables import partition

Rows = dict[str, jax.Array]  # {"stage/params/.../kernel": (J, F)} of the slices of one site
Slots = dict[str, tuple[Slice, ...]]  # {name of a site: its slices in an optimizer state}


class Held(NamedTuple):
    """What an edit changes. opt_state: of the trained parameters, {stage: {"params": ...}}."""

    variables: Variables
    opt_state: Any


def slots(
    optimizer: optax.GradientTransformation, net: Network, trainable: Sequence[str], example: Any
) -> Slots:
    """Where the units of every site stand in the optimizer's state, found as in parameters: by the
    shapes with one unit more, or one less where that falls on another form (factored moments).

    Raises UserError, naming the leaf, for a state whose units cannot be found.
    """

    def state(one: Network) -> Any:
        params, _ = partition(variable_shapes(one, example), trainable)
        return jax.eval_shape(optimizer.init, params)

    found, here = {}, state(net)
    for site in net.sites:
        for other in (site.width + 1, site.width - 1):
            try:
                slices = unit_axes(here, state(resized(net, {site: other})), site.width)
                break
            except UserError as error:
                problem = error
        else:
            raise UserError(
                f"the optimizer's state of {site} cannot be carried through an edit: {problem};"
                " take an optimizer whose state has the parameters' axes, or start it afresh"
            )
        found[site.name] = tuple(_laid_out(site, one) for one in slices)
    return found


def _laid_out(site: Site, one: Slice) -> Slice:
    """The slice of a state, tiled as that of the parameter whose path its own ends with."""
    for param in site.parameters:
        if one.path[-len(param.path) :] == param.path:
            return one._replace(tiled=param.tiled)
    return one


def rows_of(tree: Any, slices: Sequence[Slice]) -> Rows:
    """The numbers of every unit in a tree; of a leaf with two of the units' axes, those of the last
    of the slices given.
    """
    leaves = trees.leaves_by_path(tree)
    return {"/".join(one.path): one.rows(leaves[("/".join(one.path))]) for one in slices}


def side(site: Site, rows: Rows, incoming: bool) -> jax.Array:
    """(J, F): all weights of a unit's one side, of products alone (not biases and scales)."""
    slices = site.incoming if incoming else site.outgoing
    parts = [rows["/".join(one.path)] for one in slices]
    return jnp.concatenate([part for part in parts if part.shape[1] > 1] or parts, axis=1)


def mapped(tree: Any, slices: Sequence[Slice], fn: Callable[[str, jax.Array], jax.Array]) -> Any:
    """The tree with fn(path, rows (J, F)) -> (J, F) in place of the numbers of every unit."""
    leaves = trees.leaves_by_path(tree)
    for one in slices:
        name = "/".join(one.path)
        leaf = leaves[name]
        leaves[name] = one.placed(fn(name, one.rows(leaf)), leaf.shape).astype(leaf.dtype)
    return jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))


def written(tree: Any, slices: Sequence[Slice], chosen: jax.Array, rows: Mapping[str, Any]) -> Any:
    """The tree with `rows` (J, F) in place of the chosen units' numbers, where there are some."""

    def new(name: str, old: jax.Array) -> jax.Array:
        return jnp.where(chosen[:, None], rows[name], old) if name in rows else old

    return mapped(tree, slices, new)


def switched(variables: Variables, site: Site, chosen: jax.Array, on: bool, step: Any) -> Variables:
    """The chosen units on, from this step on, or off."""
    old = masks(variables, site)
    born = jnp.where(chosen, jnp.asarray(step, jnp.int32), old.born) if on else old.born
    return with_masks(
        variables, site, old._replace(live=jnp.where(chosen, on, old.live), born=born)
    )


def frozen(variables: Variables, site: Site, chosen: jax.Array, on: bool = True) -> Variables:
    """The chosen units left alone by training, or no longer."""
    old = masks(variables, site)
    return with_masks(variables, site, old._replace(frozen=jnp.where(chosen, on, old.frozen)))


def settled(variables: Variables, site: Site, chosen: jax.Array, means: jax.Array) -> Variables:
    """The variables with what the chosen units give on average, means (J,), moved into the bias of
    the layer that reads them, where it has one: as if they gave it always (continual backprop).
    """
    leaves = trees.leaves_by_path(variables)
    for one in site.outgoing:
        weights, name = leaves["/".join(one.path)], "/".join((*one.path[:-1], "bias"))
        last = weights.ndim - 1
        if name in leaves and leaves[name].shape == weights.shape[last:] and one.axis < last:
            gone = weights * one.spread(jnp.where(chosen, means, 0), weights.ndim)
            leaves[name] = leaves[name] + gone.sum(axis=tuple(range(last)))
    return jax.tree.unflatten(jax.tree.structure(variables), list(leaves.values()))


def grown(
    held: Held,
    site: Site,
    slots: Sequence[Slice],
    chosen: jax.Array,
    rows: Rows,
    step: Any,
    *,
    fresh: Any = None,
    donors: jax.Array | None = None,
) -> Held:
    """The chosen units on from this step, all units of the site with these rows.

    slots: of the site in the optimizer state. There the chosen units have what stands in `fresh`,
    an initial state (JaxPruner and ReDo do so); or what their donors (J,) int32 have ("Moment
    Transplant", arXiv 2605.15435, section 5); or, with neither, what was left there.
    """
    variables = mapped(
        held.variables, (*site.parameters, *site.statistics), lambda name, old: rows.get(name, old)
    )
    opt_state = held.opt_state
    if fresh is not None:
        opt_state = written(opt_state, slots, chosen, rows_of(fresh, slots))
    if donors is not None:
        opt_state = mapped(
            opt_state, slots, lambda _, old: jnp.where(chosen[:, None], old[donors], old)
        )
    return Held(_untracked(switched(variables, site, chosen, True, step), site, chosen), opt_state)


def _untracked(variables: Variables, site: Site, chosen: jax.Array) -> Variables:
    """The variables with the chosen units' tracks begun again."""
    now = tracked(variables, site)
    new = {name: jnp.where(chosen, jnp.zeros_like(one), one) for name, one in now.items()}
    return with_tracks(variables, site, new) if new else variables
