"""Direct solvers for models that are linear in their weights: ridge in closed form, logistic
regression by L-BFGS.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from theseus_jax import lapack
from theseus_jax.errors import UserError


class Solution(NamedTuple):
    """weights: (P, O) float32. iterations: of the solver, 0 for a closed form. gradient: its
    largest entry at the end.
    """

    weights: jax.Array
    iterations: int
    gradient: float


def _checked(features: jax.Array, labels: jax.Array, outputs: int) -> None:
    lapack.one_thread()
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UserError(
            f"features {features.shape} and labels {labels.shape} do not fit; give (N, P) and (N,)"
        )
    if int(np.max(labels)) >= outputs or int(np.min(labels)) < 0:
        raise UserError(
            f"labels run from {int(np.min(labels))} to {int(np.max(labels))}, but there are"
            f" {outputs} outputs"
        )


@jax.jit
def _ridge(features: jax.Array, targets: jax.Array, penalty: jax.Array) -> jax.Array:
    rows, columns = features.shape
    wide, product = rows < columns, functools.partial(jnp.matmul, precision="highest")
    # the smaller of the two Gram matrices: both give the same weights
    gram = product(features, features.T) if wide else product(features.T, features)
    factor = jax.scipy.linalg.cho_factor(
        gram + penalty * rows * jnp.eye(len(gram), dtype=gram.dtype)
    )
    if wide:
        return product(features.T, jax.scipy.linalg.cho_solve(factor, targets))
    return jax.scipy.linalg.cho_solve(factor, product(features.T, targets))


def ridge(features: jax.Array, labels: jax.Array, outputs: int, penalty: float) -> Solution:
    """argmin over W of ||features W - Y||^2 / N + penalty ||W||^2, by Cholesky of the smaller Gram
    matrix.

    features: (N, P) float32. labels: (N,) integer in [0, outputs); Y is their one-hot code less 1 /
    outputs. Nothing is centred: a constant column in `features` is the intercept. A penalty under
    the rounding of the Gram matrix (about 1e-7 of its largest eigenvalue over N) gives NaN weights.
    Raises UserError for shapes or labels that do not fit.
    """
    _checked(features, labels, outputs)
    targets = jax.nn.one_hot(labels, outputs) - 1.0 / outputs
    return Solution(_ridge(features, targets, jnp.asarray(penalty, jnp.float32)), 0, 0.0)


@functools.partial(jax.jit, static_argnames=("iterations", "outputs"))
def _minimise(features, labels, start, penalty, tolerance, outputs, iterations):
    scale = penalty / 2

    def objective(weights):
        logits = jnp.matmul(features, weights, precision="highest")
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return fit + scale * jnp.sum(weights**2)

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def going_on(carry):
        _, _, gradient, count = carry
        return (count == 0) | ((count < iterations) & (jnp.abs(gradient).max() > tolerance))

    def step(carry):
        weights, state, _, count = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = solver.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=objective
        )
        weights = optax.apply_updates(weights, updates)
        return weights, state, optax.tree_utils.tree_get(state, "grad"), count + 1

    first = (start, solver.init(start), jnp.zeros_like(start), jnp.zeros((), jnp.int32))
    weights, _, gradient, count = jax.lax.while_loop(going_on, step, first)
    return weights, count, jnp.abs(gradient).max()


def logistic(
    features: jax.Array,
    labels: jax.Array,
    outputs: int,
    penalty: float,
    *,
    start: jax.Array | None = None,
    iterations: int = 500,
    tolerance: float = 1e-5,
) -> Solution:
    """argmin over W of mean cross-entropy(features W, labels) + penalty / 2 ||W||^2, by L-BFGS from
    `start` (default 0).

    features: (N, P) float32; labels: (N,) integer in [0, outputs). Ends when no entry of the
    gradient is above `tolerance`, or after `iterations`. Raises UserError for shapes or labels that
    do not fit.
    """
    _checked(features, labels, outputs)
    start = (
        jnp.zeros((features.shape[1], outputs), jnp.float32)
        if start is None
        else jnp.asarray(start, jnp.float32)
    )
    weights, count, gradient = _minimise(
        features, labels, start, penalty, tolerance, outputs, iterations
    )
    return Solution(weights, int(count), float(gradient))
