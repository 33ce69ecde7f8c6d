"""Labelled classification of images or texts: data sets, networks of the zoo, accuracy."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.checks import ABOVE, PART, check_values
from theseus_jax.data import labelled, pictures
from theseus_jax.data.augment import Augment
from theseus_jax.data.dataset import DataSet, Labelled, subset
from theseus_jax.errors import UserError
from theseus_jax.methods.guide_modes import batch_mode
from theseus_jax.nets import zoo
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.paths import local
from theseus_jax.tasks import Compared, Data, Sets, guide_folders, pretrained
from theseus_jax.tasks.costs import network_costs
from theseus_jax.tasks.held import HeldClasses

LOG = logging.getLogger("theseus_jax")
METHOD = "convert"
SOURCES = {
    "digits": ((8, 8, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
}
TEXTS = {"bbc": 5, "tfds_text": 0}
CHOICES = {"data.source": (*SOURCES, "folder", "tfds", *TEXTS)}
POSITIVE = ("data.channels",)
RANGES = {"data.deviation": ABOVE, **{f"{side}.dropout": PART for side in ("guide", "target")}}
# what methods take where the config does not say otherwise
USUAL = {
    "batch": 128,
    "guide_steps": 1000,
    "samples": "sequences",
    "inherit": (),
    "hybrid_examples": 1000,
    "guide_table": True,
    "cures": ("baseline_norm",),
}


def sections() -> dict[str, dict[str, Any]]:
    """The task's part of a config, with defaults and units."""
    data = {
        "source": "digits",  # digits | fashion_mnist | cifar10 | folder | tfds | bbc | tfds_text
        "path": "",  # fashion_mnist, folder: the folder; cifar10: the npz; tfds: its data_dir
        "dataset": "",  # tfds, tfds_text: the data set's name
        "size": 0,  # folder, tfds: pixels a side that images are resized to when they are read
        "channels": 3,  # folder, tfds: 3 or 1
        "classes": 0,  # folder, tfds: how many
        "tokens": 64,  # bbc, tfds_text: word pieces a text
        "cache": "",  # folder of decoded images; empty: inside the workdir
        "train": 0,  # examples; 0: all
        "validation": 0,
        "test": 0,
        "share": 0,  # training examples, stratified, that conversion and controls may use; 0: all
        "unlabelled": False,  # arms whose losses read no labels may use all, without labels
        "mean": (127.5,),  # levels, one for all channels or one each
        "deviation": (127.5,),
        "crop": 0,  # pixels of padding before a random crop
        "flip": False,  # left to right, at random
        "mixup": 0.0,  # Beta's parameter; 0: none
    }
    report = {
        "probe": False  # also fit a linear probe on every network's features, and compare these
    }
    return {"data": data, "report": report}


def _architecture() -> dict[str, Any]:
    """A name of nets.zoo.ARCHITECTURES and every size that some have; see zoo.Architecture."""
    sizes = dataclasses.fields(zoo.Architecture)[1:]
    return {"arch": "mlp", **{field.name: field.default for field in sizes}}


def sizes() -> dict[str, dict[str, Any]]:
    """The sizes of a guide and of a target, and how a guide that is not trained here begins."""
    mode = {"mode": "identity"}  # untrained: batch norm's identity | batch | calibrated
    return {"guide": _architecture() | mode, "target": _architecture()}


def reading_of(config: Any) -> tuple[zoo.Reading, int]:
    """(what networks read, classes), as a config alone says. Raises UserError where it says too
    little.
    """
    c = config.data
    if c.source in TEXTS:
        shape, classes = (c.tokens,), TEXTS[c.source] or c.classes
    else:
        shape, classes = SOURCES.get(c.source, ((c.size, c.size, c.channels), c.classes))
    if min(shape) < 1 or classes < 2:
        raise UserError(
            f"config.data.source = {c.source!r} does not tell the examples' shape {shape} and"
            f" {classes} classes; set data.size or data.tokens, and data.classes"
        )
    if len(shape) == 1:
        return zoo.Reading(shape), classes
    scale, told = [], guide_folders.scale(config)
    for name in ("mean", "deviation"):
        levels = tuple(told.get(name, c[name]))
        if len(levels) not in (1, shape[-1]):
            raise UserError(
                f"config.data.{name} has {len(levels)} numbers for {shape[-1]} channels; give one,"
                " or one each"
            )
        scale.append(levels * shape[-1] if len(levels) == 1 else levels)
    return zoo.Reading(shape, *scale), classes


