"""Weights of ViT and DeiT, Hugging Face names, out of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.nets.models.vit import Heads, merged, vit
from theseus_jax.nets.stage import Stage, Variables, replace
from theseus_jax.nets.weights.containers import read_weights
from theseus_jax.nets.weights.placed import KERNEL, Place, placed
from theseus_jax.nets.weights.settings import Family, agree, read_settings, sizes_of

# The names of one file: "encoder.layer." is what Hugging Face's files hold, "layers." what
# transformers 5 calls it in memory
STEM = {
    "cls_token": Place("class_token"),
    "distillation_token": Place("distillation_token"),
    "position_embeddings": Place("positions"),
    "patch_embeddings.projection.weight": Place("patches/conv/kernel", KERNEL[4]),
    "patch_embeddings.projection.bias": Place("patches/conv/bias"),
}


LINEAR = {
    "encoder.layer.": {
        "attention.attention.query": "attn/query",
        "attention.attention.key": "attn/key",
        "attention.attention.value": "attn/value",
        "attention.output.dense": "attn/out",
        "intermediate.dense": "mlp/up",
        "output.dense": "mlp/down",
    },
    "layers.": {
        "attention.q_proj": "attn/query",
        "attention.k_proj": "attn/key",
        "attention.v_proj": "attn/value",
        "attention.o_proj": "attn/out",
        "mlp.fc1": "mlp/up",
        "mlp.fc2": "mlp/down",
    },
}


NORMS = {"layernorm_before": "ln_1", "layernorm_after": "ln_2"}


_SIZES = {
    "image_size": "image",
    "patch_size": "patch",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
}
_FIXED = {
    "hidden_act": ("gelu",),
    "layer_norm_eps": (1e-12,),
    "qkv_bias": (True,),
    "num_channels": (3,),
}
_HARMLESS = frozenset(
    {
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "encoder_stride",
        "pooler_act",
        "pooler_output_size",
    }
)
VIT = Family("ViT", _SIZES, (), {"model_type": ("vit", "deit"), **_FIXED}, _HARMLESS)
DEIT = Family("DeiT", _SIZES, (), {"model_type": ("deit",), **_FIXED}, _HARMLESS)
UNUSED = r"(vit|deit)\.pooler\.dense\.(weight|bias)"  # a read-out that classifiers do not use


def tensor_places(
    depth: int,
    *,
    model: str,
    layers: str = "encoder.layer.",
    heads: Mapping[str, str] | None = None,
) -> dict[str, Place]:
    """{Hugging Face name: place} of every tensor of a ViT with `depth` blocks.

    model: "vit" (class token) or "deit" (also a distillation token). layers: a key of `LINEAR`.
    heads: {linear layer of the file: its path}; None: {"classifier": "head/params"}.
    """
    stem = {
        name: place
        for name, place in STEM.items()
        if model == "deit" or name != "distillation_token"
    }
    places = {
        f"{model}.embeddings.{name}": place._replace(path=f"stem/params/{place.path}")
        for name, place in stem.items()
    }
    linear = {"classifier": "head/params"} if heads is None else dict(heads)
    norms = {f"{model}.layernorm": "pool/params/norm"}
    for i in range(depth):
        given, ours = f"{model}.{layers}{i}.", f"block_{i + 1}/params/"
        linear |= {given + name: ours + path for name, path in LINEAR[layers].items()}
        norms |= {given + name: ours + path for name, path in NORMS.items()}
    for name, path in linear.items():
        places |= {
            f"{name}.weight": Place(f"{path}/kernel", KERNEL[2]),
            f"{name}.bias": Place(f"{path}/bias"),
        }
    for name, path in norms.items():
        places |= {f"{name}.weight": Place(f"{path}/scale"), f"{name}.bias": Place(f"{path}/bias")}
    return places


def _layers(tensors: Mapping[str, np.ndarray], model: str) -> str:
    return (
        "layers."
        if any(name.startswith(f"{model}.layers.") for name in tensors)
        else "encoder.layer."
    )


def _wanted(*sizes: int) -> dict[str, int]:
    return dict(zip(("image", "patch", "width", "depth", "heads", "hidden"), sizes, strict=True))


def _pixels(image: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, image, image, channels), jnp.float32)


def vit_sizes(file: Path) -> dict[str, Any]:
    """The arguments of `vit(...)` but for classes that a config.json asks for: "read" is "class" of
    a ViT and "distilled" of a DeiT. Raises UserError.
    """
    distilled = read_settings(file).get("model_type") == "deit"
    family = (DEIT if distilled else VIT)._replace(needed=tuple(_SIZES))
    return {**sizes_of(file, family), "read": "distilled" if distilled else "class"}


def load_vit(
    path: str | os.PathLike,
    *,
    classes: int,
    image: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
) -> Variables:
    """The variables of `vit(read="class", ...)` of these sizes from a file of transformers'
    ViTForImageClassification.

    path: .safetensors or .pth, named as in Hugging Face's files
    ("vit.encoder.layer.0.attention.attention.query.weight") or as in transformers 5's state_dict
    ("vit.layers.0.attention.q_proj.weight"). A DeiT with no distillation token is one too. Raises
    UserError for tensors that are not those of the network.
    """
    net = vit(
        classes=classes,
        image=image,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
    )
    agree(path, VIT, _wanted(image, patch, width, depth, heads, hidden))
    tensors = read_weights(path)
    places = tensor_places(depth, model="vit", layers=_layers(tensors, "vit"))
    return placed(net, _pixels(image), tensors, places, unused=UNUSED, what="ViT")


def load_deit(
    path: str | os.PathLike,
    *,
    classes: int,
    image: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
) -> Variables:
    """The variables of `vit(read="distilled", ...)` of these sizes from a file of transformers'
    DeiT with both tokens.

    path: as for `load_vit`, "deit." for "vit.". The two heads of
    DeiTForImageClassificationWithTeacher become the one of `merged`; the one of
    DeiTForImageClassification reads the class token, and its rows for the distillation token are 0.
    Raises UserError for tensors that are not those of the network.
    """
    agree(path, DEIT, _wanted(image, patch, width, depth, heads, hidden))
    tensors = read_weights(path)
    if any(name.startswith(("cls_classifier.", "distillation_classifier.")) for name in tensors):
        named = {"cls_classifier": "class", "distillation_classifier": "distillation"}
    else:
        named = {"classifier": "class"}
    net = vit(
        classes=classes,
        image=image,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        read="distilled",
    )
    filed = replace(net, "head", [Stage("head", Heads(classes, tuple(named.values())))])
    places = tensor_places(
        depth,
        model="deit",
        layers=_layers(tensors, "deit"),
        heads={name: f"head/params/{path}" for name, path in named.items()},
    )
    variables = placed(filed, _pixels(image), tensors, places, unused=UNUSED, what="DeiT")
    return variables | {"head": {"params": merged(variables["head"]["params"])}}
