"""Gates as bits: packed by sample where they are stored, packed by batch where a kernel
reads them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

WORD = 32


def _lanes() -> jax.Array:
    return jnp.arange(WORD, dtype=jnp.uint32)


def _pack(bits: jax.Array) -> jax.Array:
    """The last axis, a multiple of 32 booleans, as uint32 words; entry 0 is the lowest bit."""
    lanes = bits.reshape(*bits.shape[:-1], bits.shape[-1] // WORD, WORD)
    return jnp.sum(
        jnp.where(lanes, jnp.uint32(1) << _lanes(), jnp.uint32(0)), axis=-1, dtype=jnp.uint32
    )


def pack_gates(open: jax.Array) -> jax.Array:
    """Which units are open, as bits: bool (B, J) -> uint32 (B, ceil(J / 32)).

    Unit j is bit j % 32 of word j // 32; the bits past J are 0. One sample's gates lie together, so
    a cached set of N samples is (N, ceil(J / 32)) and a batch of it is one gather of rows. Gates
    are computed once in float32: a gate flipped by a lower precision is an error as large as the
    input. Raises ValueError if `open` is not a boolean matrix. Source: ours; GLAI (arXiv
    2510.00883) has no packing.
    """
    if open.ndim != 2 or open.dtype != jnp.bool_:
        raise ValueError(
            f"pack_gates: open is {open.dtype}{list(open.shape)}, expected bool (B, J); compare"
            " with 0 first"
        )
    return _pack(jnp.pad(open, ((0, 0), (0, -open.shape[1] % WORD))))


def unpack_gates(words: jax.Array, units: int) -> jax.Array:
    """The inverse of `pack_gates`: uint32 (B, W) -> bool (B, units), for units <= 32 W.

    Raises ValueError for another dtype or more units than the words hold.
    """
    if words.ndim != 2 or words.dtype != jnp.uint32:
        raise ValueError(
            f"unpack_gates: words are {words.dtype}{list(words.shape)}, expected uint32 (B, W); use"
            " pack_gates"
        )
    if units > WORD * words.shape[1]:
        raise ValueError(
            f"unpack_gates: {units} units asked of {words.shape[1]} words, which hold at most "
            f"{WORD * words.shape[1]}; pack the gates of all units"
        )
    bits = (words[:, :, None] >> _lanes()) & 1
    return (bits.reshape(words.shape[0], WORD * words.shape[1]) == 1)[:, :units]


def batch_words(words: jax.Array, batch: int) -> jax.Array:
    """The same gates packed along the batch: uint32 (B, W) -> (32 W, batch / 32), batch a multiple
    of 32, >= B.

    Sample b is bit b % 32 of word b // 32 of its unit's row, so the 32 lanes of a warp share one
    word. Samples past B are closed.
    """
    unpacked = unpack_gates(words, WORD * words.shape[1])
    return _pack(jnp.pad(unpacked, ((0, batch - words.shape[0]), (0, 0))).T)
