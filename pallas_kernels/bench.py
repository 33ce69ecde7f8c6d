"""Times the path estimator at the sizes of GLAI's experiments: `python -m pallas_kernels.bench [--quick] [--json=FILE]`.

Values are checked against float64 before anything is timed. A time is the median of 30 samples, each at least a
millisecond of calls in a row, so on a GPU small sizes show what it costs to start kernels, not what they compute.
--quick: B1 and C1 at batch 16 and 256 in float32. --json: also writes every row there; written to
pallas_kernels/measured.json, the file is what implementation="auto" goes by.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as pk
from pallas_kernels.dispatch import choose, device
from pallas_kernels.sizes import DENSE, SIZES, Size, bound_microseconds

SAMPLES, SHORTEST, CHECKED = 30, 1e-3, 16
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
PASSES = ("forward", "forward+backward", "adamw")


def draw(size: Size, batch: int, dtype: str) -> dict[str, np.ndarray]:
    """Inputs of one case from a fixed seed; dY is 0 past the CHECKED samples that are compared in float64."""
    rng = np.random.default_rng(0)
    x = np.asarray(jnp.asarray(rng.standard_normal((batch, size.inputs)), dtype))
    dy = rng.standard_normal((batch, size.outputs), np.float32) * (np.arange(batch) < CHECKED)[:, None]
    weights = rng.standard_normal((size.paths, size.outputs), np.float32)
    if dtype == "bfloat16":  # what is compared is the sum, so the operands are exact
        weights, dy = (np.asarray(jnp.asarray(a, dtype).astype(jnp.float32)) for a in (weights, dy))
    inputs, units = (rng.integers(0, count, size.paths) for count in (size.inputs, size.units))
    return {"x": x, "open": rng.random((batch, size.units)) < 0.5, "inputs": np.sort(inputs), "units": units,
            "weights": weights, "dy": dy}


def expected(case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Y (CHECKED, O) and dW (P, O) in float64."""
    kept = case["x"][:CHECKED].astype(np.float64)[:, case["inputs"]] * case["open"][:CHECKED][:, case["units"]]
    return kept @ case["weights"].astype(np.float64), kept.T @ case["dy"][:CHECKED].astype(np.float64)


def operations(implementation: str) -> dict[str, Callable]:
    """The passes of one implementation as functions of (x, gates, inputs, units, weights, dy), to be jitted."""
    estimate = functools.partial(pk.path_estimator, implementation=implementation)

    def both(x, gates, inputs, units, weights, dy):
        y, pull = jax.vjp(lambda w: estimate(x, gates, inputs, units, w), weights)
        return y, pull(dy)[0]

    def adamw(x, gates, inputs, units, weights, dy):
        zero = jnp.zeros_like(weights)
        return pk.path_estimator_adamw(x, gates, inputs, units, dy, weights, zero, zero, jnp.int32(0), 1e-3,
                                       implementation=implementation)

    return dict(zip(PASSES, (lambda x, g, i, u, w, dy: estimate(x, g, i, u, w), both, adamw)))


def dense_operations() -> dict[str, Callable]:
    """The dense form of the same layer, every path kept: functions of (x, gates, kernel, dy)."""
    def both(x, gates, kernel, dy):
        y, pull = jax.vjp(lambda v: pk.dense_estimator(x, gates, v), kernel)
        return y, pull(dy)[0]

    return dict(zip(PASSES, (lambda x, gates, kernel, dy: pk.dense_estimator(x, gates, kernel), both)))


def error(value, reference: np.ndarray) -> float:
    """The largest difference over the largest entry."""
    return float(np.max(np.abs(np.asarray(value, np.float64) - reference)) / np.max(np.abs(reference)))


