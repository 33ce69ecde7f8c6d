"""What a phase minimises: small frozen objectives over the signals of one batch.

An objective says which activations it needs (`target`, `guide`), so that nothing else is computed.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from theseus_jax.nets.masked import values_and_mask
from theseus_jax.similarity import NamedSimilarity, samples


class Signals(NamedTuple):
    """What one batch gives a phase's objectives.

    labels: (B,) or (B, T) int32, or (B, O) float32 shares of the classes; (B, T) below 0 ask for
    nothing. output: what the target's
    last stage that was run gave. target, guide: captured activations by stage name; a guide's
    logits stand under its last stage. variables: the target's, with those of modules that only
    terms read.
    """

    labels: jax.Array
    output: Any
    target: dict[str, Any]
    guide: dict[str, Any]
    variables: Any = None


def as_classes(logits: jax.Array) -> jax.Array:
    """Logits (..., O) as they are; a single logit (..., 1) as the two (..., 2) of "no" and "yes",
    softmax((0, z)) being sigmoid(z): a softmax over one logit is 1 whatever it is, so nothing would
    be learnt from it.
    """
    return (
        logits
        if logits.shape[-1] > 1
        else jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy, nats: logits (..., O), labels (...) integers or (..., O) float shares of the
    classes -> (...).

    With one logit (..., 1) the labels are 0 and 1, or the share (..., 1) of 1.
    """
    if jnp.issubdtype(labels.dtype, jnp.floating):
        shares = (
            labels if labels.shape[-1] > 1 else jnp.concatenate([1.0 - labels, labels], axis=-1)
        )
        return optax.softmax_cross_entropy(as_classes(logits), shares)
    return optax.softmax_cross_entropy_with_integer_labels(as_classes(logits), labels)


def mean_where_asked(losses: jax.Array, labels: Any) -> jax.Array:
    """The mean of losses (B,) or (B, T). In sequences a label below 0 asks for nothing, and does
    not count; 0 where none asks.
    """
    if losses.ndim < 2 or labels is None or labels.shape != losses.shape:
        return losses.mean()
    asked = labels >= 0
    return jnp.where(asked, losses, 0.0).sum() / jnp.maximum(asked.sum(), 1)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy, nats per token or example, of the target's logits (B, O) or (B, T, O):
    `mean_where_asked`.
    """

    reads_labels: ClassVar[bool] = True
    target: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        losses = cross_entropy(signals.output, signals.labels)
        return mean_where_asked(losses, signals.labels)


def two_views(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """(B, ...) -> (2 B, ...): the rows under two independent dropout masks, the first views, then
    the second.

    rate: the share of entries that become 0, in [0, 1); the others are divided by 1 - rate.
    """
    both = jnp.concatenate([x, x])
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, both.shape), both / (1.0 - rate), 0.0)


@dataclasses.dataclass(frozen=True)
class InfoNCE:
    """Normalised-temperature cross-entropy of two views of each example, nats (Chen et al. 2020,
    arXiv 2002.05709, eq. 1).

    The output (2 B, O) holds the first views, then the second; each row has to find its other view
    among 2 B - 1 rows by cosine similarity over `temperature`. Raises ValueError for an odd number
    of rows. The labels are not used.
    """

    temperature: float = 0.07
    target: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        rows = len(signals.output)
        if rows % 2:
            raise ValueError(
                f"InfoNCE was given {rows} rows; two views of each example make an even number"
            )
        squares = jnp.sum(signals.output**2, axis=-1, keepdims=True)
        whole = squares > 1e-12  # a row of zeros has no direction, and gets no gradient
        unit = jnp.where(whole, signals.output * jax.lax.rsqrt(jnp.where(whole, squares, 1.0)), 0.0)
        logits = jnp.matmul(unit, unit.T, precision="highest") / self.temperature
        logits = jnp.where(jnp.eye(rows, dtype=bool), -jnp.inf, logits)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, (jnp.arange(rows) + rows // 2) % rows
        ).mean()


@dataclasses.dataclass(frozen=True)
class Distillation:
    """T^2 KL(softmax(guide / T) || softmax(target / T)), nats per token (Hinton et al. 2015, arXiv
    1503.02531, eq. 1).

    Of one logit it is the divergence of Bernoulli distributions (`as_classes`).

    guide: the name of the guide's last stage.
    """

    guide: tuple[str, ...]
    temperature: float = 2.0
    target: tuple[str, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        wanted = jax.nn.log_softmax(
            as_classes(jax.lax.stop_gradient(signals.guide[self.guide[0]])) / self.temperature
        )
        given = jax.nn.log_softmax(as_classes(signals.output) / self.temperature)
        divergences = jnp.sum(jnp.exp(wanted) * (wanted - given), axis=-1)
        return self.temperature**2 * mean_where_asked(divergences, signals.labels)


@dataclasses.dataclass(frozen=True)
class _Paired:
    """What compares stages in pairs (guide stage, target stage)."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def target(self) -> tuple[str, ...]:
        return tuple(t for _, t in self.pairs)

    @property
    def guide(self) -> tuple[str, ...]:
        return tuple(g for g, _ in self.pairs)


