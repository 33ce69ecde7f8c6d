"""Weights of Llama-like Transformers in Hugging Face naming, from a folder that save_pretrained
left: Llama, Mistral and Qwen2, as far as `nets.models.llama` computes what they do.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.rotary import STRETCHES, Rotary
from theseus_jax.nets.blocks.style import ACTIVATIONS
from theseus_jax.nets.models.llama import llama
from theseus_jax.nets.stage import Variables, variable_shapes
from theseus_jax.nets.weights.containers import Tensor, weights_under
from theseus_jax.nets.weights.placed import listed, problems, tied_problems
from theseus_jax.nets.weights.settings import Family, beside, read_settings, sizes_of
from theseus_jax.trees import leaves_by_path

PREFIX, HEAD = "model.", "lm_head.weight"
BUFFER = "rotary_emb.inv_freq"  # of old files: follows from theta
KINDS = ("llama", "mistral", "qwen2")
WHOLE = {"embed_tokens.weight": "embed/params/tokens", "norm.weight": "norm/params/scale"}
NORMS = {"input_layernorm.weight": "ln_1/scale", "post_attention_layernorm.weight": "ln_2/scale"}
# of PyTorch's Linear, kernels (O, I): several side by side where ours is one
LINEAR = {
    "attn/c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn/c_proj": ("self_attn.o_proj",),
    "mlp/gate": ("mlp.gate_proj",),
    "mlp/c_fc": ("mlp.up_proj",),
    "mlp/c_proj": ("mlp.down_proj",),
}
BIAS_OF = {"attn/c_attn": "qkv", "attn/c_proj": "out"}
SIZES = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key_heads",
    "head_dim": "head_size",
    "intermediate_size": "hidden",
    "max_position_embeddings": "positions",
    "hidden_act": "activation",
    "rms_norm_eps": "epsilon",
    "tie_word_embeddings": "tied",
    "attention_bias": "attn_bias",
    "mlp_bias": "mlp_bias",
    "rope_theta": "theta",
    "rope_scaling": "stretched",
    "rope_parameters": "turning",
}
FAMILY = Family(
    "Llama",
    SIZES,
    (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    ),
    {
        "model_type": KINDS,
        "hidden_act": tuple(ACTIVATIONS),
        "use_sliding_window": (False,),
        "pretraining_tp": (1,),
    },
    # the window of Qwen2 and its layers say nothing while use_sliding_window is off
    frozenset({"attention_dropout", "max_window_layers", "layer_types"}),
)
USUAL = {"head_size": 0, "activation": "silu", "epsilon": 1e-6, "tied": False}
MISTRAL_WINDOW = 4096  # tokens, of a config.json without a word of it
STRETCHED = {  # what each stretch has to say
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
ROPE = {
    "rope_theta": "theta",
    "factor": "factor",
    "low_freq_factor": "low",
    "high_freq_factor": "high",
    "original_max_position_embeddings": "original",
}


def llama_sizes(path: str | os.PathLike) -> dict[str, Any]:
    """The arguments of `llama(...)`, and "positions", tokens that it was trained on, by the
    config.json beside weights.

    Raises UserError where there is none, and for a setting that the network does not have.
    """
    file = beside(path)
    if file is None:
        raise UserError(
            f"{path} has no config.json, which says what no tensor does; save the model with"
            " save_pretrained"
        )
    given = read_settings(file)
    kind, layers = given.get("model_type"), given.get("layer_types") or []
    windows = [layer for layer in layers if layer != "full_attention"]
    # where its window is on, Qwen2 says so by itself; a Mistral that says nothing has one
    window = given.get("sliding_window", MISTRAL_WINDOW if kind == "mistral" else None)
    if windows or (kind != "qwen2" and window):
        raise UserError(
            f"{file} has sliding_window = {window!r}, and this Llama reads"
            " every token before; give a model without windows"
        )
    family = FAMILY
    if kind == "qwen2":
        family = family._replace(harmless=family.harmless | {"sliding_window"})
    if kind != "llama":  # whose code has a number of its own where none is said
        family = family._replace(needed=(*family.needed, "num_key_value_heads"))
    found = {**USUAL, **sizes_of(file, family)}
    rotary = _rotary(file, found)
    found["theta"], found["stretch"] = rotary.theta, dataclasses.astuple(rotary)[1:]
    if rotary.stretch == "default":
        found["stretch"] = ()
    attn, mlp = found.pop("attn_bias", False), found.pop("mlp_bias", False)
    # Qwen2's code has biases of queries, keys and values without a setting
    biases = {"qkv": attn or kind == "qwen2", "out": attn, "mlp": mlp}
    found["biased"] = tuple(name for name, there in biases.items() if there)
    found.setdefault("key_heads", found["heads"])
    return found


def _rotary(file: Path, found: dict[str, Any]) -> Rotary:
    """Of rope_theta and rope_scaling, or of rope_parameters, which newer files have instead."""
    theta, old, new = (found.pop(key, None) for key in ("theta", "stretched", "turning"))
    if old and new:
        raise UserError(
            f"{file} has rope_scaling and rope_parameters, which say the same; take one of them out"
        )
    told = dict(old or new or {})
    stretch = told.pop("rope_type", told.pop("type", "default"))
    told.pop("type", None)
    odd = [key for key in told if key not in ROPE]
    if stretch not in STRETCHES or odd:
        what = f"{odd[0]} = {told[odd[0]]!r}" if odd else f"rope_type = {stretch!r}"
        raise UserError(
            f"{file} has {what} in its rotary positions, and this Llama has {', '.join(STRETCHES)};"
            " give a model with one of those"
        )
    changes = {ROPE[key]: value for key, value in told.items() if value is not None}
    missing = [key for key in STRETCHED[stretch] if ROPE[key] not in changes]
    if missing:
        raise UserError(
            f"{file} has rope_type = {stretch!r} and no {missing[0]}, which that needs; add it"
        )
    if theta is not None:
        changes.setdefault("theta", theta)
    return Rotary(**{"stretch": stretch, **changes})


def places(depth: int, tied: bool, biased: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{path in the variables: Hugging Face names without "model."} of every tensor; biased: which
    of `models.llama.BIASES` there are.
    """
    found = {path: (name,) for name, path in WHOLE.items()}
    if not tied:
        found["head/params/kernel"] = (HEAD,)
    for i in range(depth):
        ours, theirs = f"block_{i + 1}/params/", f"layers.{i}."
        found |= {ours + path: (theirs + name,) for name, path in NORMS.items()}
        for path, names in LINEAR.items():
            found[f"{ours}{path}/kernel"] = tuple(f"{theirs}{name}.weight" for name in names)
            if BIAS_OF.get(path, "mlp") in biased:
                found[f"{ours}{path}/bias"] = tuple(f"{theirs}{name}.bias" for name in names)
    return found


