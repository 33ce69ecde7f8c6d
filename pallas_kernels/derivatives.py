"""Which derivatives a `custom_vjp` is asked for, told from its forward to its backward rule
(symbolic_zeros=True).

The answer travels as the length of an empty or one-entry array: a saved tree of another structure
(None or an array) would say it more plainly, but jax keeps one structure for every use of a
function it has traced, and fails on the second one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def values(primals: Any) -> Any:
    """What a forward rule was called with, without the marks of what is differentiated."""
    return jax.tree.map(
        lambda primal: primal.value, primals, is_leaf=lambda leaf: hasattr(leaf, "perturbed")
    )


def mark(primal: Any) -> jax.Array:
    """To be saved by the forward rule: whether the derivative by this argument is asked for."""
    return jnp.zeros((1 if primal.perturbed else 0,))


def asked(marked: jax.Array) -> bool:
    """The same, read by the backward rule while tracing."""
    return marked.shape[-1] > 0
