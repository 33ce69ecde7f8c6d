"""Alignment step (guide forward, target forward and backward, similarity) against the same step in PyTorch.

    python launch/bench.py [--shape=default] [--compute=float32] [--cells=elman,linear] [--peers=eager] [--json=FILE]

Same shapes, same weights, same batch, plain SGD, one process, on the GPU where there is one; the losses of ten SGD steps,
and with them the gradients, are compared before anything is timed. Beside the step: both forwards alone, with the distances,
and the step with a loss that compares nothing, which tells what the alignment terms cost. Prints medians, interquartile
ranges and ratios; without PyTorch (extra [bench]) ours alone.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import sys
import time
from typing import Any, Callable, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs the GPU's memory too

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from launch.record import record  # noqa: E402
from pallas_kernels.timing import measured_roof  # noqa: E402
from theseus_jax.cost import lowered_flops  # noqa: E402
from theseus_jax.nets.gpt2 import gpt2  # noqa: E402
from theseus_jax.nets.recurrent import recurrent  # noqa: E402
from theseus_jax.nets.stage import init  # noqa: E402
from theseus_jax.objectives import Alignment, Term  # noqa: E402
from theseus_jax.plan import Route  # noqa: E402
from theseus_jax.program import Program, loss_fn  # noqa: E402
from theseus_jax.similarity import metric  # noqa: E402

SHAPES = {"quick": dict(vocabulary=257, width=32, depth=2, heads=2, context=32, batch=4),
          "default": dict(vocabulary=1024, width=128, depth=4, heads=4, context=128, batch=8),
          "gpt2_small": dict(vocabulary=50257, width=768, depth=12, heads=12, context=1024, batch=8)}
CELLS, PEERS, STEPS, RATE = ("elman", "linear"), ("eager", "compile"), 10, 1e-2
TOLERANCE = {"float32": 2e-3, "bfloat16": 3e-2}


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Reads what an alignment reads and compares nothing: what a step costs without its distances."""

    pairs: tuple[tuple[str, str], ...]
    target = property(lambda self: tuple(t for _, t in self.pairs))
    guide = property(lambda self: tuple(g for g, _ in self.pairs))

    def __call__(self, signals: Any) -> jax.Array:
        return sum(jnp.mean(signals.target[t]) + jnp.mean(signals.guide[g]) for g, t in self.pairs)


class Bench(NamedTuple):
    """One pair of networks. loss(name)(variables, guide, batch): "distance" or "nothing"."""

    loss: Callable[[str], Callable]
    variables: Any
    guide: Any


def built(shape: dict[str, int], cell: str, compute: str) -> Bench:
    """The networks of a shape with fresh float32 weights, which blocks read in `compute`."""
    sizes = {key: shape[key] for key in ("vocabulary", "width", "depth")}
    guide = gpt2(**sizes, heads=shape["heads"], positions=shape["context"])
    target = recurrent(**sizes, hidden=shape["width"], kind=cell)
    names = [f"block_{i + 1}" for i in range(shape["depth"])]
    pairs = tuple((name, name) for name in names)
    terms = {"distance": Alignment(pairs, metric("cka_debiased")), "nothing": Nothing(pairs)}

    def lowered(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(compute), tree)

    def loss(name: str) -> Callable:
        program = Program(target, guide, ("embed", *names), (Term(name, 1.0, terms[name]),), Route(stop=names[-1]),
                          0.0, 1.0, 0.98)
        return lambda variables, guide, batch: loss_fn(program, lowered(variables), {}, lowered(guide), batch, (0.0, 1.0),
                                                       jax.random.key(0))[0].astype(jnp.float32)

    x = jnp.zeros((1, shape["context"]), jnp.int32)
    variables = init(target, jax.random.key(0), x)
    return Bench(loss, {name: variables[name] for name in ("embed", *names)}, init(guide, jax.random.key(1), x))


def step(loss: Callable) -> Callable:
    """One SGD step: (variables, guide, batch) -> (variables, loss)."""
    def run(variables, guide, batch):
        value, gradient = jax.value_and_grad(loss)(variables, guide, batch)
        return jax.tree.map(lambda p, g: p - RATE * g, variables, gradient), value

    return run


def epoch(one: Callable) -> Callable:
    """(variables, guide, batches (K, B, T + 1)) -> (variables, losses (K,)): K steps in one program."""
    return lambda variables, guide, batches: jax.lax.scan(lambda v, batch: one(v, guide, batch), variables, batches)


def programs(bench: Bench) -> dict[str, Callable]:
    """What is timed, by name."""
    def forwards(name: str) -> Callable:
        return lambda variables, guide, batch: (variables, bench.loss(name)(variables, guide, batch))

    return {"step": step(bench.loss("distance")), "step_without": step(bench.loss("nothing")),
            "forwards": forwards("nothing"), "forwards_and_distance": forwards("distance")}


