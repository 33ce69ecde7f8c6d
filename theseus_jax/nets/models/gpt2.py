"""GPT-2 (Radford et al. 2019) as named stages: embed, block_1 .. block_L, norm, head.

Pre-layer-norm blocks, learned positions, GELU by its tanh form, a head tied to the token embedding,
initial weights N(0, 0.02) with the residual projections divided by sqrt(2 L).
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.readout import Layout
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.stage import Network, Tie, network

EPSILON = 1e-5
ACTIVATIONS = {  # by transformers' names
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
}
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
    """Dense, an activation (of ACTIVATIONS), Dense: (..., D) -> (..., D)."""

    width: int
    hidden: int
    depth: int = 1
    activation: str = "gelu_new"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        z = nn.Dense(self.hidden, kernel_init=_normal, name="c_fc")(x)
        h = Units(ACTIVATIONS[self.activation], name="units")(z)
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

    window: of the past, the nearest tokens that are read, the own one among them, with the first
    `sinks` of all (Xiao et al. 2023, arXiv 2309.17453); 0: all.
    """

    width: int
    heads: int
    depth: int = 1
    window: int = 0
    sinks: int = 0

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
        if self.window:
            here, there = jnp.arange(x.shape[1])[:, None], jnp.arange(x.shape[1])
            seen = (there <= here) & ((here - there < self.window) | (there < self.sinks))
            y = jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])
        else:
            y = _attend(q, k, v)
        return self.c_proj(y.reshape(x.shape))

    def look_back(self, x: jax.Array) -> jax.Array:
        """Tokens that each head looks back on, (H,): the mean distance under its weights, over all
        tokens.
        """
        q, k, _ = self._split(x)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        lag = jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1])
        weights = jax.nn.softmax(jnp.where(lag >= 0, scores, -jnp.inf), axis=-1)
        return jnp.mean(jnp.sum(weights * lag, axis=-1), axis=(0, 2))

    @nn.nowrap
    def initial_carry(self, batch: int, context: int) -> dict[str, jax.Array]:
        held = min(context, self.window + self.sinks) if self.window else context
        shape = (batch, held, self.heads, self.width // self.heads)
        return {
            "keys": jnp.zeros(shape),
            "values": jnp.zeros(shape),
            "length": jnp.zeros((), jnp.int32),
        }

    def step(
        self, x: jax.Array, carry: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        q, k, v = self._split(x)
        t, held = carry["length"], carry["keys"].shape[1]
        # past the sinks the oldest place is written anew
        ring = held - self.sinks
        place = jnp.where(t < held, t, self.sinks + (t - self.sinks) % ring) if self.window else t
        keys = carry["keys"].at[:, place].set(k)
        values = carry["values"].at[:, place].set(v)
        scores = jnp.einsum("bhd,bthd->bht", q, keys) / (self.width // self.heads) ** 0.5
        seen = jnp.arange(held) <= t
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        y = jnp.einsum("bht,bthd->bhd", weights, values).reshape(x.shape)
        return self.c_proj(y), {"keys": keys, "values": values, "length": t + 1}


class Block(nn.Module):
    """x + attn(ln_1(x)), then + mlp(ln_2(.)): (B, T, D) -> (B, T, D).

    mixer: what mixes tokens under the name attn; None: `Attention`.
    """

    width: int
    heads: int
    hidden: int
    depth: int = 1
    dropout: float = 0.0
    mixer: nn.Module | None = None
    activation: str = "gelu_new"
    epsilon: float = EPSILON

    def setup(self) -> None:
        self.ln_1 = nn.LayerNorm(epsilon=self.epsilon)
        self.attn = self.mixing()
        self.ln_2 = nn.LayerNorm(epsilon=self.epsilon)
        self.mlp = MLP(self.width, self.hidden, self.depth, self.activation)
        self.drop = nn.Dropout(self.dropout)

    @nn.nowrap
    def mixing(self) -> nn.Module:
        """What mixes tokens."""
        own = self.mixer or Attention(self.width, self.heads, self.depth)
        return own.clone(parent=None)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x + self.drop(self.attn(self.ln_1(x)), deterministic=not train)
        return x + self.drop(self.mlp(self.ln_2(x)), deterministic=not train)

    @nn.nowrap
    def initial_carry(self, batch: int, context: int) -> Any:
        return self.mixing().initial_carry(batch, context)

    def look_back(self, x: jax.Array) -> jax.Array:
        """`Attention.look_back` of a block that has one."""
        return self.attn.look_back(self.ln_1(x))

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
) -> Network:
    """GPT-2 of any size: (B, T) int32 tokens -> (B, T, V) float32 logits. GPT-2 small: 50257, 768,
    12, 12, 1024.

    hidden: units of an MLP; 0: expansion times the width. window, sinks: see `Attention`.
    activation: one of ACTIVATIONS. epsilon: of the layer norms. Raises UserError when width is not
    a multiple of heads, and for another activation.
    """
    if width % heads:
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change model.width or"
            " model.heads"
        )
    if activation not in ACTIVATIONS:
        raise UserError(
            f"there is no activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}"
        )
    mixer = Attention(width, heads, depth, window, sinks) if window else None
    hidden = hidden or expansion * width
    block = Block(width, heads, hidden, depth, dropout, mixer, activation, epsilon)
    stages = [
        ("embed", Embed(vocabulary, width, positions, dropout)),
        *[(f"block_{i + 1}", block) for i in range(depth)],
        ("norm", nn.LayerNorm(epsilon=epsilon)),
        ("head", Head(vocabulary, width)),
    ]
    return network(stages, ties=[Tie("head", "kernel", "embed", "tokens")])
