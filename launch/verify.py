"""Does a finished run repeat itself? python launch/verify.py WORKDIR

Trains the first steps of every model once more and compares what they give with what the run wrote.
Exit codes: 0 all equal to the bit, 1 some differ, 2 the user's mistake (one line).
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from launch.edge import command  # noqa: E402
from theseus_jax.experiment.verify import verify  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Print a line for every model. arguments: None for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("workdir", help="of a finished run")
    found = verify(parser.parse_args(arguments).workdir)
    for one in found:
        told = "equal" if not one.difference else f"DIFFERS from {one.then}: {one.difference}"
        print(f"{one.model}: first {one.steps} steps, sha256 {one.now}: {told}")
    if any(one.difference for one in found):
        print("another machine, version or setting of XLA gives other roundings: versions.json")
        raise SystemExit(1)


if __name__ == "__main__":
    command(main)
