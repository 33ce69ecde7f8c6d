"""What a program costs: FLOPs from the compiled program, latency as a warmed median."""

from __future__ import annotations

import math
import re
import time
from typing import Any, Callable

import jax
import jax.extend.core
import numpy as np

# FLOPs a second, dense, at the precision that XLA takes for float32 products by default: TF32 where
# the GPU has it, else float32 (NVIDIA's data sheets; where they give the rate with sparsity, half
# of it). A name stands before those that are a part of it.
PEAKS = (
    ("H100 PCIe", 378e12),
    ("H100", 494.5e12),
    ("H200", 494.5e12),
    ("A100", 156e12),
    ("L40S", 183e12),
    ("L4", 60e12),
    ("RTX 4090", 82.6e12),
    ("T4", 8.1e12),
    ("V100", 15.7e12),
)


def peak_flops(device_kind: str) -> float | None:
    """FLOPs a second that a device can do at best (`PEAKS`), by JAX's name of its kind; None for
    one that is not listed.
    """
    return next((peak for name, peak in PEAKS if re.search(rf"\b{name}\b", device_kind)), None)


def program_flops(program: Any) -> float:
    """XLA's count for a lowered or compiled program; it counts the body of a loop once, whatever
    the trip count.
    """
    analysis = program.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, (list, tuple)) else analysis
    return float((analysis or {}).get("flops", 0.0))


def _lowered(fn: Callable[..., Any], *args: Any) -> Any:
    """`fn` lowered for the CPU, whatever the device."""
    shapes = jax.eval_shape(lambda *values: values, *args)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(fn).lower(*shapes)


def compiled_flops(compiled: Any, fn: Callable[..., Any], *args: Any) -> float:
    """`program_flops` of `fn` compiled for `args`: the compiled program's own count on a CPU.

    On another device it is that of the program as lowered for a CPU, before optimisation, which is
    a little higher: on a GPU what cuDNN does, convolutions and fused attention, counts as nothing
    (H200, jax 0.11.2). A program that no CPU can run, one with a kernel chosen by name, keeps the
    compiled count.
    """
    if jax.default_backend() == "cpu":
        return program_flops(compiled)
    try:
        return program_flops(_lowered(fn, *args))
    except ValueError:
        return program_flops(compiled)


def flops(fn: Callable[..., Any], *args: Any) -> float:
    """FLOPs of one call of `fn(*args)`: the compiled program's count and what that leaves out
    (`uncounted`).

    args: arrays or ShapeDtypeStructs; nothing is run. A `while_loop` without a known length is
    counted once.
    """
    closed = jax.make_jaxpr(fn)(*args)
    return compiled_flops(jax.jit(fn).lower(*args).compile(), fn, *args) + uncounted(closed.jaxpr)


def lowered_flops(fn: Callable[..., Any], *args: Any) -> float:
    """As `flops`, from the program before XLA optimises it, as lowered for a CPU: nothing but the
    bodies of scans is compiled, the count is a little higher, and it is the same on every device.
    """
    return program_flops(_lowered(fn, *args)) + uncounted(jax.make_jaxpr(fn)(*args).jaxpr)


def uncounted(jaxpr: Any) -> float:
    """FLOPs that XLA's count leaves out of a jaxpr: it takes each scan's body once, whatever its
    length, and matrix decompositions, which are calls of LAPACK or cuSOLVER, as nothing.
    """
    missing = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            body = equation.params["jaxpr"]
            inner = uncounted(body.jaxpr)
            once = _body_flops(body) if equation.params["length"] > 1 else 0.0
            missing += inner + (equation.params["length"] - 1) * (once + inner)
        else:
            missing += _decomposition(equation) + sum(
                uncounted(inner) for inner in _subjaxprs(equation)
            )
    return missing


def _decomposition(equation: Any) -> float:
    """FLOPs of a decomposition of m x n, m >= n (Golub and Van Loan 2013, 4.2, 5.2, 8.3 and 8.6), 0
    for any other equation.

    QR with its orthogonal factor, the SVD and the eigenvectors by their textbook algorithms; a
    library may take others.
    """
    kind, wanted = equation.primitive.name, len(equation.outvars)
    if kind not in ("qr", "svd", "eigh", "cholesky"):
        return 0.0
    *batch, rows, columns = equation.invars[0].aval.shape
    m, n = max(rows, columns), min(rows, columns)
    count = {
        "qr": 4 * n**2 * (m - n / 3),
        "svd": 14 * m * n**2 + 8 * n**3 if wanted > 1 else 4 * m * n**2 - 4 * n**3 / 3,
        "eigh": 9 * n**3,
        "cholesky": n**3 / 3,
    }[kind]
    return math.prod(batch) * count


def _body_flops(closed: Any) -> float:
    shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in closed.in_avals]
    body = jax.extend.core.jaxpr_as_fun(closed)
    return compiled_flops(jax.jit(body).lower(*shapes).compile(), body, *shapes)


def _subjaxprs(equation: Any):
    for value in equation.params.values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if hasattr(item, "jaxpr"):
                yield item.jaxpr
            elif hasattr(item, "eqns"):
                yield item


def latency(fn: Callable[..., Any], *args: Any, repeats: int = 30) -> tuple[float, float]:
    """(median, interquartile range) of the wall time of `fn(*args)` in microseconds, after two
    warm-up calls.
    """
    for _ in range(2):
        jax.block_until_ready(fn(*args))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(1e6 * (time.perf_counter() - begin))
    low, median, high = np.percentile(times, [25, 50, 75])
    return float(median), float(high - low)
