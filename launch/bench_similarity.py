"""Similarity measures, value and gradient, against PyTorch forms of the same measures.

    python launch/bench_similarity.py [--samples=256,4096] [--features=512,4096] [--json=FILE]

float32 without TF32, one process, on the GPU where there is one. x (N, P) and y (N, P) share half
their variance; the gradient is that by x. Values, and gradients where they are unique, are compared
before anything is timed. Prints medians over calls that are each waited for, interquartile ranges
and ratios; without PyTorch (extra [bench]) ours alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault(
    "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
)  # the peer needs the GPU's memory too

import jax  # noqa: E402
import numpy as np  # noqa: E402

from launch.record import first_line, record, spread  # noqa: E402
from theseus_jax.similarity import METRICS  # noqa: E402

# the order of a run: what decompositions cost at 4096 features is not known before, so they come
# last
NAMES = (
    "cka_debiased",
    "cka_biased",
    "mse",
    "rsa",
    "dmnn",
    "dmnn_softmax",
    "mutual_knn",
    "ridge",
    "procrustes",
)
SETTINGS = {"k": 10, "temperature": 0.02}
VALUE, GRADIENT = (
    2e-3,
    2e-2,
)  # tolerances: the largest difference, of the value and of the gradient's largest entry


def drawn(samples: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y), both (N, P) float32: y is half x, turned by a random sign and order of its features,
    and half noise.
    """
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, samples, features), np.float32)
    turned = x[:, rng.permutation(features)] * rng.choice(np.float32([-1, 1]), features)
    return x, np.float32(0.5**0.5) * (turned + noise)


def measure(name: str) -> Callable:
    """What is timed of a measure: (x, y) -> (value, gradient by x), or the value of one that has no
    gradient.
    """
    entry = METRICS[name]
    settings = {key: SETTINGS[key] for key in entry.parameters}
    value = lambda x, y: entry.fn(x, y, **settings)  # noqa: E731
    return jax.value_and_grad(value) if entry.differentiable else value


def compiled(name: str, samples: int, features: int) -> Callable:
    """The measure at one size."""
    return (
        jax.jit(measure(name))
        .lower(*[jax.ShapeDtypeStruct((samples, features), np.float32)] * 2)
        .compile()
    )


def ours(
    program: Callable, name: str, x: np.ndarray, y: np.ndarray
) -> Callable[[], tuple[float, Any]]:
    """run() -> (value, gradient by x or None), done when it returns."""
    arguments, both = (jax.numpy.asarray(x), jax.numpy.asarray(y)), METRICS[name].differentiable

    def run() -> tuple[float, Any]:
        result = jax.block_until_ready(program(*arguments))
        return result if both else (result, None)

    return run


def milliseconds(run: Callable, seconds: float) -> np.ndarray:
    """Wall milliseconds of calls for about so many seconds: at most 30, at least 3, of very long
    ones 1.
    """
    times, began = [], time.perf_counter()
    while (
        not times
        or (len(times) < 3 and sum(times) < 4e3)
        or (len(times) < 30 and time.perf_counter() - began < seconds)
    ):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return np.asarray(times)


def compared(mine: tuple, theirs: tuple, name: str) -> dict[str, float]:
    """How far the two are apart. Raises ValueError beyond the tolerances."""
    apart = {"value_difference": abs(float(mine[0]) - float(theirs[0]))}
    if mine[1] is not None:
        a, b = np.asarray(mine[1], np.float64), theirs[1].double().cpu().numpy()
        apart["gradient_difference"] = float(np.abs(a - b).max() / np.abs(b).max())
    bounds = {"value_difference": VALUE, "gradient_difference": GRADIENT}
    # fewer samples than features leave X^T Y singular, where torch's derivative of singular values
    # divides by 0
    checked = [key for key in apart if not (name == "procrustes" and key.startswith("gradient"))]
    wrong = [key for key in checked if not apart[key] <= bounds[key]]
    if wrong:
        raise ValueError(f"{wrong[0]} {apart[wrong[0]]:.1e} is above {bounds[wrong[0]]:.0e}")
    return apart


def row(
    program: Callable, name: str, samples: int, features: int, seconds: float
) -> dict[str, Any]:
    """One measure at one size; ratio: PyTorch's time over ours. The calls that are compared warm
    both up.
    """
    x, y = drawn(samples, features)
    run = ours(program, name, x, y)
    value = run()
    made = {
        "measure": name,
        "samples": samples,
        "features": features,
        "value": float(value[0]),
        "gradient": value[1] is not None,
        **spread("jax", milliseconds(run, seconds)),
    }
    if importlib.util.find_spec("torch") is None:
        return made
    from launch import torch_similarity

    try:
        peer = torch_similarity.value_and_gradient(name, x, y)
        made |= compared(value, peer(), name)
        made |= spread("torch", milliseconds(peer, seconds))
        return made | {"ratio": made["torch_ms"] / made["jax_ms"]}
    except Exception as problem:
        # a peer that cannot run, or disagrees, is a row that says so; ours is measured already
        return made | {"failed": first_line(problem)}


def line(made: dict[str, Any]) -> str:
    """A row in one line."""
    what = "value and gradient" if made["gradient"] else "value"
    peer = (
        f"   torch {made['torch_ms']:9.2f} +- {made['torch_iqr_ms']:.2f}   ratio"
        f" {made['ratio']:.2f}"
        if "ratio" in made
        else f"   torch: {made['failed']}"
        if "failed" in made
        else ""
    )
    return (
        f"{made['measure']:<13} N {made['samples']:>5} P {made['features']:>5} {what:<18} jax"
        f" {made['jax_ms']:9.2f} +- {made['jax_iqr_ms']:.2f} ms{peer}"
    )


def headline(rows: list[dict[str, Any]]) -> list[str]:
    """The rows at a glance: how often ours is faster, and the two ends."""
    both = sorted((made for made in rows if "ratio" in made), key=lambda made: made["ratio"])
    failed = [
        f"{made['measure']} N {made['samples']} P {made['features']}: {made['failed']}"
        for made in rows
        if "failed" in made
    ]
    if not both:
        return ["PyTorch was not there or disagreed: no ratio", *failed][:4]
    ends = [
        f"{made['ratio']:.2f} ({made['measure']}, N {made['samples']}, P {made['features']})"
        for made in (both[0], both[-1])
    ]
    ratios = [made["ratio"] for made in both]
    return [
        (
            f"faster than PyTorch in {sum(r > 1 for r in ratios)} of {len(ratios)}; ratios"
            f" {ends[0]} to {ends[1]}, median {np.median(ratios):.2f}"
        ),
        *failed,
    ][:4]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", default="256,4096", help="N, with commas")
    parser.add_argument("--features", default="512,4096", help="P, with commas")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of timed calls, each measure, size and side"
    )
    parser.add_argument("--json", default="", help="also write the rows here, after each one")
    given = parser.parse_args()
    sizes = [(int(n), int(p)) for n in given.samples.split(",") for p in given.features.split(",")]
    rows, wanted = [], [(name, *size) for name in NAMES for size in sizes]
    with ThreadPoolExecutor(
        max_workers=os.cpu_count()
    ) as pool:  # side by side, and nothing is timed meanwhile
        programs = list(pool.map(lambda one: compiled(*one), wanted))
    print(f"{len(programs)} programs compiled", flush=True)
    for program, one in zip(programs, wanted):
        rows.append(row(program, *one, given.seconds))
        print(line(rows[-1]), flush=True)
        if given.json:
            record(given.json, rows, headline=headline(rows))
    print("\n".join(headline(rows)))


if __name__ == "__main__":
    main()
