"""Export a model of a finished run to a folder that needs no theseus_jax:

    python launch/export.py WORKDIR --model=converted --out=FOLDER [--seed=0]

Exit codes: 0 done, 2 the user's mistake (one line).
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import theseus_jax as tj  # noqa: E402
from launch.edge import command  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", help="of a finished run")
    parser.add_argument("--model", default="converted", help="a model of its table")
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="which of the model's seeds")
    given = parser.parse_args()
    folder = tj.export(given.workdir, given.out, model=given.model, seed=given.seed)
    for file in sorted(folder.iterdir()):
        print(f"{file}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    command(main)
