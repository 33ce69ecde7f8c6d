"""Named tensors in files: .safetensors, .npz, .pth, .pt and .bin, by one reader each.

No reader runs code that a file names, and none follows a link out of the file.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Callable, NamedTuple

import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.weights.pth import read_pth

SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class Tensor(NamedTuple):
    """A tensor of a file: its shape, the name of its dtype, and `read()` for its values."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def library(name: str) -> ModuleType:
    """The package that a file format needs, imported now; `name` may be a module inside it, which
    is imported too.

    Raises UserError with the pip line where the package is missing.
    """
    package = name.split(".")[0]
    try:
        importlib.import_module(name)
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the package {package} is not installed; pip install it: pip install {package}"
        ) from error


def open_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """{name: Tensor} of a file, by its suffix; a .safetensors file gives its values only when
    asked.

    .safetensors needs the package safetensors. A .pth, .pt or .bin file gives the tensors of a
    state dict. Dtypes are in this machine's byte order. Raises UserError for another suffix, a
    missing package, and a file that is not there, is damaged, or is of another format than its
    suffix says.
    """
    source = Path(path).expanduser()
    if source.suffix not in READERS:
        raise UserError(f"{str(path)!r} does not end in {', '.join(READERS)}; convert or rename it")
    if not source.is_file():
        raise UserError(f"there is no file {source}; give the {source.suffix} file of the weights")
    return _refusing(source, lambda: READERS[source.suffix](source))


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of a file, with the formats and errors of `open_tensors`."""
    tensors = open_tensors(path)
    return _refusing(Path(path), lambda: {name: tensor.read() for name, tensor in tensors.items()})


def _refusing(path: Path, read: Callable[[], dict]) -> dict:
    try:
        return read()
    except UserError:
        raise
    except Exception as error:  # a damaged file raises whatever its bytes run into
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path} is not a readable {path.suffix} file ({told}); download it again"
        ) from error


def _held(array: np.ndarray) -> Tensor:
    native = np.asarray(array, array.dtype.newbyteorder("="))
    return Tensor(native.shape, native.dtype.name, lambda: native)


def _safetensors(path: Path) -> dict[str, Tensor]:
    file = library("safetensors.numpy").safe_open(path, framework="numpy")
    slices = {name: file.get_slice(name) for name in file.keys()}
    return {
        name: Tensor(
            tuple(part.get_shape()),
            SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()),
            lambda name=name: file.get_tensor(name),
        )
        for name, part in slices.items()
    }


def _npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _held(archive[name]) for name in archive.files}


def _pth(path: Path) -> dict[str, Tensor]:
    return {name: _held(array) for name, array in read_pth(path).items()}


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pth": _pth,
    ".pt": _pth,
    ".bin": _pth,
}
