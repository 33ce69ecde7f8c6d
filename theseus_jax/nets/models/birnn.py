"""Sentence encoders whose blocks read both ways by recurrence instead of softmax attention.

A block takes the place of a `bert.Block`: what follows the mixing of tokens (attention_norm, up,
down, norm) has the same names, shapes and formulas, so that it is inherited from the guide by name.
Masks are those of texts padded at their ends: ones, then zeros. A zero between two tokens is read
as a token of value 0.
"""

from __future__ import annotations

from typing import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models import bert, cells
from theseus_jax.nets.models.linear_attention import (
    CHUNK,
    Streams,
    chunked,
    hedgehog,
    sharp,
    spread,
)
from theseus_jax.nets.stage import Network, network

LINEAR_ATTENTION = "linear_attention"
TINY = 1e-9  # of a text without a token
_normal = nn.initializers.normal(0.02)


class Bidirectional(nn.Module):
    """Two recurrences of J = hidden units: Masked of (B, T, D) -> (B, T, 2 J), first the one that
    reads forwards.

    The other starts at each text's last token. Padding is 0 before and after, and no token's result
    depends on it.
    """

    kind: str
    hidden: int

    def setup(self) -> None:
        self.forwards = cells.cell(self.kind, self.hidden)
        self.backwards = cells.cell(self.kind, self.hidden)

    def __call__(self, x: Masked) -> jax.Array:
        real = x.mask > 0
        places = jnp.arange(real.shape[1])
        length = jnp.max(jnp.where(real, places + 1, 0), axis=1, keepdims=True)
        # Tokens turned round, padding left where it is: a flip would let the recurrence run over
        # the padding first
        mirrored = jnp.where(places < length, length - 1 - places, places)[..., None]
        values = jnp.where(real[..., None], x.values, 0)
        back = self.backwards(jnp.take_along_axis(values, mirrored, axis=1))
        both = jnp.concatenate(
            [self.forwards(values), jnp.take_along_axis(back, mirrored, axis=1)], axis=-1
        )
        return jnp.where(real[..., None], both, 0)


class BothWays(nn.Module):
    """Linear attention (`linear_attention`, features "hedgehog") that reads a text forwards and
    backwards with decays of their own: queries, keys and values (B, T, H, E), mask and x (B, T, D)
    -> (B, T, H E). Both sums share a normaliser, and the own token counts once.
    """

    @nn.compact
    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, real: jax.Array, x: jax.Array
    ) -> jax.Array:
        heads, size = q.shape[2:]
        q, k, v = (jnp.moveaxis(part, 2, 1) for part in (q, k, v))
        shape, seen = (heads, size, size), real[:, None, :]
        q = hedgehog(q, self.param("query_map", sharp, shape))
        k = hedgehog(k, self.param("key_map", sharp, shape)) * seen[..., None]
        values = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)

        def way(name: str, turn: slice) -> jax.Array:
            forget = nn.Dense(heads, kernel_init=nn.initializers.zeros, bias_init=spread, name=name)
            decays = jnp.where(seen, -nn.softplus(jnp.moveaxis(forget(x), -1, 1)), 0.0)
            streams = Streams(*(part[:, :, turn] for part in (q, k, values, decays)))
            return chunked(streams, CHUNK)[:, :, turn]

        own = (q * k).sum(-1, keepdims=True) * values
        both = way("forget", slice(None)) + way("forget_back", slice(None, None, -1)) - own
        y = both[..., :-1] / jnp.maximum(both[..., -1:], TINY)
        return jnp.moveaxis(y, 1, 2).reshape(x.shape[0], x.shape[1], heads * size)


class Block(nn.Module):
    """h = norm(x + out(mixed(x))), then norm(h + mlp(h)): Masked of (B, T, D) -> of (B, T, D), 0
    where the mask is.

    recurrent: units of each direction. cell: one of `cells.CELLS`, which have no heads, or
    LINEAR_ATTENTION, whose query, key and value are a `bert.Block`'s.
    """

    width: int
    hidden: int
    recurrent: int
    cell: str = "linear"
    heads: int = 0

    @nn.compact
    def __call__(self, x: Masked) -> Masked:
        def linear(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, kernel_init=_normal, name=name)

        def layer_norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=bert.EPSILON, use_fast_variance=False, name=name)

        real = (x.mask > 0)[..., None]
        if self.cell == LINEAR_ATTENTION:
            split = (*x.values.shape[:2], self.heads, self.width // self.heads)
            parts = [linear(self.width, name)(x.values) for name in ("query", "key", "value")]
            parts = [part.reshape(split) for part in parts]
            mixed = BothWays(name="both")(*parts, x.mask > 0, x.values)
        else:
            mixed = Bidirectional(self.cell, self.recurrent, name="birnn")(x)
        read = linear(self.width, "out")(mixed)
        h = layer_norm("attention_norm")(jnp.where(real, x.values, 0) + read)
        up = nn.gelu(linear(self.hidden, "up")(h), approximate=False)
        return Masked(
            jnp.where(real, layer_norm("norm")(h + linear(self.width, "down")(up)), 0), x.mask
        )


def encoder(
    *,
    vocabulary: int,
    width: int,
    depth: int,
    hidden: int,
    positions: int,
    recurrent: int,
    cell: str = "linear",
    keep: Sequence[int] = (),
    heads: int = 0,
) -> Network:
    """`bert.bert` with recurrent blocks: Masked of (B, T) int32 ids and mask -> (B, D) float32
    features.

    recurrent: units of each direction of a cell; with 2 * recurrent = width the kernel of "out" has
    the guide's shape too. cell: one of `cells.CELLS`, or LINEAR_ATTENTION of `heads` heads. keep:
    numbers (from 1) of the blocks that stay `bert.Block`s with `heads` heads. A text's features do
    not depend on its padding: not on the ids there, and on its length by rounding alone. Raises
    UserError for an unknown cell, for units below 1, for a kept block that is none of 1..depth, and
    for heads that do not divide the width.
    """
    attends = cell == LINEAR_ATTENTION
    if not attends:
        cells.cell(cell, recurrent)
    if recurrent < 1 and not attends:
        raise UserError(
            f"a recurrence of {recurrent} units in each direction holds nothing; take 1 or more"
        )
    unknown = sorted(set(keep) - set(range(1, depth + 1)))
    if unknown:
        raise UserError(
            f"blocks {unknown} cannot be kept: the encoder's are numbered 1 to {depth}; correct"
            " keep"
        )
    if (keep or attends) and (heads < 1 or width % heads):
        raise UserError(
            f"attention of width {width} cannot have {heads} heads; give a number that divides"
            " the width"
        )
    blocks = [
        bert.Block(width, heads, hidden)
        if i in keep
        else Block(width, hidden, recurrent, cell, heads if attends else 0)
        for i in range(1, depth + 1)
    ]
    return network(
        [
            ("embed", bert.Embed(vocabulary, width, positions)),
            *((f"block_{i}", block) for i, block in enumerate(blocks, start=1)),
            ("features", bert.Features()),
        ]
    )
