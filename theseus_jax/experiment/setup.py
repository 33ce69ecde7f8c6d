"""Config -> networks, mapping and plans. Nothing here reads data or computes; what cannot work is refused by name."""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax.errors import FlaxError

from theseus_jax import cost
from theseus_jax.errors import UserError
from theseus_jax.experiment.checks import check_values, lookup
from theseus_jax.methods import baselines, convert
from theseus_jax.methods.surgery import Inherit
from theseus_jax.nets.gpt2 import gpt2
from theseus_jax.nets.recurrent import recurrent
from theseus_jax.nets.stage import Network, forward, init, partition, seams
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase, Plan, Stop, describe
from theseus_jax.program import loss_fn, program_of
from theseus_jax.similarity import METRICS, metric
from theseus_jax.train import State
from theseus_jax.trees import parameter_count

CHOICES = {
    "task": ("language_model",), "data.source": ("stdlib", "directory", "tfds"), "data.tokenizer": ("bytes", "bpe"),
    "guide.origin": ("trained", "untrained", "file"), "convert.samples": ("tokens", "sequences"),
    "convert.train_inherited": ("stage", "frozen"), "convert.stitch": ("ridge", "none"),
    "convert.schedule": convert.SCHEDULES,
    "convert.metric": tuple(name for name, entry in METRICS.items() if entry.differentiable),
}
POSITIVE = ("seeds", "data.context", "train.batch", "train.chunk", "guide.width", "guide.depth", "guide.heads",
            "target.width", "target.depth", "target.hidden", "convert.steps", "convert.neighbours",
            "convert.stop_patience", "report.sample_tokens", "report.latency_repeats")


class Setup(NamedTuple):
    """All that a run is before it reads data. shapes: the target's variables; plans: by model name, guide first."""

    guide: Network
    target: Network
    mapping: convert.Mapping
    shapes: dict[str, Any]
    plans: dict[str, Plan]


def check(config: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    check_values(config, CHOICES, POSITIVE)
    if not 0 <= config.convert.align < 1:
        raise UserError(f"config.convert.align is {config.convert.align:g}, a share of the steps in [0, 1); 0.5 is usual")
    for path in ("convert.finish_kl", "controls.kl"):
        if not 0 <= lookup(config, path) <= 1:
            raise UserError(f"config.{path} is {lookup(config, path):g}, a share of the loss; give a number in [0, 1]")
    if config.data.context < 2 or not config.report.prompt:
        raise UserError(f"config.data.context is {config.data.context} and config.report.prompt is {config.report.prompt!r}; a "
                        "sample needs a context of 2 tokens or more and a prompt that is not empty")
    if config.convert.stop_every < 0 or config.controls.temperature <= 0:
        raise UserError(f"config.convert.stop_every is {config.convert.stop_every} and config.controls.temperature "
                        f"{config.controls.temperature:g}; give 0 or more steps, and a temperature above 0")
    if config.guide.origin == "trained" and config.guide.steps < 1:
        raise UserError("config.guide.steps is 0 with a trained guide; raise it, or set guide.origin to 'untrained'")
    unknown = [name for name in config.controls.names if name not in baselines.CONTROLS]
    if unknown:
        raise UserError(f"config.controls.names has {', '.join(unknown)}; choose from {', '.join(baselines.CONTROLS)}")
    _check_samples(config)


def _check_samples(config: Any) -> None:
    tokens = config.train.batch * config.data.context
    given = tokens if config.convert.samples == "tokens" else config.train.batch
    needed = _metric(config).minimum_samples
    if given < needed:
        raise UserError(f"{config.convert.metric} needs at least {needed} samples and a batch gives {given} "
                        f"({config.convert.samples}); raise train.batch or set convert.samples to 'tokens'")


def _metric(config: Any):
    return metric(config.convert.metric, k=config.convert.neighbours, temperature=config.convert.metric_temperature)


def vocabulary(config: Any) -> int:
    """Tokens that both networks know: 256 bytes and a separator, or the BPE's."""
    return 257 if config.data.tokenizer == "bytes" else config.data.vocabulary


def build_guide(config: Any) -> Network:
    """The guide network of a config."""
    c = config.guide
    return gpt2(vocabulary=vocabulary(config), width=c.width, depth=c.depth, heads=c.heads,
                positions=c.positions or config.data.context, dropout=c.dropout)


def build_target(config: Any) -> Network:
    """The target network of a config; its seams have the guide's width when adapters are needed."""
    c = config.target
    return recurrent(vocabulary=vocabulary(config), width=c.width, depth=c.depth, hidden=c.hidden, kind=c.cell,
                     block=c.block, expansion=c.expansion, rank=c.adapter_rank,
                     seam_width=0 if c.width == config.guide.width else config.guide.width)


def example(config: Any) -> jax.ShapeDtypeStruct:
    """The shape of one window of tokens, (1, T) int32."""
    return jax.ShapeDtypeStruct((1, config.data.context), jnp.int32)


def prepare(config: Any, *, probe: Any = None) -> Setup:
    """Networks, mapping and plans of a checked config; probe: see `convert.plan`. Raises UserError."""
    check(config)
    guide, target = build_guide(config), build_target(config)
    mapping = convert.parse_mapping(config.convert.mapping, guide, target)
    shapes = jax.eval_shape(lambda key: init(target, key, jnp.zeros((1, config.data.context), jnp.int32)),
                            jax.random.key(0))
    plans = {"guide": _guide_plan(config, guide)} if config.guide.origin == "trained" else {}
    plans["converted"] = convert.plan(guide, target, mapping, _settings(config), shapes=shapes, probe=probe)
    for name in config.controls.names:
        plans[name] = control_plan(config, name, guide, target, mapping, shapes, config.convert.steps)
    return Setup(guide, target, mapping, shapes, plans)


def rehearse(config: Any, made: Setup) -> None:
    """Trace every phase on shapes alone, so that a pair that cannot work is refused before data is read.

    Raises UserError naming the model, the phase and what does not fit.
    """
    x = jnp.zeros((1, config.data.context), jnp.int32)
    guide = jax.eval_shape(lambda key: init(made.guide, key, x), jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), made.shapes)
    batch = jax.ShapeDtypeStruct((config.train.batch, config.data.context + 1), jnp.int32)
    for name, plan in made.plans.items():
        for phase in plan:
            try:
                for surgery in phase.before:
                    if isinstance(surgery, Inherit):
                        jax.eval_shape(lambda v, g, run=surgery: run(State(0, v, g, None, None), None).variables, stacked, guide)
                params, rest = partition(guide if name == "guide" else made.shapes, phase.trainable)
                jax.eval_shape(functools.partial(loss_fn, program_of(phase)), params, rest, guide, batch,
                               (jnp.zeros(()), jnp.ones(())), jax.random.key(0))
            except UserError:
                raise
            except (ValueError, TypeError, FlaxError) as error:
                raise UserError(f"{name}, phase {phase.name}, cannot run on these networks: {_first_sentence(error)}; the guide's "
                                f"width is {config.guide.width}, the target's {config.target.width}, its units "
                                f"{config.target.hidden}: make the seams fit or choose another schedule or metric") from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200]


