"""A ReLU network as a linear model over its paths, exactly (arXiv 2510.00883).

A network is `layers`: a tuple of (kernel (n_in, n_out), bias (n_out,)), hidden layers first, the
output layer last. Biases become paths by a constant unit: the input is x~ = [x, 1], every hidden
matrix is extended to [[W, 0], [b, 1]], so that the constant passes on, and the output matrix to [W;
b]. A path is an input i, one unit j_l of each of L hidden layers and an output o. Index I of an
input and J_l of a unit stand for the constant; its gate is open always. With w the product of the
extended entries along a path and a_l the gates of hidden layer l,

    y_o(x) = sum over paths of w x~_i a_1(x)_{j_1} ... a_L(x)_{j_L},

which equals the network. A path that starts at a bias is constant up to there; one that turns
constant after an input or a unit has weight 0 and is never listed.

Axes: B batch, I inputs, J_l units of hidden layer l, O outputs, P paths, K entries.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from theseus_jax.errors import UserError

Layers = Sequence[tuple[jax.Array, jax.Array]]


class Paths(NamedTuple):
    """Paths shared by all outputs.

    inputs: (P,) int32 in [0, I]. units: one (P,) int32 in [0, J_l] for each hidden layer l. I and
    J_l are the constant.
    """

    inputs: jax.Array
    units: tuple[jax.Array, ...]


class Entries(NamedTuple):
    """Single entries of the estimator: paths (K of them) and the output of each, (K,) int32 in [0,
    O).
    """

    paths: Paths
    outputs: jax.Array


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full precision, in the common dtype, at least float32: a gate computed in bfloat16
    or TF32 may flip.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return jnp.matmul(a.astype(dtype), b.astype(dtype), precision=lax.Precision.HIGHEST)


def sizes(layers: Layers) -> tuple[int, ...]:
    """(I, J_1, ..., J_L) of `layers`: inputs and hidden widths.

    Raises UserError without a hidden layer and for shapes that do not fit.
    """
    if len(layers) < 2:
        raise UserError(
            f"{len(layers)} layers given, a hidden and an output layer are the least; add a hidden"
            " layer"
        )
    for number, (kernel, bias) in enumerate(layers):
        if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
            raise UserError(
                f"layer {number}: kernel {kernel.shape} and bias {bias.shape}; give (n_in, n_out)"
                " and (n_out,)"
            )
        if number and kernel.shape[0] != layers[number - 1][0].shape[1]:
            raise UserError(
                f"layer {number} reads {kernel.shape[0]} units, but layer {number - 1} has "
                f"{layers[number - 1][0].shape[1]}; give the layers in order"
            )
    return (layers[0][0].shape[0], *(kernel.shape[1] for kernel, _ in layers[:-1]))


def extended(layers: Layers) -> tuple[jax.Array, ...]:
    """The matrices with a constant unit: hidden ones (n_in + 1, n_out + 1), the output matrix (J_L
    + 1, O).

    Last row: the bias. Last column of a hidden matrix: 0 but for a 1 in its last row. Raises
    UserError as `sizes`.
    """
    sizes(layers)
    whole = [jnp.concatenate([kernel, bias[None]]) for kernel, bias in layers]
    constant = [
        jnp.zeros((matrix.shape[0], 1), matrix.dtype).at[-1].set(1) for matrix in whole[:-1]
    ]
    return (*(jnp.concatenate(both, axis=1) for both in zip(whole[:-1], constant)), whole[-1])


def augment(x: jax.Array) -> jax.Array:
    """(B, I) -> (B, I + 1): a last column of 1, the constant input."""
    return jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)


def _forward(layers: Layers, x: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """(pre-activations of the hidden layers, logits)."""
    if x.ndim != 2 or x.shape[1] != sizes(layers)[0]:
        raise UserError(
            f"x has shape {x.shape}, the network reads (B, {sizes(layers)[0]}); give flat rows of"
            " that width"
        )
    before = []
    for kernel, bias in layers[:-1]:
        before.append(product(x, kernel) + bias)
        x = jnp.maximum(before[-1], 0)
    return tuple(before), product(x, layers[-1][0]) + layers[-1][1]


def logits(layers: Layers, x: jax.Array) -> jax.Array:
    """The network itself: x (B, I) -> (B, O), float32 or float64, in full precision."""
    return _forward(layers, x)[1]


def patterns(layers: Layers, x: jax.Array) -> tuple[jax.Array, ...]:
    """Which units are active on x (B, I): one boolean (B, J_l) for each hidden layer, True where W
    x + b > 0.

    Computed in float32 with full precision, or in float64 if the layers or x are. Raises UserError
    for another width.
    """
    return tuple(before > 0 for before in _forward(layers, x)[0])


def always_open(gates: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Boolean (B, J_l) -> (B, J_l + 1): a last column of True, the gate of the constant unit."""
    return tuple(
        jnp.concatenate([gate, jnp.ones((gate.shape[0], 1), bool)], axis=1) for gate in gates
    )


