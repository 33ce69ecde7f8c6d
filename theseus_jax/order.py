"""The order of the data: every epoch a fresh permutation, known from a key alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.devices import mesh_for, spread
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


@dataclasses.dataclass(frozen=True)
class Epochs:
    """All examples, epoch after epoch: see `batch_rows`."""

    def rows(self, key: jax.Array, count: int, batch: int, begin: int, steps: int) -> np.ndarray:
        """(steps, batch) int32 of one seed."""
        return batch_rows(key, count, batch, begin, steps)

    def most(self, count: int) -> int:
        """The largest batch."""
        return count


@dataclasses.dataclass(frozen=True, eq=False)
class Tasks:
    """Tasks one after the other, each for `steps` steps in epochs of its own examples.

    bounds: task t has the examples bounds[t] .. bounds[t + 1]. labels: (N,), of all of them.
    replay: share of each batch that is of earlier tasks, from a buffer of up to `of_class` examples
    of a class and `buffer` in all, drawn from the key (Tiny-ER, arXiv 1902.10486).
    """

    bounds: tuple[int, ...]
    steps: int
    labels: np.ndarray
    replay: float = 0.0
    of_class: int = 50
    buffer: int = 200

    def most(self, count: int) -> int:
        """The largest batch: of the smallest task."""
        return min(b - a for a, b in zip(self.bounds, self.bounds[1:]))

    def task(self, step: int) -> int:
        """The number of the task of a step, the last one's after the end."""
        return min(step // self.steps, len(self.bounds) - 2)

    def rows(self, key: jax.Array, count: int, batch: int, begin: int, steps: int) -> np.ndarray:
        """(steps, batch) int32 of one seed. Raises UserError for other examples, or too few."""
        if self.bounds[-1] != count:
            raise UserError(
                f"an order of tasks over {self.bounds[-1]} examples was given {count}; make it of"
                " these"
            )
        found = []
        for step in range(begin, begin + steps):
            t, old = self.task(step), ()
            first, last = self.bounds[t : t + 2]
            if t and self.replay:
                held = self._held(key, t)
                draw = np.random.default_rng(_number(key, (t, step)))
                old = draw.choice(held, round(self.replay * batch))
            new = batch_rows(
                jax.random.fold_in(key, t), last - first, batch - len(old), step - t * self.steps, 1
            )[0]
            found.append(np.concatenate([new + first, old]).astype(np.int32))
        return np.stack(found)

    def _held(self, key: jax.Array, t: int) -> np.ndarray:
        """Rows of the buffer when task t begins: of each class that came by, as many."""
        labels = self.labels[: self.bounds[t]]
        classes = np.unique(labels)
        each = max(1, min(self.of_class, self.buffer // len(classes)))
        draw = np.random.default_rng(_number(key, (t,)))
        return np.concatenate(
            [draw.permutation(np.flatnonzero(labels == one))[:each] for one in classes]
        )


def _number(key: jax.Array, path: tuple[int, ...]) -> list[int]:
    return [*np.asarray(jax.random.key_data(key)).ravel().tolist(), *path]


def seed_rows(
    order: Epochs | Tasks, keys: jax.Array, count: int, batch: int, begin: int, steps: int
) -> np.ndarray:
    """(S, K, B): every seed has its own order of the data."""
    return np.stack([order.rows(key, count, batch, begin, steps) for key in keys])


def on_device(examples: Any, stored: Any, rows: np.ndarray) -> tuple[Any, np.ndarray]:
    """The examples that a chunk reads and its rows (S, K, B) of them: all of them, or, where some
    lie in a file (`np.memmap`), those of the chunk alone.
    """
    on_disk = any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(examples))
    if jax.tree.leaves(stored) or not on_disk:
        return examples, rows
    some = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows.reshape(-1)]), examples)
    return some, np.arange(rows.size, dtype=np.int32).reshape(rows.shape)


def everywhere(examples: Any, batch: int) -> Any:
    """The examples on every device that batches are cut over, once and not chunk by chunk; what
    lies in a file stays there.
    """
    on_disk = any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(examples))
    return examples if on_disk else spread(examples, mesh_for(batch))
