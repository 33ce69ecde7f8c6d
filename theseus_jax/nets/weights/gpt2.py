"""GPT-2 weights in Hugging Face naming: read from a folder that save_pretrained left or a file, and
written to one .safetensors or .npz file.

Nothing is guessed: every tensor must be there under its name, with its shape and dtype, and no
other may be. Hugging Face stores GPT-2's kernels as (inputs, outputs), as flax does, so no tensor
is transposed on the way.
"""

from __future__ import annotations

import os
import re
from typing import Any, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.style import ACTIVATIONS, EPSILON
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.stage import Variables, variable_shapes
from theseus_jax.nets.weights.containers import Tensor, library, weights_under
from theseus_jax.nets.weights.placed import listed, tied_problems
from theseus_jax.nets.weights.settings import Family, agree, beside, sizes_of
from theseus_jax.paths import local
from theseus_jax.trees import difference, host_array, leaves_by_path

PREFIX = "transformer."
TIED_HEAD = "lm_head.weight"
# the causal mask and its fill value: constants
BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
TENSORS = {
    "wte.weight": "embed/params/tokens",
    "wpe.weight": "embed/params/positions",
    "ln_f.weight": "norm/params/scale",
    "ln_f.bias": "norm/params/bias",
}
BLOCK_TENSORS = {
    "ln_1.weight": "ln_1/scale",
    "ln_1.bias": "ln_1/bias",
    "attn.c_attn.weight": "attn/c_attn/kernel",
    "attn.c_attn.bias": "attn/c_attn/bias",
    "attn.c_proj.weight": "attn/c_proj/kernel",
    "attn.c_proj.bias": "attn/c_proj/bias",
    "ln_2.weight": "ln_2/scale",
    "ln_2.bias": "ln_2/bias",
    "mlp.c_fc.weight": "mlp/c_fc/kernel",
    "mlp.c_fc.bias": "mlp/c_fc/bias",
    "mlp.c_proj.weight": "mlp/c_proj/kernel",
    "mlp.c_proj.bias": "mlp/c_proj/bias",
}


