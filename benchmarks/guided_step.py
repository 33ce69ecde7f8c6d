"""A guided training step against the unguided one, against PyTorch eager, and what it is made of.

    python benchmarks/guided_step.py [--repeats=30] [--one-core]
        [--out=benchmarks/guided_step.json]

Two pairs of networks on pictures of Fashion-MNIST's shape, drawn at random; batch 128, pooled
samples, AdamW, all cores, one process:

* deep: configs/guide_deep_fcn.py's own, ResNet-18 of width 8 -> plain MLP of 50 x 128, 8 pairs;
* wide: ResNet-18 of width 16 -> 3 x 1024 with batch norm, 21 pairs: each of the guide's layers
  beside a layer of the target, seven to one.

unguided, guided_biased, guided_debiased: the compiled chunk that training runs; guided_kept: with
biased CKA and the guide's outputs of all pictures computed once, before (`feeds.Cached`), which no
config of the method does. published: the guided step with biased CKA in PyTorch eager and forward
hooks, every Gram matrix computed three times a pair and centred by n x n products; lean: one Gram a
stage, of centred features, and the fused optimizer. our_guide, torch_guide: the guide's forward
pass alone. On equal weights, loss, alignment and gradient norm of the first step are compared with
guided_biased's before anything is timed.

All programs take turns in each repeat; a ratio is the median of the repeats' ratios, with its
quartiles. FLOPs are of the loss and its gradient. Needs the extra [bench], and a quiet machine:
beside other work PyTorch's threads wait for each other, and ratios are too good. --one-core: CPU
time on one core instead, which other work changes little.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
import time
from typing import Any, Callable

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "configs")]

import guide_deep_fcn  # noqa: E402
import numpy as np  # noqa: E402

from launch import guided_programs as programs  # noqa: E402
from launch.record import record, spread  # noqa: E402

TOLERANCE = 1e-4
METRICS = {"guided_biased": "cka_biased", "guided_debiased": "cka_debiased"}
PEERS = ("published", "lean")
RATIOS = (
    *((name, "unguided") for name in (*METRICS, "guided_kept")),
    *((peer, name) for peer in PEERS for name in (*METRICS, "guided_kept")),
    ("torch_guide", "our_guide"),
)


def deep() -> Any:
    return guide_deep_fcn.default()


def wide() -> Any:
    """Each of the guide's 21 layers in order, downsampling and head among them."""
    layers = ["stem/conv"]
    for i in range(1, 9):
        layers += [f"block_{i}/conv_1", f"block_{i}/conv_2"]
        layers += [f"block_{i}/shortcut"] if i in (3, 5, 7) else []
    targets, c = ("stem", "block_1", "block_2"), guide_deep_fcn.default()
    pairs = [f"{layer}={targets[i // 7]}" for i, layer in enumerate([*layers, "head"])]
    c.guide.width, c.target.width, c.target.depth, c.target.norm = 16, 1024, 3, "batch"
    c.guidance.pairs = ", ".join(pairs)
    return c


SIZES = {"deep": deep, "wide": wide}


