"""How a module is told whether it trains: flax's own modules and their users have several words for
it.
"""

from __future__ import annotations

import functools
import inspect

import flax.linen as nn

from theseus_jax.errors import UserError

# argument of __call__ -> its value in training; in evaluation it is the other one
MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def mode_arguments(module: nn.Module, train: bool) -> dict[str, bool]:
    """What `module(x, ...)` is to be told of the mode, for whichever of `MODES` it takes: {} if
    none.

    A mode that was fixed in the constructor (`nn.Dropout(0.1, deterministic=True)`) is left to it:
    flax refuses to be told twice.
    """
    names = (name for name in _taken(type(module)) if getattr(module, name, None) is None)
    return {name: train == MODES[name] for name in names}


@functools.lru_cache(maxsize=None)
def _taken(kind: type[nn.Module]) -> tuple[str, ...]:
    parameters = inspect.signature(kind.__call__).parameters
    return tuple(name for name in MODES if name in parameters)


def check_mode(name: str, module: nn.Module) -> None:
    """Raises UserError for a stage whose mode is a field alone, which no caller could switch."""
    fields = getattr(module, "__dataclass_fields__", {})
    fixed = [word for word in MODES if word in fields and word not in _taken(type(module))]
    if fixed:
        raise UserError(
            f"stage {name!r}, a {type(module).__name__}, has its mode {fixed[0]!r} as a field, so"
            " it could not be told when it trains; make it an argument: __call__(self, x,"
            f" {fixed[0]}={not MODES[fixed[0]]})"
        )
