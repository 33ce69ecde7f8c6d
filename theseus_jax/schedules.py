"""Learning rates as a function of the share of a phase that is done."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def warmup_cosine(
    step: jax.Array, steps: jax.Array, *, warmup: float = 0.05, floor: float = 0.1
) -> jax.Array:
    """A factor in [0, 1]: linear rise over the first `warmup` share of `steps`, then a half cosine
    down to `floor`.

    step: scalar, 0-based. Both step and steps may be traced, so that phases of different lengths
    share one program.
    """
    rise = jnp.maximum(1.0, warmup * steps)
    done = jnp.clip((step - rise) / jnp.maximum(1.0, steps - rise), 0.0, 1.0)
    decay = floor + (1.0 - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    return jnp.where(step < rise, (step + 1.0) / rise, decay)


def constant(step: jax.Array, steps: jax.Array) -> jax.Array:
    """1 at every step."""
    return jnp.ones(())


SCHEDULES = {"cosine": warmup_cosine, "constant": constant}


def swap_probability(step: jax.Array, steps: jax.Array, *, begin: float, full: float) -> jax.Array:
    """The chance that a part is replaced: min(1, k t + b), from `begin` to 1 at share `full` of the
    phase.

    BERT-of-Theseus (Xu et al. 2020, arXiv 2002.02925, equation 5).
    """
    return jnp.clip(begin + (1.0 - begin) * step / jnp.maximum(1.0, full * steps), 0.0, 1.0)
