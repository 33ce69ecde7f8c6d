"""Causal attention with softmax, of all tokens or of the nearest and the first; and what all mixers
of heads have in common.
"""

from __future__ import annotations

import functools
from typing import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.nets.blocks.rotary import Rotary
from theseus_jax.nets.blocks.taps import tapped

_normal = nn.initializers.normal(0.02)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention of (B, T, H, E), of keys and values with fewer heads where some share them:
    cuDNN's fused kernel where it can run, which holds no (T, T) array.
    """

    def through(kernel: str | None) -> Callable[..., jax.Array]:
        return functools.partial(
            jax.nn.dot_product_attention, is_causal=True, implementation=kernel
        )

    fits = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    if not fits or jax.default_backend() != "gpu":
        return through(None)(q, k, v)
    return jax.lax.platform_dependent(q, k, v, cuda=through("cudnn"), default=through("xla"))


def _last_alone(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The token itself and none before it."""
    return jnp.zeros(shape).at[-1].set(1.0)


class MultiHead(nn.Module):
    """Heads that read (B, T, D) through one fused projection `c_attn` to queries, keys and values,
    and write (B, T, D) through `c_proj`.

    key_heads: of keys and values, each shared by as many heads of queries (Ainslie et al. 2023,
    arXiv 2305.13245); 0: a pair a head. size: features of a head, E; 0: width / heads. bias,
    out_bias: of the two projections. rotary: turns queries and keys. taps: of a causal depthwise
    convolution of queries, keys and values (So et al. 2021, arXiv 2109.08668, section 3), which
    begins as the token itself; 0: none.
    """

    width: int
    heads: int
    depth: int = 1
    key_heads: int = 0
    size: int = 0
    bias: bool = True
    out_bias: bool = True
    rotary: Rotary | None = None
    taps: int = 0

    def setup(self) -> None:
        self.c_attn = nn.Dense(self.channels, self.bias, kernel_init=_normal)
        small = nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        self.c_proj = nn.Dense(self.width, self.out_bias, kernel_init=small)
        if self.taps:
            self.near = self.param("taps", _last_alone, (self.taps, self.channels))

    @property
    def head_size(self) -> int:
        """E, of one head."""
        return self.size or self.width // self.heads

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.key_heads or self.heads

    @property
    def channels(self) -> int:
        """That `c_attn` gives."""
        return (self.heads + 2 * self.groups) * self.head_size

    def read(
        self, x: jax.Array, carry: Mapping[str, jax.Array] | None = None
    ) -> tuple[tuple[jax.Array, ...], dict[str, jax.Array]]:
        """(queries (B, T, H, E), keys and values (B, T, groups, E)) of x (B, T, D), and `begun`
        after it; carry: with what that was before; None: at a text's start.
        """
        z, start, moved = self.c_attn(x), 0, {}
        if self.rotary:
            start = carry["turned"] if carry else 0
            moved["turned"] = start + x.shape[1]
        if self.taps:
            shape = (x.shape[0], self.taps - 1, self.channels)
            before = carry["near"] if carry else jnp.zeros(shape, z.dtype)
            z = jnp.concatenate([before, z], axis=1)
            moved["near"] = z[:, x.shape[1] :]
            z = tapped(z, self.near)
        return self._parted(z, start), moved

    @nn.nowrap
    def begun(self, batch: int) -> dict[str, jax.Array]:
        """What the next token needs of those before it, besides what mixes them."""
        held = {"turned": jnp.zeros((), jnp.int32)} if self.rotary else {}
        near = (batch, self.taps - 1, self.channels)
        return held | ({"near": jnp.zeros(near)} if self.taps else {})

    def _parted(self, z: jax.Array, start: jax.Array | int) -> tuple[jax.Array, ...]:
        ends = [self.heads * self.head_size, (self.heads + self.groups) * self.head_size]
        q, k, v = (
            part.reshape(*part.shape[:-1], -1, self.head_size)
            for part in jnp.split(z, ends, axis=-1)
        )
        if self.rotary is None:
            return q, k, v
        positions = start + jnp.arange(z.shape[1])
        return self.rotary(q, positions), self.rotary(k, positions), v

    def written(self, y: jax.Array) -> jax.Array:
        """What heads read, (..., H, E), as (..., D)."""
        return self.c_proj(y.reshape(*y.shape[:-2], self.heads * self.head_size))

    def repeated(self, x: jax.Array, axis: int = -2) -> jax.Array:
        """Keys or values for every head of queries."""
        return x if self.groups == self.heads else jnp.repeat(x, self.heads // self.groups, axis)


class Attention(MultiHead):
    """Causal multi-head self-attention: (B, T, D) -> (B, T, D).

    window: of the past, the nearest tokens that are read, the own one among them, with the first
    `sinks` of all (Xiao et al. 2023, arXiv 2309.17453); 0: all.
    """

    window: int = 0
    sinks: int = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        (q, k, v), _ = self.read(x)
        if self.window:
            here, there = jnp.arange(x.shape[1])[:, None], jnp.arange(x.shape[1])
            seen = (there <= here) & ((here - there < self.window) | (there < self.sinks))
            return self.written(jax.nn.dot_product_attention(q, k, v, mask=seen[None, None]))
        return self.written(_attend(q, k, v))

    def look_back(self, x: jax.Array) -> jax.Array:
        """Tokens that each head looks back on, (H,): the mean distance under its weights, over all
        tokens.
        """
        lag = jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1])
        return jnp.mean(jnp.sum(self.weights(x) * lag, axis=-1), axis=(0, 2))

    def weights(self, x: jax.Array) -> jax.Array:
        """What each token reads of which, (B, H, T, T), of attention to all tokens before."""
        (q, k, _), _ = self.read(x)
        scores = jnp.einsum("bthd,bshd->bhts", q, self.repeated(k)) / self.head_size**0.5
        causal = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
        return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)

    @nn.nowrap
    def initial_carry(self, batch: int, context: int) -> dict[str, jax.Array]:
        held = min(context, self.window + self.sinks) if self.window else context
        shape = (batch, held, self.groups, self.head_size)
        return {
            "keys": jnp.zeros(shape),
            "values": jnp.zeros(shape),
            "length": jnp.zeros((), jnp.int32),
            **self.begun(batch),
        }

    def step(
        self, x: jax.Array, carry: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One token: x (B, D)."""
        t, held = carry["length"], carry["keys"].shape[1]
        parts, moved = self.read(x[:, None], carry)
        q, k, v = (part[:, 0] for part in parts)
        # past the sinks the oldest place is written anew
        ring = held - self.sinks
        place = jnp.where(t < held, t, self.sinks + (t - self.sinks) % ring) if self.window else t
        keys = carry["keys"].at[:, place].set(k)
        values = carry["values"].at[:, place].set(v)
        scores = jnp.einsum("bhd,bthd->bht", q, self.repeated(keys)) / self.head_size**0.5
        seen = jnp.arange(held) <= t
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        y = jnp.einsum("bht,bthd->bhd", weights, self.repeated(values))
        return self.written(y), {"keys": keys, "values": values, "length": t + 1, **moved}
