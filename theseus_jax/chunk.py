"""A chunk of optimizer steps: one `lax.scan` in one jit with donated state, compiled once for a
program and its shapes.

Seeds are mapped over it: by `vmap` on an accelerator, one after the other (`lax.map`) on a CPU,
where batched small products gain nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from theseus_jax import cost, schedules
from theseus_jax.devices import cut
from theseus_jax.nets.sites import leaf, replaced, scaled
from theseus_jax.nets.variables import merge
from theseus_jax.program import Program, StepRecord, loss_fn, over_seeds
from theseus_jax.rules import transformation

LOG = logging.getLogger("theseus_jax")


def _apart(watch: Any) -> bool:
    return getattr(watch, "apart", False)


def _watched(
    program: Program, record: StepRecord, looking: bool
) -> dict[str, dict[str, jax.Array]]:
    """What every watch says of the step, {watch: {name: array}}; zeros in between, and of those
    that look apart in a step that is not looking.
    """
    said = {}
    for watch in program.watches:
        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(watch, record)
        )
        if _apart(watch) and not looking:
            said[str(watch)] = blank
            continue
        due = (record.step + 1) % watch.every == 0
        said[str(watch)] = jax.lax.cond(due, watch, lambda _, blank=blank: blank, record)
    return said


class Moving(NamedTuple):
    """What a chunk changes and takes over (donated), each leaf with a leading seed axis."""

    params: Any
    opt_state: Any


class Still(NamedTuple):
    """What a chunk reads. rest, keys: with a leading seed axis. examples: leaves (N, ...); stored:
    leaves (S, N, ...), each seed's own "inputs" in place of the examples', {} where there are none.
    indices: (S, K, B) int32 rows of the examples.

    Steps begin .. end - 1 are done, of `steps` that the rate's schedule and a route's progress
    count by; steps of the program past `end` change nothing, so that a chunk that is cut short runs
    through it too. rate: a scalar. weights: see `program.loss_fn`.
    """

    rest: Any
    guide_variables: Any
    keys: jax.Array
    examples: Any
    stored: Any
    indices: jax.Array
    begin: jax.Array
    end: jax.Array
    steps: jax.Array
    rate: jax.Array
    weights: dict[str, jax.Array]


class Done(NamedTuple):
    """What K steps gave. statistics: batch statistics of trained stages, and tracks. metrics:
    {name: (S, K) float32}, zero where nothing was done; watched: {watch: {name: (S, K, ...)}}.
    """

    params: Any
    statistics: Any
    opt_state: Any
    metrics: dict[str, jax.Array]
    watched: dict[str, dict[str, jax.Array]]


def _one_step(
    program: Program, mesh: Mesh | None, still: Still, rest: Any, key: jax.Array, examples: Any
) -> Callable:
    """update((params, statistics, opt_state), (step, rows), looking) -> (the same, (metrics,
    watched)): an optimizer step of one seed; looking: whether watches that look apart do.
    """
    tx = transformation(program.optimizer)
    slope = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)

    def update(carry, inputs, looking):
        params, statistics, opt_state = carry
        step, rows = inputs
        batch = cut(jax.tree.map(lambda leaf: leaf[rows], examples), mesh)
        given = merge(rest, statistics), still.guide_variables, batch
        progress, noise = (step, still.steps), jax.random.fold_in(key, step)
        (loss, (terms, changed, signals)), gradient = slope(
            program, params, *given, progress, noise, still.weights
        )
        factor = still.rate * schedules.SCHEDULES[program.optimizer.schedule](step, still.steps)
        updates, opt_state = tx.update(
            gradient, opt_state, params, key=jax.random.fold_in(noise, 1)
        )
        updates = jax.tree.map(lambda u: -factor * u, updates)
        updates = scaled(program.net.sites, program.rates, rest, updates, step)
        record = StepRecord(step, signals, gradient, updates, params)
        watched = _watched(program, record, looking)
        params = optax.apply_updates(params, updates)
        statistics = _counted(program, statistics, changed, record)
        metrics = {"loss": loss, **terms, "gradient_norm": optax.global_norm(gradient)}
        return (params, statistics, opt_state), (metrics, watched)

    return update


def _counted(program: Program, statistics: Any, changed: Any, record: StepRecord) -> Any:
    """The statistics after a step: those that its forward pass changed, and the tracks of units."""
    followed = {name: tree["tracks"] for name, tree in statistics.items() if "tracks" in tree}
    for track in program.tracks:
        for site in track.sites:
            path = (site.stage, *site.path)
            held = leaf(followed, path)
            new = track(site, {key: held[key] for key in track.fresh(site)}, record)
            followed = replaced(followed, path, {**held, **new})
    return {
        name: {
            **({"batch_stats": changed[name]} if "batch_stats" in tree else {}),
            **({"tracks": followed[name]} if "tracks" in tree else {}),
        }
        for name, tree in statistics.items()
    }


def _statistics(program: Program, rest: Any) -> Any:
    """What a step counts: batch statistics of trained stages, and tracks where some are kept."""
    trained = {part.split("/")[0] for part in program.trainable}
    kept = {
        name: {
            kind: tree[kind]
            for kind, there in (("batch_stats", name in trained), ("tracks", program.tracks))
            if there and kind in tree
        }
        for name, tree in rest.items()
    }
    return {name: tree for name, tree in kept.items() if tree}


def chunk(program: Program, mesh: Mesh | None, moving: Moving, still: Still) -> Done:
    """K steps of S seeds; mesh: over which each batch is cut."""

    def one_seed(args):
        params, rest, opt_state, key, stored, indices = args
        own = {"inputs": stored} if jax.tree.leaves(stored) else {}
        examples = {**still.examples, **own} if own else still.examples
        update = _one_step(program, mesh, still, rest, key, examples)

        plain, looking = (functools.partial(update, looking=one) for one in (False, True))
        rare = [watch.every for watch in program.watches if _apart(watch)]

        def advance(carry, inputs):
            step, shapes = inputs[0], jax.eval_shape(plain, carry, inputs)[1]
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            stay = lambda carry, _: (carry, nothing)  # noqa: E731
            if not rare:
                return jax.lax.cond(step < still.end, plain, stay, carry, inputs)
            due = functools.reduce(jnp.logical_or, [(step + 1) % every == 0 for every in rare])
            due, on = due & (step < still.end), step < still.end
            carry, said = jax.lax.cond(on & ~due, plain, stay, carry, inputs)
            carry, seen = jax.lax.cond(due, looking, stay, carry, inputs)
            return carry, jax.tree.map(lambda a, b: jnp.where(due, b, a), said, seen)

        statistics = _statistics(program, rest)
        numbers = still.begin + jnp.arange(indices.shape[0])
        (params, statistics, opt_state), (metrics, watched) = jax.lax.scan(
            advance, (params, statistics, opt_state), (numbers, indices)
        )
        return Done(params, statistics, opt_state, metrics, watched)

    return over_seeds(
        one_seed,
        (moving.params, still.rest, moving.opt_state, still.keys, still.stored, still.indices),
    )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled chunk: run(moving, still) -> done, the FLOPs of one step of one seed, and seconds
    spent compiling.
    """

    run: Callable[[Moving, Still], Done]
    step_flops: float
    seconds: float


