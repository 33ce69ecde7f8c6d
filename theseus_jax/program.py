"""One compiled program per phase: a chunk of optimizer steps is one `lax.scan` in one jit with donated state.

Seeds are mapped over the program: by `vmap` on an accelerator, one after the other (`lax.map`) on a CPU, where batched
small products gain nothing.
"""
from __future__ import annotations

import dataclasses
import functools
import logging
import time
from typing import Any, Callable

import jax
import jax.numpy as jnp
import optax

from theseus_jax import cost, schedules
from theseus_jax.errors import UserError
from theseus_jax.nets.stage import Network, Variables, forward, merge, position
from theseus_jax.objectives import Signals, Term, two_views
from theseus_jax.plan import Parallel, Phase, Route, Swap



LOG = logging.getLogger("theseus_jax")


@dataclasses.dataclass(frozen=True)
class Program:
    """All that a phase's compiled step depends on besides shapes; equal programs share one compilation."""

    net: Network
    guide: Network | None
    trainable: tuple[str, ...]
    terms: tuple[Term, ...]
    route: Route | Swap | Parallel
    weight_decay: float
    clip: float
    b2: float
    rule: str = "adamw"
    momentum: float = 0.9
    schedule: str = "cosine"
    views: float = 0.0
    augment: Any = None


