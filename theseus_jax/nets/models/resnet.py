"""ResNets (He et al. 2015, arXiv 1512.03385, table 1) as named stages: stem, block_1 .. block_L,
pool, head.

A bottleneck's stride is in its 3x3 convolution ("v1.5"). Padding is symmetric, as in PyTorch: half
the kernel on every side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.conv import Conv
from theseus_jax.nets.blocks.norms import known_norm, normalized
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.stage import Network, network

STEMS = ("imagenet", "cifar")
# He et al. 2015 (arXiv 1502.01852), equation 14
_he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Layer(NamedTuple):
    """A square convolution of `kernel` pixels to `width` channels."""

    kernel: int
    stride: int
    width: int


class Depth(NamedTuple):
    """Blocks of each of the four groups; a block's kernels, which of them has its stride, and last
    width by first.
    """

    blocks: tuple[int, int, int, int]
    kernels: tuple[int, ...]
    strided: int
    expansion: int


DEPTHS = {
    18: Depth((2, 2, 2, 2), (3, 3), 0, 1),
    34: Depth((3, 4, 6, 3), (3, 3), 0, 1),
    50: Depth((3, 4, 6, 3), (1, 3, 1), 1, 4),
}


def _conv(layer: Layer, name: str) -> Conv:
    rim = layer.kernel // 2
    return Conv(
        layer.width,
        (layer.kernel, layer.kernel),
        layer.stride,
        padding=((rim, rim), (rim, rim)),
        use_bias=False,
        kernel_init=_he,
        name=name,
    )


class Stem(nn.Module):
    """Convolution, norm, ReLU and, for "imagenet", a 3x3 max-pool of stride 2: (B, height, width,
    channels) -> (B, h, w, D).

    "imagenet": 7x7 of stride 2, h = ceil(ceil(height / 2) / 2); "cifar": 3x3 of stride 1, h =
    height. The same for w. Raises UserError for an input that has not four axes.
    """

    width: int
    kind: str
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if x.ndim != 4:
            raise UserError(
                f"a ResNet reads images (B, height, width, channels), given an array {x.shape};"
                " reshape it"
            )
        layer = Layer(7, 2, self.width) if self.kind == "imagenet" else Layer(3, 1, self.width)
        h = nn.relu(normalized(self.norm, _conv(layer, "conv")(x), train=train, name="norm"))
        return nn.max_pool(h, (3, 3), (2, 2), ((1, 1), (1, 1))) if self.kind == "imagenet" else h


class Block(nn.Module):
    """ReLU(x + layers(x)), a ReLU between the layers: (B, height, width, I) -> (B, ceil(height /
    stride), ..., D).

    Each layer is a convolution and a norm. Where the shapes differ, x goes through a strided 1x1
    convolution and a norm. skip=False: ReLU(layers(x)). scale: where the last norm's scale starts.
    """

    layers: tuple[Layer, ...]
    norm: str
    skip: bool = True
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        h, last = x, len(self.layers)
        for i, layer in enumerate(self.layers, start=1):
            h = _conv(layer, f"conv_{i}")(h)
            units = Units(nn.relu, name=f"units_{i}") if i < last else None
            h = normalized(
                self.norm,
                h,
                train=train,
                name=f"norm_{i}",
                scale=self.scale if i == last else 1.0,
                live=units.live() if units else None,
            )
            h = h if i == last else units(h)
        if not self.skip:
            return nn.relu(h)
        shortcut = Layer(1, math.prod(layer.stride for layer in self.layers), self.layers[-1].width)
        if shortcut.stride > 1 or shortcut.width != x.shape[-1]:
            x = normalized(
                self.norm, _conv(shortcut, "shortcut")(x), train=train, name="shortcut_norm"
            )
        return nn.relu(x + h)


class Pool(nn.Module):
    """The mean over all positions: (B, height, width, D) -> (B, D)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))


def known_depth(depth: int) -> Depth:
    if depth not in DEPTHS:
        raise UserError(
            f"there is no ResNet of depth {depth!r}; take one of {', '.join(map(str, DEPTHS))}"
        )
    return DEPTHS[depth]


def _layers(depth: Depth, group: int, position: int, width: int) -> tuple[Layer, ...]:
    stride, width = 2 if group and not position else 1, width * 2**group
    widths = [width] * (len(depth.kernels) - 1) + [width * depth.expansion]
    strides = [stride if i == depth.strided else 1 for i in range(len(widths))]
    return tuple(map(Layer, depth.kernels, strides, widths))


def resnet(
    *,
    depth: int,
    classes: int,
    width: int = 64,
    stem: str = "imagenet",
    norm: str = "batch",
    skip: bool = True,
    zero_last: bool = False,
) -> Network:
    """A ResNet of 18, 34 or 50 layers: (B, height, width, channels) float32 -> (B, classes) float32
    logits.

    width: channels of the stem and the first group, 64 in the paper; the stage "pool" gives (B, 8
    width), or (B, 32 width) at depth 50. stem: "imagenet" (a quarter of the resolution) or "cifar"
    (all of it). norm: one of `norms.NORMS`. skip=False: neither skips nor their 1x1 convolutions,
    the plain ConvNet of "Training the Untrainable" (arXiv 2410.20035). zero_last: each block's last
    scale starts at 0, so that it starts as its skip alone (Goyal et al. 2017, arXiv 1706.02677,
    section 5.1). At width 64, 1000 classes: 11,689,512, 21,797,672 and 25,557,032 parameters; plain
    at depth 50 22,780,456. Raises UserError for another depth, stem or norm, a size below 1, and
    for zero_last without a skip or a norm.
    """
    sizes, norm = known_depth(depth), known_norm(norm)
    if stem not in STEMS:
        raise UserError(f"there is no stem {stem!r}; take one of {', '.join(STEMS)}")
    if min(width, classes) < 1:
        raise UserError(
            f"a ResNet of width {width} with {classes} classes cannot be; both are at least 1"
        )
    if zero_last and not (skip and norm != "none"):
        raise UserError(
            f"zero_last needs a norm and a skip, given norm {norm!r} and skip = {skip}; turn it off"
        )
    blocks = [
        Block(_layers(sizes, group, i, width), norm, skip, 0.0 if zero_last else 1.0)
        for group, count in enumerate(sizes.blocks)
        for i in range(count)
    ]
    return network(
        [
            ("stem", Stem(width, stem, norm)),
            *((f"block_{i}", block) for i, block in enumerate(blocks, start=1)),
            ("pool", Pool()),
            ("head", nn.Dense(classes)),
        ]
    )
