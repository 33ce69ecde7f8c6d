"""The steps of launch/gpu.py that are no command of their own: python -m launch.gpu_steps NAME
--json=FILE ...

device: the card, its driver, versions, and whether XLA counts its products' FLOPs. tests: the
kernel tests, one row a case. conversion: a config of configs/ with its steps scaled to the seconds
given, its results, or how far it came.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from typing import Any, Callable

from launch.gpu_conversion import CONVERSIONS, conversion
from launch.record import record, version

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "ml-collections",
    "tokenizers",
    "torch",
)


def driver() -> dict[str, str]:
    """What nvidia-smi says of the first card; {} where there is none."""
    asked = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit")
    if not shutil.which("nvidia-smi"):
        return {}
    told = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()
    return dict(zip(asked, (value.strip() for value in told[0].split(",")))) if told else {}


def counted_shares() -> dict[str, float]:
    """FLOPs that XLA counts of a compiled program here over those it has: a product, seven in a
    scan (counted once where the share is 1/7), a convolution, a transposed one of its gradient.
    """
    import jax
    import jax.numpy as jnp

    from theseus_jax.cost import program_flops

    def counted(function: Callable, *operands: jax.Array) -> float:
        return program_flops(jax.jit(function).lower(*operands).compile())

    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    a, x, kernel = jnp.ones((256, 256)), jnp.ones((8, 18, 18, 32)), jnp.ones((3, 3, 32, 64))
    product, convolution = 2 * 256**3, 2 * 8 * 16 * 16 * 9 * 32 * 64
    by_kernel = jax.grad(lambda kernel, x: jnp.sum(convolved(x, kernel) ** 2))
    return {
        "product": counted(lambda a: a @ a, a) / product,
        "scan": (
            counted(lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, length=7)[0], a)
            / (7 * product)
        ),
        "convolution": counted(convolved, x, kernel) / convolution,
        "convolution and its kernel's gradient": counted(by_kernel, kernel, x) / (2 * convolution),
    }


def device(path: str) -> int:
    """Writes what there is to run on."""
    import jax

    one, versions, card, shares = (
        jax.devices()[0],
        {name: version(name) for name in PACKAGES},
        driver(),
        counted_shares(),
    )
    record(
        path,
        [
            {
                "platform": one.platform,
                "kind": one.device_kind,
                "cores": getattr(one, "core_count", None),
                **card,
                "versions": versions,
                "counted_share_of_flops": shares,
            }
        ],
        headline=[
            f"{one.platform} {one.device_kind}, driver {card.get('driver_version', 'none')}",
            ", ".join(f"{name} {number}" for name, number in versions.items() if number),
            "XLA counts " + ", ".join(f"{share:.3f} of a {name}" for name, share in shares.items()),
        ],
    )
    return 0


def case_row(case: ElementTree.Element) -> dict[str, Any]:
    """One test case of a junit report."""
    row = {"test": case.get("name"), "outcome": "passed", "seconds": float(case.get("time", 0))}
    for kind in ("failure", "error", "skipped"):
        problem = case.find(kind)
        if problem is not None:
            row |= {"outcome": kind, "why": (problem.get("message") or "").strip()[:500]}
    return row


def tests(path: str, selected: str) -> int:
    """Runs the kernel tests that pytest's -k selects; a GPU's compiled kernels are among them where
    there is a GPU.

    Compiling is most of the work, so a machine of many cores runs them side by side.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", "tests/test_kernels.py", "-q", "-o", "addopts="),
            *("-p", "no:cacheprovider", f"--junitxml={report}", f"-k={selected}"),
            *(["--numprocesses=8"] if os.cpu_count() >= 8 else []),
        ]
        # the tests take the CPU where nothing is said; empty: what JAX takes by itself
        set_here = {"JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        status = subprocess.run(command, cwd=ROOT, env={**set_here, **os.environ}).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    rows = [case_row(case) for case in cases]
    passed = [row["test"] for row in rows if row["outcome"] == "passed"]
    compiled = sum(bool(re.search(r"\bpallas\b", name)) for name in passed)
    said = [
        f"{len(passed)} of {len(rows)} kernel tests passed, {compiled} of them compiled kernels"
    ]
    said += [
        f"{row['test']}: {row['outcome']}, {row['why'][:150]}".replace("\n", " ")
        for row in rows
        if row["outcome"] != "passed"
    ]
    failed = len(rows) - len(passed)
    record(path, rows, passed=len(passed), failed=failed, headline=said[:5])
    return status


def main() -> int:
    """The step's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.gpu_steps", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", choices=("device", "tests", *CONVERSIONS))
    parser.add_argument("--json", required=True, help="the result file")
    parser.add_argument("--select", default="", help="tests: pytest's -k")
    parser.add_argument("--workdir", default="", help="conversions: where the run leaves its files")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="conversions: the time there is"
    )
    parser.add_argument("--data", default="", help="cifar10: the .npz")
    parser.add_argument(
        "--toy", action="store_true", help="conversions: tiny networks and few steps"
    )
    given = parser.parse_args()
    if given.name == "device":
        return device(given.json)
    if given.name == "tests":
        return tests(given.json, given.select)
    return conversion(given.json, given.name, given.workdir, given.seconds, given.data, given.toy)


if __name__ == "__main__":
    sys.exit(main())
