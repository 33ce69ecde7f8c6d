"""Named tensors in files: .safetensors, .npz, .pth, .pt and .bin, by one reader each; in folders as
save_pretrained leaves them, in one file or in shards.

No reader runs code that a file names, and none follows a link out of the file.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Callable, NamedTuple

import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.weights.pth import read_pth
from theseus_jax.paths import local

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


INDEX = ".index.json"
FOLDERS = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


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
    """{name: Tensor} of a file, by its suffix, of all shards that an .index.json names, or of a
    folder that holds one of FOLDERS; a .safetensors file gives its values only when asked.

    .safetensors needs the package safetensors. A .pth, .pt or .bin file gives the tensors of a
    state dict. Dtypes are in this machine's byte order. What wraps a network's names, "module." or
    "_orig_mod." before all of them, is taken off. Raises UserError for another suffix, a missing
    package, and a file that is not there, is damaged, or is of another format than its suffix says.
    """
    source = local(path)
    if source.is_dir():
        source = _in_folder(source)
    if source.name.endswith(INDEX):
        return _unwrapped(_shards(source))
    if source.suffix not in READERS:
        raise UserError(f"{str(path)!r} does not end in {', '.join(READERS)}; convert or rename it")
    if not source.is_file():
        raise UserError(f"there is no file {source}; give the {source.suffix} file of the weights")
    return _unwrapped(_refusing(source, lambda: READERS[source.suffix](source)))


def _in_folder(folder: Path) -> Path:
    there = [folder / name for name in FOLDERS if (folder / name).is_file()]
    if not there:
        raise UserError(
            f"the folder {folder} holds no weights; it needs {' or '.join(FOLDERS)}, as"
            " save_pretrained writes them"
        )
    return there[0]


def _shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names, each from the file that it names for it."""
    if not index.is_file():
        raise UserError(f"there is no file {index}; give the index of the shards")
    named = _refusing(index, lambda: json.loads(index.read_text("utf-8"))["weight_map"])
    outside = [file for file in named.values() if Path(file).name != file]
    if outside:
        raise UserError(f"{index} names {outside[0]}, which lies elsewhere; save the model again")
    found = {}
    for file in dict.fromkeys(named.values()):
        held = open_tensors(index.parent / file)
        missing = [name for name, place in named.items() if place == file and name not in held]
        if missing:
            raise UserError(
                f"{index.parent / file} lacks {missing[0]}, which {index.name} says is there;"
                " download both again"
            )
        found |= {name: held[name] for name, place in named.items() if place == file}
    return found


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what training wrappers put before every name."""
    for prefix in WRAPPERS * 2:  # compiled inside of distributed, or the other way round
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float16 and bfloat16 tensors as the float32 that they are exactly."""

    def wide(tensor: Tensor) -> Tensor:
        if tensor.dtype not in ("float16", "bfloat16"):
            return tensor
        return Tensor(tensor.shape, "float32", lambda: tensor.read().astype(np.float32))

    return {name: wide(tensor) for name, tensor in tensors.items()}


def weights_under(path: str | os.PathLike, prefix: str) -> dict[str, Tensor]:
    """`open_tensors` of a network, widened, without a prefix that its names may have. Raises
    UserError where a tensor is there with it and without.
    """
    named = widened(open_tensors(path))
    weights = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    if len(weights) < len(named):
        raise UserError(f"{path} holds tensors both with and without {prefix!r}; keep one copy")
    return weights


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of a file, with the formats and errors of `open_tensors`."""
    tensors = open_tensors(path)
    return _refusing(Path(path), lambda: {name: tensor.read() for name, tensor in tensors.items()})


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """`read_tensors` of a network in float32: half precision is widened exactly."""
    tensors = widened(open_tensors(path))
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
