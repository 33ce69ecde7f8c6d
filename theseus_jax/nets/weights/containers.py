"""Named tensors in files: .safetensors, .npz, .onnx, .h5, .hdf5, .pth, .pt and .bin, by one reader each.

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

SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
                      "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


class Tensor(NamedTuple):
    """A tensor of a file: its shape, the name of its dtype, and `read()` for its values."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def library(name: str) -> ModuleType:
    """The package that a file format needs, imported now; `name` may be a module inside it, which is imported too.

    Raises UserError with the pip line where the package is missing.
    """
    package = name.split(".")[0]
    try:
        importlib.import_module(name)
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"the package {package} is not installed; pip install it: pip install {package}") from error


def open_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """{name: Tensor} of a file, by its suffix; .safetensors and .h5 files give their values only when asked.

    .safetensors needs the package safetensors, .onnx onnx, and .h5 or .hdf5 h5py. An .onnx file gives its initialisers, an
    HDF5 file all data sets by their paths, a .pth, .pt or .bin file the tensors of a state dict. Dtypes are in this
    machine's byte order. Raises UserError for another suffix, a missing package, and a file that is not there, is
    damaged, or is of another format than its suffix says.
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
        raise UserError(f"{path} is not a readable {path.suffix} file ({told}); download it again") from error


def _held(array: np.ndarray) -> Tensor:
    native = np.asarray(array, array.dtype.newbyteorder("="))
    return Tensor(native.shape, native.dtype.name, lambda: native)


def _safetensors(path: Path) -> dict[str, Tensor]:
    file = library("safetensors.numpy").safe_open(path, framework="numpy")
    slices = {name: file.get_slice(name) for name in file.keys()}
    return {name: Tensor(tuple(part.get_shape()), SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()),
                         lambda name=name: file.get_tensor(name)) for name, part in slices.items()}


def _npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _held(archive[name]) for name in archive.files}


def _onnx(path: Path) -> dict[str, Tensor]:
    onnx = library("onnx.numpy_helper")
    graph = onnx.load(path, load_external_data=False).graph
    outside = [tensor.name for tensor in graph.initializer if onnx.external_data_helper.uses_external_data(tensor)]
    if outside or not graph.node:
        reason = f"keeps {outside[0]} in another file" if outside else "holds no network"
        raise UserError(f"{path} {reason}; save it whole in one .onnx file")
    return {tensor.name: _held(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}


def _hdf5(path: Path) -> dict[str, Tensor]:
    h5py = library("h5py")
    file, found = h5py.File(path, "r"), {}

    def note(name: str, item: object) -> None:  # h5py visits no soft and no external links
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            if item.external or item.is_virtual:
                raise UserError(f"{path} keeps {name} in another file; save it whole in one {path.suffix} file")
            native = item.dtype.newbyteorder("=")
            found[name] = Tensor(item.shape, native.name, lambda: np.asarray(item[()], native))

    file.visititems(note)
    return found


def _pth(path: Path) -> dict[str, Tensor]:
    return {name: _held(array) for name, array in read_pth(path).items()}


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": _safetensors, ".npz": _npz, ".onnx": _onnx, ".h5": _hdf5, ".hdf5": _hdf5, ".pth": _pth, ".pt": _pth,
    ".bin": _pth}
