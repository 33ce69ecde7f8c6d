"""Heads on features: a labelled data set, flat or through a frozen backbone that runs over it once,
scaled; labels by cross-entropy, or two dropout views of a row by InfoNCE.
"""

from __future__ import annotations

import pathlib
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.checks import check_values
from theseus_jax.data import features, labelled
from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.data.episodes import episode
from theseus_jax.errors import UserError
from theseus_jax.feeds import Views
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.objectives import CrossEntropy, InfoNCE, Term
from theseus_jax.paths import local
from theseus_jax.tasks import Compared, Data, Sets
from theseus_jax.tasks.costs import network_costs
from theseus_jax.tasks.held import HeldClasses, HeldViews
from theseus_jax.tasks.states import lm_states

METHOD = "glai"
BACKBONES = {"none": None, "efficientnet_lite0": 1280, "minilm": 384}
# inputs without a backbone, classes, training examples; None where the config or the data says it
SOURCES = {
    "digits": (64, 10, 1079),
    "cifar10": (3072, 10, 45000),
    "bbc": (None, 5, 1265),
    "omniglot": (11025, None, None),
    "lm_states": (None, None, None),
    "tfds": (None, None, None),
}
READERS = {
    "digits": ("none",),
    "cifar10": ("efficientnet_lite0", "none"),
    "bbc": ("minilm",),
    "lm_states": ("none",),
    "omniglot": ("efficientnet_lite0", "none"),
    "tfds": ("efficientnet_lite0", "none"),
}
CHOICES = {
    "data.source": tuple(SOURCES),
    "data.backbone": tuple(BACKBONES),
    "head.loss": ("cross_entropy", "infonce"),
}
POSITIVE = ("data.ways", "data.shots", "data.size")


def sections() -> dict[str, dict[str, Any]]:
    """The task's part of a config, with defaults and units."""
    data = {
        "source": "digits",  # digits | cifar10 | bbc | omniglot | lm_states | tfds
        "path": "",  # cifar10: the npz; omniglot: the folder of its zips; tfds: its data_dir
        "dataset": "",  # tfds: the data set's name
        "backbone": "none",  # none | efficientnet_lite0 | minilm: frozen, its features cached
        "size": 128,  # pixels a side that an image backbone reads
        "cache": "",  # folder of cached features; empty: inside the workdir
        "train": 0,  # examples; 0: all
        "validation": 0,
        "test": 0,
        "classes": 0,  # tfds: how many; 0: as the source says
        "width": 0,  # of the features, where the source does not say; 0: as it says
        "ways": 5,  # omniglot: classes an episode
        "shots": 8,  # omniglot: training examples a class
        "standardise": True,  # features, by the training split's mean and deviation
    }
    head = {
        "loss": "cross_entropy",  # cross_entropy | infonce
        "outputs": 0,  # infonce: width of the projection
        "dropout": 0.2,  # infonce: rate of the two views' masks on the features
        "temperature": 0.07,  # infonce
    }
    return {"data": data, "head": head, "report": {}}


