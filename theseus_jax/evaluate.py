"""Held-out scores: every target token of a split counts once, in fixed order, without dropout."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Variables, forward, seams
from theseus_jax.objectives import InfoNCE, Signals, as_classes, cross_entropy, two_views
from theseus_jax.program import in_blocks, over_seeds
from theseus_jax.similarity import NamedSimilarity, samples

# batches a call: enough to hide the dispatch, few enough that padding a small split costs little
CALL_BATCHES = 16


@functools.partial(jax.jit, static_argnames=("net",))
def _sums(net: Network, variables: Variables, windows: jax.Array, mask: jax.Array) -> jax.Array:
    def one_seed(variables):
        def add(total, batch):
            tokens, counted = batch
            logits = forward(net, variables, tokens[:, :-1].astype(jnp.int32))[0].astype(
                jnp.float32
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, tokens[:, 1:].astype(jnp.int32)
            )
            return total + jnp.sum(jnp.where(counted, losses, 0.0)), None

        return jax.lax.scan(add, jnp.zeros(()), (windows, mask))[0]

    return over_seeds(one_seed, variables)


def token_loss(
    net: Network, variables: Variables, windows: np.ndarray, mask: np.ndarray, *, batch: int = 8
) -> np.ndarray:
    """Mean cross-entropy of each seed, nats per token: (S,) float64.

    variables: with a leading seed axis S. windows: (N, T + 1) integer tokens; mask: (N, T) bool,
    which targets count (`data.windows.evaluation_windows`). Padded with targets that do not count,
    so that every split of any length runs through one compiled program of CALL_BATCHES batches.
    """
    size = CALL_BATCHES * batch
    missing = -len(windows) % size
    padded = np.concatenate([windows, np.zeros((missing, windows.shape[1]), windows.dtype)])
    counted = np.concatenate([mask, np.zeros((missing, mask.shape[1]), bool)])
    shape = (len(padded) // size, CALL_BATCHES, batch, -1)
    sums = [
        np.asarray(_sums(net, variables, jnp.asarray(tokens), jnp.asarray(which)), np.float64)
        for tokens, which in zip(padded.reshape(shape), counted.reshape(shape))
    ]
    return np.sum(sums, axis=0) / mask.sum()


SAMPLES = 4096  # the neighbour measures compare every two


def _activation(net: Network, variables: Variables, x: Any, name: str) -> Any:
    """What a stage gives, or what lies inside it ("block_3/attn")."""
    return forward(net, variables, x, stop=name.split("/")[0], capture=name)[1][name]


@functools.partial(jax.jit, static_argnames=("net", "guide", "pair", "metrics", "kind"))
def _similarities(net, variables, guide, guide_variables, x, pair, metrics, kind):
    values, mask = values_and_mask(_activation(guide, guide_variables, x, pair[0]))
    y, counted = samples(values, kind=kind, mask=mask)
    rows = jnp.linspace(0, len(y) - 1, min(len(y), SAMPLES)).round().astype(int)

    def one_seed(variables):
        z = _activation(net, variables, x, pair[1])
        ours, _ = samples(values_and_mask(z)[0], kind=kind, mask=mask)
        return [
            metric(ours[rows], y[rows], None if counted is None else counted[rows])
            for metric in metrics
        ]

    return over_seeds(one_seed, variables)


def stage_similarity(
    net: Network,
    variables: Variables,
    guide: Network,
    guide_variables: Variables,
    x: Any,
    *,
    pair: tuple[str, str],
    metrics: Sequence[NamedSimilarity],
    kind: str = "tokens",
) -> list[np.ndarray]:
    """Similarity of a guide stage and a target stage (`pair`) on held-out inputs x (N, ...), at
    most SAMPLES spread samples.

    kind: what counts as a sample (`similarity.samples`). Returns one (S,) array a metric.
    """
    values = _similarities(net, variables, guide, guide_variables, x, pair, tuple(metrics), kind)
    return [np.asarray(value, np.float64) for value in values]


ROWS = 512  # rows a call: fills a device, and bounds the memory of a wide head


class ClassScores(NamedTuple):
    """Of each seed, (S,) float64: accuracy in [0, 1] and mean cross-entropy in nats."""

    accuracy: np.ndarray
    loss: np.ndarray


@functools.partial(jax.jit, static_argnames=("net",))
def _class_sums(
    net: Network, variables: Variables, x: jax.Array, y: jax.Array, counted: jax.Array
) -> jax.Array:
    def one_seed(variables):
        def add(total, block):
            x, y, counted = block
            logits = as_classes(forward(net, variables, x)[0].astype(jnp.float32))
            losses = cross_entropy(logits, y)
            right = jnp.argmax(logits, axis=-1) == y
            counted = counted.reshape(-1, *[1] * (y.ndim - 1)) & (y >= 0)
            return (
                total
                + jnp.stack(
                    [jnp.where(counted, right, 0.0).sum(), jnp.where(counted, losses, 0.0).sum()]
                ),
                None,
            )

        return jax.lax.scan(add, jnp.zeros(2), (x, y, counted))[0]

    return over_seeds(one_seed, variables)


def class_scores(net: Network, variables: Variables, x: Any, y: Any) -> ClassScores:
    """Scores of a classifier on every label of at least 0 once. variables: leading seed axis S; x:
    leaves (N, ...).

    y: integers of the shape of the logits less their last axis, (N,), or (N, T) for a class at
    every position; a network of one logit has classes 0 and 1. Raises UserError for labels of
    another shape.
    """
    count, rows = len(y), min(ROWS, len(y))
    given = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (count, *np.shape(leaf)[1:]), jnp.asarray(leaf[:1]).dtype
        ),
        x,
    )
    logits = list(seams(net, given).values())[-1].shape
    if np.shape(y) != logits[:-1]:
        raise UserError(
            f"labels of shape {np.shape(y)} for logits of shape {logits}; give one integer for each"
            " row of logits"
        )
    padded = [
        jax.tree.map(
            lambda leaf: jnp.pad(leaf, [(0, -count % rows)] + [(0, 0)] * (leaf.ndim - 1)).reshape(
                -1, rows, *leaf.shape[1:]
            ),
            jax.tree.map(jnp.asarray, z),
        )
        for z in (x, y, jnp.ones(count, bool))
    ]
    asked = max(int(np.sum(np.asarray(y) >= 0)), 1)
    sums = np.asarray(_class_sums(net, variables, *padded), np.float64) / asked
    return ClassScores(sums[:, 0], sums[:, 1])


@functools.partial(jax.jit, static_argnames=("net",))
def _right(net: Network, variables: Variables, x: Any, y: jax.Array) -> jax.Array:
    def one_seed(variables: Variables) -> jax.Array:
        def block(given: tuple[Any, jax.Array]) -> jax.Array:
            x, y = given
            return jnp.argmax(as_classes(forward(net, variables, x)[0]), axis=-1) == y

        return in_blocks(block, (x, y))

    return over_seeds(one_seed, variables)


def right_answers(net: Network, variables: Variables, x: Any, y: Any) -> np.ndarray:
    """Which labels of at least 0 a classifier answers rightly, (S, asked) bool; as `class_scores`,
    of which this is what accuracy is the mean of.
    """
    y = np.asarray(y)
    right = _right(net, variables, jax.tree.map(jnp.asarray, x), jnp.asarray(y))
    return np.asarray(right)[:, y >= 0]


@functools.partial(jax.jit, static_argnames=("net", "temperature", "rate"))
def _contrasts(
    net: Network,
    variables: Variables,
    batches: jax.Array,
    key: jax.Array,
    temperature: float,
    rate: float,
) -> jax.Array:
    objective = InfoNCE(temperature)

    def one_seed(variables):
        def loss(batch):
            number, x = batch
            output = forward(net, variables, two_views(x, rate, jax.random.fold_in(key, number)))[0]
            return objective(Signals(None, output, {}, {}, None))

        return jax.lax.map(loss, (jnp.arange(len(batches)), batches)).mean()

    return over_seeds(one_seed, variables)


def contrast_loss(
    net: Network,
    variables: Variables,
    x: Any,
    *,
    batch: int,
    temperature: float,
    rate: float,
    key: jax.Array,
) -> np.ndarray:
    """InfoNCE of two dropout views, nats, mean over batches in fixed order: (S,) float64.

    x: (N, ...). The last N % batch examples are left out, since the loss depends on the batch.
    rate, key: of the dropout masks, which are the same for every network. Raises UserError for
    fewer examples than a batch.
    """
    if len(x) < batch:
        raise UserError(
            f"{len(x)} held-out examples are fewer than a batch of {batch}; lower train.batch or"
            " give more data"
        )
    batches = jnp.asarray(x)[: len(x) // batch * batch].reshape(-1, batch, *x.shape[1:])
    return np.asarray(_contrasts(net, variables, batches, key, temperature, rate), np.float64)
