"""Arms whose weights are solved for: logistic regression and ridge, on the features or on what chosen paths carry."""
from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.data.labelled import Labelled
from theseus_jax.methods.glai import solve as solvers
from theseus_jax.nets.stage import Network, Variables, forward


class Solved(NamedTuple):
    """variables: with a seed axis of 1. seconds: of the second of two solves, and of what paths carry, without compilation."""

    variables: Variables
    seconds: float
    iterations: int


def solve(net: Network, arm: str, train: Labelled, outputs: int, penalty: float, base: Variables | None) -> Solved:
    """Fit an arm whose name ends in logistic or ridge. base: a trained joint GLAI head (seed axis of 1) whose paths are kept."""
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    if base is None:
        features, before = jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1), 0.0
    else:
        single = jax.tree.map(lambda leaf: leaf[0], base)
        run = jax.jit(lambda v, x: forward(net, v, x, stop="contributions")[0])
        jax.block_until_ready(run(single, x))
        began = time.perf_counter()
        features = jax.block_until_ready(run(single, x))
        before = time.perf_counter() - began
    solver = solvers.ridge if arm.endswith("ridge") else solvers.logistic
    for _ in range(2):
        began = time.perf_counter()
        found = solver(features, y, outputs, penalty)
        weights = jax.block_until_ready(found.weights)
        seconds = before + time.perf_counter() - began
    if base is None:
        made: Any = {"output": {"params": {"linear": {"kernel": weights[:-1].T[None], "bias": weights[-1][None]}}}}
    else:
        made = {**base, "estimator": {"params": {"weights": weights.T[None]}}}
    return Solved(made, seconds, found.iterations)
