"""Alignment step (guide forward, target forward and backward, similarity) against the same step in
PyTorch.

python launch/bench.py [--shape=default] [--compute=float32] [--cells=elman,linear] [--peers=eager]
[--json=FILE]

Same shapes, same weights, same batch, plain SGD, one process, on the GPU where there is one; the
losses of ten SGD steps, and with them the gradients, are compared before anything is timed. Beside
the step: both forwards alone, with the distances, and the step with a loss that compares nothing,
which tells what the alignment terms cost. Prints medians, interquartile ranges and ratios; without
PyTorch (extra [bench]) ours alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault(
    "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
)  # the peer needs the GPU's memory too

import jax
import jax.numpy as jnp
import numpy as np

from launch.alignment_step import SHAPES, Bench, built, epoch, losses_of, programs, step
from launch.record import first_line, record, spread
from pallas_kernels.timing import measured_roof
from theseus_jax.cost import lowered_flops

CELLS, PEERS, STEPS = ("elman", "linear"), ("eager", "compile"), 10
TOLERANCE = {"float32": 2e-3, "bfloat16": 3e-2}


def milliseconds(run: Callable, repeats: int) -> np.ndarray:
    """Wall milliseconds a step of `repeats` calls of STEPS steps each, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin) / STEPS)
    return np.asarray(times)


class Made(NamedTuple):
    """One compiled program: run(batches) -> (variables, losses (STEPS,)), and the bytes that it
    needs on the device.
    """

    run: Callable
    bytes: int | None


def compiled(bench: Bench, one: Callable, batches: jax.Array) -> Made:
    """STEPS steps of `one` in one program."""
    given = bench.variables, bench.guide
    program = jax.jit(epoch(one)).lower(*given, batches).compile()
    memory = program.memory_analysis()
    return Made(
        lambda batches: jax.block_until_ready(program(*given, batches)),
        memory
        and (
            memory.temp_size_in_bytes
            + memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        ),
    )


def step_flops(shape: dict[str, int], cell: str, batch: np.ndarray) -> float:
    """FLOPs of a step, counted in float32, where attention is written out: XLA's count of a fused
    one is 0.
    """
    bench = jax.eval_shape(lambda: built(shape, cell, "float32")[1:])
    return lowered_flops(step(losses_of(shape, cell, "float32")("distance")), *bench, batch)


def begun(
    shape: dict[str, int], cell: str, compute: str, batches: np.ndarray, repeats: int
) -> tuple[dict[str, Any], Bench]:
    """(the row with the step's time and rates, the networks)."""
    bench, given = built(shape, cell, compute), jnp.asarray(batches)
    made = compiled(bench, programs(bench)["step"], given)
    roof = measured_roof(side=8192 if jax.default_backend() == "gpu" else 1024, megabytes=64).flops[
        compute
    ]
    times = spread("step", milliseconds(lambda: made.run(given), repeats))
    seconds, flops = 1e-3 * times["step_ms"], step_flops(shape, cell, batches[0])
    return {
        "cell": cell,
        **shape,
        "compute": compute,
        **times,
        "losses": np.asarray(made.run(given)[1]),
        "bytes": made.bytes,
        "flops": flops,
        "tokens_per_s": shape["batch"] * shape["context"] / seconds,
        "flops_per_s": flops / seconds,
        "share_of_measured_product": flops / seconds / roof,
        "peers": {},
    }, bench


def costs(row: dict[str, Any], bench: Bench, batches: np.ndarray, repeats: int) -> None:
    """Adds to the row what the distances cost beside both forwards, and in the step.

    The programs compile side by side, and none is timed meanwhile.
    """
    given, wanted = jnp.asarray(batches), programs(bench)
    del wanted["step"]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        made = dict(zip(wanted, pool.map(lambda one: compiled(bench, one, given), wanted.values())))
    for name in made:
        row |= spread(name, milliseconds(lambda: made[name].run(given), repeats))
    row["alignment_over_forwards"] = row["forwards_and_distance_ms"] / row["forwards_ms"] - 1
    row["alignment_over_step"] = row["step_ms"] / row["step_without_ms"] - 1


