"""Measures of how well a linear map carries one representation onto the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from theseus_jax.errors import UserError
from theseus_jax.similarity.gram import (
    Features,
    centre,
    checked,
    prepare,
    product,
    squared_norms,
    within,
)


def _reduced(a: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    """(basis (P, r) or None, core (N, r)) with a = core basis^T and an orthonormal basis; r =
    min(N, P), None stands for I.
    """
    if a.shape[1] <= a.shape[0]:
        return None, a
    basis, upper = jnp.linalg.qr(a.T)
    return basis, upper.T


@jax.custom_jvp
def cross_nuclear_norm(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum of the singular values of A^T B, of a (N, P) and b (N, Q): a scalar of their dtype,
    at least 0.

    With fewer samples than features the singular values are those of a matrix of at most N rows and
    columns (a QR decomposition of A^T and of B^T first), so a batch of 128 costs a 128 x 128
    problem whatever the widths. The derivative is B W^T and A W with W the polar factor of A^T B on
    its row and column spaces: a subgradient where A^T B is singular, as it always is for centred
    features of N <= P, Q, where a derivative of QR or SVD would divide by 0.
    """
    (_, ours), (_, theirs) = _reduced(a), _reduced(b)
    return jnp.sum(jnp.linalg.svd(product(ours.T, theirs), compute_uv=False))


@cross_nuclear_norm.defjvp
def _cross_nuclear_norm_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (basis_a, ours), (basis_b, theirs) = map(_reduced, primals)
    cross = product(ours.T, theirs)
    left, singular, right = jnp.linalg.svd(cross, full_matrices=False)
    kept = singular > jnp.finfo(singular.dtype).eps * max(cross.shape) * singular[0]
    polar = product(jnp.where(kept, left, 0), right)
    slopes = (product(theirs, polar.T), basis_a), (product(ours, polar), basis_b)
    change = [
        jnp.sum(tangent * (slope if basis is None else product(slope, basis.T)))
        for tangent, (slope, basis) in zip(tangents, slopes)
    ]
    return jnp.sum(singular), change[0] + change[1]