def check(name: str, outputs, reference: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    """Stops the benchmark where Y or dW is wrong: a time of a wrong result is worth nothing."""
    y, dw = outputs
    worst = np.max([error(y[:CHECKED], reference[0]), error(dw, reference[1])])  # keeps a NaN, unlike max
    if not worst <= tolerance:
        raise SystemExit(f"bench: {name} is off by {worst:.1e} of the largest value, allowed {tolerance:.0e}; "
                         "nothing was timed")


def microseconds(function: Callable, operands: tuple) -> tuple[float, float]:
    """Median over samples, and half the distance between the quartiles."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*operands))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*operands))
    calls = max(1, int(SHORTEST / max(time.perf_counter() - start, 1e-7)))
    times = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        jax.block_until_ready([compiled(*operands) for _ in range(calls)])
        times.append(1e6 * (time.perf_counter() - start) / calls)
    low, middle, high = np.percentile(times, (25, 50, 75))
    return float(middle), float(high - low) / 2


def measure(name: str, batch: int, dtype: str, implementations: tuple[str, ...]) -> list[dict]:
    """Rows of one size, batch and dtype, one per pass, with the times of every form."""
    size = SIZES[name]
    case = draw(size, batch, dtype)
    gates = pk.pack_gates(jnp.asarray(case["open"]))
    index = [jnp.asarray(case[key], jnp.int32) for key in ("inputs", "units")]
    x, weights, dy = (jnp.asarray(case[key]) for key in ("x", "weights", "dy"))
    timed = {form: (operations(form), (x, (gates,), index[0], (index[1],), weights, dy)) for form in implementations}
    for form, (passes, operands) in timed.items():
        check(f"{name} {dtype} batch {batch} {form}", jax.jit(passes["forward+backward"])(*operands), expected(case),
              TOLERANCE[dtype])
    if name in DENSE:
        kernel = jnp.zeros((size.inputs, size.units, size.outputs), jnp.float32).at[index[0], index[1]].add(weights)
        timed["dense"] = (dense_operations(), (x, gates, kernel, dy))
        y, _ = jax.jit(timed["dense"][0]["forward+backward"])(*timed["dense"][1])
        reference, _ = expected(case)
        if not error(y[:CHECKED], reference) <= TOLERANCE[dtype]:
            raise SystemExit(f"bench: {name} {dtype} batch {batch} dense disagrees with float64; nothing was timed")
    rows = []
    for work in PASSES:
        times = {form: microseconds(passes[work], given) for form, (passes, given) in timed.items() if work in passes}
        rows.append({"device": device().kind, "op": "path_estimator_adamw" if work == "adamw" else "path_estimator",
                     "pass": work, "size": name, "dtype": dtype, "batch": batch, "paths": size.paths,
                     "outputs": size.outputs,
                     "microseconds": {form: round(median, 1) for form, (median, _) in times.items()},
                     "spread": {form: round(spread, 1) for form, (_, spread) in times.items()}})
    return rows


def lines(row: dict) -> list[str]:
    """One printed line per form of a row."""
    best = min(time for form, time in row["microseconds"].items() if form != "pallas")
    taken = choose(row["op"], "auto", dtype=row["dtype"], batch=row["batch"], paths=row["paths"], outputs=row["outputs"])
    bound = bound_microseconds(SIZES[row["size"]], row["batch"], row["dtype"], backward=row["pass"] != "forward")
    known = "H200" in row["device"] and row["pass"] != "adamw"
    printed = []
    for form, median in row["microseconds"].items():
        roofline = f"{bound / median:8.3f}" if known and form != "dense" else f"{'-':>8}"
        printed.append(f"{row['size']:4} {row['batch']:6} {row['dtype']:9} {row['pass']:17} {form:7} {median:11.1f} "
                       f"{row['spread'][form]:8.1f} {median / best:7.2f} {roofline} {'auto' if form == taken else ''}")
    return printed


def main(arguments: list[str]) -> int:
    """Prints the table; 2 for unknown arguments."""
    parser = argparse.ArgumentParser(prog="python -m pallas_kernels.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="B1 and C1 at batch 16 and 256 in float32")
    parser.add_argument("--json", metavar="FILE", help="write every row there")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)
    gpu = device().platform in ("gpu", "cuda")
    batches = (16, 256) if options.quick or not gpu else (16, 256, 4096, 16384)
    print(f"jax {jax.__version__}, {device().kind}; median of {SAMPLES} in microseconds, half the interquartile range, "
          "ratio to the best XLA form, fraction of the H200's roofline")
    if not gpu:
        print("no GPU here: only the XLA forms are timed, at batch 16 and 256; dense keeps every path, so it does more")
    print(f"{'size':4} {'batch':>6} {'dtype':9} {'pass':17} {'form':7} {'median':>11} {'spread':>8} {'ratio':>7} "
          f"{'roofline':>8}")
    rows = []
    for name in ("B1", "C1") if options.quick else SIZES:
        for batch in batches:
            for dtype in ("float32",) if options.quick else ("float32", "bfloat16"):
                rows += measure(name, batch, dtype, ("xla", "pallas") if gpu else ("xla",))
                print("\n".join(line for row in rows[-len(PASSES):] for line in lines(row)), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            head = {"command": "python -m pallas_kernels.bench --json=pallas_kernels/measured.json", "jax": jax.__version__,
                    "date": time.strftime("%Y-%m-%d")}
            text = ",\n  ".join(json.dumps(row) for row in rows)
            file.write(json.dumps(head)[:-1] + f',\n "rows": [\n  {text}]}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
