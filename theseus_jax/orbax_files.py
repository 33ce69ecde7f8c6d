"""What orbax writes and reads of one checkpoint: no log lines or tracebacks of its own, folders of
any name, and an unreadable one as one line.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from theseus_jax.errors import UserError, root_of
from theseus_jax.interrupts import deferred

ODD = re.compile(r"[\[\]*?{}\\]")
AGAIN = "the run continues from the previous one, or starts this phase again"


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are damaged or incomplete."""


def write(path: Path, payload: dict[str, Any], told: dict[str, Any]) -> None:
    """{item: nested dicts of host arrays} and a JSON object to a folder that is not there yet and
    whose own name has none of ODD.
    """
    with _plain(path) as plain:
        ocp.save_checkpointables(plain, payload, custom_metadata=told)


def metadata(path: Path) -> Any:
    """The JSON object beside the items. Raises DamagedCheckpoint."""
    return _read(path, lambda at: ocp.checkpointables_metadata(at).custom_metadata)


def items(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """{item: nested dicts of arrays} of one or more items. Raises DamagedCheckpoint."""
    return _read(path, lambda at: ocp.load_checkpointables(at, {name: None for name in names}))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """orbax logs what it raises, with tracebacks, and warns about coroutines that it drops."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("absl", "asyncio"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The path for orbax, which takes brackets and stars for patterns and \\ for /: where there are
    any, one through a link. Of a path to be written the last name has to be plain.
    """
    if not ODD.search(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="theseus-") as folder:
        link, whole = Path(folder, "link"), not ODD.search(path.name)
        link.symlink_to(path.parent if whole else path, target_is_directory=True)
        yield link / path.name if whole else link


def _read(path: Path, call: Callable[[Path], Any]) -> Any:
    with quiet():
        try:
            with deferred("reading a checkpoint", insist=False), _plain(path) as plain:
                return call(plain)
        except Exception as error:
            reason = root_of(error)
        # orbax's dropped coroutines warn when they are freed: free them while warnings are off
        gc.collect()
    raise DamagedCheckpoint(
        f"checkpoint {path} cannot be read: {reason}; put its files back, or move it away: {AGAIN}"
    )