def open_gates(layers: Layers, x: jax.Array) -> tuple[jax.Array, ...]:
    """`patterns` with the constant unit, which is always open: one boolean (B, J_l + 1) for each
    hidden layer.
    """
    return always_open(patterns(layers, x))


def every_path(widths: Sequence[int]) -> Paths:
    """All paths of a network of `sizes` (I, J_1, ..., J_L) that can carry weight, in lexical order.

    I J_1...J_L + J_1...J_L + J_2...J_L + ... + J_L + 1 of them, on the host: for small networks and
    tests.
    """
    starts = []
    for start in range(len(widths) + 1):
        axes = [np.array([width]) for width in widths[:start]] + [
            np.arange(width) for width in widths[start:]
        ]
        starts.append(np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]))
    columns = np.concatenate(starts, axis=1).astype(np.int32)
    order = np.lexsort(columns[::-1])
    return Paths(columns[0][order], tuple(column[order] for column in columns[1:]))


def _hidden_weights(matrices: Sequence[jax.Array], paths: Paths) -> jax.Array:
    """(P,): the product of the hidden layers' entries along each path."""
    nodes = (paths.inputs, *paths.units)
    return math.prod(
        matrix[before, after] for matrix, before, after in zip(matrices[:-1], nodes[:-1], nodes[1:])
    )


def path_weights(layers: Layers, paths: Paths) -> jax.Array:
    """(P, O): the weight of each path to each output, the product of the network's entries along
    it. Differentiable.
    """
    matrices = extended(layers)
    return _hidden_weights(matrices, paths)[:, None] * matrices[-1][paths.units[-1]]


def entry_weights(layers: Layers, entries: Entries) -> jax.Array:
    """(K,): the weight of each entry's path to its own output. Differentiable."""
    matrices = extended(layers)
    return (
        _hidden_weights(matrices, entries.paths)
        * matrices[-1][entries.paths.units[-1], entries.outputs]
    )


def contributions(x: jax.Array, gates: Sequence[jax.Array], paths: Paths) -> jax.Array:
    """(B, P): x~_i where all of a path's gates are open, else 0: what its weights are multiplied
    with.

    x: (B, I). gates: boolean (B, J_l + 1) of each hidden layer, as from `open_gates`. The gradient
    flows to x alone.
    """
    passed = gates[0][:, paths.units[0]]
    for gate, unit in zip(gates[1:], paths.units[1:]):
        passed = passed & gate[:, unit]
    return jnp.where(passed, augment(x)[:, paths.inputs], 0)


def estimate(
    x: jax.Array, gates: Sequence[jax.Array], paths: Paths, weights: jax.Array
) -> jax.Array:
    """Logits (B, O) of the estimator: linear in `weights` (P, O), linear in x (B, I) while no gate
    changes.

    gates: boolean (B, J_l + 1) of each hidden layer. Differentiable in x and weights; the gates are
    constants, so the gradient to x leaves out the jumps at their boundaries (there are none at
    conversion).
    """
    return product(contributions(x, gates, paths), weights)


def estimate_entries(
    x: jax.Array, gates: Sequence[jax.Array], entries: Entries, weights: jax.Array, outputs: int
) -> jax.Array:
    """Logits (B, outputs) of an estimator with one weight (K,) for each entry; otherwise as
    `estimate`.
    """
    terms = contributions(x, gates, entries.paths) * weights
    return jnp.zeros((x.shape[0], outputs), terms.dtype).at[:, entries.outputs].add(terms)