def load_llama(path: str | os.PathLike, **sizes: Any) -> Variables:
    """The variables of `llama(...)` of these sizes from a folder or file of float32, float16 or
    bfloat16 tensors (`containers.open_tensors`), named with or without "model.".

    A tied network's lm_head.weight may be there and must equal the embedding. Raises UserError
    naming the tensors that are missing, extra, renamed, transposed, of other shape or dtype.
    """
    net = llama(**sizes)
    expected = variable_shapes(net, jax.ShapeDtypeStruct((1, 1), jnp.int32))
    leaves = leaves_by_path(expected)
    biased, tied = sizes.get("biased", ()), sizes.get("tied", True)
    named = places(sizes["depth"], tied, biased)
    tensors = _weights(path)
    heads, shared = sizes["heads"], sizes.get("key_heads") or sizes["heads"]
    each = sizes.get("head_size") or sizes["width"] // heads
    parts = (heads * each, shared * each, shared * each)
    wanted: dict[str, jax.ShapeDtypeStruct] = {}
    for leaf, names in named.items():
        rows = parts if len(names) > 1 else (leaves[leaf].shape[-1],)
        for name, count in zip(names, rows):
            wanted[name] = _in_file(leaf, leaves[leaf], count)
    if tied:
        lines = tied_problems(wanted, tensors, HEAD, "embed_tokens.weight")
    else:
        lines = problems(wanted, tensors)
    if lines:
        raise UserError(
            f"{path} does not hold the expected Llama: {listed(lines)}; compare config.json, or"
            " save the model again"
        )
    arrays = [_joined(leaf, [tensors[name].read() for name in named[leaf]]) for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(expected), arrays)


def _linear(leaf: str) -> bool:
    return leaf.endswith("/kernel") and not leaf.startswith("head/")


def _in_file(leaf: str, shape: jax.ShapeDtypeStruct, count: int) -> jax.ShapeDtypeStruct:
    """The tensor of `count` outputs that goes into a leaf."""
    if _linear(leaf):
        return jax.ShapeDtypeStruct((count, shape.shape[0]), shape.dtype)
    return jax.ShapeDtypeStruct((*shape.shape[:-1], count), shape.dtype)


def _joined(leaf: str, given: list[np.ndarray]) -> jax.Array:
    return jnp.asarray(np.concatenate(given, axis=0).T if _linear(leaf) else np.concatenate(given))


def _weights(path: str | os.PathLike) -> dict[str, Tensor]:
    weights = weights_under(path, PREFIX)
    return {name: tensor for name, tensor in weights.items() if not name.endswith(BUFFER)}