@functools.lru_cache(maxsize=None)
def transformation(program: Program) -> optax.GradientTransformation:
    """AdamW or SGD without its rate, which the step multiplies in, so that rates and lengths need no new program."""
    def matrices(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    clip = optax.clip_by_global_norm(program.clip) if program.clip else optax.identity()
    rules = {"adamw": lambda: optax.scale_by_adam(b2=program.b2), "sgd": lambda: optax.trace(program.momentum)}
    return optax.chain(clip, rules[program.rule](), optax.add_decayed_weights(program.weight_decay, mask=matrices))


def program_of(phase: Phase) -> Program:
    """The static part of a phase; raises UserError when nothing would be trained."""
    if not phase.trainable or not phase.terms:
        raise UserError(f"phase {phase.name!r} has {len(phase.trainable)} trainable parts and {len(phase.terms)} loss "
                        "terms; it needs one of each")
    o = phase.optimizer
    return Program(phase.net, phase.guide, phase.trainable, phase.terms, phase.route, o.weight_decay, o.clip, o.b2, o.rule,
                   o.momentum, o.schedule, phase.views, phase.augment)


def _sources(route: Route | Swap | Parallel) -> tuple[str | None, ...]:
    if isinstance(route, Parallel):
        return tuple(source for source, _, _ in route.segments)
    return (route.source,) if isinstance(route, Route) else ()


def guide_stages(program: Program) -> tuple[str, ...]:
    """The guide stages whose outputs a step reads, in order."""
    wanted = {name for term in program.terms for name in term.fn.guide} | set(_sources(program.route)) - {None}
    return tuple(sorted(wanted, key=functools.partial(position, program.guide)))


def guide_signals(guide: Network, guide_variables: Variables, x: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """{name: output} of these stages of the frozen guide; it runs no further than the last of them."""
    if not names:
        return {}
    _, captured, _ = forward(guide, guide_variables, x, stop=names[-1], capture=names)
    return jax.lax.stop_gradient(captured)


def _run_route(program: Program, variables: Variables, source: Any, key: jax.Array):
    """The target's part: a prefix that is frozen is run first, in evaluation mode, and not differentiated."""
    route, net = program.route, program.net
    capture = {name for term in program.terms for name in term.fn.target}
    start, stop = route.start or net.names[0], route.stop or net.names[-1]
    run = net.names[position(net, start): position(net, stop) + 1]
    live = [name for name in run if any(part.split("/")[0] == name for part in program.trainable)]
    frozen = run[: run.index(live[0])] if live else run
    activations: dict[str, Any] = {}
    if frozen:
        source, activations, _ = forward(net, variables, source, start=start, stop=frozen[-1],
                                         capture=tuple(capture & set(frozen)))
        source, activations = jax.lax.stop_gradient((source, activations))
    if not live:
        return source, activations, {}
    output, captured, statistics = forward(
        net, variables, source, train=True, start=live[0], stop=stop, key=key, capture=tuple(capture - set(activations)))
    return output, activations | captured, statistics


def _run_parallel(program: Program, variables: Variables, guide: dict[str, Any], tokens: jax.Array, key: jax.Array):
    """Each part by itself, from the guide's activation before it to the last of its stages."""
    activations, statistics, output = {}, {}, None
    for i, (source, start, stop) in enumerate(program.route.segments):
        output, _, changed = forward(program.net, variables, guide[source] if source else tokens, train=True, start=start,
                                     stop=stop, key=jax.random.fold_in(key, i))
        activations[stop] = output
        statistics |= changed
    return output, activations, statistics


def _run_swap(program: Program, variables: Variables, guide_variables: Variables, tokens, share, key: jax.Array):
    """The mixed network of BERT-of-Theseus: one draw a part and a batch. Each network reads the mix in its own shape."""
    for_target = for_guide = tokens
    statistics: dict[str, Any] = {}
    for i, ((g_first, g_last), (t_first, t_last)) in enumerate(program.route.groups):
        draw, dropout = jax.random.split(jax.random.fold_in(key, i))
        ours, _, changed = forward(program.net, variables, for_target, train=True, start=t_first, stop=t_last, key=dropout)
        theirs, _, _ = forward(program.guide, guide_variables, for_guide, start=g_first, stop=g_last)
        pick = functools.partial(jax.tree.map, functools.partial(jnp.where, jax.random.bernoulli(draw, share)))
        statistics |= changed
        if i < len(program.route.bridges):
            to_guide, to_target = program.route.bridges[i]
            for_target, for_guide = pick(ours, to_target(variables, theirs)), pick(to_guide(variables, ours), theirs)
        else:
            for_target = for_guide = pick(ours, theirs)
    return for_target, {}, statistics


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """What the first stage reads and what the loss compares with.

    batch: windows of tokens (B, T + 1), which predict themselves one position on, or a dict of "inputs" and "labels" (and of
    "guide", the guide's remembered outputs).
    """
    if isinstance(batch, dict):
        return batch["inputs"], batch["labels"]
    return batch[:, :-1].astype(jnp.int32), batch[:, 1:].astype(jnp.int32)


def loss_fn(program: Program, params, rest, guide_variables, batch, progress, key):
    """(loss, (terms, batch_stats)) of one batch (see `inputs_and_labels`); progress: (step, steps)."""
    variables = merge(rest, params)
    tokens, labels = inputs_and_labels(batch)
    if program.views:
        views, key = jax.random.split(key)
        tokens = two_views(tokens, program.views, views)
    if program.augment:
        draw, key = jax.random.split(key)
        tokens, labels = program.augment(tokens, labels, draw)
    remembered = isinstance(batch, dict) and "guide" in batch
    guide = batch["guide"] if remembered else guide_signals(program.guide, guide_variables, tokens, guide_stages(program))
    route = program.route
    if isinstance(route, Swap):
        share = schedules.swap_probability(*progress, begin=route.begin, full=route.full)
        output, target, statistics = _run_swap(program, variables, guide_variables, tokens, share, key)
        suffix = None
    elif isinstance(route, Parallel):
        output, target, statistics = _run_parallel(program, variables, guide, tokens, key)
        suffix = None
    else:
        source = guide[route.source] if route.source else tokens
        output, target, statistics = _run_route(program, variables, source, key)
        suffix = forward(program.guide, guide_variables, output, start=route.suffix)[0] if route.suffix else None
    signals = Signals(labels, output, target, guide, suffix, variables)
    terms = {term.name: term.fn(signals) for term in program.terms}
    loss = sum(term.weight * terms[term.name] for term in program.terms)
    return loss, (terms, statistics)


def chunk(program: Program, params, rest, guide_variables, opt_state, keys, examples, stored, indices, begin, steps, rate):
    """K steps of S seeds. indices: (S, K, B) int32 rows of the examples' leaves (N, ...); begin, steps, rate: scalars.

    stored: leaves (S, N, ...), each seed's own "inputs" in place of the examples'; {} when there are none.

    Steps numbered `steps` and up change nothing, so that a phase's last chunk runs through the same program.
    Returns (params, statistics, opt_state, metrics): statistics are the batch statistics of trained stages;
    metrics: {name: (S, K) float32}, zero where nothing was done.
    """
    tx = transformation(program)

    def one_seed(args):
        params, rest, opt_state, key, stored, indices = args
        given = {**examples, "inputs": stored} if jax.tree.leaves(stored) else examples

        def update(carry, inputs):
            params, statistics, opt_state = carry
            step, rows = inputs
            (loss, (terms, changed)), gradient = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)(
                program, params, merge(rest, statistics), guide_variables, jax.tree.map(lambda leaf: leaf[rows], given),
                (step, steps), jax.random.fold_in(key, step))
            factor = rate * schedules.SCHEDULES[program.schedule](step, steps)
            updates, opt_state = tx.update(gradient, opt_state, params)
            params = optax.apply_updates(params, jax.tree.map(lambda u: -factor * u, updates))
            statistics = {name: {"batch_stats": changed[name]} for name in statistics}
            return (params, statistics, opt_state), {"loss": loss, **terms, "gradient_norm": optax.global_norm(gradient)}

        def advance(carry, inputs):
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(update, carry, inputs)[1])
            return jax.lax.cond(inputs[0] < steps, update, lambda carry, _: (carry, nothing), carry, inputs)

        trained = {part.split("/")[0] for part in program.trainable}
        statistics = {name: {"batch_stats": tree["batch_stats"]} for name, tree in rest.items()
                      if name in trained and "batch_stats" in tree}
        numbers = begin + jnp.arange(indices.shape[0])
        (params, statistics, opt_state), metrics = jax.lax.scan(
            advance, (params, statistics, opt_state), (numbers, indices))
        return params, statistics, opt_state, metrics

    return over_seeds(one_seed, (params, rest, opt_state, keys, stored, indices))


