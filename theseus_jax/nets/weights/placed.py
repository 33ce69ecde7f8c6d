"""Tensors of a file put in their declared places in the variables of a network.

Nothing is guessed: every tensor must be there under its declared name with its shape and dtype, and
no other may be.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.stage import Network, Variables, variable_shapes
from theseus_jax.trees import bit_equal, leaves_by_path

SHOWN = 4  # problems spelled out in an error's one line; the others are counted
# PyTorch's (O, I) as flax's (I, O), and (O, I, h, w) as (h, w, I, O)
KERNEL = {2: (1, 0), 4: (2, 3, 1, 0)}


class Place(NamedTuple):
    """Where a tensor of a file goes: a path in the variables, and how to transpose it (None: as it
    is).
    """

    path: str
    axes: tuple[int, ...] | None = None


def placed(
    net: Network,
    x: Any,
    tensors: Mapping[str, np.ndarray],
    places: Mapping[str, Place],
    *,
    unused: str = "",
    what: str,
) -> Variables:
    """The variables of `net` (for an input like x) with each tensor in its declared place.

    places: {tensor name: place}, one for every leaf of the variables. unused: a regular expression
    of tensor names that may be in the file and have no place. what: the name of the network in
    errors. Raises UserError naming the tensors that are missing, extra, renamed, transposed, of
    other shape or dtype, and leaves without one.
    """
    expected = variable_shapes(net, x)
    leaves = leaves_by_path(expected)
    wanted = {place.path: name for name, place in places.items()}
    if set(wanted) != set(leaves):
        lines = [f"no tensor is declared for {path}" for path in leaves if path not in wanted]
        lines += [
            f"{name} is declared for {path}, which is no leaf"
            for path, name in wanted.items()
            if path not in leaves
        ]
        raise UserError(
            f"the name map does not fit the {what}: {listed(lines)}; correct one of the two"
        )
    given = {
        name: tensor
        for name, tensor in tensors.items()
        if name in places or not re.fullmatch(unused, name)
    }
    lines = problems(
        {name: _in_file(leaves[place.path], place.axes) for name, place in places.items()}, given
    )
    if lines:
        raise UserError(
            f"the file does not hold the expected {what}: {listed(lines)}; give the file of that"
            " network"
        )
    arrays = [
        jnp.asarray(
            np.transpose(given[wanted[path]], places[wanted[path]].axes)
            if places[wanted[path]].axes
            else given[wanted[path]]
        )
        for path in leaves
    ]
    return jax.tree.unflatten(jax.tree.structure(expected), arrays)


def _in_file(leaf: jax.ShapeDtypeStruct, axes: tuple[int, ...] | None) -> jax.ShapeDtypeStruct:
    return (
        jax.ShapeDtypeStruct([leaf.shape[axes.index(i)] for i in range(len(axes))], leaf.dtype)
        if axes
        else leaf
    )


def problems(expected: Mapping[str, jax.ShapeDtypeStruct], tensors: Mapping[str, Any]) -> list[str]:
    """One line for each tensor that is missing, extra (and of which name it may be a misspelling),
    transposed, of another shape, or of another dtype; `tensors` need only `shape` and `dtype`. []
    means that all fit.
    """
    missing = [name for name in expected if name not in tensors]
    found = [f"missing {name}" for name in missing]
    for name in sorted(set(tensors) - set(expected)):
        close = difflib.get_close_matches(name, missing, n=1)
        found.append(f"extra {name}" + (f" (did you mean {close[0]}?)" if close else ""))
    for name in (name for name in expected if name in tensors):
        wanted, shape, dtype = expected[name], tuple(tensors[name].shape), str(tensors[name].dtype)
        if shape != wanted.shape:
            how = "is transposed" if shape == wanted.shape[::-1] else "has another shape"
            found.append(f"{name} {how}: given {shape}, expected {wanted.shape}")
        if dtype != str(wanted.dtype):
            found.append(f"{name} has another dtype: given {dtype}, expected {wanted.dtype}")
    return found


def tied_problems(
    expected: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Mapping[str, Any],
    head: str,
    embedding: str,
) -> list[str]:
    """`problems` of a network whose head is its embedding: the head may be there and has to be bit
    for bit what the embedding is.
    """
    tied = {head: expected[embedding]} if head in tensors else {}
    found = problems({**expected, **tied}, tensors)
    if tied and not found and not bit_equal(tensors[head].read(), tensors[embedding].read()):
        found.append(f"{head} differs from {embedding}, to which the network ties it")
    return found


def listed(lines: list[str]) -> str:
    """The first lines as one, and how many more there are."""
    return "; ".join(lines[:SHOWN]) + (
        f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    )
