"""A checked config and its two networks -> mapping, plans, their rehearsal and their outline, for every task that converts."""
from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from theseus_jax import cost
from theseus_jax.errors import UserError
from theseus_jax.experiment.checks import lookup
from theseus_jax.feeds import Feed
from theseus_jax.methods import baselines, convert
from theseus_jax.methods.surgery import stitch_bridge
from theseus_jax.nets.adapters import adapter_count
from theseus_jax.nets.stage import Network, forward, partition, seams, values_and_mask, variable_shapes
from theseus_jax.objectives import CrossEntropy, Side, Term
from theseus_jax.plan import Optimizer, Phase, Plan, describe, sides
from theseus_jax.program import constant_terms, program_of
from theseus_jax.similarity import metric
from theseus_jax.trees import parameter_count


class Case(NamedTuple):
    """Two networks and what they read. example: one input, (1, ...) ShapeDtypeStructs. batch: a training batch, likewise.

    words: the sizes that decide whether seams fit, for errors. augment: a transform of every batch, or None.
    """

    guide: Network
    target: Network
    example: Any
    batch: Any
    words: str
    augment: Any = None


class Setup(NamedTuple):
    """All that a run is before it reads data. shapes: the target's variables; plans: by model name, guide first."""

    case: Case
    mapping: convert.Mapping
    shapes: dict[str, Any]
    plans: dict[str, Plan]

    @property
    def guide(self) -> Network:
        return self.case.guide

    @property
    def target(self) -> Network:
        return self.case.target


def check_conversion(config: Any) -> None:
    """Raises UserError, one line, for the first value of the sections that all conversions share that cannot be meant."""
    if not 0 <= config.convert.align < 1:
        raise UserError(f"config.convert.align is {config.convert.align:g}, a share of the steps in [0, 1); 0.5 is usual")
    for path in ("convert.finish_kl", "controls.kl"):
        if not 0 <= lookup(config, path) <= 1:
            raise UserError(f"config.{path} is {lookup(config, path):g}, a share of the loss; give a number in [0, 1]")
    if config.controls.temperature <= 0:
        raise UserError(f"config.controls.temperature is {config.controls.temperature:g}; give a temperature above 0")
    if config.guide.origin == "trained" and config.guide.steps < 1:
        raise UserError("config.guide.steps is 0 with a trained guide; raise it, or set guide.origin to 'untrained'")
    unknown = [name for name in config.controls.names if name not in baselines.CONTROLS]
    if unknown:
        raise UserError(f"config.controls.names has {', '.join(unknown)}; choose from {', '.join(baselines.CONTROLS)}")


def check_samples(config: Any, samples: dict[str, int]) -> None:
    """samples: how many a batch gives, for each kind. Raises UserError where that is too few for the metric."""
    given, needed = samples[config.convert.samples], chosen_metric(config).minimum_samples
    if given < needed:
        raise UserError(f"{config.convert.metric} needs at least {needed} samples and a batch gives {given} "
                        f"({config.convert.samples}); raise train.batch or set convert.samples to 'tokens'")


def chosen_metric(config: Any):
    """The similarity that a config's alignment uses."""
    return metric(config.convert.metric, k=config.convert.neighbours, temperature=config.convert.metric_temperature)


def prepare(config: Any, case: Case, *, probe: Any = None) -> Setup:
    """Mapping and plans of a checked config; probe: see `convert.plan`. Raises UserError."""
    mapping = convert.parse_mapping(config.convert.mapping, case.guide, case.target, case.example)
    shapes = variable_shapes(case.target, case.example)
    plans = {"guide": _guide_plan(config, case)} if config.guide.origin == "trained" else {}
    plans["converted"] = convert.plan(case.guide, case.target, mapping, _settings(config, case.augment), shapes=shapes, probe=probe)
    made = Setup(case, mapping, shapes, plans)
    for name in config.controls.names:
        plans[name] = control_plan(config, name, made, config.convert.steps)
    return made


def control_plan(config: Any, name: str, made: Setup, steps: int) -> Plan:
    """The plan of one control for a number of steps."""
    c = config.controls
    return baselines.plan(
        name, made.guide, made.target, made.mapping, example=made.case.example, steps=steps, optimizer=_optimizer(config, c.rates[name]),
        inherit=tuple(config.convert.inherit), kl=c.kl, temperature=c.temperature, hint_share=c.hint_share,
        rank=config.convert.stitch_rank, augment=made.case.augment, remember=config.train.remember)


def _optimizer(config: Any, rate: float) -> Optimizer:
    return Optimizer(rate, config.train.weight_decay, config.train.clip)


def _guide_plan(config: Any, case: Case) -> Plan:
    shapes = variable_shapes(case.guide, case.example)
    return (Phase("train", case.guide, convert.whole(case.guide, shapes), (Term("cross_entropy", 1.0, CrossEntropy()),),
                  config.guide.steps, Feed(transforms=(case.augment,) if case.augment else ()),
                  _optimizer(config, config.guide.learning_rate)),)