def procrustes(x: jax.Array, y: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """Squared orthogonal Procrustes distance of x (N, P) and y (N, Q): a scalar in [0, 2], smaller
    is more similar.

    min over orthogonal R of |X - Y R|^2 = 2 - 2 |X^T Y|_* with X and Y centred and of Frobenius
    norm 1 (Williams et al. 2021; Ding et al. 2021); the narrower side counts as padded with zero
    features. Its square root is a metric. Invariant to rotation, shift and isotropic scale of
    either side. Differentiable, see `cross_nuclear_norm`. mask: (N,) samples that count. A constant
    layer gives 2 with a zero gradient; NaN gives NaN. Raises UserError for N < 2.
    """
    a, b = prepare(x, y, mask, 2, "procrustes")
    undefined = a.constant | b.constant
    lengths = [jnp.where(undefined, 1, jnp.sum(squared_norms(f.values))) for f in (a, b)]
    aligned = cross_nuclear_norm(a.values, b.values) * lax.rsqrt(lengths[0]) * lax.rsqrt(lengths[1])
    return 2 - 2 * jnp.where(undefined, 0, within(aligned, 0, 1))


def _directions(features: Features, variance: float) -> tuple[jax.Array, jax.Array]:
    """((N, r) orthonormal principal directions, those not kept set to 0; how many are kept), r =
    min(N, P).

    Kept are the fewest directions that hold the fraction `variance` of it, and none that is only
    rounding.
    """
    left, singular, _ = jnp.linalg.svd(features.values, full_matrices=False)
    power = singular**2
    before = jnp.cumsum(power) - power
    rounding = jnp.finfo(singular.dtype).eps * max(features.values.shape) * singular[0]
    keep = (before < variance * jnp.sum(power)) & (singular > rounding)
    kept = keep.astype(left.dtype)
    return left * kept[None, :], jnp.sum(kept)


def svcca(
    x: jax.Array, y: jax.Array, *, variance: float = 0.99, mask: jax.Array | None = None
) -> jax.Array:
    """Mean canonical correlation of the principal subspaces of x (N, P) and y (N, Q): a scalar in
    [0, 1].

    Raghu et al. 2017: keep the fewest principal components of each side that hold the fraction
    `variance` of its variance, then average the min(kept_x, kept_y) canonical correlations.
    Invariant to rotation, shift and isotropic scale; with variance=1 to any invertible linear map.
    Needs many more samples than components: with N below the number kept on either side it is 1
    whatever the features. Used as not differentiable (the cut is a step). mask: (N,) samples that
    count. A constant layer gives 0; NaN gives NaN. Raises UserError for N < 3 or a variance outside
    (0, 1].
    """
    if not 0 < variance <= 1:
        raise UserError(f"svcca: variance={variance}, expected a fraction in (0, 1]; use 0.99")
    a, b = prepare(x, y, mask, 3, "svcca")
    (left_a, kept_a), (left_b, kept_b) = _directions(a, variance), _directions(b, variance)
    correlations = jnp.linalg.svd(product(left_a.T, left_b), compute_uv=False)
    mean = jnp.sum(correlations) / jnp.maximum(jnp.minimum(kept_a, kept_b), 1)
    mean = jnp.where(jnp.isnan(a.scale + b.scale), jnp.nan, within(mean, 0, 1))
    return jnp.where(a.constant | b.constant, 0, mean).astype(a.values.dtype)


def pwcca(x: jax.Array, y: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """Projection-weighted CCA of x (N, P) with y (N, Q): a scalar in [0, 1], larger is more
    similar; not symmetric.

    Morcos et al. 2018: canonical correlations weighted by alpha_i = sum_j |<h_i, x_j>|, how much of
    x its canonical variate h_i accounts for. Invariant to shift, to isotropic scale and rotation of
    y and to any invertible linear map of y, not to a rotation of x (the weights are read in x's own
    basis). Not differentiable. mask: (N,) samples that count. A constant layer gives 0; NaN gives
    NaN. Raises UserError for N < max(P, Q) + 2, where one side spans everything and every
    representation would score 1.
    """
    needed = max(jnp.shape(x)[-1:] + jnp.shape(y)[-1:], default=0) + 2
    a, b = prepare(x, y, mask, 3, "pwcca", needed)
    if a.values.shape[0] < needed:
        raise UserError(
            f"pwcca: {a.values.shape[0]} samples given, needs at least {needed} for "
            f"{a.values.shape[1]} and {b.values.shape[1]} features; use more samples"
        )
    (left_a, kept_a), (left_b, kept_b) = _directions(a, 2.0), _directions(b, 2.0)
    turn, correlations, _ = jnp.linalg.svd(product(left_a.T, left_b), full_matrices=False)
    variates = product(left_a, turn)
    used = jnp.arange(correlations.shape[0], dtype=kept_a.dtype) < jnp.minimum(kept_a, kept_b)
    weights = jnp.where(used, jnp.sum(jnp.abs(product(variates.T, a.values)), axis=1), 0)
    undefined = a.constant | b.constant
    total = jnp.where(undefined, 1, jnp.sum(weights))
    value = jnp.where(undefined, 0, within(jnp.sum(weights * correlations) / total, 0, 1))
    return jnp.where(jnp.isnan(a.scale + b.scale), jnp.nan, value)


def _held_out_error(
    x: jax.Array, y: jax.Array, train: jax.Array, test: jax.Array, ridge: float
) -> jax.Array:
    """Squared error on the `test` samples (N,) 0/1 of a ridge regression fitted on the `train`
    samples.
    """
    count = jnp.maximum(jnp.sum(train), 1)
    mean_x, mean_y = (jnp.sum(z * train[:, None], axis=0, keepdims=True) / count for z in (x, y))
    fit_x, fit_y = (x - mean_x) * train[:, None], (y - mean_y) * train[:, None]
    total = jnp.sum(squared_norms(fit_x))
    penalty = ridge * jnp.where(total <= 0, 1, total) / x.shape[1]
    # The same solution in the smaller of the two spaces: X^T (X X^T + c)^-1 Y = (X^T X + c)^-1 X^T
    # Y.
    if x.shape[0] > x.shape[1]:
        system = product(fit_x.T, fit_x) + penalty * jnp.eye(x.shape[1], dtype=x.dtype)
        weights = jax.scipy.linalg.solve(system, product(fit_x.T, fit_y), assume_a="pos")
    else:
        system = product(fit_x, fit_x.T) + penalty * jnp.eye(x.shape[0], dtype=x.dtype)
        weights = product(fit_x.T, jax.scipy.linalg.solve(system, fit_y, assume_a="pos"))
    residual = y - mean_y - product(x - mean_x, weights)
    return jnp.sum(squared_norms(residual) * test)


def ridge_predictivity(
    x: jax.Array,
    y: jax.Array,
    *,
    folds: int = 5,
    ridge: float = 0.01,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Cross-validated R^2 of y (N, Q) predicted linearly from x (N, P): a scalar in (-inf, 1],
    larger is better.

    1 - sum of squared held-out errors / sum of squares of y around its mean, over all samples and
    features together. Fold f holds the counted samples of rank r with floor(r folds / n) = f:
    blocks in order, the same at every call, so neighbouring tokens do not leak from training into
    test. The penalty is ridge times the mean variance per feature of x on the training samples (sum
    of squares / P), so isotropic scale does not matter; in float32 keep ridge >= 1e-5. Invariant to
    rotation, shift and isotropic scale of either side; not symmetric. Differentiable. mask: (N,)
    samples that count. A constant x or y gives 0 with a zero gradient; NaN, or fewer than 2 folds
    counted samples, give NaN. Raises UserError for folds < 2, N < 2 folds or ridge <= 0.
    """
    if folds < 2 or not ridge > 0:
        raise UserError(
            f"ridge_predictivity: folds={folds}, ridge={ridge}, expected folds >= 2 and "
            "ridge > 0; use folds=5 and ridge=0.01"
        )
    a, b = prepare(x, y, mask, 2 * folds, "ridge_predictivity")
    rank = jnp.cumsum(a.valid > 0) - 1
    fold = rank * folds // jnp.maximum(jnp.sum(a.valid > 0), 1)

    def error(f):
        test = jnp.where(fold == f, a.valid, 0)
        return _held_out_error(a.values, b.values, a.valid - test, test, ridge)

    errors = jnp.sum(lax.map(error, jnp.arange(folds)))
    undefined = a.constant | b.constant
    total = jnp.where(undefined, 1, jnp.sum(squared_norms(b.values)))
    return jnp.where(undefined, 0, 1 - errors / total)


def mse_similarity(x: jax.Array, y: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """1 - |x - y|^2 / |y - mean(y)|^2 of x and the reference y (N, P) both: a scalar in (-inf, 1],
    larger is better.

    The mean squared error in units of the guide's variance: 1 if equal, 0 for predicting the
    guide's mean. Invariant to the same shift, rotation or isotropic scale of both sides together,
    to none of one side alone. Differentiable. mask: (N,) samples that count. A constant y gives 0
    with a zero gradient; a constant x keeps its value (at most 0) and its gradient. Raises
    UserError for different widths or N < 2.
    """
    x, y, valid = checked(x, y, mask, 2, "mse")
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"mse: x has {x.shape[1]} features and y {y.shape[1]}, expected equal widths; "
            "use a measure such as cka_debiased, or add a linear stitch between them"
        )
    b = centre(y, valid)
    difference = (x - y) / b.scale
    total = jnp.where(b.constant, 1, jnp.sum(squared_norms(b.values)))
    value = jnp.where(b.constant, 0, 1 - jnp.sum(squared_norms(difference)) / total)
    return jnp.where(jnp.isfinite(value), value, jnp.nan)
