"""Steps that are processes of their own, each with a limit: what launch/gpu.py runs, and its
summary.txt.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import signal
import subprocess
import time
from typing import Any, Callable, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
SUMMARY_LINES = 60
# XLA tries dozens of Triton programs for each product, which takes longer than all that is
# measured; cuBLAS's are tried still
XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"
MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "MemoryError", "Cannot allocate memory")


Command = Callable[[float], list[str]]


class Step(NamedTuple):
    """One piece of work. command(seconds): its argument list, which is told how long it may take,
    without --json.

    least: seconds that must be left for it to start. most: its limit. fields: what its result file
    must hold.
    """

    name: str
    what: str
    least: float
    most: float
    command: Command
    fields: tuple[str, ...]


class Outcome(NamedTuple):
    """What became of a step: "done", "failed", "stopped" or "not started", why, seconds, and its
    result's headline.
    """

    step: Step
    state: str
    why: str
    seconds: float
    headline: tuple[str, ...] = ()


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
    return (
        "out of memory: " + memory[-1] if memory else lines[-1] if lines else "it printed nothing"
    )[:200]


def result(step: Step, path: pathlib.Path) -> tuple[str, tuple[str, ...]]:
    """(what is wrong with the step's result file or "", its headline)."""
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        return f"no result ({type(problem).__name__})", ()
    missing = [field for field in step.fields if field not in held]
    inner = held["runs"][-1] if held.get("runs") else held
    return f"{path.name} has no {', '.join(missing)}" if missing else "", tuple(
        inner.get("headline", ())
    )


def run_step(step: Step, out: pathlib.Path, seconds: float) -> Outcome:
    """Run a step for at most so many seconds. Its result file counts only if this run wrote it."""
    file, log, began = out / f"{step.name}.json", out / f"{step.name}.log", time.monotonic()
    file.unlink(missing_ok=True)
    limit = min(step.most, seconds)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*step.command(limit), f"--json={file}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                "XLA_FLAGS": XLA_FLAGS,
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "PYTHONPATH": path_with_root(),
            },
        )
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


def run_steps(
    steps: tuple[Step, ...], out: pathlib.Path, seconds: float, say: Callable[[str], Any] = print
) -> list[Outcome]:
    """All steps in order, in `seconds` altogether; summary.txt is whole after each."""
    until, outcomes = time.monotonic() + seconds, []
    for step in steps:
        left = until - time.monotonic()
        if left < step.least:
            outcomes.append(
                Outcome(
                    step,
                    "not started",
                    f"{left:.0f} s were left and it needs {step.least:.0f}",
                    0.0,
                )
            )
        else:
            say(
                f"{step.name}: {step.what} (at most {min(step.most, left):.0f} of {left:.0f} s"
                " left)"
            )
            outcomes.append(run_step(step, out, left))
            say("\n".join(told(outcomes[-1])))
        (out / "summary.txt").write_text(summary(outcomes, steps[len(outcomes) :]))
    return outcomes


def told(outcome: Outcome) -> list[str]:
    """An outcome as lines: what became of it, then its headline."""
    first = (
        f"{outcome.step.name:<11} {outcome.state:<11} {outcome.seconds:6.0f} s "
        f" {outcome.why or outcome.step.what}"
    )
    return [first[:200], *(f"    {line}"[:200] for line in outcome.headline)]


def summary(outcomes: list[Outcome], waiting: tuple[Step, ...]) -> str:
    """summary.txt: at most SUMMARY_LINES lines, of which every step keeps its first."""
    head = [
        f"launch/gpu.py, {time.strftime('%Y-%m-%d %H:%M')}, Python {platform.python_version()}:"
        f" {sum(outcome.state == 'done' for outcome in outcomes)} of {len(outcomes) + len(waiting)}"
        " steps done"
    ]
    blocks = [told(outcome) for outcome in outcomes] + [
        [f"{step.name:<11} waiting"] for step in waiting
    ]
    room = SUMMARY_LINES - len(head) - len(blocks)
    lines = head
    for block in blocks:
        kept = min(len(block) - 1, room)
        lines, room = [*lines, *block[: 1 + kept]], room - kept
    return "\n".join(lines) + "\n"
