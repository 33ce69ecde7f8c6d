"""Network of Theseus (Subramaniam et al. 2025, arXiv 2512.04198) as plans: a guide becomes a target part by part.

An independent implementation of the method with our own stated definitions. A mapping is a tuple of seams
(guide stage, target stage), in order: part s of a network is what lies after seam s - 1 up to seam s. After the last
seam stands the linear head of each. With activations a_s (guide) and b_s (target) and d = 1 - similarity:

| schedule | stage s trains | loss | the trained part reads |
| --- | --- | --- | --- |
| progressive | parts 1..s | mean over i <= s of d(b_i, a_i) | the target's own prefix |
| sequential | part s | d(b_s, a_s) | the frozen target prefix |
| independent | part s | d(b_s, a_s) | the guide's a_{s-1} |
| parallel | all parts in one stage, each by itself | mean over i of d(b_i, a_i) | the guide's a_{i-1} |
| joint | all parts in one stage | mean over i of d(b_i, a_i) | the target's own prefix |
| one_shot | nothing | - | - |
"""
from __future__ import annotations

import dataclasses
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.feeds import Cached, Feed, Segments, Whole
from theseus_jax.methods.mapping import NORMALISATIONS, Mapping, auto_mapping
from theseus_jax.methods.probes import StageProbe
from theseus_jax.methods.recalibrate import Recalibrate
from theseus_jax.methods.surgery import Fold, Inherit
from theseus_jax.nets.stage import Network, position
from theseus_jax.objectives import Alignment, CrossEntropy, Distillation, Term
from theseus_jax.plan import Optimizer, Phase, Plan
from theseus_jax.similarity import NamedSimilarity, metric

SCHEDULES = ("progressive", "sequential", "independent", "parallel", "joint", "one_shot")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to convert. metric: a similarity or its name. steps: optimizer steps in all; align: the share of them spent before fine-tuning, over all stages.

    finish_kl: weight of distillation from the guide in fine-tuning; its cross-entropy has weight 1 - finish_kl.
    finish_align: weight of the mean distance over all seams in fine-tuning.
    inherit: stages and submodules copied from the guide first; train_inherited: "stage" lets them move during
    alignment, "frozen" only in fine-tuning. samples: what counts as one (`similarity.samples`). stitch: "ridge" or "none";
    ridge: its penalty, stitch_rank: of a map between whole activations. recalibrate: examples behind the exact batch-norm
    statistics that replace the moving ones after each stage, 0 for none. augment: a transform of every batch (`feeds`), or
    None. remember: the guide's activations for all examples are computed once and kept (`feeds.Cached`).
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


def check_mapping(guide: Network, target: Network, mapping: Mapping) -> None:
    """Raises UserError unless the seams go forward in both networks and end just before both heads."""
    for net, side, name in ((guide, 0, "guide"), (target, 1, "target")):
        if len(net.stages) < 2:
            raise UserError(f"the {name} is one stage, {net.names[0]!r}; split it in at least two, of which the last is the head")
        unknown = [seam[side] for seam in mapping if seam[side] not in net.names]
        if unknown:
            raise UserError(f"the mapping (convert.mapping) names {unknown[0]!r}, which is no stage of the {name}; its stages are "
                            f"{', '.join(net.names)}")
        places = [position(net, seam[side]) for seam in mapping]
        if not places or sorted(set(places)) != places or places[-1] != len(net.stages) - 2:
            raise UserError(f"the mapping's {name} stages {[seam[side] for seam in mapping]} must go forward and end with "
                            f"{net.names[-2]!r}, the stage before the head; its stages are {', '.join(net.names)}")


