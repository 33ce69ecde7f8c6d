"""Networks by name: every architecture that a classification can have as guide or target, of any
size.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.pixels import Pixels
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.bert import MINILM, bert
from theseus_jax.nets.models.birnn import encoder
from theseus_jax.nets.models.cnn import cnn
from theseus_jax.nets.models.efficientnet import efficientnet_lite
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.models.resnet import resnet
from theseus_jax.nets.models.token_mlp import mixer, token_mlp
from theseus_jax.nets.models.vit import vit
from theseus_jax.nets.stage import Network, Stage, network, replace


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A name of ARCHITECTURES and its sizes; each reads those that it has, and 0 or "" takes the
    published one where noted.

    width: channels of a ResNet's first group (64) or of a cnn's first convolution (whose other
    layers are multiples of it), units of an MLP, width of tokens. depth: hidden layers of an MLP,
    blocks of the others. hidden: units inside a block's MLP. heads: of attention, or of a
    token-wise MLP's static one (0: an adapter in its place). patch: pixels a side. norm: batch,
    layer, group or none. stem: of a ResNet, "cifar" or "imagenet". rank: of the low-rank products
    of an MLP (0: full), or of a token-wise MLP's products over tokens (0: no mixing). read: of a
    ViT, "class", "mean" or "distilled". residual: an MLP's blocks add to their input. units: of
    each direction of a recurrence. cell: of `nets.models.cells.CELLS`, or linear_attention, which
    has no units. keep: numbers of blocks that stay attention. size: pixels a side that images are
    resized to (0: as they are). activation, start: of an MLP's and a cnn's layers
    (`fcn.activation_of`, `fcn.STARTS`). running: an MLP's inputs are normalised by what came by.
    """

    arch: str
    width: int = 0
    depth: int = 0
    hidden: int = 0
    heads: int = 0
    patch: int = 0
    norm: str = "batch"
    stem: str = "cifar"
    rank: int = 0
    read: str = "mean"
    dropout: float = 0.0
    residual: bool = False
    units: int = 0
    cell: str = "linear"
    keep: tuple[int, ...] = ()
    size: int = 0
    activation: str = "relu"
    start: str = "lecun_normal"
    running: bool = False


