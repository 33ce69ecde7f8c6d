"""One training step of a GLAI head on this machine: ours against the paper's Listing 1 in PyTorch
eager and our own MLP step.

    python launch/bench_glai.py [--quick] [--json=FILE]

Sizes of arXiv 2510.00883's experiments (A2 with 14 outputs), batch 16 and 256, float32, AdamW, all
cores, one process. "stored": path contributions of all examples kept, a step is linear. "gates":
gates kept, contributions made at each step. Both and the MLP run as the library runs them: steps of
one scan in one jit. Listing 1 is timed in two readings (see launch/torch_listing.py); its losses
over ten steps are compared with our dense form's before anything is timed. Prints medians,
interquartile ranges and ratios. Needs the extra [bench].
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from launch.record import record  # noqa: E402
from pallas_kernels.sizes import SIZES  # noqa: E402
from theseus_jax.feeds import Cached, Feed, Whole  # noqa: E402
from theseus_jax.nets.models.glai import entry_network, fused_network, joint_network  # noqa: E402
from theseus_jax.nets.models.heads import mlp  # noqa: E402
from theseus_jax.nets.stage import init  # noqa: E402
from theseus_jax.objectives import CrossEntropy, Term  # noqa: E402
from theseus_jax.plan import Optimizer, Phase  # noqa: E402
from theseus_jax.train import Hooks, State, fit  # noqa: E402

# the check's rate is so small that ten losses differ and none is 0
ROWS, RATE, CHECKED, CHECK_RATE = 1024, 1e-3, 10, 1e-5


def phase(net, trainable, steps, rate=RATE, **changes):
    """A phase of plain AdamW on cross-entropy."""
    return Phase(
        "bench",
        net,
        trainable,
        (Term("cross_entropy", 1.0, CrossEntropy()),),
        steps,
        optimizer=Optimizer(rate, 0.0, clip=0.0, b2=0.999, schedule="constant"),
        **changes,
    )


def variables_of(net, size, seed=0):
    """Fresh variables with a seed axis of 1; paths drawn at random, weights small and not zero."""
    made = init(net, jax.random.key(seed), jnp.zeros((1, size.inputs)))
    draw = np.random.default_rng(seed)
    for stage in made.values():
        if "inputs" in stage.get("paths", {}):
            stage["paths"] = {
                "inputs": jnp.asarray(draw.integers(0, size.inputs + 1, size.paths), jnp.int32),
                "units": jnp.asarray(draw.integers(0, size.units + 1, (1, size.paths)), jnp.int32),
            }
        if "chosen" in stage.get("paths", {}):
            chosen = np.zeros(stage["paths"]["chosen"].shape, bool)
            chosen[:-1, :-1] = True
            stage["paths"] = {"chosen": jnp.asarray(chosen)}
        if "weights" in stage.get("params", {}):
            shape = stage["params"]["weights"].shape
            stage["params"] = {
                "weights": jnp.asarray(0.01 * draw.normal(size=shape).astype(np.float32))
            }
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], made)


def ours(one, variables, examples, batch, repeats):
    """Microseconds a step of each of `repeats` chunks, the first one warm."""
    rows = []
    state = State(0, variables, {}, None, jax.random.split(jax.random.key(1), 1))
    fit(
        (one,),
        state,
        examples,
        batch=batch,
        chunk_steps=one.steps // (repeats + 1),
        hooks=Hooks(log=rows.append),
    )
    steps = np.diff([0] + [row["step"] for row in rows if row["kind"] == "train"])
    return (
        np.asarray([1e6 * row["seconds"] for row in rows if row["kind"] == "train"])[1:] / steps[1:]
    )


def listing(size, units, examples, batch, repeats, budget=20.0):
    """Microseconds a step of Listing 1 with `units` hidden units; fewer repeats once `budget`
    seconds are spent.
    """
    from launch.torch_listing import Listing

    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(size.inputs, units)).astype(np.float32)
    weights = 0.01 * draw.normal(size=(size.outputs, size.inputs, units)).astype(np.float32)
    peer, times = Listing(kernel, np.zeros(units, np.float32), weights, RATE), []
    x, y = np.asarray(examples["inputs"]), np.asarray(examples["labels"]).astype(np.int64)
    peer.step(x[:batch], y[:batch])
    began = time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - began < budget):
        rows = draw.integers(0, ROWS, batch)
        begin = time.perf_counter()
        peer.step(x[rows], y[rows])
        times.append(1e6 * (time.perf_counter() - begin))
    return np.asarray(times)


def check(size):
    """Largest difference of the losses of ten AdamW steps on one batch between Listing 1 and our
    dense form.
    """
    from launch.torch_listing import Listing

    net = entry_network((size.units,), size.outputs)
    variables, rows = variables_of(net, size), []
    x, y = data(size, 64)
    layer = variables["selector"]["params"]["hidden_1"]
    weights = np.asarray(variables["estimator"]["params"]["weights"][0])[:-1, :-1].transpose(
        2, 0, 1
    )
    peer = Listing(
        np.asarray(layer["kernel"][0]),
        np.asarray(layer["bias"][0]),
        np.ascontiguousarray(weights),
        CHECK_RATE,
    )
    theirs = [peer.step(np.asarray(x), np.asarray(y).astype(np.int64)) for _ in range(CHECKED)]
    state = State(0, variables, {}, None, jax.random.split(jax.random.key(1), 1))
    fit(
        (phase(net, ("estimator",), CHECKED, CHECK_RATE),),
        state,
        {"inputs": x, "labels": y},
        batch=64,
        chunk_steps=1,
        hooks=Hooks(log=rows.append),
    )
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    np.testing.assert_allclose(losses, theirs, rtol=1e-3)
    return float(np.abs(np.subtract(losses, theirs)).max())


def data(size, count):
    """(x (count, I) float32, labels (count,)) at random."""
    draw = np.random.default_rng(2)
    return (
        jnp.asarray(draw.normal(size=(count, size.inputs)).astype(np.float32)),
        jnp.asarray(draw.integers(0, size.outputs, count).astype(np.int32)),
    )


def row(name, size, batch, repeats):
    """All steps of one size and batch, and their ratios of medians."""
    x, y = data(size, ROWS)
    examples, steps = {"inputs": x, "labels": y}, (repeats + 1) * max(2, min(20, 2000 // batch))
    joint, fused = (
        joint_network((size.units,), size.outputs, size.paths),
        fused_network((size.units,), size.outputs, size.paths),
    )
    whole = mlp((2 * size.units,), size.outputs)
    last, kept = (
        ("estimator",),
        {
            stage: Feed(route=Whole(start="estimator"), cached=(Cached("target", stage),))
            for stage in ("contributions", "selector")
        },
    )
    phases = {
        "stored": phase(joint, last, steps, feed=kept["contributions"]),
        "gates": phase(fused, last, steps, feed=kept["selector"]),
        "mlp": phase(whole, whole.names, steps),
    }
    times = {
        **{
            key: ours(one, variables_of(one.net, size), examples, batch, repeats)
            for key, one in phases.items()
        },
        "listing_dense": listing(size, size.units, examples, batch, repeats),
        "listing_units": listing(
            size, max(1, round(size.paths / size.inputs)), examples, batch, repeats
        ),
    }
    found = {"size": name, "batch": batch}
    for key, values in times.items():
        found |= {
            f"{key}_us": float(np.median(values)),
            f"{key}_iqr_us": float(np.subtract(*np.percentile(values, [75, 25]))),
            f"{key}_repeats": len(values),
        }
    best = min(found["stored_us"], found["gates_us"])
    return found | {
        f"over_{key}": found[f"{key}_us"] / best
        for key in ("mlp", "listing_dense", "listing_units")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="A1 at batch 16 alone")
    parser.add_argument("--json", default="", help="also write the rows here")
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("bench_glai.py: PyTorch is not installed; pip install '.[bench]'", file=sys.stderr)
        raise SystemExit(2)
    print(
        f"losses of {CHECKED} steps, Listing 1 and our dense form: {check(SIZES['A1']):.1e} apart"
        " at most"
    )
    print("median us a step (interquartile range); ratios are to the faster of ours")
    rows = []
    for name, size in [("A1", SIZES["A1"])] if given.quick else SIZES.items():
        for batch in (16,) if given.quick else (16, 256):
            rows.append(row(name, size, batch, repeats=10 if given.quick else 20))
            r = rows[-1]
            print(
                f"{name} B {batch:>3}  "
                + "  ".join(
                    f"{key} {r[f'{key}_us']:,.0f} ({r[f'{key}_iqr_us']:,.0f})"
                    for key in ("stored", "gates", "mlp", "listing_dense", "listing_units")
                )
                + "   ratios: "
                + ", ".join(
                    f"{key} {r[f'over_{key}']:.2f}"
                    for key in ("mlp", "listing_dense", "listing_units")
                ),
                flush=True,
            )
    if given.json:
        record(given.json, rows)


if __name__ == "__main__":
    main()
