"""Labelled examples in three splits, and what may be done to a whole set of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from theseus_jax.data.splits import stratified_rows
from theseus_jax.errors import UserError

SPLITS = ("train", "validation", "test")


class Labelled(NamedTuple):
    """Examples and their classes: x (N, ...) and y (N,) int32 in [0, number of classes)."""

    x: np.ndarray
    y: np.ndarray


class DataSet(NamedTuple):
    """Three disjoint splits of one data set, and where it came from.

    classes: the name of class i at position i. sha256: 64 hex digits of the content that was read,
    before it was split. note: what a reader of a result on this data must know (units, losses,
    licence, how it was split).
    """

    name: str
    train: Labelled
    validation: Labelled
    test: Labelled
    classes: tuple[str, ...]
    sha256: str
    note: str


def checked(data: DataSet) -> DataSet:
    """The same data set, whose three splits have been found to fit each other and the classes.

    Raises UserError unless every split has examples, as many labels, one shape and dtype of example
    (uint8 for images, (height, width, channels)), and int32 labels in [0, number of classes).
    """
    shape, kind = data.train.x.shape[1:], data.train.x.dtype
    for split in SPLITS:
        x, y = getattr(data, split)
        what = f"the {split} split of {data.name}"
        if not len(x) or y.shape != (len(x),) or y.dtype != np.int32:
            raise UserError(
                f"{what} has {len(x)} examples and labels {y.shape} {y.dtype}; expected at least"
                " one example, and an int32 label for each; give those"
            )
        if x.shape[1:] != shape or x.dtype != kind or (len(shape) == 3 and kind != np.uint8):
            raise UserError(
                f"{what} has examples {x.shape[1:]} {x.dtype}, and training has {shape} {kind};"
                " expected the same, and uint8 for images; resize or convert them"
            )
        if y.min() < 0 or y.max() >= len(data.classes):
            raise UserError(
                f"{what} has labels from {y.min()} to {y.max()}, but there are {len(data.classes)}"
                " classes from 0; give the labelled data of these classes"
            )
    return data


def subset(data: DataSet, count: int, seed: int) -> DataSet:
    """The data set with `count` of its training examples, drawn by `splits.stratified_rows`;
    validation and test stay.

    With one seed, a smaller count gives a part of a larger one's. Raises UserError for a count that
    is below the number of classes in training or above that of examples.
    """
    rows = stratified_rows(data.train.y, count, seed)
    note = (
        f"{data.note}; {count} of {len(data.train.y)} training examples, stratified with seed"
        f" {seed}"
    )
    return data._replace(train=taken(*data.train, rows), note=note)


def taken(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Labelled:
    """The given rows of x (N, ...) and y (N,) as copies, y as int32."""
    return Labelled(x[rows], y[rows].astype(np.int32))


def stratified_note(validation_fraction: float, test_fraction: float, seed: int) -> str:
    """How `stratified_split` made the splits, in words."""
    return (
        f"stratified split, {validation_fraction:g} for validation and {test_fraction:g} for test,"
        f" seed {seed}"
    )


def drawn_note(validation_fraction: float, seed: int) -> str:
    """How `published_rows` made a validation split, in words."""
    return f"{validation_fraction:g} of the training part, drawn with seed {seed}, for validation"
