"""The static part of a phase, and the loss of one batch: what a compiled step (`chunk`) is
made of.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from theseus_jax import balance
from theseus_jax.errors import UserError
from theseus_jax.feeds import ForwardPass, Route, Whole
from theseus_jax.nets.sites import Rates
from theseus_jax.nets.stage import Network, Variables, forward, position
from theseus_jax.nets.variables import merge
from theseus_jax.objectives import Signals, Term
from theseus_jax.plan import Optimizer, Phase


@dataclasses.dataclass(frozen=True)
class Program:
    """All that a phase's compiled step depends on besides shapes; equal programs share one
    compilation.

    optimizer: with a rate of 0, since rates are passed in. terms: those whose weights are passed in
    have None for it.
    """

    net: Network
    guide: Network | None
    trainable: tuple[str, ...]
    terms: tuple[Term, ...]
    route: Route = Whole()
    optimizer: Optimizer = Optimizer(0.0)
    transforms: tuple[Any, ...] = ()
    watches: tuple[Any, ...] = ()
    rates: Rates = Rates()
    tracks: tuple[Any, ...] = ()

    @property
    def captures(self) -> frozenset[str]:
        """The target stages, or what lies inside them, whose outputs a reader reads."""
        return frozenset(name for reader in self.readers for name in reader.target)

    @property
    def readers(self) -> tuple[Any, ...]:
        """What reads activations."""
        return (*(term.fn for term in self.terms), *self.watches, *self.tracks)


class StepRecord(NamedTuple):
    """One optimizer step of one seed, as a watch is given it.

    step: its number, from 0. gradient, updates (what was added) and params (before it): trees of
    the trained part.

    A watch is any hashable function of it to {name: array}, with `target` and `guide` (the
    activations that it reads, as a term's) and `every`: it is computed, and a row of kind "watch"
    is written, after every so many steps. With `apart` true the steps that it looks at are compiled
    beside the others, which then cost nothing more (a second program, where what it reads would
    have to be kept in every step).
    """

    step: jax.Array
    signals: Signals
    gradient: Any
    updates: Any
    params: Any


def program_of(phase: Phase) -> Program:
    """The static part of a phase; raises UserError when nothing would be trained."""
    if not phase.trainable or not phase.terms:
        raise UserError(
            f"phase {phase.name!r} has {len(phase.trainable)} trainable parts and"
            f" {len(phase.terms)} loss terms; it needs one of each"
        )
    feed = phase.feed
    terms = tuple(
        term if balance.is_number(term.weight) else dataclasses.replace(term, weight=None)
        for term in phase.terms
    )
    net, guide = (
        one and dataclasses.replace(one, compute=phase.compute) for one in (phase.net, feed.guide)
    )
    return Program(
        net,
        guide,
        phase.trainable,
        terms,
        feed.route,
        dataclasses.replace(phase.optimizer, learning_rate=0.0),
        feed.transforms,
        phase.watches,
        phase.rates,
        phase.tracks,
    )


def guide_stages(program: Program) -> tuple[str, ...]:
    """The guide stages whose outputs a step reads, in order."""
    wanted = {name for reader in program.readers for name in reader.guide} | set(
        program.route.sources
    )
    return tuple(
        sorted(wanted, key=lambda name: (position(program.guide, name.split("/")[0]), name))
    )


def guide_signals(
    guide: Network, guide_variables: Variables, x: Any, names: tuple[str, ...]
) -> dict[str, Any]:
    """{name: output} of these stages of the frozen guide, in order; it runs no further than the
    last of them.
    """
    if not names:
        return {}
    _, captured, _ = forward(guide, guide_variables, x, stop=names[-1].split("/")[0], capture=names)
    return jax.lax.stop_gradient(captured)


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """What the first stage reads and what the loss compares with.

    batch: windows of tokens (B, T + 1), which predict themselves one position on, or a dict of
    "inputs" and "labels" (and of "guide", the guide's remembered outputs).
    """
    if isinstance(batch, dict):
        return batch["inputs"], batch["labels"]
    return batch[:, :-1].astype(jnp.int32), batch[:, 1:].astype(jnp.int32)


def loss_fn(program: Program, params, rest, guide_variables, batch, progress, key, weights=None):
    """(loss, (terms, batch_stats, signals)) of one batch (see `inputs_and_labels`); progress:
    (step, steps).

    weights: {term: (3,) for `balance.at`} of the terms without a number; None: 1 for each. signals:
    None where neither watch nor track reads them.
    """
    variables = merge(rest, params)
    inputs, labels = inputs_and_labels(batch)
    for transform in program.transforms:
        draw, key = jax.random.split(key)
        inputs, labels = transform(inputs, labels, draw)
    remembered = isinstance(batch, dict) and "guide" in batch
    guide = (
        batch["guide"]
        if remembered
        else guide_signals(program.guide, guide_variables, inputs, guide_stages(program))
    )
    found = program.route.run(
        ForwardPass(
            program.net,
            program.guide,
            program.trainable,
            program.captures,
            variables,
            guide_variables,
            guide,
            inputs,
            progress,
            key,
        )
    )
    signals = Signals(labels, found.output, found.target, guide, variables)
    terms = {term.name: term.fn(signals) for term in program.terms}
    loss = sum(_weight(term, weights, progress[0]) * terms[term.name] for term in program.terms)
    return loss, (terms, found.statistics, signals if program.watches or program.tracks else None)


def constant_terms(program: Program, params, rest, guide_variables, batch) -> list[str]:
    """Terms that depend on nothing that is trained, whatever its values: shapes are enough, nothing
    is computed.

    By the equations of the traced step; what a loop or a called function gives counts as depending
    on all that it is given.
    """

    def terms(params, rest, guide_variables, batch):
        progress = jnp.zeros(()), jnp.ones(())
        return loss_fn(program, params, rest, guide_variables, batch, progress, jax.random.key(0))[
            1
        ][0]

    jaxpr = jax.make_jaxpr(terms)(params, rest, guide_variables, batch).jaxpr
    moving = set(jaxpr.invars[: len(jax.tree.leaves(params))])
    for equation in jaxpr.eqns:
        given = {
            value for value in equation.invars if not isinstance(value, jax.extend.core.Literal)
        }
        if given & moving and equation.primitive.name != "stop_gradient":
            moving.update(equation.outvars)
    names = sorted(term.name for term in program.terms)  # as a dict's leaves are
    return [
        name
        for name, value in zip(names, jaxpr.outvars, strict=True)
        if isinstance(value, jax.extend.core.Literal) or value not in moving
    ]


def _weight(term: Term, weights: Any, step: Any) -> Any:
    if term.weight is not None:
        return term.weight
    return balance.at(weights[term.name], step) if weights else 1.0


def over_seeds(fn: Callable[[Any], Any], stacked: Any) -> Any:
    """fn over the leading seed axis of every leaf: vmap on an accelerator, one after the other on a
    CPU.
    """
    return jax.lax.map(fn, stacked) if jax.default_backend() == "cpu" else jax.vmap(fn)(stacked)


BLOCK = 512  # examples a forward pass: enough to fill a device, few enough for its memory


def block_count(x: Any) -> int:
    """How many blocks `in_blocks` cuts x in."""
    count = len(jax.tree.leaves(x)[0])
    return -(-count // min(BLOCK, count))


def in_blocks(fn: Callable[[Any], Any], x: Any) -> Any:
    """fn over x (leaves (N, ...)) in blocks of at most BLOCK rows, as one: fn must treat rows by
    themselves.

    The last block is filled up with zeros, whose results are dropped.
    """
    count, blocks = len(jax.tree.leaves(x)[0]), block_count(x)
    size = -(-count // blocks)
    cut = jax.tree.map(
        lambda leaf: jnp.pad(
            leaf, [(0, blocks * size - count)] + [(0, 0)] * (leaf.ndim - 1)
        ).reshape(blocks, size, *leaf.shape[1:]),
        x,
    )
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], jax.lax.map(fn, cut)
    )
