"""What a conversion is compared with, at equal data and optimizer steps: plans of one to three
phases each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.feeds import Mixed, Whole
from theseus_jax.methods import convert
from theseus_jax.methods.begin import inherited
from theseus_jax.nets.blocks.bridge import bridge
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, seams, variable_shapes
from theseus_jax.objectives import CrossEntropy, Distillation, FilterTask, Regression, Side, Term
from theseus_jax.plan import Edit, Optimizer, Phase, Plan

WINDOWS = ("window", "window_distilled")  # the guide itself, its attention cut
DISTILS = ("distilled", "one_shot_distilled", "fitnets", "ted", "window_distilled")
INHERITS = ("one_shot", "one_shot_distilled", "window_distilled")
IN_PHASES = ("fitnets", "theseus", "ted")
CONTROLS = (
    "from_scratch",
    "distilled",
    "one_shot",
    "one_shot_distilled",
    "fitnets",
    "theseus",
    "ted",
    "supervised",
    "window_distilled",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a control is trained. kl: the share of distillation in those that distil; hint_share: of
    the steps, of the first phase of fitnets, theseus and ted. rank: of regressors between whole
    activations. The others: see `convert.Settings`.
    """

    steps: int
    optimizer: Optimizer = Optimizer()
    inherit: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    decays: str = "fresh"
    weights: str = "fresh"
    transfer: int = 0
    kl: float = 0.5
    temperature: float = 2.0
    hint_share: float = 0.3
    rank: int = 64
    augment: Any = None
    remember: bool = False


@dataclasses.dataclass(frozen=True)
class _Pair:
    """What every control is made of. example: one input, (1, ...)."""

    guide: Network
    target: Network
    mapping: convert.Mapping
    settings: Settings
    example: Any

    @property
    def shapes(self) -> dict[str, Any]:
        return variable_shapes(self.target, self.example)

    @property
    def rank(self) -> int:
        return self.settings.rank

    @property
    def inherit(self) -> tuple[Edit, ...]:
        pairs = convert.stage_pairs(self.guide, self.target, self.mapping)
        return inherited(self.guide, pairs, self.settings)

    def losses(self, kl: float) -> tuple[Term, ...]:
        """Cross-entropy, and the share `kl` of distillation."""
        terms = [Term("cross_entropy", 1.0 - kl, CrossEntropy())] if kl < 1 else []
        if kl:
            terms.append(
                Term("kl", kl, Distillation((self.guide.names[-1],), self.settings.temperature))
            )
        return tuple(terms)

    def phase(
        self,
        name: str,
        steps: int,
        terms: tuple[Term, ...],
        *,
        route: Any = Whole(),
        **changes: Any,
    ) -> Phase:
        given = {"trainable": convert.whole(self.target, self.shapes)} | changes
        return Phase(
            name,
            self.target,
            terms=terms,
            steps=steps,
            feed=convert.feed(self.guide, route, self.settings),
            optimizer=self.settings.optimizer,
            **given,
        )


def plan(
    name: str,
    guide: Network,
    target: Network,
    mapping: convert.Mapping,
    settings: Settings,
    *,
    example: Any,
) -> Plan:
    """One control's plan.

    from_scratch: fresh weights, cross-entropy. distilled: fresh weights, (1 - kl) cross-entropy +
    kl T^2 KL to the guide (Hinton et al. 2015). one_shot: all parts replaced at once, what a
    conversion inherits copied, no alignment, cross-entropy. one_shot_distilled: the same with the
    distillation loss; of these four the hardest to beat. fitnets: `hint_share` of the steps on a
    hint at the middle seam, then distillation (Romero et al. 2014, arXiv 1412.6550). theseus:
    `hint_share` of the steps with every part swapped in at random, the task's loss alone, then the
    same loss on the target (Xu et al. 2020, arXiv 2002.02925). ted: `hint_share` of the steps on
    task-aware filters of both frozen networks, then distillation and the filtered layers' distance
    (Liang et al. 2022, arXiv 2210.01351). These three inherit as one_shot does. supervised:
    from_scratch with every training label that the guide had, an upper reference. window_distilled:
    one_shot_distilled of a target that is the guide with its attention cut. example: one input, (1,
    ...). Raises UserError for another name, or seams that no regressor can bridge.
    """
    if name not in CONTROLS:
        raise UserError(f"there is no control {name!r}; choose from {', '.join(CONTROLS)}")
    pair = _Pair(guide, target, mapping, settings, example)
    losses = pair.losses(settings.kl if name in DISTILS else 0.0)
    if name not in IN_PHASES:
        return (
            pair.phase(
                "finetune", settings.steps, losses, edits=pair.inherit if name in INHERITS else ()
            ),
        )
    steps, first = settings.steps, round(settings.hint_share * settings.steps)
    if not 0 < first < steps:
        raise UserError(
            f"{name} with {steps} steps and a controls.hint_share of {settings.hint_share:g} has a"
            " phase without steps; raise convert.steps or give a share between 0 and 1"
        )
    return {"fitnets": _fitnets, "theseus": _theseus, "ted": _ted}[name](
        pair, losses, first, steps - first
    )


