"""What a folder of weights says of a classification's guide: its sizes and its inputs' scale."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Callable

from theseus_jax.errors import UserError
from theseus_jax.nets import zoo
from theseus_jax.nets.weights.bert import bert_sizes
from theseus_jax.nets.weights.resnet import resnet_sizes
from theseus_jax.nets.weights.settings import beside, read_settings
from theseus_jax.nets.weights.vit import vit_sizes

LEVELS = 255.0


def _resnet(file: Path) -> dict[str, Any]:
    found = resnet_sizes(file)
    return {"arch": f"resnet{found.pop('depth')}", **found}


def _vit(file: Path) -> dict[str, Any]:
    found = vit_sizes(file)
    return {"arch": "vit", "size": found.pop("image"), **found}


def _bert(file: Path) -> dict[str, Any]:
    found = bert_sizes(file)
    return {"arch": "minilm"} | {key: found[key] for key in ("width", "depth", "heads", "hidden")}


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "resnet": _resnet,
    "vit": _vit,
    "deit": _vit,
    "bert": _bert,
}


def _folder(config: Any) -> Path | None:
    """config.json of the guide, where it is read from a folder that has one."""
    guide = config.guide if "guide" in config else {}
    return beside(guide.weights) if guide.get("origin") == "file" and guide.weights else None


def sizes(config: Any) -> dict[str, Any]:
    """The architecture and the sizes of a guide that comes from a folder, by its config.json, in
    the words of `zoo.Architecture`; {} for any other. Raises UserError where config.guide asks for
    other ones, and for a kind that is not read.
    """
    file = _folder(config)
    if file is None:
        return {}
    kind = read_settings(file).get("model_type")
    if kind not in KINDS:
        raise UserError(
            f"{file} has model_type = {kind!r}, and classifications read {', '.join(KINDS)}; give"
            " one of those"
        )
    usual = zoo.Architecture(arch="mlp")
    found = KINDS[kind](file)
    for name, value in found.items():
        given = config.guide[name]
        if given not in (getattr(usual, name), value):
            raise UserError(
                f"config.guide.{name} is {given!r}, and {file} says {value!r}; leave"
                f" config.guide.{name} out"
            )
    return found


def scale(config: Any) -> dict[str, tuple[float, ...]]:
    """{"mean", "deviation"} in levels of the images that such a guide was trained on, by the
    preprocessor_config.json beside; {} where none tells. Raises UserError where config.data says
    other ones.
    """
    file = _folder(config)
    file = file and file.with_name("preprocessor_config.json")
    if file is None or not file.is_file():
        return {}
    given, found = read_settings(file), {}
    factor = given.get("rescale_factor", 1 / LEVELS) if given.get("do_rescale", True) else 1.0
    if given.get("do_normalize", True) is False:  # rescaled alone
        given = {"image_mean": (0.0,), "image_std": (1.0,)}
    for name, key in (("mean", "image_mean"), ("deviation", "image_std")):
        if key not in given:
            continue
        levels = tuple(float(value) / factor for value in given[key])
        ours = tuple(config.data[name])
        whole = ours * len(levels) if len(ours) == 1 else ours
        usual = (127.5,) * len(levels)
        near = len(whole) == len(levels) and all(abs(a - b) < 0.1 for a, b in zip(whole, levels))
        if whole != usual and not near:
            raise UserError(
                f"config.data.{name} is {ours}, and {file} says"
                f" ({', '.join(f'{value:.3f}' for value in levels)}); leave config.data.{name} out"
            )
        found[name] = levels
    return found


def settled(config: Any) -> Any:
    """The config with what a folder says in it, as of a guide that is not read again."""
    found = sizes(config)
    if not found:
        return config
    made, levels = copy.deepcopy(config), scale(config)
    with made.unlocked():
        for section, values in ((made.guide, found), (made.data, levels)):
            for name, value in values.items():
                section[name] = value
        made.guide.origin, made.guide.weights = "untrained", ""
    return made
