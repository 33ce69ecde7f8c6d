"""Vision Transformers as named stages: stem, block_1 .. block_L, pool, head.

ViT (Dosovitskiy et al. 2020, arXiv 2010.11929, section 3.1 and table 1) and DeiT, with or without
its distillation token (Touvron et al. 2020, arXiv 2012.12877, section 4 and table 1).
Pre-layer-norm blocks, GELU by its exact form, learned positions; layer norms with epsilon 1e-12 as
in Hugging Face's files. Fresh kernels are LeCun normal, tokens and positions N(0, 0.02).
"""

from __future__ import annotations

import functools
from typing import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.conv import Conv
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.stage import Network, network

EPSILON = 1e-12
VIT_B16 = {"image": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12, "hidden": 3072}
DEIT_S16 = {"image": 224, "patch": 16, "width": 384, "depth": 12, "heads": 6, "hidden": 1536}
# before the patches
TOKENS = {"class": ("class_token",), "mean": (), "distilled": ("class_token", "distillation_token")}
_normal = nn.initializers.normal(0.02)


def layer_norm(name: str, epsilon: float = EPSILON) -> nn.LayerNorm:
    """Layer norm over the last axis, its variance as the mean of (x - mean)^2."""
    # flax's fast variance, E[x^2] - E[x]^2, cancels in float32 where the mean is large
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class Patches(nn.Module):
    """One linear map of every patch x patch square: (B, height, width, channels) -> (B, T, D), row
    by row.

    T = height / patch * width / patch. Raises UserError for sides that are no multiples of the
    patch.
    """

    patch: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p = self.patch
        if x.ndim != 4 or not x.shape[1] or not x.shape[2] or x.shape[1] % p or x.shape[2] % p:
            raise UserError(
                f"images (B, height, width, channels) of shape {x.shape} do not divide into patches"
                f" of {p} x {p}; resize them or change patch"
            )
        y = Conv(self.width, (p, p), p, padding="VALID", name="conv")(x)
        return y.reshape(y.shape[0], -1, self.width)


