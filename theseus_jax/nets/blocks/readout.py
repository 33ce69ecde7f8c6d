"""Linear read-outs y = x K + c, whatever layout their kernel is stored in.

A module that is one says so by a class attribute `readout = Layout(...)`; flax's `nn.Dense`, which
cannot, is known here. So whoever solves or folds a read-out names no architecture.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Layout(NamedTuple):
    """Where a read-out keeps its kernel and bias.

    inside: the submodule that holds "kernel" and "bias" ("": the module itself). outputs_first: the
    kernel is stored (O, D), not (D, O). Every array may have leading axes, such as one of seeds.
    """

    inside: str = ""
    outputs_first: bool = False

    def read(self, params: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        """(kernel (..., D, O), bias (..., O)) of a module's parameters; zeros where it has
        no bias.
        """
        held = params[self.inside] if self.inside else params
        kernel = self._turned(held["kernel"])
        return kernel, held.get("bias", jnp.zeros((*kernel.shape[:-2], kernel.shape[-1])))

    def write(self, kernel: jax.Array, bias: jax.Array) -> dict[str, Any]:
        """The parameters of a module that multiplies by kernel (..., D, O) and adds bias
        (..., O).
        """
        held = {"kernel": self._turned(kernel), "bias": bias}
        return {self.inside: held} if self.inside else held

    def _turned(self, kernel: jax.Array) -> jax.Array:
        return kernel.swapaxes(-1, -2) if self.outputs_first else kernel


def layout(module: nn.Module) -> Layout | None:
    """How a module stores its linear read-out; None for one that is none."""
    return Layout() if isinstance(module, nn.Dense) else getattr(module, "readout", None)


def has_bias(module: nn.Module) -> bool:
    """Whether a linear read-out adds a bias: what its field `use_bias` says, where it has one."""
    return getattr(module, "use_bias", True)
