"""Guidance (Subramaniam et al. 2024, arXiv 2410.20035): a network that fails on its own is trained
with the task's loss and a layer-wise alignment to a frozen guide, trained or not.

    loss = cross-entropy + weight * (mean or sum over pairs of 1 - similarity(target, guide))

Pairs are a list: a stage stands in as many as name it, on either side, and what lies inside a stage
can be named too ("block_3/attn").
"""

from __future__ import annotations

import dataclasses
from typing import Any

from theseus_jax.errors import UserError
from theseus_jax.feeds import Cached, Feed
from theseus_jax.methods.mapping import auto_mapping
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, seams, variable_shapes
from theseus_jax.objectives import Alignment, CrossEntropy, Distillation, Term
from theseus_jax.plan import Optimizer, Phase, Plan
from theseus_jax.similarity import METRICS, NamedSimilarity, metric

Pairs = tuple[tuple[str, str], ...]
SAMPLES = ("tokens", "sequences", "pooled")
REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a target is guided.

    steps: optimizer steps. measure: a differentiable `similarity.metric`. samples: "tokens",
    "sequences" or "pooled", never guessed from shapes. reduction: "mean" or "sum" over pairs.
    weight: a number, `balance.Ramp`, `balance.Until` (the guide is disconnected, optimizer and
    schedule go on) or `balance.Calibrated`; 0 for no alignment. shift: the guide's activations are
    of the example so many rows on, as a control. kl: share of distillation of the guide's outputs
    in the task's loss, in [0, 1]. remember: the guide's outputs for all examples are computed once,
    which asks for inputs that no transform changes; where samples are pooled they are kept pooled.
    Raises UserError for a value that cannot be meant.
    """

    steps: int = 500
    measure: NamedSimilarity = metric("cka_debiased")
    samples: str = "pooled"
    reduction: str = "mean"
    weight: Any = 1.0
    shift: int = 0
    kl: float = 0.0
    temperature: float = 2.0
    optimizer: Optimizer = Optimizer(1e-3)
    remember: bool = False

    def __post_init__(self) -> None:
        if not METRICS[self.measure.name].differentiable:
            allowed = ", ".join(name for name, entry in METRICS.items() if entry.differentiable)
            raise UserError(
                f"guidance by {self.measure.name!r}, which has no gradient; choose one of {allowed}"
            )
        if self.samples not in SAMPLES or self.reduction not in REDUCTIONS:
            raise UserError(
                f"samples is {self.samples!r} and reduction {self.reduction!r}; choose one of"
                f" {', '.join(SAMPLES)}, and one of {', '.join(REDUCTIONS)}"
            )
        if self.steps < 1 or not 0 <= self.kl <= 1:
            raise UserError(
                f"guidance of {self.steps} steps with a share of distillation of {self.kl:g}; give"
                " at least 1 step, and a share from 0 to 1"
            )


def parse_pairs(text: str, guide: Network, target: Network, example: Any) -> Pairs:
    """(guide stage, target stage), in order and as often as they are named. text: "auto"
    (`mapping.auto_mapping`), or "guide_stage=target_stage, ...". Raises UserError for text that
    is none, or names no stage.
    """
    if text == "auto":
        return auto_mapping(guide, target, example)
    pairs = tuple(tuple(part.strip() for part in item.split("=")) for item in text.split(","))
    for pair in pairs:
        if len(pair) != 2:
            raise UserError(
                f"guidance.pairs has {'='.join(pair)!r}; write 'auto' or"
                " 'guide_stage=target_stage, ...'"
            )
        for name, net, side in zip(pair, (guide, target), ("guide", "target")):
            if name.split("/")[0] not in net.names:
                raise UserError(
                    f"guidance.pairs names {name!r}, which is no stage of the {side};"
                    f" its stages are {', '.join(net.names)}"
                )
    return pairs


def trained(net: Network, example: Any) -> tuple[str, ...]:
    """Every stage that has parameters, in order."""
    shapes = variable_shapes(net, example)
    return tuple(name for name in net.names if shapes[name].get("params"))


def unmapped(net: Network, names: Any, example: Any) -> list[str]:
    """Stages with parameters of which none of the names is, nor anything inside them."""
    there = {name.split("/")[0] for name in names}
    return [name for name in trained(net, example) if name not in there]


def check_outputs(guide: Network, target: Network, example: Any) -> None:
    """Raises UserError where the guide's outputs are not those that the target can learn."""
    shapes = [
        values_and_mask(list(seams(net, example).values())[-1])[0].shape for net in (guide, target)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the guide's outputs are {shapes[0]} and the target's {shapes[1]}, so they cannot be"
            " distilled; leave distillation out, or take a guide of as many classes"
        )


def terms(guide: Network, pairs: Pairs, settings: Settings) -> tuple[Term, ...]:
    """The loss of a guided target; the cross-entropy alone where nothing else counts."""
    labels = Term("cross_entropy", 1.0 - settings.kl, CrossEntropy())
    found = (labels,) if settings.kl < 1 else ()
    if settings.kl:
        outputs = Distillation((guide.names[-1],), settings.temperature)
        found += (Term("kl", settings.kl, outputs),)
    if settings.weight != 0:
        s = settings
        fn = Alignment(pairs, s.measure, s.samples, s.reduction, s.shift)
        found += (Term("alignment", s.weight, fn),)
    return found


def plan(
    guide: Network,
    target: Network,
    pairs: Pairs,
    settings: Settings,
    example: Any,
    *,
    transforms: tuple[Any, ...] = (),
    watches: tuple[Any, ...] = (),
) -> Plan:
    """The one phase that trains all of `target` beside a frozen `guide`, which is not run where no
    term reads it. transforms: of every batch (`feeds`). watches: see `program.StepRecord`.
    """
    parts = terms(guide, pairs, settings)
    read = any(term.fn.guide for term in parts)
    pooled = settings.samples == "pooled"
    kept = (Cached("guide", pooled=pooled),) if read and settings.remember else ()
    return (
        Phase(
            "train",
            target,
            trained(target, example),
            parts,
            settings.steps,
            Feed(guide=guide if read else None, transforms=transforms, cached=kept),
            settings.optimizer,
            watches=watches,
        ),
    )
