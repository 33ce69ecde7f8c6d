"""Small ConvNets with a fully connected end, as named stages: conv_1 .. conv_K, block_1 .. block_L,
head.
"""

from __future__ import annotations

from typing import Sequence

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.conv import Conv
from theseus_jax.nets.blocks.norms import known_norm, normalized
from theseus_jax.nets.models.fcn import Hidden, SmoothLeaky, activation_of, start_of, units_of
from theseus_jax.nets.stage import Network, network


class ConvPool(nn.Module):
    """3x3 convolution, norm, activation, 2x2 max-pool: (B, height, width, I) -> (B, height // 2,
    width // 2, D). Raises UserError for an input that has not four axes, or a side below 2.
    """

    width: int
    norm: str
    activation: str | SmoothLeaky
    start: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if x.ndim != 4 or min(x.shape[1:3]) < 2:
            raise UserError(
                "a convolution and its pool read images (B, height, width, channels) of at least 2"
                f" x 2, given an array {x.shape}; reshape it, or leave pools out"
            )
        h = Conv(self.width, (3, 3), padding=1, kernel_init=start_of(self.start), name="conv")(x)
        units = units_of(self, self.activation, train)
        h = units(normalized(self.norm, h, train=train, name="norm", live=units.live()))
        return nn.max_pool(h, (2, 2), (2, 2))


def cnn(
    *,
    classes: int,
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (512, 512, 256),
    norm: str = "none",
    activation: str | SmoothLeaky = "relu",
    start: str = "he_uniform",
) -> Network:
    """(B, height, width, I) float32 -> (B, classes) float32 logits; the defaults are the ConvNet of
    "On the Stability of Growth in Structural Plasticity" (arXiv 2605.15435, section 4).

    channels: of the convolutions, each with a pool; hidden: units of the dense layers. start: of
    `fcn.STARTS`. Raises UserError for sizes below 1 and for names that are none.
    """
    if min(classes, *channels, *hidden) < 1:
        raise UserError(
            f"a ConvNet of {tuple(channels)} channels, {tuple(hidden)} units and {classes} classes:"
            " each is at least 1"
        )
    norm = known_norm(norm)
    activation_of(activation)
    return network(
        [
            *(
                (f"conv_{i}", ConvPool(width, norm, activation, start))
                for i, width in enumerate(channels, start=1)
            ),
            *(
                (f"block_{i}", Hidden(width, norm, activation, start=start))
                for i, width in enumerate(hidden, start=1)
            ),
            ("head", nn.Dense(classes, kernel_init=start_of(start))),
        ]
    )
