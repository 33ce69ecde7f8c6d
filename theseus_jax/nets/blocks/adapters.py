"""Low-rank linear adapters: the glue between parts whose widths differ."""

from __future__ import annotations

import math
from typing import Any, Mapping

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


def adapter_count(variables: Any) -> int:
    """How many parameters of a network stand in adapters: in a `LowRank`, or in a submodule named
    "adapter".
    """

    def count(tree: Any, inside: bool) -> int:
        if not isinstance(tree, Mapping):
            return math.prod(tree.shape) if inside else 0
        low_rank = {"down", "up"} == set(tree) and not any("bias" in leaf for leaf in tree.values())
        return sum(
            count(value, inside or low_rank or name == "adapter") for name, value in tree.items()
        )

    return sum(count(collections.get("params", {}), False) for collections in variables.values())


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
        raise UserError(
            f"guide width {seam_width} and target width {inner_width} differ, and an adapter rank"
            f" of {rank} is not in 1..{min(inner_width, seam_width)}; set target.adapter_rank"
        )
    return Adapted(inner, inner_width, seam_width, rank)
