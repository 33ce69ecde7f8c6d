"""The normalisations of the vision networks by name: batch, layer, group, none; all with epsilon
1e-5, as in PyTorch.
"""

from __future__ import annotations

import inspect
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError

NORMS = ("batch", "layer", "group", "none")
EPSILON = 1e-5
GROUPS = 32  # Wu & He 2018 (arXiv 1803.08494), section 4.1
# Below flax's wrapper: by super().__call__ an interceptor would meet every layer twice
_flax_batch_norm = inspect.unwrap(nn.BatchNorm.__call__)


class BatchNorm(nn.BatchNorm):
    """flax's BatchNorm with PyTorch's running variance, the unbiased one: (..., D) -> (..., D).

    Ioffe & Szegedy 2015 (arXiv 1502.03167), algorithms 1 and 2: a batch is normalised by its biased
    variance, and n / (n - 1) of it goes into the running one, n being the number of values per
    channel. Momentum 0.9 is PyTorch's 0.1. Raises UserError for a batch of one value per channel,
    whose variance is 0.
    """

    momentum: float = 0.9
    epsilon: float = EPSILON
    use_fast_variance: bool = False  # E[x^2] - E[x]^2 cancels in float32 where the mean is large

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        running = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        if running or self.is_initializing():
            return _flax_batch_norm(self, x, use_running_average)
        n = math.prod(x.shape) // x.shape[self.axis]
        if n < 2:
            raise UserError(
                f"batch norm in training needs 2 values per channel, given 1 in {x.shape}; raise"
                " the batch"
            )
        kept = self.momentum * self.get_variable("batch_stats", "var")
        y = _flax_batch_norm(self, x, use_running_average)
        added = self.get_variable("batch_stats", "var") - kept
        self.put_variable("batch_stats", "var", kept + added * (n / (n - 1)))
        return y


class RunningNorm(nn.Module):
    """(x - mean) / deviation of every input by itself, both running over all batches so far: (B, I)
    -> (B, I), float32, without parameters.

    In training the batch is taken in first (Welford's update, merged by Chan et al. 1979), so that
    a stream's inputs are scaled by what came by, not by the batch; `count`, `mean` and `squares`
    stand in batch_stats. An input that never changed becomes 0.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x.astype(jnp.float32)
        zeros = lambda shape: jnp.zeros(shape, jnp.float32)  # noqa: E731
        count = self.variable("batch_stats", "count", zeros, ())
        mean = self.variable("batch_stats", "mean", zeros, x.shape[1:])
        squares = self.variable("batch_stats", "squares", zeros, x.shape[1:])
        if train and not self.is_initializing():
            rows = jnp.float32(len(x))
            total, apart = count.value + rows, x.mean(axis=0) - mean.value
            own = ((x - x.mean(axis=0)) ** 2).sum(axis=0)
            squares.value = squares.value + own + apart**2 * count.value * rows / total
            mean.value = mean.value + apart * rows / total
            count.value = total
        variance = squares.value / jnp.maximum(count.value, 1.0)
        return jnp.where(variance > 0, (x - mean.value) * jax.lax.rsqrt(variance + EPSILON), 0.0)


def group_count(channels: int) -> int:
    """The number of groups of a group norm: the largest divisor of `channels` that is not
    above 32.
    """
    return max(count for count in range(1, min(GROUPS, channels) + 1) if channels % count == 0)


def known_norm(kind: str) -> str:
    """`kind` itself. Raises UserError when it is none of NORMS."""
    if kind not in NORMS:
        raise UserError(f"there is no norm {kind!r}; take one of {', '.join(NORMS)}")
    return kind


def normalized(
    kind: str,
    x: jax.Array,
    *,
    train: bool,
    name: str,
    scale: float = 1.0,
    live: jax.Array | None = None,
) -> jax.Array:
    """x normalised, for use inside a compact method: (B, ..., D) -> (B, ..., D), each value of the
    order of 1.

    kind: "batch" (over all but D; train=True uses the batch's statistics and updates the running
    ones), "layer" (over D, each position by itself), "group" (over positions and the channels of a
    group, of which there are `group_count(D)`) or "none" (x itself, no variables). scale: where the
    learned scale starts. live: (D,) bool, the channels that count where several are read at once,
    or None for all. The variables stand under `name`: scale and bias in "params", mean and var in
    "batch_stats". Raises UserError for another kind, or groups of one value, which would all
    become 0.
    """
    if known_norm(kind) == "none":
        return x
    scale_init = nn.initializers.constant(scale)
    if kind == "batch":
        return BatchNorm(use_running_average=not train, scale_init=scale_init, name=name)(x)
    if kind == "layer":
        return nn.LayerNorm(
            epsilon=EPSILON, use_fast_variance=False, scale_init=scale_init, name=name
        )(x, mask=live)
    groups = group_count(x.shape[-1])
    if math.prod(x.shape[1:]) == groups:
        raise UserError(
            f"group norm of {x.shape} has {groups} groups of one value; take layer norm or more"
            " channels"
        )
    return nn.GroupNorm(
        groups, epsilon=EPSILON, use_fast_variance=False, scale_init=scale_init, name=name
    )(x, mask=live)