def _regressor(pair: _Pair, seam: tuple[str, str], name: str) -> Side:
    """From the target's stage to the guide's."""
    ours, theirs = (
        seams(pair.target, pair.example)[seam[1]],
        seams(pair.guide, pair.example)[seam[0]],
    )
    return Side(
        name,
        bridge(
            ours, theirs, rank=pair.rank, what=f"the target's {seam[1]} to the guide's {seam[0]}"
        ),
        ours,
    )


def _fitnets(pair: _Pair, losses: tuple[Term, ...], first: int, rest: int) -> Plan:
    middle = (len(pair.mapping) - 1) // 2
    seam = pair.mapping[middle]
    hint = Regression((seam,), (_regressor(pair, seam, "hint_regressor"),))
    shapes = pair.shapes
    below = [
        name
        for i in range(middle + 1)
        for name in convert.part(pair.target, pair.mapping, i, 1)
        if shapes.get(name, {}).get("params")
    ]
    return (
        pair.phase(
            "hint",
            first,
            (Term("hint", 1.0, hint),),
            trainable=(*below, "hint_regressor"),
            route=Whole(stop=seam[1]),
            edits=pair.inherit,
        ),
        pair.phase("finetune", rest, losses),
    )


def _theseus(pair: _Pair, losses: tuple[Term, ...], first: int, rest: int) -> Plan:
    groups = convert.swap_groups(pair.guide, pair.target, pair.mapping)
    ours, theirs = seams(pair.target, pair.example), seams(pair.guide, pair.example)

    def both(i: int, seam: tuple[str, str]) -> tuple[Side, Side]:
        back = bridge(
            theirs[seam[0]],
            ours[seam[1]],
            rank=pair.rank,
            what=f"the guide's {seam[0]} to the target's {seam[1]}",
        )
        return _regressor(pair, seam, f"to_guide_{i + 1}"), Side(
            f"to_target_{i + 1}", back, theirs[seam[0]]
        )

    bridges = tuple(
        both(i, seam)
        for i, seam in enumerate(pair.mapping)
        if _differs(ours[seam[1]], theirs[seam[0]])
    )
    if bridges and len(bridges) < len(pair.mapping):
        bridges = tuple(both(i, seam) for i, seam in enumerate(pair.mapping))
    route = Mixed(groups, bridges=bridges)
    trainable = (*convert.whole(pair.target, pair.shapes), *(side.name for side in route.sides))
    task = (Term("cross_entropy", 1.0, CrossEntropy()),)
    return (
        pair.phase("swap", first, task, trainable=trainable, route=route, edits=pair.inherit),
        pair.phase("finetune", rest, task),
    )


def _differs(x: Any, y: Any) -> bool:
    return values_and_mask(x)[0].shape != values_and_mask(y)[0].shape


def _ted(pair: _Pair, losses: tuple[Term, ...], first: int, rest: int) -> Plan:
    theirs = seams(pair.guide, pair.example)
    classes = seams(pair.target, pair.example)[pair.target.names[-1]].shape[-1]

    def filters(i: int, seam: tuple[str, str]) -> tuple[Side, Side, Side, Side]:
        wanted = theirs[seam[0]]
        values, _ = values_and_mask(wanted)
        guide = Side(
            f"guide_filter_{i + 1}",
            bridge(wanted, wanted, rank=pair.rank, what=f"the guide's {seam[0]}"),
            wanted,
        )
        pooled = jax.ShapeDtypeStruct((1, values.shape[-1]), values.dtype)
        heads = [
            Side(f"{side}_filter_head_{i + 1}", nn.Dense(classes), pooled)
            for side in ("guide", "target")
        ]
        return guide, _regressor(pair, seam, f"target_filter_{i + 1}"), *heads

    made = [filters(i, seam) for i, seam in enumerate(pair.mapping)]
    guides, targets, guide_heads, target_heads = map(tuple, zip(*made))
    learn = (
        Term(
            "guide_filters",
            1.0,
            FilterTask(tuple(g for g, _ in pair.mapping), guides, guide_heads, True),
        ),
        Term(
            "target_filters",
            1.0,
            FilterTask(tuple(t for _, t in pair.mapping), targets, target_heads, False),
        ),
    )
    names = tuple(side.name for side in (*guides, *targets, *guide_heads, *target_heads))
    close = Term("filtered", 1.0, Regression(pair.mapping, targets, guides))
    trained = (*convert.whole(pair.target, pair.shapes), *(side.name for side in targets))
    return (
        pair.phase(
            "filters",
            first,
            learn,
            trainable=names,
            route=Whole(stop=pair.mapping[-1][1]),
            edits=pair.inherit,
        ),
        pair.phase("finetune", rest, (*losses, close), trainable=trained),
    )
