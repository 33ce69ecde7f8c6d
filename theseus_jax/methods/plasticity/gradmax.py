"""GradMax (Evci et al. 2022, arXiv 2201.05125, section 3): the outgoing weights with which new
units get the largest gradient, by power iteration through the network itself, whatever its layers.

With M = sum over a batch of (loss by what reads the units) (what the units read)^T, a unit with
incoming weights 0, outgoing weights v and a slope of 1 gets the gradient M^T v: the best k
directions are the first left singular vectors of M. M is never made: M^T v is one backward pass
with v as outgoing weights, M u one with u as incoming ones, of all units that are born at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import units
from theseus_jax.methods.plasticity.signals import readings
from theseus_jax.nets.sites import Site, Slice, masks
from theseus_jax.nets.stage import Variables
from theseus_jax.program import Program

ROUNDS = 12
OPEN = 1e-6  # the bias of a newborn unit: a ReLU's derivative at 0 is 0 in JAX
SCALE = 0.5  # of the mean norm of the outgoing weights of units that are on (the authors' setting)


@dataclasses.dataclass(frozen=True)
class Passes:
    """Passes through a network on one batch. products: the incoming slices but biases."""

    program: Program
    site: Site
    guide: Variables
    batch: Any
    key: jax.Array

    @property
    def products(self) -> tuple[Slice, ...]:
        return tuple(one for one in self.site.incoming if one.path[-1] != "bias")

    @property
    def biases(self) -> tuple[Slice, ...]:
        return tuple(one for one in self.site.incoming if one.path[-1] == "bias")

    def read(self, variables: Variables, taps: Any = None, pulled: Any = None) -> Any:
        sites = (self.site,)
        given = self.program, variables, self.guide, self.batch, self.key, sites, taps, pulled
        return readings(*given)

    def incoming(self, variables: Variables, chosen: jax.Array, v: units.Rows) -> units.Rows:
        """M^T v: {path: (J, F)} of the products, of chosen units with outgoing weights v."""
        given = units.written(variables, self.site.outgoing, chosen, v)
        reading = self.read(given)[0][self.site.name]
        pulled = {self.site.name: jnp.where(chosen, reading.da, 0)}
        return units.rows_of(self.read(given, pulled=pulled)[1], self.products)

    def outgoing(self, variables: Variables, chosen: jax.Array, u: units.Rows) -> units.Rows:
        """M u: {path: (J, F)} of the outgoing slices, of chosen units with incoming weights u."""
        nothing = {
            "/".join(one.path): jnp.zeros_like(rows)
            for one, rows in _pairs(self.biases, units.rows_of(variables, self.biases))
        }
        given = units.written(variables, (*self.products, *self.biases), chosen, u | nothing)
        silent = {
            name: jnp.zeros_like(rows)
            for name, rows in units.rows_of(variables, self.site.outgoing).items()
        }
        given = units.written(given, self.site.outgoing, chosen, silent)
        z = self.read(given)[0][self.site.name].z
        taps = {self.site.name: jnp.where(chosen, z, 0)}
        return units.rows_of(self.read(given, taps)[1], self.site.outgoing)


def _pairs(slices: tuple[Slice, ...], rows: units.Rows) -> list[tuple[Slice, jax.Array]]:
    return [(one, rows["/".join(one.path)]) for one in slices]


def check(site: Site) -> None:
    """Raises UserError for a site at which directions are not defined."""
    if site.statistics or site.mixed or not any(one.path[-1] == "bias" for one in site.incoming):
        raise UserError(
            f"{site} has a norm before its units, or no bias, and GradMax needs incoming weights"
            " that act by themselves and a bias; take another birth"
        )


def directions(
    passes: Passes, variables: Variables, chosen: jax.Array, key: jax.Array
) -> units.Rows:
    """{path: (J, F)} of the outgoing slices: for the chosen units, in order, the first left
    singular vectors of M, of norm 1; variables: with the chosen units off.
    """
    site = passes.site
    shapes = units.rows_of(variables, site.outgoing)
    flat = lambda rows: jnp.concatenate([rows[name] for name in shapes], axis=1)  # noqa: E731
    ends = np.cumsum([rows.shape[1] for rows in shapes.values()])[:-1].tolist()

    def cut(whole: jax.Array) -> units.Rows:
        return dict(zip(shapes, jnp.split(whole, ends, axis=1)))

    width = sum(rows.shape[1] for rows in shapes.values())
    start = _orthonormal(jax.random.normal(key, (site.width, width)), chosen)

    def turn(_: Any, v: jax.Array) -> jax.Array:
        u = passes.incoming(variables, chosen, cut(v))
        size = jnp.sqrt(sum((rows**2).sum() for rows in u.values()))
        u = {name: rows / jnp.maximum(size, 1e-30) for name, rows in u.items()}
        return _orthonormal(flat(passes.outgoing(variables, chosen, u)), chosen)

    v = jax.lax.fori_loop(0, ROUNDS, turn, start)
    u = jnp.concatenate(list(passes.incoming(variables, chosen, cut(v)).values()), axis=1)
    u = jnp.where(chosen[:, None], u, 0)
    _, rotation = jnp.linalg.eigh(u @ u.T)  # of the largest gradient last
    ranked = (rotation.T @ jnp.where(chosen[:, None], v, 0))[::-1]
    turns = jnp.where(chosen, jnp.cumsum(chosen) - 1, 0)
    return cut(jnp.where(chosen[:, None], ranked[turns], 0))


def _orthonormal(rows: jax.Array, chosen: jax.Array) -> jax.Array:
    """Rows of chosen units that span the same and are orthonormal, as far as there is room."""
    left, values, right = jnp.linalg.svd(jnp.where(chosen[:, None], rows, 0), full_matrices=False)
    kept = values > 1e-6 * jnp.maximum(values[0], 1e-30)
    return (left * kept) @ right


def born_rows(
    passes: Passes, variables: Variables, chosen: jax.Array, key: jax.Array, rows: units.Rows
) -> units.Rows:
    """All rows of the site with the chosen units as GradMax has them."""
    live = masks(variables, passes.site).live & ~chosen
    found, names = directions(passes, variables, chosen, key), list(rows)
    outgoing = ["/".join(one.path) for one in passes.site.outgoing]
    norms = jnp.sqrt(sum((rows[name] ** 2).sum(axis=1) for name in outgoing))
    usual = jnp.where(live, norms, 0).sum() / jnp.maximum(live.sum(), 1)
    biases = {"/".join(one.path) for one in passes.biases}
    new = {
        name: found[name] * usual * SCALE
        if name in found
        else jnp.full_like(rows[name], OPEN if name in biases else 0.0)
        for name in names
    }
    return {name: jnp.where(chosen[:, None], new[name], rows[name]) for name in names}