class Stem(nn.Module):
    """Special tokens, then patches, plus learned positions: (B, image, image, channels) -> (B, T,
    D).

    T counts the special tokens too. Raises UserError for images of another size.
    """

    image: int
    patch: int
    width: int
    channels: int
    tokens: tuple[str, ...]
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if x.shape[1:] != (self.image, self.image, self.channels):
            raise UserError(
                f"images of shape {x.shape[1:]} are not the"
                f" {(self.image, self.image, self.channels)} that this ViT reads; resize them or"
                " change image and channels"
            )
        patches = Patches(self.patch, self.width, name="patches")(x)
        special = [self.param(name, _normal, (1, 1, self.width)) for name in self.tokens]
        y = jnp.concatenate(
            [*(jnp.broadcast_to(token, (x.shape[0], 1, self.width)) for token in special), patches],
            axis=1,
        )
        y = y + self.param("positions", _normal, (1, *y.shape[1:]))
        return nn.Dropout(self.dropout)(y, deterministic=not train)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: (B, T, D) -> (B, T, D). Sows "mixed": the values
    that each token sees, heads side by side, before `out`.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        split = (*x.shape[:2], self.heads, x.shape[-1] // self.heads)
        q, k, v = (
            nn.Dense(x.shape[-1], name=name)(x).reshape(split) for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        self.sow("intermediates", "mixed", mixed)
        return nn.Dense(x.shape[-1], name="out")(mixed)


class MLP(nn.Module):
    """Dense, GELU (exact form), Dense, each with dropout: (..., P) -> (..., P)."""

    hidden: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        z = nn.Dense(self.hidden, name="up")(x)
        h = Units(functools.partial(nn.gelu, approximate=False), name="units")(z)
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        return nn.Dropout(self.dropout)(
            nn.Dense(x.shape[-1], name="down")(h), deterministic=not train
        )


class Block(nn.Module):
    """x + attn(ln_1(x)), then + mlp(ln_2(.)): (B, T, D) -> (B, T, D) (arXiv 2010.11929, equations 2
    and 3).
    """

    heads: int
    hidden: int
    dropout: float

    @nn.nowrap
    def mixing(self) -> nn.Module:
        """What mixes tokens."""
        return Attention(self.heads, name="attn", parent=None)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        seen = Attention(self.heads, name="attn")(layer_norm("ln_1")(x))
        x = x + nn.Dropout(self.dropout)(seen, deterministic=not train)
        return x + MLP(self.hidden, self.dropout, name="mlp")(layer_norm("ln_2")(x), train=train)


class Pool(nn.Module):
    """Layer norm, then the first `special` tokens side by side, or with none the mean of all
    tokens.

    (B, T, D) -> (B, max(special, 1) D).
    """

    special: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layer_norm("norm")(x)
        return y[:, : self.special].reshape(y.shape[0], -1) if self.special else y.mean(1)


class Heads(nn.Module):
    """DeiT's classifiers as its files hold them, the mean of one for each of the first tokens: (B,
    2 D) -> (B, classes).

    names: ("class",) or ("class", "distillation"). A network keeps `merged` of their parameters
    instead, in one nn.Dense.
    """

    classes: int
    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        parts = zip(self.names, jnp.split(x, 2, axis=-1))
        return sum(nn.Dense(self.classes, name=name)(part) for name, part in parts) / len(
            self.names
        )


def merged(heads: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """The nn.Dense (2 D, classes) that gives what `Heads` gives: its parameters, from {name:
    {"kernel", "bias"}} of theirs.

    (c W + b + d V + e) / 2 = [c, d] [W; V] / 2 + (b + e) / 2; of a class head alone V is 0 and
    nothing is halved.
    """
    given = [heads[name] for name in ("class", "distillation") if name in heads]
    kernels = [head["kernel"] for head in given]
    rows = jnp.concatenate(kernels if len(given) == 2 else [*kernels, jnp.zeros_like(kernels[0])])
    return {"kernel": rows / len(given), "bias": sum(head["bias"] for head in given) / len(given)}


def vit(
    *,
    classes: int,
    image: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    channels: int = 3,
    read: str = "class",
    dropout: float = 0.0,
) -> Network:
    """A ViT of any size: (B, image, image, channels) float32, normalised -> (B, classes) float32
    logits.

    ViT-B/16: `vit(classes=1000, **VIT_B16)`, 86,567,656 parameters; DeiT-S: `vit(classes=1000,
    **DEIT_S16)`, 22,050,664. read: what the head sees after the last layer norm: "class", a class
    token, (B, D); "mean" over the patches, no class token, (B, D); "distilled", DeiT's class and
    distillation tokens, (B, 2 D). With the latter the head is DeiT's test-time classifier, the mean
    of two, as one Dense: DeiT-S has 22,436,432 parameters with two heads, and here one bias less.
    dropout: rate in [0, 1], after the stem, attention and both layers of an MLP (arXiv 2010.11929,
    appendix B.1). Raises UserError for an image that is no multiple of the patch, a width that is
    none of the heads, an unknown read.
    """
    if read not in TOKENS:
        raise UserError(f"read {read!r} is not one of {', '.join(TOKENS)}; choose one")
    if image < patch or image % patch:
        raise UserError(
            f"an image side of {image} is not a multiple of the patch side {patch}; change one of"
            " them"
        )
    if width % heads:
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change one of them"
        )
    blocks = [(f"block_{i + 1}", Block(heads, hidden, dropout)) for i in range(depth)]
    return network(
        [
            ("stem", Stem(image, patch, width, channels, TOKENS[read], dropout)),
            *blocks,
            ("pool", Pool(len(TOKENS[read]))),
            ("head", nn.Dense(classes)),
        ]
    )
