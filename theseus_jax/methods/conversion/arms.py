"""The arms of a conversion's run: a guide, the network that it is converted into, every control,
and controls as long as the conversion's FLOPs last.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.arms import GUIDE, OURS, Arm, Turn
from theseus_jax.feeds import Feed
from theseus_jax.methods import baselines, convert
from theseus_jax.methods.conversion.config import check, chosen_metric
from theseus_jax.methods.plasticity.within import Within
from theseus_jax.methods.probes import StageProbe
from theseus_jax.methods.recalibrate import Recalibrate
from theseus_jax.nets.decode import state_bytes
from theseus_jax.nets.stage import Network, Variables, variable_shapes
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase, Plan, reads_labels
from theseus_jax.records import training_flops

LONGER = "_equal_flops"


class Pair(NamedTuple):
    """What every arm is made of. inside: how units of the target come and go; target: as it is
    trained first; shapes: its variables.
    """

    config: Any
    task: Any
    inside: Within
    guide: Network
    target: Network
    mapping: convert.Mapping
    shapes: dict[str, Any]

    def optimizer(self, rate: float) -> Optimizer:
        return Optimizer(rate, self.config.train.weight_decay, self.config.train.clip)

    def settings(self) -> convert.Settings:
        c = self.config.convert
        return convert.Settings(
            schedule=c.schedule,
            metric=chosen_metric(self.config),
            steps=c.steps,
            align=c.align,
            samples=c.samples,
            finish_kl=c.finish_kl,
            finish_align=c.finish_align,
            temperature=self.config.controls.temperature,
            inherit=tuple(c.inherit),
            keep=tuple(c.keep),
            decays=c.decays,
            weights=c.weights,
            transfer=c.transfer,
            train_inherited=c.train_inherited,
            stitch=c.stitch,
            align_optimizer=self.optimizer(c.align_rate),
            finish_optimizer=self.optimizer(c.finish_rate),
            ridge=c.stitch_ridge,
            stitch_rank=c.stitch_rank,
            recalibrate=c.recalibrate,
            augment=self.augment,
            remember=self.config.train.remember,
        )

    @property
    def augment(self) -> Any:
        return self.task.transforms[0] if self.task.transforms else None


def pair_of(config: Any, task: Any) -> Pair:
    """Both networks of a checked config and their mapping. Raises UserError."""
    check(config, task)
    guide, target = task.pair()
    inside = Within(target, task.example, **config.elastic)
    mapping = convert.parse_mapping(config.convert.mapping, guide, target, task.example)
    shapes = variable_shapes(inside.wide, task.example)
    return Pair(config, task, inside, guide, inside.wide, mapping, shapes)


def network(config: Any, task: Any, model: str) -> Network:
    """The network of a model, whatever else the config says."""
    if model == "guide":
        return task.guide()
    narrow = Within(task.target(), task.example, **config.elastic).narrow
    return _cut(task, narrow) if model.removesuffix(LONGER) in baselines.WINDOWS else narrow


def arms(config: Any, task: Any) -> tuple[Arm, ...]:
    """The guide, the converted network, the controls, then controls prolonged to the conversion's
    FLOPs where those are more. Raises UserError.
    """
    pair = pair_of(config, task)
    guide = Arm("guide", pair.guide, role=GUIDE, seeds=1)
    if config.guide.origin == "trained":
        guide = guide._replace(plan=functools.partial(_guide_plan, pair))
    else:
        guide = guide._replace(solve=functools.partial(_begin, pair))
    ours = _arm(pair, "converted", functools.partial(_plan, pair))._replace(role=OURS)
    controls = [
        (_windowed if name in baselines.WINDOWS else _rival)(pair, name)
        for name in config.controls.names
    ]
    longer = [
        arm._replace(
            name=f"{arm.name}{LONGER}",
            plan=functools.partial(_longer, pair, arm),
            prolongs=arm.name,
        )
        for arm in controls
        if arm.plan
    ]
    return (guide, ours, *controls, *(longer if config.controls.equal_flops else ()))


def _arm(pair: Pair, name: str, plan: Any) -> Arm:
    """An arm beside the guide. Where no loss reads labels, it may use examples without any."""
    labels = reads_labels(plan(Turn()))
    examples = "all" if name == "supervised" else "share" if labels else "unlabelled"
    net = pair.inside.narrow
    return Arm(name, net, plan, guide="guide", examples=examples, labels=labels)


def _rival(pair: Pair, name: str) -> Arm:
    return _arm(pair, name, functools.partial(_control, pair, name))


def _windowed(pair: Pair, name: str) -> Arm:
    """The guide with its attention cut to the bytes of the target's state: as it is, or distilled
    from the whole one.
    """
    net = _cut(pair.task, pair.inside.narrow)
    if name == "window":
        return Arm(name, net, solve=_as_it_is, guide="guide", examples="share")
    cut = pair._replace(
        inside=Within(net, pair.task.example),
        target=net,
        mapping=tuple((one, one) for one in net.names[1:-1]),
        shapes=variable_shapes(net, pair.task.example),
    )
    plan = functools.partial(_control, cut, name)
    return _arm(cut, name, plan)


def _cut(task: Any, target: Network) -> Network:
    """The guide with its attention cut to the bytes of the target's state."""
    return task.windowed(state_bytes(target, task.example.shape[-1]))