FAMILY = Family(
    "GPT-2",
    {
        "vocab_size": "vocabulary",
        "n_embd": "width",
        "n_layer": "depth",
        "n_head": "heads",
        "n_positions": "positions",
        "n_inner": "hidden",
        "activation_function": "activation",
        "layer_norm_epsilon": "epsilon",
    },
    ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions"),
    {
        "model_type": ("gpt2",),
        "activation_function": tuple(ACTIVATIONS),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    frozenset(
        {
            "attn_pdrop",
            "embd_pdrop",
            "resid_pdrop",
            "n_ctx",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
)


USUAL = {"activation": "gelu_new", "epsilon": EPSILON}  # of a config.json that names none


def tensor_names(depth: int) -> dict[str, str]:
    """{Hugging Face name without "transformer.": path in the variables} of every tensor of
    a GPT-2.
    """
    blocks = {
        f"h.{i}.{name}": f"block_{i + 1}/params/{path}"
        for i in range(depth)
        for name, path in BLOCK_TENSORS.items()
    }
    return TENSORS | blocks


def load_gpt2(
    path: str | os.PathLike,
    *,
    vocabulary: int,
    width: int,
    depth: int,
    heads: int,
    positions: int,
    hidden: int = 0,
    activation: str = "gelu_new",
    epsilon: float = EPSILON,
) -> Variables:
    """The variables of `gpt2(...)` of these sizes from a folder or file (`containers.open_tensors`)
    of float32, float16 or bfloat16 tensors, named with or without "transformer.".

    The buffers of the mask (`attn.bias`, `attn.masked_bias`) are ignored; `lm_head.weight` may be
    there and must equal `wte.weight`, to which it is tied. `gpt2_sizes` reads the sizes: all of
    them from a config.json beside, which must agree with those that are given; without one nothing
    tells heads, activation and epsilon, as no shape can tell that a square kernel is transposed.
    Raises UserError naming the setting that differs, or the tensors that are missing, extra,
    renamed, transposed, of other shape or dtype.
    """
    sizes = {"vocabulary": vocabulary, "width": width, "depth": depth, "positions": positions}
    sizes |= {"hidden": hidden or 4 * width}
    wanted = {**sizes, "heads": heads, "activation": activation, "epsilon": epsilon}
    agree(path, FAMILY, wanted)
    expected = _expected(**sizes, heads=heads)
    leaves, paths = leaves_by_path(expected), tensor_names(depth)
    tensors = _weights(path)
    wanted = {name: leaves[leaf] for name, leaf in paths.items()}
    lines = tied_problems(wanted, tensors, TIED_HEAD, "wte.weight")
    if lines:
        raise UserError(
            f"{path} does not hold the expected GPT-2: {listed(lines)}; compare the sizes "
            "with gpt2_sizes(path), or correct the file"
        )
    names = {leaf: name for name, leaf in paths.items()}
    arrays = [jnp.asarray(tensors[names[leaf]].read()) for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(expected), arrays)


def save_gpt2(path: str | os.PathLike, variables: Variables) -> None:
    """Write the variables of a `gpt2(...)` to a file that `load_gpt2` and transformers'
    GPT2LMHeadModel read.

    path: .safetensors or .npz, overwritten if it exists. The tied head is stored once, as
    `wte.weight`. Raises UserError for variables that are not those of a `gpt2(...)`, or a folder
    that is not there.
    """
    target, leaves = local(path), leaves_by_path(variables)
    if target.suffix not in (".safetensors", ".npz"):
        raise UserError(f"{str(path)!r} does not end in .safetensors or .npz; rename it")
    tables = [np.shape(leaves.get(TENSORS[name], 0.0)) for name in ("wte.weight", "wpe.weight")]
    if [len(shape) for shape in tables] != [2, 2]:
        raise UserError(
            f"embed/params/tokens and positions have shapes {tables[0]} and {tables[1]}, not the "
            "(V, D) and (T, D) of a gpt2(...); give the variables of one seed of such a network"
        )
    depth = sum(name.startswith("block_") for name in variables)
    lines = difference(_expected(*tables[0], depth, tables[1][0], _hidden(leaves)), variables)
    if lines:
        raise UserError(
            f"the variables are not those of a gpt2(...): {listed(lines)}; give those of one"
        )
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent} to write {target.name} in; create it")
    arrays = {
        PREFIX + name: np.ascontiguousarray(host_array(leaves[leaf]))
        for name, leaf in tensor_names(depth).items()
    }
    if target.suffix == ".npz":
        np.savez(target, **arrays)
    else:
        # transformers refuses a file without this metadata; save_file would ignore the umask (mode
        # 0600)
        target.write_bytes(
            library("safetensors.numpy").numpy.save(arrays, metadata={"format": "pt"})
        )


def gpt2_sizes(path: str | os.PathLike) -> dict[str, Any]:
    """The arguments of `gpt2(...)` for the weights in a folder or file: all that a config.json
    beside says, or else {"vocabulary", "width", "depth", "positions", "hidden"} from the shapes.

    Raises UserError for a config.json of another network, a file that cannot be read, or that lacks
    blocks or the two embeddings of one width.
    """
    settings = beside(path)
    if settings:
        return {**USUAL, **sizes_of(settings, FAMILY)}
    tensors = _weights(path)
    names = ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight")
    tables = [tensors[name].shape if name in tensors else () for name in names]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    if not depth or [len(shape) for shape in tables] != [2] * 3 or tables[0][1] != tables[1][1]:
        raise UserError(
            f"{path} holds no GPT-2: {depth} blocks h.*, wte.weight {tables[0]} and wpe.weight "
            f"{tables[1]} instead of (V, D) and (T, D); give another file"
        )
    (vocabulary, width), (positions, _), (_, hidden) = tables
    found = {"vocabulary": vocabulary, "width": width, "depth": depth, "positions": positions}
    return found | ({} if hidden == 4 * width else {"hidden": hidden})


def _hidden(leaves: Mapping[str, Any]) -> int:
    shape = np.shape(leaves.get("block_1/params/mlp/c_fc/kernel", 0.0))
    return shape[1] if len(shape) == 2 else 0


def _expected(
    vocabulary: int, width: int, depth: int, positions: int, hidden: int, heads: int = 1
) -> Variables:
    net = gpt2(
        vocabulary=vocabulary,
        width=width,
        depth=depth,
        heads=heads,  # shows in no shape
        positions=positions,
        hidden=hidden,
    )
    return variable_shapes(net, jax.ShapeDtypeStruct((1, 1), jnp.int32))


def _weights(path: str | os.PathLike) -> dict[str, Tensor]:
    weights = weights_under(path, PREFIX)
    return {name: tensor for name, tensor in weights.items() if not BUFFER.fullmatch(name)}
