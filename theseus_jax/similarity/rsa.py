"""Representational similarity analysis: correlation of two matrices of pairwise distances."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.similarity.gram import (
    centre,
    checked,
    pairs,
    product,
    ratio,
    squared_norms,
    within,
)

CORRELATIONS = ("pearson", "spearman")
DISTANCES = ("euclidean", "correlation")


def _positive_root(squares: jax.Array) -> jax.Array:
    """Square root with value and gradient 0 where rounding or equal samples leave nothing."""
    positive = squares > 0
    return jnp.where(
        squares <= 0, 0, jnp.sqrt(jnp.where(positive | jnp.isnan(squares), squares, 1))
    )


def _euclidean(x: jax.Array, valid: jax.Array) -> jax.Array:
    norms = squared_norms(x)
    return _positive_root(norms[:, None] + norms[None, :] - 2 * product(x, x.T))


def _correlation(x: jax.Array, valid: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=1, keepdims=True)
    squares = squared_norms(x)
    unit = (
        x
        * jnp.where(squares > 0, 1 / _positive_root(jnp.where(squares > 0, squares, 1)), 0)[:, None]
    )
    return 1 - product(unit, unit.T)


def _ranks(values: jax.Array, keep: jax.Array) -> jax.Array:
    """Ranks of the kept entries among themselves, ties up to rounding at their mean rank."""
    step = 64 * jnp.finfo(values.dtype).eps * jnp.max(jnp.where(keep, values, 0))
    values = jnp.round(values / jnp.where(step > 0, step, 1))
    ordered = jnp.sort(jnp.where(keep, values, jnp.inf))
    below = jnp.searchsorted(ordered, values, side="left")
    up_to = jnp.searchsorted(ordered, values, side="right")
    return (below + up_to).astype(values.dtype) / 2


def rsa(
    x: jax.Array,
    y: jax.Array,
    *,
    correlation: str = "pearson",
    distance: str = "euclidean",
    mask: jax.Array | None = None,
) -> jax.Array:
    """Correlation of the pairwise distances of x (N, P) and y (N, Q): a scalar in [-1, 1], larger
    is closer.

    Kriegeskorte et al. 2008, over the upper triangle only: each pair once, without the diagonal of
    zeros. distance="euclidean" (default) makes it invariant to rotation, shift and isotropic scale
    of either side; "correlation", 1 - Pearson's r of two samples' features (P, Q >= 2), is
    neuroscience's choice and depends on the basis and origin. correlation="pearson" is
    differentiable; "spearman" (mean ranks for ties) is not and has gradient 0. Holds N x N arrays;
    Spearman sorts N^2 values. mask: (N,) samples that count. Returns 0 with a zero gradient for a
    constant layer or distances that are all equal; NaN, or fewer than 3 counted samples, give NaN.
    Raises UserError for N < 3 or another option.
    """
    if correlation not in CORRELATIONS or distance not in DISTANCES:
        raise UserError(
            f"rsa: correlation={correlation!r}, distance={distance!r}, expected one of "
            f"{', '.join(CORRELATIONS)} and one of {', '.join(DISTANCES)}; choose one of these"
        )
    x, y, valid = checked(x, y, mask, 3, "rsa")
    if distance == "correlation" and 1 in (x.shape[1], y.shape[1]):
        raise UserError(
            f"rsa: {x.shape[1]} and {y.shape[1]} features, distance='correlation' needs 2 or "
            "more on both sides; use distance='euclidean'"
        )
    a, b = centre(x, valid), centre(y, valid)
    order = jnp.arange(x.shape[0])
    keep = pairs(a.valid) & (order[:, None] < order[None, :])
    if distance == "euclidean":
        d_x, d_y = _euclidean(a.values, valid), _euclidean(b.values, valid)
    else:
        d_x, d_y = _correlation(x, valid), _correlation(y, valid)
    count = jnp.maximum(jnp.sum(keep), 1).astype(d_x.dtype)
    largest = jnp.max(jnp.where(keep[None], jnp.stack([d_x, d_y]), 0), axis=(1, 2))
    smallest = (8 * jnp.finfo(d_x.dtype).eps * largest) ** 2
    if correlation == "spearman":
        d_x, d_y = (_ranks(d.reshape(-1), keep.reshape(-1)).reshape(d.shape) for d in (d_x, d_y))
        smallest = jnp.zeros_like(smallest)

    def deviations(d):
        return jnp.where(keep, d - jnp.sum(jnp.where(keep, d, 0)) / count, 0)

    dev_x, dev_y = deviations(d_x), deviations(d_y)
    var_x, var_y = jnp.sum(dev_x**2), jnp.sum(dev_y**2)
    undefined = (
        a.constant | b.constant | (var_x <= smallest[0] * count) | (var_y <= smallest[1] * count)
    )
    value = within(ratio(jnp.sum(dev_x * dev_y), var_x, var_y, undefined), -1, 1)
    # Sorting orders NaN like a number, so NaN has to be brought back from the features.
    return jnp.where(jnp.isnan(a.scale + b.scale), jnp.nan, value)
