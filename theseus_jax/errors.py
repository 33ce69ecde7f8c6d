"""The user's mistakes: one clear line, naming what was given and the remedy."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Iterable


class UserError(ValueError):
    """A mistake in a config, a path, a shape or a pair of networks; the launcher prints it and
    exits with 2.

    The message is one line: what was given, what was expected, what to do.
    """


class Diverged(UserError):
    """A loss that is no longer finite: the setting is at fault, which a search may pass over.

    phase, step: its index in the plan, and the step of it.
    """

    def __init__(self, message: str, phase: int = 0, step: int = 0) -> None:
        super().__init__(message)
        self.phase, self.step = phase, step


def module_of(key: str, name: str, inside: str, choices: Iterable[str]) -> ModuleType:
    """The module that config.<key> names; inside: where it is, for one of `choices`. Raises
    UserError for one that there is not, or that cannot be imported.
    """
    try:
        return importlib.import_module(inside or name)
    except Exception as error:  # whatever a user's module does when it is run
        missing = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or " ")
        if missing or not name or name.startswith("."):
            raise UserError(
                f"config.{key} is {name!r}; choose one of {', '.join(choices)}, or name a module of"
                " your own whose folder is on PYTHONPATH"
            ) from error
        place = getattr(error, "filename", None)
        where = f" ({place}, line {error.lineno})" if isinstance(error, SyntaxError) else ""
        raise UserError(
            f"config.{key} is {name!r}, whose module cannot be imported: {type(error).__name__}:"
            f" {error}{where}; mend it"
        ) from error


def root_of(error: BaseException) -> str:
    """The root of an exception chain in one line: orbax hides it below a list of its handlers."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    text = " ".join(f"{type(error).__name__}: {error}".partition("[tensorstore_spec=")[0].split())
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"
