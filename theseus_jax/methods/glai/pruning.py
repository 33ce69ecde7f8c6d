"""What choosing paths does to the logits before any training, and its bound (arXiv 2510.00883,
theorem 2).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from theseus_jax.methods.glai import paths as gp
from theseus_jax.methods.glai.paths import Entries, Layers, Paths

ROWS_AT_ONCE = 16


def _weights(layers: Layers, chosen: Paths | Entries) -> jax.Array:
    """The chosen paths' weights: (P, O) of Paths, (K,) of Entries."""
    return (
        gp.path_weights(layers, chosen)
        if isinstance(chosen, Paths)
        else gp.entry_weights(layers, chosen)
    )


def _sums(
    x: jax.Array,
    gates: tuple[jax.Array, ...],
    chosen: Paths | Entries,
    weights: jax.Array,
    outputs: int,
) -> jax.Array:
    """(B, O): the estimator's logits, a few rows at a time: B times the number of paths may not
    fit.
    """

    def row(one):
        own, opened = one[0][None], [gate[None] for gate in one[1]]
        if isinstance(chosen, Paths):
            return gp.estimate(own, opened, chosen, weights)[0]
        return gp.estimate_entries(own, opened, chosen, weights, outputs)[0]

    return lax.map(row, (x, gates), batch_size=ROWS_AT_ONCE)


@jax.jit
def pruning_error(layers: Layers, chosen: Paths | Entries, x: jax.Array) -> jax.Array:
    """Mean over the rows x (B, I) of the sum over outputs of |network - chosen paths alone|: a
    scalar >= 0.

    In logits, before any training of the estimator (arXiv 2510.00883, theorem 2, left side).
    """
    whole = gp.logits(layers, x)
    kept = _sums(x, gp.open_gates(layers, x), chosen, _weights(layers, chosen), whole.shape[1])
    return jnp.mean(jnp.sum(jnp.abs(whole - kept), axis=1))


@jax.jit
def pruning_bound(layers: Layers, chosen: Paths | Entries, x: jax.Array) -> jax.Array:
    """The sum of |w| N over all paths that were not chosen, N on the rows x (B, I): at least
    `pruning_error`.

    arXiv 2510.00883, theorem 2. Nothing is enumerated: the sum over all paths is |x~| through the
    gated magnitudes of the matrices, and the chosen ones are taken off. It is exact up to the
    rounding of the larger of the two.
    """
    gates = gp.open_gates(layers, x)
    everything = jnp.abs(gp.augment(x))
    matrices = [jnp.abs(matrix) for matrix in gp.extended(layers)]
    for matrix, gate in zip(matrices[:-1], gates):
        everything = gp.product(everything, matrix) * gate
    everything = gp.product(everything, matrices[-1])
    kept = _sums(jnp.abs(x), gates, chosen, jnp.abs(_weights(layers, chosen)), everything.shape[1])
    return jnp.maximum(jnp.mean(jnp.sum(everything - kept, axis=1)), 0)
