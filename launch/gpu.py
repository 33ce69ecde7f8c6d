"""Everything of this project that needs a GPU, in one command and in the order of what is worth
most when time runs out.

python launch/gpu.py --minutes=8 --out=FOLDER [--data=cifar10_jpeg.npz] [--steps=kernels,alignment]
[--rehearse]

Every step is a process of its own with a limit of its own, and writes FOLDER/NAME.json at once (its
output: NAME.log). One that hangs, fails or runs out of memory is ended and reported, and the next
one starts; a step starts only where the time that it needs at least is left. FOLDER/summary.txt,
rewritten after every step, says what ran, what did not and why. --rehearse: every step at toy size;
without a GPU the kernels are interpreted. Exit codes: 0 all steps that were asked for have their
results, 1 not all, 2 the user's mistake (one line). What to carry to the machine and where results
go: docs/gpu.md.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch.gpu_run import Command, Step, run_steps  # noqa: E402
from theseus_jax.paths import local

PYTHON = sys.executable


def module(name: str, *words: str) -> list[str]:
    """A module of this checkout as a command."""
    return [PYTHON, "-m", name, *words]


def script(name: str, *words: str) -> list[str]:
    """A script of this checkout as a command."""
    return [PYTHON, f"launch/{name}.py", *words]


ROWS = ("rows", "headline", "date", "command", "device")
# (name, what it does, least seconds that it needs, its limit, fields of its file), as on an H200
STEPS = (
    ("device", "the card, its driver and versions", 15, 60, ROWS),
    (
        "tests",
        "kernels against float64, values and derivatives",
        *(30, 120, (*ROWS, "passed", "failed")),
    ),
    ("kernels", "kernels against XLA's best form and the measured roof", 45, 190, ("runs",)),
    ("alignment", "the alignment step at GPT-2-small shapes against PyTorch", 45, 190, ROWS),
    ("similarity", "similarity measures against PyTorch", 30, 75, ROWS),
    ("cifar10", "ResNet-18 -> MLP on CIFAR-10, fewer steps", 120, 200, ROWS),
    ("gpt2", "GPT-2 -> RNN at width 512, fewer steps", 90, 600, ROWS),
)
ALIGNMENT = ("--compute=bfloat16", "--cells=linear", "--peers=eager,compile")


def conversion(name: str, out: pathlib.Path, spare: float, *words: str) -> Command:
    """A conversion's command: it stops itself `spare` seconds before its limit, to write."""

    def command(seconds: float) -> list[str]:
        place = f"--workdir={out / 'runs' / name}"
        return module("launch.gpu_steps", name, place, f"--seconds={seconds - spare:.0f}", *words)

    return command


def real_commands(out: pathlib.Path, data: str) -> dict[str, Command]:
    """Every step's command on a GPU."""
    return {
        "device": lambda _: module("launch.gpu_steps", "device"),
        "tests": lambda _: module("launch.gpu_steps", "tests", "--select=not interpret"),
        "kernels": lambda seconds: module("pallas_kernels.bench", f"--seconds={seconds - 30:.0f}"),
        "alignment": lambda _: script("bench", "--shape=gpt2_small", "--repeats=5", *ALIGNMENT),
        "similarity": lambda _: script("bench_similarity"),
        "cifar10": conversion("cifar10", out, 10, f"--data={data}"),
        "gpt2": conversion("gpt2", out, 10),
    }


def toy_commands(out: pathlib.Path) -> dict[str, Command]:
    """The same at toy size, through the same code."""
    sizes = ("--samples=16", "--features=8,32", "--seconds=0.01")
    return real_commands(out, "") | {
        "tests": lambda _: module("launch.gpu_steps", "tests", "--select=one_sample"),
        "kernels": lambda _: module("pallas_kernels.bench", "--toy"),
        "alignment": lambda _: script("bench", "--shape=quick", "--repeats=2", *ALIGNMENT),
        "similarity": lambda _: script("bench_similarity", *sizes),
        "cifar10": conversion("cifar10", out, 5, "--toy"),
        "gpt2": conversion("gpt2", out, 5, "--toy"),
    }


def planned(out: pathlib.Path, data: str, rehearse: bool) -> tuple[Step, ...]:
    """All steps in order; in a rehearsal each may start at once and take two minutes."""
    commands = toy_commands(out) if rehearse else real_commands(out, data)
    return tuple(
        Step(name, what, *((5, 120) if rehearse else (least, most)), commands[name], fields)
        for name, what, least, most, fields in STEPS
    )


def main(arguments: list[str] | None = None) -> int:
    """The exit code; arguments: None for those of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="for all steps together")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where results go; made if it is not there"
    )
    parser.add_argument(
        "--data",
        default="",
        metavar="FILE",
        help="cifar10_jpeg.npz; without it the CIFAR-10 step is left out",
    )
    parser.add_argument("--steps", default="", help="names with commas; empty: all")
    parser.add_argument("--rehearse", action="store_true", help="every step at toy size, here")
    given = parser.parse_args(arguments)
    out, data = (local(given.out).resolve(), given.data and str(local(given.data).resolve()))
    steps = planned(out, data, given.rehearse)
    chosen = [name for name in given.steps.split(",") if name] or [step.name for step in steps]
    unknown = [name for name in chosen if name not in [step.name for step in steps]]
    if unknown or not given.minutes > 0 or (data and not pathlib.Path(data).is_file()):
        mistake = (
            f"there is no step {unknown[0]!r}; choose from {', '.join(step.name for step in steps)}"
            if unknown
            else (
                f"--minutes={given.minutes:g} leaves no time; give 8"
                if not given.minutes > 0
                else f"there is no file {given.data}; give the .npz, or no --data"
            )
        )
        print(f"gpu.py: {mistake}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    if not data and not given.rehearse and not given.steps:
        print("gpu.py: no --data: the CIFAR-10 step is left out", file=sys.stderr)
        chosen.remove("cifar10")
    outcomes = run_steps(
        tuple(step for step in steps if step.name in chosen), out, 60 * given.minutes
    )
    print("\n" + (out / "summary.txt").read_text())
    return 0 if all(outcome.state == "done" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
