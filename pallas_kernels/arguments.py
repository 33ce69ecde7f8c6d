"""What the public operations accept: one ValueError line that names both sides and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.gates import WORD

INPUT_DTYPES = ("float32", "bfloat16", "float64")


def accumulator(dtype) -> jnp.dtype:
    """The dtype that sums are kept in: float64 for float64 operands, else float32."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def _largest(index) -> int | None:
    """The largest entry where it can be read while tracing, None otherwise."""
    if isinstance(index, jax.core.Tracer) or not index.size:
        return None
    return int(np.max(np.asarray(index)))


def _check_index(op: str, name: str, index, paths: int, limit: int, remedy: str) -> None:
    if index.ndim != 1 or index.dtype != jnp.int32:
        raise ValueError(
            f"{op}: {name} is {index.dtype}{list(index.shape)}, expected int32 (P,); cast or"
            " flatten it"
        )
    if index.shape[0] != paths:
        raise ValueError(
            f"{op}: {name} has {index.shape[0]} entries and inputs {paths}; give one per path"
        )
    largest = _largest(index)
    if largest is not None and largest >= limit:
        raise ValueError(f"{op}: {name} holds {largest}, but there are only {limit}; {remedy}")


def check_gates(op: str, x: jax.Array, gates: Sequence[jax.Array]) -> None:
    """x (B, I) of a known floating dtype and every layer's gates uint32 (B, W)."""
    if x.ndim != 2 or str(x.dtype) not in INPUT_DTYPES:
        raise ValueError(
            f"{op}: x is {x.dtype}{list(x.shape)}, expected (B, I) of {', '.join(INPUT_DTYPES)};"
            " cast it"
        )
    if not isinstance(gates, (tuple, list)) or not gates:
        raise ValueError(
            f"{op}: gates is {type(gates).__name__}, expected a tuple of one array per hidden"
            " layer; wrap it"
        )
    for layer, words in enumerate(gates):
        if words.ndim != 2 or words.dtype != jnp.uint32:
            raise ValueError(
                f"{op}: gates[{layer}] is {words.dtype}{list(words.shape)}, expected uint32 (B, W);"
                " use pack_gates"
            )
        if words.shape[0] != x.shape[0]:
            raise ValueError(
                f"{op}: gates[{layer}] is packed for a batch of {words.shape[0]} and x holds"
                f" {x.shape[0]}; take the same samples of both"
            )


def check_paths(
    op: str, x: jax.Array, gates: Sequence[jax.Array], inputs: jax.Array, units: Sequence[jax.Array]
) -> None:
    """The above, and inputs and units int32 (P,) within x and gates as far as they can be read
    while tracing.
    """
    check_gates(op, x, gates)
    if not isinstance(units, (tuple, list)) or len(units) != len(gates):
        held = (
            len(units)
            if isinstance(units, (tuple, list))
            else f"a {type(units).__name__} instead of a tuple"
        )
        raise ValueError(
            f"{op}: gates has {len(gates)} layers and units {held}; give one index per layer"
        )
    paths = inputs.shape[0] if inputs.ndim else 0
    _check_index(op, "inputs", inputs, paths, x.shape[1], "choose inputs among x's columns")
    for layer, (index, words) in enumerate(zip(units, gates)):
        _check_index(
            op,
            f"units[{layer}]",
            index,
            paths,
            WORD * words.shape[1],
            "its gates hold too few words, pack all units",
        )


def check_matrix(op: str, name: str, value: jax.Array, rows: int, of: str, x: jax.Array) -> None:
    """value (rows, O) of the dtype that x's products are summed in."""
    expected = accumulator(x.dtype)
    if value.ndim != 2 or value.shape[0] != rows:
        raise ValueError(
            f"{op}: {name} is {list(value.shape)} and there are {rows} {of}; give ({rows}, O)"
        )
    if value.dtype != expected:
        raise ValueError(
            f"{op}: {name} is {value.dtype} and x {x.dtype}; give {name} as {expected}"
        )
