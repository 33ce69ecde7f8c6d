"""Linear centred kernel alignment: biased, debiased, as an angle, and accumulated over
mini-batches.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from theseus_jax.errors import UserError
from theseus_jax.similarity.gram import (
    Features,
    centred_gram,
    prepare,
    product,
    ratio,
    squared_norms,
    u_centred_gram,
    within,
)

ESTIMATORS = ("debiased", "biased")
MINIMUM_SAMPLES = {"debiased": 4, "biased": 3}
# more samples than this cannot dominate the diagonal of a Gram and leave the rest of it small
HEAD = 8
TINY = 1e-30


class Products(NamedTuple):
    """Inner products of two centred Grams, and below which a self product is only rounding
    (scalars).
    """

    xy: jax.Array
    xx: jax.Array
    yy: jax.Array
    floor_x: jax.Array
    floor_y: jax.Array


def _wide(x: Features, y: Features) -> bool:
    """True if the (N, N) Gram is no larger than the features: a choice by shape, made while
    tracing.
    """
    return x.values.shape[0] <= max(x.values.shape[1], y.values.shape[1])


def _biased_by_gram(x: Features, y: Features) -> Products:
    k, l = centred_gram(x), centred_gram(y)
    zero = jnp.zeros_like(x.count)
    return Products(jnp.sum(k * l), jnp.sum(k * k), jnp.sum(l * l), zero, zero)


def _biased_by_feature(x: Features, y: Features) -> Products:
    def covariance(a, b):
        return jnp.sum(product(a.values.T, b.values, narrow=a.narrow) ** 2)

    zero = jnp.zeros_like(x.count)
    return Products(covariance(x, y), covariance(x, x), covariance(y, y), zero, zero)


def _debiased_by_gram(x: Features, y: Features) -> Products:
    (u, size_x), (v, size_y) = u_centred_gram(x), u_centred_gram(y)
    floor = (32 * jnp.finfo(u.dtype).eps) ** 2
    return Products(jnp.sum(u * v), jnp.sum(u * u), jnp.sum(v * v), floor * size_x, floor * size_y)


def _debiased_by_feature(x: Features, y: Features) -> Products:
    """The U-centred products without a Gram: sum_{i != j} K_ij L_ij from the P x Q
    cross-covariance.

    |X^T Y|^2 holds the diagonal sum_i K_ii L_ii too, and subtracting it loses every digit if one
    sample has a huge norm (one at 10^4 times the others' moves float32 CKA by 0.2). So the pairs of
    the HEAD samples of largest norm are summed directly, and only the others go through the
    covariance. After centring the row sums of K~ are -|x_i|^2, which gives the two correction
    terms.
    """
    norms_x, norms_y = squared_norms(x.values), squared_norms(y.values)
    size = norms_x / jnp.maximum(jnp.max(norms_x), TINY) + norms_y / jnp.maximum(
        jnp.max(norms_y), TINY
    )
    _, largest = lax.top_k(lax.stop_gradient(size), min(HEAD, size.shape[0]))
    head = (largest[:, None] == jnp.arange(size.shape[0])[None, :]).astype(size.dtype)
    tail = 1 - jnp.sum(head, axis=0)
    pair_weight = (1 - head) * (1 + tail)[None, :]
    less_1, less_2 = jnp.maximum(x.count - 1, 1), jnp.maximum(x.count - 2, 1)
    tails = [f.values * tail[:, None] for f in (x, y)]
    rows = [
        product(product(head, f.values, narrow=f.narrow), f.values.T, narrow=f.narrow)
        for f in (x, y)
    ]
    norms = [norms_x, norms_y]

    def terms(i, j):
        gross = jnp.sum(product(tails[i].T, tails[j], narrow=x.narrow) ** 2) + jnp.sum(
            rows[i] * rows[j] * pair_weight
        )
        diagonal = jnp.sum(norms[i] * norms[j] * tail)
        correction = jnp.sum(norms[i]) * jnp.sum(norms[j]) / (less_1 * less_2)
        return gross - diagonal - 2 * jnp.sum(norms[i] * norms[j]) / less_2 + correction, gross

    (xy, _), (xx, gross_x), (yy, gross_y) = terms(0, 1), terms(0, 0), terms(1, 1)
    floor = 32 * jnp.finfo(xy.dtype).eps
    return Products(xy, xx, yy, floor * gross_x, floor * gross_y)


def _products(x: Features, y: Features, estimator: str) -> Products:
    if estimator == "biased":
        return _biased_by_gram(x, y) if _wide(x, y) else _biased_by_feature(x, y)
    return _debiased_by_gram(x, y) if _wide(x, y) else _debiased_by_feature(x, y)


def cka(
    x: jax.Array, y: jax.Array, *, estimator: str = "debiased", mask: jax.Array | None = None
) -> jax.Array:
    """Linear CKA of x (N, P) and y (N, Q): a scalar, float32 or wider as the inputs; larger is more
    similar.

    estimator="biased": <HKH, HLH> / (|HKH| |HLH|), in [0, 1] (Kornblith et al. 2019). Independent
    features give about 1 / sqrt((1 + N/P)(1 + N/Q)), so values of different widths or batch sizes
    do not compare. estimator="debiased": HSIC_1 (Song et al. 2012) in place of HSIC, computed as
    the cosine of U-centred Grams, in [-1, 1] and about 0 for independent features. Invariant to
    rotation, shift and isotropic scale of either side, and to a permutation of the samples of both;
    not to other linear maps. Differentiable. N > max(P, Q) costs O(N (P + Q)^2) and holds no N x N
    array.

    Where both layers are bfloat16, products are of their centred values in bfloat16, with sums in
    float32: the value is that of float32 within about 1e-3, and costs a fraction on tensor cores.

    mask: (N,) boolean or 0/1; a sample at 0 has no influence on value or gradient, whatever it
    holds. Returns 0 with a zero gradient where CKA is undefined: a layer whose features are
    constant over the samples, or for debiased samples all equally far apart (one-hot codes). NaN
    and infinity in counted samples, and fewer than 4 (debiased) or 3 (biased) of these, give NaN.
    Raises UserError for N below 4 (debiased) or 3 (biased), mismatched shapes or another estimator.
    """
    if estimator not in ESTIMATORS:
        raise UserError(
            f"cka: estimator={estimator!r}, expected one of {', '.join(ESTIMATORS)}; choose one"
        )
    a, b = prepare(x, y, mask, MINIMUM_SAMPLES[estimator], f"cka ({estimator})")
    terms = _products(a, b, estimator)
    undefined = a.constant | b.constant | (terms.xx <= terms.floor_x) | (terms.yy <= terms.floor_y)
    if estimator == "debiased":
        return within(ratio(terms.xy, terms.xx, terms.yy, undefined), -1, 1)
    return within(ratio(terms.xy, terms.xx, terms.yy, undefined), 0, 1)


def cka_angular(
    x: jax.Array, y: jax.Array, *, estimator: str = "biased", mask: jax.Array | None = None
) -> jax.Array:
    """Angle arccos(CKA) in radians of x (N, P) and y (N, Q): a scalar, smaller is more similar.

    With the biased estimator a metric on centred Grams up to scale, in [0, pi/2] (Williams et al.
    2021); with the debiased one in [0, pi]. Invariances, masks, dtypes and errors as in `cka`.
    Differentiable; angles below about 1e-3 in float32 (cosine within 4 roundings of 1) read as 0
    with a zero gradient, where arccos has none. A constant layer gives pi/2.
    """
    cosine = cka(x, y, estimator=estimator, mask=mask)
    ends = jnp.abs(cosine) >= 1 - 4 * jnp.finfo(cosine.dtype).eps
    at_end = jnp.where(cosine > 0, 0, jnp.pi).astype(cosine.dtype)
    return jnp.where(ends, at_end, jnp.arccos(jnp.where(ends, 0, cosine)))


class MinibatchCKA(NamedTuple):
    """Debiased CKA accumulated over mini-batches; a pytree of four scalars for jit and scan.

    The ratio of averages of HSIC_1 (Nguyen, Raghu and Kornblith, arXiv 2010.15327, eq. 2-3), never
    an average of per-batch CKAs, which would be biased. Batches are weighted by their number of
    counted samples.

        state = MinibatchCKA.init()
        for x, y in batches: state = MinibatchCKA.update(state, x, y)
        value = MinibatchCKA.compute(state)
    """

    hsic_xy: jax.Array
    hsic_xx: jax.Array
    hsic_yy: jax.Array
    samples: jax.Array

    @staticmethod
    def init(dtype: jnp.dtype = jnp.float32) -> MinibatchCKA:
        """Empty state of four scalars; dtype float32 or float64 must be that of the features'
        computation.
        """
        return MinibatchCKA(*(jnp.zeros((), dtype) for _ in range(4)))

    @staticmethod
    def update(
        state: MinibatchCKA, x: jax.Array, y: jax.Array, mask: jax.Array | None = None
    ) -> MinibatchCKA:
        """Add a batch x (N, P), y (N, Q), mask (N,). UserError for N < 4; fewer counted samples add
        nothing."""
        a, b = prepare(x, y, mask, 4, "MinibatchCKA.update", 0)
        terms = _products(a, b, "debiased")
        weight = jnp.where(a.count >= 4, 1 / jnp.where(a.count >= 4, a.count - 3, 1), 0)
        square_a, square_b = a.scale**2, b.scale**2
        return MinibatchCKA(
            state.hsic_xy + weight * terms.xy * square_a * square_b,
            state.hsic_xx + weight * terms.xx * square_a * square_a,
            state.hsic_yy + weight * terms.yy * square_b * square_b,
            state.samples + jnp.where(a.count >= 4, a.count, 0),
        )

    @staticmethod
    def merge(a: MinibatchCKA, b: MinibatchCKA) -> MinibatchCKA:
        """The state that has seen the batches of both, in any order (other hosts, other shards)."""
        return MinibatchCKA(*(p + q for p, q in zip(a, b)))

    @staticmethod
    def compute(state: MinibatchCKA) -> jax.Array:
        """Scalar in [-1, 1]; 0 if nothing was added or one side was constant in every batch."""
        undefined = (state.hsic_xx <= 0) | (state.hsic_yy <= 0)
        return within(ratio(state.hsic_xy, state.hsic_xx, state.hsic_yy, undefined), -1, 1)
