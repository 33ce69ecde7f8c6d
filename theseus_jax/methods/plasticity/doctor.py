"""The newborn doctor: which young units do not learn, and why, told from gradients and updates.

It needs no network of ours: `doctor(params, gradients, updates, layers)` on any pytrees, inside or
outside `jit`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import trees
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity.scores import ACTIVE
from theseus_jax.nets.sites import Masks, Site, Slice, masks
from theseus_jax.program import StepRecord

# of an incumbent's gradient of incoming weights, and of what its own outgoing ones have of that:
# 1,440 healthy units of 60 seeds had 0.051 and 0.157 at least
STARVED = 0.1
STALE = 0.25  # of an incumbent's update, for its gradient and at all
VERDICTS = ("healthy", "backward-starved", "never learns", "frozen by stale optimizer state")
REMEDIES = {
    "healthy": "none",
    "backward-starved": "its outgoing weights are too small to pass the loss on: wait, or give"
    " birth with outgoing weights (paired, copy_split)",
    "never learns": "no gradient reaches either side: give it incoming or outgoing weights, and an"
    " activation that is not 0 on the whole batch",
    "frozen by stale optimizer state": "it has the gradient and not the update of an incumbent:"
    " give it a fresh optimizer state, or a donor's (moments)",
}
Path = str


class Examined(NamedTuple):
    """Of the units of one layer, each (J,). norms of what the loss changes in a unit's incoming and
    outgoing weights, and of their updates; ratios of those to the mean of incumbents; updates
    over weights; active: the share of a batch, or NaN; verdict: index in VERDICTS, of young units.
    """

    incoming: jax.Array
    outgoing: jax.Array
    incoming_ratio: jax.Array
    outgoing_ratio: jax.Array
    update_ratio: jax.Array
    incoming_change: jax.Array
    outgoing_change: jax.Array
    active: jax.Array
    verdict: jax.Array


class Report(NamedTuple):
    """What was found. layers: {name: Examined}; young: {name: (J,) bool}."""

    layers: dict[str, Examined]
    young: dict[str, jax.Array]

    def cases(self) -> list[dict[str, Any]]:
        """A row for every young unit that is not healthy: layer, unit, verdict, remedy, numbers."""
        found = []
        for name, seen in self.layers.items():
            codes = np.where(np.asarray(self.young[name]), np.asarray(seen.verdict), 0)
            for unit in np.flatnonzero(codes):
                verdict = VERDICTS[codes[unit]]
                row = {"layer": name, "unit": int(unit), "verdict": verdict}
                row |= {"remedy": REMEDIES[verdict]}
                row |= {
                    key: float(getattr(seen, key)[unit])
                    for key in ("incoming_ratio", "outgoing_ratio", "update_ratio", "active")
                }
                found.append(row)
        return found

    def __str__(self) -> str:
        cases = self.cases()
        lines = [
            f"{case['layer']}, unit {case['unit']}: {case['verdict']} (incoming gradient"
            f" {case['incoming_ratio']:.2g} of an incumbent's); {case['remedy']}"
            for case in cases
        ]
        young = sum(int(np.asarray(one).sum()) for one in self.young.values())
        return "\n".join([f"{len(cases)} of {young} young units are not healthy", *lines])


def layer(params: Any, incoming: Sequence[Path], outgoing: Sequence[Path]) -> Site:
    """A hidden layer of any pytree. incoming: paths of the leaves that make its units, or of what
    holds them ("params/Dense_0"), whose last axis is the units'; outgoing: of those that read them,
    by their last axis but one (a multiple of the units where they were flattened, channels last).

    Raises UserError for a path that holds no leaf, and for axes that do not fit.
    """
    leaves = trees.leaves_by_path(params)

    def inside(path: Path) -> dict[str, Any]:
        found = {n: x for n, x in leaves.items() if n == path or n.startswith(f"{path}/")}
        if not found:
            raise UserError(
                f"no parameter is named by {path!r}; the leaves are {', '.join(leaves)}"
            )
        return found

    made = {name: x for path in incoming for name, x in inside(path).items()}
    readers = {n: x for path in outgoing for n, x in inside(path).items() if jnp.ndim(x) > 1}
    widths = {jnp.shape(x)[-1] for x in made.values()}
    if len(widths) != 1 or not readers:
        raise UserError(
            f"{', '.join(made)} have last axes of {sorted(widths)} and"
            f" {', '.join(readers) or 'no matrix'} reads them; give the leaves of one layer, and of"
            " the next"
        )
    (width,) = widths
    slices = [_slice(name, x, jnp.ndim(x) - 1, width) for name, x in made.items()]
    reading = [_slice(name, x, jnp.ndim(x) - 2, width) for name, x in readers.items()]
    return Site("", (), "", width, tuple(slices), tuple(reading))


def _slice(name: str, leaf: Any, axis: int, width: int) -> Slice:
    size = jnp.shape(leaf)[axis]
    if size % width:
        raise UserError(
            f"axis {axis} of {name} has {size} numbers, no multiple of the {width} units; name the"
            " layer that reads them"
        )
    return Slice(tuple(name.split("/")), axis, size // width)


def doctor(
    params: Any,
    gradients: Any,
    updates: Any,
    layers: Mapping[str, Site | tuple[Sequence[Path], Sequence[Path]]],
    *,
    young: Mapping[str, Any] | None = None,
    live: Mapping[str, Any] | None = None,
    activations: Mapping[str, Any] | None = None,
) -> Report:
    """What ails the units of some layers.

    params, gradients, updates (what was added to the parameters): pytrees of one structure. layers:
    {name: (incoming paths, outgoing paths)} as `layer` takes them, or sites of a network. young,
    live: {name: (J,) bool}, which units are newborn (all, compared with each other, if not said)
    and which are on (all). activations: {name: (..., J)} on a batch. Raises UserError for a layer
    that the parameters have not.
    """
    seen, youth = {}, {}
    for name, given in layers.items():
        site = given if isinstance(given, Site) else layer(params, *given)
        everyone = jnp.ones(site.width, bool)
        on = jnp.asarray((live or {}).get(name, everyone))
        youth[name] = jnp.asarray((young or {}).get(name, everyone)) & on
        h = (activations or {}).get(name)
        active = jnp.full(site.width, jnp.nan)
        if h is not None:
            active = (h.reshape(-1, site.width) > ACTIVE).mean(axis=0, dtype=jnp.float32)
        found = norms(site, params, gradients, updates)
        seen[name] = examined(found, youth[name], on, active)
    return Report(seen, youth)


class Norms(NamedTuple):
    """Of every unit's weights, their gradients and updates, each (2, J): incoming and outgoing."""

    weights: jax.Array
    slopes: jax.Array
    moves: jax.Array


