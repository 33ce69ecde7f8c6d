"""Numbers that are none, found before anything is trained on them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from theseus_jax.errors import UserError


def first_bad(tree: Any) -> str:
    """Which array of a tree holds the first NaN or infinity, where and what: "inputs at (3, 2) is
    nan"; "" where none does. Integers, booleans and keys are passed over.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jax.dtypes.issubdtype(getattr(leaf, "dtype", np.int32), np.inexact):
            continue
        array = np.asarray(leaf)
        finite = np.isfinite(array)
        if not finite.all():
            at = tuple(int(i) for i in np.argwhere(~finite)[0])
            where = f" at {at[0] if len(at) == 1 else at}" if at else ""
            named = jax.tree_util.keystr(path, simple=True, separator="/")
            return f"{named}{where} is {array[at]}"
    return ""


def check_finite(tree: Any, what: str, remedy: str) -> None:
    """Raises UserError, which says what the tree is, where the first NaN or infinity lies."""
    bad = first_bad(tree)
    if bad:
        raise UserError(f"{what}: {bad}, not a finite number; {remedy}")
