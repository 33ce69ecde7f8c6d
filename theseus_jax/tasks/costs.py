"""What using a network takes, whatever the task."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax import cost
from theseus_jax.nets.blocks.adapters import adapter_count
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.trees import parameter_count


def network_costs(
    net: Network, variables: Variables, example: Any, *, repeats: int
) -> dict[str, Any]:
    """Parameters, those of them in adapters, FLOPs of one example, and its latency in microseconds:
    median and interquartile range of `repeats` calls at batch 1.

    variables: of one seed. example: one input (1, ...), ShapeDtypeStructs.
    """
    x = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), example)
    run = jax.jit(lambda variables, x: forward(net, variables, x)[0])
    median, spread = cost.latency(run, variables, x, repeats=repeats)
    return {
        "parameters": parameter_count(variables),
        "adapter_parameters": adapter_count(variables),
        "flops_per_example": cost.flops(lambda v, z: forward(net, v, z)[0], variables, x),
        "latency_us": median,
        "latency_iqr_us": spread,
    }
