"""Methods: what is compared, each arm with a printable plan of phases; none owns a loop.

A method is one module: `sections(task)`, its part of the config beside the task's module;
`arms(config, task)`, the models that a run compares; and, where it has more to say,
`outline(config, task)`, lines of plan.txt, and `results(finished)`, what it adds to results.json.
`config.method` names one of MODULES, or a module of your own that can be imported.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from theseus_jax.errors import UserError
from theseus_jax.methods import baselines, convert, glai, probes, surgery

__all__ = ["baselines", "convert", "glai", "module", "probes", "surgery"]
MODULES = {"convert": "conversion", "glai": "glai.arms"}


def module(name: str) -> ModuleType:
    """The module of a method. Raises UserError for one that there is not."""
    inside = MODULES.get(name)
    try:
        return importlib.import_module(f"theseus_jax.methods.{inside}" if inside else name)
    except (ModuleNotFoundError, ValueError) as error:
        raise UserError(
            f"config.method is {name!r}; choose one of {', '.join(MODULES)}, or name a module of"
            f" your own that can be imported ({error})"
        ) from error