def milliseconds(run: Callable, repeats: int) -> np.ndarray:
    """Wall milliseconds a step of each of `repeats` calls of STEPS steps, after one warm-up call."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin) / STEPS)
    return np.asarray(times)


def spread(name: str, times: np.ndarray) -> dict[str, float]:
    """Median and interquartile range under `name`."""
    return {f"{name}_ms": float(np.median(times)), f"{name}_iqr_ms": float(np.subtract(*np.percentile(times, [75, 25])))}


def ours(shape: dict[str, int], cell: str, compute: str, batches: np.ndarray, repeats: int) -> dict[str, Any]:
    """Times of our programs, with the losses, FLOPs and memory of the step."""
    bench = built(shape, cell, compute)
    found: dict[str, Any] = {}
    for name, one in programs(bench).items():
        arguments = bench.variables, bench.guide, jnp.asarray(batches)
        compiled = jax.jit(epoch(one)).lower(*arguments).compile()
        found |= spread(name, milliseconds(lambda: jax.block_until_ready(compiled(*arguments)), repeats))
        if name == "step":
            found["losses"] = np.asarray(compiled(*arguments)[1])
            memory = compiled.memory_analysis()
            found["bytes"] = memory and (memory.temp_size_in_bytes + memory.argument_size_in_bytes
                                         + memory.output_size_in_bytes - memory.alias_size_in_bytes)
    # counted in float32, where attention is written out: XLA's count of a fused one is 0
    whole = built(shape, cell, "float32")
    found["flops"] = lowered_flops(step(whole.loss("distance")), whole.variables, whole.guide, jnp.asarray(batches[0]))
    return found


def row(shape: dict[str, int], cell: str, compute: str, batches: np.ndarray, repeats: int) -> dict[str, Any]:
    """Ours, with rates and what the alignment terms add."""
    found, tokens = ours(shape, cell, compute, batches, repeats), shape["batch"] * shape["context"]
    roof = measured_roof(side=8192 if jax.default_backend() == "gpu" else 1024, megabytes=64).flops[compute]
    rate = found["flops"] / (1e-3 * found["step_ms"])
    return {"cell": cell, **shape, "compute": compute, **found, "tokens_per_s": tokens / (1e-3 * found["step_ms"]),
            "flops_per_s": rate, "share_of_measured_product": rate / roof,
            "alignment_over_forwards": found["forwards_and_distance_ms"] / found["forwards_ms"] - 1,
            "alignment_over_step": found["step_ms"] / found["step_without_ms"] - 1, "peers": {}}


def peer(made: dict[str, Any], name: str, batches: np.ndarray, repeats: int) -> dict[str, Any]:
    """The same step in PyTorch, its losses compared with ours first; ratio: its time over ours."""
    from launch import torch_peer

    shape = {key: made[key] for key in SHAPES["quick"]}
    bench = built(shape, made["cell"], made["compute"])
    variables, guide = (jax.tree.map(np.asarray, tree) for tree in (bench.variables, bench.guide))
    run = torch_peer.epoch(shape, made["cell"], variables, guide, compute=made["compute"], compiled=name == "compile")
    losses = run(batches)
    np.testing.assert_allclose(losses, made["losses"], rtol=TOLERANCE[made["compute"]])
    torch_peer.peak_bytes()
    times = milliseconds(lambda: run(batches), repeats)
    return {**spread("step", times), "ratio": float(np.median(times)) / made["step_ms"], "bytes": torch_peer.peak_bytes(),
            "largest_loss_difference": float(np.abs(losses - made["losses"]).max())}


def line(made: dict[str, Any]) -> str:
    """A row in one line."""
    peers = "".join(f"; torch {name} {p['step_ms']:.1f} +- {p['step_iqr_ms']:.1f} ms, ratio {p['ratio']:.2f}"
                    if "ratio" in p else f"; torch {name}: {p['failed']}" for name, p in made["peers"].items())
    return (f"{made['cell']} {made['compute']}: {made['step_ms']:.1f} +- {made['step_iqr_ms']:.1f} ms a step, "
            f"{made['tokens_per_s']:,.0f} tokens/s, {made['share_of_measured_product']:.1%} of the measured product; distances "
            f"{made['alignment_over_forwards']:+.0%} on both forwards, {made['alignment_over_step']:+.0%} on the step{peers}")


def rows(given: argparse.Namespace, keep: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    """All rows; `keep` gets what there is after every measurement."""
    shape, done = SHAPES[given.shape], []
    batches = np.random.default_rng(0).integers(
        0, shape["vocabulary"], (STEPS, shape["batch"], shape["context"] + 1)).astype(np.int32)
    for cell in given.cells.split(","):
        made = row(shape, cell, given.compute, batches, given.repeats)
        done.append(made)
        keep(done)
        for name in given.peers.split(",") if importlib.util.find_spec("torch") else ():
            try:
                made["peers"][name] = peer(made, name, batches, given.repeats)
            except Exception as problem:  # a peer that cannot run is a row that says so; ours is measured already
                made["peers"][name] = {"failed": f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"[:300]}
            keep(done)
        print(line(made), flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="default")
    parser.add_argument("--compute", choices=TOLERANCE, default="float32", help="dtype of the blocks; weights stay float32")
    parser.add_argument("--cells", default=",".join(CELLS), help="of the target, with commas")
    parser.add_argument("--peers", default="eager", help="eager, compile or both, with a comma")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of ten steps")
    parser.add_argument("--json", default="", help="also write the rows here, after each measurement")
    given = parser.parse_args()
    unknown = sorted(set(given.cells.split(",")) - set(CELLS) | set(given.peers.split(",")) - set(PEERS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: expected cells among {', '.join(CELLS)} and peers among {', '.join(PEERS)}")

    def keep(done: list[dict[str, Any]]) -> None:
        if given.json:
            shown = [{**made, "losses": np.asarray(made["losses"]).tolist()} for made in done]
            record(given.json, shown, headline=[line(made) for made in done])

    if not rows(given, keep)[-1]["peers"]:
        print("PyTorch is not installed: no peer was timed; pip install '.[bench]'", file=sys.stderr)


if __name__ == "__main__":
    main()
