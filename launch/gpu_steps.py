"""The steps of launch/gpu.py that are no command of their own: python -m launch.gpu_steps NAME --json=FILE ...

device: the card, its driver, versions, and whether XLA counts its products' FLOPs. tests: the kernel tests, one row a case.
conversion: a config of configs/ with its steps scaled to the seconds given, its results, or how far it came.
"""
from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

import numpy as np

from launch.record import record, version

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "tokenizers", "torch")


def driver() -> dict[str, str]:
    """What nvidia-smi says of the first card; {} where there is none."""
    asked = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit")
    if not shutil.which("nvidia-smi"):
        return {}
    told = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"], capture_output=True,
                          text=True, timeout=60).stdout.splitlines()
    return dict(zip(asked, (value.strip() for value in told[0].split(",")))) if told else {}


def device(path: str) -> int:
    """Writes what there is to run on."""
    import jax
    import jax.numpy as jnp

    from theseus_jax.cost import lowered_flops, program_flops

    one, product = jax.devices()[0], lambda a, b: a @ b
    a = jnp.ones((512, 512))
    counted = program_flops(jax.jit(product).lower(a, a).compile()) / lowered_flops(product, a, a)
    versions = {name: version(name) for name in PACKAGES}
    card = driver()
    record(path, [{"platform": one.platform, "kind": one.device_kind, "cores": getattr(one, "core_count", None), **card,
                   "versions": versions, "counted_share_of_product_flops": counted}],
           headline=[f"{one.platform} {one.device_kind}, driver {card.get('driver_version', 'none')}",
                     ", ".join(f"{name} {number}" for name, number in versions.items() if number)])
    return 0


def tests(path: str, selected: str) -> int:
    """Runs the kernel tests that pytest's -k selects; a GPU's compiled kernels are among them where there is a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/test_kernels.py", "-o", "addopts=", "-q", "-p", "no:cacheprovider",
                   f"--junitxml={report}", f"-k={selected}"]
        # the tests take the CPU where nothing is said; empty: what JAX takes by itself
        status = subprocess.run(command, cwd=ROOT, env={"JAX_PLATFORMS": "", **os.environ}).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    rows = []
    for case in cases:
        problem = next((case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        rows.append({"test": case.get("name"), "outcome": "passed" if problem is None else problem.tag,
                     "seconds": float(case.get("time", 0)),
                     **({} if problem is None else {"why": (problem.get("message") or "").strip()[:500]})})
    passed = sum(row["outcome"] == "passed" for row in rows)
    kernels = sum(row["outcome"] == "passed" and bool(re.search(r"\bpallas\b", row["test"])) for row in rows)
    record(path, rows, passed=passed, failed=len(rows) - passed, headline=[
        f"{passed} of {len(rows)} kernel tests passed, {kernels} of them with compiled kernels",
        *(f"{row['test']}: {row['outcome']}, {row['why'].splitlines()[0] if row['why'] else ''}" for row in rows
          if row["outcome"] != "passed")][:4])
    return status


class Scaled(NamedTuple):
    """A config whose training is cut to the time there is.

    config: "configs/NAME.py:PRESET". overrides: what a GPU run changes for good. steps: {key: optimizer steps a second that an
    H100 does}; each key's training gets `share` of the seconds, after `start` seconds for data, compiling and evaluation.
    """

    config: str
    overrides: dict[str, Any]
    steps: dict[str, float]
    share: dict[str, float]
    start: float


CONVERSIONS = {
    "cifar10": Scaled("configs/resnet18_to_mlp.py:cifar10", {"seeds": 1}, {"guide.steps": 40.0, "convert.steps": 40.0},
                      {"guide.steps": 0.5, "convert.steps": 0.12}, 70.0),
    "gpt2": Scaled("configs/gpt2_to_rnn.py", {
        "data.context": 512, "guide.width": 512, "guide.depth": 8, "guide.heads": 8, "guide.learning_rate": 1e-3,
        "target.width": 512, "target.depth": 8, "target.hidden": 512, "train.batch": 16, "train.chunk": 50, "seeds": 1,
        "convert.align_rate": 2e-3, "convert.finish_rate": 2e-3, "controls.scratch_rate": 3e-3,
        "controls.distilled_rate": 3e-3, "controls.one_shot_rate": 1e-3, "controls.one_shot_distilled_rate": 2e-3,
        "controls.equal_flops": False}, {"guide.steps": 30.0, "convert.steps": 15.0},
        {"guide.steps": 0.4, "convert.steps": 0.12}, 70.0)}
TOYS = {
    "cifar10": {"guide.width": 4, "guide.steps": 4, "target.width": 16, "target.depth": 3, "convert.steps": 10,
                "convert.align": 0.4, "train.batch": 8, "train.chunk": 4, "controls.names": "('from_scratch',)", "report.latency_repeats": 2,
                "report.guide_table": False},
    "gpt2": {"data.tokenizer": "bytes", "data.context": 32, "data.share": 0.01, "guide.width": 16, "guide.depth": 1,
             "guide.heads": 2, "guide.steps": 4, "target.width": 16, "target.depth": 1, "target.hidden": 16,
             "convert.steps": 8, "convert.align": 0.5, "train.batch": 4, "train.chunk": 4, "report.latency_repeats": 2,
             "controls.names": "('from_scratch',)", "report.sample_tokens": 4}}


def toy_pictures(path: pathlib.Path) -> None:
    """An .npz of JPEG streams as CIFAR-10's, of 400 + 200 random pictures: what a rehearsal reads."""
    from PIL import Image

    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 400), ("test", 200)):
        streams = []
        for _ in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
            streams.append(np.frombuffer(buffer.getvalue(), np.uint8))
        arrays |= {f"{split}_jpeg": np.concatenate(streams), f"{split}_labels": np.arange(count).astype(np.int8) % 10,
                   f"{split}_offsets": np.cumsum([0, *map(len, streams)])}
    np.savez(path, **arrays)