def over_seeds(fn: Callable[[Any], Any], stacked: Any) -> Any:
    """fn over the leading seed axis of every leaf: vmap on an accelerator, one after the other on a CPU."""
    return jax.lax.map(fn, stacked) if jax.default_backend() == "cpu" else jax.vmap(fn)(stacked)


BLOCK = 512  # examples a forward pass: enough to fill a device, few enough for its memory


def block_count(x: Any) -> int:
    """How many blocks `in_blocks` cuts x in."""
    count = len(jax.tree.leaves(x)[0])
    return -(-count // min(BLOCK, count))


def in_blocks(fn: Callable[[Any], Any], x: Any) -> Any:
    """fn over x (leaves (N, ...)) in blocks of at most BLOCK rows, as one: fn must treat rows by themselves.

    The last block is filled up with zeros, whose results are dropped.
    """
    count, blocks = len(jax.tree.leaves(x)[0]), block_count(x)
    size = -(-count // blocks)
    cut = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, blocks * size - count)] + [(0, 0)] * (leaf.ndim - 1)).reshape(
        blocks, size, *leaf.shape[1:]), x)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], jax.lax.map(fn, cut))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled chunk: run(params, rest, ...), the FLOPs of one step of one seed, and seconds spent compiling."""

    run: Callable[..., Any]
    step_flops: float
    seconds: float


def compiled_chunk(program: Program, *args: Any) -> Compiled:
    """The compiled chunk for arguments like these, made once per program and shapes; it refuses other shapes.

    A compilation is announced through the logger "theseus_jax"; silence means that the program was at hand.
    """
    leaves, structure = jax.tree.flatten(args)
    return _compile(program, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.lru_cache(maxsize=64)
def _compile(program: Program, structure: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> Compiled:
    begin = time.perf_counter()
    LOG.info("compiling the step that trains %s", ", ".join(program.trainable))
    args = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    run = functools.partial(chunk, program)
    compiled = jax.jit(run, donate_argnums=(0, 3)).lower(*args).compile()
    # The loops over steps and seeds are counted once by XLA, which makes its count that of one step of one seed (vmap
    # runs all seeds in one body); loops inside a step, such as an RNN's, and decompositions have to be added.
    seeds = 1 if jax.default_backend() == "cpu" else args[4].shape[0]
    return Compiled(compiled, cost.compiled_flops(compiled, run, *args) / seeds + _step_uncounted(program, args),
                    time.perf_counter() - begin)


def _step_uncounted(program: Program, args: tuple[Any, ...]) -> float:
    params, rest, guide_variables, _, _, examples, stored, indices, _, _, _ = args
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (params, rest))
    if jax.tree.leaves(stored):
        examples = {**examples, "inputs": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stored)}
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((indices.shape[2], *leaf.shape[1:]), leaf.dtype), examples)

    def step(params, rest, guide_variables, batch):
        return jax.grad(loss_fn, argnums=1, has_aux=True)(
            program, params, rest, guide_variables, batch, (jnp.zeros(()), jnp.ones(())), jax.random.key(0))

    return cost.uncounted(jax.make_jaxpr(step)(*one, guide_variables, batch).jaxpr)
