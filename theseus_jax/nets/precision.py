"""What stages compute in, beside parameters, gradients and all that reads activations in float32
(Micikevicius et al. 2018, arXiv 1710.03740). bfloat16 has float32's range, so that no loss has to
be scaled.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

COMPUTES = ("float32", "bfloat16")


def lowered(tree: Any, compute: str) -> Any:
    """float32 leaves in the type of `compute`; all others, and all for "float32", as they are."""
    return tree if compute == "float32" else _cast(tree, jnp.float32, jnp.dtype(compute))


def raised(tree: Any, compute: str) -> Any:
    """What `lowered` inputs and parameters gave, in float32."""
    return tree if compute == "float32" else _cast(tree, jnp.dtype(compute), jnp.float32)


def _cast(tree: Any, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(new) if leaf.dtype == old else leaf, tree)