def _as_it_is(turn: Turn) -> Variables:
    """The guide's variables for every seed."""
    count = len(turn.seeds)
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], count, axis=0), turn.done["guide"])


def _guide_plan(pair: Pair, turn: Turn) -> Plan:
    shapes, c = variable_shapes(pair.guide, pair.task.example), pair.config.guide
    task = (Term("cross_entropy", 1.0, CrossEntropy()),)
    return (
        Phase(
            "train",
            pair.guide,
            convert.whole(pair.guide, shapes),
            task,
            c.steps,
            Feed(transforms=pair.task.transforms),
            pair.optimizer(c.learning_rate),
        ),
    )


def _begin(pair: Pair, turn: Turn) -> Variables:
    return pair.task.begin(pair.guide, turn.fresh(pair.guide), turn.sets)


def _plan(pair: Pair, turn: Turn) -> Plan:
    c, few = pair.config.convert, pair.config.report.hybrid_examples
    probe = None
    if turn.real:
        held = turn.sets.validation
        probe = StageProbe(
            held.part(few) if few else held,
            neighbours=c.neighbours,
            kind=c.samples,
            ridge_weight=c.stitch_ridge,
            rank=c.stitch_rank,
            recalibrate=Recalibrate(None, c.recalibrate) if c.recalibrate else None,
        )
    held = turn.sets.validation if turn.real else None
    settings = dataclasses.replace(pair.settings(), held=held)
    made = convert.plan(
        pair.guide, pair.target, pair.mapping, settings, shapes=pair.shapes, probe=probe
    )
    return pair.inside(made)


def _control(pair: Pair, name: str, turn: Turn, steps: int = 0) -> Plan:
    c, settings = pair.config.controls, pair.settings()
    if name in baselines.WINDOWS:  # everything is the guide's
        parts = convert.whole(pair.target, pair.shapes)
        settings = dataclasses.replace(
            settings, inherit=parts, keep=(), decays="fresh", weights="fresh", transfer=0
        )
    made = baselines.plan(
        name,
        pair.guide,
        pair.target,
        pair.mapping,
        baselines.Settings(
            steps or settings.steps,
            pair.optimizer(c.rates[name]),
            settings.inherit,
            settings.keep,
            settings.decays,
            settings.weights,
            settings.transfer,
            c.kl,
            settings.temperature,
            c.hint_share,
            settings.stitch_rank,
            settings.augment,
            settings.remember,
        ),
        example=pair.task.example,
    )
    return pair.inside(made)


def _longer(pair: Pair, arm: Arm, turn: Turn) -> Plan:
    """A control's plan with as many steps as the conversion's FLOPs are worth, none where those are
    fewer than it had.
    """
    if not turn.real:
        return ()
    rows, steps = turn.rows(), pair.config.convert.steps
    ratio = training_flops(rows, "converted") / training_flops(rows, arm.name)
    if ratio <= 1.0:
        return ()
    return arm.plan(turn, steps=math.ceil(steps * ratio))
