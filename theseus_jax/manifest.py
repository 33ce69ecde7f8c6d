"""The manifest of a checkpoint: what each leaf is, with its sha256, to prove right what was read.

Pure functions between a state and what is stored of it (host arrays and one JSON object): no files,
no orbax.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import trees
from theseus_jax.errors import UserError
from theseus_jax.version import __version__

PyTree = Any
SCHEMA = 1


def pack(
    tree: dict[str, PyTree], metadata: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({item: nested dicts of non-empty host arrays}, {"manifest": JSON object, "sha256": its
    digest}).

    Raises UserError for item names, leaves or metadata that cannot be stored.
    """
    named = (isinstance(item, str) and item.isidentifier() and item != "metrics" for item in tree)
    if not tree or not all(named):
        raise UserError(
            f'cannot name checkpoint items {list(tree)}: give identifiers other than "metrics"'
        )
    payload, described = {}, {}
    for item, value in tree.items():
        leaves = trees.leaves_by_path({item: value})
        described[item] = {path: _describe(path, leaf) for path, leaf in leaves.items()}
        arrays = {path: trees.host_array(leaf) for path, leaf in leaves.items()}
        # orbax refuses empty arrays and items without arrays; the manifest alone restores both.
        stored = trees.nested({path: array for path, array in arrays.items() if array.size})
        payload |= stored or {item: np.zeros(1, bool)}
    manifest = {
        "schema": SCHEMA,
        "theseus_jax": __version__,
        "items": list(tree),
        "leaves": described,
        "metadata": metadata,
    }
    try:
        manifest = json.loads(json.dumps(manifest))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"checkpoint metadata is not JSON ({error}): give numbers, strings, lists"
        ) from error
    return payload, {"manifest": manifest, "sha256": _digest(manifest)}


def is_sound(found: Any) -> bool:
    """True for the second result of `pack` after a round trip through JSON, unchanged."""
    return isinstance(found, dict) and found.get("sha256") == _digest(found.get("manifest"))


def problem(array: np.ndarray | None, entry: dict[str, Any]) -> str:
    """What is wrong with the host array read for a leaf ("" if nothing); None stands for an absent
    array.
    """
    if array is None:
        return "" if 0 in entry["shape"] else "is missing"
    return "" if _sha256(array) == entry["sha256"] else "does not match its sha256"


def revive(path: str, array: np.ndarray | None, entry: dict[str, Any]) -> Any:
    """The leaf as saved: jax array on the default device, numpy array or typed key; None is an
    empty array.

    Raises UserError for a 64-bit jax leaf while jax cuts to 32 bits.
    """
    array = np.zeros(entry["shape"], entry["dtype"]) if array is None else array
    if entry["kind"] == "numpy":
        return array
    value = jnp.array(array)
    if value.dtype != array.dtype:
        raise UserError(
            f"leaf {path} has dtype {array.dtype}, which jax would cut to {value.dtype}: "
            "set jax_enable_x64, as in the run that saved it"
        )
    return jax.random.wrap_key_data(value, impl=entry["impl"]) if entry["kind"] == "key" else value


def _describe(path: str, leaf: Any) -> dict[str, Any]:
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        raise UserError(
            f"leaf {path} is a {type(leaf).__name__}: make it an array or put it in the metadata"
        )
    array = trees.host_array(leaf)
    if array.dtype.kind in "OSUMm" or not array.dtype.isnative:
        raise UserError(
            f"leaf {path} has dtype {array.dtype}, not stored: give native numbers or booleans"
        )
    kind = "key" if trees.is_key(leaf) else "jax" if isinstance(leaf, jax.Array) else "numpy"
    entry = {
        "kind": kind,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sha256": _sha256(array),
    }
    return entry | ({"impl": str(jax.random.key_impl(leaf))} if kind == "key" else {})


def _sha256(array: np.ndarray) -> str:
    return trees.checksum(array)[""]


def _digest(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
