"""The networks of a config's language model: a GPT-2 that guides, a recurrent network that it
becomes, and the GPT-2 with its attention cut.
"""

from __future__ import annotations

import copy
import pathlib
from typing import Any

from theseus_jax.errors import UserError
from theseus_jax.nets import decode
from theseus_jax.nets.models.gpt2 import ACTIVATIONS, gpt2
from theseus_jax.nets.models.recurrent import recurrent
from theseus_jax.nets.stage import Network
from theseus_jax.nets.weights.gpt2 import gpt2_sizes
from theseus_jax.nets.weights.settings import beside

CHOICES = {"guide.origin": ("trained", "untrained", "file"), "guide.activation": tuple(ACTIVATIONS)}
POSITIVE = ("guide.width", "guide.depth", "guide.heads", "target.window")
# of the target 0 is the guide's
COUNTS = (
    "guide.hidden",
    *(f"target.{key}" for key in ("width", "depth", "heads", "hidden", "sinks")),
)
SINKS = 4  # first tokens that a window keeps (arXiv 2309.17453, section 3.2)
MIXING = {"linear_attention": ("features", "decay"), "window": ("window", "sinks")}


def sizes() -> dict[str, dict[str, Any]]:
    """The sizes of a guide, a GPT-2, and of a target, a recurrent network."""
    guide = {
        "width": 128,
        "depth": 4,  # blocks
        "heads": 4,
        "positions": 0,  # learned positions; 0: as many as data.context
        "dropout": 0.0,
        "hidden": 0,  # units of an MLP; 0: four times the width
        "activation": "gelu_new",  # of the MLPs: gelu_new | gelu | relu | silu
        "epsilon": 1e-5,  # of the layer norms
    }
    target = {
        # a cell, elman | gru | lstm | linear, or a mixer, linear_attention | window
        "cell": "linear",
        "block": "residual",  # plain | residual
        "width": 0,  # 0: the guide's
        "depth": 0,  # blocks; 0: the guide's
        "hidden": 0,  # recurrent units a block, of a cell; 0: the width
        "heads": 0,  # of a mixer; 0: the guide's
        "features": "hedgehog",  # hedgehog | elu, of linear_attention
        "decay": True,  # whether linear_attention forgets
        "window": 32,  # tokens back, of window
        "sinks": 4,  # first tokens that stay, of window
        "expansion": 4,  # MLP width over width; 0: no MLP (residual blocks)
        "adapter_rank": 64,  # of the linear adapters, where guide and target widths differ
    }
    return {"guide": guide, "target": target}


def given(config: Any) -> dict[str, Any]:
    """The sizes of a guide that comes from a folder, by its config.json; {} for any other. Raises
    UserError where config.guide asks for other ones.
    """
    c = config.guide
    if "origin" not in c or c.origin != "file":
        return {}
    if beside(c.weights) is None:
        if pathlib.Path(c.weights).expanduser().is_dir():
            raise UserError(
                f"{c.weights} has no config.json, which says what no tensor does; save the model"
                " with save_pretrained, or give the file of its weights and its sizes"
            )
        return {}
    found, usual = gpt2_sizes(c.weights), sizes()["guide"]
    for name in found.keys() & usual.keys():
        if c[name] not in (usual[name], found[name]):
            raise UserError(
                f"config.guide.{name} is {c[name]}, and {beside(c.weights)} says {found[name]};"
                f" leave config.guide.{name} out"
            )
    return found


def vocabulary(config: Any) -> int:
    """Tokens that both networks know: 256 bytes and a separator, the BPE's, or the guide's."""
    data = config.data
    if data.tokenizer == "guide":
        found = given(config)
        if not found:
            raise UserError(
                "config.data.tokenizer is 'guide', and no guide comes from a folder; set"
                " guide.origin to 'file' and guide.weights to a folder with config.json"
            )
        return found["vocabulary"]
    return 257 if data.tokenizer == "bytes" else data.vocabulary


