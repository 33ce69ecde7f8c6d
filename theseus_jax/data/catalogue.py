"""Prepared TensorFlow Datasets, read by index and without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Sequence

from theseus_jax.errors import UserError
from theseus_jax.paths import local

TFDS_INSTALL = "pip install tensorflow-datasets importlib_resources"


class Published(NamedTuple):
    """A classification set in its published splits: training first, test last, and validation
    between where there is one.

    examples: of each split, a sequence of dicts of numpy arrays. inputs: the name of the feature
    that is meant as the input ("" where the set tells none). classes: the names of the label's
    classes.
    """

    splits: tuple[str, ...]
    examples: tuple[Any, ...]
    inputs: str
    classes: tuple[str, ...]


def opened(name: str, data_dir: str | Path, wanted_by: str) -> tuple[ModuleType, Any]:
    """(the package, the features of data set `name`). data_dir: where it was prepared; empty for
    the package's default.

    Raises UserError for a missing package, naming `wanted_by`, and for an unknown name.
    """
    tfds, information = _information(name, data_dir, wanted_by)
    return tfds, information.features


def published(
    name: str, data_dir: str | Path, splits: Sequence[str], label_key: str, wanted_by: str
) -> Published:
    """The splits of a prepared classification set. splits: two or three names; empty: chosen from
    those that there are.

    Chosen are "train", and "validation" and "test" as far as they are there with labels: ImageNet's
    test split has none (-1 stands for them), so its published validation split is the test split.
    Raises UserError for what `opened` and `examples` refuse, a `label_key` that is no ClassLabel,
    or splits that do not do.
    """
    tfds, information = _information(name, data_dir, wanted_by)
    feature(tfds, information.features, name, label_key, "ClassLabel", "label_key")
    # Without prepared data no names are known; reading these two tells what is missing
    there = list(information.splits) or ["train", "test"]
    chosen = {
        split: examples(tfds, name, split, data_dir)
        for split in splits or ("train", "validation", "test")
        if splits or split in there
    }
    if not splits:
        chosen = {
            split: rows
            for split, rows in chosen.items()
            if len(rows) and int(rows[0][label_key]) >= 0
        }
    if len(chosen) not in (2, 3) or not (splits or "train" in chosen):
        raise UserError(
            f"splits is {tuple(splits)} and dataset {name!r} has {', '.join(there)}, with labels in"
            f" {', '.join(chosen) or 'none'}; set splits to those for training and test, or three"
            " names with validation between them"
        )
    return Published(
        tuple(chosen),
        tuple(chosen.values()),
        (information.supervised_keys or ("",))[0],
        tuple(information.features[label_key].names),
    )


def feature(tfds: ModuleType, features: Any, name: str, key: str, kind: str, setting: str) -> Any:
    """The feature `key` of data set `name`. Raises UserError unless it is of the class
    tfds.features.`kind`.
    """
    if key not in features or not isinstance(features[key], getattr(tfds.features, kind)):
        raise UserError(
            f"dataset {name!r} has no {kind} {key!r} among {sorted(features)}; set {setting}"
        )
    return features[key]


def examples(tfds: ModuleType, name: str, split: str, data_dir: str | Path) -> Any:
    """The examples of one split, a sequence of dicts of numpy arrays. Raises UserError where they
    are not prepared.
    """
    directory = _directory(data_dir)
    try:
        return tfds.data_source(name, split=split, data_dir=directory, download=False)
    # Nothing is swallowed: which of the four tfds raises for data that are not there depends on
    # what is missing (the split, the folder, a format for random access), and each goes on as a
    # UserError that says what to type
    except (KeyError, ValueError, NotImplementedError, FileNotFoundError) as error:
        raise UserError(
            f"split {split!r} of {name!r} is not prepared for random access in "
            f"{directory or 'the default directory'} ({first_line(error)}); prepare it where there"
            " is a "
            f'network: {TFDS_INSTALL} && python -c "import tensorflow_datasets as tfds; '
            f'tfds.data_source({name!r}, data_dir={directory!r})"'
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _information(name: str, data_dir: str | Path, wanted_by: str) -> tuple[ModuleType, Any]:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"{wanted_by} needs a package that is missing ({error}); {TFDS_INSTALL}"
        ) from error
    try:
        return tfds, tfds.builder(name, data_dir=_directory(data_dir)).info
    except ValueError as error:
        raise UserError(
            f"dataset {name!r} cannot be opened ({first_line(error)}); "
            "give a name from https://www.tensorflow.org/datasets/catalog"
        ) from error


def _directory(data_dir: str | Path) -> str | None:
    return str(local(data_dir)) if str(data_dir) else None
