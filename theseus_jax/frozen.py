"""Outputs of what a phase leaves frozen, for all examples, computed once and kept (`feeds.Cached`):
a prefix of the target's stages, and the guide's. state: a `train.State`.
"""

from __future__ import annotations

import functools
import time
from typing import Any, Callable, NamedTuple

import jax

from theseus_jax import cost
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.nets.variables import partition
from theseus_jax.plan import Phase
from theseus_jax.program import (
    block_count,
    guide_signals,
    guide_stages,
    in_blocks,
    over_seeds,
    program_of,
)
from theseus_jax.similarity import samples

Log = Callable[[dict[str, Any]], None]


def prefix(name: str, phase: Phase, state: Any, examples: Any, log: Log) -> Any:
    """Each seed's outputs of the phase's frozen prefix for all examples, leaves (S, N, ...); {}
    when none is asked for.
    """
    kept = phase.feed.cache("target")
    if kept is None:
        return {}
    args = partition(state.variables, phase.trainable)[1], examples["inputs"]
    leaves, structure = jax.tree.flatten(args)
    run, flops = _compiled_prefix(
        phase.net, kept.stage, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    )
    began = time.monotonic()
    outputs = jax.block_until_ready(run(*args))
    log(
        {
            "kind": "stored",
            "model": name,
            "phase": phase.name,
            "seconds": (time.monotonic() - began) / len(state.key),
            "training_flops": flops,
        }
    )
    return outputs


class Memory(NamedTuple):
    """What `fit` keeps of guides from phase to phase. outputs: {(guide, stage, whether pooled):
    leaves (N, ...)}; charged: of which of them the cost was logged, by this process or by one that
    it goes on from.
    """

    outputs: dict[tuple[Network, str, bool], Any]
    charged: set[tuple[Network, str]]


def with_guide(name: str, phase: Phase, state: Any, examples: Any, memory: Memory, log: Log) -> Any:
    """The examples with what a step reads of the guide under "guide"."""
    guide, kept = phase.feed.guide, phase.feed.cache("guide")
    names = guide_stages(program_of(phase)) if kept else ()
    pooled = bool(kept and kept.pooled)
    missing = [stage for stage in names if (guide, stage, pooled) not in memory.outputs]
    for due in (True, False):
        group = tuple(stage for stage in missing if ((guide, stage) not in memory.charged) == due)
        if not group:
            continue
        args = state.guide_variables, examples["inputs"]
        leaves, structure = jax.tree.flatten(args)
        run, flops = _compiled_guide(
            guide, group, pooled, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        )
        began = time.monotonic()
        outputs = jax.block_until_ready(run(*args))
        # a run of one seed would have to do all of it, so every seed is charged with all of it
        if due:
            log(
                {
                    "kind": "stored",
                    "model": name,
                    "phase": phase.name,
                    "seconds": time.monotonic() - began,
                    "training_flops": flops,
                }
            )
        memory.outputs.update({(guide, stage, pooled): outputs[stage] for stage in group})
        memory.charged.update((guide, stage) for stage in group)
    return (
        {**examples, "guide": {stage: memory.outputs[guide, stage, pooled] for stage in names}}
        if names
        else examples
    )


@functools.lru_cache(maxsize=64)
def _compiled_guide(
    guide: Network,
    names: tuple[str, ...],
    pooled: bool,
    structure: Any,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
) -> Any:
    """The compiled pass over all examples, and its FLOPs."""

    def pool(activation: Any) -> Any:
        values, mask = values_and_mask(activation)
        return samples(values, kind="pooled", mask=mask)[0]

    def run(variables, inputs):
        def block(x):
            found = guide_signals(guide, variables, x, names)
            return {name: pool(one) for name, one in found.items()} if pooled else found

        return in_blocks(block, inputs)

    args = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    compiled = jax.jit(run).lower(*args).compile()
    return compiled, cost.compiled_flops(compiled, run, *args) * block_count(args[1])


@functools.lru_cache(maxsize=64)
def _compiled_prefix(
    net: Network, stop: str, structure: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]
) -> Any:
    """The compiled prefix and its FLOPs for one seed."""
    args = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    run = functools.partial(_prefix, net, stop)
    compiled = jax.jit(run).lower(*args).compile()
    # XLA counts the body of a loop once: the loop over blocks, and on a CPU that over seeds
    seeds = 1 if jax.default_backend() == "cpu" else jax.tree.leaves(args[0])[0].shape[0]
    return compiled, cost.compiled_flops(compiled, run, *args) * block_count(args[1]) / seeds


def _prefix(net: Network, stop: str, variables: Variables, inputs: Any) -> Any:
    def one_seed(variables):
        return in_blocks(lambda block: forward(net, variables, block, stop=stop)[0], inputs)

    return over_seeds(one_seed, variables)
