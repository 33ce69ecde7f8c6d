"""The programs that benchmarks/guided_step.py times: some steps of training a target beside a
frozen guide, by the compiled chunk that training runs and in PyTorch, and both guides alone.

Each is a function of nothing that takes K steps and returns {name: (K,)} of what they measured.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.chunk import Moving, Still, compiled_chunk
from theseus_jax.cost import flops
from theseus_jax.edits import fresh_optimizer
from theseus_jax.experiment import engine
from theseus_jax.feeds import Cached
from theseus_jax.frozen import Memory, with_guide
from theseus_jax.methods.guide import Guided
from theseus_jax.nets.stage import Variables, init
from theseus_jax.nets.variables import partition
from theseus_jax.plan import Phase
from theseus_jax.program import Program, guide_signals, guide_stages, loss_fn, program_of
from theseus_jax.similarity import samples
from theseus_jax.train import State

RATE = 1e-4  # so small that times are of the networks as they begin
Run = Callable[[], dict[str, np.ndarray]]


class Bench(NamedTuple):
    """Both networks, fresh weights of each, pictures, and the rows of every step's batch (K, B)."""

    both: Guided
    target: Variables
    guide: Variables
    examples: dict[str, np.ndarray]
    rows: np.ndarray


def built(config: Any, steps: int) -> Bench:
    """The networks of a config of configs/guide_deep_fcn.py, and K batches."""
    task, _ = engine.parts(config)
    both, count = Guided(config, task, *task.pair()), config.train.batch
    target, guide = (
        init(net, jax.random.key(i), task.example)
        for i, net in enumerate((both.target, both.guide))
    )
    rows = np.arange(steps * count, dtype=np.int32).reshape(steps, count)
    return Bench(both, target, guide, drawn(rows.size, task.classes), rows)


def drawn(count: int, classes: int) -> dict[str, np.ndarray]:
    """Pictures (N, 28, 28, 1) uint8 of 7 x 7 random patches, which pooling does not average away,
    and labels.
    """
    draw = np.random.default_rng(0)
    patches = np.kron(draw.integers(0, 256, (count, 7, 7)), np.ones((1, 4, 4)))
    return {
        "inputs": patches[..., None].astype(np.uint8),
        "labels": draw.integers(0, classes, count).astype(np.int32),
    }


def phase_of(bench: Bench, metric: str = "", kept: bool = False) -> Phase:
    """The phase of a guided arm without its watch, at a constant rate; metric "": the target alone.

    kept: with the guide's outputs computed before the first step, as `guidance.remember` does.
    """
    both = bench.both
    both.config.guidance.metric = metric or both.config.guidance.metric
    name = "guided_trained" if metric else "baseline"
    settings = both.settings(name, RATE, len(bench.rows))
    (phase,) = both.plan(both.target, both.guide, settings)
    cached = (Cached("guide", pooled=settings.samples == "pooled"),) if kept else ()
    return dataclasses.replace(
        phase,
        feed=dataclasses.replace(phase.feed, transforms=(), cached=cached),
        optimizer=dataclasses.replace(phase.optimizer, schedule="constant"),
        watches=(),
    )


def ours(bench: Bench, phase: Phase) -> Run:
    """Training by the compiled chunk; every call goes on where the one before stopped."""
    variables = jax.tree.map(lambda leaf: jnp.array(leaf)[None], bench.target)
    params, rest = partition(variables, phase.trainable)
    keys = jax.random.split(jax.random.key(1), 1)
    guide = bench.guide if phase.feed.guide else {}
    examples = jax.tree.map(jnp.asarray, bench.examples)
    if phase.feed.cached:
        state, nothing = State(0, variables, guide, None, keys), Memory({}, set())
        examples = with_guide("bench", phase, state, examples, nothing, lambda row: None)
    begin, end, steps = (jnp.asarray(n, jnp.int32) for n in (0, phase.steps, phase.steps))
    rows, rate = jnp.asarray(bench.rows)[None], jnp.asarray(RATE, jnp.float32)
    still = Still(rest, guide, keys, examples, {}, rows, begin, end, steps, rate, {})
    moving = [Moving(params, fresh_optimizer(phase, variables))]
    compiled = compiled_chunk(program_of(phase), moving[0], still)

    def run() -> dict[str, np.ndarray]:
        done = jax.block_until_ready(compiled.run(moving.pop(), still))
        moving.append(Moving(done.params, done.opt_state))
        return {name: np.asarray(values)[0] for name, values in done.metrics.items()}

    return run


