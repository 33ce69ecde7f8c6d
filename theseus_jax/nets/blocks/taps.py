"""A causal depthwise convolution over few tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_vjp
def tapped(z: jax.Array, taps: jax.Array) -> jax.Array:
    """z (B, T + n - 1, C), taps (n, C) -> (B, T, C): y_t = sum_k taps_k z_{t + k}.

    Its backward pass is its own: XLA sums the taps' slope over all tokens column by column on a
    CPU, which took as long as the rest of a block's.
    """
    length = z.shape[1] - len(taps) + 1
    return sum(taps[k] * z[:, k : k + length] for k in range(len(taps)))


def _forward(z: jax.Array, taps: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return tapped(z, taps), (z, taps)


def _backward(kept: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    z, taps = kept
    count, length = len(taps), slope.shape[1]
    padded = jnp.pad(slope, ((0, 0), (count - 1, count - 1), (0, 0)))
    for_z = sum(
        taps[k] * padded[:, count - 1 - k : count - 1 - k + z.shape[1]] for k in range(count)
    )
    ones = jnp.ones((1, slope.shape[0] * length), slope.dtype)
    rows = [
        jnp.matmul(
            ones, (slope * z[:, k : k + length]).reshape(-1, z.shape[2]), precision="highest"
        )
        for k in range(count)
    ]
    return for_z.astype(z.dtype), jnp.concatenate(rows).astype(taps.dtype)


tapped.defvjp(_forward, _backward)
