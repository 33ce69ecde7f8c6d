"""What masks, the newborn doctor, slicing and seeds in one program cost or save in training.

    python benchmarks/plasticity_step.py [--repeats=30] [--out=benchmarks/plasticity_step.json]

On pictures of 784 numbers drawn at random, SGD, batch 64: the MLP of configs/grow_fashion_mlp.py
(256, 256) and one of 1,024, 1,024. dense: without masks; masked: with them, a fifth of the weights
on; compacted: the same sliced to multiples of 16; doctor: masked, and the doctor looks after every
10 steps. All take turns in each repeat; a ratio is the median of the repeats' ratios, with its
quartiles. seeds: ten seeds in one run of `train.fit` against ten runs of one seed, in wall-clock
time with compiling, each in a process without a cache; and without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any, Callable

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from launch.record import record, spread  # noqa: E402
from theseus_jax.chunk import Moving, Still, compiled_chunk  # noqa: E402
from theseus_jax.methods import plasticity  # noqa: E402
from theseus_jax.methods.plasticity.budget import targets  # noqa: E402
from theseus_jax.methods.plasticity.doctor import Doctor  # noqa: E402
from theseus_jax.nets.models.fcn import mlp  # noqa: E402
from theseus_jax.nets.stage import init  # noqa: E402
from theseus_jax.nets.variables import partition  # noqa: E402
from theseus_jax.objectives import CrossEntropy, Term  # noqa: E402
from theseus_jax.plan import Optimizer, Phase  # noqa: E402
from theseus_jax.program import program_of  # noqa: E402
from theseus_jax.train import State, fit, fresh_optimizer  # noqa: E402

INPUTS, BATCH, STEPS, SEEDS, SHARE = 784, 64, 50, 10, 0.2
EXAMPLE = jax.ShapeDtypeStruct((1, INPUTS), jnp.float32)
STAGES = ("stem", "block_1", "head")
RATIOS = (
    ("masked", "dense"),
    ("doctor", "masked"),
    ("masked", "compacted"),
    ("dense", "compacted"),
)


def examples() -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2048, INPUTS)).astype(np.float32)
    return {"inputs": jnp.asarray(x), "labels": jnp.asarray(np.abs(x[:, :10]).argmax(axis=1))}


def phase(net: Any, steps: int = STEPS, watches: tuple[Any, ...] = ()) -> Phase:
    optimizer = Optimizer(1e-2, 0.0, 0.0, rule="sgd", momentum=0.9, schedule="constant")
    terms = (Term("cross_entropy", 1.0, CrossEntropy()),)
    return Phase("train", net, STAGES, terms, steps, optimizer=optimizer, watches=watches)


def runner(one: Phase, variables: Any, data: Any) -> Callable[[], None]:
    """A compiled chunk of STEPS steps of one seed."""
    stacked = jax.tree.map(lambda leaf: jnp.array(leaf)[None], variables)
    params, rest = partition(stacked, one.trainable)
    rows = np.random.default_rng(1).integers(0, len(data["labels"]), (1, STEPS, BATCH))
    numbers = (jnp.asarray(n, jnp.int32) for n in (0, STEPS, STEPS))
    keys, rate = jax.random.split(jax.random.key(0), 1), jnp.float32(1e-2)
    still = Still(rest, {}, keys, data, {}, jnp.asarray(rows), *numbers, rate, {})
    moving = [Moving(params, fresh_optimizer(one, stacked))]
    compiled = compiled_chunk(program_of(one), moving[0], still)

    def run() -> None:
        done = jax.block_until_ready(compiled.run(moving.pop(), still))
        moving.append(Moving(done.params, done.opt_state))

    return run


def programs(width: int, data: Any) -> dict[str, Callable[[], None]]:
    net = plasticity.elastic(mlp(classes=10, width=width, depth=2, norm="none"), EXAMPLE)
    variables = init(net, jax.random.key(0), jnp.zeros((1, INPUTS)))
    for site, count in zip(net.sites, targets(net, EXAMPLE, SHARE)):
        off = jnp.arange(site.width) % site.width >= count
        variables = plasticity.switched(variables, site, off, False, 0)
    to = plasticity.widths(net, variables, 16)
    small = dataclasses.replace(plasticity.narrowed(net, to), sites=())
    cut = plasticity.compact(plasticity.Held(variables, None), net, to).variables
    plain = dataclasses.replace(net, sites=())
    doctor = (Doctor(10, net.sites, (0, 100, 200, 300, 400)),)

    def without(tree: Any) -> Any:
        return {s: {k: v for k, v in one.items() if k != "masks"} for s, one in tree.items()}

    return {
        "dense": runner(phase(plain), without(variables), data),
        "masked": runner(phase(net), variables, data),
        "doctor": runner(phase(net, watches=doctor), variables, data),
        "compacted": runner(phase(small), without(cut), data),
    }


def row(width: int, repeats: int, data: Any) -> dict[str, Any]:
    """Steps of one width."""
    runs = programs(width, data)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            begin = time.perf_counter()
            runs[name]()
            times[name].append(1e3 * (time.perf_counter() - begin) / STEPS)
    found: dict[str, Any] = {"width": width, "batch": BATCH, "repeats": repeats}
    for name, values in times.items():
        found |= spread(name, np.asarray(values))
    return found | {
        "ratios": {
            f"{a}_over_{b}": np.percentile(
                np.asarray(times[a]) / np.asarray(times[b]), [25, 50, 75]
            ).tolist()
            for a, b in RATIOS
        }
    }


def seeds_row(width: int, steps: int, data: Any) -> dict[str, Any]:
    """Ten seeds in one run against ten runs of one, with compiling and without."""
    net = plasticity.elastic(mlp(classes=10, width=width, depth=2, norm="none"), EXAMPLE)

    def run(keys: jax.Array) -> float:
        zeros = jnp.zeros((1, INPUTS))
        variables = jax.vmap(lambda key: init(net, key, zeros))(keys)
        begin = time.perf_counter()
        fit((phase(net, steps),), State(0, variables, {}, None, keys), data, batch=BATCH)
        return time.perf_counter() - begin

    keys = jax.random.split(jax.random.key(0), SEEDS)
    ones = [keys[i : i + 1] for i in range(SEEDS)]
    found: dict[str, Any] = {"width": width, "steps": steps, "seeds": SEEDS}
    found |= {"compiling_apart_s": sum(_fresh(run, one) for one in ones)}
    found |= {"compiling_together_s": _fresh(run, keys)}
    run(ones[0])
    found |= {"compiled_apart_s": sum(map(run, ones)), "compiled_together_s": run(keys)}
    for kind in ("compiling", "compiled"):
        found[f"{kind}_ratio"] = found[f"{kind}_apart_s"] / found[f"{kind}_together_s"]
    return found


def _fresh(run: Callable[[jax.Array], float], keys: jax.Array) -> float:
    """A run with nothing compiled, as a process of its own has."""
    from theseus_jax import chunk

    chunk._compile.cache_clear()
    jax.clear_caches()
    return run(keys)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30, help="timed turns of every program")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=300, help="of the runs of ten seeds")
    parser.add_argument("--out", default="", help="also write the table here")
    given, data = parser.parse_args(), examples()
    rows, said = [], []
    for width in given.widths:
        rows.append(row(width, given.repeats, data))
        ratios = (f"{k} {m:.2f} [{a:.2f}, {b:.2f}]" for k, (a, m, b) in rows[-1]["ratios"].items())
        said.append(f"width {width}: {', '.join(ratios)}")
        print(said[-1], flush=True)
    rows.append(seeds_row(given.widths[0], given.steps, data))
    said.append(
        f"ten runs over one of ten seeds, {given.steps} steps:"
        f" {rows[-1]['compiling_ratio']:.2f} with compiling, {rows[-1]['compiled_ratio']:.2f}"
        " without"
    )
    print(said[-1], flush=True)
    if given.out:
        command = f"python benchmarks/plasticity_step.py --repeats={given.repeats}"
        note = "a machine that others use too: ratios count, milliseconds are rough"
        record(given.out, rows, headline=said, command=command, note=note)


if __name__ == "__main__":
    main()
