"""How many units each site is to have, and when: decided before anything is trained."""

from __future__ import annotations

import math
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.nets.sites import Site, leaf
from theseus_jax.nets.stage import Network, variable_shapes

Counts = tuple[int, ...]


def targets(net: Network, example: Any, compactness: float, bias: Sequence[float] = ()) -> Counts:
    """The units of every site that leave `compactness` of the weights which make the sites' units.

    One share r of the units solves weights(r b_l) = compactness * weights(1), r b_l at most 1, and
    is rounded to units (arXiv 2605.15435, section 3, states the budget in weights; the conversion
    is ours and gives what its figures of units come to). bias: b_l a site, all 1 if left out.
    Raises UserError for a compactness outside (0, 1], a bias of another length or not above 0, and
    a site that would be left without a unit.
    """
    sites, bias = net.sites, tuple(bias) or (1.0,) * len(net.sites)
    if not 0 < compactness <= 1:
        raise UserError(
            f"a compactness of {compactness:g} leaves {'no' if compactness <= 0 else 'too many'}"
            " weights; give a share above 0 and up to 1"
        )
    if len(bias) != len(sites) or min(bias) <= 0:
        raise UserError(
            f"a bias of {bias} for the sites {', '.join(site.name for site in sites)}; give one"
            " number above 0 for each, or none"
        )
    sizes = _sizes(net, example)
    wanted = compactness * sum(size for size, _ in sizes)
    low, high = 0.0, 1.0 / min(bias)
    for _ in range(60):
        middle = (low + high) / 2
        enough = _weights(sizes, _shares(middle, bias)) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    counts = tuple(round(share * site.width) for share, site in zip(_shares(high, bias), sites))
    for site, count in zip(sites, counts):
        if count < 1:
            raise UserError(
                f"a compactness of {compactness:g} leaves {site} without a unit; raise it, or the"
                " site's bias"
            )
    return counts


def _shares(r: float, bias: Sequence[float]) -> tuple[float, ...]:
    return tuple(min(1.0, r * b) for b in bias)


def _sizes(net: Network, example: Any) -> list[tuple[int, Counts]]:
    """(weights, sites whose units its axes are) of every product that makes units."""
    shapes = variable_shapes(net, example)
    product = {
        one.path
        for site in net.sites
        for one in site.incoming
        if len(leaf(shapes, one.path).shape) > 1
    }
    return [
        (
            math.prod(leaf(shapes, path).shape),
            tuple(
                i for i, site in enumerate(net.sites) for one in site.parameters if one.path == path
            ),
        )
        for path in sorted(product)
    ]


def _weights(sizes: Sequence[tuple[int, Counts]], shares: Sequence[float]) -> float:
    return sum(size * math.prod(shares[i] for i in which) for size, which in sizes)


def steps_to(begin: Counts, end: Counts, cycles: int) -> tuple[Counts, ...]:
    """How many units each site gains (or loses) in each cycle: the difference that is left over the
    cycles that are left, rounded up, so that the last cycle begins at `end`.
    """
    now, made = list(begin), []
    for t in range(cycles):
        change = [math.ceil(abs(e - a) / (cycles - t)) for a, e in zip(now, end)]
        now = [a + math.copysign(c, e - a) for a, e, c in zip(now, end, change)]
        made.append(tuple(change))
    return tuple(made)


def started(sites: Sequence[Site], share: float) -> Counts:
    """The units of every site that growth begins with. Raises UserError for a share that leaves a
    site none.
    """
    counts = tuple(round(share * site.width) for site in sites)
    for site, count in zip(sites, counts):
        if not 1 <= count <= site.width:
            raise UserError(
                f"growth that begins with a share of {share:g} has {count} units at {site}; give a"
                f" share from {1 / site.width:.3g} to 1"
            )
    return counts
