"""Alignment step (guide forward, target forward and backward, similarity) against the same step in PyTorch eager.

    python launch/bench.py [--quick] [--json=FILE]

Same shapes, same weights, same batch, float32, plain SGD, all cores, one process; the losses of ten
SGD steps, and with them the gradients, are compared before anything is timed. Needs the extra [bench]. Prints medians, interquartile ranges and the median ratio.
"""
from __future__ import annotations

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from launch.record import record  # noqa: E402
from theseus_jax.nets.gpt2 import gpt2  # noqa: E402
from theseus_jax.nets.recurrent import recurrent  # noqa: E402
from theseus_jax.nets.stage import init  # noqa: E402
from theseus_jax.objectives import Alignment, Term  # noqa: E402
from theseus_jax.plan import Route  # noqa: E402
from theseus_jax.program import Program, loss_fn  # noqa: E402
from theseus_jax.similarity import metric  # noqa: E402

SHAPES = {"quick": dict(vocabulary=257, width=32, depth=2, heads=2, context=32, batch=4),
          "default": dict(vocabulary=1024, width=128, depth=4, heads=4, context=128, batch=8)}
CELLS, STEPS, RATE = ("elman", "linear"), 10, 1e-2


def jax_epoch(shape, cell):
    """(run, variables, guide): run(variables, guide, batches (K, B, T + 1)) -> (variables, losses (K,)), K SGD steps in one jit."""
    guide = gpt2(vocabulary=shape["vocabulary"], width=shape["width"], depth=shape["depth"], heads=shape["heads"],
                 positions=shape["context"])
    target = recurrent(vocabulary=shape["vocabulary"], width=shape["width"], depth=shape["depth"], hidden=shape["width"], kind=cell)
    names = [f"block_{i + 1}" for i in range(shape["depth"])]
    pairs = tuple((name, name) for name in names)
    program = Program(target, guide, ("embed", *names), (Term("distance", 1.0, Alignment(pairs, metric("cka_debiased"))),),
                      Route(stop=names[-1]), 0.0, 1.0, 0.98)
    x = jnp.zeros((1, shape["context"]), jnp.int32)

    @jax.jit
    def run(variables, guide_variables, batches):
        def advance(variables, batch):
            loss, gradient = jax.value_and_grad(lambda v: loss_fn(program, v, {}, guide_variables, batch, (0.0, 1.0),
                                                                  jax.random.key(0))[0])(variables)
            return jax.tree.map(lambda p, g: p - RATE * g, variables, gradient), loss

        return jax.lax.scan(advance, variables, batches)

    variables = init(target, jax.random.key(0), x)
    trained = {name: variables[name] for name in ("embed", *names)}
    return run, trained, init(guide, jax.random.key(1), x)


def seconds_per_step(run, repeats):
    """Wall seconds a step of each of `repeats` calls of STEPS steps, after one warm-up call."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) / STEPS)
    return np.asarray(times)


def compare(torch_peer, shape, cell, repeats):
    """One row: both sides interleaved in time would share caches badly, so each runs its repeats in a block, twice."""
    run, variables, guide = jax_epoch(shape, cell)
    rng = np.random.default_rng(0)
    batches = rng.integers(0, shape["vocabulary"], (STEPS, shape["batch"], shape["context"] + 1)).astype(np.int32)
    peer = torch_peer.epoch(shape, cell, jax.tree.map(np.asarray, variables), jax.tree.map(np.asarray, guide))
    ours_losses, peer_losses = np.asarray(run(variables, guide, batches)[1]), np.asarray(peer(batches))
    np.testing.assert_allclose(ours_losses, peer_losses, rtol=2e-3)
    blocks = [(seconds_per_step(lambda: jax.block_until_ready(run(variables, guide, batches)), repeats),
               seconds_per_step(lambda: peer(batches), repeats)) for _ in range(2)]
    ours, theirs = (np.concatenate(side) for side in zip(*blocks))
    ratios = np.median(theirs) / ours
    return {"cell": cell, **shape, "jax_examples_per_s": shape["batch"] / float(np.median(ours)),
            "torch_examples_per_s": shape["batch"] / float(np.median(theirs)),
            "jax_ms": 1e3 * float(np.median(ours)), "jax_iqr_ms": 1e3 * float(np.subtract(*np.percentile(ours, [75, 25]))),
            "torch_ms": 1e3 * float(np.median(theirs)),
            "torch_iqr_ms": 1e3 * float(np.subtract(*np.percentile(theirs, [75, 25]))),
            "ratio": float(np.median(ratios)), "ratio_low": float(np.percentile(ratios, 25)),
            "ratio_high": float(np.percentile(ratios, 75)), "largest_loss_difference": float(np.abs(ours_losses - peer_losses).max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, few repeats")
    parser.add_argument("--json", default="", help="also write the rows here")
    given = parser.parse_args()
    shape = SHAPES["quick" if given.quick else "default"]
    try:
        from launch import torch_peer
    except ImportError:
        print("bench.py: PyTorch is not installed; pip install '.[bench]'", file=sys.stderr)
        raise SystemExit(2) from None
    rows = []
    for cell in CELLS:
        rows.append(compare(torch_peer, shape, cell, repeats=3 if given.quick else 10))
        r = rows[-1]
        print(f"{cell:<7} jax {r['jax_examples_per_s']:7.1f} examples/s ({r['jax_ms']:.1f} +- {r['jax_iqr_ms']:.1f} ms)   "
              f"torch eager {r['torch_examples_per_s']:7.1f} ({r['torch_ms']:.1f} +- {r['torch_iqr_ms']:.1f} ms)   "
              f"ratio {r['ratio']:.2f} [{r['ratio_low']:.2f}, {r['ratio_high']:.2f}]", flush=True)
    if given.json:
        record(given.json, rows, quick=given.quick)


if __name__ == "__main__":
    main()
