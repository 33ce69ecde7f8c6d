"""How an operation is cut into programs: pure functions of shapes, the size of an entry and the
number of cores.

A program owns one tile of the result and loops over the axis that is summed; nothing is added
across programs except by a second, ordered sum over `splits` partial results. So two runs give the
same bits.

The sides are chosen from the machine code for sm_90a, not from timings: with bfloat16 operands a
tile of 64 rows is what becomes wgmma (32 rows become mma.sync); with float32, multiplied on the
ordinary cores in an unrolled loop, a summed side of 64 with 4 warps spills 4 KB of registers a
thread, a summed side of 32 with 8 warps none.
"""

from __future__ import annotations

from typing import NamedTuple

SMALLEST = 16  # the smallest side of a matrix product on a tensor core
LANES = 32  # one word of gates: the smallest tile of the batch
INPUTS = 16  # rows of dX^T that one program owns


class Tiles(NamedTuple):
    """Sides of a tile, all powers of two, into how many parts the summed axis is cut, and what a
    program is given.
    """

    batch: int
    paths: int
    outputs: int
    splits: int = 1
    warps: int = 4
    stages: int = 2


def round_up(count: int, tile: int) -> int:
    """The smallest multiple of `tile` that holds `count`."""
    return -(-count // tile) * tile


def side(count: int, low: int, high: int) -> int:
    """The smallest power of two that holds `count`, within [low, high], both powers of two."""
    return min(high, max(low, 1 << max(count - 1, 0).bit_length()))


def _tiles(batch: int, paths: int, outputs: int, itemsize: int, *, summed: str) -> Tiles:
    half = itemsize <= 2
    high = {"batch": 64, "paths": 64} | ({} if half else {summed: 32})
    return Tiles(
        side(batch, LANES, high["batch"]),
        side(paths, SMALLEST, high["paths"]),
        side(outputs, SMALLEST, 128 if half else 64),
        warps=4 if half else 8,
    )


def _splits(programs: int, steps: int, cores: int, shortest: int) -> int:
    """A power of two: parts enough to keep 7 of 8 cores busy, none shorter than `shortest` steps of
    the loop.
    """
    splits = 1
    while 8 * programs * splits < 7 * cores and steps >= 2 * splits * shortest:
        splits *= 2
    return splits


def forward_tiles(batch: int, paths: int, outputs: int, itemsize: int, cores: int) -> Tiles:
    """Tiles of Y = S W, one program per (batch, outputs) tile and part of the paths."""
    tiles = _tiles(batch, paths, outputs, itemsize, summed="paths")
    programs = -(-batch // tiles.batch) * -(-outputs // tiles.outputs)
    return tiles._replace(splits=_splits(programs, -(-paths // tiles.paths), cores, 2))


def weight_tiles(batch: int, paths: int, outputs: int, itemsize: int, cores: int) -> Tiles:
    """Tiles of dW = S^T dY, one program per (paths, outputs) tile and part of the batch."""
    tiles = _tiles(batch, paths, outputs, itemsize, summed="batch")
    programs = -(-paths // tiles.paths) * -(-outputs // tiles.outputs)
    return tiles._replace(splits=_splits(programs, -(-batch // tiles.batch), cores, 4))


def input_tiles(batch: int, paths: int, outputs: int, itemsize: int) -> Tiles:
    """Tiles of dX, one program per (INPUTS, batch) tile; it walks over the paths of its own
    inputs.
    """
    return _tiles(batch, paths, outputs, itemsize, summed="paths")


def contribution_tiles(batch: int, paths: int, itemsize: int) -> Tiles:
    """Tiles of S, one program each, and of its derivative."""
    return _tiles(batch, paths, SMALLEST, itemsize, summed="paths")._replace(warps=4)
