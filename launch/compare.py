"""Finished runs side by side: python launch/compare.py RUN1 RUN2 ... [--html=FILE] [--anyway]

Exit codes: 0 done, 2 the user's mistake (one line).
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from launch.edge import command  # noqa: E402
from theseus_jax import report  # noqa: E402


class Parser(argparse.ArgumentParser):
    """argparse with its mistakes in one line, like every other."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> None:
    """Print the table and, with --html, write the page. arguments: None for those of the command
    line.
    """
    parser = Parser(
        description="Compare finished runs of the same task and data.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a finished run")
    parser.add_argument("--html", metavar="FILE", help="also write a self-contained page")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="show runs of another task, metric or data too, and say what differs",
    )
    given = parser.parse_args(arguments)
    print(report.compare(given.runs, anyway=given.anyway))
    if given.html:
        print(f"\nwritten to {report.compare_html(given.runs, given.html, anyway=given.anyway)}")


if __name__ == "__main__":
    command(main)
