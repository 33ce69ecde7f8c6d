"""The order of the data: every epoch a fresh permutation, known from a key alone."""

from __future__ import annotations

import functools

import jax
import numpy as np

from theseus_jax.errors import UserError


@functools.partial(jax.jit, static_argnames=("count",))
def _permutation(key: jax.Array, epoch: jax.Array, count: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def batch_rows(key: jax.Array, count: int, batch: int, begin: int, steps: int) -> np.ndarray:
    """Rows of the batches of steps begin .. begin + steps: (steps, B) int32; each epoch is a fresh
    permutation.

    The last count % batch rows of an epoch's permutation are left out of it. Raises UserError when
    count < batch.
    """
    if count < batch:
        raise UserError(
            f"{count} training examples are fewer than a batch of {batch}; lower train.batch or"
            " data.context, or give more data"
        )
    per_epoch = count // batch
    wanted = np.arange(begin, begin + steps)
    orders = {
        epoch: np.asarray(_permutation(key, epoch, count))
        for epoch in np.unique(wanted // per_epoch).tolist()
    }
    return np.stack(
        [
            orders[step // per_epoch][(step % per_epoch) * batch :][:batch]
            for step in wanted.tolist()
        ]
    )


def seed_rows(keys: jax.Array, count: int, batch: int, begin: int, steps: int) -> np.ndarray:
    """(S, K, B): every seed has its own order of the data."""
    return np.stack([batch_rows(key, count, batch, begin, steps) for key in keys])
