"""Sites: the hidden layers of a network whose units can be switched on and off, and where a unit's
numbers stand.

The masks of a site are variables that no gradient moves, `variables[stage]["masks"][path]`: live
(J,) bool, which units are on; born (J,) int32, the step at which each was switched on, -1 for those
of the start; frozen (J,) bool, which of them training leaves alone. Beside them, where a phase asks
for it, stand its `tracks`: running numbers of units, {name: (J,)}.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from theseus_jax.nets.variables import merge

Path = tuple[str, ...]


class Slice(NamedTuple):
    """The numbers of units in a leaf: `repeat` of them a unit, on one axis.

    path: of the leaf in a tree. tiled: those of unit j stand at j, J + j, 2 J + j, ... (channels
    last before they were flattened, gates side by side); else at j repeat, j repeat + 1, ...
    """

    path: Path
    axis: int
    repeat: int = 1
    tiled: bool = True

    def spread(self, units: jax.Array, ndim: int) -> jax.Array:
        """A number a unit (J,) as what a leaf of `ndim` axes can be multiplied with."""
        along = jnp.tile(units, self.repeat) if self.tiled else jnp.repeat(units, self.repeat)
        return along.reshape(tuple(-1 if i == self.axis else 1 for i in range(ndim)))

    def rows(self, leaf: jax.Array) -> jax.Array:
        """(J, F): all numbers of each unit."""
        front = jnp.moveaxis(leaf, self.axis, 0)
        count, rest = front.shape[0] // self.repeat, front.shape[1:]
        if self.tiled:
            front = jnp.moveaxis(front.reshape(self.repeat, count, *rest), 0, 1)
        return front.reshape(count, -1)

    def squares(self, leaf: jax.Array) -> jax.Array:
        """(J,) float32: the sum of the squares of each unit's numbers."""
        others = tuple(i for i in range(leaf.ndim) if i != self.axis)
        along = (leaf.astype(jnp.float32) ** 2).sum(axis=others)
        if self.tiled:
            return along.reshape(self.repeat, -1).sum(axis=0)
        return along.reshape(-1, self.repeat).sum(axis=1)

    def placed(self, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """A leaf of this shape (along the axis as many units as there are rows) with rows (J, F):
        undoes `rows`.
        """
        rest = shape[: self.axis] + shape[self.axis + 1 :]
        parts = rows.reshape(len(rows), self.repeat, *rest)
        parts = jnp.moveaxis(parts, 1, 0) if self.tiled else parts
        return jnp.moveaxis(parts.reshape(len(rows) * self.repeat, *rest), 0, self.axis)


class Site(NamedTuple):
    """A hidden layer of `width` units.

    stage, path: where its `Units` module stands; field: of the stage's module, which decides the
    width ("hidden", "layers.0.width", "channel_mixer.hidden"). incoming: slices of what makes a
    unit (weights, bias, scale), outgoing: of what reads it, statistics: of what is counted of it;
    their paths begin with the stage and the collection. mixed: whether what a unit reads depends on
    other units (a norm over units).
    """

    stage: str
    path: Path
    field: str
    width: int
    incoming: tuple[Slice, ...] = ()
    outgoing: tuple[Slice, ...] = ()
    statistics: tuple[Slice, ...] = ()
    mixed: bool = False

    @property
    def name(self) -> str:
        """Of the activation, as it can be captured: "block_1/units"."""
        return "/".join((self.stage, *self.path))

    @property
    def parameters(self) -> tuple[Slice, ...]:
        """Both sides."""
        return (*self.incoming, *self.outgoing)

    def __str__(self) -> str:
        return f"{self.stage}.{self.field} ({self.width} units)"


class Masks(NamedTuple):
    """Of one site, each (J,)."""

    live: jax.Array
    born: jax.Array
    frozen: jax.Array


def fresh_masks(width: int) -> dict[str, jax.Array]:
    """All units on from the start."""
    born = jnp.full(width, -1, jnp.int32)
    return Masks(jnp.ones(width, bool), born, jnp.zeros(width, bool))._asdict()


def masks(variables: Mapping[str, Any], site: Site) -> Masks:
    """Those of a site, as they stand."""
    tree = variables[site.stage]["masks"]
    for key in site.path:
        tree = tree[key]
    return Masks(**tree)


def with_masks(variables: Mapping[str, Any], site: Site, new: Masks) -> dict[str, Any]:
    """The variables with other masks of a site."""
    return _with(variables, site, "masks", new._asdict())


def _with(
    variables: Mapping[str, Any], site: Site, kind: str, tree: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with these numbers of a site in one collection, of which others stay."""
    for key in reversed(site.path):
        tree = {key: tree}
    stage = variables[site.stage]
    return {**variables, site.stage: {**stage, kind: merge(stage.get(kind, {}), tree)}}


def tracked(variables: Mapping[str, Any], site: Site) -> dict[str, jax.Array]:
    """{name: (J,)} that tracks keep of a site, {} where there are none."""
    tree = variables[site.stage].get("tracks", {})
    for key in site.path:
        tree = tree.get(key, {})
    return dict(tree)


def with_tracks(
    variables: Mapping[str, Any], site: Site, new: Mapping[str, jax.Array]
) -> dict[str, Any]:
    """The variables with these tracks of a site, of which others stay."""
    return _with(variables, site, "tracks", new)


def with_fresh_tracks(tracks: Sequence[Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables with what these tracks begin with, beside masks with a leading seed axis."""
    for track in tracks:
        for site in track.sites:
            seeds = len(masks(variables, site).live)
            fresh = track.fresh(site)
            rows = {key: jnp.broadcast_to(one, (seeds, *one.shape)) for key, one in fresh.items()}
            variables = with_tracks(variables, site, rows)
    return dict(variables)


def without_tracks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables as a phase without tracks has them."""
    return {
        name: {kind: tree for kind, tree in stage.items() if kind != "tracks"}
        for name, stage in variables.items()
    }


def of_before(sites: tuple[Site, ...], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables with all units as old as the start: births are counted by a phase's steps."""
    for site in sites:
        old = masks(variables, site)
        variables = with_masks(variables, site, old._replace(born=jnp.full_like(old.born, -1)))
    return dict(variables)


def with_fresh_masks(sites: tuple[Site, ...], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables with masks of these sites, every unit on."""
    for site in sites:
        variables = with_masks(variables, site, Masks(**fresh_masks(site.width)))
    return dict(variables)


def leaf(tree: Any, path: Path) -> Any:
    """What stands at a path of nested dicts."""
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Nested dicts with another value at a path that there is."""
    key, *rest = path
    return {**tree, key: replaced(tree[key], tuple(rest), value) if rest else value}


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast units learn, as a factor of their updates: 0 where they are off or frozen, `newborn`
    in the first `steps` steps after a birth, else 1.

    newborn > 1 is "Two-Speed" of arXiv 2605.15435, section 5: old + r (new - old).
    """

    newborn: float = 1.0
    steps: int = 0

    def __call__(self, masks: Masks, step: jax.Array) -> jax.Array:
        """(J,) float32 for the update of `step`."""
        young = (masks.born >= 0) & (step - masks.born < self.steps)
        factor = jnp.where(young, self.newborn, 1.0)
        return jnp.where(masks.live & ~masks.frozen, factor, 0.0)

    def __str__(self) -> str:
        return f"newborn units {self.newborn:g} times as fast for {self.steps} steps"


def scaled(
    sites: tuple[Site, ...], rates: Rates, variables: Mapping[str, Any], updates: Any, step: Any
) -> Any:
    """Updates of the trained parameters, {stage: {"params": ...}}, times the rates of the units
    that they belong to; of a weight between two units, times both.
    """
    for site in sites:
        factor = rates(masks(variables, site), step)
        for one in site.parameters:
            if one.path[0] in updates:
                old = leaf(updates, one.path)
                updates = replaced(updates, one.path, old * one.spread(factor, old.ndim))
    return updates
