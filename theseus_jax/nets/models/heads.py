"""Heads on features: linear, MLP and low-rank MLP, as networks whose stages a method can take
apart.
"""

from __future__ import annotations

from typing import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.readout import Layout
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.stage import Network, Variables, network

Layers = tuple[tuple[jax.Array, jax.Array], ...]
DENSE = Layout("linear")  # of a `Hidden` layer


class Hidden(nn.Module):
    """ReLU(x W + b): (..., I) -> (..., J)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Units(nn.relu, name="units")(nn.Dense(self.features, name="linear")(x))


class Bottleneck(nn.Module):
    """ReLU(x U V + b) with U V of rank `rank`: (..., I) -> (..., J)."""

    rank: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(
            nn.Dense(self.features, name="linear")(
                nn.Dense(self.rank, use_bias=False, name="down")(x)
            )
        )


class Linear(nn.Module):
    """x W^T + b: (..., I) -> (..., O), the kernel (O, I): on a CPU up to 2.7 times as fast as (I,
    O) where O is small.
    """

    features: int
    readout = Layout(outputs_first=True)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", start, (self.features, x.shape[-1]), jnp.float32)
        return x @ kernel.T + self.param(
            "bias", nn.initializers.zeros_init(), (self.features,), jnp.float32
        )


class Output(nn.Module):
    """A `Linear` layer as the last stage: (..., I) -> (..., O)."""

    features: int
    readout = Layout("linear", outputs_first=True)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Linear(self.features, name="linear")(x)


def mlp(hidden: Sequence[int], outputs: int) -> Network:
    """A ReLU MLP with stages hidden_1, ..., output; no hidden layer makes it linear."""
    layers = [(f"hidden_{i}", Hidden(width)) for i, width in enumerate(hidden, start=1)]
    return network([*layers, ("output", Output(outputs))])


def low_rank_mlp(inputs: int, hidden: int, outputs: int, *, parameters: int) -> Network:
    """A ReLU MLP of one hidden layer, its first matrix factorised to the largest rank that keeps to
    `parameters`.

    Raises UserError when not even rank 1 does.
    """
    rank = (parameters - hidden - (hidden + 1) * outputs) // (inputs + hidden)
    if rank < 1:
        raise UserError(
            f"a low-rank MLP {inputs}-{hidden}-{outputs} of {parameters} parameters has no rank"
            " left; raise rho"
        )
    return network([("hidden_1", Bottleneck(rank, hidden)), ("output", Output(outputs))])


def layers_of(variables: Variables) -> Layers:
    """((kernel (n_in, n_out), bias (n_out,)), ...) of an `mlp`'s variables, hidden layers in order,
    then the output.

    Raises UserError for variables of another network.
    """
    there = {name for name, tree in variables.items() if tree.get("params")}
    names = [f"hidden_{i}" for i in range(1, len(there))] + ["output"]
    if set(names) != there:
        raise UserError(
            f"stages {', '.join(variables)} are not those of a ReLU MLP (hidden_1, ..., output);"
            " convert an MLP"
        )
    found = [variables[name]["params"] for name in names]
    if any(set(tree) != {"linear"} for tree in found):
        raise UserError(
            "a stage of this MLP is factorised or not a dense layer; only dense ReLU layers become"
            " paths"
        )
    return (*(DENSE.read(tree) for tree in found[:-1]), Output.readout.read(found[-1]))


def variables_of(layers: Layers) -> Variables:
    """The variables of the `mlp` with these layers: what `layers_of` undoes."""
    hidden = {
        f"hidden_{i}": {"params": DENSE.write(*layer)}
        for i, layer in enumerate(layers[:-1], start=1)
    }
    return {**hidden, "output": {"params": Output.readout.write(*layers[-1])}}
