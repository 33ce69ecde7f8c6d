"""Every method's smoke run, killed at random instants and started again until it ends, beside one
that was left alone: the same rows, the same weights and the same results, to the bit.

    python tests/kills.py --kills=20 --seed=0

Prints a line a preset; exit code 1 where anything differs.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import smoke_parity  # noqa: E402
from theseus_jax import checkpoints  # noqa: E402
from theseus_jax.trees import bit_equal  # noqa: E402

PRESETS = ("gpt2_to_rnn", "resnet18_to_mlp", "guide_deep_fcn", "glai_digits", "grow_digits")
PRESETS += ("plasticity_permuted", "minilm_to_rnn")


def command(preset, path):
    config = f"--config=configs/{preset}.py:smoke"
    return [sys.executable, "launch/run.py", config, f"--workdir={path}"]


def run(preset, path, seconds=None):
    """Whether the run came to its end; killed after `seconds`."""
    given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": ROOT, "text": True}
    process = subprocess.Popen(command(preset, path), env={**os.environ}, **given)
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"{preset} ended with {process.returncode}: {said[-2000:]}")
    return True


def models(folder):
    """Paths of all checkpoints in a folder, those of single seeds too."""
    found = folder.rglob("_CHECKPOINT_METADATA")
    return [str(one.parent.relative_to(folder)) for one in found]


def difference(one, other):
    """What two finished workdirs do not share, or ""."""
    found = smoke_parity.differences(*(smoke_parity.results(path) for path in (one, other)))
    if found:
        return f"{len(found)} numbers differ: {'; '.join(found[:3])}"
    names = [sorted(models(path / "checkpoints")) for path in (one, other)]
    if names[0] != names[1]:
        return f"the checkpoints differ: {names}"
    for name in names[0]:
        trees = [checkpoints.load(path / "checkpoints" / name)[0] for path in (one, other)]
        if not bit_equal(*trees):
            return f"the weights of {name} differ"
    return ""


def tried(preset, kills, draw, home):
    """(number of kills that met a run, what differs or "")."""
    alone, killed = home / f"{preset}-alone", home / f"{preset}-killed"
    began = time.monotonic()
    run(preset, alone)
    whole, met = time.monotonic() - began, 0
    for _ in range(kills):
        # after what it takes to import JAX; later starts have less left to do
        if run(preset, killed, seconds=draw.uniform(3.0, max(4.0, whole / 2))):
            break
        met += 1
    run(preset, killed)
    return met, difference(alone, killed)


def main(kills, seed, only):
    draw, presets, bad = random.Random(seed), [p for p in PRESETS if only in p], False
    with tempfile.TemporaryDirectory() as folder:
        for i, preset in enumerate(presets):
            share = kills // len(presets) + (i < kills % len(presets))
            began = time.monotonic()
            met, problem = tried(preset, share, draw, pathlib.Path(folder))
            bad |= bool(problem)
            seconds = time.monotonic() - began
            print(
                f"{preset}: killed {met} times: {problem or 'equal'} ({seconds:.0f} s)", flush=True
            )
    return int(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    sys.exit(main(given.kills, given.seed, given.only))