def parse_mapping(text: str, guide: Network, target: Network, example: Any) -> Mapping:
    """"auto", or seams "guide_stage=target_stage, ..." -> a checked mapping. example: see `auto_mapping`. Raises UserError."""
    if not isinstance(text, str):
        raise UserError(f"the mapping is {text!r}, a {type(text).__name__}; write it as text: 'auto' or "
                        "'guide_stage=target_stage, ...'")
    if text == "auto":
        return auto_mapping(guide, target, example)
    pairs = [tuple(part.strip() for part in item.split("=")) for item in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"convert.mapping is {text!r}; write 'auto' or 'guide_stage=target_stage, ...'")
    check_mapping(guide, target, tuple(pairs))
    return tuple(pairs)


def part(net: Network, mapping: Mapping, s: int, side: int) -> tuple[str, ...]:
    """The stage names of part s (0-based) of the guide (side 0) or the target (side 1)."""
    first = position(net, mapping[s - 1][side]) + 1 if s else 0
    return net.names[first: position(net, mapping[s][side]) + 1]


def plan(guide: Network, target: Network, mapping: Mapping, settings: Settings, *, shapes: dict[str, Any],
         probe: StageProbe | None = None) -> Plan:
    """The phases of a conversion: alignment stages by the schedule, then fine-tuning of the whole target on the task.

    shapes: the target's variables as ShapeDtypeStructs (`jax.eval_shape` of `init`), to tell inherited parts from new
    ones. probe: measures the stage's similarity and its hybrid after each stage. Raises UserError for an unknown
    schedule, a mapping that does not fit, or steps that leave a stage without any.
    """
    if settings.schedule not in SCHEDULES:
        raise UserError(f"there is no schedule {settings.schedule!r}; choose one of {', '.join(SCHEDULES)}")
    check_mapping(guide, target, mapping)
    stages = _alignment(guide, target, mapping, settings, shapes, probe)
    used = sum(phase.steps for phase in stages)
    finish = settings.steps - used
    if finish < 1 or any(phase.steps < 1 for phase in stages):
        raise UserError(f"{settings.steps} steps with a share of {settings.align:g} for {len(stages)} alignment stages leave "
                        "a phase without steps; raise convert.steps or change convert.align")
    fold = (Fold(guide, mapping[-1], settings.ridge),) if stages and settings.stitch == "ridge" else ()
    inherit = _inherit(guide, target, mapping, settings)
    terms = [Term("cross_entropy", 1.0 - settings.finish_kl, CrossEntropy())] if settings.finish_kl < 1 else []
    if settings.finish_kl:
        terms.append(Term("kl", settings.finish_kl, Distillation((guide.names[-1],), settings.temperature)))
    if settings.finish_align:
        terms.append(Term("distance", settings.finish_align, Alignment(mapping, settings.metric, settings.samples)))
    finetune = Phase("finetune", target, whole(target, shapes), tuple(terms), finish, feed(guide, Whole(), settings),
                     settings.finish_optimizer, edits=fold if stages else inherit)
    return tuple(dataclasses.replace(phase, edits=(*(_recalibrate(settings) if i else ()), *phase.edits))
                 for i, phase in enumerate((*stages, finetune)))


def feed(guide: Network, route: Any, settings: Any) -> Feed:
    """What a phase beside a guide reads; settings: with `augment` and `remember`."""
    return Feed(guide, route, (settings.augment,) if settings.augment else (), (Cached("guide"),) if settings.remember else ())


def _recalibrate(settings: Settings) -> tuple[Recalibrate, ...]:
    return (Recalibrate(None, settings.recalibrate),) if settings.recalibrate else ()


def _inherit(guide, target, mapping, settings) -> tuple[Inherit, ...]:
    if not settings.inherit:
        return ()
    return (Inherit(guide, stage_pairs(guide, target, mapping), settings.inherit),)


def whole(net: Network, shapes: dict[str, Any]) -> tuple[str, ...]:
    """Every stage that has parameters, in order."""
    return tuple(name for name in net.names if shapes.get(name, {}).get("params"))


