"""Network of Theseus (Subramaniam et al. 2025, arXiv 2512.04198) as plans: a guide becomes a target
part by part.

An independent implementation of the method with our own stated definitions. A mapping is a tuple of
seams (guide stage, target stage), in order: part s of a network is what lies after seam s - 1 up to
seam s. After the last seam stands the linear head of each. With activations a_s (guide) and b_s
(target) and d = 1 - similarity:

| schedule | stage s trains | loss | the trained part reads |
| --- | --- | --- | --- |
| progressive | parts 1..s | mean over i <= s of d(b_i, a_i) | the target's own prefix |
| sequential | part s | d(b_s, a_s) | the frozen target prefix |
| independent | part s | d(b_s, a_s) | the guide's a_{s-1} |
| parallel | all parts in one stage, each by itself | mean over i of d(b_i, a_i) | a_{i-1} |
| joint | all parts in one stage | mean over i of d(b_i, a_i) | the target's own prefix |
| one_shot | nothing | - | - |
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Sequence

from theseus_jax.errors import UserError
from theseus_jax.feeds import Cached, Feed, Segments, Whole
from theseus_jax.methods.begin import inherited
from theseus_jax.methods.mapping import (
    Mapping,
    auto_mapping,
    check_mapping,
    parse_mapping,
    part,
    stage_pairs,
    swap_groups,
)
from theseus_jax.methods.probes import StageProbe
from theseus_jax.methods.recalibrate import Recalibrate
from theseus_jax.methods.surgery import Fold
from theseus_jax.nets.stage import Network
from theseus_jax.objectives import Alignment, CrossEntropy, Distillation, Term
from theseus_jax.plan import Edit, Optimizer, Phase, Plan
from theseus_jax.similarity import NamedSimilarity, metric

__all__ = [
    "SCHEDULES",
    "Mapping",
    "Settings",
    "auto_mapping",
    "check_mapping",
    "feed",
    "parse_mapping",
    "part",
    "plan",
    "stage_pairs",
    "swap_groups",
    "whole",
]
SCHEDULES = ("progressive", "sequential", "independent", "parallel", "joint", "one_shot")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to convert. metric: a similarity or its name. steps: optimizer steps in all; align: the
    share of them spent before fine-tuning, over all stages.

    finish_kl: weight of distillation from the guide in fine-tuning; its cross-entropy has weight 1
    - finish_kl. finish_align: weight of the mean distance over all seams in fine-tuning. inherit:
    stages and submodules copied from the guide first, keep, decays, weights, transfer: see
    `begin.inherited`; train_inherited: "stage" lets them move
    during alignment, "frozen" only in fine-tuning. samples: what counts as one
    (`similarity.samples`). stitch: "ridge" or "none"; ridge: its penalty, stitch_rank: of a map
    between whole activations. recalibrate: examples behind the exact batch-norm statistics that
    replace the moving ones after each stage, 0 for none. augment: a transform of every batch
    (`feeds`), or None. remember: the guide's activations for all examples are computed once and
    kept (`feeds.Cached`).
    """

    schedule: str = "joint"
    metric: NamedSimilarity | str = "procrustes"
    steps: int = 500
    align: float = 0.5
    samples: str = "tokens"
    finish_kl: float = 0.0
    finish_align: float = 0.0
    temperature: float = 2.0
    inherit: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    decays: str = "fresh"
    weights: str = "fresh"
    transfer: int = 0
    held: Any = None
    train_inherited: str = "stage"
    stitch: str = "ridge"
    align_optimizer: Optimizer = Optimizer()
    finish_optimizer: Optimizer = Optimizer()
    ridge: float = 1e-4
    stitch_rank: int = 64
    recalibrate: int = 0
    augment: Any = None
    remember: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.metric, str):
            object.__setattr__(self, "metric", metric(self.metric))


def plan(
    guide: Network,
    target: Network,
    mapping: Mapping,
    settings: Settings,
    *,
    shapes: dict[str, Any],
    probe: StageProbe | None = None,
) -> Plan:
    """The phases of a conversion: alignment stages by the schedule, then fine-tuning of the whole
    target on the task.

    shapes: the target's variables as ShapeDtypeStructs (`jax.eval_shape` of `init`), to tell
    inherited parts from new ones. probe: measures the stage's similarity and its hybrid after each
    stage. Raises UserError for an unknown schedule, a mapping that does not fit, or steps that
    leave a stage without any.
    """
    if settings.schedule not in SCHEDULES:
        raise UserError(
            f"there is no schedule {settings.schedule!r}; choose one of {', '.join(SCHEDULES)}"
        )
    check_mapping(guide, target, mapping)
    pair = _Pair(guide, target, mapping, settings, shapes, probe)
    stages = _alignment(pair)
    used = sum(phase.steps for phase in stages)
    finish = settings.steps - used
    if finish < 1 or any(phase.steps < 1 for phase in stages):
        raise UserError(
            f"{settings.steps} steps with a share of {settings.align:g} for {len(stages)} alignment"
            " stages leave a phase without steps; raise convert.steps or change convert.align"
        )
    finetune = _finish(pair, finish, bool(stages))
    return tuple(
        dataclasses.replace(phase, edits=(*(_recalibrate(settings) if i else ()), *phase.edits))
        for i, phase in enumerate((*stages, finetune))
    )


