"""Recurrent networks as named stages: embed, block_1 .. block_L, norm, head; constant memory per
generated token.

Blocks: `plain` (a cell alone, as in the papers' RNN language models) or `residual` (pre-layer-norm,
with an MLP). Mixers stand where a GPT-2's block has its attention, and
have its names: `linear_attention` (`linear_attention.LinearAttention`), `window` (attention to the
nearest tokens and the first).
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.adapters import adapted
from theseus_jax.nets.blocks.style import Style
from theseus_jax.nets.models.attention import Attention
from theseus_jax.nets.models.cells import CELLS, cell
from theseus_jax.nets.models.gpt2 import Block, Embed, Head
from theseus_jax.nets.models.linear_attention import LinearAttention
from theseus_jax.nets.stage import Network, network

MIXERS = ("linear_attention", "window")
BLOCKS = ("plain", "residual")
# what helps a deep plain tanh network by itself, and the sizes that it changes
CURES = {"baseline_residual": {"block": "residual"}, "baseline_gated": {"cell": "gru"}}


class PlainBlock(nn.Module):
    """A recurrent cell and nothing else: (B, T, D) -> (B, T, J)."""

    kind: str
    hidden: int

    def setup(self) -> None:
        self.rnn = cell(self.kind, self.hidden)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.rnn(x)

    @nn.nowrap
    def initial_carry(self, batch: int, context: int):
        return cell(self.kind, self.hidden).initial_carry(batch)

    def step(self, x: jax.Array, carry):
        return self.rnn.step(x, carry)


class ResidualBlock(nn.Module):
    """x + out(rnn(ln_1(x))), then + mlp(ln_2(.)): (B, T, D) -> (B, T, D); the names are GPT-2's, so
    that its parts fit.

    channel_mixer: None leaves it out. norm: before each of the two.
    """

    kind: str
    width: int
    hidden: int
    depth: int
    channel_mixer: nn.Module | None
    norm: nn.Module

    def setup(self) -> None:
        self.ln_1 = self.norm.clone(parent=None)
        self.rnn = cell(self.kind, self.hidden)
        self.out = nn.Dense(
            self.width, kernel_init=nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        )
        if self.channel_mixer is not None:
            self.ln_2 = self.norm.clone(parent=None)
            self.mlp = self.channel_mixer.clone(parent=None)

    def _mix(self, x: jax.Array) -> jax.Array:
        return x if self.channel_mixer is None else x + self.mlp(self.ln_2(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._mix(x + self.out(self.rnn(self.ln_1(x))))

    @nn.nowrap
    def initial_carry(self, batch: int, context: int):
        return cell(self.kind, self.hidden).initial_carry(batch)

    def step(self, x: jax.Array, carry):
        y, carry = self.rnn.step(self.ln_1(x), carry)
        return self._mix(x + self.out(y)), carry


def mixer(kind: str, width: int, heads: int, depth: int, **sizes: Any) -> nn.Module:
    """The mixer `kind` of a Transformer's block. sizes: of `attention.MultiHead`, and of
    `LinearAttention` (features, decay) or of `Attention` (window, sinks). Raises UserError for
    another kind.
    """
    if kind not in MIXERS:
        raise UserError(f"there is no mixer {kind!r}; choose one of {', '.join(MIXERS)}")
    if width % heads and not sizes.get("size"):
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change target.width or"
            " target.heads"
        )
    made = {"linear_attention": LinearAttention, "window": Attention}[kind]
    return made(width, heads, depth, **sizes)


def _check(kind: str, block: str, expansion: int, depth: int, keep: Sequence[int]) -> None:
    """Raises UserError for what no recurrent network can be."""
    attends = kind in MIXERS or bool(keep)
    if block not in BLOCKS:
        raise UserError(f"there is no block {block!r}; choose one of {', '.join(BLOCKS)}")
    if kind not in (*CELLS, *MIXERS):
        raise UserError(
            f"there is no recurrent cell {kind!r}; choose one of {', '.join(CELLS)}, or a mixer,"
            f" {' or '.join(MIXERS)}"
        )
    if block == "plain" and attends:
        raise UserError(
            "a plain block is a cell alone and cannot hold"
            f" {kind if kind in MIXERS else 'attention'}; set target.block to 'residual'"
        )
    if not expansion and attends:
        raise UserError(
            "an expansion of 0 leaves no MLP, which the blocks of GPT-2, those with attention, have"
            "; set target.expansion to 1 or more"
        )
    odd = [number for number in keep if not 1 <= number <= depth]
    if odd:
        raise UserError(f"there is no block_{odd[0]} to keep; the target has {depth} blocks")


def recurrent(
    *,
    vocabulary: int,
    width: int,
    depth: int,
    hidden: int = 0,
    kind: str = "linear",
    block: str = "residual",
    expansion: int = 4,
    heads: int = 1,
    mixing: Mapping[str, Any] | None = None,
    keep: Sequence[int] = (),
    seam_width: int = 0,
    rank: int = 0,
    mlp_hidden: int = 0,
    attention: Mapping[str, Any] | None = None,
    style: Style = Style(),
) -> Network:
    """A recurrent language model: (B, T) int32 tokens -> (B, T, V) float32 logits, no learned
    positions.

    kind: one of CELLS, with J = hidden units, or of MIXERS, with `heads` and the sizes `mixing`.
    keep: numbers (from 1) of blocks that stay attention. attention: how all heads are laid out
    (key_heads, size, bias, out_bias, rotary of `attention.MultiHead`). seam_width: the guide's
    width where it differs from `width`; each block then reads and writes that width through
    low-rank linear adapters of rank `rank`, so that every seam fits the guide's. mlp_hidden: units
    of an MLP; 0: expansion times the width. style: of norms and MLPs. Raises UserError for an
    unknown kind or block, for a block that cannot be kept, or for a rank that a seam needs and does
    not get.
    """
    mixes, laid = kind in MIXERS, dict(attention or {})
    _check(kind, block, expansion, depth, keep)
    own = mixer(kind, width, heads, depth, **laid, **(mixing or {})) if mixes else None
    units = mlp_hidden or expansion * width
    mlp = style.mlp(width, units, depth) if units else None

    def make(number: int) -> nn.Module:
        if number in keep:
            return Block(Attention(width, heads, depth, **laid), mlp, style.norm())
        if mixes:
            return Block(own, mlp, style.norm())
        if block == "plain":
            return PlainBlock(kind, hidden)
        return ResidualBlock(kind, width, hidden, depth, mlp, style.norm())

    inner = hidden if block == "plain" else width
    outer = seam_width or inner
    blocks = [make(i + 1) for i in range(depth)]
    if outer != inner:
        blocks = [adapted(one, width, outer, rank) for one in blocks]
    return network(
        [
            ("embed", Embed(vocabulary, seam_width or width)),
            *[(f"block_{i + 1}", one) for i, one in enumerate(blocks)],
            ("norm", style.norm()),
            ("head", Head(vocabulary, outer, use_bias=True)),
        ]
    )
