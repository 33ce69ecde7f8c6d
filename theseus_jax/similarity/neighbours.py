"""Measures of shared neighbourhoods: mutual kNN, CKNNA, and two differentiable forms of our own.

All work on features centred over the samples with rows of Euclidean norm 1; a sample's neighbours
are the others of largest inner product with it. They are invariant to rotation, shift and isotropic
scale of either side and to a permutation of the samples of both. In all of them a masked sample is
nobody's neighbour and has no influence.
"""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp
from jax import lax

from theseus_jax.errors import UserError
from theseus_jax.similarity.gram import Features, pairs, prepare, product, ratio, unit_rows, within

ROWS_AT_ONCE = 1024


def _check_neighbours(name: str, k: int, n_samples: int, spare: int) -> None:
    if not isinstance(k, numbers.Integral) or k < 1:
        raise UserError(
            f"{name}: k={k}, expected a whole number of neighbours of at least 1; give one"
        )
    if n_samples < k + spare:
        raise UserError(
            f"{name}: {n_samples} samples given, k={k} needs at least {k + spare}; lower k or "
            "use a larger batch"
        )


def _check_temperature(name: str, temperature: float) -> None:
    if not temperature > 0:
        raise UserError(
            f"{name}: temperature={temperature}, expected a positive number; 0.01 to 0.03 is usable"
        )


def _nearest(
    rows: jax.Array, index: jax.Array, unit: jax.Array, valid: jax.Array, k: int
) -> jax.Array:
    """(R, k) indices of the k nearest counted samples of `rows` (R, P), which are samples `index`
    (R,).
    """
    similarity = product(rows, unit.T)
    other = (index[:, None] != jnp.arange(unit.shape[0])[None, :]) & (valid > 0)[None, :]
    return lax.top_k(jnp.where(other, similarity, -jnp.inf), k)[1]


def mutual_knn(x: jax.Array, y: jax.Array, *, k: int, mask: jax.Array | None = None) -> jax.Array:
    """Mean share of k nearest neighbours that x (N, P) and y (N, Q) have in common: a scalar in [0,
    1].

    mean_i |N_x(i) & N_y(i)| / k (Huh et al. 2024, arXiv 2405.07987, appendix). Independent features
    give k / (N-1). Ties go to the lower index. Not differentiable: the gradient is 0. Holds 1024 x
    N similarities at a time. mask: (N,) samples that count. A constant layer gives 0; k or fewer
    counted samples, or NaN in one, give NaN. Raises UserError for N < k + 1 or k < 1.
    """
    a, b = prepare(x, y, mask, 2, "mutual_knn", k + 1)
    n_samples = a.valid.shape[0]
    _check_neighbours("mutual_knn", k, n_samples, 1)
    unit_a, unit_b = lax.stop_gradient(unit_rows(a)), lax.stop_gradient(unit_rows(b))

    def shared(row):
        index, row_a, row_b = row
        near_a = _nearest(row_a[None], index[None], unit_a, a.valid, k)[0]
        near_b = _nearest(row_b[None], index[None], unit_b, b.valid, k)[0]
        return jnp.sum(near_a[:, None] == near_b[None, :])

    counts = lax.map(
        shared, (jnp.arange(n_samples), unit_a, unit_b), batch_size=min(n_samples, ROWS_AT_ONCE)
    )
    score = jnp.sum(counts.astype(a.valid.dtype) * a.valid) / (k * jnp.maximum(a.count, 1))
    # top_k orders NaN like a number, so NaN has to be brought back from the features.
    score = jnp.where(jnp.isnan(a.scale + b.scale), jnp.nan, score)
    return jnp.where(a.constant | b.constant, 0, score).astype(a.values.dtype)


def _soft_members(features: Features, k: int, temperature: float) -> jax.Array:
    """(N, N): sigmoid((S_ij - t_i) / temperature) for pairs of different counted samples,
    else 0.
    """
    unit, keep = unit_rows(features), pairs(features.valid)
    similarity = product(unit, unit.T)
    # values alone would be compiled as a sort of whole rows, 25 to 40 times slower; the barrier
    # keeps the indices
    top, _ = lax.optimization_barrier(
        lax.top_k(lax.stop_gradient(jnp.where(keep, similarity, -jnp.inf)), k + 1)
    )
    threshold = (top[:, k - 1] + top[:, k]) / 2
    threshold = jnp.where(threshold == -jnp.inf, 0, threshold)[:, None]
    return jnp.where(keep, jax.nn.sigmoid((similarity - threshold) / temperature), 0)


