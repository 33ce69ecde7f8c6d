"""Prepared TensorFlow Datasets, read by index and without TensorFlow."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from theseus_jax.errors import UserError

TFDS_INSTALL = "pip install tensorflow-datasets importlib_resources"


def opened(name: str, data_dir: str | Path, wanted_by: str) -> tuple[ModuleType, Any]:
    """(the package, the features of data set `name`). data_dir: where it was prepared; empty for the package's default.

    Raises UserError for a missing package, naming `wanted_by`, and for an unknown name.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"{wanted_by} needs a package that is missing ({error}); {TFDS_INSTALL}") from error
    try:
        return tfds, tfds.builder(name, data_dir=_directory(data_dir)).info.features
    except ValueError as error:
        raise UserError(f"dataset {name!r} cannot be opened ({first_line(error)}); "
                        "give a name from https://www.tensorflow.org/datasets/catalog") from error


def examples(tfds: ModuleType, name: str, split: str, data_dir: str | Path) -> Any:
    """The examples of one split, a sequence of dicts of numpy arrays. Raises UserError where they are not prepared."""
    directory = _directory(data_dir)
    try:
        return tfds.data_source(name, split=split, data_dir=directory, download=False)
    except (KeyError, ValueError, NotImplementedError, FileNotFoundError) as error:  # tfds raises all four for it
        raise UserError(f"split {split!r} of {name!r} is not prepared for random access in "
                        f"{directory or 'the default directory'} ({first_line(error)}); prepare it where there is a "
                        f'network: {TFDS_INSTALL} && python -c "import tensorflow_datasets as tfds; '
                        f'tfds.data_source({name!r}, data_dir={directory!r})"') from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _directory(data_dir: str | Path) -> str | None:
    return str(Path(data_dir).expanduser()) if str(data_dir) else None