def scaled_steps(plan: Scaled, seconds: float) -> dict[str, int]:
    """Optimizer steps of every scaled key for so many seconds: whole hundreds from 100 on, and at least 20."""
    room = max(seconds - plan.start, 0.0)
    steps = {key: int(room * plan.share[key] * rate) for key, rate in plan.steps.items()}
    return {key: max(20, count // 100 * 100 or count) for key, count in steps.items()}


def preset_steps(config: str, keys: tuple[str, ...]) -> dict[str, int]:
    """What the unchanged preset has under `keys`."""
    import importlib.util

    path, _, preset = config.partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.get_config(preset or None)
    return {key: made[key.split(".")[0]][key.split(".")[1]] for key in keys}


def conversion(path: str, name: str, workdir: str, seconds: float, data: str, toy: bool) -> int:
    """Runs the config, and writes its results or, where time or luck ran out, what its records hold."""
    plan, folder, began = CONVERSIONS[name], pathlib.Path(workdir), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    whole = preset_steps(plan.config, tuple(plan.steps))
    changes = {**plan.overrides, **{key: min(count, whole[key]) for key, count in scaled_steps(plan, seconds).items()}}
    if toy:
        changes |= TOYS[name]
    if name == "cifar10":
        if toy:
            toy_pictures(folder / "toy.npz")
        changes["data.path"] = str(folder / "toy.npz") if toy else data
    command = [sys.executable, "launch/run.py", f"--config={plan.config}", f"--workdir={folder}",
               *(f"--config.{key}={value}" for key, value in changes.items())]
    try:
        status = subprocess.run(command, cwd=ROOT, timeout=seconds, env=os.environ | {"PYTHONUNBUFFERED": "1"}).returncode
        why = f"exit code {status}" if status else ""
    except subprocess.TimeoutExpired:
        status, why = 1, f"stopped after {seconds:.0f} s"
    told = {"config": plan.config, "overrides": {key: value for key, value in changes.items() if key != "data.path"},
            "steps": {key: {"preset": whole[key], "here": changes[key]} for key in plan.steps}, "finished": not status,
            "seconds": time.monotonic() - began, **({"why": why} if why else {})}
    if status:
        rows = reached(folder / "metrics.jsonl")
        said = [f"not finished ({why}); reached " + ", ".join(f"{row['model']}/{row['phase']} step {row['step']}" for row in rows)]
    else:
        results = json.loads((folder / "results.json").read_text())
        told |= {key: results[key] for key in ("task", "metric", "data", "stages", "claims")}
        rows = results["models"]
        said = [", ".join(f"{row['name']} {row['value']:.4g}" for row in rows) + f" ({told['metric']})"]
    cut = ", ".join(f"{key} {both['here']} of {both['preset']}" for key, both in told["steps"].items())
    record(path, rows, **told, headline=[f"{cut}; {told['seconds']:.0f} s", *said])
    return status


def reached(path: pathlib.Path) -> list[dict[str, Any]]:
    """The last training row of every model and phase of an unfinished run."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the run was killed while it wrote its last line
            continue
        if row.get("kind") == "train":
            last[row["model"], row["phase"]] = row
    return list(last.values())


def main() -> int:
    """The step's exit code."""
    parser = argparse.ArgumentParser(prog="python -m launch.gpu_steps", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("device", "tests", *CONVERSIONS))
    parser.add_argument("--json", required=True, help="the result file")
    parser.add_argument("--select", default="", help="tests: pytest's -k")
    parser.add_argument("--workdir", default="", help="conversions: where the run leaves its files")
    parser.add_argument("--seconds", type=float, default=120.0, help="conversions: the time there is")
    parser.add_argument("--data", default="", help="cifar10: the .npz")
    parser.add_argument("--toy", action="store_true", help="conversions: tiny networks and few steps")
    given = parser.parse_args()
    if given.name == "device":
        return device(given.json)
    if given.name == "tests":
        return tests(given.json, given.select)
    return conversion(given.json, given.name, given.workdir, given.seconds, given.data, given.toy)


if __name__ == "__main__":
    sys.exit(main())
