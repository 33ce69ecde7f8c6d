"""One process a workdir: a lock that the operating system takes back when its owner ends, however
it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
from typing import Iterator

from theseus_jax.errors import UserError

NAME = "running"  # the lock's file: there while a run is, with its process and host


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold `folder`, made if it is not there, for this process alone. Raises UserError, naming
    the other process, where one holds it. A file that a killed process left holds nothing.
    """
    path = folder / NAME
    held = _taken(path)
    try:
        os.truncate(held, 0)
        os.write(held, f"{os.getpid()} {socket.gethostname()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # still held: nobody has opened it and got the lock
        os.close(held)


def _taken(path: pathlib.Path) -> int:
    """A descriptor of the file at path, locked."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"the workdir {path.parent} cannot be written ({error.strerror}); give another"
                " --workdir"
            ) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(held, 300).decode(errors="replace").split()
            os.close(held)
            who = f"process {owner[0]} on {owner[1]}" if len(owner) == 2 else "another process"
            raise UserError(
                f"{path.parent} is in use by {who}; wait until it ends, or give another --workdir"
            ) from None
        except OSError as error:
            os.close(held)
            raise UserError(
                f"{path.parent} is on a file system without locks ({error.strerror}); give a"
                " --workdir on another"
            ) from error
        if _is_at(held, path):
            return held
        os.close(held)  # its owner removed it as it ended: another file is there by now


def _is_at(held: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), path.stat())
    except FileNotFoundError:
        return False
