"""The heads of GLAI's experiments (arXiv 2510.00883, table 1) as sizes of a path estimator, and
their lower bounds.
"""

from __future__ import annotations

from typing import NamedTuple

from pallas_kernels.timing import Roof


class Size(NamedTuple):
    """inputs I, units J of the reduced hidden layer (half the MLP's), outputs O, paths P.

    P is such that P O weights are as many as the MLP's parameters less the reduced MLP's. A2 with
    the 14 classes of DBpedia, which agrees with the paper's parameter count; its table prints 4.
    """

    inputs: int
    units: int
    outputs: int
    paths: int


SIZES = {
    "A1": Size(384, 128, 37, 1459),
    "A2": Size(768, 64, 14, 3579),
    "B1": Size(1280, 320, 128, 3522),
    "B2": Size(768, 384, 128, 2691),
    "C1": Size(576, 128, 5, 14899),
    "C2": Size(768, 256, 4, 49472),
}
# where the unpruned kernel is at most 14 times the MLP: the dense form is worth timing
DENSE = ("A2", "C1", "C2")


def bound_microseconds(size: Size, batch: int, dtype: str, roof: Roof, *, backward: bool) -> float:
    """Nothing that multiplies every path with every output computes Y (and dW) faster under `roof`.

    The larger of arithmetic and memory time; memory: x, gates, weights and results once per pass.
    Reading x at every path comes on top, from the caches, whose bandwidth is not in the roof.
    """
    passes = 2 if backward else 1
    item = 2 if dtype == "bfloat16" else 4
    flops = 2 * batch * size.paths * size.outputs
    moved = (
        batch * (size.inputs * item + size.units / 8 + size.outputs * 4)
        + size.paths * size.outputs * 4
    )
    return 1e6 * passes * max(flops / roof.flops[dtype], moved / roof.bandwidth)
