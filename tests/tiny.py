"""Small networks and data that several tests share; everything is jitted and kept, since compiling
is what takes time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.methods import convert
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.recurrent import recurrent
from theseus_jax.nets.stage import forward, init
from theseus_jax.plan import Optimizer
from theseus_jax.similarity import metric

VOCABULARY, CONTEXT, WIDTH, SEEDS = 17, 8, 16, 2
EXAMPLE = jax.ShapeDtypeStruct((1, CONTEXT), jnp.int32)
INHERIT = ("embed", "ln_1", "ln_2", "mlp", "norm", "head")


class Stands(NamedTuple):
    """What edits read of a phase."""

    net: Any


def tokens(count=24, seed=0):
    """(count, CONTEXT + 1) int32 windows of a learnable stream: each token is one more than the
    last, with noise.
    """
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random((count, CONTEXT + 1)) < 0.8, 1, 3)
    return (
        (rng.integers(0, VOCABULARY, (count, 1)) + np.cumsum(steps, axis=1)) % VOCABULARY
    ).astype(np.int32)


def guide(depth=2):
    return gpt2(vocabulary=VOCABULARY, width=WIDTH, depth=depth, heads=2, positions=CONTEXT)


def target(depth=2, **changes):
    settings = (
        dict(vocabulary=VOCABULARY, width=WIDTH, depth=depth, hidden=8, kind="elman") | changes
    )
    return recurrent(**settings)


def keys(count=SEEDS, seed=0):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))


@functools.lru_cache(maxsize=None)
def fresh(net, count=SEEDS, seed=0):
    start = jax.jit(jax.vmap(lambda key: init(net, key, jnp.zeros((1, CONTEXT), jnp.int32))))
    return start(keys(count, seed))


@functools.lru_cache(maxsize=None)
def single(net, seed=0):
    return jax.jit(lambda key: init(net, key, jnp.zeros((1, CONTEXT), jnp.int32)))(
        jax.random.key(seed)
    )


@functools.partial(jax.jit, static_argnames=("net", "start", "stop"))
def apply(net, variables, x, start=None, stop=None):
    """The output of `forward`, jitted."""
    return forward(net, variables, x, start=start, stop=stop)[0]


def pick(tree, seed):
    """One seed of a stacked tree, without a compilation per shape."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[seed]), tree)


def shapes(net):
    return jax.eval_shape(
        lambda key: init(net, key, jnp.zeros((1, CONTEXT), jnp.int32)), jax.random.key(0)
    )


def settings(**changes):
    given = (
        dict(
            schedule="sequential",
            metric=metric("cka_debiased"),
            steps=12,
            align=0.5,
            inherit=INHERIT,
            align_optimizer=Optimizer(1e-2),
            finish_optimizer=Optimizer(1e-2),
        )
        | changes
    )
    return convert.Settings(**given)
