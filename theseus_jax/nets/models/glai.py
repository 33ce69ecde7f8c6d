"""GLAI heads (arXiv 2510.00883): a frozen path selector and a linear estimator over what the
selected paths carry.

`paths` is a variable collection of integers that training never touches; index I of an input and
J_l of a unit are the constant input and the unit that is always open, so that bias paths are
ordinary paths (`methods.glai.paths`).
"""

from __future__ import annotations

from typing import Any, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

import pallas_kernels as kernels
from theseus_jax.nets.stage import Network, network

Selected = dict[str, Any]


class PathSelector(nn.Module):
    """The hidden layers of the reduced MLP, of which only the gates are used.

    (B, I) float -> {"x": (B, I + 1) with a last column of 1, "gates": one packed (B, ceil((J_l + 1)
    / 32)) uint32 for each hidden layer, unit J_l always open}. Gates are computed in full float32
    precision, whatever the input's type: a flipped gate is an error of the size of the input. No
    gradient passes them.
    """

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> Selected:
        gates, h = [], x.astype(jnp.promote_types(x.dtype, jnp.float32))
        for i, width in enumerate(self.hidden, start=1):
            h = nn.Dense(width, name=f"hidden_{i}", precision="highest")(h)
            always = jnp.ones((h.shape[0], 1), bool)
            gates.append(kernels.pack_gates(jnp.concatenate([h > 0, always], axis=1)))
            h = nn.relu(h)
        return {
            "x": jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1),
            "gates": jax.lax.stop_gradient(tuple(gates)),
        }


def _indices(module: nn.Module, paths: int, layers: int) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    inputs = module.variable("paths", "inputs", jnp.zeros, (paths,), jnp.int32)
    units = module.variable("paths", "units", jnp.zeros, (layers, paths), jnp.int32)
    return inputs.value, tuple(units.value)


class PathContributions(nn.Module):
    """What P paths shared by all outputs carry: x~_i where all gates of a path are open, else 0;
    Selected -> (B, P).
    """

    paths: int
    layers: int = 1
    implementation: str = "auto"

    @nn.compact
    def __call__(self, selected: Selected) -> jax.Array:
        inputs, units = _indices(self, self.paths, self.layers)
        return kernels.path_contributions(
            selected["x"], selected["gates"], inputs, units, implementation=self.implementation
        )


class LinearEstimator(nn.Module):
    """Contributions times weights: (B, P) -> (B, O), float32; no bias, since the constant path is
    one of the P.

    The weights are stored (O, P), for the reason of `heads.Linear`.
    """

    outputs: int

    @staticmethod
    def holding(weights: jax.Array) -> dict[str, jax.Array]:
        """The parameters for weights (..., P, O)."""
        return {"weights": weights.swapaxes(-1, -2)}

    @nn.compact
    def __call__(self, contributions: jax.Array) -> jax.Array:
        weights = self.param(
            "weights",
            nn.initializers.zeros_init(),
            (self.outputs, contributions.shape[-1]),
            jnp.float32,
        )
        return contributions @ weights.T


class PathEstimator(nn.Module):
    """PathContributions and LinearEstimator in one kernel that never stores the contributions:
    Selected -> (B, O).
    """

    outputs: int
    paths: int
    layers: int = 1
    implementation: str = "auto"

    @staticmethod
    def holding(weights: jax.Array) -> dict[str, jax.Array]:
        """The parameters for weights (..., P, O)."""
        return {"weights": weights}

    @nn.compact
    def __call__(self, selected: Selected) -> jax.Array:
        inputs, units = _indices(self, self.paths, self.layers)
        weights = self.param(
            "weights", nn.initializers.zeros_init(), (self.paths, self.outputs), jnp.float32
        )
        return kernels.path_estimator(
            selected["x"],
            selected["gates"],
            inputs,
            units,
            weights,
            implementation=self.implementation,
        )


class EntryEstimator(nn.Module):
    """An estimator whose outputs chose their paths by themselves, one hidden layer: Selected -> (B,
    O), float32.

    The weights are a dense (I + 1, J + 1, O) kernel under a mask of the K chosen entries: on the
    reordered contraction (X V, then the gates) a dense product is faster than gathering scattered
    entries, and what the mask hides has no gradient.
    """

    outputs: int
    units: int

    @nn.compact
    def __call__(self, selected: Selected) -> jax.Array:
        x, (gates,) = selected["x"], selected["gates"]
        shape = (x.shape[-1], self.units + 1, self.outputs)
        chosen = self.variable("paths", "chosen", jnp.zeros, shape, jnp.bool_)
        weights = self.param("weights", nn.initializers.zeros_init(), shape, jnp.float32)
        return kernels.dense_estimator(x, gates, jnp.where(chosen.value, weights, 0.0))


class GLAIHead(nn.Module):
    """A whole joint GLAI head in one module, a drop-in for a ReLU MLP of any leading shape: (...,
    I) -> (..., O).

    Its variables come from a trained MLP (`methods.glai.head_variables`); fresh ones have no chosen
    path and give 0. Submodules "selector" (frozen) and "estimator" (trained).
    """

    hidden: tuple[int, ...]
    outputs: int
    paths: int
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        selected = PathSelector(self.hidden, name="selector")(x.reshape(-1, x.shape[-1]))
        estimator = PathEstimator(
            self.outputs, self.paths, len(self.hidden), self.implementation, name="estimator"
        )
        return estimator(selected).reshape(*x.shape[:-1], self.outputs)


def joint_network(hidden: Sequence[int], outputs: int, paths: int) -> Network:
    """Stages selector, contributions, estimator: everything before the estimator can be stored once
    for all examples.
    """
    return network(
        [
            ("selector", PathSelector(tuple(hidden))),
            ("contributions", PathContributions(paths, len(hidden))),
            ("estimator", LinearEstimator(outputs)),
        ]
    )


def fused_network(
    hidden: Sequence[int], outputs: int, paths: int, *, implementation: str = "auto"
) -> Network:
    """Stages selector, estimator: the estimator reads gates and never stores contributions."""
    return network(
        [
            ("selector", PathSelector(tuple(hidden))),
            ("estimator", PathEstimator(outputs, paths, len(hidden), implementation)),
        ]
    )


def entry_network(hidden: Sequence[int], outputs: int) -> Network:
    """Stages selector, estimator for paths that each output chose by itself; one hidden layer."""
    return network(
        [
            ("selector", PathSelector(tuple(hidden))),
            ("estimator", EntryEstimator(outputs, hidden[0])),
        ]
    )