def _settings(config: Any, augment: Any) -> convert.Settings:
    c = config.convert
    return convert.Settings(
        schedule=c.schedule, metric=chosen_metric(config), steps=c.steps, align=c.align, samples=c.samples,
        finish_kl=c.finish_kl, finish_align=c.finish_align,
        temperature=config.controls.temperature,
        inherit=tuple(c.inherit), train_inherited=c.train_inherited, stitch=c.stitch,
        align_optimizer=_optimizer(config, c.align_rate), finish_optimizer=_optimizer(config, c.finish_rate),
        ridge=c.stitch_ridge, stitch_rank=c.stitch_rank, recalibrate=c.recalibrate, augment=augment,
        remember=config.train.remember)


def side_variables(made: tuple[Side, ...], key: jax.Array) -> dict[str, Any]:
    """Fresh variables of the modules that only terms read, by name."""
    def zeros(given):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), given)

    return {side.name: side.module.init(jax.random.fold_in(key, i), zeros(side.given)) for i, side in enumerate(made)}


def rehearse(made: Setup) -> None:
    """Trace every phase on shapes alone, so that a pair that cannot work is refused before data is read.

    Raises UserError naming the model, the phase and what does not fit.
    """
    case, key = made.case, jax.random.key(0)
    guide = variable_shapes(made.guide, case.example)
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), made.shapes)
    for name, plan in made.plans.items():
        extra = jax.eval_shape(functools.partial(side_variables, sides(plan)), key)
        for phase in plan:
            try:
                for edit in phase.edits:
                    if hasattr(edit, "check"):
                        edit.check(phase.net, stacked, guide)
                params, rest = partition((guide if name == "guide" else made.shapes) | extra, phase.trainable)
                idle = constant_terms(program_of(phase), params, rest, guide, case.batch)
                if idle:
                    raise UserError(f"{name}, phase {phase.name}: the term {idle[0]} depends on nothing that is trained "
                                    f"({', '.join(phase.trainable)}); leave it out, or train what it reads")
            except UserError:
                raise
            except (ValueError, TypeError, FlaxError) as error:
                raise UserError(f"{name}, phase {phase.name}, cannot run on these networks: {_first_sentence(error)}; {case.words}: "
                                "make the seams fit or choose another schedule or metric") from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200]


def outline(config: Any, made: Setup, unit: str) -> str:
    """plan.txt: both networks with shapes at each seam and exact parameters, the mapping and its stitches, every arm's phases.

    unit: what a batch consists of. Raises UserError for a seam that no bridge can stitch.
    """
    lines, shapes = [], {}
    for name, net in (("guide", made.guide), ("target", made.target)):
        shapes[name] = variable_shapes(net, made.case.example)
        work = cost.lowered_flops(lambda v, z, net=net: forward(net, v, z)[0], shapes[name], made.case.example)
        inside = adapter_count(shapes[name])
        lines.append(f"{name}: {parameter_count(shapes[name]):,} parameters" + (f" ({inside:,} in adapters)" if inside else "")
                     + f", about {work:,.0f} FLOPs per example (before optimisation)")
        for stage, out in seams(net, made.case.example).items():
            count = parameter_count(shapes[name].get(stage, {}))
            values = values_and_mask(out)[0]
            lines.append(f"  {stage:<10} {type(dict(zip(net.names, net.stages))[stage].module).__name__:<14} "
                         f"{count:>12,} parameters   -> {'x'.join(map(str, ('B', *values.shape[1:])))} {values.dtype}")
    lines.append("seams (guide = target): " + ", ".join(f"{g} = {t}" for g, t in made.mapping))
    if config.convert.stitch == "ridge":
        lines += [f"  {_stitch_line(config, made, shapes, pair)}" for pair in made.mapping]
    lines.append(f"seeds {config.seeds}, batch {config.train.batch} {unit}")
    for name, plan in made.plans.items():
        lines.append(f"\n[{name}] {sum(phase.steps for phase in plan)} optimizer steps\n{describe(plan)}")
    return "\n".join(lines) + "\n"


def _stitch_line(config: Any, made: Setup, shapes: dict[str, Any], pair: tuple[str, str]) -> str:
    bridge = stitch_bridge(made.target, shapes["target"], made.guide, shapes["guide"], made.case.example, pair,
                           config.convert.stitch_rank)
    given = seams(made.target, made.case.example)[pair[1]]
    count = parameter_count(jax.eval_shape(bridge.init, jax.random.key(0), given))
    how = f"rank {bridge.rank} between whole activations" if bridge.rank else "position by position" if len(
        bridge.shape) > 1 else "vector to vector"
    width = math.prod(values_and_mask(given)[0].shape[1:])
    return f"stitch {pair[1]} ({width} numbers) -> {pair[0]} ({math.prod(bridge.shape)}): {how}, {count:,} fitted numbers"