def compiled_chunk(
    program: Program, moving: Moving, still: Still, mesh: Mesh | None = None
) -> Compiled:
    """The compiled chunk for arguments like these, `devices.spread` over the mesh, made once per
    program, shapes and mesh; it refuses other shapes.

    A compilation is announced through the logger "theseus_jax"; silence means that the program was
    at hand.
    """
    leaves, structure = jax.tree.flatten((moving, still))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _compile(program, structure, shapes, mesh)


@functools.lru_cache(maxsize=64)
def _compile(
    program: Program,
    structure: Any,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    mesh: Mesh | None = None,
) -> Compiled:
    begin = time.perf_counter()
    LOG.info("compiling the step that trains %s", ", ".join(program.trainable))
    args = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    run = functools.partial(chunk, program, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None
    placed = {"in_shardings": everywhere, "out_shardings": everywhere} if mesh else {}
    compiled = jax.jit(run, donate_argnums=0, **placed).lower(*args).compile()
    if mesh:  # a device's share of the work is no count of it
        counted = _compile(program, structure, shapes).step_flops
        return Compiled(compiled, counted, time.perf_counter() - begin)
    # The loops over steps and seeds are counted once by XLA, which makes its count that of one step
    # of one seed (vmap runs all seeds in one body); loops inside a step, such as an RNN's, and
    # decompositions have to be added.
    seeds = 1 if jax.default_backend() == "cpu" else args[1].keys.shape[0]
    return Compiled(
        compiled,
        cost.compiled_flops(compiled, run, *args) / seeds + _step_uncounted(program, *args),
        time.perf_counter() - begin,
    )


def _step_uncounted(program: Program, moving: Moving, still: Still) -> float:
    def without_first(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)

    examples = still.examples
    if jax.tree.leaves(still.stored):
        examples = {**examples, "inputs": without_first(still.stored)}
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((still.indices.shape[2], *leaf.shape[1:]), leaf.dtype),
        examples,
    )

    def step(params, rest, guide_variables, batch):
        return jax.grad(loss_fn, argnums=1, has_aux=True)(
            program,
            params,
            rest,
            guide_variables,
            batch,
            (jnp.zeros(()), jnp.ones(())),
            jax.random.key(0),
        )

    shapes = without_first((moving.params, still.rest))
    return cost.uncounted(jax.make_jaxpr(step)(*shapes, still.guide_variables, batch).jaxpr)