def our_guide(bench: Bench) -> Run:
    """The guide's forward passes alone, in one scan, with the means that samples are."""
    both, names = bench.both, guide_stages(program_of(phase_of(bench, "cka_biased")))
    batches = jnp.asarray(bench.examples["inputs"][bench.rows])

    def one(variables: Variables, x: jax.Array) -> jax.Array:
        signals = guide_signals(both.guide, variables, x, names)
        kind = both.config.guidance.samples
        return sum(samples(z, kind=kind)[0].sum() for z in signals.values())

    scanned = lambda v, xs: jax.lax.scan(lambda c, x: (c, one(v, x)), 0, xs)[1]  # noqa: E731
    compiled = jax.jit(scanned).lower(bench.guide, batches).compile()
    return lambda: {"sums": np.asarray(compiled(bench.guide, batches))}


def peer_settings(bench: Bench) -> dict[str, float]:
    """Weight, rate, clip and b2 that a peer's step is given: those of ours."""
    ours = bench.both.settings("guided_trained", RATE, 1)
    clip, b2 = ours.optimizer.clip, ours.optimizer.b2
    return {"weight": ours.weight, "rate": RATE, "clip": clip, "b2": b2}


def torch_programs(bench: Bench) -> dict[str, Run]:
    """The peers, from weights equal to ours: the step in both forms, and the guide alone."""
    import torch

    from launch import torch_guided as peer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config, task = bench.both.config, bench.both.task
    shape, t = task.reading.shape, config.target

    def pair() -> tuple[Any, Any]:
        nets = (
            peer.resnet18(shape[-1], config.guide.width, task.classes),
            peer.mlp(int(np.prod(shape)), t.width, t.depth, t.norm == "batch", task.classes),
        )
        for net, variables in zip(nets, (bench.guide, bench.target)):
            peer.load(net, jax.tree.map(np.asarray, variables))
        return nets

    make = functools.partial(peer.stepper, pairs=bench.both.pairs, **peer_settings(bench))
    steps = {
        "published": make(*pair(), lean=False),
        "lean": make(*pair(), lean=True),
        "torch_guide": peer.guide_alone(pair()[0], bench.both.pairs),
    }

    def run(step: Callable) -> dict[str, np.ndarray]:
        x, labels = bench.examples["inputs"], bench.examples["labels"].astype(np.int64)
        done = [step(x[rows], labels[rows]) for rows in bench.rows]
        return {name: np.asarray([one[name] for one in done]) for name in done[0]}

    return {name: functools.partial(run, step) for name, step in steps.items()}


def counts(bench: Bench, metric: str = "") -> float:
    """FLOPs of a step's loss and gradient, compiled."""
    return _counted(bench, program_of(phase_of(bench, metric)))


def _counted(bench: Bench, program: Program) -> float:
    params, rest = partition(bench.target, program.trainable)
    slope = jax.value_and_grad(functools.partial(loss_fn, program), has_aux=True)
    guide, progress = bench.guide if program.guide else {}, (jnp.zeros(()), jnp.ones(()))
    batch = {name: jnp.asarray(values[bench.rows[0]]) for name, values in bench.examples.items()}
    return flops(slope, params, rest, guide, batch, progress, jax.random.key(0))


def guide_count(bench: Bench) -> float:
    """FLOPs of the guide's forward pass as far as a step runs it, compiled."""
    names = guide_stages(program_of(phase_of(bench, "cka_biased")))
    x = jnp.asarray(bench.examples["inputs"][bench.rows[0]])
    return flops(lambda v, x: guide_signals(bench.both.guide, v, x, names), bench.guide, x)
