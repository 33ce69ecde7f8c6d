"""Values of padded texts with their mask, as they pass from stage to stage."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Masked(NamedTuple):
    """What goes between stages that read padded texts: token ids (B, T) int32 or hidden states (B,
    T, D); mask (B, T), 1 for a token.
    """

    values: jax.Array
    mask: jax.Array


def values_and_mask(x: Any) -> tuple[jax.Array, jax.Array | None]:
    """A stage's output as (values (B, ..., D), mask of what counts, or None)."""
    return (x.values, x.mask) if isinstance(x, Masked) else (x, None)
