"""Variables of a network, taken apart into what is trained and the rest, and put together."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from theseus_jax.errors import UserError

Variables = dict[str, dict[str, Any]]


def partition(variables: Variables, parts: Sequence[str]) -> tuple[Variables, Variables]:
    """Split variables in the parameters named by `parts` and all the rest; `merge` puts them
    together again.

    parts: stage names, or "stage/submodule/..." prefixes of parameter paths. Raises UserError for a
    part that names no parameter.
    """
    unknown = missing_parts(variables, parts)
    if unknown:
        raise UserError(
            f"no parameter is named by {', '.join(unknown)}; the stages are {', '.join(variables)}"
        )

    def walk(tree: Any, path: str, inside: bool) -> tuple[Any, Any]:
        inside = inside or path in parts
        if not isinstance(tree, Mapping):
            return (tree, {}) if inside else ({}, tree)
        pairs = {key: walk(value, f"{path}/{key}", inside) for key, value in tree.items()}
        return (
            {key: pair[0] for key, pair in pairs.items() if not _empty(pair[0])},
            {key: pair[1] for key, pair in pairs.items() if not _empty(pair[1])},
        )

    chosen, rest = {}, {}
    for name, collections in variables.items():
        hit, other = walk(collections.get("params", {}), name, False)
        chosen |= {} if _empty(hit) else {name: {"params": hit}}
        kept = {kind: tree for kind, tree in collections.items() if kind != "params"}
        rest[name] = kept | ({} if _empty(other) else {"params": other})
    return chosen, rest


def missing_parts(variables: Variables, parts: Sequence[str]) -> list[str]:
    """Those of `parts` (as in `partition`) that name no stage and no parameter of one, sorted."""

    def named(part: str) -> bool:
        stage, *path = part.split("/")
        tree = variables.get(stage, {}).get("params", {})
        for key in path:
            tree = tree.get(key) if isinstance(tree, Mapping) else None
        return stage in variables and tree is not None

    return sorted({part for part in parts if not named(part)})


def _empty(tree: Any) -> bool:
    return isinstance(tree, Mapping) and not tree


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested dicts as one; where both have a leaf, b's counts."""
    both = {
        key: (
            merge(a[key], b[key])
            if isinstance(a[key], Mapping) and isinstance(b[key], Mapping)
            else b[key]
        )
        for key in a.keys() & b.keys()
    }
    return {**a, **b, **both}
