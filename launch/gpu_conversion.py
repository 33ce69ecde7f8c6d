"""A conversion of launch/gpu.py: a config of configs/ with its steps cut to the seconds that there
are.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from launch.record import record

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Scaled(NamedTuple):
    """A config whose training is cut to the time there is.

    config: "configs/NAME.py:PRESET". overrides: what a GPU run changes for good. steps: {key:
    optimizer steps a second that an H200 does}; each key's training gets `share` of the seconds,
    after `start` seconds for data, compiling and evaluation.
    """

    config: str
    overrides: dict[str, Any]
    steps: dict[str, float]
    share: dict[str, float]
    start: float


CONVERSIONS = {
    "cifar10": Scaled(
        "configs/resnet18_to_mlp.py:cifar10",
        {},
        {"guide.steps": 70.0, "convert.steps": 60.0},
        {"guide.steps": 0.5, "convert.steps": 0.12},
        110.0,
    ),
    "gpt2": Scaled(
        "configs/gpt2_to_rnn_plain.py",
        {
            "data.context": 512,
            "guide.width": 512,
            "guide.depth": 8,
            "guide.heads": 8,
            "guide.learning_rate": 1e-3,
            "target.width": 512,
            "target.depth": 8,
            "target.hidden": 512,
            "train.batch": 16,
            "train.chunk": 50,
            "convert.align_rate": 2e-3,
            "convert.finish_rate": 2e-3,
            "controls.rates.from_scratch": 3e-3,
            "controls.rates.distilled": 3e-3,
            "controls.rates.one_shot": 1e-3,
            "controls.rates.one_shot_distilled": 2e-3,
            "controls.equal_flops": False,
        },
        {"guide.steps": 70.0, "convert.steps": 40.0},
        {"guide.steps": 0.35, "convert.steps": 0.08},
        120.0,
    ),
}
# these runs are short, so that searching for the fastest form of every product would cost more than
# it saves
XLA_FLAGS = "--xla_gpu_autotune_level=0"
TOYS = {
    "cifar10": {
        "guide.width": 4,
        "guide.steps": 4,
        "target.width": 16,
        "target.depth": 3,
        "convert.steps": 10,
        "convert.align": 0.4,
        "train.batch": 8,
        "train.chunk": 4,
        "controls.names": "('from_scratch',)",
        "report.latency_repeats": 2,
        "report.guide_table": False,
    },
    "gpt2": {
        "data.tokenizer": "bytes",
        "data.context": 32,
        "data.share": 0.01,
        "guide.width": 16,
        "guide.depth": 1,
        "guide.heads": 2,
        "guide.steps": 4,
        "target.width": 16,
        "target.depth": 1,
        "target.hidden": 16,
        "convert.steps": 8,
        "convert.align": 0.5,
        "train.batch": 4,
        "train.chunk": 4,
        "report.latency_repeats": 2,
        "controls.names": "('from_scratch',)",
        "report.sample_tokens": 4,
    },
}


def toy_pictures(path: pathlib.Path) -> None:
    """An .npz of JPEG streams as CIFAR-10's, of 400 + 200 random pictures, for a rehearsal."""
    from PIL import Image

    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 400), ("test", 200)):
        streams = []
        for _ in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
            streams.append(np.frombuffer(buffer.getvalue(), np.uint8))
        arrays |= {
            f"{split}_jpeg": np.concatenate(streams),
            f"{split}_labels": np.arange(count).astype(np.int8) % 10,
            f"{split}_offsets": np.cumsum([0, *map(len, streams)]),
        }
    np.savez(path, **arrays)


def scaled_steps(plan: Scaled, seconds: float) -> dict[str, int]:
    """Optimizer steps of every scaled key for so many seconds: whole hundreds from 100 on, and at
    least 20.
    """
    room = max(seconds - plan.start, 0.0)
    steps = {key: int(room * plan.share[key] * rate) for key, rate in plan.steps.items()}
    return {key: max(20, count // 100 * 100 or count) for key, count in steps.items()}


def preset_steps(config: str, keys: tuple[str, ...]) -> dict[str, int]:
    """What the unchanged preset has under `keys`."""
    path, _, preset = config.partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.get_config(preset or None)
    return {key: made[key.split(".")[0]][key.split(".")[1]] for key in keys}


def changed(
    name: str, seconds: float, folder: pathlib.Path, data: str, toy: bool
) -> dict[str, Any]:
    """Every key of the config that the run changes: sizes, steps and the place of the data."""
    plan = CONVERSIONS[name]
    whole = preset_steps(plan.config, tuple(plan.steps))
    steps = {key: min(count, whole[key]) for key, count in scaled_steps(plan, seconds).items()}
    changes = {**plan.overrides, **steps, **(TOYS[name] if toy else {})}
    if name == "cifar10" and toy:
        data = str(folder / "toy.npz")
        toy_pictures(pathlib.Path(data))
    return changes | ({"data.path": data} if name == "cifar10" else {})


def outcome(folder: pathlib.Path, why: str) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """(rows, what else a result file says, in one line): results, or how far the run came."""
    if why:
        rows = reached(folder / "metrics.jsonl")
        far = ", ".join(f"{row['model']}/{row['phase']} step {row['step']}" for row in rows)
        return rows, {"why": why}, f"not finished ({why}); reached {far or 'no training step'}"
    results = json.loads((folder / "results.json").read_text())
    kept = {key: results[key] for key in ("task", "metric", "data", "stages", "claims")}
    values = ", ".join(f"{row['name']} {row['value']:.4g}" for row in results["models"])
    return results["models"], kept, f"{values} ({kept['metric']})"


def conversion(path: str, name: str, workdir: str, seconds: float, data: str, toy: bool) -> int:
    """Runs the config; writes its results or, where time or luck ran out, what its records hold."""
    plan, folder, began = CONVERSIONS[name], pathlib.Path(workdir), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    changes = changed(name, seconds, folder, data, toy)
    flags = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), XLA_FLAGS]))
    command = [
        *(sys.executable, "launch/run.py", f"--config={plan.config}", f"--workdir={folder}"),
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags}
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=seconds, env=environment).returncode
        why = f"exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        why = f"stopped after {seconds:.0f} s"
    rows, kept, line = outcome(folder, why)
    whole = preset_steps(plan.config, tuple(plan.steps))
    told = {
        "config": plan.config,
        "overrides": {key: value for key, value in changes.items() if key != "data.path"},
        "steps": {key: {"preset": whole[key], "here": changes[key]} for key in plan.steps},
        **{"finished": not why, "xla_flags": flags, "seconds": time.monotonic() - began, **kept},
    }
    cut = ", ".join(f"{key} {n['here']} of {n['preset']}" for key, n in told["steps"].items())
    record(path, rows, **told, headline=[f"{cut}; {told['seconds']:.0f} s", line])
    return 1 if why else 0


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
