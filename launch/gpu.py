"""Everything of this project that needs a GPU, in one command and in the order of what is worth most when time runs out.

    python launch/gpu.py --minutes=8 --out=FOLDER [--data=cifar10_jpeg.npz] [--steps=kernels,alignment] [--rehearse]

Every step is a process of its own with a limit of its own, and writes FOLDER/NAME.json at once (its output: NAME.log). One that
hangs, fails or runs out of memory is ended and reported, and the next one starts; a step starts only where the time that it
needs at least is left. FOLDER/summary.txt, rewritten after every step, says what ran, what did not and why. --rehearse: every
step at toy size; without a GPU the kernels are interpreted. Exit codes: 0 all steps that were asked for have their
results, 1 not all, 2 the user's mistake (one line). What to carry to the machine and where results go: docs/gpu.md.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from typing import Any, Callable, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON = sys.executable
SUMMARY_LINES = 60
MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "MemoryError", "Cannot allocate memory")


class Step(NamedTuple):
    """One piece of work. command(seconds): its argument list, which is told how long it may take, without --json.

    least: seconds that must be left for it to start. most: its limit. fields: what its result file must hold.
    """

    name: str
    what: str
    least: float
    most: float
    command: Callable[[float], list[str]]
    fields: tuple[str, ...]


class Outcome(NamedTuple):
    """What became of a step: "done", "failed", "stopped" or "not started", why, seconds, and its result's headline."""

    step: Step
    state: str
    why: str
    seconds: float
    headline: tuple[str, ...] = ()


def module(name: str, *words: str) -> list[str]:
    """A module of this checkout as a command."""
    return [PYTHON, "-m", name, *words]


def script(name: str, *words: str) -> list[str]:
    """A script of this checkout as a command."""
    return [PYTHON, f"launch/{name}.py", *words]


def real_steps(out: pathlib.Path, data: str) -> tuple[Step, ...]:
    """The steps of a GPU run; what a step needs was seen on one NVIDIA H100."""
    def conversion(name: str) -> Callable[[float], list[str]]:
        more = [f"--data={data}"] if name == "cifar10" else []
        return lambda seconds: module("launch.gpu_steps", name, f"--workdir={out / 'runs' / name}",
                                      f"--seconds={seconds - 10:.0f}", *more)

    rows = ("rows", "headline", "date", "command", "device")
    return (
        Step("device", "the card, its driver and versions", 15, 60, lambda _: module("launch.gpu_steps", "device"), rows),
        Step("tests", "kernels against float64, values and derivatives", 30, 120,
             lambda _: module("launch.gpu_steps", "tests", "--select=not interpret"), (*rows, "passed", "failed")),
        Step("kernels", "kernels against XLA's best form and the measured roof", 45, 170,
             lambda seconds: module("pallas_kernels.bench", f"--seconds={seconds - 30:.0f}"), ("runs",)),
        Step("alignment", "the alignment step at GPT-2-small shapes against PyTorch", 45, 120,
             lambda _: script("bench", "--shape=gpt2_small", "--compute=bfloat16", "--cells=linear", "--peers=eager,compile"),
             rows),
        Step("similarity", "similarity measures against PyTorch", 30, 75, lambda _: script("bench_similarity"), rows),
        Step("cifar10", "ResNet-18 -> MLP on CIFAR-10, fewer steps", 120, 200, conversion("cifar10"), rows),
        Step("gpt2", "GPT-2 -> RNN at width 512, fewer steps", 90, 600, conversion("gpt2"), rows))


def toy_steps(out: pathlib.Path, data: str) -> tuple[Step, ...]:
    """The same steps at toy size, through the same code."""
    def conversion(name: str) -> Callable[[float], list[str]]:
        return lambda seconds: module("launch.gpu_steps", name, f"--workdir={out / 'runs' / name}", "--toy",
                                      f"--seconds={seconds - 5:.0f}")

    toys = {"tests": lambda _: module("launch.gpu_steps", "tests", "--select=one_sample"),
            "kernels": lambda _: module("pallas_kernels.bench", "--toy"),
            "alignment": lambda _: script("bench", "--shape=quick", "--compute=bfloat16", "--cells=linear", "--repeats=2",
                                          "--peers=eager,compile"),
            "similarity": lambda _: script("bench_similarity", "--samples=16", "--features=8,32", "--seconds=0.01"),
            "cifar10": conversion("cifar10"), "gpt2": conversion("gpt2")}
    return tuple(step._replace(least=5, most=120, command=toys.get(step.name, step.command)) for step in real_steps(out, data))


