"""Times the path estimator at the sizes of GLAI's experiments: `python -m pallas_kernels.bench
[--quick] [--json=FILE]`.

First the device's roof, by a copy and a matrix product; then every form of every size. The very
program that is timed is checked against float64. A time is the median of 30 samples of calls inside
one compiled loop (`timing.looped`), so the host's part is not in it. What fails is printed and left
out, the rest goes on, and the exit code is 1. --quick: B1 and C1 at batch 16 and 256 in float32.
--toy: one tiny size, with the kernels interpreted where there is no GPU: times that mean nothing.
--seconds: no new row is begun after so many. --json: write the run there after every row, in the
place of the file's run on the same device; in pallas_kernels/measured.json it is what
implementation="auto" goes by. --adopt=FILE: time nothing and put the runs of FILE into the file of
--json.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from pallas_kernels import measured, timing
from pallas_kernels.bench_cases import (
    OPS,
    TOLERANCE,
    Case,
    cases,
    forms,
    largest_error,
    on_gpu,
    operands,
    operation,
)
from pallas_kernels.dispatch import choose, device
from pallas_kernels.sizes import bound_microseconds


class Program(NamedTuple):
    """One form of a case, compiled: `run(*operands)` makes `count` calls and returns (a scalar, the
    last call's outputs).
    """

    run: Callable
    operands: tuple
    count: int


def prepared(case: Case, form: str, count: int) -> Program:
    """One form, compiled with its operands on the device."""
    given = operands(case, form)
    return Program(
        jax.jit(timing.looped(operation(case.work, form), count)).lower(*given).compile(),
        given,
        count,
    )


def measure(
    case: Case, compiled: dict[str, Future], samples: int
) -> tuple[dict[str, Any], list[str]]:
    """The row of one case, and what failed: a form that cannot run, or whose values are wrong, is
    not timed.
    """
    times, spread, errors, failed = {}, {}, {}, []
    for form, future in compiled.items():
        label = f"{case.name} {case.dtype} batch {case.batch} {case.work} {form}"
        try:
            program = future.result()
            worst = largest_error(case, form, program.run(*program.operands)[1])
            if worst <= TOLERANCE[case.dtype]:
                median, half = timing.microseconds(
                    program.run, program.operands, program.count, samples=samples
                )
                times[form], spread[form], errors[form] = (
                    round(median, 2),
                    round(half, 2),
                    float(f"{worst:.1e}"),
                )
            else:
                failed.append(
                    f"{label} is off by {worst:.1e} of the largest value, allowed"
                    f" {TOLERANCE[case.dtype]:.0e}; not timed"
                )
        except Exception as problem:
            # whatever a compiler or a device raises is reported, and the next form goes on
            failed.append(f"{label}: {first_line(problem)}")
    row = {
        "op": case.op,
        "pass": case.work,
        "size": case.name,
        "dtype": case.dtype,
        "batch": case.batch,
        "paths": case.size.paths,
        "outputs": case.size.outputs,
        "microseconds": times,
        "spread": spread,
        "error": errors,
    }
    return row, failed


def lines(row: dict[str, Any], roof: timing.Roof) -> list[str]:
    """One printed line per form of a row."""
    best = min(
        (time for form, time in row["microseconds"].items() if not form.startswith("pallas")),
        default=math.nan,
    )
    taken = choose(
        row["op"],
        "auto",
        dtype=row["dtype"],
        batch=row["batch"],
        paths=row["paths"],
        outputs=row["outputs"],
    )
    printed = []
    for form, median in row["microseconds"].items():
        share = f"{row['bound_microseconds'] / median:8.3f}" if form != "dense" else f"{'-':>8}"
        printed.append(
            f"{row['size']:4} {row['batch']:6} {row['dtype']:9} {row['pass']:17} {form:16}"
            f" {median:11.1f} {row['spread'][form]:8.1f} {median / best:7.2f} {share}"
            f" {'auto' if form == taken else ''}"
        )
    return printed


def headline(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows say at a glance: the kernel's time over XLA's best form, by pass and dtype."""
    said = []
    for work in (work for passes in OPS.values() for work in passes):
        for dtype in TOLERANCE:
            ratios = [
                row["microseconds"]["pallas"]
                / min(time for form, time in row["microseconds"].items() if form != "pallas")
                for row in rows
                if row["pass"] == work
                and row["dtype"] == dtype
                and {"pallas", "xla"} <= row["microseconds"].keys()
            ]
            if ratios:
                said.append(
                    f"{work} {dtype}: kernel over XLA's best"
                    f" {math.exp(np.mean(np.log(ratios))):.2f} (geometric mean, {min(ratios):.2f}"
                    f" to {max(ratios):.2f}), faster in {sum(r < 1 for r in ratios)} of"
                    f" {len(ratios)}"
                )
    return said or ["no GPU: the compiled kernels were not timed"]


def timed(
    options: argparse.Namespace, roof: timing.Roof
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Rows and what failed. The programs of a group compile side by side, and none is timed while
    another compiles.
    """
    began, samples = time.monotonic(), 3 if options.toy else timing.SAMPLES
    for group in cases(options):
        if time.monotonic() - began > options.seconds:
            return
        bounds = [
            bound_microseconds(
                case.size, case.batch, case.dtype, roof, backward=case.work != "forward"
            )
            for case in group
        ]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            compiled = [
                {
                    form: pool.submit(
                        prepared,
                        case,
                        form,
                        2 if options.toy else timing.calls(1e-5 + 4e-6 * bound),
                    )
                    for form in forms(case)
                }
                for case, bound in zip(group, bounds)
            ]
        for case, bound, programs in zip(group, bounds, compiled):
            row, failed = measure(case, programs, samples)
            yield {**row, "bound_microseconds": round(bound, 2)}, failed


def first_line(problem: Exception) -> str:
    """An exception in one short line."""
    return f"{type(problem).__name__}: {(str(problem).strip() or 'no message').splitlines()[0]}"[
        :300
    ]


def run(options: argparse.Namespace) -> int:
    """Measures, prints and writes; the exit code."""
    roof = timing.measured_roof(
        **(
            dict(side=128, megabytes=1, samples=2)
            if options.toy
            else {}
            if on_gpu()
            else dict(side=1024, megabytes=256)
        )
    )
    empty = timing.empty_call()
    print(
        f"jax {jax.__version__}, {device().kind}; an empty call {empty:.2f} us; roof: copy"
        f" {roof.bandwidth / 1e9:,.0f} GB/s, products "
        + ", ".join(f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in roof.flops.items())
    )
    print(
        "microseconds a call: median, half the interquartile range; ratio to the best XLA form,"
        " share of the roof"
    )
    command = "python -m pallas_kernels.bench" + "".join(
        f" --{name}" for name in ("quick", "toy") if getattr(options, name)
    )
    head = {
        "device": device().kind,
        "date": time.strftime("%Y-%m-%d"),
        "jax": jax.__version__,
        "command": command,
        "roof": roof._asdict(),
        "empty_call_microseconds": round(empty, 2),
        **({"xla_flags": os.environ["XLA_FLAGS"]} if os.environ.get("XLA_FLAGS") else {}),
    }
    print(
        f"{'size':4} {'batch':>6} {'dtype':9} {'pass':17} {'form':16} {'median':>11} {'spread':>8}"
        f" {'ratio':>7} {'of roof':>8}"
    )
    rows, problems = [], []
    for row, failed in timed(options, roof):
        rows, problems = [*rows, row], [*problems, *failed]
        print("\n".join([*lines(row, roof), *(f"bench: {line}" for line in failed)]), flush=True)
        if options.json:
            measured.write(
                pathlib.Path(options.json),
                {**head, "headline": headline(rows), "failed": problems, "rows": rows},
            )
    print("\n".join([*headline(rows), *(f"bench: {line}" for line in problems)]))
    return 1 if problems else 0


def main(arguments: list[str]) -> int:
    """0; 1 where a form failed or was wrong; 2 for unknown arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m pallas_kernels.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="B1 and C1 at batch 16 and 256 in float32"
    )
    parser.add_argument(
        "--toy",
        action="store_true",
        help="one tiny size, kernels interpreted where there is no GPU",
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="no new row is begun after so many"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the run there, in the place of an earlier one on this device",
    )
    parser.add_argument(
        "--adopt", metavar="FILE", help="time nothing; put the runs of FILE into the file of --json"
    )
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)
    if not options.adopt:
        return run(options)
    source = pathlib.Path(options.adopt)
    found = measured.runs(source)
    if not found:
        print(f"bench: {source} holds no run; give a file that --json wrote", file=sys.stderr)
        return 2
    for one in found:
        measured.write(pathlib.Path(options.json or measured.FILE), one)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
