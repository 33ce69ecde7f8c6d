"""Held-out scores: every target token of a split counts once, in fixed order, without dropout."""
from __future__ import annotations

import functools
from typing import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.program import over_seeds
from theseus_jax.similarity import NamedSimilarity, samples

CALL_BATCHES = 16  # batches a call: enough to hide the dispatch, few enough that padding a small split costs little


@functools.partial(jax.jit, static_argnames=("net",))
def _sums(net: Network, variables: Variables, windows: jax.Array, mask: jax.Array) -> jax.Array:
    def one_seed(variables):
        def add(total, batch):
            tokens, counted = batch
            logits = forward(net, variables, tokens[:, :-1].astype(jnp.int32))[0].astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:].astype(jnp.int32))
            return total + jnp.sum(jnp.where(counted, losses, 0.0)), None

        return jax.lax.scan(add, jnp.zeros(()), (windows, mask))[0]

    return over_seeds(one_seed, variables)


def token_loss(net: Network, variables: Variables, windows: np.ndarray, mask: np.ndarray, *, batch: int = 8) -> np.ndarray:
    """Mean cross-entropy of each seed, nats per token: (S,) float64.

    variables: with a leading seed axis S. windows: (N, T + 1) integer tokens; mask: (N, T) bool, which targets count
    (`data.text.evaluation_windows`). Padded with targets that do not count, so that every split of any length runs
    through one compiled program of CALL_BATCHES batches.
    """
    size = CALL_BATCHES * batch
    missing = -len(windows) % size
    padded = np.concatenate([windows, np.zeros((missing, windows.shape[1]), windows.dtype)])
    counted = np.concatenate([mask, np.zeros((missing, mask.shape[1]), bool)])
    shape = (len(padded) // size, CALL_BATCHES, batch, -1)
    sums = [np.asarray(_sums(net, variables, jnp.asarray(tokens), jnp.asarray(which)), np.float64)
            for tokens, which in zip(padded.reshape(shape), counted.reshape(shape))]
    return np.sum(sums, axis=0) / mask.sum()


@functools.partial(jax.jit, static_argnames=("net", "guide", "pair", "metrics", "source", "start"))
def _similarities(net, variables, guide, guide_variables, tokens, pair, metrics, source, start):
    wanted = [pair[0]] + ([source] if source else [])
    _, theirs, _ = forward(guide, guide_variables, tokens, stop=pair[0], capture=wanted)
    y, _ = samples(theirs[pair[0]], kind="tokens")

    def one_seed(variables):
        x = forward(net, variables, theirs[source] if source else tokens, start=start, stop=pair[1])[0]
        return [metric(samples(x, kind="tokens")[0], y) for metric in metrics]

    return over_seeds(one_seed, variables)


def stage_similarity(net: Network, variables: Variables, guide: Network, guide_variables: Variables, windows: np.ndarray,
                     *, pair: tuple[str, str], metrics: Sequence[NamedSimilarity], source: str | None = None,
                     start: str | None = None) -> list[np.ndarray]:
    """Similarity of a guide stage and a target stage (`pair`) on held-out windows (N, T + 1), samples = tokens.

    Returns one (S,) array a metric. source, start: as in `plan.Route`.
    """
    tokens = jnp.asarray(windows[:, :-1]).astype(jnp.int32)
    values = _similarities(net, variables, guide, guide_variables, tokens, pair, tuple(metrics), source, start)
    return [np.asarray(value, np.float64) for value in values]
