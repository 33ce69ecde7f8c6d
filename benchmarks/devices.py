"""Several devices, simulated on a CPU: whether every method's smoke run loses what it loses on one,
and what a step costs by its compiled program, since simulated devices share the cores.

    python benchmarks/devices.py runs [--devices=8] [--configs=gpt2_to_rnn,glai_digits]
        [--out=FOLDER]
    python benchmarks/devices.py programs [--json=benchmarks/devices.json]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

METHODS = "gpt2_to_rnn,resnet18_to_mlp,guide_deep_fcn,glai_digits,grow_digits,plasticity_permuted"
STEPS = "gpt2_to_rnn,resnet18_to_mlp,guide_deep_fcn,grow_digits"
COUNTS = (1, 2, 4, 8)
OTHERWISE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
OTHERWISE += " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
PLACE = ("model", "kind", "phase", "seed", "step", "trial")
COLLECTIVE = re.compile(
    r"= (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


def losses(folder: pathlib.Path) -> dict[tuple[Any, ...], dict[str, float]]:
    """The losses of every chunk of steps by where they were measured."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    words = (*PLACE, "seconds", "training_flops")
    return {
        tuple(row.get(key) for key in PLACE): {k: v for k, v in row.items() if k not in words}
        for row in rows
        if row["kind"] == "train"
    }


def lost(name: str, flags: str, folder: pathlib.Path) -> dict[tuple[Any, ...], dict[str, float]]:
    """The losses of a smoke run with such XLA flags."""
    command = [sys.executable, "launch/run.py", f"--config=configs/{name}.py:smoke"]
    command += [f"--workdir={folder}"]
    given = {"cwd": ROOT, "env": {**os.environ, "XLA_FLAGS": flags}}
    done = subprocess.run(command, capture_output=True, text=True, **given)
    if done.returncode:
        raise SystemExit(f"{name} fails with {flags!r}: {done.stderr.splitlines()[-1][:200]}")
    return losses(folder)


def worst(one: Any, other: Any) -> str:
    """Of every kind of number that farthest apart, relative to it where it is above 1."""
    apart: dict[str, list[tuple[float, str]]] = {}
    for place, row in one.items():
        where = ", ".join(str(part) for part in place if part is not None)
        for key, value in row.items():
            if isinstance(value, float):
                found = abs(value - other[place][key]) / max(1.0, abs(value))
                apart.setdefault(key, []).append((found, where))
    most = {key: max(found) for key, found in apart.items()}
    return ", ".join(f"{key} {found:.1e} ({where})" for key, (found, where) in most.items())


def compared(name: str, devices: int, out: pathlib.Path) -> str:
    """Lines about a smoke run on one device, on several, and on one by another compilation: what
    rounding alone becomes in so many steps.
    """
    one = lost(name, "", out / f"{name}-1")
    several = f"--xla_force_host_platform_device_count={devices}"
    lines = [f"{name}, {len(one)} chunks of steps; at most apart from one device:"]
    for told, flags in ((f"{devices} devices", several), ("compiled otherwise", OTHERWISE)):
        other = lost(name, flags, out / f"{name}-{told.replace(' ', '-')}")
        same = list(one) == list(other)
        lines.append(f"    {told}: {worst(one, other) if same else 'not the same chunks'}")
    return "\n".join(lines)


def communicated(text: str) -> tuple[int, int]:
    """(collectives, bytes that they give) of a compiled program, bodies of loops once."""
    found = COLLECTIVE.findall(text)
    sizes = [
        int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)
        for result in found
        for _, bits, shape in ARRAY.findall(result)
    ]
    return len(found), sum(sizes)


def measured(arm: Any, phase: Any, guide: Any, task: Any) -> Iterator[dict[str, Any]]:
    """A row for every number of devices of a phase's step, one seed."""
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from theseus_jax.balance import weights_at
    from theseus_jax.chunk import Moving, Still, compiled_chunk
    from theseus_jax.cost import program_flops
    from theseus_jax.experiment.jobs import side_variables
    from theseus_jax.nets.sites import with_fresh_tracks
    from theseus_jax.nets.stage import variable_shapes
    from theseus_jax.nets.variables import partition
    from theseus_jax.plan import sides
    from theseus_jax.program import program_of
    from theseus_jax.train import fresh_optimizer

    extra = jax.eval_shape(functools.partial(side_variables, sides((phase,))), jax.random.key(0))
    shapes = {**variable_shapes(phase.net, task.example), **extra}
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), shapes)
    stacked = jax.eval_shape(functools.partial(with_fresh_tracks, phase.tracks), stacked)
    moments = jax.eval_shape(functools.partial(fresh_optimizer, phase), stacked)
    params, rest = partition(stacked, phase.trainable)
    batch = jax.tree.leaves(task.batch)[0].shape[0]
    number = jax.ShapeDtypeStruct((), np.int32)
    still = Still(
        rest,
        guide,
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
        task.batch,
        {},
        jax.ShapeDtypeStruct((1, 1, batch), np.int32),
        *(number, number, number),
        jax.ShapeDtypeStruct((), np.float32),
        jax.eval_shape(lambda: weights_at(phase, (), 0, 1)),
    )
    alone = 0.0
    for count in COUNTS:
        mesh = Mesh(np.array(jax.devices()[:count]), ("batch",)) if count > 1 else None
        made = compiled_chunk(program_of(phase), Moving(params, moments), still, mesh)
        work, (collectives, moved) = program_flops(made.run), communicated(made.run.as_text())
        alone = alone or work
        yield {
            "model": arm.name,
            "phase": phase.name,
            "batch": batch,
            "devices": count,
            "share_of_work": work / alone,
            "collectives": collectives,
            "megabytes": moved / 1e6,
        }


def programs(names: str, path: str) -> None:
    """Prints, and writes, the table of the step programs of default presets."""
    flag = f"--xla_force_host_platform_device_count={max(COUNTS)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    import importlib.util

    from launch.record import record
    from theseus_jax.experiment.parts import arms_of, parts
    from theseus_jax.nets.stage import variable_shapes

    rows = []
    print("config, model, phase | batch | devices | work of each | collectives | MB")
    for name in names.split(","):
        spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config("default")
        task, arms = parts(config)[0], arms_of(config)
        nets = {arm.name: arm.net for arm in arms}
        arm = next(one for one in arms if one.role == "ours")
        guide = variable_shapes(nets[arm.guide], task.example) if arm.guide else {}
        plan = arm.plan(arm.first())
        for phase in dict.fromkeys((plan[0], plan[-1])):
            for row in measured(arm, phase, guide, task):
                rows.append({"config": name, **row})
                print(
                    f"{name}, {row['model']}, {row['phase']} | {row['batch']} | {row['devices']} |"
                    f" {row['share_of_work']:.3f} | {row['collectives']} | {row['megabytes']:.2f}",
                    flush=True,
                )
    if path:
        record(path, rows)


def main() -> None:
    """Prints one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("runs", "programs"))
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--configs", default="", help="names with commas")
    parser.add_argument("--json", default="", help="of programs")
    parser.add_argument("--out", default="", help="of runs: a folder in which they stay")
    given = parser.parse_args()
    if given.what == "programs":
        return programs(given.configs or STEPS, given.json)
    with tempfile.TemporaryDirectory() as folder:
        for name in (given.configs or METHODS).split(","):
            out = pathlib.Path(given.out or folder)
            print(compared(name, given.devices, out.resolve()), flush=True)


if __name__ == "__main__":
    main()
