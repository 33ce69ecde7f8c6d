"""The networks of a config's language model: a Transformer that guides, a recurrent network that it
becomes, and the Transformer with its attention cut.
"""

from __future__ import annotations

import copy
from typing import Any, Callable, NamedTuple

from theseus_jax.checks import ABOVE, PART
from theseus_jax.errors import UserError
from theseus_jax.nets import decode
from theseus_jax.nets.blocks.style import ACTIVATIONS, Style
from theseus_jax.nets.models import llama
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.recurrent import recurrent
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.nets.weights.gpt2 import gpt2_sizes, load_gpt2
from theseus_jax.nets.weights.llama import KINDS, llama_sizes, load_llama
from theseus_jax.nets.weights.settings import beside, read_settings
from theseus_jax.paths import local


class Arch(NamedTuple):
    """A family of guides. keys: of config.guide that it reads besides SHARED."""

    build: Callable[..., Network]
    sizes: Callable[[str], dict[str, Any]]
    load: Callable[..., Variables]
    activation: str
    keys: tuple[str, ...]


LLAMA = ("key_heads", "head_size", "theta", "stretch", "biased", "tied")
ARCHS = {
    "gpt2": Arch(gpt2, gpt2_sizes, load_gpt2, "gelu_new", ("positions",)),
    "llama": Arch(llama.llama, llama_sizes, load_llama, "silu", LLAMA),
}
SHARED = ("width", "depth", "heads", "hidden", "epsilon", "taps")
CHOICES = {
    "guide.origin": ("trained", "untrained", "file"),
    "guide.arch": tuple(ARCHS),
    "guide.activation": ("", *ACTIVATIONS),
}
POSITIVE = ("guide.width", "guide.depth", "guide.heads", "target.window")
# of the target 0 is the guide's
RANGES = {"guide.dropout": PART, "guide.epsilon": ABOVE, "guide.theta": ABOVE}
SINKS = 4  # first tokens that a window keeps (arXiv 2309.17453, section 3.2)
MIXING = {"linear_attention": ("features", "decay"), "window": ("window", "sinks")}


def sizes() -> dict[str, dict[str, Any]]:
    """The sizes of a guide, a Transformer, and of a target, a recurrent network."""
    guide = {
        "arch": "gpt2",  # gpt2 | llama
        "width": 128,
        "depth": 4,  # blocks
        "heads": 4,
        "positions": 0,  # learned positions, of gpt2; 0: as many as data.context
        "dropout": 0.0,
        "hidden": 0,  # units of an MLP; 0: four times the width; llama: 8 / 3
        # of the MLPs: gelu_new | gelu | relu | silu; "": gpt2's gelu_new, llama's silu
        "activation": "",
        "epsilon": 1e-5,  # of the norms
        "taps": 0,  # of a causal convolution of queries, keys and values; 0: none
        "key_heads": 0,  # heads of keys and values, of llama; 0: as many as heads
        "head_size": 0,  # features of a head, of llama; 0: width / heads
        "theta": 1e4,  # of llama's rotary positions
        "stretch": (),  # their stretch: (default | linear | llama3, factor, low, high, original)
        "biased": (),  # projections of llama with biases: of qkv, out, mlp
        "tied": True,  # whether llama's head is its embedding
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
    """The family and sizes of a guide that comes from a folder, by its config.json; {} for any
    other. Raises UserError where config.guide asks for other ones.
    """
    c = config.guide
    if "origin" not in c or c.origin != "file":
        return {}
    if beside(c.weights) is None:
        if local(c.weights).is_dir():
            raise UserError(
                f"{c.weights} has no config.json, which says what no tensor does; save the model"
                " with save_pretrained, or give the file of its weights and its sizes"
            )
        return {}
    kind = read_settings(beside(c.weights)).get("model_type")
    arch = "llama" if kind in KINDS else "gpt2"
    found, usual = {"arch": arch, **ARCHS[arch].sizes(c.weights)}, sizes()["guide"]
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
    """The family of the guide, "arch", and the arguments of its network. Raises UserError for a
    folder of another vocabulary, or of fewer positions than data.context.
    """
    c, found, context = config.guide, given(config), config.data.context
    arch = ARCHS[(found or c)["arch"]]
    if not found:
        made = {key: c[key] for key in ("arch", *SHARED, *arch.keys)}
        made["vocabulary"] = vocabulary(config)
        made["activation"] = c.activation or arch.activation
        if c.arch == "llama":
            made["hidden"] = c.hidden or round(llama.HIDDEN * c.width)
        else:
            made["positions"] = c.positions or context
        return made
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
    if found["arch"] == "llama":  # which turns by them and learns none
        found.pop("positions")
    return found


def loaded(config: Any) -> Variables:
    """The guide's variables of one seed, in its folder or file. Raises UserError."""
    arguments = of_guide(config)
    if arguments.pop("taps", 0):
        raise UserError(
            f"config.guide.taps is {config.guide.taps}, and the weights in {config.guide.weights}"
            " have no convolution; set guide.taps to 0"
        )
    return ARCHS[arguments.pop("arch")].load(config.guide.weights, **arguments)


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
    """A Transformer; or one that differs in some sizes. Raises UserError."""
    arguments = of_guide(config) | {"dropout": config.guide.dropout, **changes}
    return ARCHS[arguments.pop("arch")].build(**arguments)


def windowed(config: Any, state: int) -> Network:
    """The guide with attention cut to as many nearest and first tokens as `state` bytes of keys and
    values hold. Raises UserError where that is not one.
    """
    one, two = (decode.state_bytes(guide(config), length) for length in (1, 2))
    each = two - one
    held = min((state - (one - each)) // each, config.data.context)
    if held < 1:
        raise UserError(
            f"the target's state of {state:,} bytes holds no token of the guide's keys and values,"
            f" {each:,} bytes each; leave the windows out of controls.names"
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
        **_made_like(theirs, width, c["heads"] or theirs["heads"]),
    )


def _made_like(theirs: dict[str, Any], width: int, heads: int) -> dict[str, Any]:
    """Norms, MLPs and heads of a target, `recurrent`'s style and attention, as the guide's are;
    heads of another number or width share no keys.
    """
    taps = {"taps": theirs["taps"]} if theirs.get("taps") else {}
    if theirs["arch"] == "gpt2":
        return {"style": Style(theirs["activation"], theirs["epsilon"]), "attention": taps}
    laid = [theirs[key] for key in ("key_heads", "head_size", "theta", "stretch", "biased")]
    if (width, heads) != (theirs["width"], theirs["heads"]):
        laid[:2] = [0, 0]
    style = llama.style_of(theirs["activation"], theirs["epsilon"], theirs["biased"])
    return {"style": style, "attention": llama.layout(*laid) | taps}


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
