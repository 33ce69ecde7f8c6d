"""Variables of GLAI's networks that reproduce a ReLU MLP on the paths that were chosen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.methods.glai import paths as glai_paths
from theseus_jax.methods.glai.paths import Entries, Layers, Paths
from theseus_jax.nets.models.glai import LinearEstimator, PathEstimator
from theseus_jax.nets.stage import Variables


def selector_variables(layers: Layers) -> Variables:
    """{"params": ...} of a `PathSelector` with the hidden layers of an MLP; its output layer is not
    needed.
    """
    return {
        "params": {
            f"hidden_{i}": {"kernel": kernel, "bias": bias}
            for i, (kernel, bias) in enumerate(layers[:-1], 1)
        }
    }


def joint_variables(layers: Layers, chosen: Paths) -> Variables:
    """Variables of `nets.models.glai.joint_network` that reproduce the MLP on the chosen paths."""
    return {
        "selector": selector_variables(layers),
        "contributions": {"paths": _indices(chosen)},
        "estimator": {"params": LinearEstimator.holding(glai_paths.path_weights(layers, chosen))},
    }


def _indices(chosen: Paths) -> dict[str, jax.Array]:
    return {
        "inputs": jnp.asarray(chosen.inputs),
        "units": jnp.stack([jnp.asarray(units) for units in chosen.units]),
    }


# a dozen small operations: dispatched one by one they outlast a training epoch
jitted_joint_variables = jax.jit(joint_variables)


def head_variables(layers: Layers, chosen: Paths) -> dict[str, Any]:
    """Variables of the one-module `nets.models.glai.GLAIHead` that reproduce the MLP on the chosen
    paths.
    """
    weights = glai_paths.path_weights(layers, chosen)
    params = {
        "selector": selector_variables(layers)["params"],
        "estimator": PathEstimator.holding(weights),
    }
    return {"params": params, "paths": {"estimator": _indices(chosen)}}


def entry_variables(layers: Layers, chosen: Entries) -> Variables:
    """Variables of `nets.models.glai.entry_network` that reproduce the MLP on the chosen entries.
    One hidden layer.

    Raises UserError for more: each output's own choice among triples has no dense form; choose
    joint.
    """
    if len(layers) != 2:
        raise UserError(
            "paths that each output chose by itself need one hidden layer, the network has"
            f" {len(layers) - 1}; choose the joint selection"
        )
    inputs, hidden = glai_paths.sizes(layers)
    outputs = len(layers[-1][1])
    index = (
        jnp.asarray(chosen.paths.inputs),
        jnp.asarray(chosen.paths.units[0]),
        jnp.asarray(chosen.outputs),
    )
    empty = jnp.zeros((inputs + 1, hidden + 1, outputs))
    weights = empty.at[index].set(glai_paths.entry_weights(layers, chosen))
    return {
        "selector": selector_variables(layers),
        "estimator": {
            "params": {"weights": weights},
            "paths": {"chosen": jnp.zeros(empty.shape, bool).at[index].set(True)},
        },
    }
