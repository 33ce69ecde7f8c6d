"""Weights of ResNets, Hugging Face's names or torchvision's, out of a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.models.resnet import DEPTHS, known_depth, resnet
from theseus_jax.nets.stage import Variables
from theseus_jax.nets.weights.containers import read_weights
from theseus_jax.nets.weights.placed import KERNEL, Place, placed
from theseus_jax.nets.weights.settings import Family, agree, read_settings, sizes_of

UNUSED = r".*\.num_batches_tracked"  # PyTorch's count of training steps
GROUPS = {"layer1": 0, "layer2": 1, "layer3": 2, "layer4": 3}  # torchvision's
TORCHVISION = re.compile(r"(layer[1-4])\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)")


def tensor_places(depth: int) -> dict[str, Place]:
    """{Hugging Face name: place} of every tensor of a `resnet(depth=depth)`: transformers'
    ResNetForImageClassification.

    Raises UserError for another depth.
    """
    sizes, number = known_depth(depth), 0
    places = _layer("resnet.embedder.embedder", "stem", "conv", "norm")
    for group, count in enumerate(sizes.blocks):
        for i in range(count):
            number += 1
            given, stage = f"resnet.encoder.stages.{group}.layers.{i}", f"block_{number}"
            for j in range(len(sizes.kernels)):
                places |= _layer(f"{given}.layer.{j}", stage, f"conv_{j + 1}", f"norm_{j + 1}")
            if i == 0 and (group or sizes.expansion > 1):
                places |= _layer(f"{given}.shortcut", stage, "shortcut", "shortcut_norm")
    return places | {
        "classifier.1.weight": Place("head/params/kernel", KERNEL[2]),
        "classifier.1.bias": Place("head/params/bias"),
    }


def _layer(given: str, stage: str, conv: str, norm_name: str) -> dict[str, Place]:
    return {
        f"{given}.convolution.weight": Place(f"{stage}/params/{conv}/kernel", KERNEL[4]),
        f"{given}.normalization.weight": Place(f"{stage}/params/{norm_name}/scale"),
        f"{given}.normalization.bias": Place(f"{stage}/params/{norm_name}/bias"),
        f"{given}.normalization.running_mean": Place(f"{stage}/batch_stats/{norm_name}/mean"),
        f"{given}.normalization.running_var": Place(f"{stage}/batch_stats/{norm_name}/var"),
    }


def _renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With Hugging Face's names, where they are torchvision's."""
    if "conv1.weight" not in tensors:
        return dict(tensors)

    def name(given: str) -> str:
        found = TORCHVISION.fullmatch(given)
        if found:
            group, block, kind, number, last = found.groups()
            inside = f"resnet.encoder.stages.{GROUPS[group]}.layers.{block}"
            if kind == "downsample.":
                return f"{inside}.shortcut.{('convolution', 'normalization')[int(number)]}.{last}"
            what = "convolution" if kind == "conv" else "normalization"
            return f"{inside}.layer.{int(number) - 1}.{what}.{last}"
        stem = "resnet.embedder.embedder"
        for theirs, ours in (("conv1", f"{stem}.convolution"), ("bn1", f"{stem}.normalization")):
            given = re.sub(rf"{theirs}\.", f"{ours}.", given, count=given.startswith(theirs))
        return re.sub(r"^fc\.", "classifier.1.", given)

    return {name(given): tensor for given, tensor in tensors.items()}


def _family(depth: int, width: int) -> Family:
    sizes = known_depth(depth)
    wide = [width * 2**i * sizes.expansion for i in range(4)]
    fixed = {
        "model_type": ("resnet",),
        "hidden_act": ("relu",),
        "layer_type": ("basic" if sizes.expansion == 1 else "bottleneck",),
        "depths": (list(sizes.blocks),),
        "hidden_sizes": (wide,),
        "embedding_size": (width,),
        "downsample_in_first_stage": (False,),
        "downsample_in_bottleneck": (False,),
    }
    harmless = frozenset({"out_features", "out_indices", "stage_names"})
    return Family(f"ResNet-{depth}", {"num_channels": "channels"}, (), fixed, harmless)


def resnet_sizes(file: Path) -> dict[str, Any]:
    """{"depth", "width", "stem"} of `resnet(...)` that a config.json asks for. Raises UserError for
    a ResNet of other blocks.
    """
    given = read_settings(file)
    kind, blocks = given.get("layer_type", "bottleneck"), given.get("depths")
    found = [
        depth
        for depth, sizes in DEPTHS.items()
        if list(sizes.blocks) == blocks and (sizes.expansion == 1) == (kind == "basic")
    ]
    if not found:
        raise UserError(
            f"{file} has depths = {blocks} of layer_type = {kind!r}, and the ResNets here have"
            f" {', '.join(str(list(sizes.blocks)) for sizes in DEPTHS.values())}; give one of those"
        )
    width = given.get("embedding_size", 64)
    sizes_of(file, _family(found[0], width))
    return {"depth": found[0], "width": width, "stem": "imagenet"}


def load_resnet(
    path: str | os.PathLike,
    *,
    depth: int,
    classes: int,
    width: int = 64,
    stem: str = "imagenet",
    channels: int = 3,
) -> Variables:
    """The variables of `resnet(depth=depth, classes=classes, width=width, stem=stem)` from a file
    or folder of trained weights (`containers.open_tensors`).

    The names are those of transformers' ResNetForImageClassification or torchvision's; a
    config.json beside must ask for the same network, `downsample_in_bottleneck` among it, which no
    tensor tells. channels: of the images. Raises UserError for a file that cannot be read, another
    config.json, or tensors that are not those of the network.
    """
    net = resnet(depth=depth, classes=classes, width=width, stem=stem)
    agree(path, _family(depth, width), {"channels": channels})
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    tensors = _renamed(read_weights(path))
    return placed(net, image, tensors, tensor_places(depth), unused=UNUSED, what=f"ResNet-{depth}")