class Reading(NamedTuple):
    """What a network reads. shape: (height, width, channels) of images of 0..255 levels, or (T,)
    tokens of a padded text.

    mean, deviation: in levels, a number a channel.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()


def example(reading: Reading) -> Any:
    """The shape of one input, (1, ...): uint8 levels, or a `Masked` of int32."""
    if len(reading.shape) == 3:
        return jax.ShapeDtypeStruct((1, *reading.shape), jnp.uint8)
    return Masked(*[jax.ShapeDtypeStruct((1, *reading.shape), jnp.int32)] * 2)


def _resnet(depth: int, skip: bool) -> Callable[..., Network]:
    return lambda a, image, classes: resnet(
        depth=depth, classes=classes, width=a.width or 64, stem=a.stem, norm=a.norm, skip=skip
    )


def _mlp(a: Architecture, image: tuple[int, ...], classes: int) -> Network:
    return mlp(
        classes=classes,
        width=a.width,
        depth=a.depth,
        norm=a.norm,
        dropout=a.dropout,
        residual=a.residual,
        rank=a.rank,
        activation=a.activation,
        start=a.start,
        running=a.running,
    )


def _cnn(a: Architecture, image: tuple[int, ...], classes: int) -> Network:
    w = a.width
    return cnn(
        classes=classes,
        channels=(w, 2 * w),
        hidden=(16 * w, 16 * w, 8 * w),
        norm=a.norm,
        activation=a.activation,
        start=a.start,
    )


def _vit(a: Architecture, image: tuple[int, ...], classes: int) -> Network:
    if image[0] != image[1]:
        raise UserError(
            f"a vit reads square images and these are {image[0]} x {image[1]}; set its size to"
            " resize them"
        )
    return vit(
        classes=classes,
        image=image[0],
        patch=a.patch,
        width=a.width,
        depth=a.depth,
        heads=a.heads,
        hidden=a.hidden,
        channels=image[2],
        read=a.read,
        dropout=a.dropout,
    )


def _token_mlp(a: Architecture, image: tuple[int, ...], classes: int) -> Network:
    return token_mlp(
        classes=classes,
        patch=a.patch,
        width=a.width,
        depth=a.depth,
        hidden=a.hidden,
        norm=a.norm,
        mix_rank=a.rank,
        heads=a.heads,
    )


def _mixer(a: Architecture, image: tuple[int, ...], classes: int) -> Network:
    return mixer(
        classes=classes,
        patch=a.patch,
        width=a.width,
        depth=a.depth,
        tokens_hidden=a.units,
        channels_hidden=a.hidden,
    )


def _lite(a: Architecture, image: tuple[int, ...], classes: int) -> Network:
    return replace(
        efficientnet_lite(classes=classes), "classifier", [Stage("head", nn.Dense(classes))]
    )


IMAGES: dict[str, Callable[[Architecture, tuple[int, ...], int], Network]] = {
    **{f"resnet{depth}": _resnet(depth, True) for depth in (18, 34, 50)},
    **{f"plain{depth}": _resnet(depth, False) for depth in (18, 34, 50)},
    "mlp": _mlp,
    "cnn": _cnn,
    "vit": _vit,
    "token_mlp": _token_mlp,
    "mixer": _mixer,
    "efficientnet_lite0": _lite,
}
TEXTS = ("minilm", "birnn")
ARCHITECTURES = (*IMAGES, *TEXTS)
NEEDED = {
    "mlp": ("width", "depth"),
    "cnn": ("width",),
    "vit": ("width", "depth", "heads", "hidden", "patch"),
    "token_mlp": ("width", "depth", "hidden", "patch"),
    "mixer": ("width", "depth", "hidden", "patch", "units"),
}


def build(a: Architecture, reading: Reading, classes: int) -> Network:
    """The network of an architecture for such inputs; images pass a first stage "pixels", and the
    last stage is "head".

    Raises UserError for an unknown name, sizes that are missing, and inputs that the architecture
    cannot read.
    """
    if a.arch not in ARCHITECTURES:
        raise UserError(
            f"there is no architecture {a.arch!r}; choose one of {', '.join(ARCHITECTURES)}"
        )
    missing = [name for name in NEEDED.get(a.arch, ()) if getattr(a, name) < 1]
    if missing:
        raise UserError(
            f"the architecture {a.arch} needs {', '.join(missing)}; set each to at least 1"
        )
    if a.keep and a.arch != "birnn":
        raise UserError(
            f"keep is {a.keep} and the architecture {a.arch} has no blocks whose attention could"
            " stay; leave it (), or choose birnn"
        )
    if (a.arch in TEXTS) != (len(reading.shape) == 1):
        kinds = ("texts", "images") if a.arch in TEXTS else ("images", "texts")
        raise UserError(
            f"the architecture {a.arch} reads {kinds[0]} and the data are {kinds[1]}; choose"
            " another of the two"
        )
    if a.arch in TEXTS:
        return _text(a, classes)
    image = (a.size, a.size, reading.shape[2]) if a.size else reading.shape
    net = IMAGES[a.arch](a, image, classes)
    return network(
        [
            ("pixels", Pixels(reading.mean, reading.deviation, a.size)),
            *((s.name, s.module) for s in net.stages),
        ]
    )


def _text(a: Architecture, classes: int) -> Network:
    sizes = MINILM | {
        name: value for name in ("width", "depth", "heads", "hidden") if (value := getattr(a, name))
    }
    net = (
        bert(**sizes)
        if a.arch == "minilm"
        else encoder(**sizes, recurrent=a.units, cell=a.cell, keep=a.keep)
    )
    return network([*((s.name, s.module) for s in net.stages), ("head", nn.Dense(classes))])
