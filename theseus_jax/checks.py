"""Values of a config that can be judged one by one."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from theseus_jax.errors import UserError


def lookup(config: Any, path: str) -> Any:
    """The value at a dotted path of a config."""
    for key in path.split("."):
        config = config[key]
    return config


def check_values(
    config: Any,
    choices: Mapping[str, Sequence[str]],
    positive: Sequence[str] = (),
    counts: Sequence[str] = (),
) -> None:
    """Raises UserError, one line, for the first value that is none of its choices, is not at least
    1 (positive), or is below 0 (counts).
    """
    for path, allowed in choices.items():
        if lookup(config, path) not in allowed:
            raise UserError(
                f"config.{path} is {lookup(config, path)!r}; choose one of {', '.join(allowed)}"
            )
    for paths, least in ((positive, 1), (counts, 0)):
        for path in paths:
            if lookup(config, path) < least:
                raise UserError(
                    f"config.{path} is {lookup(config, path)}; it must be at least {least}"
                )
