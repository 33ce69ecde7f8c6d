"""Mappings: which stage of the guide ends where which stage of the target ends."""
from __future__ import annotations

from typing import Any, Sequence

import flax.linen as nn

from theseus_jax.errors import UserError
from theseus_jax.nets.stage import Network, seams, values_and_mask, variable_shapes

NORMALISATIONS = (nn.LayerNorm, nn.BatchNorm, nn.GroupNorm, nn.RMSNorm)
Mapping = tuple[tuple[str, str], ...]


def auto_mapping(guide: Network, target: Network, example: Any) -> Mapping:
    """Seams (guide stage, target stage) by depth, and by where the positions of an activation change.

    A part is a stage that computes, together with normalisations and stages without parameters that follow it; what comes
    before the second stage with parameters belongs to the first part, and the last stage is the head. A run is a stretch of parts whose outputs have
    the same positions (height and width, or tokens). Networks of as many runs are matched run by run, others as a whole:
    the one with fewer parts gives the number of seams, each against an even share of the other's.
    example: a ShapeDtypeStruct or array like one input, (1, ...). Raises UserError when a network has no part.
    """
    for name, net in (("guide", guide), ("target", target)):
        if len(net.stages) < 2:
            raise UserError(f"the {name} is one stage, {net.names[0]!r}; split it in at least two, of which the last is the head")
    ends = [_part_ends(net, example) for net in (guide, target)]
    for name, net, parts in zip(("guide", "target"), (guide, target), ends):
        if not parts:
            raise UserError(f"the {name} has no stage between its first and its last ({', '.join(net.names)}); "
                            "give a mapping (convert.mapping), or split it in more stages")
    runs = [_runs(parts, seams(net, example)) for parts, net in zip(ends, (guide, target))]
    if len(runs[0]) != len(runs[1]):
        runs = [[parts] for parts in ends]
    return tuple(pair for ours, theirs in zip(*runs) for pair in _even(ours, theirs))


def _even(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs at even shares of both, as many as the shorter has parts; both ends are paired."""
    count = min(len(a), len(b))
    return [tuple(parts[-(-(i + 1) * len(parts) // count) - 1] for parts in (a, b)) for i in range(count)]


def _part_ends(net: Network, example: Any) -> list[str]:
    shapes = variable_shapes(net, example)
    computes = [bool(shapes[stage.name].get("params")) and not isinstance(stage.module, NORMALISATIONS) for stage in net.stages]
    first = computes.index(True) + 1 if any(computes) else 1
    last = len(net.stages) - 1
    return [net.names[i] for i in range(first, last) if any(computes[first: i + 1]) and (i + 1 == last or computes[i + 1])]


def _runs(names: Sequence[str], shapes: dict[str, Any]) -> list[list[str]]:
    runs: list[list[str]] = []
    for name in names:
        positions = values_and_mask(shapes[name])[0].shape[1:-1]
        if runs and values_and_mask(shapes[runs[-1][-1]])[0].shape[1:-1] == positions:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs
