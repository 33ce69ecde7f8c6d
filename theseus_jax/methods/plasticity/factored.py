"""Adafactor's factored second moments (arXiv 1804.04235, section 3) through a change of shapes.

optax keeps a row and a column mean of a matrix that is wide enough, and all of a smaller one. Which
of the two it is, and which axis is the row, may change with the number of units: then the moment is
made whole, sliced and factored anew.
"""

from __future__ import annotations

from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np
from optax import FactoredState

from theseus_jax import trees


def in_form(old: Any, cut: Any, wanted: Any, params: Any, sliced: Callable[[Any], Any]) -> Any:
    """The optimizer state `cut`, which is `old` sliced leaf by leaf, in the form of `wanted`.

    wanted: shapes. params: those that `old` is of; sliced(tree like params): of fewer units.
    """

    def one(before: Any, after: Any, like: Any) -> Any:
        if not isinstance(before, FactoredState):
            return after
        return _refactored(before, after, like, params, sliced)

    known = lambda node: isinstance(node, FactoredState)  # noqa: E731
    return jax.tree.map(one, old, cut, wanted, is_leaf=known)


def _refactored(
    before: FactoredState, after: FactoredState, like: FactoredState, params: Any, sliced: Any
) -> FactoredState:
    odd = {
        name
        for part in ("v_row", "v_col", "v")
        for name, leaf in trees.leaves_by_path(getattr(like, part)).items()
        if leaf.shape != trees.leaves_by_path(getattr(after, part))[name].shape
    }
    if not odd:
        return after
    whole = sliced(jax.tree.map(whole_moment, params, before.v_row, before.v_col, before.v))
    parts = {part: trees.leaves_by_path(getattr(after, part)) for part in ("v_row", "v_col", "v")}
    for name, moment in trees.leaves_by_path(whole).items():
        if name in odd:
            small = trees.leaves_by_path(like.v)[name].shape == (1,)
            for part, leaf in zip(parts, _parts(moment, small)):
                parts[part][name] = leaf
    built = {
        part: jax.tree.unflatten(jax.tree.structure(getattr(like, part)), list(leaves.values()))
        for part, leaves in parts.items()
    }
    return after._replace(**built)


def _axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """(the axis that rows are averaged over, that of columns): the largest and the second."""
    order = np.argsort(shape)
    return int(order[-1]), int(order[-2])


def whole_moment(param: Any, row: jax.Array, column: jax.Array, v: jax.Array) -> jax.Array:
    """The second moment of a parameter, of its shape: v itself, or row times column over their
    mean (the same section, algorithm 1).
    """
    if v.shape == jnp.shape(param):
        return v
    largest, second = _axes(jnp.shape(param))
    row, column = jnp.expand_dims(row, largest), jnp.expand_dims(column, second)
    mean = row.mean(axis=second, keepdims=True)
    return row * column / jnp.where(mean > 0, mean, 1.0)


def _parts(moment: jax.Array, small: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(row, column, v) of a moment; small: v of one number, so that it is factored."""
    nothing = jnp.zeros((1,), moment.dtype)
    if not small:
        return nothing, nothing, moment
    largest, second = _axes(moment.shape)
    return moment.mean(axis=largest), moment.mean(axis=second), nothing
