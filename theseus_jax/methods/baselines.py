"""What a conversion is compared with, at equal data and optimizer steps: plans of one phase each."""
from __future__ import annotations

from typing import Any

from theseus_jax.errors import UserError
from theseus_jax.methods import convert
from theseus_jax.methods.surgery import Inherit
from theseus_jax.nets.stage import Network
from theseus_jax.objectives import CrossEntropy, Distillation, Term
from theseus_jax.plan import Optimizer, Phase, Plan

CONTROLS = ("from_scratch", "distilled", "one_shot", "one_shot_distilled")


def plan(name: str, guide: Network, target: Network, mapping: convert.Mapping, *, shapes: dict[str, Any], steps: int,
         optimizer: Optimizer, inherit: tuple[str, ...] = (), kl: float = 0.5, temperature: float = 2.0) -> Plan:
    """One control's plan.

    from_scratch: fresh weights, cross-entropy. distilled: fresh weights, (1 - kl) cross-entropy + kl T^2 KL to the guide
    (Hinton et al. 2015). one_shot: all parts replaced at once, what a conversion inherits copied, no alignment,
    cross-entropy. one_shot_distilled: the same with the distillation loss; the hardest of the four to beat.
    shapes: the target's variables as ShapeDtypeStructs. Raises UserError for another name.
    """
    if name not in CONTROLS:
        raise UserError(f"there is no control {name!r}; choose from {', '.join(CONTROLS)}")
    weight = kl if name.endswith("distilled") else 0.0
    terms = [Term("cross_entropy", 1.0 - weight, CrossEntropy())] if weight < 1 else []
    if weight:
        terms.append(Term("kl", weight, Distillation((guide.names[-1],), temperature)))
    copies = name.startswith("one_shot") and inherit
    before = (Inherit(guide, convert.stage_pairs(guide, target, mapping), inherit),) if copies else ()
    return (Phase("finetune", target, guide, convert.whole(target, shapes), tuple(terms), steps, optimizer=optimizer, before=before),)
