"""Classification of tasks that come one after the other, made of any labelled data set of pictures.

A model's value is its test accuracy when the stream ends: over all classes of a split one, of the
last task of the others; how the tasks before it went is in the method's tables.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from theseus_jax.checks import PART, check_values
from theseus_jax.data import streams
from theseus_jax.data.dataset import DataSet
from theseus_jax.errors import UserError
from theseus_jax.order import Tasks
from theseus_jax.tasks import Data, Sets, labelled
from theseus_jax.tasks.held import HeldClasses

METHOD = "plasticity"
USUAL = labelled.USUAL | {"batch": 16}
UNUSED = ("share", "unlabelled", "tokens")  # of labelled.sections
CHOICES = {"stream.kind": streams.KINDS, "data.source": (*labelled.SOURCES, "folder", "tfds")}
POSITIVE = ("stream.steps",)
RANGES = labelled.RANGES | {"stream.replay": PART}


def sections() -> dict[str, dict[str, Any]]:
    """The task's part of a config, with defaults and units."""
    data = {k: v for k, v in labelled.sections()["data"].items() if k not in UNUSED}
    stream = {
        "kind": "split",  # split | permuted | random_labels | five_plus_one
        "tasks": 5,
        "count": 0,  # training examples a task (five_plus_one: a class); 0: all; split: all
        "steps": 200,  # optimizer steps a task
        "replay": 0.0,  # share of a batch that is of earlier tasks' classes
        "of_class": 50,  # examples of a class that are kept for it, at most
        "buffer": 200,  # in all
    }
    return {"data": data, "stream": stream}


def sizes() -> dict[str, dict[str, Any]]:
    """See `labelled.sizes`."""
    return labelled.sizes()


class Task(labelled.Task):
    """A checked config's stream."""

    def __init__(self, config: Any) -> None:
        check_values(config, CHOICES, POSITIVE)
        if not 0 <= config.stream.replay < 1:
            raise UserError(
                f"config.stream.replay is {config.stream.replay:g}; it must be in [0, 1), a share"
                " of every batch"
            )
        super().__init__(config)

    @property
    def stretches(self) -> tuple[int, int]:
        """(tasks, optimizer steps of each)."""
        return self.config.stream.tasks, self.config.stream.steps

    def load(self, cache: pathlib.Path) -> tuple[Task, Data]:
        """(itself, its data)."""
        return self, self.divided(self.read(cache))

    def divided(self, data: DataSet) -> Data:
        """A data set as a stream, in its order. Raises UserError for a task without examples."""
        c = self.config.stream
        stream = streams.made(data, c.kind, c.tasks, c.count, self.config.seed)
        order = Tasks(stream.bounds, c.steps, stream.train.y, c.replay, c.of_class, c.buffer)
        tests, checks = (
            tuple(HeldClasses(labelled.inputs(part.x), part.y) for part in parts)
            for parts in (stream.test, stream.validation)
        )
        train = {"all": labelled.examples(stream.train)}
        sets = Sets(train, checks[-1], tests[-1], order, tests)
        chance = [np.bincount(part.y).max() / len(part.y) for part in stream.test]
        facts = {
            "name": f"{data.name}, {c.kind}",
            "sha256": data.sha256,
            "note": f"{data.note}; {stream.note}",
            "classes": list(data.classes),
            "train_examples": len(stream.train.y),
            "validation_examples": len(stream.validation[-1].y),
            "eval_examples": len(stream.test[-1].y),
        }
        return Data(
            lambda seed: sets,
            {
                "metric": "accuracy",
                "higher_is_better": True,
                "chance": float(chance[-1]),
                "data": facts,
            },
        )