class Task:
    """A checked config's features. inputs: their width; outputs: of a head; train: examples."""

    def __init__(self, config: Any, train: int = 0) -> None:
        check_values(config, CHOICES, POSITIVE)
        c, head = config.data, config.head
        self.config, self.contrast = config, head.loss == "infonce"
        if self.contrast:
            _check_contrast(head)
        if c.backbone not in READERS[c.source]:
            raise UserError(
                f"config.data.backbone is {c.backbone!r}, which cannot read {c.source!r}; set it to"
                f" {' or '.join(READERS[c.source])}"
            )
        self.inputs, self.outputs, self.train = _facts(config)
        self.train = train or self.train
        count = config.train.batch
        if self.train < count:
            raise UserError(
                f"{self.train} training examples are fewer than a batch of {count}; lower"
                " train.batch"
            )
        self.compared = (
            Compared("loss", -1.0, "nats") if self.contrast else Compared("score", 1.0, "accuracy")
        )
        self.unit = "rows of features"
        self.words = f"the features are {self.inputs} wide"
        self.example = jax.ShapeDtypeStruct((1, self.inputs), jnp.float32)
        self.batch = {
            "inputs": jax.ShapeDtypeStruct((count, self.inputs), jnp.float32),
            "labels": jax.ShapeDtypeStruct((count,), jnp.int32),
        }

    @property
    def terms(self) -> tuple[Term, ...]:
        """The loss of every head."""
        if self.contrast:
            return (Term("infonce", 1.0, InfoNCE(self.config.head.temperature)),)
        return (Term("cross_entropy", 1.0, CrossEntropy()),)

    @property
    def transforms(self) -> tuple[Views, ...]:
        """What makes two views of a row, where the loss compares some."""
        return (Views(self.config.head.dropout),) if self.contrast else ()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; the remainder of the examples is left out."""
        return self.train // self.config.train.batch

    def load(self, cache: pathlib.Path) -> tuple[Task, Data]:
        """(the task with the data's own number of training examples, the features). Raises
        UserError for missing data, or features of another width or number of classes.

        Only few-shot episodes differ between seeds: those of a search come from other alphabets
        than those of the seeds.
        """
        c = self.config.data
        cache = local(c.cache) if c.cache else cache
        source = read(self.config, cache)
        # few-shot: by the background alphabets, since an episode is too small
        scaled = _scaled(with_backbone(source, c.backbone, c.size, cache), c.standardise)

        def of(seed: int) -> DataSet:
            if c.source != "omniglot":
                return scaled
            return episode(scaled, seed, ways=c.ways, shots=c.shots, key=self.config.seed)

        data = of(0)
        self._check(data)
        facts = {
            "name": data.name,
            "sha256": data.sha256,
            "note": data.note,
            "train_examples": len(data.train.y),
            "validation_examples": len(data.validation.y),
            "eval_examples": len(data.test.y),
        }
        return Task(self.config, len(data.train.y)), Data(
            lambda seed: self._sets(of(seed)),
            {
                "metric": "loss" if self.contrast else "accuracy",
                "higher_is_better": not self.contrast,
                "chance": None if self.contrast else 1 / self.outputs,
                "data": facts,
            },
            apart=c.source == "omniglot",
        )

    def _check(self, data: DataSet) -> None:
        if data.train.x.shape[1] != self.inputs:
            raise UserError(
                f"the features are {data.train.x.shape[1]} wide and the config says {self.inputs};"
                " set data.backbone or data.width right"
            )
        largest = max(int(part.y.max()) for part in (data.train, data.validation, data.test))
        unlike = len(data.classes) != self.outputs or largest >= self.outputs
        if unlike and not self.contrast:
            raise UserError(
                f"{data.name} has {len(data.classes)} classes, labels up to {largest}, and the"
                f" config says {self.outputs}; set data.classes right, or to 0 where the source is"
                " known"
            )

    def _sets(self, data: DataSet) -> Sets:
        examples = {"inputs": jnp.asarray(data.train.x), "labels": jnp.asarray(data.train.y)}
        held = [self._held(part) for part in (data.validation, data.test)]
        return Sets({"all": examples}, *held)

    def _held(self, part: Labelled) -> HeldClasses | HeldViews:
        if not self.contrast:
            return HeldClasses(part.x, part.y, "score")
        key = jax.random.fold_in(jax.random.key(self.config.seed), 7)
        head = self.config.head
        return HeldViews(part.x, self.config.train.batch, head.temperature, head.dropout, key)

    def value(self, scores: dict[str, float]) -> float:
        """Accuracy, or the loss where there are no labels."""
        return scores[self.compared.key]

    def costs(self, net: Network, variables: Variables, repeats: int) -> dict[str, Any]:
        """See `costs.network_costs`."""
        return network_costs(net, variables, self.example, repeats=repeats)


def _check_contrast(head: Any) -> None:
    if head.outputs < 1 or not 0 < head.dropout < 1 or head.temperature <= 0:
        raise UserError(
            f"infonce with config.head.outputs = {head.outputs}, dropout = {head.dropout:g},"
            f" temperature = {head.temperature:g}; give outputs of 1 or more, a rate in (0, 1) and"
            " a temperature above 0"
        )


def _facts(config: Any) -> tuple[int, int, int]:
    """(width of the features, outputs, training examples) as the config alone says. Raises
    UserError where it says too little.
    """
    c, few = config.data, config.data.source == "omniglot"
    inputs, classes, train = SOURCES[c.source]
    inputs = BACKBONES[c.backbone] or c.width or inputs
    outputs = c.ways if few else c.classes or classes
    outputs = config.head.outputs if config.head.loss == "infonce" else outputs
    if few:
        train = c.ways * c.shots
    else:
        train = min(c.train or train, train) if train else c.train
    if not (inputs and outputs and train):
        raise UserError(
            f"config.data.source = {c.source!r} does not tell the features' width, the classes and"
            " how many examples to train on; set data.backbone or data.width, data.classes and"
            " data.train"
        )
    return inputs, outputs, train


def read(config: Any, cache: pathlib.Path) -> DataSet:
    """The data set that a config names, before its backbone."""
    c = config.data
    limit = (c.train or None, c.validation or None, c.test or None)
    sources: dict[str, Callable[[], DataSet]] = {
        "digits": lambda: _limited(labelled.digits(), limit),
        "cifar10": lambda: labelled.cifar10_jpeg(c.path, cache_dir=cache, limit=limit),
        "bbc": lambda: _limited(labelled.bbc(), limit),
        "omniglot": lambda: labelled.omniglot(c.path),
        "lm_states": lambda: lm_states(c.path, limit, cache),
        "tfds": lambda: labelled.tfds_images(c.dataset, c.path, size=c.size, limit=limit),
    }
    return sources[c.source]()


def _limited(data: DataSet, limit: tuple[int | None, ...]) -> DataSet:
    splits = (data.train, data.validation, data.test)
    parts = [Labelled(part.x[:count], part.y[:count]) for part, count in zip(splits, limit)]
    return data._replace(train=parts[0], validation=parts[1], test=parts[2])


def with_backbone(data: DataSet, backbone: str, size: int, cache: pathlib.Path) -> DataSet:
    """What a frozen backbone makes of every example, (N, I) float32, or the examples made flat."""
    readers = {
        "efficientnet_lite0": lambda: features.efficientnet_lite0_backbone(size),
        "minilm": features.minilm_backbone,
    }
    if backbone != "none":
        return features.cached_features(data, readers[backbone](), cache_dir=cache)

    def flat(part: Labelled) -> Labelled:
        scale = 255.0 if part.x.dtype == np.uint8 else 1.0
        return Labelled((part.x.reshape(len(part.x), -1) / scale).astype(np.float32), part.y)

    return data._replace(
        train=flat(data.train), validation=flat(data.validation), test=flat(data.test)
    )


def _scaled(data: DataSet, standardise: bool) -> DataSet:
    """Every feature with the training split's mean 0 and deviation 1; a constant one becomes 0."""
    if not standardise:
        return data
    mean, deviation = data.train.x.mean(0), data.train.x.std(0)
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    parts = [
        Labelled(((part.x - mean) * scale).astype(np.float32), part.y)
        for part in (data.train, data.validation, data.test)
    ]
    return data._replace(train=parts[0], validation=parts[1], test=parts[2])
