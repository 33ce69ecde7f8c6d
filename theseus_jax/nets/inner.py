"""Activations inside a stage, by name: "block_3/attn" is what the submodule `attn` of stage
`block_3` returned, or what the module sowed under that name. Any linen module has them, through
flax's intermediates; a stage of which nothing is asked runs as it always does.
"""

from __future__ import annotations

import functools
from typing import Any, Mapping, Sequence

import flax.linen as nn
import flax.linen.module
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.modes import mode_arguments


def split(captures: Sequence[str], stage: str) -> tuple[str, ...]:
    """The paths inside `stage` that are wanted: ("attn",) of ("block_3/attn", "block_4/mlp")."""
    return tuple(name[len(stage) + 1 :] for name in captures if name.startswith(f"{stage}/"))


def run(
    module: nn.Module,
    variables: Mapping[str, Any],
    x: Any,
    wanted: Sequence[str],
    *,
    mutable: Sequence[str] = (),
    **given: Any,
) -> tuple[Any, Mapping[str, Any], dict[str, Any]]:
    """(y, the mutable collections, {path: activation}) of `module.apply(variables, x, **given)`.

    wanted: paths of submodules ("attn", "mlp/c_fc"), or names that the module sows. Of a submodule
    that is called more than once it is the last call's. Raises UserError for a path that there is
    not, naming those that there are.
    """

    def asked(part: nn.Module, method: str) -> bool:
        return method == "__call__" and "/".join(part.path) in wanted

    collections = [*mutable, "intermediates"]
    y, changed = module.apply(
        variables, x, mutable=collections, capture_intermediates=asked, **given
    )
    found = leaves(changed.get("intermediates", {}))
    missing = [path for path in wanted if path not in found]
    if missing:
        there = jax.eval_shape(
            lambda v, z: module.apply(
                v, z, mutable=collections, capture_intermediates=True, **given
            )[1]["intermediates"],
            variables,
            x,
        )
        raise UserError(
            f"a {type(module).__name__} has no activation {missing[0]!r} inside; it has"
            f" {', '.join(sorted(path for path in leaves(there) if path)) or 'none'}"
        )
    changed = {name: changed[name] for name in mutable}
    return y, changed, {path: found[path] for path in wanted}


def applied(
    module: nn.Module,
    train: bool,
    wanted: tuple[str, ...],
    variables: Mapping[str, Any],
    x: Any,
    key: jax.Array | None,
) -> tuple[Any, Mapping[str, Any], dict[str, Any]]:
    """(output, changed batch statistics, {path: activation}) of a stage. Stages that are alike are
    traced once, and each is put into the caller's program as if it had been traced there: the plan
    of a network of twelve equal blocks takes a seventh of the time. Under `nn.intercept_methods`
    each is traced for itself, as an interceptor has to meet every one.
    """
    # flax has no public word for it; without its private one nothing is traced once, which is right
    intercepted = getattr(flax.linen.module, "_global_interceptor_stack", True)
    form = _applied if intercepted else _applied_once
    y, changed, inside = form(module, train, wanted, variables, x, key)
    return y, changed, {path: inside[path] for path in wanted}


def _applied(module, train, wanted, variables, x, key):
    given = {
        **mode_arguments(module, train),
        "rngs": None if key is None else {"dropout": key},
        "mutable": ["batch_stats"] if train and "batch_stats" in variables else [],
    }
    if wanted:
        return run(module, variables, x, wanted, **given)
    return *module.apply(variables, x, **given), {}


_applied_once = functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)(_applied)


def masked(value: Any, mask: jax.Array | None) -> Any:
    """An inner activation with the mask of its stage, where it has the same positions."""
    plain = (
        isinstance(value, jax.Array)
        and mask is not None
        and value.ndim > 2
        and value.shape[:2] == mask.shape
    )
    return Masked(value, mask) if plain else value


def _last(value: Any) -> Any:
    """Of flax's tuple of all that was sown; a value that was sown with a reduction of its own as it
    is.
    """
    return value[-1] if isinstance(value, tuple) and not hasattr(value, "_fields") else value


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{path: last value} of a tree of intermediates, a submodule's output under its own path."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = prefix if key == "__call__" else f"{prefix}/{key}".lstrip("/")
        found |= leaves(value, path) if isinstance(value, Mapping) else {path: _last(value)}
    return found
