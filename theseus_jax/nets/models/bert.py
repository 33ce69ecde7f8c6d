"""BERT-style encoders (Devlin et al. 2019, arXiv 1810.04805) as named stages: embed, block_1 ..
block_L, features.

Post-layer-norm blocks, learned positions, GELU by its exact form, attention to the tokens of the
mask alone. Between the stages goes a `Masked`; the last stage averages the hidden states of the
mask's tokens, as sentence encoders do.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.stage import Network, network

EPSILON = 1e-12
MINILM = {
    "vocabulary": 30522,
    "width": 384,
    "depth": 6,
    "heads": 12,
    "hidden": 1536,
    "positions": 512,
}
_normal = nn.initializers.normal(0.02)


def _layer_norm(name: str) -> nn.LayerNorm:
    # flax's fast variance, E[x^2] - E[x]^2, cancels in float32 where the mean is large
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


class Embed(nn.Module):
    """Token plus learned position plus first segment's embedding, normalized: Masked of (B, T) ids
    -> of (B, T, D).
    """

    vocabulary: int
    width: int
    positions: int

    @nn.compact
    def __call__(self, x: Masked) -> Masked:
        length = x.values.shape[1]
        if length > self.positions:
            raise UserError(
                f"{length} tokens are more than the {self.positions} learned positions; shorten the"
                " texts"
            )
        tokens = self.param("tokens", _normal, (self.vocabulary, self.width))
        positions = self.param("positions", _normal, (self.positions, self.width))
        types = self.param("types", _normal, (2, self.width))
        return Masked(_layer_norm("norm")(tokens[x.values] + positions[:length] + types[0]), x.mask)


class Block(nn.Module):
    """h = norm(x + attention(x)), then norm(h + mlp(h)): Masked of (B, T, D) -> of (B, T, D)."""

    width: int
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Masked) -> Masked:
        def linear(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, kernel_init=_normal, name=name)

        split = (*x.values.shape[:2], self.heads, self.width // self.heads)
        q, k, v = (
            linear(self.width, name)(x.values).reshape(split) for name in ("query", "key", "value")
        )
        seen = jax.nn.dot_product_attention(q, k, v, mask=(x.mask > 0)[:, None, None, :]).reshape(
            x.values.shape
        )
        h = _layer_norm("attention_norm")(x.values + linear(self.width, "out")(seen))
        up = nn.gelu(linear(self.hidden, "up")(h), approximate=False)
        return Masked(_layer_norm("norm")(h + linear(self.width, "down")(up)), x.mask)


class Features(nn.Module):
    """The mean of the mask's hidden states: Masked of (B, T, D) -> (B, D); zeros where the mask is
    empty.
    """

    @nn.compact
    def __call__(self, x: Masked) -> jax.Array:
        mask = (x.mask > 0).astype(x.values.dtype)[..., None]
        return (x.values * mask).sum(1) / jnp.maximum(mask.sum(1), 1)


def bert(
    *, vocabulary: int, width: int, depth: int, heads: int, hidden: int, positions: int
) -> Network:
    """A BERT of any size: Masked of (B, T) int32 ids and mask -> (B, D) float32 features.
    MiniLM-L6: `bert(**MINILM)`.

    Raises UserError when width is not a multiple of heads.
    """
    if width % heads:
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change one of them"
        )
    blocks = [(f"block_{i + 1}", Block(width, heads, hidden)) for i in range(depth)]
    return network(
        [("embed", Embed(vocabulary, width, positions)), *blocks, ("features", Features())]
    )
