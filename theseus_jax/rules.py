"""The rules by which parameters move: optax transformations without a rate, which the step
multiplies in, so that rates and lengths need no new program.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from theseus_jax.plan import Optimizer


@functools.lru_cache(maxsize=None)
def transformation(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
    """AdamW, SGD or UPGD without its rate; `update` takes the step's `key`, for the rules that
    draw.
    """

    def matrices(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    clip = optax.clip_by_global_norm(optimizer.clip) if optimizer.clip else optax.identity()
    rules = {
        "adamw": lambda: optax.scale_by_adam(b2=optimizer.b2),
        "sgd": lambda: optax.trace(optimizer.momentum),
        "upgd": lambda: _upgd(optimizer.momentum, optimizer.noise),
    }
    parts = [
        clip,
        rules[optimizer.rule](),
        optax.add_decayed_weights(optimizer.weight_decay, mask=matrices),
    ]
    if optimizer.toward_start:
        parts.append(_toward_start(optimizer.toward_start))
    return optax.with_extra_args_support(optax.chain(*parts))


@functools.lru_cache(maxsize=None)
def optimizer_init(optimizer: Optimizer) -> Callable[[Any], Any]:
    """params with a leading seed axis -> their fresh optimizer state; compiled once for shapes,
    whatever the phase.
    """
    return jax.jit(jax.vmap(transformation(optimizer).init))


class Begun(NamedTuple):
    """The state of `_toward_start`: the parameters that the optimizer began with."""

    params: Any


def _toward_start(decay: float) -> optax.GradientTransformation:
    def update(updates: Any, state: Begun, params: Any) -> tuple[Any, Begun]:
        pulled = jax.tree.map(lambda u, p, s: u + decay * (p - s), updates, params, state.params)
        return pulled, state

    return optax.GradientTransformation(lambda params: Begun(params), update)


class Useful(NamedTuple):
    """The state of `_upgd`: the running utility of every weight, a tree of the parameters."""

    utility: Any


def _upgd(decay: float, noise: float) -> optax.GradientTransformationExtraArgs:
    """Utility-based perturbed gradient descent (arXiv 2404.00781, global first-order utility): the
    gradient plus normal noise, both times 1 - sigmoid(u / max u), where u is the running mean of
    -gradient times weight; what is useful moves less. The mean begins at 0, which needs no
    correction: it cancels in u / max u.
    """

    def init(params: Any) -> Useful:
        return Useful(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Useful, params: Any, *, key: jax.Array, **_: Any) -> Any:
        utility = jax.tree.map(
            lambda u, g, p: decay * u - (1 - decay) * g * p, state.utility, updates, params
        )
        most = jnp.stack([leaf.max() for leaf in jax.tree.leaves(utility)]).max()
        most = jnp.where(most == 0, 1.0, most)
        leaves, structure = jax.tree.flatten(updates)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

        def moved(g: jax.Array, u: jax.Array, key: jax.Array) -> jax.Array:
            drawn = noise * jax.random.normal(key, g.shape, g.dtype)
            return (g + drawn) * (1 - jax.nn.sigmoid(u / most))

        return jax.tree.map(moved, updates, utility, keys), Useful(utility)

    return optax.GradientTransformationExtraArgs(init, update)