@dataclasses.dataclass(frozen=True)
class Alignment(_Paired):
    """Mean over pairs of (1 - similarity(target stage, guide stage)): 0 is perfectly aligned.

    pairs: (guide stage, target stage), each as often as it is named. samples: "tokens" makes N =
    B T samples of width D (of images: of the positions); "sequences" N = B of T D; "pooled" N = B
    means over the positions, of width D. Padding does not count. reduction: "mean" or "sum" over
    pairs.
    shift: an example is compared with the guide's activations of the one so many rows on in the
    batch: of another example, as a control, where it is not 0.
    """

    metric: NamedSimilarity
    samples: str = "tokens"
    reduction: str = "mean"
    shift: int = 0

    def __call__(self, signals: Signals) -> jax.Array:
        def distance(pair):
            (x, mask), (y, _) = (
                values_and_mask(z) for z in (signals.target[pair[1]], signals.guide[pair[0]])
            )
            x, counted = samples(x, kind=self.samples, mask=mask)
            y = jnp.roll(y, -self.shift, axis=0) if self.shift else y
            # of a guide without positions, or pooled beforehand, whole examples are all there is
            theirs = mask if y.ndim > 2 else None
            y, _ = samples(jax.lax.stop_gradient(y), kind=self.samples, mask=theirs)
            return 1.0 - self.metric(x, y, counted)

        total = sum(distance(pair) for pair in self.pairs)
        return total / len(self.pairs) if self.reduction == "mean" else total


@dataclasses.dataclass(frozen=True)
class Side:
    """A module that only a term reads: its variables stand under `name` beside the stages', and no
    deployed network has it.

    given: the shape (1, ...) of what it reads, a ShapeDtypeStruct or a `Masked` of them.
    """

    name: str
    module: nn.Module
    given: Any

    def __call__(self, variables: Any, x: Any) -> Any:
        return self.module.apply(variables[self.name], x)


@dataclasses.dataclass(frozen=True)
class Regression(_Paired):
    """Mean over pairs of half the mean squared error between a regressor of the target's stage and
    the guide's stage.

    pairs: (guide stage, target stage); sides: the regressor of each pair, to the guide stage's
    shape. The hints of FitNets (Romero et al. 2014, arXiv 1412.6550, equation 3), with the mean in
    place of the sum over features. guide_sides: filters of the guide's stages, for TED (Liang et
    al. 2022, arXiv 2210.01351, equation 8), whose variables get no gradient.
    """

    sides: tuple[Side, ...]
    guide_sides: tuple[Side, ...] = ()

    def __call__(self, signals: Signals) -> jax.Array:
        def error(i: int, pair: tuple[str, str]) -> jax.Array:
            wanted = signals.guide[pair[0]]
            if self.guide_sides:
                wanted = self.guide_sides[i](signals.variables, wanted)
            given, mask = values_and_mask(self.sides[i](signals.variables, signals.target[pair[1]]))
            squares = (given - jax.lax.stop_gradient(values_and_mask(wanted)[0])) ** 2
            if mask is None:
                return squares.mean()
            counted = (mask > 0)[..., None]
            return jnp.where(counted, squares, 0.0).sum() / jnp.maximum(
                counted.sum() * squares.shape[-1], 1
            )

        return 0.5 * sum(error(i, pair) for i, pair in enumerate(self.pairs)) / len(self.pairs)


@dataclasses.dataclass(frozen=True)
class FilterTask:
    """Mean over stages of the cross-entropy of a head on a filtered activation (TED's first stage,
    arXiv 2210.01351, section 3.1).

    stages: of the guide (on_guide) or of the target; filters and heads: one side each; a head reads
    the filter's output averaged over positions. The stages themselves get no gradient.
    """

    reads_labels: ClassVar[bool] = True
    stages: tuple[str, ...]
    filters: tuple[Side, ...]
    heads: tuple[Side, ...]
    on_guide: bool

    @property
    def sides(self) -> tuple[Side, ...]:
        return self.filters + self.heads

    @property
    def target(self) -> tuple[str, ...]:
        return () if self.on_guide else self.stages

    @property
    def guide(self) -> tuple[str, ...]:
        return self.stages if self.on_guide else ()

    def __call__(self, signals: Signals) -> jax.Array:
        def loss(stage: str, filtered: Side, head: Side) -> jax.Array:
            activation = jax.lax.stop_gradient(
                (signals.guide if self.on_guide else signals.target)[stage]
            )
            values, mask = values_and_mask(filtered(signals.variables, activation))
            pooled, _ = samples(values, kind="pooled", mask=mask)
            return cross_entropy(head(signals.variables, pooled), signals.labels).mean()

        return sum(map(loss, self.stages, self.filters, self.heads)) / len(self.stages)


@dataclasses.dataclass(frozen=True)
class Term:
    """One weighted part of a loss, logged under `name`. weight: a number, or a `balance.Ramp` or
    `balance.Calibrated`.
    """

    name: str
    weight: Any
    fn: CrossEntropy | InfoNCE | Distillation | Alignment | Regression | FilterTask
