"""What a run's checkpoints count on: their rows in metrics.jsonl, the config, the data and the
guide they were made with. Compared before a run goes on, so that files that contradict each other
are refused, and work whose rows or checkpoint are gone is done again with nothing doubled.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any, Iterable, NamedTuple, Sequence

from theseus_jax import checkpoints, trees
from theseus_jax.config import current
from theseus_jax.errors import UserError
from theseus_jax.experiment.workdir import Workdir, first_difference, write
from theseus_jax.nets.stage import Variables
from theseus_jax.records import Records

Note = dict[str, Any]


def counted(records: Records, model: str) -> Note:
    """{"count", "sha256"} of a model's rows so far, which are on the disk by then."""
    records.sync()
    return _summed([line for line, row in records.lines() if row.get("model") == model])


def _summed(lines: Sequence[str]) -> Note:
    return {"count": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def data_sha256(facts: dict[str, Any]) -> str:
    """Of the data that a task read: 64 hex digits."""
    told = facts.get("data", {})
    return (
        told.get("sha256") or hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    )


def fingerprint(variables: Variables) -> str:
    """Of a guide: 64 hex digits of its arrays' paths, shapes and bytes."""
    return hashlib.sha256(
        json.dumps(trees.checksum(variables), sort_keys=True).encode()
    ).hexdigest()


def mark(workdir: Workdir, model: str) -> None:
    """Remember that all rows of a model so far are of work that need not be done again: trials of
    a search, whose models are not kept.
    """
    searched_mark(workdir).parent.mkdir(exist_ok=True)
    note = {"model": model, "rows": counted(workdir.records, model)}
    write(searched_mark(workdir), json.dumps(note))


def searched_mark(workdir: Workdir) -> pathlib.Path:
    """The file of `mark`."""
    return workdir.path / "checkpoints" / "searched"


class Made(NamedTuple):
    """A state on disk: where it is, of which model, and what its checkpoint says."""

    path: pathlib.Path
    model: str
    note: Note


def settle(
    workdir: Workdir, config: Any, data: str, models: Iterable[tuple[str, Sequence[str]]]
) -> None:
    """Compare every state on disk with the run that would go on from it, then cut metrics.jsonl
    back to the rows that they count on: what follows is work that will be done again.

    models: (name, names of the jobs behind it). Raises UserError, one line, for a state of another
    model, config or data, and for rows that are missing or were changed.
    """
    lines, kept = workdir.records.lines(), []
    for model, jobs in models:
        own = [line for line, row in lines if row.get("model") == model]
        counts = [0]
        for state in _made(workdir, model, jobs):
            _same_run(state, config, data)
            counts.append(_rows_of(state, own, workdir, lines))
        kept += own[: max(counts)]
    wanted = set(map(id, kept))
    left = [line for line, _ in lines if id(line) in wanted]
    if len(left) != len(lines) or not workdir.records.whole():
        workdir.records.rewrite(left)


def _made(workdir: Workdir, model: str, jobs: Sequence[str]) -> list[Made]:
    """The states on disk of a model and of the jobs behind it, finished or not."""
    found = []
    for name in dict.fromkeys((model, *jobs)):
        path = workdir.model(name)
        if path.exists():
            note = checkpoints.load(path, items=())[1]
            if note.get("model") != name:
                raise UserError(
                    f"{path} holds the model {note.get('model')!r}, not {name!r}; bring the folders"
                    f" back to their names, or delete {path}: what is missing is made again"
                )
            found.append(Made(path, model, note))
        elif progress := checkpoints.latest_progress(workdir.progress(name)):
            index, _, note = progress
            found.append(Made(workdir.progress(name) / f"{index:08d}", model, note))
    searched = searched_mark(workdir)
    if searched.exists() and (note := _mark_of(searched)).get("model") == model:
        found.append(Made(searched, model, note))
    return found


def _mark_of(path: pathlib.Path) -> Note:
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it: the search is done again"
        ) from error
    return note if isinstance(note, dict) else {}


def _same_run(state: Made, config: Any, data: str) -> None:
    """Raises UserError for a state of another config or other data."""
    text, wanted = state.note.get("config"), json.loads(config.to_json())
    if text is not None:
        held = {"smoke": wanted["smoke"], **json.loads(text)}
        held = {"smoke": wanted["smoke"], **current(held)}
        if held != wanted:
            raise UserError(
                f"{state.path} was made with another config"
                f" ({first_difference(held, wanted)}); give another --workdir, or delete it: it is"
                " made again"
            )
    then = state.note.get("data", data)
    if then != data:
        raise UserError(
            f"the data have changed since {state.path} was made (sha256 {then[:12]} then,"
            f" {data[:12]} now); bring those data back, or give another --workdir"
        )


def _rows_of(state: Made, own: list[str], workdir: Workdir, lines: Any) -> int:
    """How many of its model's lines a state counts on. Raises UserError where they are not there
    as they were.
    """
    told = state.note.get("rows")
    if told is None:  # of before states counted rows: bytes of the file, whoever's rows they are
        return _within(state, workdir, lines)
    count = told["count"]
    if len(own) < count or _summed(own[:count]) != told:
        what = f"{len(own)} rows" if len(own) < count else f"other rows than then, {count},"
        raise UserError(
            f"{workdir.records.path} has {what} of {state.model!r}, and {state.path} counts on"
            f" {count}; bring the file back, or delete {state.path}: it is made again"
        )
    return count


def _within(state: Made, workdir: Workdir, lines: Any) -> int:
    offset, size = state.note.get("offset", 0), workdir.records.offset()
    if size < offset:
        raise UserError(
            f"{workdir.records.path} has {size} bytes, and {state.path} counts on {offset}; bring"
            f" the file back, or delete {workdir.path / 'checkpoints'}: everything is made again"
        )
    count, place = 0, 0
    for line, row in lines:
        place += len(line.encode()) + 1
        count += row.get("model") == state.model and place <= offset
    return count


def same_guide(path: pathlib.Path, note: Note, guide: str) -> None:
    """Raises UserError where a finished model was made with another guide than today's."""
    then = note.get("guide", guide)
    if then != guide:
        raise UserError(
            f"{path} was made with another guide (sha256 {then[:12]}) than the one that is there"
            f" now ({guide[:12]}); bring that one back, or delete {path}: it is made again"
        )
