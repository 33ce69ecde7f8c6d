"""Networks on padded token sequences: recurrent, Transformer decoder and Transformer encoder, each
with an answer at every position or one for the whole sequence.

Between the stages goes a `Masked`, so that padding is known wherever activations are compared. The
first two are causal; the encoder reads both ways.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.bert import Features, bert
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.recurrent import recurrent
from theseus_jax.nets.modes import mode_arguments
from theseus_jax.nets.stage import Network, network

ARCHITECTURES = ("rnn", "decoder", "encoder")


class Padded(nn.Module):
    """`inner` on the values of a `Masked`, whose mask goes on. Its variables are those of
    `inner`.

    inner: a module in which no position's result depends on later ones, as padding is at the end.
    """

    inner: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.inner)

    def __call__(self, x: Masked, train: bool = False) -> Masked:
        return Masked(self.inner(x.values, **mode_arguments(self.inner, train)), x.mask)


class Answers(nn.Module):
    """`inner` on the values of a `Masked`: (B, T, D) -> logits (B, T, O). Its variables are those
    of `inner`.
    """

    inner: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.inner)

    def __call__(self, x: Masked) -> jax.Array:
        return self.inner(x.values)


class Last(nn.Module):
    """The last token's hidden state: Masked of (B, T, D) -> (B, D); padding is at the end."""

    @nn.compact
    def __call__(self, x: Masked) -> jax.Array:
        last = jnp.maximum(jnp.sum(x.mask > 0, axis=1) - 1, 0)
        return jnp.take_along_axis(x.values, last[:, None, None], axis=1)[:, 0]


def sequence_network(
    arch: str,
    *,
    vocabulary: int,
    outputs: int,
    everywhere: bool,
    width: int,
    depth: int,
    heads: int = 4,
    positions: int = 0,
    hidden: int = 0,
    cell: str = "elman",
    block: str = "plain",
    dropout: float = 0.0,
) -> Network:
    """Masked of (B, T) int32 ids and mask -> float32 logits: (B, T, outputs) at every position
    (everywhere), or (B, outputs) of the whole sequence.

    arch: "rnn" (`recurrent`: `hidden` units of `cell` a block, no positions), "decoder" (`gpt2`,
    causal) or "encoder" (`bert`); depth blocks, of a Transformer with `heads` heads and `positions`
    learned positions. Of a whole sequence the causal ones read the last token, and the encoder the
    mean over tokens. dropout: of the decoder. Raises UserError for another arch, for sizes that do
    not fit.
    """
    if arch not in ARCHITECTURES:
        raise UserError(
            f"there is no network {arch!r} on sequences; choose one of {', '.join(ARCHITECTURES)}"
        )
    if arch == "encoder":
        sizes = {"vocabulary": vocabulary, "width": width, "depth": depth, "heads": heads}
        body = bert(**sizes, hidden=4 * width, positions=positions).stages[:-1]
        stages = [(stage.name, stage.module) for stage in body]
    else:
        causal = (
            recurrent(
                vocabulary=vocabulary,
                width=width,
                depth=depth,
                hidden=hidden or width,
                kind=cell,
                block=block,
            )
            if arch == "rnn"
            else gpt2(
                vocabulary=vocabulary,
                width=width,
                depth=depth,
                heads=heads,
                positions=positions,
                dropout=dropout,
            )
        )
        stages = [(stage.name, Padded(stage.module)) for stage in causal.stages[:-1]]
    return network([*stages, *_read(arch, outputs, everywhere)])


def _read(arch: str, outputs: int, everywhere: bool) -> list[tuple[str, Any]]:
    if everywhere:
        return [("head", Answers(nn.Dense(outputs)))]
    features = Features() if arch == "encoder" else Last()
    return [("features", features), ("head", nn.Dense(outputs))]
