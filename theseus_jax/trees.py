"""Small pure functions on pytrees of arrays: paths, sizes, exact comparison, checksums, seed axis,
stages.

A path is the keys from the root joined by "/": dict keys, tuple and list positions, NamedTuple
fields. A leaf is anything with `shape` and `dtype` (jax or numpy array, typed key,
ShapeDtypeStruct) or a Python number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError

PyTree = Any


def is_key(leaf: Any) -> bool:
    """True for new-style typed PRNG keys (`jax.random.key`), concrete or abstract, else False."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def host_array(leaf: Any) -> np.ndarray:
    """The leaf as a numpy array, same shape and dtype; typed keys (...) give uint32 data (...,
    words).
    """
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """{"a/b/c": leaf} in flattening order; a tree that is one leaf has the path "", `None` holds no
    leaf.

    Raises UserError for a key that contains "/" (its path would be ambiguous).
    """
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in leaves or path.count("/") != max(len(keys) - 1, 0):
            raise UserError(f'tree key {path!r} is ambiguous: "/" is for paths; rename the key')
        leaves[path] = leaf
    return leaves


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Plain nested dicts from {"a/b/c": leaf}; inverts `leaves_by_path` on dicts with str keys."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def parameter_count(tree: PyTree) -> int:
    """Number of array elements in all leaves (each >= 0); a complex element or a key counts
    once.
    """
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def bit_equal(a: PyTree, b: PyTree) -> bool:
    """True if structures, dtypes, shapes and bytes agree: NaN equals the same NaN, 0.0 differs from
    -0.0.

    A jax and a numpy array with the same bytes are equal.
    """
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return all(
        _described(x) == _described(y) and np.array_equal(_bytes(x), _bytes(y)) for x, y in pairs
    )


def checksum(tree: PyTree) -> dict[str, str]:
    """{path: sha256 (64 hex digits) of dtype, shape and bytes of the leaf}."""
    return {path: _sha256(leaf) for path, leaf in leaves_by_path(tree).items()}


def difference(expected: PyTree, given: PyTree) -> list[str]:
    """Readable lines, one per path that is missing from `given`, extra in it, or of another shape
    or dtype.

    Containers are not compared: a tuple and a dict with keys "0", "1" have the same paths. [] means
    equal.
    """
    wanted, found = (
        {path: _described(leaf) for path, leaf in leaves_by_path(tree).items()}
        for tree in (expected, given)
    )
    lines = [f"missing {path}: {_text(wanted[path])}" for path in wanted if path not in found]
    lines += [f"extra {path}: {_text(found[path])}" for path in found if path not in wanted]
    for path in (path for path in wanted if path in found):
        (dtype, shape), (other_dtype, other_shape) = wanted[path], found[path]
        if shape != other_shape:
            lines.append(f"shape {path}: expected {shape}, given {other_shape}")
        if dtype != other_dtype:
            lines.append(f"dtype {path}: expected {dtype}, given {other_dtype}")
    return lines


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One tree of jax arrays with a new leading seed axis: S trees of leaves (...) give leaves (S,
    ...).

    Raises UserError for no tree, or for trees that differ in structure, shapes or dtypes.
    """
    if not trees:
        raise UserError("stack was given no tree: give at least one tree, one per seed")
    for i, tree in enumerate(trees):
        lines = difference(trees[0], tree)
        if lines or jax.tree.structure(tree) != jax.tree.structure(trees[0]):
            reason = "; ".join(lines[:3]) or "the containers differ"
            raise UserError(
                f"cannot stack tree {i} with tree 0: {reason}; build all seeds from one network"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: PyTree, i: int) -> PyTree:
    """Tree i (0 <= i < S) of a stacked tree: leaves (S, ...) give leaves (...).

    Raises UserError if i is out of range (jax would clamp it silently) or the leaves share no
    leading axis.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or sizes == {()}:
        raise UserError(
            f"tree has no common leading seed axis (sizes {sorted(sizes)}): stack it first"
        )
    (seeds,) = sizes.pop()
    if not 0 <= i < seeds:
        raise UserError(
            f"seed index {i} is out of range: the tree holds {seeds}, give 0 to {seeds - 1}"
        )
    return jax.tree.map(lambda leaf: leaf[i], tree)


def select(
    stages: Mapping[str, PyTree], names: Iterable[str]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(chosen, rest): the named stages and all others, each in the order of `stages`; leaves are
    not copied.

    Raises UserError for a name that is no stage.
    """
    wanted = set(names)
    unknown = sorted(wanted - set(stages))
    if unknown:
        raise UserError(f"no stage named {', '.join(unknown)}: the stages are {', '.join(stages)}")
    return (
        {name: tree for name, tree in stages.items() if name in wanted},
        {name: tree for name, tree in stages.items() if name not in wanted},
    )


def _described(leaf: Any) -> tuple[str, tuple[int, ...]]:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return str(leaf.dtype), tuple(leaf.shape)


def _text(described: tuple[str, tuple[int, ...]]) -> str:
    return f"{described[0]} {described[1]}"


def _bytes(leaf: Any) -> np.ndarray:
    return np.ascontiguousarray(host_array(leaf)).reshape(-1).view(np.uint8)


def _sha256(leaf: Any) -> str:
    digest = hashlib.sha256(_text(_described(leaf)).encode())
    digest.update(_bytes(leaf))
    return digest.hexdigest()
