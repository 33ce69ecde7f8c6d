"""What a phase minimises: small frozen objectives over the signals of one batch.

An objective says which activations it needs (`target`, `guide`, `suffix`), so that nothing else is computed.
"""
from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from theseus_jax.similarity import NamedSimilarity, samples


class Signals(NamedTuple):
    """What one batch gives a phase's objectives.

    labels: (B, T) int32. output: what the target's last stage that was run gave. target, guide: captured activations
    by stage name; a guide's logits stand under its last stage. suffix: logits of the frozen guide suffix fed with
    `output`, or None.
    """

    labels: jax.Array
    output: Any
    target: dict[str, Any]
    guide: dict[str, Any]
    suffix: Any


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy, nats per token, of the target's logits (B, T, V) or of the guide suffix's."""

    suffix: bool = False
    target: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        logits = signals.suffix if self.suffix else signals.output
        return optax.softmax_cross_entropy_with_integer_labels(logits, signals.labels).mean()


def two_views(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """(B, ...) -> (2 B, ...): the rows under two independent dropout masks, the first views, then the second.

    rate: the share of entries that become 0, in [0, 1); the others are divided by 1 - rate.
    """
    both = jnp.concatenate([x, x])
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, both.shape), both / (1.0 - rate), 0.0)


@dataclasses.dataclass(frozen=True)
class InfoNCE:
    """Normalised-temperature cross-entropy of two views of each example, nats (Chen et al. 2020, arXiv 2002.05709, eq. 1).

    The output (2 B, O) holds the first views, then the second; each row has to find its other view among 2 B - 1 rows by
    cosine similarity over `temperature`. Raises ValueError for an odd number of rows. The labels are not used.
    """

    temperature: float = 0.07
    target: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        rows = len(signals.output)
        if rows % 2:
            raise ValueError(f"InfoNCE was given {rows} rows; two views of each example make an even number")
        squares = jnp.sum(signals.output**2, axis=-1, keepdims=True)
        whole = squares > 1e-12  # a row of zeros has no direction, and gets no gradient
        unit = jnp.where(whole, signals.output * jax.lax.rsqrt(jnp.where(whole, squares, 1.0)), 0.0)
        logits = jnp.matmul(unit, unit.T, precision="highest") / self.temperature
        logits = jnp.where(jnp.eye(rows, dtype=bool), -jnp.inf, logits)
        return optax.softmax_cross_entropy_with_integer_labels(logits, (jnp.arange(rows) + rows // 2) % rows).mean()


@dataclasses.dataclass(frozen=True)
class Distillation:
    """T^2 KL(softmax(guide / T) || softmax(target / T)), nats per token (Hinton et al. 2015, arXiv 1503.02531, eq. 1).

    guide: the name of the guide's last stage. suffix: compare the guide suffix's logits rather than the target's own.
    """

    guide: tuple[str, ...]
    temperature: float = 2.0
    suffix: bool = False
    target: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        logits = signals.suffix if self.suffix else signals.output
        wanted = jax.nn.log_softmax(jax.lax.stop_gradient(signals.guide[self.guide[0]]) / self.temperature)
        given = jax.nn.log_softmax(logits / self.temperature)
        return self.temperature**2 * jnp.sum(jnp.exp(wanted) * (wanted - given), axis=-1).mean()


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Mean over pairs of (1 - similarity(target stage, guide stage)): 0 is perfectly aligned.

    pairs: (guide stage, target stage). samples: "tokens" makes N = B T samples of width D; "sequences" N = B of T D.
    """

    pairs: tuple[tuple[str, str], ...]
    metric: NamedSimilarity
    samples: str = "tokens"

    @property
    def target(self) -> tuple[str, ...]:
        return tuple(t for _, t in self.pairs)

    @property
    def guide(self) -> tuple[str, ...]:
        return tuple(g for g, _ in self.pairs)

    def __call__(self, signals: Signals) -> jax.Array:
        def distance(pair):
            x, _ = samples(signals.target[pair[1]], kind=self.samples)
            y, _ = samples(jax.lax.stop_gradient(signals.guide[pair[0]]), kind=self.samples)
            return 1.0 - self.metric(x, y)

        return sum(distance(pair) for pair in self.pairs) / len(self.pairs)


@dataclasses.dataclass(frozen=True)
class Term:
    """One weighted part of a loss, logged under `name`."""

    name: str
    weight: float
    fn: CrossEntropy | InfoNCE | Distillation | Alignment