def _finish(pair: _Pair, steps: int, aligned: bool) -> Phase:
    """Fine-tuning of the whole target; aligned: after alignment stages, whose last stitch goes into
    the head.
    """
    settings, guide = pair.settings, pair.guide
    fold = (
        (Fold(guide, pair.mapping[-1], settings.ridge),)
        if aligned and settings.stitch == "ridge"
        else ()
    )
    terms = (
        [Term("cross_entropy", 1.0 - settings.finish_kl, CrossEntropy())]
        if settings.finish_kl < 1
        else []
    )
    if settings.finish_kl:
        terms.append(
            Term("kl", settings.finish_kl, Distillation((guide.names[-1],), settings.temperature))
        )
    if settings.finish_align:
        terms.append(
            Term(
                "distance",
                settings.finish_align,
                Alignment(pair.mapping, settings.metric, settings.samples),
            )
        )
    return Phase(
        "finetune",
        pair.target,
        whole(pair.target, pair.shapes),
        tuple(terms),
        steps,
        pair.feed(Whole()),
        settings.finish_optimizer,
        edits=fold if aligned else pair.inherit,
    )


class _Pair(NamedTuple):
    """What every phase of a conversion is made of."""

    guide: Network
    target: Network
    mapping: Mapping
    settings: Settings
    shapes: dict[str, Any]
    probe: StageProbe | None

    @property
    def inherit(self) -> tuple[Edit, ...]:
        pairs = stage_pairs(self.guide, self.target, self.mapping)
        return inherited(self.guide, pairs, self.settings, self.settings.held)

    def feed(self, route: Any) -> Feed:
        return feed(self.guide, route, self.settings)

    def part(self, s: int) -> tuple[str, ...]:
        return part(self.target, self.mapping, s, 1)

    def probes(self, seams: Sequence[tuple[str, str]]) -> tuple[StageProbe, ...]:
        return (
            tuple(dataclasses.replace(self.probe, pair=seam) for seam in seams)
            if self.probe
            else ()
        )


def feed(guide: Network, route: Any, settings: Any) -> Feed:
    """What a phase beside a guide reads; settings: with `augment` and `remember`."""
    return Feed(
        guide,
        route,
        (settings.augment,) if settings.augment else (),
        (Cached("guide"),) if settings.remember else (),
    )


def _recalibrate(settings: Settings) -> tuple[Recalibrate, ...]:
    return (Recalibrate(None, settings.recalibrate),) if settings.recalibrate else ()


def whole(net: Network, shapes: dict[str, Any]) -> tuple[str, ...]:
    """Every stage that has parameters, in order."""
    return tuple(name for name in net.names if shapes.get(name, {}).get("params"))


def _trainable(names: Sequence[str], settings: Settings, shapes: dict[str, Any]) -> tuple[str, ...]:
    """Parameter prefixes of these stages, less what was inherited where that is to stay frozen
    during alignment.
    """
    if settings.train_inherited == "stage":
        return tuple(name for name in names if shapes.get(name, {}).get("params"))
    chosen: list[str] = []
    for name in names:
        inside = [
            key for key in shapes.get(name, {}).get("params", {}) if key not in settings.inherit
        ]
        chosen += [] if name in settings.inherit else [f"{name}/{key}" for key in inside]
    return tuple(chosen)


def _alignment(pair: _Pair) -> Plan:
    settings, count = pair.settings, len(pair.mapping)
    budget = int(settings.align * settings.steps)
    if settings.schedule == "one_shot":
        return ()
    if settings.schedule in ("joint", "parallel"):
        stage = _stage(pair, range(count), count - 1, budget)
        stage = dataclasses.replace(
            stage, name="align", edits=pair.inherit, probes=pair.probes(pair.mapping)
        )
        return (stage if settings.schedule == "joint" else _parallel(pair, stage),)
    phases = []
    for s in range(count):
        trained = range(s + 1) if settings.schedule == "progressive" else range(s, s + 1)
        stage = _stage(pair, trained, s, budget // count)
        phases.append(dataclasses.replace(stage, edits=() if s else pair.inherit))
    return tuple(phases)


def _stage(pair: _Pair, parts: Sequence[int], s: int, steps: int) -> Phase:
    """One alignment phase: trains `parts`, compares their seams, runs the target no further than
    seam s.
    """
    settings, mapping = pair.settings, pair.mapping
    independent = settings.schedule == "independent"
    route = Whole(
        start=pair.part(s)[0] if independent else None,
        stop=mapping[s][1],
        source=mapping[s - 1][0] if independent and s else None,
    )
    distance = Alignment(tuple(mapping[i] for i in parts), settings.metric, settings.samples)
    names = [name for i in parts for name in pair.part(i)]
    return Phase(
        f"align_{s + 1}",
        pair.target,
        _trainable(names, settings, pair.shapes),
        (Term("distance", 1.0, distance),),
        steps,
        pair.feed(route),
        settings.align_optimizer,
        probes=pair.probes(mapping[s : s + 1]),
    )


def _parallel(pair: _Pair, stage: Phase) -> Phase:
    """The joint stage with every part fed by the guide."""
    segments = tuple(
        (pair.mapping[s - 1][0] if s else None, pair.part(s)[0], pair.mapping[s][1])
        for s in range(len(pair.mapping))
    )
    return dataclasses.replace(stage, feed=pair.feed(Segments(segments)))