def ended(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, or None for a process that had to be ended with all that it started."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.poll()
        process.wait()


def last_words(log: pathlib.Path) -> str:
    """Why a step failed, as far as its output tells: the line about memory, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    memory = [line for line in lines if any(mark in line for mark in MEMORY)]
    return ("out of memory: " + memory[-1] if memory else lines[-1] if lines else "it printed nothing")[:200]


def result(step: Step, path: pathlib.Path) -> tuple[str, tuple[str, ...]]:
    """(what is wrong with the step's result file or "", its headline)."""
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        return f"no result ({type(problem).__name__})", ()
    missing = [field for field in step.fields if field not in held]
    inner = held["runs"][-1] if held.get("runs") else held
    return f"{path.name} has no {', '.join(missing)}" if missing else "", tuple(inner.get("headline", ()))


def run_step(step: Step, out: pathlib.Path, seconds: float) -> Outcome:
    """Run a step for at most so many seconds. Its result file counts only if this run wrote it."""
    file, log, began = out / f"{step.name}.json", out / f"{step.name}.log", time.monotonic()
    file.unlink(missing_ok=True)
    limit = min(step.most, seconds)
    with log.open("wb") as output:
        process = subprocess.Popen([*step.command(limit), f"--json={file}"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True,
                                   env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path_with_root()})
        status = ended(process, limit)
    wrong, headline = result(step, file)
    took = time.monotonic() - began
    if status is None:
        kept = "what it had measured is kept" if not wrong else wrong
        return Outcome(step, "stopped", f"ran past its {limit:.0f} s; {kept}", took, headline)
    if status or wrong:
        why = f"exit code {status}: {last_words(log)}" if status else wrong
        return Outcome(step, "failed", why, took, headline)
    return Outcome(step, "done", "", took, headline)


def path_with_root() -> str:
    """PYTHONPATH with the checkout before what was there."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_steps(steps: tuple[Step, ...], out: pathlib.Path, seconds: float, say: Callable[[str], Any] = print) -> list[Outcome]:
    """All steps in order, in `seconds` altogether; summary.txt is whole after each."""
    until, outcomes = time.monotonic() + seconds, []
    for step in steps:
        left = until - time.monotonic()
        if left < step.least:
            outcomes.append(Outcome(step, "not started", f"{left:.0f} s were left and it needs {step.least:.0f}", 0.0))
        else:
            say(f"{step.name}: {step.what} (at most {min(step.most, left):.0f} of {left:.0f} s left)")
            outcomes.append(run_step(step, out, left))
            say("\n".join(told(outcomes[-1])))
        (out / "summary.txt").write_text(summary(outcomes, steps[len(outcomes):]))
    return outcomes


def told(outcome: Outcome) -> list[str]:
    """An outcome as lines: what became of it, then its headline."""
    first = f"{outcome.step.name:<11} {outcome.state:<11} {outcome.seconds:6.0f} s  {outcome.why or outcome.step.what}"
    return [first[:200], *(f"    {line}"[:200] for line in outcome.headline)]


def summary(outcomes: list[Outcome], waiting: tuple[Step, ...]) -> str:
    """summary.txt: at most SUMMARY_LINES lines, of which every step keeps its first."""
    head = [f"launch/gpu.py, {time.strftime('%Y-%m-%d %H:%M')}, Python {platform.python_version()}: "
            f"{sum(outcome.state == 'done' for outcome in outcomes)} of {len(outcomes) + len(waiting)} steps done"]
    blocks = [told(outcome) for outcome in outcomes] + [[f"{step.name:<11} waiting"] for step in waiting]
    room = SUMMARY_LINES - len(head) - len(blocks)
    lines = head
    for block in blocks:
        kept = min(len(block) - 1, room)
        lines, room = [*lines, *block[:1 + kept]], room - kept
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The exit code; arguments: None for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="for all steps together")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where results go; made if it is not there")
    parser.add_argument("--data", default="", metavar="FILE", help="cifar10_jpeg.npz; without it the CIFAR-10 step is left out")
    parser.add_argument("--steps", default="", help="names with commas; empty: all")
    parser.add_argument("--rehearse", action="store_true", help="every step at toy size, here")
    given = parser.parse_args(arguments)
    out, data = pathlib.Path(given.out).resolve(), given.data and str(pathlib.Path(given.data).resolve())
    steps = (toy_steps if given.rehearse else real_steps)(out, data)
    chosen = [name for name in given.steps.split(",") if name] or [step.name for step in steps]
    unknown = [name for name in chosen if name not in [step.name for step in steps]]
    if unknown or not given.minutes > 0 or (data and not pathlib.Path(data).is_file()):
        mistake = (f"there is no step {unknown[0]!r}; choose from {', '.join(step.name for step in steps)}" if unknown else
                   f"--minutes={given.minutes:g} leaves no time; give 8" if not given.minutes > 0 else
                   f"there is no file {given.data}; give the .npz, or no --data")
        print(f"gpu.py: {mistake}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    if not data and not given.rehearse and not given.steps:
        print("gpu.py: no --data: the CIFAR-10 step is left out", file=sys.stderr)
        chosen.remove("cifar10")
    outcomes = run_steps(tuple(step for step in steps if step.name in chosen), out, 60 * given.minutes)
    print("\n" + (out / "summary.txt").read_text())
    return 0 if all(outcome.state == "done" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
