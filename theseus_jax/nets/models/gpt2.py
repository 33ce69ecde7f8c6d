"""GPT-2 (Radford et al. 2019) as named stages: embed, block_1 .. block_L, norm, head.

Pre-layer-norm blocks, learned positions, GELU by its tanh form, a head tied to the token embedding,
initial weights N(0, 0.02) with the residual projections divided by sqrt(2 L).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.readout import Layout
from theseus_jax.nets.blocks.style import EPSILON, Style
from theseus_jax.nets.models.attention import Attention
from theseus_jax.nets.stage import Network, Tie, network

_normal = nn.initializers.normal(0.02)


class Embed(nn.Module):
    """Token plus learned position embedding: (B, T) int -> (B, T, D). positions = 0: tokens
    alone.
    """

    vocabulary: int
    width: int
    positions: int = 0
    dropout: float = 0.0

    def setup(self) -> None:
        self.tokens = self.param("tokens", _normal, (self.vocabulary, self.width))
        if self.positions:
            self.positional = self.param("positions", _normal, (self.positions, self.width))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = self.tokens[x]
        if self.positions:
            if x.shape[1] > self.positions:
                raise UserError(
                    f"{x.shape[1]} tokens are more than the {self.positions} learned positions; "
                    "shorten the context or raise positions"
                )
            y = y + self.positional[: x.shape[1]]
        return self.drop(y, deterministic=not train)

    def initial_carry(self, batch: int, context: int) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def step(self, x: jax.Array, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = self.tokens[x]
        return (y + self.positional[carry] if self.positions else y), carry + 1


class Block(nn.Module):
    """x + attn(ln_1(x)), then + mlp(ln_2(.)): (B, T, D) -> (B, T, D), of parts that are given.

    mixer: what mixes tokens, under the name attn. mlp: of each token. norm: before each of the two.
    """

    mixer: nn.Module
    channel_mixer: nn.Module
    norm: nn.Module
    dropout: float = 0.0

    def setup(self) -> None:
        self.ln_1 = self.norm.clone(parent=None)
        self.attn = self.mixing()
        self.ln_2 = self.norm.clone(parent=None)
        self.mlp = self.channel_mixer.clone(parent=None)
        self.drop = nn.Dropout(self.dropout)

    @nn.nowrap
    def mixing(self) -> nn.Module:
        """What mixes tokens."""
        return self.mixer.clone(parent=None)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x + self.drop(self.attn(self.ln_1(x)), deterministic=not train)
        return x + self.drop(self.mlp(self.ln_2(x)), deterministic=not train)

    @nn.nowrap
    def initial_carry(self, batch: int, context: int) -> Any:
        return self.mixing().initial_carry(batch, context)

    def look_back(self, x: jax.Array) -> jax.Array:
        """`Attention.look_back` of a block that has one."""
        return self.attn.look_back(self.ln_1(x))

    def weights(self, x: jax.Array) -> jax.Array:
        """(B, H, T, T) of a mixer that weighs tokens (`Attention`, `LinearAttention`)."""
        return self.attn.weights(self.ln_1(x))

    def step(self, x: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        y, carry = self.attn.step(self.ln_1(x), carry)
        x = x + y
        return x + self.mlp(self.ln_2(x)), carry


class Head(nn.Module):
    """Linear read-out (..., D) -> (..., V) whose `kernel` is stored (V, D), as an embedding is, so
    that it can be tied.
    """

    vocabulary: int
    width: int
    use_bias: bool = False
    readout = Layout(outputs_first=True)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.param("kernel", _normal, (self.vocabulary, self.width)).T
        return (
            y + self.param("bias", nn.initializers.zeros, (self.vocabulary,))
            if self.use_bias
            else y
        )


def gpt2(
    *,
    vocabulary: int,
    width: int,
    depth: int,
    heads: int,
    positions: int,
    expansion: int = 4,
    hidden: int = 0,
    dropout: float = 0.0,
    window: int = 0,
    sinks: int = 0,
    activation: str = "gelu_new",
    epsilon: float = EPSILON,
    taps: int = 0,
) -> Network:
    """GPT-2 of any size: (B, T) int32 tokens -> (B, T, V) float32 logits. GPT-2 small: 50257, 768,
    12, 12, 1024.

    hidden: units of an MLP; 0: expansion times the width. window, sinks, taps: see
    `Attention`.
    activation, epsilon: see `Style`. Raises UserError when width is not
    a multiple of heads, and for another activation.
    """
    if width % heads:
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change model.width or"
            " model.heads"
        )
    style = Style(activation, epsilon)
    mixer = Attention(width, heads, depth, window=window, sinks=sinks, taps=taps)
    mlp = style.mlp(width, hidden or expansion * width, depth)
    block = Block(mixer, mlp, style.norm(), dropout)
    stages = [
        ("embed", Embed(vocabulary, width, positions, dropout)),
        *[(f"block_{i + 1}", block) for i in range(depth)],
        ("norm", style.norm()),
        ("head", Head(vocabulary, width)),
    ]
    return network(stages, ties=[Tie("head", "kernel", "embed", "tokens")])
