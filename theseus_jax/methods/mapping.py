"""Mappings: which stage of the guide ends where which stage of the target ends."""

from __future__ import annotations

from typing import Any, Sequence

import flax.linen as nn

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, position, seams, variable_shapes

NORMALISATIONS = (nn.LayerNorm, nn.BatchNorm, nn.GroupNorm, nn.RMSNorm)
Mapping = tuple[tuple[str, str], ...]


def auto_mapping(guide: Network, target: Network, example: Any) -> Mapping:
    """Seams (guide stage, target stage) by depth, and by where the positions of an activation
    change.

    A part is a stage that computes, together with normalisations and stages without parameters that
    follow it; what comes before the second stage with parameters belongs to the first part, and the
    last stage is the head. A run is a stretch of parts whose outputs have the same positions
    (height and width, or tokens). Networks of as many runs are matched run by run, others as a
    whole: the one with fewer parts gives the number of seams, each against an even share of the
    other's. example: a ShapeDtypeStruct or array like one input, (1, ...). Raises UserError when a
    network has no part.
    """
    for name, net in (("guide", guide), ("target", target)):
        if len(net.stages) < 2:
            raise UserError(
                f"the {name} is one stage, {net.names[0]!r}; split it in at least two, of which the"
                " last is the head"
            )
    ends = [_part_ends(net, example) for net in (guide, target)]
    for name, net, parts in zip(("guide", "target"), (guide, target), ends):
        if not parts:
            raise UserError(
                f"the {name} has no stage between its first and its last ({', '.join(net.names)}); "
                "give a mapping (convert.mapping), or split it in more stages"
            )
    runs = [_runs(parts, seams(net, example)) for parts, net in zip(ends, (guide, target))]
    if len(runs[0]) != len(runs[1]):
        runs = [[parts] for parts in ends]
    return tuple(pair for ours, theirs in zip(*runs) for pair in _even(ours, theirs))


def _even(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs at even shares of both, as many as the shorter has parts; both ends are paired."""
    count = min(len(a), len(b))
    return [
        tuple(parts[-(-(i + 1) * len(parts) // count) - 1] for parts in (a, b))
        for i in range(count)
    ]


def _part_ends(net: Network, example: Any) -> list[str]:
    shapes = variable_shapes(net, example)
    computes = [
        bool(shapes[stage.name].get("params")) and not isinstance(stage.module, NORMALISATIONS)
        for stage in net.stages
    ]
    first = computes.index(True) + 1 if any(computes) else 1
    last = len(net.stages) - 1
    return [
        net.names[i]
        for i in range(first, last)
        if any(computes[first : i + 1]) and (i + 1 == last or computes[i + 1])
    ]


def _runs(names: Sequence[str], shapes: dict[str, Any]) -> list[list[str]]:
    runs: list[list[str]] = []
    for name in names:
        positions = values_and_mask(shapes[name])[0].shape[1:-1]
        if runs and values_and_mask(shapes[runs[-1][-1]])[0].shape[1:-1] == positions:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


def check_mapping(guide: Network, target: Network, mapping: Mapping) -> None:
    """Raises UserError unless the seams go forward in both networks and end just before
    both heads.
    """
    for net, side, name in ((guide, 0, "guide"), (target, 1, "target")):
        if len(net.stages) < 2:
            raise UserError(
                f"the {name} is one stage, {net.names[0]!r}; split it in at least two, of which the"
                " last is the head"
            )
        unknown = [seam[side] for seam in mapping if seam[side] not in net.names]
        if unknown:
            raise UserError(
                f"the mapping (convert.mapping) names {unknown[0]!r}, which is no stage of the"
                f" {name}; its stages are {', '.join(net.names)}"
            )
        places = [position(net, seam[side]) for seam in mapping]
        if not places or sorted(set(places)) != places or places[-1] != len(net.stages) - 2:
            raise UserError(
                f"the mapping's {name} stages {[seam[side] for seam in mapping]} must go forward"
                f" and end with {net.names[-2]!r}, the stage before the head; its stages are"
                f" {', '.join(net.names)}"
            )


def parse_mapping(text: str, guide: Network, target: Network, example: Any) -> Mapping:
    """ "auto", or seams "guide_stage=target_stage, ..." -> a checked mapping. example: see
    `auto_mapping`. Raises UserError.
    """
    if not isinstance(text, str):
        raise UserError(
            f"the mapping is {text!r}, a {type(text).__name__}; write it as text: 'auto' or "
            "'guide_stage=target_stage, ...'"
        )
    if text == "auto":
        return auto_mapping(guide, target, example)
    pairs = [tuple(part.strip() for part in item.split("=")) for item in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(
            f"convert.mapping is {text!r}; write 'auto' or 'guide_stage=target_stage, ...'"
        )
    check_mapping(guide, target, tuple(pairs))
    return tuple(pairs)


def part(net: Network, mapping: Mapping, s: int, side: int) -> tuple[str, ...]:
    """The stage names of part s (0-based) of the guide (side 0) or the target (side 1)."""
    first = position(net, mapping[s - 1][side]) + 1 if s else 0
    return net.names[first : position(net, mapping[s][side]) + 1]


def stage_pairs(guide: Network, target: Network, mapping: Mapping) -> Mapping:
    """Which guide stage each target stage takes the place of, within its part: the first stage of
    the first part, the normalisations that end a part, and the rest by relative order; then the
    heads. Used to decide what is inherited.
    """
    pairs = []
    for s in range(len(mapping)):
        sides = zip(
            _kinds(guide, part(guide, mapping, s, 0)), _kinds(target, part(target, mapping, s, 1))
        )
        for theirs, ours in sides:
            pairs += [
                (theirs[i * len(theirs) // len(ours)], name)
                for i, name in enumerate(ours)
                if theirs
            ]
    return (*pairs, (guide.names[-1], target.names[-1]))


def _kinds(net: Network, names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The stages of a part as (the network's first stage, what computes, normalisations)."""
    norms = [
        name for name in names if isinstance(net.stages[position(net, name)].module, NORMALISATIONS)
    ]
    first = [name for name in names if name == net.names[0]]
    return first, [name for name in names if name not in norms + first], norms


def swap_groups(
    guide: Network, target: Network, mapping: Mapping
) -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    """((guide first, guide last), (target first, target last)) of every part, and of the heads: the
    groups of `feeds.Mixed`.
    """
    groups = [
        (
            (part(guide, mapping, s, 0)[0], mapping[s][0]),
            (part(target, mapping, s, 1)[0], mapping[s][1]),
        )
        for s in range(len(mapping))
    ]
    return (*groups, ((guide.names[-1],) * 2, (target.names[-1],) * 2))