def of_guide(config: Any) -> dict[str, Any]:
    """The arguments of the guide, `gpt2(...)`. Raises UserError for a folder of another
    vocabulary, or of fewer positions than data.context.
    """
    c, found, context = config.guide, given(config), config.data.context
    if not found:
        return {
            "vocabulary": vocabulary(config),
            "width": c.width,
            "depth": c.depth,
            "heads": c.heads,
            "positions": c.positions or context,
            "hidden": c.hidden,
            "activation": c.activation,
            "epsilon": c.epsilon,
        }
    if found["vocabulary"] != vocabulary(config):
        raise UserError(
            f"{beside(c.weights)} has {found['vocabulary']} tokens and config.data.tokenizer"
            f" {config.data.tokenizer!r} has {vocabulary(config)}; set data.tokenizer to 'guide'"
        )
    if found["positions"] < context:
        raise UserError(
            f"config.data.context is {context}, and the guide in {c.weights} has"
            f" {found['positions']} positions; lower data.context"
        )
    return found


def settled(config: Any) -> Any:
    """The config with the sizes that a folder gave in it, as of a guide that is not read again."""
    found = given(config)
    if not found:
        return config
    made = copy.deepcopy(config)
    with made.unlocked():
        for name in found.keys() & made.guide.keys():
            made.guide[name] = found[name]
        made.guide.origin, made.guide.weights = "untrained", ""
        if made.data.tokenizer == "guide":
            made.data.tokenizer, made.data.vocabulary = "bpe", found["vocabulary"]
    return made


def guide(config: Any, **changes: Any) -> Network:
    """A GPT-2; or one that differs in some sizes. Raises UserError."""
    return gpt2(**of_guide(config), dropout=config.guide.dropout, **changes)


def windowed(config: Any, state: int) -> Network:
    """The guide with attention cut to as many nearest and first tokens as `state` bytes of keys and
    values hold. Raises UserError where that is not one.
    """
    one, two = (decode.state_bytes(guide(config), length) for length in (1, 2))
    held = min(state // (two - one), config.data.context)
    if held < 1:
        raise UserError(
            f"the target's state of {state:,} bytes holds no token of the guide's keys and values,"
            f" {two - one:,} bytes each; leave the windows out of controls.names"
        )
    sinks = min(SINKS, held // 2)
    return guide(config, window=held - sinks, sinks=sinks)


def target(config: Any, **changes: Any) -> Network:
    """A recurrent network, with seams of the guide's width; or one that differs in some sizes.
    Raises UserError for sizes that do not fit.
    """
    c, theirs = {**config.target, **changes}, of_guide(config)
    width = c["width"] or theirs["width"]
    alike = width == theirs["width"] and c["expansion"] == sizes()["target"]["expansion"]
    return recurrent(
        vocabulary=theirs["vocabulary"],
        width=width,
        depth=c["depth"] or theirs["depth"],
        hidden=c["hidden"] or width,
        kind=c["cell"],
        block=c["block"],
        expansion=c["expansion"],
        heads=c["heads"] or theirs["heads"],
        mixing={key: c[key] for key in MIXING.get(c["cell"], ())},
        keep=kept(config),
        rank=c["adapter_rank"],
        seam_width=0 if width == theirs["width"] else theirs["width"],
        mlp_hidden=theirs.get("hidden", 0) if alike else 0,
        activation=theirs["activation"],
        epsilon=theirs["epsilon"],
    )


def kept(config: Any) -> tuple[int, ...]:
    """The numbers of the blocks whose attention stays (convert.keep). Raises UserError for a part
    that is no attention of the guide.
    """
    names = tuple(config.convert.keep) if "convert" in config else ()
    there = [f"block_{i + 1}/attn" for i in range(of_guide(config)["depth"])] if names else []
    odd = [name for name in names if name not in there]
    if odd:
        raise UserError(
            f"config.convert.keep has {odd[0]!r}, which is no attention of the guide; choose from"
            f" {', '.join(there)}"
        )
    return tuple(there.index(name) + 1 for name in names)