def peer(made: dict[str, Any], name: str, batches: np.ndarray, repeats: int) -> dict[str, Any]:
    """The same step in PyTorch, its losses compared with ours first; ratio: its time over ours."""
    from launch import torch_peer

    shape = {key: made[key] for key in SHAPES["quick"]}
    bench = built(shape, made["cell"], made["compute"])
    variables, guide = (jax.tree.map(np.asarray, tree) for tree in (bench.variables, bench.guide))
    run = torch_peer.epoch(
        shape, made["cell"], variables, guide, compute=made["compute"], compiled=name == "compile"
    )
    losses = run(batches)
    np.testing.assert_allclose(losses, made["losses"], rtol=TOLERANCE[made["compute"]])
    torch_peer.peak_bytes()
    times = milliseconds(lambda: run(batches), repeats)
    return {
        **spread("step", times),
        "ratio": float(np.median(times)) / made["step_ms"],
        "bytes": torch_peer.peak_bytes(),
        "largest_loss_difference": float(np.abs(losses - made["losses"]).max()),
    }


def line(made: dict[str, Any]) -> str:
    """A row in one line, as far as it has got."""
    peers = "".join(
        (
            f"; torch {name} {p['step_ms']:.1f} +- {p['step_iqr_ms']:.1f} ms, ratio"
            f" {p['ratio']:.2f}"
            if "ratio" in p
            else f"; torch {name}: {p['failed']}"
        )
        for name, p in made["peers"].items()
    )
    cost = (
        f"; distances {made['alignment_over_forwards']:+.0%} on both forwards,"
        f" {made['alignment_over_step']:+.0%} on the step"
        if "alignment_over_step" in made
        else ""
    )
    return (
        f"{made['cell']} {made['compute']}: {made['step_ms']:.1f} +- {made['step_iqr_ms']:.1f} ms a"
        f" step, {made['tokens_per_s']:,.0f} tokens/s, {made['share_of_measured_product']:.1%} of"
        f" the measured product{cost}{peers}"
    )


def rows(
    given: argparse.Namespace, keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """All rows; `keep` gets what there is after every measurement."""
    shape, done = SHAPES[given.shape], []
    batches = (
        np.random.default_rng(0)
        .integers(0, shape["vocabulary"], (STEPS, shape["batch"], shape["context"] + 1))
        .astype(np.int32)
    )
    for cell in given.cells.split(","):
        row, bench = begun(shape, cell, given.compute, batches, given.repeats)
        done.append(row)
        keep(done)
        for name in given.peers.split(",") if importlib.util.find_spec("torch") else ():
            print(line(row), flush=True)
            try:
                row["peers"][name] = peer(row, name, batches, given.repeats)
            except (
                Exception
            ) as problem:  # a peer that cannot run is a row that says so; ours is measured already
                row["peers"][name] = {"failed": first_line(problem)}
            keep(done)
        print(line(row), flush=True)
        costs(row, bench, batches, given.repeats)
        keep(done)
        print(line(row), flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="default")
    parser.add_argument(
        "--compute",
        choices=TOLERANCE,
        default="float32",
        help="dtype of the blocks; weights stay float32",
    )
    parser.add_argument("--cells", default=",".join(CELLS), help="of the target, with commas")
    parser.add_argument("--peers", default="eager", help="eager, compile or both, with a comma")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of ten steps")
    parser.add_argument(
        "--json", default="", help="also write the rows here, after each measurement"
    )
    given = parser.parse_args()
    unknown = sorted(
        set(given.cells.split(",")) - set(CELLS) | set(given.peers.split(",")) - set(PEERS)
    )
    if unknown:
        parser.error(
            f"{', '.join(unknown)}: expected cells among {', '.join(CELLS)} and peers among"
            f" {', '.join(PEERS)}"
        )

    def keep(done: list[dict[str, Any]]) -> None:
        if given.json:
            shown = [{**made, "losses": np.asarray(made["losses"]).tolist()} for made in done]
            record(given.json, shown, headline=[line(made) for made in done])

    if not rows(given, keep)[-1]["peers"]:
        print(
            "PyTorch is not installed: no peer was timed; pip install '.[bench]'", file=sys.stderr
        )


if __name__ == "__main__":
    main()
