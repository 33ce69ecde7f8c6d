"""What the kernel benchmark times: its cases, their operands from a fixed seed, and their values in
float64.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as pk
from pallas_kernels.dispatch import device
from pallas_kernels.sizes import DENSE, SIZES, Size

CHECKED = 16
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
OPS = {"path_estimator": ("forward+backward", "forward")}
TOY = Size(16, 32, 3, 40)


class Case(NamedTuple):
    """One row of the table: everything but the forms of it."""

    op: str
    work: str
    name: str
    size: Size
    batch: int
    dtype: str


@functools.lru_cache(maxsize=2)
def draw(size: Size, batch: int, dtype: str) -> dict[str, np.ndarray]:
    """Inputs of one case from a fixed seed; dY is 0 past the CHECKED samples that are compared in
    float64.
    """
    rng = np.random.default_rng(0)
    x = np.asarray(jnp.asarray(rng.standard_normal((batch, size.inputs), np.float32), dtype))
    dy = (
        rng.standard_normal((batch, size.outputs), np.float32)
        * (np.arange(batch) < CHECKED)[:, None]
    )
    weights = rng.standard_normal((size.paths, size.outputs), np.float32)
    if dtype == "bfloat16":  # what is compared is the sum, so the operands are exact
        weights, dy = (np.asarray(jnp.asarray(a, dtype).astype(jnp.float32)) for a in (weights, dy))
    inputs, units = (rng.integers(0, count, size.paths) for count in (size.inputs, size.units))
    return {
        "x": x,
        "open": rng.random((batch, size.units)) < 0.5,
        "inputs": np.sort(inputs).astype(np.int32),
        "units": units.astype(np.int32),
        "weights": weights,
        "dy": dy,
    }


def expected(case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Y (CHECKED, O) and dW (P, O) in float64."""
    kept = (
        case["x"][:CHECKED].astype(np.float64)[:, case["inputs"]]
        * case["open"][:CHECKED][:, case["units"]]
    )
    return kept @ case["weights"].astype(np.float64), kept.T @ case["dy"][:CHECKED].astype(
        np.float64
    )


def operation(work: str, form: str) -> Callable:
    """What is timed, as a function of (x, gates, inputs, units, weights, dy); "dense" of (x, gates,
    kernel, dy).
    """
    if form == "dense":
        estimate = lambda x, gates, kernel: pk.dense_estimator(x, gates, kernel)  # noqa: E731
    else:
        estimate = functools.partial(pk.path_estimator, implementation=form)

    def forward(*operands):
        return estimate(*operands[:-1])

    def both(*operands):
        *paths, weights, dy = operands
        y, pull = jax.vjp(lambda w: estimate(*paths, w), weights)
        return y, pull(dy)[0]

    return {"forward": forward, "forward+backward": both}[work]


def operands(case: Case, form: str) -> tuple:
    """The arrays of one form on the device."""
    drawn = draw(case.size, case.batch, case.dtype)
    x, weights, dy, inputs, units = (
        jnp.asarray(drawn[key]) for key in ("x", "weights", "dy", "inputs", "units")
    )
    gates = pk.pack_gates(jnp.asarray(drawn["open"]))
    if form == "dense":
        shape = case.size.inputs, case.size.units, case.size.outputs
        return x, gates, jnp.zeros(shape, jnp.float32).at[inputs, units].add(weights), dy
    return x, (gates,), inputs, (units,), weights, dy


def error(value: Any, reference: np.ndarray) -> float:
    """The largest difference over the largest entry; NaN stays NaN."""
    return float(
        np.max(np.abs(np.asarray(value, np.float64) - reference)) / np.max(np.abs(reference))
    )


def largest_error(case: Case, form: str, outputs: Any) -> float:
    """Of Y and dW of a timed program against float64."""
    y, dw = expected(draw(case.size, case.batch, case.dtype))
    if case.work == "forward":
        return error(outputs[:CHECKED], y)
    pairs = [(outputs[0][:CHECKED], y)] + ([(outputs[1], dw)] if form != "dense" else [])
    return float(
        np.max([error(value, reference) for value, reference in pairs])
    )  # keeps a NaN, unlike max


def forms(case: Case) -> tuple[str, ...]:
    """What a case is timed in: XLA's form, the kernel where it can run (interpreted: the toy size
    alone), the dense form.
    """
    kernel = "pallas" if on_gpu() else "pallas_interpret" if case.name == "toy" else ""
    dense = "dense" if case.name in DENSE and case.op == "path_estimator" else ""
    return tuple(filter(None, ("xla", kernel, dense)))


def on_gpu() -> bool:
    """Whether there is a GPU to time on."""
    return device().platform in ("gpu", "cuda")


def cases(options: argparse.Namespace) -> Iterator[list[Case]]:
    """Rows that are compiled together, those worth most first."""
    sizes = (
        {"toy": TOY}
        if options.toy
        else {name: SIZES[name] for name in (("B1", "C1") if options.quick else SIZES)}
    )
    batches = (
        (16,)
        if options.toy
        else (16, 256)
        if options.quick or not on_gpu()
        else (4096, 256, 16384, 16)
    )
    dtypes = ("float32",) if options.quick else ("float32", "bfloat16")
    for op, passes in OPS.items():
        for batch in batches:
            yield [
                Case(op, work, name, size, batch, dtype)
                for name, size in sizes.items()
                for dtype in dtypes
                for work in passes
            ]