def dmnn(
    x: jax.Array, y: jax.Array, *, k: int, temperature: float, mask: jax.Array | None = None
) -> jax.Array:
    """Differentiable mutual nearest neighbours of x (N, P) and y (N, Q): a scalar in [0, 1], larger
    is closer.

    Our definition; "Network of Theseus" names such a measure without giving it, and this does not
    claim to be it. With cosine similarities S of the centred features, A_ij = sigmoid((S_ij - t_i)
    / temperature) for i != j, where t_i is halfway between the k-th and (k+1)-th largest similarity
    of row i (a constant to the gradient); the score is <A_x, A_y> / (|A_x| |A_y|). temperature -> 0
    gives mutual_knn. Use 0.01 to 0.03: from 0.1 on it saturates near 1 whatever the features.
    Differentiable. Holds N x N arrays. mask: (N,) samples that count. A constant layer gives 0 with
    a zero gradient; fewer than k + 2 counted samples give NaN. Raises UserError for N < k + 2, k <
    1 or temperature <= 0.
    """
    a, b = prepare(x, y, mask, 3, "dmnn", k + 2)
    _check_neighbours("dmnn", k, a.valid.shape[0], 2)
    _check_temperature("dmnn", temperature)
    member_a, member_b = _soft_members(a, k, temperature), _soft_members(b, k, temperature)
    undefined = a.constant | b.constant
    shared, own_a = jnp.sum(member_a * member_b), jnp.sum(member_a**2)
    own_b = jnp.sum(member_b**2)
    return within(ratio(shared, own_a, own_b, undefined), 0, 1)


def _log_neighbourhoods(features: Features, temperature: float) -> jax.Array:
    unit = unit_rows(features)
    # A finite floor: a masked row has no neighbour at all, and minus infinity there would give NaN.
    logits = jnp.where(pairs(features.valid), product(unit, unit.T) / temperature, -1e9)
    return jax.nn.log_softmax(logits, axis=-1)


def dmnn_softmax(
    x: jax.Array, y: jax.Array, *, temperature: float, mask: jax.Array | None = None
) -> jax.Array:
    """Mean overlap of softmax neighbourhoods of x (N, P) and y (N, Q): a scalar in [0, 1], larger
    is closer.

    Our definition, an alternative to `dmnn` without k; it does not claim to be the measure of
    "Network of Theseus". p_i = softmax over j != i of S_ij / temperature with cosine similarities S
    of the centred features; the score is the mean over i of the Bhattacharyya coefficient sum_j
    sqrt(p_ij q_ij). Independent features do not give 0: the flatter the neighbourhoods, the nearer
    to 1. Differentiable. Holds N x N arrays. mask: (N,) samples that count. A constant layer gives
    0 with a zero gradient; fewer than 3 counted samples give NaN. Raises UserError for N < 3 or
    temperature <= 0.
    """
    a, b = prepare(x, y, mask, 3, "dmnn_softmax")
    _check_temperature("dmnn_softmax", temperature)
    log_p, log_q = _log_neighbourhoods(a, temperature), _log_neighbourhoods(b, temperature)
    overlap = jnp.sum(jnp.exp((log_p + log_q) / 2), axis=-1)
    score = within(jnp.sum(overlap * a.valid) / jnp.maximum(a.count, 1), 0, 1)
    # The floor hides NaN.
    score = jnp.where(jnp.isnan(a.scale + b.scale), jnp.nan, score)
    return jnp.where(a.constant | b.constant, 0, score)


def cknna(x: jax.Array, y: jax.Array, *, k: int, mask: jax.Array | None = None) -> jax.Array:
    """Kernel alignment over mutual neighbours of x (N, P) and y (N, Q): a scalar in [-1, 1], larger
    is closer.

    Huh et al. 2024 (arXiv 2405.07987, appendix): Align(K, L) = sum_ij alpha_ij Kc_ij Lc_ij,
    alpha_ij = 1 if j is among the k nearest of i on both sides, divided by sqrt(Align(K, K)
    Align(L, L)). Kc are cosine similarities of the centred features less their mean over the row.
    (The authors' published program uses an HSIC estimator instead.) k = N - 1 is close to biased
    CKA of the normalised rows. The choice of neighbours is not differentiable. mask: (N,) samples
    that count. A constant layer gives 0; k or fewer counted samples, fewer than 3, or NaN give NaN.
    Holds N x N arrays. Raises UserError for N < k + 1 or k < 1.
    """
    a, b = prepare(x, y, mask, 3, "cknna", max(3, k + 1))
    _check_neighbours("cknna", k, a.valid.shape[0], 1)
    everyone = jnp.arange(a.valid.shape[0])

    def kernel(features):
        unit = unit_rows(features)
        gram = product(unit, unit.T)
        gram = gram - (jnp.sum(gram, axis=1) / jnp.maximum(features.count, 1))[:, None]
        near = _nearest(unit, everyone, unit, features.valid, k)
        chosen = jnp.zeros_like(gram).at[everyone[:, None], near].set(1)
        return gram, chosen * features.valid[:, None]

    (gram_a, near_a), (gram_b, near_b) = kernel(a), kernel(b)
    self_a, self_b = jnp.sum(near_a * gram_a**2), jnp.sum(near_b * gram_b**2)
    undefined = a.constant | b.constant | (self_a <= 0) | (self_b <= 0)
    return within(
        ratio(jnp.sum(near_a * near_b * gram_a * gram_b), self_a, self_b, undefined), -1, 1
    )
