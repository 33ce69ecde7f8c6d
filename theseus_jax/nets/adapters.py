"""Low-rank linear adapters: the glue between parts whose widths differ."""
from __future__ import annotations

import flax.linen as nn
import jax

from theseus_jax.errors import UserError


class LowRank(nn.Module):
    """x A B with A (P, rank) and B (rank, Q), no bias: (..., P) -> (..., Q)."""

    features: int
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        narrow = nn.Dense(self.rank, use_bias=False, name="down")(x)
        return nn.Dense(self.features, use_bias=False, name="up")(narrow)


class Adapted(nn.Module):
    """up(inner(down(x))): a part of one width between seams of another; (B, T, D) -> (B, T, D)."""

    inner: nn.Module
    inner_width: int
    seam_width: int
    rank: int

    def setup(self) -> None:
        self.entry = LowRank(self.inner_width, self.rank)
        self.part = self.inner.clone()
        self.exit = LowRank(self.seam_width, self.rank)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.exit(self.part(self.entry(x)))

    @nn.nowrap
    def initial_carry(self, batch: int, context: int):
        return self.inner.initial_carry(batch, context)

    def step(self, x: jax.Array, carry):
        y, carry = self.part.step(self.entry(x), carry)
        return self.exit(y), carry


def adapted(inner: nn.Module, inner_width: int, seam_width: int, rank: int) -> nn.Module:
    """`inner` (width inner_width) between seams of seam_width, through low-rank adapters.

    Raises UserError when rank is not in 1..min(inner_width, seam_width).
    """
    if not 1 <= rank <= min(inner_width, seam_width):
        raise UserError(f"guide width {seam_width} and target width {inner_width} differ, and an adapter rank of {rank} "
                        f"is not in 1..{min(inner_width, seam_width)}; set target.adapter_rank")
    return Adapted(inner, inner_width, seam_width, rank)
