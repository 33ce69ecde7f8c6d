"""Methods: what is compared, each arm with a printable plan of phases; none owns a loop.

A method is one module: `sections(task)`, its part of the config beside the task's module;
`arms(config, task)`, the models that a run compares; and, where it has more to say,
`outline(config, task)`, lines of plan.txt, `results(finished)`, what it adds to results.json, and
`RANGES`, those of its keys whose numbers are not just at least 0 (`checks.check_config`).
`config.method` names one of MODULES, or a module of your own that can be imported.
"""

from __future__ import annotations

from types import ModuleType

from theseus_jax.errors import module_of
from theseus_jax.methods import baselines, convert, glai, guidance, plasticity, probes, surgery

__all__ = ["baselines", "convert", "glai", "guidance", "module", "plasticity", "probes", "surgery"]
MODULES = {
    "convert": "conversion",
    "glai": "glai.arms",
    "guide": "guide",
    "plasticity": "plasticity.arms",
}


def module(name: str) -> ModuleType:
    """The module of a method. Raises UserError for one that there is not."""
    inside = f"theseus_jax.methods.{MODULES[name]}" if name in MODULES else ""
    return module_of("method", name, inside, MODULES)
