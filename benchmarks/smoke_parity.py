"""Whether two checkouts give the same numbers: every config's smoke preset, bit for bit.

    python benchmarks/smoke_parity.py OLD [NEW] [--configs=gpt2_to_rnn,glai_digits] [--out=FOLDER]

Runs `launch/run.py --config=configs/NAME.py:smoke` in both checkouts and compares results.json and
metrics.jsonl, every number as it was written; what depends on the clock and on where a run lies is
left out, and keys that NEW alone has are named. Exit code 0: all equal; 1: not, or a run failed in
one checkout alone; runs that need data which is not here fail in both, and are named.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

CLOCK = ("seconds", "_us", "_iqr", "device", "speedup", "per_second", "time_to", "versions")
MISSING = "(missing)"
HERE = pathlib.Path(__file__).resolve().parents[1]


def timeless(value: Any) -> Any:
    """Without what depends on the clock."""
    if isinstance(value, list):
        return [timeless(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: timeless(one)
        for key, one in value.items()
        if not any(word in key for word in CLOCK) and not _timed(value)
    }


def _timed(value: dict[str, Any]) -> bool:
    """A claim about time."""
    text = str(value.get("text", ""))
    return any(word in text for word in ("fast", "second", "sooner", "latency", "reaches"))


def results(folder: pathlib.Path) -> dict[str, Any]:
    """What a run wrote: {"results": ..., "rows": [...]}."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((folder / "results.json").read_text())
    for name in ("sha256", "rows_sha256"):  # of the files, with their seconds
        results.pop(name, None)
    return timeless({"results": results, "rows": rows})


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two trees differ, as "path: old and new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key, MISSING), new.get(key, MISSING), f"{path}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, pair in enumerate(zip(old, new))
            for line in differences(*pair, f"{path}/{i}")
        ]
    same = old == new or (old != old and new != new)
    return [] if same else [f"{path}: {str(old)[:80]} and {str(new)[:80]}"]


def run(checkout: pathlib.Path, name: str, folder: pathlib.Path) -> str:
    """Runs a smoke preset; "" or its last line where it failed."""
    command = [sys.executable, "launch/run.py", f"--config=configs/{name}.py:smoke"]
    done = subprocess.run(
        [*command, f"--workdir={folder}"], cwd=checkout, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else (said or ["no message"])[-1]


def compare(old: pathlib.Path, new: pathlib.Path, name: str, out: pathlib.Path) -> tuple[str, bool]:
    """(a line about one config, whether it is well)."""
    failed = [run(one, name, out / name / side) for one, side in ((old, "old"), (new, "new"))]
    if all(failed):
        return f"{name}: runs in neither ({failed[1][:150]})", True
    if any(failed):
        return f"{name}: runs in one alone: {failed}", False
    every = differences(*(results(out / name / side) for side in ("old", "new")))
    added = [line for line in every if f": {MISSING} and" in line]
    found = [line for line in every if line not in added]
    keys = sorted({line.partition(": ")[0].rpartition("/")[2] for line in added})
    new = f" (new keys: {', '.join(keys)})" if keys else ""
    shown = "".join(f"\n    {line}" for line in found[:8])
    words = f"{len(found)} differences" if found else "equal"
    return f"{name}: {words}{new}{shown}", not found


def main() -> int:
    """0 where every config gives the same in both checkouts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=pathlib.Path, help="a checkout")
    parser.add_argument("new", type=pathlib.Path, nargs="?", default=HERE, help="another")
    parser.add_argument("--configs", default="", help="names with commas; empty: all of NEW")
    parser.add_argument("--out", default="", help="where runs are left; empty: nowhere")
    given = parser.parse_args()
    there = sorted(path.stem for path in (given.new / "configs").glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        out, well = pathlib.Path(given.out or folder).resolve(), True
        for name in given.configs.split(",") if given.configs else there:
            line, fine = compare(given.old.resolve(), given.new.resolve(), name, out)
            well &= fine
            print(line, flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
