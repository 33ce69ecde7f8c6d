"""GPT-2 (Radford et al. 2019) as named stages: embed, block_1 .. block_L, norm, head.

Pre-layer-norm blocks, learned positions, GELU by its tanh form, a head tied to the token embedding,
initial weights N(0, 0.02) with the residual projections divided by sqrt(2 L).
"""

from __future__ import annotations

import functools
from typing import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.readout import Layout
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.stage import Network, Tie, network

EPSILON = 1e-5
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


class MLP(nn.Module):
    """Dense, GELU (tanh form), Dense: (..., D) -> (..., D)."""

    width: int
    hidden: int
    depth: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        z = nn.Dense(self.hidden, kernel_init=_normal, name="c_fc")(x)
        h = Units(functools.partial(nn.gelu, approximate=True), name="units")(z)
        return nn.Dense(
            self.width,
            kernel_init=nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5),
            name="c_proj",
        )(h)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention of (B, T, H, D / H): cuDNN's fused kernel where it can run, which holds no
    (T, T) array.
    """

    def through(kernel: str | None) -> Callable[..., jax.Array]:
        return functools.partial(
            jax.nn.dot_product_attention, is_causal=True, implementation=kernel
        )

    fits = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    if not fits or jax.default_backend() != "gpu":
        return through(None)(q, k, v)
    return jax.lax.platform_dependent(q, k, v, cuda=through("cudnn"), default=through("xla"))


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused query-key-value projection: (B, T, D) -> (B,
    T, D).
    """

    width: int
    heads: int
    depth: int = 1

    def setup(self) -> None:
        self.c_attn = nn.Dense(3 * self.width, kernel_init=_normal)
        self.c_proj = nn.Dense(
            self.width, kernel_init=nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        )

    def _split(self, x: jax.Array) -> list[jax.Array]:
        shape = (*x.shape[:-1], self.heads, self.width // self.heads)
        return [part.reshape(shape) for part in jnp.split(self.c_attn(x), 3, axis=-1)]

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self._split(x)
        y = _attend(q, k, v)
        return self.c_proj(y.reshape(x.shape))

    def step(
        self, x: jax.Array, carry: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        q, k, v = self._split(x)
        t = carry["length"]
        keys, values = carry["keys"].at[:, t].set(k), carry["values"].at[:, t].set(v)
        scores = jnp.einsum("bhd,bthd->bht", q, keys) / (self.width // self.heads) ** 0.5
        seen = jnp.arange(keys.shape[1]) <= t
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        y = jnp.einsum("bht,bthd->bhd", weights, values).reshape(x.shape)
        return self.c_proj(y), {"keys": keys, "values": values, "length": t + 1}


class Block(nn.Module):
    """x + attention(ln_1(x)), then + mlp(ln_2(.)): (B, T, D) -> (B, T, D)."""

    width: int
    heads: int
    hidden: int
    depth: int = 1
    dropout: float = 0.0

    def setup(self) -> None:
        self.ln_1 = nn.LayerNorm(epsilon=EPSILON)
        self.attn = Attention(self.width, self.heads, self.depth)
        self.ln_2 = nn.LayerNorm(epsilon=EPSILON)
        self.mlp = MLP(self.width, self.hidden, self.depth)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x + self.drop(self.attn(self.ln_1(x)), deterministic=not train)
        return x + self.drop(self.mlp(self.ln_2(x)), deterministic=not train)

    def initial_carry(self, batch: int, context: int) -> dict[str, jax.Array]:
        shape = (batch, context, self.heads, self.width // self.heads)
        return {
            "keys": jnp.zeros(shape),
            "values": jnp.zeros(shape),
            "length": jnp.zeros((), jnp.int32),
        }

    def step(
        self, x: jax.Array, carry: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
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
    dropout: float = 0.0,
) -> Network:
    """GPT-2 of any size: (B, T) int32 tokens -> (B, T, V) float32 logits. GPT-2 small: 50257, 768,
    12, 12, 1024.

    Raises UserError when width is not a multiple of heads.
    """
    if width % heads:
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change model.width or"
            " model.heads"
        )
    blocks = [
        (f"block_{i + 1}", Block(width, heads, expansion * width, depth, dropout))
        for i in range(depth)
    ]
    stages = [
        ("embed", Embed(vocabulary, width, positions, dropout)),
        *blocks,
        ("norm", nn.LayerNorm(epsilon=EPSILON)),
        ("head", Head(vocabulary, width)),
    ]
    return network(stages, ties=[Tie("head", "kernel", "embed", "tokens")])
