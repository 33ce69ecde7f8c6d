"""The step that launch/bench.py times: a pair of networks, aligned seam by seam by plain SGD."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.feeds import Whole
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.recurrent import recurrent
from theseus_jax.nets.stage import Network, init
from theseus_jax.objectives import Alignment, Term
from theseus_jax.program import Program, loss_fn
from theseus_jax.similarity import metric

SHAPES = {
    "quick": dict(vocabulary=257, width=32, depth=2, heads=2, context=32, batch=4),
    "default": dict(vocabulary=1024, width=128, depth=4, heads=4, context=128, batch=8),
    "gpt2_small": dict(vocabulary=50257, width=768, depth=12, heads=12, context=1024, batch=8),
}
RATE = 1e-2


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Reads what an alignment reads and compares nothing: a step without its distances."""

    pairs: tuple[tuple[str, str], ...]
    target = property(lambda self: tuple(t for _, t in self.pairs))
    guide = property(lambda self: tuple(g for g, _ in self.pairs))

    def __call__(self, signals: Any) -> jax.Array:
        return sum(jnp.mean(signals.target[t]) + jnp.mean(signals.guide[g]) for g, t in self.pairs)


class Bench(NamedTuple):
    """One pair of networks with weights; loss as `losses_of` makes it."""

    loss: Callable[[str], Callable]
    variables: Any
    guide: Any


def pair(shape: dict[str, int], cell: str) -> tuple[Network, Network]:
    """(guide, target) of a shape."""
    sizes = {key: shape[key] for key in ("vocabulary", "width", "depth")}
    return (
        gpt2(**sizes, heads=shape["heads"], positions=shape["context"]),
        recurrent(**sizes, hidden=shape["width"], kind=cell),
    )


def losses_of(shape: dict[str, int], cell: str, compute: str) -> Callable[[str], Callable]:
    """loss("distance" or "nothing")(variables, guide, batch) -> float32 scalar; the networks read
    weights in `compute`.
    """
    guide, target = pair(shape, cell)
    names = [f"block_{i + 1}" for i in range(shape["depth"])]
    pairs = tuple((name, name) for name in names)
    terms = {"distance": Alignment(pairs, metric("cka_debiased")), "nothing": Nothing(pairs)}

    def lowered(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(compute), tree)

    def loss(name: str) -> Callable:
        term = Term(name, 1.0, terms[name])
        program = Program(target, guide, ("embed", *names), (term,), Whole(stop=names[-1]))
        return lambda variables, guide, batch: loss_fn(
            program, lowered(variables), {}, lowered(guide), batch, (0.0, 1.0), jax.random.key(0)
        )[0].astype(jnp.float32)

    return loss


def built(shape: dict[str, int], cell: str, compute: str) -> Bench:
    """The networks of a shape with fresh float32 weights."""
    (guide, target), x = pair(shape, cell), jnp.zeros((1, shape["context"]), jnp.int32)
    variables = init(target, jax.random.key(0), x)
    kept = ["embed", *(f"block_{i + 1}" for i in range(shape["depth"]))]
    return Bench(
        losses_of(shape, cell, compute),
        {name: variables[name] for name in kept},
        init(guide, jax.random.key(1), x),
    )


def step(loss: Callable) -> Callable:
    """One SGD step: (variables, guide, batch) -> (variables, loss)."""

    def run(variables, guide, batch):
        value, gradient = jax.value_and_grad(loss)(variables, guide, batch)
        return jax.tree.map(lambda p, g: p - RATE * g, variables, gradient), value

    return run


def epoch(one: Callable) -> Callable:
    """(variables, guide, batches (K, B, T + 1)) -> (variables, losses (K,)): K steps in one
    program.
    """
    return lambda variables, guide, batches: jax.lax.scan(
        lambda v, batch: one(v, guide, batch), variables, batches
    )


def programs(bench: Bench) -> dict[str, Callable]:
    """What is timed, by name."""

    def forwards(name: str) -> Callable:
        return lambda variables, guide, batch: (
            variables,
            bench.loss(name)(variables, guide, batch),
        )

    return {
        "step": step(bench.loss("distance")),
        "step_without": step(bench.loss("nothing")),
        "forwards": forwards("nothing"),
        "forwards_and_distance": forwards("distance"),
    }
