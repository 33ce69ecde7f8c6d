"""Streams: one labelled data set as tasks that come one after the other.

Each function is of a data set and gives the examples of all tasks in a row, and held-out ones of
every task. Everything is drawn from a seed, the same for every model.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.errors import UserError

KINDS = ("split", "permuted", "random_labels", "five_plus_one")


class Stream(NamedTuple):
    """Tasks in a row. train: of all of them; bounds: task t has the rows bounds[t] .. bounds[t +
    1]. validation, test: of every task. cumulative: whether a task's held-out examples are those of
    all tasks so far.
    """

    train: Labelled
    bounds: tuple[int, ...]
    validation: tuple[Labelled, ...]
    test: tuple[Labelled, ...]
    cumulative: bool
    note: str


def _joined(parts: Sequence[Labelled]) -> Labelled:
    return Labelled(*(np.concatenate(arrays) for arrays in zip(*parts)))


def _stream(
    train: Sequence[Labelled],
    validation: Sequence[Labelled],
    test: Sequence[Labelled],
    cumulative: bool,
    note: str,
) -> Stream:
    bounds = (0, *np.cumsum([len(part.y) for part in train]).tolist())
    if cumulative:
        validation, test = (
            [_joined(parts[: t + 1]) for t in range(len(parts))] for parts in (validation, test)
        )
    return Stream(_joined(train), bounds, tuple(validation), tuple(test), cumulative, note)


def _of_classes(part: Labelled, classes: Sequence[int]) -> Labelled:
    rows = np.isin(part.y, classes)
    return Labelled(part.x[rows], part.y[rows])


def split(data: DataSet, tasks: int) -> Stream:
    """The classes in order, as many a task, all with one head ("Split-MNIST" and its kind). Raises
    UserError for classes that do not divide.
    """
    count = len(data.classes)
    if tasks < 1 or count % tasks:
        raise UserError(
            f"{count} classes do not divide into {tasks} tasks; set stream.tasks to a divisor of"
            " the classes"
        )
    groups = np.arange(count).reshape(tasks, -1)
    parts = (data.train, data.validation, data.test)
    made = [[_of_classes(part, group) for group in groups] for part in parts]
    return _stream(*made, True, f"{tasks} tasks of {count // tasks} classes, one head")


def permuted(data: DataSet, tasks: int, count: int, seed: int) -> Stream:
    """Task t sees `count` of the training examples with the numbers of each in an order of its own
    (the first as they are), and held-out ones likewise ("Permuted MNIST").
    """
    draw = np.random.default_rng(seed)
    made: list[list[Labelled]] = [[], [], []]
    for t in range(tasks):
        shape = data.train.x.shape[1:]
        order = np.arange(np.prod(shape)) if t == 0 else draw.permutation(int(np.prod(shape)))
        rows = draw.permutation(len(data.train.y))[:count]
        train = Labelled(data.train.x[rows], data.train.y[rows])
        for found, part in zip(made, (train, data.validation, data.test)):
            moved = part.x.reshape(len(part.x), -1)[:, order].reshape(part.x.shape)
            found.append(Labelled(moved, part.y))
    return _stream(*made, False, f"{tasks} tasks, the numbers of inputs permuted in each")


def random_labels(data: DataSet, tasks: int, count: int, seed: int) -> Stream:
    """Task t has `count` training examples whose labels are drawn anew: to be learnt by heart, so
    the held-out examples are the training ones.
    """
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(tasks):
        rows = draw.permutation(len(data.train.y))[:count]
        labels = draw.integers(0, len(data.classes), len(rows)).astype(np.int32)
        parts.append(Labelled(data.train.x[rows], labels))
    note = f"{tasks} tasks of {count} examples with random labels, scored on themselves"
    return _stream(parts, parts, parts, False, note)


def five_plus_one(data: DataSet, tasks: int, count: int, seed: int) -> Stream:
    """Hard tasks of five classes and easy ones of one class in turn, `count` training examples a
    class at most ("5+1 CIFAR"). Raises UserError for fewer than six classes.
    """
    if len(data.classes) < 6:
        raise UserError(
            f"tasks of five classes and of one need 6 and there are {len(data.classes)}; choose"
            " another stream.kind"
        )
    draw = np.random.default_rng(seed)
    made: list[list[Labelled]] = [[], [], []]
    for t in range(tasks):
        classes = draw.permutation(len(data.classes))[: 1 if t % 2 else 5]
        train = _of_classes(data.train, classes)
        rows = draw.permutation(len(train.y))[: count * len(classes)]
        made[0].append(Labelled(train.x[rows], train.y[rows]))
        for found, part in zip(made[1:], (data.validation, data.test)):
            found.append(_of_classes(part, classes))
    return _stream(*made, False, f"{tasks} tasks of five classes and of one in turn")


def made(data: DataSet, kind: str, tasks: int, count: int, seed: int) -> Stream:
    """A stream of one of KINDS; count: training examples a task (of five_plus_one: a class), 0 for
    all. Raises UserError for fewer than two tasks.
    """
    if tasks < 2:
        raise UserError(f"a stream of {tasks} tasks is none; set stream.tasks to at least 2")
    count = count or len(data.train.y)
    if kind == "split":
        return split(data, tasks)
    drawn = {"permuted": permuted, "random_labels": random_labels, "five_plus_one": five_plus_one}
    return drawn[kind](data, tasks, count, seed)
