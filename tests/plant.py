"""Plants bugs one by one in a copy of the project and prints which of them its tests catch.

    python tests/plant.py                        # all of tests/bugs.txt
    python tests/plant.py --only=judging,order   # those of files whose path has one of the words

Exit code 1 where one survives, 2 where a text that is to be replaced is not there once.
"""

import argparse
import concurrent.futures
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Bug(NamedTuple):
    """file: below the project's root. old, new: text in it and what it becomes. tests: names of
    test files, the likeliest to fail first.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def bugs(path=ROOT / "tests" / "bugs.txt"):
    """Those of a file in which each is a block of lines."""
    found = []
    for block in path.read_text().split("\n\n"):
        lines = [line for line in block.strip("\n").split("\n") if not line.startswith("#")]
        if lines and lines[0]:
            old, new = ("\n".join(s[2:] for s in lines if s[:1] == mark) for mark in "-+")
            tests = tuple(name for s in lines if s[:1] == "=" for name in s[2:].split())
            found.append(Bug(lines[0], old, new, tests))
    return found


def planted(bug, number, home):
    """What became of a bug: "caught", "SURVIVED" or "cannot ..."."""
    copy = home / f"copy{number}"
    ignored = shutil.ignore_patterns(".git", ".data", "__pycache__", "runs", ".venv*", ".whl")
    shutil.copytree(ROOT, copy, ignore=ignored)
    try:
        file = copy / bug.file
        text = file.read_text()
        if text.count(bug.old) != 1:
            return f"cannot be planted, its text is there {text.count(bug.old)} times"
        file.write_text(text.replace(bug.old, bug.new))
        for mark, name in itertools.product(("not slow", "slow"), bug.tests):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-m", mark]
            command.append(f"tests/{name}.py")
            given = {"env": {**os.environ, "PYTHONPATH": str(copy)}, "cwd": copy}
            done = subprocess.run(command, capture_output=True, text=True, **given)
            if done.returncode == 1:
                return f"caught by {name}"
            if done.returncode not in (0, 5):
                return f"cannot be tested: {done.stdout[-300:]}{done.stderr[-300:]}"
        return "SURVIVED"
    finally:
        shutil.rmtree(copy)


def main(only, jobs):
    words = only.split(",")
    chosen = [bug for bug in bugs() if any(word in bug.file for word in words)]
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
    ):
        began = time.monotonic()
        work = {
            pool.submit(planted, bug, i, pathlib.Path(folder)): bug for i, bug in enumerate(chosen)
        }
        for done in concurrent.futures.as_completed(work):
            bug = work[done]
            print(f"{done.result()}: {bug.file}: {bug.old!r} -> {bug.new!r}", flush=True)
        found = [done.result().split()[0] for done in work]
    print(f"{found.count('caught')} of {len(found)} caught ({time.monotonic() - began:.0f} s)")
    return 2 if "cannot" in found else int("SURVIVED" in found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    sys.exit(main(given.only, given.jobs))
