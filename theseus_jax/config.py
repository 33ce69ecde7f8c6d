"""Configs: a task's and a method's sections together, with defaults and units beside the code that
reads them. Only tasks, methods and `experiment` read one.
"""

from __future__ import annotations

import json
from typing import Any

from theseus_jax import methods, tasks
from theseus_jax.errors import UserError

# what the engine itself reads, where a method says nothing else
ENGINE = {
    "train": {
        "batch": 32,  # examples
        "save_seconds": 120.0,  # between checkpoints inside a phase
    },
    "report": {"latency_repeats": 30},
}


def base(task: str = "language_model", method: str = "") -> Any:
    """A ConfigDict with every key that a run of this task and method reads; types are fixed by the
    defaults.

    task: "language_model", "classification" or "head", or a module of your own (`tasks`). method:
    "convert" or "glai", or a module of your own (`methods`); "": the task's usual one. Raises
    UserError for another task or method, and for two that do not fit each other.
    """
    from ml_collections import ConfigDict

    source = tasks.module(task)
    method = method or getattr(source, "METHOD", "")
    if not method:
        raise UserError(f"the task {task!r} has no usual method; give base({task!r}, METHOD)")
    way = methods.module(method)
    config = ConfigDict()
    config.task, config.method = task, method
    config.smoke = False  # so short a run that its numbers mean nothing, which its report then says
    config.seed = 0  # the run's one key
    config.seeds = getattr(way, "SEEDS", 3)
    theirs, ours = source.sections(), way.sections(source)
    twice = [
        f"{name}.{key}"
        for name, part in ours.items()
        for key in (part if isinstance(part, dict) else ())
        if key in theirs.get(name, {})
    ]
    twice += [name for name in ours if name in ("task", "method", "smoke", "seed", "seeds")]
    if twice:
        raise UserError(
            f"both task {task!r} and method {method!r} have the key {twice[0]}; rename one of them"
        )
    for part in (ENGINE, theirs, ours):
        for name, content in part.items():
            if isinstance(content, dict):
                config[name] = ConfigDict({**config.get(name, {}), **content})
            else:
                config[name] = content
    return config.lock()  # a mistyped key is refused where it is written


def missing_keys(config: Any) -> list[str]:
    """The keys of `base(config.task, config.method)` that a config has not."""
    known = base(config.task, config.method).to_dict()
    there = set(_paths(config.to_dict()))
    return [path for path in _paths(known) if path not in there]


def _paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for key, value in tree.items():
        inside = isinstance(value, dict)
        paths += _paths(value, f"{prefix}{key}.") if inside else [prefix + key]
    return paths


def preset(name: str | None, choices: dict[str, Any]) -> Any:
    """The config that preset `name` (None or "": the default) builds, told whether it is the smoke
    preset.

    Raises UserError naming the presets.
    """
    key = name or "default"
    if key not in choices:
        raise UserError(f"there is no preset {key!r}; choose from {', '.join(choices)}")
    made = choices[key]()
    made.smoke = key == "smoke"
    return made


RATES = {
    "scratch_rate": "from_scratch",
    **{
        f"{name}_rate": name
        for name in (
            "distilled",
            "one_shot",
            "one_shot_distilled",
            "fitnets",
            "theseus",
            "ted",
            "supervised",
        )
    },
}
# keys that are gone, left out where they switched nothing on (None: whatever they say)
GONE = {
    "report": {"slack": 0.0},
    "convert": {
        "task_weight": 0.0,
        "kl_weight": 0.0,
        "stop_every": 0,
        "stop_gain": None,
        "stop_patience": None,
    },
}


def current(known: dict[str, Any]) -> dict[str, Any]:
    """An earlier version's config in today's keys: those that moved where they are now, those that
    are gone left out, those that it did not have at their defaults.
    """
    known = {name: dict(part) if isinstance(part, dict) else part for name, part in known.items()}
    controls = known.get("controls", {})
    moved = {new: controls.pop(old) for old, new in RATES.items() if old in controls}
    if moved:
        controls["rates"] = moved
    for name, idle in GONE.items():
        for key, value in idle.items():
            if key in known.get(name, {}) and value in (None, known[name][key]):
                del known[name][key]
    try:
        default = base(known.get("task", "language_model"), known.get("method", ""))
    except UserError:
        return known  # its module is gone: what differs is said all the same
    return _filled(known, json.loads(default.to_json()))


def _filled(known: Any, default: Any) -> Any:
    if not isinstance(known, dict) or not isinstance(default, dict):
        return known
    return {**default, **{key: _filled(value, default.get(key)) for key, value in known.items()}}


def stored_config(text: str) -> Any:
    """The ConfigDict of a checkpoint's JSON text, of this version or an earlier one."""
    known = current(json.loads(text))
    config = base(known["task"], known["method"])
    with config.unlocked():
        config.update(known)
    return config
