"""Token-wise MLPs and MLP-Mixers on patches as named stages: stem, block_1 .. block_L, pool, head.

The token-wise MLP is a ViT (`nets.models.vit`) without its attention: what Network of Theseus
(arXiv 2512.04198) turns a ViT into, by a definition of ours. The Mixer (Tolstikhin et al. 2021,
arXiv 2105.01601, section 2 and table 1) puts an MLP over the tokens in attention's place.
Submodules bear the names that they have in a ViT, so that they can be inherited from one. GELU is
exact.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.adapters import LowRank
from theseus_jax.nets.blocks.norms import normalized
from theseus_jax.nets.models.vit import MLP, Patches
from theseus_jax.nets.stage import Network, network

# for images of 224
MIXER_B16 = {"patch": 16, "width": 768, "depth": 12, "tokens_hidden": 384, "channels_hidden": 3072}
LEARNED = "learned"
NORMS = ("layer", "batch", "none")  # not "group", whose statistics are over all tokens of an image
_positions = nn.initializers.normal(0.02)


def _check_tokens(module: nn.Module, path: tuple[str, ...], axis: int, count: int) -> None:
    stored: Any = module.variables.get("params", {})
    for key in path:
        stored = stored.get(key, {})
    if hasattr(stored, "shape") and stored.shape[axis] != count:
        raise UserError(
            f"{count} tokens are not the {stored.shape[axis]} that {'/'.join(module.path + path)}"
            " was made for; give images of the size that the network was initialised with, or"
            " initialise it anew"
        )


def _check_rank(rank: int, count: int) -> None:
    if rank > count:
        raise UserError(
            f"a mix_rank of {rank} is more than the {count} tokens; lower it or take smaller"
            " patches"
        )


class Stem(nn.Module):
    """Patches plus positions: (B, height, width, channels) -> (B, T, D).

    positions: "learned", one for each of the patches of the image at initialisation, or how many
    there are (0: none). Raises UserError for an image of another number of patches.
    """

    patch: int
    width: int
    positions: int | str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Patches(self.patch, self.width, name="patches")(x)
        if self.positions == 0:
            return y
        if self.positions not in (LEARNED, y.shape[1]):
            raise UserError(
                f"an image of {y.shape[1]} patches has not the {self.positions} positions asked"
                " for; change positions, patch or the images"
            )
        _check_tokens(self, ("positions",), 1, y.shape[1])
        return y + self.param("positions", _positions, (1, *y.shape[1:]))


class Adapter(nn.Module):
    """U V norm(x) over the tokens, with V (T, rank) and U (rank, T) shared by all channels: (B, T,
    D) -> (B, T, D).

    2 T rank parameters and the norm's. Raises UserError for a rank above T, and for another T than
    at initialisation.
    """

    norm: str
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        count = x.shape[1]
        _check_rank(self.rank, count)
        _check_tokens(self, ("tokens", "down", "kernel"), 0, count)
        y = jnp.swapaxes(normalized(self.norm, x, train=train, name="norm"), 1, 2)
        return jnp.swapaxes(LowRank(count, self.rank, name="tokens")(y), 1, 2)


class StaticAttention(nn.Module):
    """Attention whose weights are the same for every input: (B, T, D) -> (B, T, D).

    head_h(x) = U_h V_h value_h(x) with U_h (T, rank) and V_h (rank, T) parameters, then `out`: the
    factorised random Synthesizer (Tay et al. 2020, arXiv 2005.00743, section 3.2) without its
    softmax. `value` and `out` have the names and shapes of a ViT's. Raises UserError for a rank
    above T, and for another T than at initialisation.
    """

    heads: int
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count = x.shape[1]
        _check_rank(self.rank, count)
        _check_tokens(self, ("tokens", "down", "kernel"), 1, count)
        values = nn.Dense(x.shape[-1], name="value")(x)
        by_head = values.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 3, 1)
        each = nn.vmap(
            LowRank, in_axes=1, out_axes=1, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        mixed = each(count, self.rank, name="tokens")(by_head).transpose(0, 3, 1, 2)
        return nn.Dense(x.shape[-1], name="out")(mixed.reshape(x.shape))

    @nn.nowrap
    def weighing(self, params: dict[str, Any], down: jax.Array, up: jax.Array) -> dict[str, Any]:
        """The parameters with other products: down (H, T, rank), up (H, rank, T)."""
        return {**params, "tokens": {"down": {"kernel": down}, "up": {"kernel": up}}}


class TokenBlock(nn.Module):
    """x + mlp(norm(x)), every token by itself, after x + adapter(x) where mix_rank > 0, or with
    heads > 0 x + attn(norm(x)), a `StaticAttention`: (B, T, D) -> (B, T, D).
    """

    hidden: int
    norm: str
    mix_rank: int
    heads: int = 0

    @nn.nowrap
    def mixing(self) -> nn.Module | None:
        """The attention whose weights are the same for every input, if there is one."""
        return StaticAttention(self.heads, self.mix_rank, parent=None) if self.heads else None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.heads:
            name = "ln_1" if self.norm == "layer" else "norm_1"
            seen = normalized(self.norm, x, train=train, name=name)
            x = x + StaticAttention(self.heads, self.mix_rank, name="attn")(seen)
        elif self.mix_rank:
            x = x + Adapter(self.norm, self.mix_rank, name="adapter")(x, train=train)
        name = "ln_2" if self.norm == "layer" else "norm"
        return x + MLP(self.hidden, name="mlp")(normalized(self.norm, x, train=train, name=name))


class MixerBlock(nn.Module):
    """x + an MLP over the tokens of norm(x), then x + an MLP over the channels: (B, T, D) -> (B, T,
    D) (equation 1).

    Raises UserError for another T than at initialisation.
    """

    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_tokens(self, ("tokens_mlp", "up", "kernel"), 0, x.shape[1])
        y = jnp.swapaxes(normalized("layer", x, train=False, name="ln_1"), 1, 2)
        x = x + jnp.swapaxes(MLP(self.tokens_hidden, name="tokens_mlp")(y), 1, 2)
        return x + MLP(self.channels_hidden, name="mlp")(
            normalized("layer", x, train=False, name="ln_2")
        )


class Pool(nn.Module):
    """The mean over the tokens of norm(x): (B, T, D) -> (B, D)."""

    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return normalized(self.norm, x, train=train, name="norm").mean(1)


def token_mlp(
    *,
    classes: int,
    patch: int,
    width: int,
    depth: int,
    hidden: int,
    norm: str = "layer",
    mix_rank: int = 0,
    heads: int = 0,
    positions: int | str = LEARNED,
) -> Network:
    """A ViT without attention: (B, height, width, channels) float32, normalised -> (B, classes)
    float32 logits.

    Tokens meet in the final mean alone, or with mix_rank > 0 in every block, through a product of
    that rank over the tokens whose parameters are those under block_i/params/adapter; with heads >
    0 through one such product a head of projected values, `StaticAttention`, under
    block_i/params/attn. norm:
    "layer", "batch" (in training its statistics are over all tokens) or "none". positions:
    "learned" for the size of image at initialisation, or their number, 0 for none. Stages: stem,
    block_1 .. block_depth, pool, head. Raises UserError for another norm, a negative rank or other
    positions, and when it runs for images that do not divide into patches or divide into another
    number than at initialisation.
    """
    if norm not in NORMS:
        raise UserError(f"a token-wise MLP has no norm {norm!r}; take one of {', '.join(NORMS)}")
    if mix_rank < 0:
        raise UserError(
            f"a mix_rank of {mix_rank} is negative; give 0 for no mixing of tokens, or a rank"
        )
    if heads and (heads < 0 or width % heads or not mix_rank):
        raise UserError(
            f"{heads} heads do not divide a width of {width}, or have no mix_rank ({mix_rank});"
            " give a divisor of the width and a rank from 1, or no heads"
        )
    if positions != LEARNED and (not isinstance(positions, int) or positions < 0):
        raise UserError(
            f"positions {positions!r} are neither {LEARNED!r} nor a number from 0; give one of"
            " the two"
        )
    blocks = [(f"block_{i + 1}", TokenBlock(hidden, norm, mix_rank, heads)) for i in range(depth)]
    return network(
        [
            ("stem", Stem(patch, width, positions)),
            *blocks,
            ("pool", Pool(norm)),
            ("head", nn.Dense(classes)),
        ]
    )


def mixer(
    *, classes: int, patch: int, width: int, depth: int, tokens_hidden: int, channels_hidden: int
) -> Network:
    """An MLP-Mixer of any size: (B, height, width, channels) float32, normalised -> (B, classes)
    float32 logits.

    Mixer-B/16: `mixer(classes=1000, **MIXER_B16)`, 59,880,472 parameters on images of 224 x 224 x
    3. tokens_hidden and channels_hidden: the hidden widths of the MLPs over tokens and over
    channels (D_S and D_C). Layer norms have epsilon 1e-5. Stages: stem, block_1 .. block_depth,
    pool, head. Raises UserError when it runs for images that do not divide into patches or divide
    into another number than at initialisation.
    """
    blocks = [(f"block_{i + 1}", MixerBlock(tokens_hidden, channels_hidden)) for i in range(depth)]
    return network(
        [
            ("stem", Stem(patch, width, 0)),
            *blocks,
            ("pool", Pool("layer")),
            ("head", nn.Dense(classes)),
        ]
    )