def stage_pairs(guide: Network, target: Network, mapping: Mapping) -> Mapping:
    """Which guide stage each target stage takes the place of, within its part: the first stage of the first part, the
    normalisations that end a part, and the rest by relative order; then the heads. Used to decide what is inherited.
    """
    pairs = []
    for s in range(len(mapping)):
        sides = zip(_kinds(guide, part(guide, mapping, s, 0)), _kinds(target, part(target, mapping, s, 1)))
        for theirs, ours in sides:
            pairs += [(theirs[i * len(theirs) // len(ours)], name) for i, name in enumerate(ours) if theirs]
    return (*pairs, (guide.names[-1], target.names[-1]))


def _kinds(net: Network, names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The stages of a part as (the network's first stage, what computes, normalisations)."""
    norms = [name for name in names if isinstance(net.stages[position(net, name)].module, NORMALISATIONS)]
    first = [name for name in names if name == net.names[0]]
    return first, [name for name in names if name not in norms + first], norms


def _trainable(names: Sequence[str], settings: Settings, shapes: dict[str, Any]) -> tuple[str, ...]:
    """Parameter prefixes of these stages, less what was inherited where that is to stay frozen during alignment."""
    if settings.train_inherited == "stage":
        return tuple(name for name in names if shapes.get(name, {}).get("params"))
    chosen: list[str] = []
    for name in names:
        inside = [key for key in shapes.get(name, {}).get("params", {}) if key not in settings.inherit]
        chosen += [] if name in settings.inherit else [f"{name}/{key}" for key in inside]
    return tuple(chosen)


def _alignment(guide, target, mapping, settings, shapes, probe) -> Plan:
    count, budget = len(mapping), int(settings.align * settings.steps)
    inherit = _inherit(guide, target, mapping, settings)
    if settings.schedule == "one_shot":
        return ()
    if settings.schedule in ("joint", "parallel"):
        stage = _stage(guide, target, mapping, settings, shapes, range(count), count - 1, budget, inherit, None)
        probes = tuple(dataclasses.replace(probe, pair=pair) for pair in mapping) if probe else ()
        stage = dataclasses.replace(stage, name="align", probes=probes)
        return (stage if settings.schedule == "joint" else _parallel(guide, target, mapping, settings, stage),)
    phases = []
    for s in range(count):
        steps = budget // count
        trained = range(s + 1) if settings.schedule == "progressive" else range(s, s + 1)
        phases.append(_stage(guide, target, mapping, settings, shapes, trained, s, steps, inherit if s == 0 else (), probe))
    return tuple(phases)


def _stage(guide, target, mapping, settings, shapes, parts, s, steps, before, probe) -> Phase:
    """One alignment phase: trains `parts`, compares their seams, runs the target no further than seam s."""
    independent = settings.schedule == "independent"
    route = Whole(start=part(target, mapping, s, 1)[0] if independent else None, stop=mapping[s][1],
                  source=mapping[s - 1][0] if independent and s else None)
    distance = Alignment(tuple(mapping[i] for i in parts), settings.metric, settings.samples)
    names = [name for i in parts for name in part(target, mapping, i, 1)]
    return Phase(f"align_{s + 1}", target, _trainable(names, settings, shapes), (Term("distance", 1.0, distance),), steps,
                 feed(guide, route, settings), settings.align_optimizer, edits=before,
                 probes=(dataclasses.replace(probe, pair=mapping[s]),) if probe else ())


def _parallel(guide, target, mapping, settings, stage: Phase) -> Phase:
    """The joint stage with every part fed by the guide."""
    segments = tuple((mapping[s - 1][0] if s else None, part(target, mapping, s, 1)[0], mapping[s][1])
                     for s in range(len(mapping)))
    return dataclasses.replace(stage, feed=feed(guide, Segments(segments), settings))


def swap_groups(guide: Network, target: Network, mapping: Mapping) -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    """((guide first, guide last), (target first, target last)) of every part, and of the heads: the groups of `feeds.Mixed`."""
    groups = [((part(guide, mapping, s, 0)[0], mapping[s][0]), (part(target, mapping, s, 1)[0], mapping[s][1]))
              for s in range(len(mapping))]
    return (*groups, ((guide.names[-1],) * 2, (target.names[-1],) * 2))
