"""The typed edits of a run: what happens to units between two steps, for every seed at once.

Each is a frozen value with counts that need no new program, put in a phase's `edits` or `edits_at`;
which units are meant is found at run time, on a batch of the training data.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import gradmax, units
from theseus_jax.methods.plasticity.births import BIRTHS, PRESERVING
from theseus_jax.methods.plasticity.cohorts import kept_beside_pruned
from theseus_jax.methods.plasticity.scores import SCORES, View, first
from theseus_jax.methods.plasticity.seeds import Edit, Seed
from theseus_jax.nets.sites import Site, masks, with_masks
from theseus_jax.nets.stage import init
from theseus_jax.nets.variables import merge, partition
from theseus_jax.rules import transformation
from theseus_jax.train import Inputs, State

Counts = tuple[int, ...]  # a site


@dataclasses.dataclass(frozen=True)
class Grow(Edit):
    """Switch on, at every site, counts[i] of the units that are off: those with the highest score.

    score: of `scores.SCORES`; birth: of `births.BIRTHS`; moments: their optimizer state "fresh",
    "kept" as it stands, or "transplanted" from a donor (the birth's, else the unit that is on and
    has the nearest score). batch: examples that scores are read on. Raises UserError for names that
    are none.
    """

    counts: Counts
    score: str = "activation"
    birth: str = "stored"
    moments: str = "fresh"
    batch: int = 256

    def change(self, seed: Seed, counts: jax.Array, step: jax.Array, start: Any) -> units.Held:
        for i, site in enumerate(seed.sites):
            view = seed.view(i, step)
            scores = SCORES[self.score](view)
            chosen = first(scores, ~view.masks.live & ~view.masks.frozen, counts[i], highest=True)
            seed.held = _born(self, seed, i, chosen, scores, step)
        return seed.held

    def __str__(self) -> str:
        return f"grow {_text(self.counts)} by {self.score}, {self.birth}, moments {self.moments}"


def _born(
    edit: Grow | Replace,
    seed: Seed,
    number: int,
    chosen: jax.Array,
    scores: jax.Array,
    step: jax.Array,
) -> units.Held:
    """The seed with the chosen units of a site born."""
    view = seed.view(number, step, chosen)
    check_birth(edit.birth, view.site)
    site, born = view.site, BIRTHS[edit.birth](view)
    fresh = seed.fresh_state() if edit.moments == "fresh" else None
    donors = None
    if edit.moments == "transplanted":
        own = born.donors == jnp.arange(site.width)
        donors = jnp.where(own, _nearest(scores, view), born.donors)
    slots = seed.slots(site)
    return units.grown(seed.held, site, slots, chosen, born.rows, step, fresh=fresh, donors=donors)


def check_birth(birth: str, site: Site) -> None:
    """Raises UserError for a birth that a site cannot have."""
    if birth == "gradmax":
        gradmax.check(site)
    if birth in PRESERVING and site.mixed:
        raise UserError(
            f"{site} has a norm over its units, so that no birth keeps what the others do, and"
            f" {birth} is to; take another birth, or another norm"
        )


def _nearest(scores: jax.Array, view: View) -> jax.Array:
    """(J,): of every unit, the one that was on before and has the nearest score."""
    live = view.masks.live & ~view.chosen
    apart = jnp.abs(scores[:, None] - scores[None, :])
    return jnp.argmin(jnp.where(live[None, :], apart, jnp.inf), axis=1)


@dataclasses.dataclass(frozen=True)
class Prune(Edit):
    """Switch off, at every site, counts[i] of the units that are on: those with the lowest score;
    at least one stays. Their numbers stay where they are, and so does their optimizer state. look:
    rows say how those that stay and those that go differed.
    """

    counts: Counts
    score: str = "magnitude"
    batch: int = 256
    look: bool = False

    def change(self, seed: Seed, counts: jax.Array, step: jax.Array, start: Any) -> units.Held:
        variables = seed.held.variables
        for i, site in enumerate(seed.sites):
            view = seed.view(i, step)
            among = view.masks.live & ~view.masks.frozen
            count = jnp.minimum(counts[i], view.masks.live.sum() - 1)
            chosen = first(SCORES[self.score](view), among, count, highest=False)
            variables = units.switched(variables, site, chosen, False, step)
        return seed.held._replace(variables=variables)

    def told(self, before: State, after: State, inputs: Inputs) -> Iterator[dict[str, Any]]:
        yield from super().told(before, after, inputs)
        if self.look:
            yield from kept_beside_pruned(before, after, inputs)

    def __str__(self) -> str:
        return f"prune {_text(self.counts)} by {self.score}"


@dataclasses.dataclass(frozen=True)
class Replace(Edit):
    """Give units that are on a new start: those with a score up to `threshold`, at most counts[i] a
    site, none younger than `maturity` steps (units of the start are as old as the phase).

    settle: what they gave on average stays, in the bias of the layer that reads them. ReDo (arXiv
    2302.12902): dormancy with a threshold; continual backprop (Dohare et al. 2024): utility with
    counts and a maturity, settled; self-normalised resets (arXiv 2410.20098): silence with a
    threshold.
    """

    counts: Counts
    score: str = "dormancy"
    threshold: float = float("inf")
    maturity: int = 0
    birth: str = "zero_outgoing"
    moments: str = "fresh"
    settle: bool = False
    batch: int = 256

    def change(self, seed: Seed, counts: jax.Array, step: jax.Array, start: Any) -> units.Held:
        for i, site in enumerate(seed.sites):
            view = seed.view(i, step)
            scores, now = SCORES[self.score](view), view.masks
            old = step - jnp.maximum(now.born, 0) >= self.maturity
            among = now.live & ~now.frozen & old & (scores <= self.threshold)
            count = jnp.minimum(counts[i], now.live.sum() - 1)
            chosen = first(scores, among, count, highest=False)
            if self.settle:
                given = units.settled(seed.held.variables, site, chosen, _mean_output(view))
                seed.held = seed.held._replace(variables=given)
            seed.held = _born(self, seed, i, chosen, scores, step)
        return seed.held

    def __str__(self) -> str:
        return f"replace {_text(self.counts)} at most by {self.score}, {self.birth}"


def _mean_output(view: View) -> jax.Array:
    """(J,): the running mean where a track keeps it, else that of the batch."""
    if "mean" not in view.running:
        return view.reading.h.mean(axis=0)
    mean, weight = (view.running[name] for name in ("mean", "weight"))
    return mean / jnp.where(weight > 0, weight, 1.0)


@dataclasses.dataclass(frozen=True)
class Freeze(Edit):
    """Leave alone from now on, at every site, counts[i] of the units that are on: those with the
    highest score. They stay bit-equal, and no edit chooses them.
    """

    counts: Counts
    score: str = "magnitude"
    batch: int = 256

    def change(self, seed: Seed, counts: jax.Array, step: jax.Array, start: Any) -> units.Held:
        variables = seed.held.variables
        for i, site in enumerate(seed.sites):
            view = seed.view(i, step)
            among = view.masks.live & ~view.masks.frozen
            chosen = first(SCORES[self.score](view), among, counts[i], highest=True)
            variables = units.frozen(variables, site, chosen)
        return seed.held._replace(variables=variables)

    def __str__(self) -> str:
        return f"freeze {_text(self.counts)} by {self.score}"


@dataclasses.dataclass(frozen=True)
class Rewind(Edit):
    """All that the phase trains back to its start, with a fresh optimizer state; masks stay: what a
    "lottery ticket" is trained from (Frankle & Carbin 2018, arXiv 1803.03635).

    renewed: to a start of another key instead.
    """

    renewed: bool = False

    def change(self, seed: Seed, counts: jax.Array, step: jax.Array, start: Any) -> units.Held:
        program = seed.task.program
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), seed.task.example)
        begun = seed.start if self.renewed else init(program.net, start, zeros)
        params, _ = partition(begun, program.trainable)
        variables = merge(seed.held.variables, params)
        for name, tree in begun.items():
            if name in params and "batch_stats" in tree:
                variables[name] = {**variables[name], "batch_stats": tree["batch_stats"]}
        return units.Held(variables, transformation(program.optimizer).init(params))

    def __str__(self) -> str:
        return "rewind to another start" if self.renewed else "rewind to the start"


@dataclasses.dataclass(frozen=True)
class ShrinkPerturb(Edit):
    """All that the phase trains becomes keep times itself plus `noise` times a fresh start (Ash &
    Adams 2020, arXiv 1910.08475); the optimizer state stays.
    """

    keep: float = 0.8
    noise: float = 0.2

    def change(self, seed: Seed, counts: jax.Array, step: jax.Array, start: Any) -> units.Held:
        trainable = seed.task.program.trainable
        (old, rest), (new, _) = (
            partition(one, trainable) for one in (seed.held.variables, seed.start)
        )
        mixed = jax.tree.map(lambda a, b: self.keep * a + self.noise * b, old, new)
        return seed.held._replace(variables=merge(rest, mixed))

    def __str__(self) -> str:
        return f"shrink to {self.keep:g}, perturb by {self.noise:g}"


@dataclasses.dataclass(frozen=True)
class Start:
    """Of every site counts[i] units on, drawn at random, the others off: how growth begins."""

    counts: Counts

    def __call__(self, state: State, inputs: Inputs) -> State:
        variables = state.variables
        for i, (site, count) in enumerate(zip(inputs.phase.net.sites, self.counts)):
            keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(inputs.surgery)
            noise = jax.vmap(lambda key, site=site: jax.random.uniform(key, (site.width,)))(keys)
            live = jax.vmap(
                lambda one, count=count: first(one, jnp.ones(one.shape, bool), count, True)
            )(noise)
            old = masks(variables, site)
            variables = with_masks(variables, site, old._replace(live=live))
        return state._replace(variables=variables)

    def __str__(self) -> str:
        return f"start with {_text(self.counts)} units on"


def _text(counts: Counts) -> str:
    return ", ".join(map(str, counts)) or "some"
