"""Few-shot episodes of a data set of many classes with few drawings each."""

from __future__ import annotations

import numpy as np

from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.errors import UserError

DRAWINGS = 20  # of every Omniglot character


def episode(data: DataSet, seed: int, *, ways: int, shots: int, key: int) -> DataSet:
    """A few-shot task: `ways` characters, `shots` drawings of each to train on, half of the others
    to validate, half to test.

    seed >= 0 draws from the test alphabets, a negative one from the validation alphabets. y is in
    [0, ways). Raises UserError for more ways than characters, or shots that leave no drawing for
    both held-out splits.
    """
    part = data.test if seed >= 0 else data.validation
    there = np.unique(part.y)
    if ways > len(there) or shots > DRAWINGS - 4:
        raise UserError(
            f"{ways} ways of {shots} shots; there are {len(there)} characters of {DRAWINGS}"
            " drawings, of which 4 have to be held out: lower data.ways or data.shots"
        )
    draw = np.random.default_rng([key, int(seed < 0), abs(seed)])
    chosen = draw.choice(there, ways, replace=False)
    rows = np.stack([draw.permutation(np.flatnonzero(part.y == label)) for label in chosen])
    middle = shots + (DRAWINGS - shots) // 2
    parts = [
        Labelled(
            part.x[columns.ravel()], np.repeat(np.arange(ways, dtype=np.int32), columns.shape[1])
        )
        for columns in (rows[:, :shots], rows[:, shots:middle], rows[:, middle:])
    ]
    return DataSet(
        f"{data.name}-{ways}-way-{shots}-shot",
        *parts,
        tuple(data.classes[label] for label in chosen),
        data.sha256,
        f"one episode a seed; {data.note}",
    )
