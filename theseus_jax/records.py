"""metrics.jsonl: one flat JSON object a line, flushed at once, on the disk before a checkpoint
counts on it, cut back when an unfinished run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.paths import local


class Records:
    """Append-only rows in one file, but for `rewrite` when a run goes on."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local(path)

    def write(self, row: dict[str, Any]) -> None:
        """Append one flat row. Raises UserError when the disk is full or the folder cannot be
        written.
        """
        try:
            with open(self.path, "a", encoding="utf8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def offset(self) -> int:
        """The file's length in bytes, 0 when there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def sha256(self) -> str:
        """Of the file's bytes: 64 hex digits."""
        content = self.path.read_bytes() if self.path.exists() else b""
        return hashlib.sha256(content).hexdigest()

    def sync(self) -> None:
        """Have all rows on the disk. Raises UserError where it refuses them."""
        if not self.path.exists():
            return
        try:
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def whole(self) -> bool:
        """False where the last line was cut off by a kill."""
        return not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")

    def rewrite(self, lines: Sequence[str]) -> None:
        """These lines and no others, in place of the file, as a whole. Raises UserError."""
        new = self.path.with_suffix(".new")
        try:
            with open(new, "w", encoding="utf8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def lines(self) -> list[tuple[str, dict[str, Any]]]:
        """(line, row) of every row; a last line that a kill cut off is left out. Raises UserError
        for a line that is no row.
        """
        if not self.path.exists():
            return []
        parts, found = self.path.read_bytes().split(b"\n")[:-1], []
        for number, part in enumerate(parts, start=1):
            try:
                line = part.decode("utf8")
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"{self.path} is damaged: line {number} of {len(parts)} is no row; bring the"
                    " file back, or give another --workdir"
                )
            found.append((line, row))
        return found

    def read(self) -> list[dict[str, Any]]:
        """All rows. Raises UserError for a line that is no row."""
        return [row for _, row in self.lines()]


def _unwritable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror}); free some space and start again: the run"
        " goes on from its last checkpoint"
    )


def training_flops(rows: list[dict[str, Any]], model: str) -> float:
    """FLOPs that training one seed of a model took, with what was computed once and kept."""
    return sum(
        row["training_flops"]
        for row in rows
        if row.get("model") == model
        and row["kind"] in ("train", "stored")
        and row.get("seed", 0) == 0
    )
