"""The config.json beside weights, as save_pretrained leaves it: sizes are read, and a setting that
a network does not have is refused by name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from theseus_jax.errors import UserError
from theseus_jax.paths import local

# say nothing of what the network computes
HARMLESS = {
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "model_type",
    "name_or_path",
    "_name_or_path",
    "num_labels",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}
OFF = (None, False, 0, 0.0, "", [], {})


class Family(NamedTuple):
    """What a kind of network reads of config.json. name: in errors. sizes: {key: the network's
    argument}. needed: sizes without which nothing can be read. fixed: {key: the values that the
    network has}. harmless: keys that change nothing here, such as dropout.
    """

    name: str
    sizes: Mapping[str, str]
    needed: tuple[str, ...]
    fixed: Mapping[str, tuple[Any, ...]]
    harmless: frozenset[str]


def beside(path: str | os.PathLike) -> Path | None:
    """config.json in a folder of weights, or next to a file of them; None where there is none."""
    source = local(path)
    file = (source if source.is_dir() else source.parent) / "config.json"
    return file if file.is_file() else None


def read_settings(file: Path) -> dict[str, Any]:
    """The content of a config.json. Raises UserError for one that is no JSON object."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); save the model again with save_pretrained"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object; save the model again with save_pretrained")
    return found


def sizes_of(file: Path, family: Family) -> dict[str, Any]:
    """{argument of the network: value} of a config.json.

    Raises UserError for a missing size, a setting with another value than the network has, and one
    that it does not know, unless that is off.
    """
    given = read_settings(file)
    missing = [key for key in family.needed if given.get(key) is None]
    if missing:
        raise UserError(f"{file} has no {missing[0]}, which a {family.name} needs; add it")
    for key, values in family.fixed.items():
        if key in given and given[key] not in values:
            raise UserError(
                f"{file} has {key} = {given[key]!r}, and this {family.name} has"
                f" {' or '.join(map(repr, values))}; give a model of that kind"
            )
    known = {*family.sizes, *family.fixed, *family.harmless, *HARMLESS}
    unknown = [key for key, value in given.items() if key not in known and value not in OFF]
    if unknown:
        key = unknown[0]
        raise UserError(
            f"{file} has the setting {key} = {str(given[key])[:60]}, which this {family.name} does"
            " not know; give a model without it"
        )
    return {name: given[key] for key, name in family.sizes.items() if given.get(key) is not None}


def agree(path: str | os.PathLike, family: Family, wanted: Mapping[str, Any]) -> None:
    """Raises UserError where a config.json beside weights asks for another network than `wanted`,
    the network's arguments by name.
    """
    file = beside(path)
    if file is None:
        return
    found = sizes_of(file, family)
    keys = {name: key for key, name in family.sizes.items()}
    for name, value in found.items():
        if name in wanted and wanted[name] != value:
            raise UserError(
                f"{file} has {keys[name]} = {value!r}, and the network was given {name} ="
                f" {wanted[name]!r}; give {name} = {value!r}"
            )