class Task:
    """A checked config's classification."""

    compared = Compared("accuracy", 1.0, "accuracy")
    unit = "examples"

    def __init__(self, config: Any) -> None:
        check_values(config, CHOICES, POSITIVE)
        data, count = config.data, config.train.batch
        changed = data.crop or data.flip or data.mixup
        if data.source in TEXTS and changed:
            raise UserError(
                f"config.data.source is {data.source!r}: texts are not cropped, flipped or mixed;"
                " set data.crop, flip and mixup to 0"
            )
        self.config = config
        self.reading, self.classes = reading_of(config)
        shape = self.reading.shape
        self.example = zoo.example(self.reading)
        inputs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), self.example
        )
        self.batch = {"inputs": inputs, "labels": jax.ShapeDtypeStruct((count,), jnp.int32)}
        positions = math.prod(shape[:2] if len(shape) == 3 else shape)
        self.samples = {"tokens": count * positions, "sequences": count, "pooled": count}
        augment = Augment(data.crop, data.flip, data.mixup, self.classes)
        self.transforms = (augment,) if changed else ()

    @property
    def words(self) -> str:
        """What is to be learnt, for errors."""
        return f"examples are {self.reading.shape} in {self.classes} classes"

    @property
    def cures(self) -> dict[str, dict[str, Any]]:
        """{arm: sizes of the target that it changes}: what helps a deep plain network by itself."""
        arch = self.config.target.arch
        skips = {"arch": arch.replace("plain", "resnet")} if "plain" in arch else {"residual": True}
        return {"baseline_norm": {"norm": "batch"}, "baseline_residual": skips}

    def pair(self) -> tuple[Network, Network]:
        """The guide and the target, checked. Raises UserError."""
        pretrained.check_pair(self.config)
        return self.guide(), self.target()

    def guide(self) -> Network:
        """The guide, in the declared mode of its batch norm if it is untrained."""
        return self._network("guide")

    def target(self, **changes: Any) -> Network:
        """The target, or one that differs from it in some sizes."""
        return self._network("target", **changes)

    def _network(self, side: str, **changes: Any) -> Network:
        c = self.config[side]
        sizes = {field.name: c[field.name] for field in dataclasses.fields(zoo.Architecture)}
        sizes |= guide_folders.sizes(self.config) if side == "guide" else {}
        architecture = zoo.Architecture(**sizes | {"keep": tuple(c.keep)} | changes)
        net = zoo.build(architecture, self.reading, self.classes)
        if side == "guide" and c.origin == "untrained" and c.mode == "batch":
            return batch_mode(net, self.example)
        return net

    def begin(self, net: Network, fresh: Variables, sets: Sets) -> Variables:
        """The variables (leading seed axis) of a guide that is not trained here. Raises UserError
        for weights of another network, or of other data.
        """
        c, held = self.config.guide, sets.validation
        if c.origin == "untrained":
            inputs = sets.train["all"]["inputs"]
            return pretrained.calibrated(net, fresh, inputs) if c.mode == "calibrated" else fresh
        loaded = pretrained.backbone(self.config)
        if loaded is not None:
            train = sets.train["all"]
            return pretrained.headed(loaded, net, train, held.x, held.y, self.classes)
        variables = pretrained.from_file(self.config, net, self.reading, self.classes)
        loss = float(held.scores(net, variables)["loss"][0])
        if loss > math.log(self.classes):
            raise UserError(
                f"the guide in {c.weights} scores {loss:.2f} nats, worse than guessing"
                f" ({math.log(self.classes):.2f}): its classes or its input's scale are others; set"
                " data.mean and data.deviation to those it was trained with"
            )
        return variables

    def read(self, cache: pathlib.Path) -> DataSet:
        """The data set, as it was promised to the networks. Raises UserError for other data."""
        c = self.config.data
        limit, size = (c.train or None, c.validation or None, c.test or None), c.size or None
        folder, mode = (local(c.cache) if c.cache else cache, ("L" if c.channels == 1 else "RGB"))
        sources = {
            "digits": lambda: labelled.digits(image=True, limit=limit),
            "fashion_mnist": lambda: pictures.fashion_mnist(c.path, limit=limit),
            "cifar10": lambda: labelled.cifar10_jpeg(c.path, cache_dir=folder, limit=limit),
            "folder": lambda: pictures.image_folder(c.path, c.size, mode=mode, limit=limit),
            "tfds": lambda: labelled.tfds_images(c.dataset, c.path, size=size, limit=limit),
            "bbc": lambda: labelled.bbc(tokens=c.tokens, limit=limit),
            "tfds_text": lambda: labelled.tfds_texts(
                c.dataset, c.path, tokens=c.tokens, limit=limit
            ),
        }
        data = sources[c.source]()
        x = data.train.x
        shape = x.shape[2:] if x.ndim == 3 else x.shape[1:]
        if shape != self.reading.shape or len(data.classes) != self.classes:
            raise UserError(
                f"{data.name} has examples {shape} in {len(data.classes)} classes and the config"
                f" says {self.reading.shape} in {self.classes}; set data.size, data.channels and"
                " data.classes to those"
            )
        return data

    def load(self, cache: pathlib.Path) -> tuple[Task, Data]:
        """(itself, its data): "all" training examples, the "share" of them with labels, and what
        losses that read no labels may use, "unlabelled".
        """
        return self, self.divided(self.read(cache))

    def divided(self, data: DataSet) -> Data:
        """A data set as the arms of a run may use it."""
        c = self.config.data
        share = subset(data, c.share, self.config.seed) if c.share else data
        train = {"all": examples(data.train)}
        train["share"] = examples(share.train) if c.share else train["all"]
        if c.unlabelled:
            none = jnp.full_like(train["all"]["labels"], -1)
            train["unlabelled"] = {"inputs": train["all"]["inputs"], "labels": none}
        else:
            train["unlabelled"] = train["share"]
        held = [HeldClasses(inputs(part.x), part.y) for part in (data.validation, data.test)]
        sets = Sets(train, *held)
        facts = {
            "name": data.name,
            "sha256": data.sha256,
            "note": share.note,
            "classes": list(data.classes),
            "train_examples": len(share.train.y),
            "guide_train_examples": len(data.train.y),
            "validation_examples": len(data.validation.y),
            "eval_examples": len(data.test.y),
        }
        most_common = np.bincount(data.train.y).argmax()
        chance = float((data.test.y == most_common).mean())
        return Data(
            lambda seed: sets,
            {"metric": "accuracy", "higher_is_better": True, "chance": chance, "data": facts},
            functools.partial(self._results, sets),
        )

    def _results(self, sets: Sets, finished: Any) -> dict[str, Any]:
        """`pretrained.probe` of every model beside its guide, where the config asks for it."""
        if not self.config.report.probe:
            return {}
        return pretrained.probes(finished, sets, self.classes)

    def settled(self) -> Any:
        """The config as one that needs no folder of a guide any more."""
        return guide_folders.settled(self.config)

    def value(self, scores: dict[str, float]) -> float:
        """Accuracy."""
        return scores["accuracy"]

    def costs(self, net: Network, variables: Variables, repeats: int) -> dict[str, Any]:
        """See `costs.network_costs`."""
        return network_costs(net, variables, self.example, repeats=repeats)


def inputs(x: np.ndarray) -> Any:
    """What networks read: images as they are, or ids and mask (N, 2, T) as a `Masked`."""
    return jnp.asarray(x) if x.ndim == 4 else Masked(jnp.asarray(x[:, 0]), jnp.asarray(x[:, 1]))


def examples(part: Labelled) -> dict[str, Any]:
    """A split as `train.fit` takes it."""
    return {"inputs": inputs(part.x), "labels": jnp.asarray(part.y)}
