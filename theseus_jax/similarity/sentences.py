"""Agreement of two sentence encoders on the same texts: row by row, and in which texts they hold
for alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.similarity.gram import check_finite

MOST_TEXTS = 1000  # whose pairs are compared: 499,500 of them
ROUNDING = 1e-12  # float64 cosines that differ by less are equal


def sentence_agreement(a: Any, b: Any) -> dict[str, float | int | None]:
    """How far two networks' embeddings a (N, D) and b (N, E) of the same N texts agree; in float64,
    on the host.

    - "texts": N. "pairs": how many pairs i < j of texts are compared: of all texts, or of 1000
      spread evenly where there are more.
    - "cosine": the mean over texts of the cosine of corresponding rows, in [-1, 1], 1 where b is a
      positive multiple of a; None where D and E differ. Not invariant to rotations.
    - "spearman", "pearson": correlation over pairs of cos(a_i, a_j) with cos(b_i, b_j), in [-1, 1]:
      whether both hold the same texts for alike; ties get their mean rank. Invariant to rotations
      and to a positive scale of any row, not to shifts. Spearman's is the usual score of sentence
      encoders against human judgement (Cer et al. 2017, SemEval-2017 task 1, uses Pearson's); here
      the other network takes the judge's place.
    A row of zeros has cosine 0 with every other. Where all pairs of one side have the same cosine,
    both correlations are 0.
    Raises UserError for other ranks, different N, fewer than 3 texts, and NaN or infinite values.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 3:
        raise UserError(
            f"sentence_agreement: embeddings of shapes {a.shape} and {b.shape}, expected (N, D) and"
            " (N, E) of the same 3 or more texts; embed the same texts with both networks"
        )
    check_finite(a, "sentence_agreement: the first embeddings")
    check_finite(b, "sentence_agreement: the second embeddings")
    a, b = _unit(a), _unit(b)
    rows = np.linspace(0, len(a) - 1, min(len(a), MOST_TEXTS)).round().astype(int)
    upper = np.triu_indices(len(rows), 1)
    x, y = ((side[rows] @ side[rows].T)[upper] for side in (a, b))
    return {
        "texts": len(a),
        "pairs": len(x),
        "cosine": float((a * b).sum(1).mean()) if a.shape == b.shape else None,
        "spearman": _correlation(_ranks(x), _ranks(y)),
        "pearson": _correlation(x, y),
    }


def _unit(rows: np.ndarray) -> np.ndarray:
    largest = np.abs(rows).max(1, keepdims=True)
    # squares of tiny or huge values would leave float64
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties up to rounding at their mean rank."""
    order = np.argsort(values, kind="stable")
    group = np.concatenate([[0], np.cumsum(np.diff(values[order]) > ROUNDING)])
    counts = np.bincount(group)
    ranks = np.empty(len(values))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if min(np.ptp(x), np.ptp(y)) <= ROUNDING:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
