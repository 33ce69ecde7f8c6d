"""Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of features turn by an angle that
grows with the position, so that products of queries and keys read the distance between them.

A feature's partner lies half of the head away, as in the weights of Llama that transformers writes.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError

STRETCHES = ("default", "linear", "llama3")


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Pair i of E / 2 turns by theta^(-2 i / E) radians a token.

    stretch: "linear": by `factor` less; "llama3": those with wavelengths above original / low by
    `factor` less, those below original / high as they were, between them a blend (Llama 3.1).
    original: tokens of the context before it was stretched. Raises UserError for another stretch.
    """

    theta: float = 10000.0
    stretch: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __post_init__(self) -> None:
        if self.stretch not in STRETCHES:
            raise UserError(
                f"there are no rotary positions {self.stretch!r}; choose one of"
                f" {', '.join(STRETCHES)}"
            )

    def frequencies(self, size: int) -> np.ndarray:
        """Radians a token of each pair of a head of `size` features, (size / 2,) float64."""
        plain = self.theta ** (-np.arange(0, size, 2) / size)
        if self.stretch == "default":
            return plain
        if self.stretch == "linear":
            return plain / self.factor
        turns = self.original * plain / (2 * math.pi)  # in the original context
        share = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return plain * (share + (1.0 - share) / self.factor)

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """x (B, T, H, E) at positions (T,) int, turned; the dtype is kept."""
        angles = positions[:, None] * jnp.asarray(self.frequencies(x.shape[-1]), jnp.float32)
        cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
