"""What a phase reads: what is done to a batch first, which way it takes through target and guide,
and which outputs of frozen parts are computed once and kept.

A route is any object with `sources` (the guide stages that it reads), `sides` (the modules that it
reads beside the networks), `run(ForwardPass) -> Outputs` and a `__str__`. A transform is any
function `fn(inputs, labels, key) -> (inputs, labels)` with a `__str__`, drawn anew for every batch
and read by guide and target alike. Both are hashable, for they are static in a compiled step.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from theseus_jax import schedules
from theseus_jax.nets.stage import Network, Variables, forward, position
from theseus_jax.objectives import Side, two_views
from theseus_jax.order import Epochs, Tasks


class ForwardPass(NamedTuple):
    """One batch of a training step, as a route is given it.

    net, guide, trainable, captures (target stages whose outputs are wanted): static. inputs: what
    the first stage reads. guide_outputs: of the guide's stages that anybody reads. progress:
    (step, steps) of the phase, scalars.
    """

    net: Network
    guide: Network | None
    trainable: tuple[str, ...]
    captures: frozenset[str]
    variables: Variables
    guide_variables: Variables
    guide_outputs: dict[str, Any]
    inputs: Any
    progress: tuple[jax.Array, jax.Array]
    key: jax.Array


class Outputs(NamedTuple):
    """What a route found: the output of the last stage that was run, the captured activations by
    stage, and the new batch statistics by stage.
    """

    output: Any
    target: dict[str, Any]
    statistics: dict[str, Any]


class Route(Protocol):
    """The way of a batch through the networks."""

    sources: tuple[str, ...]
    sides: tuple[Side, ...]

    def run(self, step: ForwardPass) -> Outputs: ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """The target from stage `start` to `stop`, both included (None: the first and the last).

    source: the guide stage whose output feeds `start` (None: the batch's inputs). A prefix that is
    frozen is run first, in evaluation mode, and not differentiated.
    """

    start: str | None = None
    stop: str | None = None
    source: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if self.source else ()

    @property
    def sides(self) -> tuple[Side, ...]:
        return ()

    def run(self, step: ForwardPass) -> Outputs:
        net, x = step.net, step.guide_outputs[self.source] if self.source else step.inputs
        start, stop = self.start or net.names[0], self.stop or net.names[-1]
        run = net.names[position(net, start) : position(net, stop) + 1]
        trained = live_stages(net, step.trainable)
        live = [name for name in run if name in trained]
        frozen = run[: run.index(live[0])] if live else run
        activations: dict[str, Any] = {}
        if frozen:
            wanted = within(step.captures, frozen)
            x, activations, _ = forward(
                net, step.variables, x, start=start, stop=frozen[-1], capture=wanted
            )
            x, activations = jax.lax.stop_gradient((x, activations))
        if not live:
            return Outputs(x, activations, {})
        output, captured, statistics = forward(
            net,
            step.variables,
            x,
            train=True,
            start=live[0],
            stop=stop,
            key=step.key,
            capture=tuple(name for name in step.captures if name not in activations),
        )
        return Outputs(output, activations | captured, statistics)

    def __str__(self) -> str:
        way = f"guide's {self.source}" if self.source else "inputs"
        return f"{way} -> {self.start or 'first stage'} .. {self.stop or 'last stage'}"


@dataclasses.dataclass(frozen=True)
class Segments:
    """Every part of the target by itself, on the guide's activation before it, all in one step.

    segments: (guide stage whose output is read, or None for the inputs; first and last target stage
    of the part).
    """

    segments: tuple[tuple[str | None, str, str], ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source for source, _, _ in self.segments if source)

    @property
    def sides(self) -> tuple[Side, ...]:
        return ()

    def run(self, step: ForwardPass) -> Outputs:
        activations, statistics, output = {}, {}, None
        for i, (source, start, stop) in enumerate(self.segments):
            x = step.guide_outputs[source] if source else step.inputs
            key = jax.random.fold_in(step.key, i)
            inside = step.net.names[position(step.net, start) : position(step.net, stop) + 1]
            output, captured, changed = forward(
                step.net,
                step.variables,
                x,
                train=True,
                start=start,
                stop=stop,
                key=key,
                capture=within(step.captures, inside),
            )
            activations |= captured | {stop: output}
            statistics |= changed
        return Outputs(output, activations, statistics)

    def __str__(self) -> str:
        return "; ".join(
            f"{'guide' + chr(39) + 's ' + source if source else 'inputs'} -> {start} .. {stop}"
            for source, start, stop in self.segments
        )


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Each forward, each part is the target's with probability p_t, else the guide's
    (BERT-of-Theseus, Xu et al. 2020, arXiv 2002.02925, equation 4).

    groups: ((guide first, guide last), (target first, target last)) in order, covering both
    networks. bridges: where the outputs of the parts differ in shape, (to the guide's, to the
    target's) for every group but the last; they are trained along, and no longer used once p_t is
    1. p_t rises from `begin` to 1 at the share `full` of the steps. Each network reads the mix in
    its own shape.
    """

    groups: tuple[tuple[tuple[str, str], tuple[str, str]], ...]
    begin: float = 0.3
    full: float = 0.6
    bridges: tuple[tuple[Side, Side], ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """The bridges, one after the other."""
        return tuple(side for both in self.bridges for side in both)

    def run(self, step: ForwardPass) -> Outputs:
        share = schedules.swap_probability(*step.progress, begin=self.begin, full=self.full)
        for_target = for_guide = step.inputs
        statistics: dict[str, Any] = {}
        for i, (theirs, ours) in enumerate(self.groups):
            draw, dropout = jax.random.split(jax.random.fold_in(step.key, i))
            new, _, changed = forward(
                step.net,
                step.variables,
                for_target,
                train=True,
                start=ours[0],
                stop=ours[1],
                key=dropout,
            )
            old, _, _ = forward(
                step.guide, step.guide_variables, for_guide, start=theirs[0], stop=theirs[1]
            )
            taken = functools.partial(jnp.where, jax.random.bernoulli(draw, share))
            pick = functools.partial(jax.tree.map, taken)
            statistics |= changed
            if i < len(self.bridges):
                to_guide, to_target = self.bridges[i]
                for_target, for_guide = (
                    pick(new, to_target(step.variables, old)),
                    pick(to_guide(step.variables, new), old),
                )
            else:
                for_target = for_guide = pick(new, old)
        return Outputs(for_target, {}, statistics)

    def __str__(self) -> str:
        return (
            f"every part swapped in with p from {self.begin:g} to 1 at {self.full:.0%} of the steps"
        )


def live_stages(net: Network, trainable: tuple[str, ...]) -> set[str]:
    """The stages whose outputs a step can change: those with a trained part, or tied to one."""
    trained = {part.split("/")[0] for part in trainable}
    return trained | {tie.stage for tie in net.ties if tie.source in trained}


def within(captures: frozenset[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The captures that lie in these stages, inner ones ("block_1/attn") included."""
    return tuple(name for name in captures if name.split("/")[0] in names)


@dataclasses.dataclass(frozen=True)
class Views:
    """Two dropout masks of every example, for a contrastive loss: (B, ...) -> (2 B, ...)."""

    rate: float

    def __call__(self, inputs: jax.Array, labels: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        return two_views(inputs, self.rate, key), labels

    def __str__(self) -> str:
        return f"two of every example, dropout {self.rate:g} on the inputs"


@dataclasses.dataclass(frozen=True)
class Cached:
    """Outputs of what a phase leaves frozen, computed once for all examples and kept.

    role "target": those of stage `stage`, each seed's own; the route starts behind it, and nothing
    before that start may be random in training. role "guide": those of every guide stage that a
    step reads; pooled: each averaged over its positions (`similarity.samples`), which is all that
    such an alignment reads, and far less to keep. Both ask for inputs that no transform changes.
    """

    role: str
    stage: str = ""
    pooled: bool = False

    def __str__(self) -> str:
        of = f"outputs of {self.stage}" if self.stage else "the guide's activations"
        return f"{of} for all examples, computed once{', pooled' * self.pooled}"


@dataclasses.dataclass(frozen=True)
class Feed:
    """What a phase reads. guide: the frozen network beside the target, or None; order: of the
    examples."""

    guide: Network | None = None
    route: Route = Whole()
    transforms: tuple[Any, ...] = ()
    cached: tuple[Cached, ...] = ()
    order: Epochs | Tasks = Epochs()

    def cache(self, role: str) -> Cached | None:
        """What is kept of the "target" or the "guide"."""
        return next((one for one in self.cached if one.role == role), None)
