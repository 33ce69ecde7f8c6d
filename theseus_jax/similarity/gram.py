"""What every measure of similarity shares: samples, centring, masks, full-precision products, Gram
matrices."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from theseus_jax import lapack
from theseus_jax.errors import UserError


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "valid", "count", "scale", "constant"],
    meta_fields=["narrow"],
)
@dataclasses.dataclass(frozen=True)
class Features:
    """Centred features of one layer.

    values: (N, P) float32 or float64, mean over the counted samples removed, over `scale`, masked
    rows 0. valid: (N,) same dtype, 1 for a sample that counts and 0 for padding. count: scalar, the
    sum of `valid`. scale: scalar, the largest magnitude of the centred features (1 if they are
    constant). constant: boolean scalar, True if no feature varies by more than rounding over the
    samples (a dead layer). narrow: both layers came in bfloat16. Then values are rounded to what
    bfloat16 holds, and a product of two such (`product(..., narrow=True)`) is one of bfloat16
    operands with sums in float32.
    """

    values: jax.Array
    valid: jax.Array
    count: jax.Array
    scale: jax.Array
    constant: jax.Array
    narrow: bool = False


def product(a: jax.Array, b: jax.Array, *, narrow: bool = False) -> jax.Array:
    """Matrix product a @ b, batched over leading axes, in full precision: no TF32 on a GPU.

    narrow: of float32 matrices whose entries bfloat16 holds exactly: the same sums, in float32,
    from bfloat16 operands, which a tensor core multiplies 14 times faster than float32 ones (H200).
    The derivative too takes bfloat16 operands.
    """
    return _narrow_product(a, b) if narrow else jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _in_bfloat16(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(
        a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )


@jax.custom_vjp
def _narrow_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return _in_bfloat16(a, b)


def _narrow_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return _in_bfloat16(a, b), (a, b)


def _narrow_backward(
    saved: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    return _in_bfloat16(slope, jnp.swapaxes(b, -1, -2)), _in_bfloat16(
        jnp.swapaxes(a, -1, -2), slope
    )


_narrow_product.defvjp(_narrow_forward, _narrow_backward)


def squared_norms(x: jax.Array) -> jax.Array:
    """(..., P) -> (...): squared Euclidean norm of each row."""
    return jnp.sum(x * x, axis=-1)


def checked(
    x: jax.Array,
    y: jax.Array,
    mask: jax.Array | None,
    minimum: int,
    name: str,
    counted: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x, y, valid) with x (N, P), y (N, Q) in their common dtype, at least float32, and valid (N,)
    boolean.

    Masked rows are set to 0, so that whatever they hold reaches neither the value nor the gradient;
    where the mask leaves fewer than `counted` (None: minimum), all are NaN: there is no value.
    Raises UserError for other ranks, different N, N < minimum, a mask that is not (N,), or complex
    features.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0] or 0 in x.shape + y.shape:
        raise UserError(
            f"{name}: x has shape {x.shape} and y {y.shape}, expected (N, P) and (N, Q) with "
            "the same N; bring activations into this form with theseus_jax.similarity.samples"
        )
    if x.shape[0] < minimum:
        raise UserError(
            f"{name}: {x.shape[0]} samples given, needs at least {minimum}; use a larger "
            "batch, or count tokens rather than sequences as samples"
        )
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"{name}: features of dtype {x.dtype} and {y.dtype}, expected real "
            "numbers; pass real arrays"
        )
    valid = jnp.ones(x.shape[0], bool) if mask is None else jnp.asarray(mask).astype(bool)
    if valid.shape != (x.shape[0],):
        raise UserError(
            f"{name}: mask has shape {valid.shape}, expected ({x.shape[0]},), one entry per "
            "sample; flatten it together with the activations (theseus_jax.similarity.samples)"
        )
    x, y = x.astype(dtype), y.astype(dtype)
    if mask is not None:
        x, y = (jnp.where(valid[:, None], z, 0) for z in (x, y))
        enough = jnp.sum(valid) >= (minimum if counted is None else counted)
        x, y = (jnp.where(enough, z, jnp.nan) for z in (x, y))
    return x, y, valid


def centre(x: jax.Array, valid: jax.Array, *, narrow: bool = False) -> Features:
    """Remove the mean over the counted samples and divide by the largest magnitude; narrow: see
    `Features`.

    x: (N, P) with masked rows 0; valid: (N,) boolean. One counted sample is subtracted before the
    mean, so that a large common offset costs no digits and a constant feature becomes exactly 0.
    The division keeps fourth powers inside float32's range; it is a constant to the gradient, which
    is exact for every scale-invariant measure.
    """
    weight = valid.astype(x.dtype)
    count = jnp.sum(weight)
    reference = lax.stop_gradient(lax.dynamic_slice_in_dim(x, jnp.argmax(valid), 1, axis=0))
    shifted = (x - reference) * weight[:, None]
    shifted = shifted - jnp.sum(shifted, axis=0, keepdims=True) / jnp.maximum(count, 1)
    shifted = shifted * weight[:, None]
    spread, size = (lax.stop_gradient(jnp.max(jnp.abs(z), axis=0)) for z in (shifted, x))
    constant = jnp.all(spread <= 4 * jnp.finfo(x.dtype).eps * size)
    scale = jnp.where(constant, 1, jnp.max(spread))
    scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)  # sums beyond the dtype's range
    values = shifted / scale
    # after centring, so that a common offset costs no digits; the gradient passes through
    if narrow:
        values = values + lax.stop_gradient(values.astype(jnp.bfloat16).astype(x.dtype) - values)
    return Features(values, weight, count, scale, constant, narrow)


def prepare(
    x: jax.Array,
    y: jax.Array,
    mask: jax.Array | None,
    minimum: int,
    name: str,
    counted: int | None = None,
) -> tuple[Features, Features]:
    """Checked and centred features of both layers; shapes and errors as in `checked`."""
    lapack.one_thread()
    narrow = all(jnp.asarray(z).dtype == jnp.bfloat16 for z in (x, y))
    x, y, valid = checked(x, y, mask, minimum, name, counted)
    return centre(x, valid, narrow=narrow), centre(y, valid, narrow=narrow)


def unit_rows(features: Features) -> jax.Array:
    """(N, P) centred features with rows of Euclidean norm 1; a zero row stays 0 with a finite
    gradient.
    """
    squares = squared_norms(features.values)
    return features.values * lax.rsqrt(jnp.where(squares > 0, squares, 1))[:, None]


def pairs(valid: jax.Array) -> jax.Array:
    """(N,) 0/1 -> (N, N) boolean: pairs of two different counted samples."""
    counted = valid > 0
    return counted[:, None] & counted[None, :] & ~jnp.eye(valid.shape[0], dtype=bool)


def ratio(
    numerator: jax.Array, first: jax.Array, second: jax.Array, undefined: jax.Array
) -> jax.Array:
    """numerator / sqrt(first second); 0 with a zero gradient where `undefined`. NaN stays NaN."""
    first, second, numerator = (jnp.where(undefined, 1, v) for v in (first, second, numerator))
    return jnp.where(undefined, 0, numerator * lax.rsqrt(first) * lax.rsqrt(second))


def within(value: jax.Array, low: float, high: float) -> jax.Array:
    """Remove rounding beyond [low, high] from the value and leave the gradient as it is."""
    return value + lax.stop_gradient(jnp.clip(value, low, high) - value)


def centred_gram(features: Features) -> jax.Array:
    """(N, N) Gram matrix H K H of features that are centred already."""
    return product(features.values, features.values.T, narrow=features.narrow)


def u_centred_gram(features: Features) -> tuple[jax.Array, jax.Array]:
    """((N, N) U-centred Gram matrix, squared norm of the off-diagonal Gram it came from).

    Szekely and Rizzo's U-centring: K~ has a zero diagonal, r are its row sums, s is its total, U_ij
    = K~_ij - (r_i + r_j) / (n-2) + s / ((n-1)(n-2)) off the diagonal, 0 on it and in masked rows
    and columns.
    """
    n, keep = features.count, pairs(features.valid)
    gram = jnp.where(keep, centred_gram(features), 0)
    rows = jnp.sum(gram, axis=1)
    less_1, less_2 = jnp.maximum(n - 1, 1), jnp.maximum(n - 2, 1)
    centred = gram - (rows[:, None] + rows[None, :]) / less_2 + jnp.sum(rows) / (less_1 * less_2)
    return jnp.where(keep, centred, 0), jnp.sum(gram * gram)


SAMPLES = ("tokens", "sequences", "pooled")


def samples(
    activations: jax.Array, *, kind: str = "tokens", mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """Activations of a layer as (samples, features) and the mask that belongs to them.

    kind="tokens" counts every position: (B, T, D) -> (B*T, D), images (B, H, W, C) -> (B*H*W, C).
    kind="sequences" counts every example: (B, T, D) -> (B, T*D), (B, H, W, C) -> (B, H*W*C). (B, D)
    is unchanged. kind="pooled" averages every example over its positions: (B, T, D) -> (B, D), (B,
    H, W, C) -> (B, C). mask: None (everything counts; None is returned), (B,) for whole examples,
    or one entry per position: (B, T) or (B, H, W). With tokens it becomes (B*T,). With sequences
    masked positions are set to 0, the same in any network compared, and an example counts if any of
    its positions does: (B,). Pooled, the mean is that of the positions that count. Dtypes are kept;
    the mask becomes boolean. Raises UserError for another rank, kind or mask shape.
    """
    x = jnp.asarray(activations)
    if kind not in SAMPLES:
        raise UserError(
            f"samples: kind={kind!r}, expected {', '.join(map(repr, SAMPLES))}; "
            "say which axis counts as samples"
        )
    if x.ndim not in (2, 3, 4):
        raise UserError(
            f"samples: activations of shape {x.shape}, expected (B, D), (B, T, D) or "
            "(B, H, W, C); reshape them so that the batch comes first and the features last"
        )
    positions = x.shape[:-1]
    if mask is not None:
        mask = jnp.asarray(mask).astype(bool)
        if mask.shape not in (positions, positions[:1]):
            raise UserError(
                f"samples: mask of shape {mask.shape} for activations {x.shape}, expected "
                f"{positions[:1]} or {positions}; give one entry per example or per position"
            )
        mask = jnp.broadcast_to(
            mask.reshape(mask.shape + (1,) * (len(positions) - mask.ndim)), positions
        )
    if kind == "tokens":
        return x.reshape(-1, x.shape[-1]), None if mask is None else mask.reshape(-1)
    counted = None if mask is None else jnp.any(mask.reshape(x.shape[0], -1), axis=1)
    if mask is not None:
        x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
    if kind == "sequences":
        return x.reshape(x.shape[0], -1), counted
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    count = (
        x.shape[1]
        if mask is None
        else jnp.maximum(mask.reshape(x.shape[0], -1).sum(1), 1)[:, None].astype(x.dtype)
    )
    return x.sum(1) / count, counted


def check_finite(x: jax.Array, name: str) -> None:
    """Raise UserError if x (any shape) holds NaN or infinity, naming `name`, how many and where the
    first is.

    Runs on the host and needs concrete values: call it outside jit. Inside jit NaN propagates into
    every measure.
    """
    bad = ~np.isfinite(np.asarray(x).astype(np.float64))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(
            f"{name}: {int(bad.sum())} of {bad.size} values are NaN or infinite, the first at "
            f"{first}; look for a diverged layer before it, or mask these samples"
        )