def norms(site: Site, *given: Any) -> Norms:
    """Of parameters, gradients and updates."""

    def one(tree: Any) -> jax.Array:
        leaves = trees.leaves_by_path(tree)
        sides = [
            sum(part.squares(leaves["/".join(part.path)]) for part in side)
            for side in (site.incoming, site.outgoing)
        ]
        return jnp.sqrt(jnp.stack(sides))

    return Norms(*map(one, given))


def examined(found: Norms, young: jax.Array, live: jax.Array, active: jax.Array) -> Examined:
    """One layer. Where no incumbent is on, units are compared with all that are."""
    incumbents = live & ~young
    incumbents = jnp.where(incumbents.any(), incumbents, live)

    def ratio(values: jax.Array) -> jax.Array:
        known = incumbents & ~jnp.isnan(values)
        usual = jnp.where(known, values, 0).sum() / jnp.maximum(known.sum(), 1)
        return values / jnp.where(usual > 0, usual, 1.0)

    (slope_in, slope_out), moves = found.slopes, found.moves
    ratios, moved = jax.vmap(ratio)(found.slopes), jax.vmap(ratio)(moves)
    # how much a side moves for its gradient, where it has one
    there = found.slopes > 0
    answers = jnp.where(there, moves / jnp.where(there, found.slopes, 1.0), jnp.nan)
    stale = ((jax.vmap(ratio)(answers) < STALE) & (moved < STALE)).any(axis=0)
    never = (slope_in == 0) & (slope_out == 0)
    starved = (ratios[0] < STARVED) & (ratios[0] < STARVED * ratios[1]) & ~never
    code = jnp.select([never, starved, stale], [2, 1, 3], 0)
    changes = moves / jnp.where(found.weights > 0, found.weights, jnp.nan)
    verdict = jnp.where(young, code, 0).astype(jnp.int32)
    return Examined(slope_in, slope_out, *ratios, moved.min(axis=0), *changes, active, verdict)


@dataclasses.dataclass(frozen=True)
class Doctor:
    """A watch: how the units born at each of these steps do beside older ones, {site: (births,
    4 + verdicts)}: means of the incoming, outgoing and update ratio and of activity, and how many
    units have each verdict; zeros where none is on. And "births" itself.
    """

    every: int
    sites: tuple[Site, ...]
    births: tuple[int, ...]
    guide: tuple[str, ...] = ()
    apart: ClassVar[bool] = True

    @property
    def target(self) -> tuple[str, ...]:
        return tuple(f"{site.name}/h" for site in self.sites)

    def __call__(self, record: StepRecord) -> dict[str, jax.Array]:
        found = {}
        for site in self.sites:
            now: Masks = masks(record.signals.variables, site)
            h = record.signals.target[f"{site.name}/h"].reshape(-1, site.width)
            sizes = norms(site, record.params, record.gradient, record.updates)
            active = (h > ACTIVE).mean(axis=0, dtype=jnp.float32)
            cohorts = []
            for step in self.births:
                mine, older = now.live & (now.born == step), now.live & (now.born <= step)
                seen = examined(sizes, mine, older, active)
                ratios = seen.incoming_ratio, seen.outgoing_ratio, seen.update_ratio, seen.active
                count = jnp.maximum(mine.sum(), 1)
                means = [jnp.where(mine, one, 0).sum() / count for one in ratios]
                counts = [(mine & (seen.verdict == i)).sum() for i in range(len(VERDICTS))]
                cohorts.append(jnp.stack([*means, *map(jnp.float32, counts)]))
            found[site.name] = jnp.stack(cohorts)
        return found | {"births": jnp.asarray(self.births)}

    def __str__(self) -> str:
        return f"the newborn doctor, {self.every} steps apart"
