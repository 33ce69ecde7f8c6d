"""A mixer of heads, with parameters that all count, over a text at once and token by token."""

import jax
import jax.numpy as jnp
import numpy as np


def drawn(module, x):
    """Variables far from fresh ones."""
    shapes, rng = jax.eval_shape(module.init, jax.random.key(0), x), np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype), shapes
    )


def stepwise(module, variables, x):
    """What `step` gives for x (B, T, D)."""

    def read(carry, token):
        y, carry = module.apply(variables, token, carry, method="step")
        return carry, y

    start = module.initial_carry(len(x), x.shape[1])
    return jnp.swapaxes(jax.lax.scan(read, start, jnp.swapaxes(x, 0, 1))[1], 0, 1)
