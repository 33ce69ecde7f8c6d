"""Paths as people give them, from a config, a command or a call."""

from __future__ import annotations

import os
import re
from pathlib import Path

from theseus_jax.errors import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local(path: str | os.PathLike) -> Path:
    """The path with ~ and ~name as the folders of those people. Raises UserError for what no file
    of this machine can be called, and for an address.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"the path {text!r} has a NUL in it, as no file's name has; give another")
    if _ADDRESS.match(text):
        raise UserError(
            f"{text!r} is an address, not a path; copy what is there, or mount it, and give that"
        )
    whole = os.path.expanduser(text)  # not pathlib's, to which ./~x is ~x
    if text.startswith("~") and whole == text:
        raise UserError(
            f"{text!r}: there is no home folder of that name; give ./{text} for a folder of that"
            " name here"
        )
    return Path(whole)
