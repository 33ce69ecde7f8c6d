"""How many parameters GLAI may spend: the original network's, less the reduced network's (arXiv
2510.00883).

All counts are exact Python integers and include every bias. Three slips of the paper are not
repeated: its count of the reduced network adds the output bias (1 + rho) times, its count of paths
leaves the exponent of rho undefined (it is the number of hidden layers), and its example 1 prints
225 K, 13 M and 5.2 % for a network (1280, 640, 128) at rho = 0.5 whose own formulas give 451 K,
52.5 M and 0.86 %.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

from theseus_jax.errors import UserError


class Budget(NamedTuple):
    """Counts of one GLAI block.

    original: O, parameters of the MLP that is replaced. reduced: R, parameters of the path
    selector. paths: E, paths of the reduced network, one per output. kept: K = O - R, parameters of
    the estimator. share: mu = K / E, in (0, 1]. pairs: P = floor(K / outputs), the paths (input,
    hidden units) kept if all outputs share one choice. density: P over the (input, hidden units)
    tuples without constants.
    """

    original: int
    reduced: int
    paths: int
    kept: int
    share: float
    pairs: int
    density: float


def _check_sizes(n_in: int, hidden: Sequence[int], outputs: int) -> None:
    if not hidden:
        raise UserError(
            "a network without a hidden layer has no gates to freeze; give at least one hidden"
            " width"
        )
    if min(n_in, outputs, *hidden) < 1:
        raise UserError(f"widths {(n_in, *hidden, outputs)} hold one below 1; give positive widths")


def original_parameters(n_in: int, hidden: Sequence[int], outputs: int) -> int:
    """Parameters of the MLP n_in -> hidden... -> outputs, biases included (arXiv 2510.00883, its
    O).
    """
    _check_sizes(n_in, hidden, outputs)
    sizes = (n_in, *hidden, outputs)
    return sum((before + 1) * after for before, after in zip(sizes[:-1], sizes[1:]))


def reduced_hidden(hidden: Sequence[int], rho: float) -> tuple[int, ...]:
    """Hidden widths of the path selector: rho times each, to the nearest unit, halves up.

    Raises UserError for rho outside (0, 1) and for a layer that would be left without a unit.
    """
    if not 0 < rho < 1:
        raise UserError(
            f"rho = {rho} does not reduce a network; choose a number between 0 and 1, such as 0.5"
        )
    widths = tuple(math.floor(rho * width + 0.5) for width in hidden)
    if 0 in widths:
        raise UserError(
            f"rho = {rho} leaves no unit of a hidden layer of {hidden[widths.index(0)]}; raise rho"
        )
    return widths


def path_count(n_in: int, hidden: Sequence[int], outputs: int) -> int:
    """Paths of the MLP n_in -> hidden... -> outputs that can carry weight: E of arXiv 2510.00883,
    exact.

    outputs * (n_in h_1...h_L + h_1...h_L + h_2...h_L + ... + h_L + 1): full paths, paths that start
    at the bias of hidden layer 1, ..., L, and the output bias.
    """
    _check_sizes(n_in, hidden, outputs)
    return outputs * (
        n_in * math.prod(hidden)
        + sum(math.prod(hidden[start:]) for start in range(len(hidden) + 1))
    )


def budget(n_in: int, hidden: Sequence[int], outputs: int, rho: float = 0.5) -> Budget:
    """The counts for an MLP n_in -> hidden... -> outputs replaced by a GLAI block whose selector
    has rho times its units.

    Raises UserError for widths below 1, rho outside (0, 1), rho that empties a layer, fewer
    parameters than outputs, and mu > 1: more parameters to spend than the reduced network has
    paths.
    """
    widths = reduced_hidden(hidden, rho)
    original, reduced = (
        original_parameters(n_in, hidden, outputs),
        original_parameters(n_in, widths, outputs),
    )
    paths, kept = path_count(n_in, widths, outputs), original - reduced
    if kept > paths:
        raise UserError(
            f"{kept} parameters to spend ({original} of the network less {reduced} of the"
            f" selector), but only {paths} paths at rho = {rho}; raise rho"
        )
    if kept < outputs:
        raise UserError(
            f"{kept} parameters to spend at rho = {rho} do not give each of {outputs} outputs a"
            " path; lower rho"
        )
    pairs = kept // outputs
    return Budget(
        original, reduced, paths, kept, kept / paths, pairs, pairs / (n_in * math.prod(widths))
    )


def narrow_line(hidden: Sequence[int], outputs: int, rho: float) -> str:
    """A warning if the selector's last hidden layer is narrower than the output, else "".

    The condition rho n_L >= n_{L+1} on the last layer: below it the reduced network's logits lie in
    a space of fewer dimensions than outputs. Conversion stays exact and the trained estimator is
    not bound by that rank, so this is a warning for the plan and no error.
    """
    last = reduced_hidden(hidden, rho)[-1]
    if last >= outputs:
        return ""
    return (
        f"the selector's last hidden layer has {last} units at rho = {rho}, fewer than the"
        f" {outputs} outputs: its logits have rank {last}; raise rho for a better start"
    )
