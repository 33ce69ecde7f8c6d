"""What the blocks of a family of Transformers are made of besides what mixes tokens: their norm and
their MLP.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.units import Units

EPSILON = 1e-5
ACTIVATIONS = {  # by transformers' names
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
}
_normal = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Style:
    """activation: of the MLP, one of ACTIVATIONS. epsilon: of the norms. rms: norms divide by the
    root mean square and do nothing else (Zhang and Sennrich 2019, arXiv 1910.07467). gated: the
    activation multiplies a second product (Shazeer 2020, arXiv 2002.05202). bias: of the MLP.
    Raises UserError for another activation.
    """

    activation: str = "gelu_new"
    epsilon: float = EPSILON
    rms: bool = False
    gated: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"there is no activation {self.activation!r}; choose one of"
                f" {', '.join(ACTIVATIONS)}"
            )

    def norm(self) -> nn.Module:
        """(..., D) -> (..., D)."""
        return (nn.RMSNorm if self.rms else nn.LayerNorm)(epsilon=self.epsilon)

    def mlp(self, width: int, hidden: int, depth: int) -> nn.Module:
        """(..., D) -> (..., D) by J = hidden units; depth: blocks of the network."""
        return MLP(width, hidden, depth, self.activation, self.gated, self.bias)


class MLP(nn.Module):
    """Dense, an activation (of ACTIVATIONS), Dense: (..., D) -> (..., D). gated: activation(gate x)
    times c_fc x.
    """

    width: int
    hidden: int
    depth: int = 1
    activation: str = "gelu_new"
    gated: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def inside(name: str) -> jax.Array:
            return nn.Dense(self.hidden, self.bias, kernel_init=_normal, name=name)(x)

        z, active = inside("c_fc"), ACTIVATIONS[self.activation]
        h = active(inside("gate")) * z if self.gated else Units(active, name="units")(z)
        small = nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        return nn.Dense(self.width, self.bias, kernel_init=small, name="c_proj")(h)