def compared(first: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """{"peer_number": its relative difference from ours in the first step}; raises ValueError above
    TOLERANCE.
    """
    apart = {}
    for name in PEERS:
        for key, values in first[name].items():
            mine = float(first["guided_biased"][key][0])
            apart[f"{name}_{key}"] = abs(float(values[0]) - mine) / abs(mine)
            if not apart[f"{name}_{key}"] < TOLERANCE:
                raise ValueError(f"{key} of the first step: {name} {values[0]}, ours {mine}")
    return apart


def timed(
    runs: dict[str, programs.Run], steps: int, repeats: int, clock: Callable[[], float]
) -> dict[str, np.ndarray]:
    """{program: (R,) milliseconds a step}; each repeat begins with another program. A pause lets
    the threads of the one before come to rest.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            time.sleep(0.1)
            begin = clock()
            runs[name]()
            times[name].append(1e3 * (clock() - begin) / steps)
    return {name: np.asarray(values) for name, values in times.items()}


def counted(bench: programs.Bench) -> dict[str, float]:
    """FLOPs of a step, and which share of them each part has, by estimator."""
    target, guide = programs.counts(bench), programs.guide_count(bench)
    found = {"target": target, "guide_forward": guide}
    for name, metric in METRICS.items():
        whole = found[name] = programs.counts(bench, metric)
        found |= {
            f"{name}_target_share": target / whole,
            f"{name}_guide_share": guide / whole,
            f"{name}_alignment_share": 1 - (target + guide) / whole,
        }
    return found


def row(size: str, repeats: int, steps: int, clock: Callable[[], float]) -> dict[str, Any]:
    """All that is measured of a pair of networks."""
    config = SIZES[size]()
    bench = programs.built(config, steps)
    phases = {
        "unguided": programs.phase_of(bench),
        **{name: programs.phase_of(bench, metric) for name, metric in METRICS.items()},
        "guided_kept": programs.phase_of(bench, "cka_biased", kept=True),
    }
    runs = {name: programs.ours(bench, phase) for name, phase in phases.items()}
    runs |= {"our_guide": programs.our_guide(bench), **programs.torch_programs(bench)}
    apart = compared({name: run() for name, run in runs.items()})
    times = timed(runs, steps, repeats, clock)
    found = {"size": size, "pairs": len(bench.both.pairs), "batch": config.train.batch}
    found |= {"repeats": repeats, "steps": steps, "differences": apart}
    for name, values in times.items():
        found |= spread(name, values)
    found["ratios"] = {
        f"{a}_over_{b}": np.percentile(times[a] / times[b], [25, 50, 75]).tolist()
        for a, b in RATIOS
    }
    return found | {"flops": counted(bench)}


def lines(made: dict[str, Any]) -> list[str]:
    """A row in a few lines."""
    names = [name.removesuffix("_iqr_ms") for name in made if name.endswith("_iqr_ms")]
    times = [f"{name} {made[f'{name}_ms']:.1f} +- {made[f'{name}_iqr_ms']:.1f}" for name in names]
    ratios = [
        f"{name} {middle:.2f} [{low:.2f}, {high:.2f}]"
        for name, (low, middle, high) in made["ratios"].items()
    ]
    f = made["flops"]
    parts = [
        f"{name} {f[name] / 1e6:,.0f}: {f[f'{name}_target_share']:.1%} target,"
        f" {f[f'{name}_guide_share']:.1%} guide, {f[f'{name}_alignment_share']:.1%} alignment"
        for name in METRICS
    ]
    return [
        f"{made['size']}, ms a step: {', '.join(times)}",
        f"{made['size']}, ratios: {', '.join(ratios)}",
        f"{made['size']}, MFLOP a step: {'; '.join(parts)}",
        f"{made['size']}, first steps: {max(made['differences'].values()):.1e} apart at most",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30, help="timed turns of every program")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps a turn")
    parser.add_argument("--one-core", action="store_true", help="CPU time on one core")
    parser.add_argument("--out", default="", help="also write the table here")
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("guided_step.py: PyTorch is not installed; pip install '.[bench]'", file=sys.stderr)
        raise SystemExit(2)
    if given.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clock = time.process_time if given.one_core else time.perf_counter
    done, said = [], []
    for size in SIZES:
        done.append(row(size, given.repeats, given.steps, clock))
        said += lines(done[-1])
        print("\n".join(lines(done[-1])), flush=True)
    if given.out:
        flag = " --one-core" if given.one_core else ""
        command = f"python benchmarks/guided_step.py --repeats={given.repeats}{flag}"
        note = "a machine that others use too: ratios count, milliseconds are rough"
        record(given.out, done, headline=said, command=command, note=note)


if __name__ == "__main__":
    main()
