"""metrics.jsonl: one flat JSON object a line, flushed at once, cut back when an unfinished run goes
on.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from theseus_jax.errors import UserError


class Records:
    """Append-only rows in one file. `offset` goes into checkpoints, so that a resumed run can cut
    back to it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)

    def write(self, row: dict[str, Any]) -> None:
        """Append one flat row. Raises UserError when the disk is full or the folder cannot be
        written.
        """
        try:
            with open(self.path, "a", encoding="utf8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}); free some space and start"
                " again: the run goes on from its last checkpoint"
            ) from error

    def offset(self) -> int:
        """The file's length in bytes, 0 when there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, offset: int) -> None:
        """Forget every row after `offset`: they are of work that will be done again."""
        if self.path.exists():
            os.truncate(self.path, offset)

    def read(self) -> list[dict[str, Any]]:
        """All rows."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf8").splitlines()]


def training_flops(rows: list[dict[str, Any]], model: str) -> float:
    """FLOPs that training one seed of a model took, with what was computed once and kept."""
    return sum(
        row["training_flops"]
        for row in rows
        if row.get("model") == model
        and row["kind"] in ("train", "stored")
        and row.get("seed", 0) == 0
    )
