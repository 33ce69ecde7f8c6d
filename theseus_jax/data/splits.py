"""Which rows of a data set go where: disjoint splits, limits and stratified subsets, as index
arrays drawn from a seed.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from theseus_jax.errors import UserError

# how folders and files of published splits are called, in lower case
SPELLINGS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(
    ("test", "testing"), "test"
)
SPELLINGS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
# examples kept for training, validation, test; None: all
Limit = tuple[int | None, int | None, int | None]


def stratified_split(
    y: np.ndarray,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    names: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint indices of the train, validation and test rows, each class with the same shares,
    rounded.

    y: (N,) classes; names: of them, for errors. Each of the three (n,) int64 arrays is in the order
    of one permutation drawn from `seed`, so that its first rows are a random sample. Raises
    UserError for fractions that are not above 0 with a sum below 1, or that leave a split without
    an example of some class.
    """
    if not (
        validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1
    ):
        raise UserError(
            f"validation_fraction is {validation_fraction} and test_fraction {test_fraction};"
            " expected both above 0 and their sum below 1; set for example 0.2 and 0.2"
        )
    order = np.random.default_rng(seed).permutation(len(y))
    part = np.zeros(len(y), np.int8)
    for label in np.unique(y):
        rows = order[y[order] == label]
        test = int(test_fraction * len(rows) + 0.5)
        held_out = test + int(validation_fraction * len(rows) + 0.5)
        if not 0 < test < held_out < len(rows):
            raise UserError(
                f"class {names[label] if names else label} has {len(rows)} examples, too few for"
                f" fractions of {validation_fraction} and {test_fraction} to leave one in each"
                " split; change the fractions or give more examples"
            )
        part[rows[:held_out]], part[rows[:test]] = 1, 2
    return order[part[order] == 0], order[part[order] == 1], order[part[order] == 2]


def stratified_rows(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` indices into y (N,) in which every class has its share, and at least one: (count,)
    int64.

    Class c of n_c examples gets count * n_c / N, rounded so that the sum fits (Webster's rule, the
    divisor method of the Sainte-Lague seats). In the order of a permutation drawn from `seed`; with
    one seed, a smaller count gives a subset of a larger one's. Raises UserError for a count above N
    or below the number of classes in y.
    """
    classes = np.unique(y)
    if not len(classes) <= count <= len(y):
        raise UserError(
            f"a subset of {count} examples was asked for; expected from {len(classes)}, one of each"
            f" class that is there, to all {len(y)}; set such a number (data.share, or the size of"
            " that split)"
        )
    order = np.random.default_rng(seed).permutation(len(y))
    place = np.empty(len(y))
    for label in classes:
        rows = order[y[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        place[rows[0]] = 0.0
    chosen = np.zeros(len(y), bool)
    chosen[order[np.argsort(place[order], kind="stable")[:count]]] = True
    return order[chosen[order]]


def published_rows(
    counts: Sequence[int], validation_fraction: float, limit: Limit | None, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, validation and test rows of a set published in splits of `counts` examples, in the
    order of drawn permutations.

    counts: of (train, test), where the last `validation_fraction` of the permuted training part,
    rounded, is for validation, whatever the limit; or of (train, validation, test), where the
    fraction counts for nothing. limit keeps the first rows of each. Raises UserError for a fraction
    outside (0, 1), an empty split or a limit that is not within it.
    """
    generator = np.random.default_rng(seed)
    if len(counts) == 3:
        return shortened([generator.permutation(count) for count in counts], limit)
    train, test = counts
    held_out = int(validation_fraction * train + 0.5)
    if not 0 < held_out < train or not test:
        raise UserError(
            f"validation_fraction is {validation_fraction} of {train} training examples, with"
            f" {test} for test; no split may be empty; set for example 0.1, or give more examples"
        )
    order, tested = generator.permutation(train), generator.permutation(test)
    return shortened([order[: train - held_out], order[train - held_out :], tested], limit)


def shortened(
    parts: Sequence[np.ndarray], limit: Limit | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first rows of the three parts, as many as `limit` tells (None: all). UserError for a
    limit outside its part.
    """
    counts = tuple(len(part) for part in parts)
    given = (None,) * 3 if limit is None else tuple(limit)
    if len(given) != 3 or not all(
        wanted is None or 0 < wanted <= count for wanted, count in zip(given, counts)
    ):
        raise UserError(
            f"limit is {limit}; expected three counts from 1 to {counts} for training, validation"
            " and test; set those"
        )
    return tuple(part[:wanted] for part, wanted in zip(parts, given))