def control_plan(config: Any, name: str, guide: Network, target: Network, mapping: convert.Mapping,
                 shapes: dict[str, Any], steps: int) -> Plan:
    """The plan of one control for a number of steps."""
    c = config.controls
    rate = {"from_scratch": c.scratch_rate, "distilled": c.distilled_rate, "one_shot": c.one_shot_rate,
            "one_shot_distilled": c.one_shot_distilled_rate}[name]
    return baselines.plan(name, guide, target, mapping, shapes=shapes, steps=steps, optimizer=_optimizer(config, rate),
                          inherit=tuple(config.convert.inherit), kl=c.kl, temperature=c.temperature)


def _optimizer(config: Any, rate: float) -> Optimizer:
    return Optimizer(rate, config.train.weight_decay, config.train.clip)


def _guide_plan(config: Any, guide: Network) -> Plan:
    return (Phase("train", guide, None, guide.names, (Term("cross_entropy", 1.0, CrossEntropy()),), config.guide.steps,
                  optimizer=_optimizer(config, config.guide.learning_rate)),)


def _settings(config: Any) -> convert.Settings:
    c = config.convert
    stop = Stop(c.stop_every, c.stop_gain, c.stop_patience) if c.stop_every else None
    return convert.Settings(
        schedule=c.schedule, metric=_metric(config), steps=c.steps, align=c.align, samples=c.samples,
        task_weight=c.task_weight, kl_weight=c.kl_weight, finish_kl=c.finish_kl, finish_align=c.finish_align,
        temperature=config.controls.temperature,
        inherit=tuple(c.inherit), train_inherited=c.train_inherited, stitch=c.stitch, stop=stop,
        align_optimizer=_optimizer(config, c.align_rate), finish_optimizer=_optimizer(config, c.finish_rate))


def outline(config: Any, made: Setup) -> str:
    """plan.txt: both networks with shapes at each seam and exact parameters, the mapping, and every arm's phases."""
    lines = []
    for name, net in (("guide", made.guide), ("target", made.target)):
        shapes = jax.eval_shape(lambda key, net=net: init(net, key, jnp.zeros((1, config.data.context), jnp.int32)),
                                jax.random.key(0))
        work = cost.lowered_flops(lambda v, z, net=net: forward(net, v, z)[0], shapes, example(config))
        lines.append(f"{name}: {parameter_count(shapes):,} parameters, about {work:,.0f} FLOPs per example (before optimisation)")
        for stage, out in seams(net, example(config)).items():
            count = parameter_count(shapes.get(stage, {}))
            lines.append(f"  {stage:<10} {type(dict(zip(net.names, net.stages))[stage].module).__name__:<14} "
                         f"{count:>12,} parameters   -> {'x'.join(map(str, ('B', *out.shape[1:])))} {out.dtype}")
    lines.append("seams (guide = target): " + ", ".join(f"{g} = {t}" for g, t in made.mapping))
    lines.append(f"seeds {config.seeds}, batch {config.train.batch} windows of {config.data.context} tokens")
    for name, plan in made.plans.items():
        lines.append(f"\n[{name}] {sum(phase.steps for phase in plan)} optimizer steps\n{describe(plan)}")
    return "\n".join(lines) + "\n"
