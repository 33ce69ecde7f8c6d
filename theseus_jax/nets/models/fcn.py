"""Fully connected networks on images or vectors as named stages: stem, block_1 .. block_L, head.

`heads.mlp` is the bare ReLU MLP on features, made to be taken apart; these are networks of their
own, with norms.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Callable

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.adapters import LowRank
from theseus_jax.nets.blocks.norms import RunningNorm, known_norm, normalized
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.stage import Network, network

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "tanh": nn.tanh,
}
STARTS = {
    "lecun_normal": nn.initializers.lecun_normal(),
    # He et al. 2015 (arXiv 1502.01852), equation 10, uniform
    "he_uniform": nn.initializers.he_uniform(),
}


@dataclasses.dataclass(frozen=True)
class SmoothLeaky:
    """a z + (1 - a) z sigmoid(c z / p): a drawn uniformly from lower..upper for every number in
    training, their middle in evaluation ("Rand. Smooth-Leaky", arXiv 2605.15435, section 5).
    """

    c: float = 3.0
    p: float = 5.0
    lower: float = 0.125
    upper: float = 0.333

    def __call__(self, z: jax.Array, key: jax.Array | None = None) -> jax.Array:
        a = (self.lower + self.upper) / 2
        if key is not None:
            a = jax.random.uniform(key, z.shape, z.dtype, self.lower, self.upper)
        return a * z + (1 - a) * z * nn.sigmoid(self.c * z / self.p)


RANDOM = {"smooth_leaky": SmoothLeaky()}


def activation_of(name: str | SmoothLeaky) -> Callable[[jax.Array], jax.Array]:
    """One of ACTIVATIONS or RANDOM by name, or a `SmoothLeaky` itself. Raises UserError for another
    name.
    """
    if isinstance(name, SmoothLeaky):
        return name
    there = {**ACTIVATIONS, **RANDOM}
    if name not in there:
        raise UserError(f"there is no activation {name!r}; take one of {', '.join(there)}")
    return there[name]


def units_of(module: nn.Module, activation: str | SmoothLeaky, train: bool) -> Units:
    """The `Units` of a layer, for use inside a compact method: in training a random activation
    draws from the module's "dropout" key.
    """
    fn = activation_of(activation)
    if isinstance(fn, SmoothLeaky) and train:
        fn = functools.partial(fn, key=module.make_rng("dropout"))
    return Units(fn, name="units")


def start_of(name: str) -> Callable[..., jax.Array]:
    """One of STARTS. Raises UserError for another name."""
    if name not in STARTS:
        raise UserError(f"there is no start {name!r}; take one of {', '.join(STARTS)}")
    return STARTS[name]


class LowRankDense(nn.Module):
    """x U V + b with U (I, rank) and V (rank, J): (B, I) -> (B, J). Raises UserError for a rank
    above I or J.
    """

    features: int
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.rank > min(x.shape[-1], self.features):
            raise UserError(
                f"a product {x.shape[-1]} -> {self.features} has no rank of {self.rank}; lower the"
                " rank"
            )
        product = LowRank(self.features, self.rank, name="product")(x)
        return product + self.param("bias", nn.initializers.zeros_init(), (self.features,))


def _dense(width: int, rank: int, start: str = "lecun_normal") -> nn.Module:
    if rank:
        return LowRankDense(width, rank, name="linear")
    return nn.Dense(width, kernel_init=STARTS[start], name="linear")


class Hidden(nn.Module):
    """dropout(activation(norm(x W + b))), x flattened per example: (B, ...) -> (B, J).

    rank > 0 makes W a product of that rank. running: x is first normalised by what came by so far
    (`norms.RunningNorm`). Raises UserError for an input of one axis.
    """

    width: int
    norm: str
    activation: str | SmoothLeaky
    dropout: float = 0.0
    rank: int = 0
    start: str = "lecun_normal"
    running: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if x.ndim < 2:
            raise UserError(
                f"an MLP reads examples (B, ...), given an array {x.shape}; put the batch in front"
            )
        x = x.reshape(x.shape[0], -1)
        if self.running:
            x = RunningNorm(name="inputs")(x, train=train)
        h = _dense(self.width, self.rank, self.start)(x)
        units = units_of(self, self.activation, train)
        h = units(normalized(self.norm, h, train=train, name="norm", live=units.live()))
        return nn.Dropout(self.dropout, deterministic=not train)(h)


class Residual(nn.Module):
    """x + dropout(activation(norm(x)) W + b): (B, D) -> (B, D).

    The order of pre-activation ResNets (He et al. 2016, arXiv 1603.05027).
    """

    norm: str
    activation: str
    dropout: float = 0.0
    rank: int = 0
    start: str = "lecun_normal"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        h = activation_of(self.activation)(normalized(self.norm, x, train=train, name="norm"))
        return x + nn.Dropout(self.dropout, deterministic=not train)(
            _dense(x.shape[-1], self.rank, self.start)(h)
        )


def _check_layers(activation: str | SmoothLeaky, start: str, rank: int, residual: bool) -> None:
    """Raises UserError for names that are none, and for what does not go together."""
    random = isinstance(activation_of(activation), SmoothLeaky)
    start_of(start)
    if rank and start != "lecun_normal":
        raise UserError(
            f"kernels of rank {rank} start as products do, and the start is {start!r}; set the rank"
            " to 0, or leave the start at 'lecun_normal'"
        )
    if residual and random:
        raise UserError(
            "residual blocks have no random activation; take another one, or leave residual out"
        )


def mlp(
    *,
    classes: int,
    width: int,
    depth: int,
    stem_width: int = 0,
    norm: str = "layer",
    dropout: float = 0.0,
    activation: str | SmoothLeaky = "relu",
    residual: bool = False,
    rank: int = 0,
    start: str = "lecun_normal",
    running: bool = False,
) -> Network:
    """An MLP of `depth` hidden layers on images or vectors: (B, ...) float32 -> (B, classes)
    float32 logits.

    The stem flattens to `stem_width` units (0: width), the blocks block_1 .. block_{depth - 1} have
    `width`; each layer is a dense one, a norm of `norms.NORMS` and an activation of ACTIVATIONS,
    with a dropout rate in [0, 1) in the blocks. residual: each block adds its pre-normalised layer
    to its input. rank: > 0 makes each hidden layer's kernel a low-rank product
    (stem/params/linear/product/...), whose parameters count apart. start: of STARTS, of
    kernels without a rank. running: inputs are normalised by all that came by (`Hidden`). Raises
    UserError for another norm, activation or start, sizes below 1, a rate or rank out of range,
    residual widths that differ, a start beside a rank.
    """
    _check_layers(activation, start, rank, residual)
    first, norm = stem_width or width, known_norm(norm)
    if min(classes, width, depth, first) < 1:
        raise UserError(
            f"an MLP of depth {depth}, widths {first} and {width} and {classes} classes: each is at"
            " least 1"
        )
    if not 0 <= dropout < 1:
        raise UserError(f"a dropout rate of {dropout:g} is not in [0, 1); change it")
    if not 0 <= rank <= min(first, width):
        raise UserError(
            f"a rank of {rank} is not in 0..{min(first, width)}, the narrowest layer; change it"
        )
    if residual and first != width:
        raise UserError(
            f"a stem of {first} units cannot be added to blocks of {width}; make both as wide"
        )
    block = (
        Residual(norm, activation, dropout, rank, start)
        if residual
        else Hidden(width, norm, activation, dropout, rank, start)
    )
    stem = Hidden(first, norm, activation, rank=rank, start=start, running=running)
    return network(
        [
            ("stem", stem),
            *((f"block_{i}", block) for i in range(1, depth)),
            ("head", nn.Dense(classes, kernel_init=STARTS[start])),
        ]
    )


def deep_fcn(classes: int = 1000) -> Network:
    """The Deep FCN of "Training the Untrainable" (arXiv 2410.20035): 2048 units, then 47 layers of
    1024 with dropout 0.1.

    359,788,520 parameters on images of 224 x 224 x 3 with 1000 classes, of which 4,096 are the
    first layer's batch norm.
    """
    return mlp(classes=classes, width=1024, depth=48, stem_width=2048, norm="batch", dropout=0.1)


def wide_fcn(classes: int = 1000) -> Network:
    """The Wide FCN of the same paper, three layers of 8192 units: 1,375,609,832 parameters on
    images of 224 x 224 x 3.
    """
    return mlp(classes=classes, width=8192, depth=3, norm="batch")
