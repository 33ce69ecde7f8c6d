"""The labelled examples of a classification: one source, three splits, and the share that conversion may use."""
from __future__ import annotations

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from theseus_jax.data import labelled, pictures
from theseus_jax.data.labelled import DataSet, Labelled
from theseus_jax.errors import UserError
from theseus_jax.experiment.classify_setup import Facts
from theseus_jax.nets.stage import Masked


def load(config: Any, cache: pathlib.Path, facts: Facts) -> DataSet:
    """The data set that a config names, as it was promised to the networks. Raises UserError for missing or other data."""
    c = config.data
    limit = (c.train or None, c.validation or None, c.test or None)
    sources = {
        "digits": lambda: labelled.digits(image=True, limit=limit),
        "fashion_mnist": lambda: pictures.fashion_mnist(c.path, limit=limit),
        "cifar10": lambda: labelled.cifar10_jpeg(c.path, cache_dir=pathlib.Path(c.cache) if c.cache else cache, limit=limit),
        "folder": lambda: pictures.image_folder(c.path, c.size, mode="L" if c.channels == 1 else "RGB", limit=limit),
        "tfds": lambda: labelled.tfds_images(c.dataset, c.path, size=c.size or None, limit=limit),
        "bbc": lambda: labelled.bbc(tokens=c.tokens, limit=limit),
        "tfds_text": lambda: labelled.tfds_texts(c.dataset, c.path, tokens=c.tokens, limit=limit)}
    data = sources[c.source]()
    shape = data.train.x.shape[2:] if data.train.x.ndim == 3 else data.train.x.shape[1:]
    if shape != facts.reading.shape or len(data.classes) != facts.classes:
        raise UserError(f"{data.name} has examples {shape} in {len(data.classes)} classes and the config says "
                        f"{facts.reading.shape} in {facts.classes}; set data.size, data.channels and data.classes to those")
    return data


def share_of(config: Any, data: DataSet) -> DataSet:
    """The data set with the training examples that conversion and controls may use. Raises UserError for too large a share."""
    return labelled.subset(data, config.data.share, config.seed) if config.data.share else data


def inputs(x: np.ndarray) -> Any:
    """What the networks read: images as they are, or ids and mask (N, 2, T) as a `Masked`."""
    return jnp.asarray(x) if x.ndim == 4 else Masked(jnp.asarray(x[:, 0]), jnp.asarray(x[:, 1]))


def unlabelled(labelled_examples: dict[str, Any]) -> dict[str, Any]:
    """The same inputs with labels of no class."""
    return {"inputs": labelled_examples["inputs"], "labels": jnp.full_like(labelled_examples["labels"], -1)}


def examples(part: Labelled) -> dict[str, Any]:
    """A split as `train.fit` takes it."""
    return {"inputs": inputs(part.x), "labels": jnp.asarray(part.y)}
