"""Llama-like Transformers (Touvron et al. 2023, arXiv 2302.13971) as named stages: embed, block_1
.. block_L, norm, head.

Blocks as GPT-2's, of other parts: root-mean-square norms, rotary positions, gated MLPs, keys and
values that heads may share; no biases but where a family has them (Qwen2's queries, keys and
values); a head that may be tied to the token embedding.
"""

from __future__ import annotations

from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.rotary import Rotary
from theseus_jax.nets.blocks.style import Style
from theseus_jax.nets.models.attention import Attention
from theseus_jax.nets.models.gpt2 import Block, Embed, Head
from theseus_jax.nets.stage import Network, Tie, network

BIASES = ("qkv", "out", "mlp")
HIDDEN = 8 / 3  # times the width, of gated MLPs, which have three kernels instead of two


def style_of(activation: str, epsilon: float, biased: Sequence[str]) -> Style:
    """Of the norms and MLPs."""
    return Style(activation, epsilon, rms=True, gated=True, bias="mlp" in biased)


def layout(
    key_heads: int, head_size: int, theta: float, stretch: tuple[Any, ...], biased: Sequence[str]
) -> dict[str, Any]:
    """Of all heads, as `attention.MultiHead` takes it."""
    return {
        "key_heads": key_heads,
        "size": head_size,
        "bias": "qkv" in biased,
        "out_bias": "out" in biased,
        "rotary": Rotary(theta, *stretch),
    }


def llama(
    *,
    vocabulary: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int = 0,
    key_heads: int = 0,
    head_size: int = 0,
    dropout: float = 0.0,
    window: int = 0,
    sinks: int = 0,
    activation: str = "silu",
    epsilon: float = 1e-6,
    theta: float = 10000.0,
    stretch: tuple[Any, ...] = (),
    biased: Sequence[str] = (),
    tied: bool = True,
    taps: int = 0,
) -> Network:
    """A Llama of any size: (B, T) int32 tokens -> (B, T, V) float32 logits, at any length.

    hidden: units of an MLP; 0: HIDDEN times the width. key_heads, head_size, taps: see
    `attention.MultiHead`; window, sinks: `Attention`; activation, epsilon: `Style`. theta, stretch:
    of `Rotary`, the latter its fields after theta. biased: which of BIASES have biases. tied:
    whether the head is the embedding. Raises UserError where heads do not part the width, do not
    share their keys evenly or cannot turn, and for another activation, stretch or bias.
    """
    odd = [name for name in biased if name not in BIASES]
    if odd:
        raise UserError(f"there is no bias {odd[0]!r}; choose from {', '.join(BIASES)}")
    if width % heads and not head_size:
        raise UserError(
            f"a width of {width} is not a multiple of {heads} heads; change model.width or"
            " model.heads"
        )
    if key_heads and heads % key_heads:
        raise UserError(
            f"{heads} heads cannot share {key_heads} heads of keys evenly; change model.heads or"
            " model.key_heads"
        )
    each = head_size or width // heads
    if each % 2:
        raise UserError(f"heads of {each} features cannot turn by pairs; give an even number")
    style = style_of(activation, epsilon, biased)
    laid = layout(key_heads, head_size, theta, stretch, biased)
    mixer = Attention(width, heads, depth, **laid, window=window, sinks=sinks, taps=taps)
    mlp = style.mlp(width, hidden or round(HIDDEN * width), depth)
    return network(
        [
            ("embed", Embed(vocabulary, width, 0, dropout)),
            *[(f"block_{i + 1}", Block(mixer, mlp, style.norm(), dropout)) for i in range(depth)],
            ("norm", style.norm()),
            ("head", Head(vocabulary, width)),
        ],
        ties=[Tie("head", "kernel", "embed", "tokens")] if tied else [],
    )
