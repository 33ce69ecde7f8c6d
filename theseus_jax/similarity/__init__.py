"""Similarity of two representations: every measure, what is known about it, and how to choose one
by name.

All take x (N, P) and y (N, Q), float arrays with the same N samples, and `mask` (N,); they return a
scalar, float32 or float64 if an input is. `metric(name)` is what a loss uses: always a similarity,
larger is more similar. `METRICS` says range, direction, invariances, differentiability and source
of each measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax

from theseus_jax.errors import UserError
from theseus_jax.similarity.cka import MinibatchCKA, cka, cka_angular
from theseus_jax.similarity.gram import check_finite, samples
from theseus_jax.similarity.neighbours import cknna, dmnn, dmnn_softmax, mutual_knn
from theseus_jax.similarity.rsa import rsa
from theseus_jax.similarity.shape import (
    mse_similarity,
    procrustes,
    pwcca,
    ridge_predictivity,
    svcca,
)

__all__ = [
    "METRICS",
    "Metric",
    "MinibatchCKA",
    "NamedSimilarity",
    "check_finite",
    "cka",
    "cka_angular",
    "cknna",
    "dmnn",
    "dmnn_softmax",
    "metric",
    "mse_similarity",
    "mutual_knn",
    "procrustes",
    "pwcca",
    "ridge_predictivity",
    "rsa",
    "samples",
    "svcca",
]


@dataclass(frozen=True)
class Metric:
    """What is known about one measure; `fn(x, y, mask=mask, **parameters)` computes it.

    minimum_samples: the smallest N it accepts, with k = 1 where `parameters` holds "k" (add k - 1
    for another k). low, high: its range. direction: "higher" or "lower", which means more similar.
    differentiable: fit for a loss. invariances: what can be done to one side alone without changing
    it. source: paper and equation, or "ours". parameters: which of k and temperature fn needs.
    """

    name: str
    fn: Callable[..., jax.Array]
    minimum_samples: int
    low: float
    high: float
    differentiable: bool
    direction: str
    invariances: tuple[str, ...]
    source: str
    parameters: tuple[str, ...] = ()


def _cka_biased(x: jax.Array, y: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    return cka(x, y, estimator="biased", mask=mask)


_RIGID = ("rotation", "shift", "isotropic scale")

METRICS: dict[str, Metric] = {
    entry.name: entry
    for entry in (
        Metric(
            "cka_debiased",
            cka,
            4,
            -1.0,
            1.0,
            True,
            "higher",
            _RIGID,
            "Kornblith et al. 2019, with HSIC_1 of Song et al. 2012",
        ),
        Metric(
            "cka_biased", _cka_biased, 3, 0.0, 1.0, True, "higher", _RIGID, "Kornblith et al. 2019"
        ),
        Metric(
            "cka_angular",
            cka_angular,
            3,
            0.0,
            math.pi / 2,
            True,
            "lower",
            _RIGID,
            "Williams et al. 2021; biased estimator",
        ),
        Metric(
            "dmnn",
            dmnn,
            3,
            0.0,
            1.0,
            True,
            "higher",
            _RIGID,
            "ours: soft mutual neighbours; not the measure of Network of Theseus",
            ("k", "temperature"),
        ),
        Metric(
            "dmnn_softmax",
            dmnn_softmax,
            3,
            0.0,
            1.0,
            True,
            "higher",
            _RIGID,
            "ours: overlap of soft neighbourhoods; not the measure of Network of Theseus",
            ("temperature",),
        ),
        Metric(
            "mutual_knn",
            mutual_knn,
            2,
            0.0,
            1.0,
            False,
            "higher",
            _RIGID,
            "Huh et al. 2024, appendix; neighbours after centring",
            ("k",),
        ),
        Metric(
            "cknna",
            cknna,
            3,
            -1.0,
            1.0,
            False,
            "higher",
            _RIGID,
            "Huh et al. 2024, appendix; row-centred kernels",
            ("k",),
        ),
        Metric(
            "rsa",
            rsa,
            3,
            -1.0,
            1.0,
            True,
            "higher",
            _RIGID,
            "Kriegeskorte et al. 2008; Pearson's r of Euclidean distances",
        ),
        Metric(
            "procrustes",
            procrustes,
            2,
            0.0,
            2.0,
            True,
            "lower",
            _RIGID,
            "Ding et al. 2021; squared",
        ),
        Metric(
            "svcca",
            svcca,
            3,
            0.0,
            1.0,
            False,
            "higher",
            _RIGID,
            "Raghu et al. 2017; 99% of the variance",
        ),
        Metric(
            "pwcca",
            pwcca,
            3,
            0.0,
            1.0,
            False,
            "higher",
            ("shift", "isotropic scale", "any linear map of y"),
            "Morcos et al. 2018; N must exceed max(P, Q) + 1",
        ),
        Metric(
            "ridge",
            ridge_predictivity,
            10,
            -math.inf,
            1.0,
            True,
            "higher",
            _RIGID,
            "cross-validated R^2 of ridge regression from x to y; 5 folds, penalty 0.01",
        ),
        Metric(
            "mse",
            mse_similarity,
            2,
            -math.inf,
            1.0,
            True,
            "higher",
            (),
            "1 - squared error over the variance of y; needs P = Q",
        ),
    )
}


@dataclass(frozen=True)
class NamedSimilarity:
    """A measure chosen by name as a function of (x, y, mask): a scalar, larger is more similar, at
    most 1.

    Equal and hashable by value, so that it can be a static argument of jit. Made by `metric`.
    """

    name: str
    arguments: tuple[tuple[str, float], ...]

    @property
    def minimum_samples(self) -> int:
        """The smallest N accepted, k included."""
        entry = METRICS[self.name]
        return entry.minimum_samples + int(dict(self.arguments).get("k", 1)) - 1

    def __call__(self, x: jax.Array, y: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """x: (N, P), y: (N, Q) the reference (guide), mask: (N,). Errors are those of the measure
        itself.
        """
        entry = METRICS[self.name]
        value = entry.fn(x, y, mask=mask, **dict(self.arguments))
        return value if entry.direction == "higher" else 1 - value / entry.high


def metric(name: str, *, k: int = 10, temperature: float = 0.02) -> NamedSimilarity:
    """The similarity called `name` in METRICS, as a callable (x, y, mask=None) -> scalar.

    Larger is more similar, at most 1. A loss is 1 - metric(name)(x, y). Distances (direction
    "lower") are returned as 1 - distance / largest distance. k and temperature are kept only by the
    measures that have them. Raises UserError for an unknown name.
    """
    if name not in METRICS:
        raise UserError(
            f"metric: {name!r} is not a similarity, expected one of {', '.join(METRICS)}; "
            "choose one of these"
        )
    settings = {"k": k, "temperature": temperature}
    return NamedSimilarity(name, tuple((p, settings[p]) for p in METRICS[name].parameters))
