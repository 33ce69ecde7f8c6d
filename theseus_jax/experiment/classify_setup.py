"""Config -> the networks of a classifier's conversion. Nothing here reads data or computes."""
from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.data.augment import Augment
from theseus_jax.errors import UserError
from theseus_jax.experiment.checks import check_values
from theseus_jax.experiment.plans import Case, check_conversion, check_samples
from theseus_jax.methods import convert
from theseus_jax.methods.recalibrate import GUIDE_MODES, batch_mode
from theseus_jax.nets import zoo
from theseus_jax.nets.norms import NORMS
from theseus_jax.nets.stage import Network
from theseus_jax.similarity import METRICS

PRETRAINED = ("efficientnet_lite0", "minilm", "mobilenet_v2", "vgg16")
FILES = ("resnet18", "resnet34", "resnet50", "vit")
NETWORK_CHOICES = {"arch": zoo.ARCHITECTURES, "norm": NORMS, "stem": ("cifar", "imagenet"), "read": ("class", "mean", "distilled")}
CHOICES = {
    "task": ("classification",),
    "data.source": ("digits", "fashion_mnist", "cifar10", "folder", "tfds", "bbc", "tfds_text"),
    "guide.origin": ("trained", "untrained", "pretrained", "file"), "guide.mode": GUIDE_MODES,
    "convert.samples": ("tokens", "sequences", "pooled"), "convert.train_inherited": ("stage", "frozen"),
    "convert.stitch": ("ridge", "none"), "convert.schedule": convert.SCHEDULES,
    "convert.metric": tuple(name for name, entry in METRICS.items() if entry.differentiable),
    **{f"{side}.{key}": values for side in ("guide", "target") for key, values in NETWORK_CHOICES.items()},
}
POSITIVE = ("seeds", "data.channels", "train.batch", "train.chunk", "convert.steps", "convert.neighbours",
            "report.latency_repeats")
SOURCES = {"digits": ((8, 8, 1), 10), "fashion_mnist": ((28, 28, 1), 10), "cifar10": ((32, 32, 3), 10)}
TEXTS = {"bbc": 5, "tfds_text": 0}


class Facts(NamedTuple):
    """What a config alone says of its data."""

    reading: zoo.Reading
    classes: int


def facts_of(config: Any) -> Facts:
    """Shapes and classes of a config's data. Raises UserError where it says too little."""
    c = config.data
    if c.source in TEXTS:
        shape, classes = (c.tokens,), TEXTS[c.source] or c.classes
    else:
        shape, classes = SOURCES.get(c.source, ((c.size, c.size, c.channels), c.classes))
    if min(shape) < 1 or classes < 2:
        raise UserError(f"config.data.source = {c.source!r} does not tell the examples' shape {shape} and {classes} classes; set "
                        "data.size or data.tokens, and data.classes")
    if len(shape) == 1:
        return Facts(zoo.Reading(shape), classes)
    scale = []
    for name in ("mean", "deviation"):
        given = tuple(c[name])
        if len(given) not in (1, shape[-1]):
            raise UserError(f"config.data.{name} has {len(given)} numbers for {shape[-1]} channels; give one, or one each")
        scale.append(given * shape[-1] if len(given) == 1 else given)
    return Facts(zoo.Reading(shape, *scale), classes)


def check(config: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    check_values(config, CHOICES, POSITIVE)
    check_conversion(config)
    g, d = config.guide, config.data
    if g.origin == "pretrained" and g.arch not in PRETRAINED:
        raise UserError(f"config.guide.arch is {g.arch!r}, of which no weights are packaged; choose one of {', '.join(PRETRAINED)}, "
                        "or another guide.origin")
    if g.origin == "file" and g.arch not in FILES:
        raise UserError(f"config.guide.arch is {g.arch!r}, which is not read from files; choose one of {', '.join(FILES)}")
    if config.train.remember and (d.crop or d.flip or d.mixup):
        raise UserError("config.train.remember keeps the guide's activations of images that never change, and data.crop, flip or "
                        "mixup change them; turn one of the two off")
    if d.source in TEXTS and (d.crop or d.flip or d.mixup):
        raise UserError(f"config.data.source is {d.source!r}: texts are not cropped, flipped or mixed; set data.crop, flip and "
                        "mixup to 0")
    if "head" in tuple(config.convert.inherit) and g.origin == "untrained":
        raise UserError("config.convert.inherit has the head of an untrained guide; leave it out")


def architecture(section: Any) -> zoo.Architecture:
    """The architecture that a config's section names."""
    given = {field.name: section[field.name] for field in dataclasses.fields(zoo.Architecture)}
    return zoo.Architecture(**given | {"keep": tuple(section.keep)})


def build_guide(config: Any) -> Network:
    """The guide network of a config, in the declared mode of its batch norm if it is untrained."""
    facts = facts_of(config)
    net = zoo.build(architecture(config.guide), facts.reading, facts.classes)
    if config.guide.origin == "untrained" and config.guide.mode == "batch":
        return batch_mode(net, zoo.example(facts.reading))
    return net


def build_target(config: Any) -> Network:
    """The target network of a config."""
    facts = facts_of(config)
    return zoo.build(architecture(config.target), facts.reading, facts.classes)


def augmentation(config: Any) -> Augment | None:
    """What is done to training images, or None for nothing."""
    d = config.data
    if not (d.crop or d.flip or d.mixup):
        return None
    return Augment(d.crop, d.flip, d.mixup, facts_of(config).classes)


def case(config: Any) -> Case:
    """Both networks of a checked config and what they read. Raises UserError."""
    check(config)
    facts, count = facts_of(config), config.train.batch
    one = zoo.example(facts.reading)
    inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), one)
    batch = {"inputs": inputs, "labels": jax.ShapeDtypeStruct((count,), jnp.int32)}
    made = Case(build_guide(config), build_target(config), one, batch,
                f"the guide is {config.guide.arch} and the target {config.target.arch}", augmentation(config))
    tokens = count * math.prod(facts.reading.shape[:2] if len(facts.reading.shape) == 3 else facts.reading.shape)
    check_samples(config, {"tokens": tokens, "sequences": count, "pooled": count})
    return made
