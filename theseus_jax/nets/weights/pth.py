"""A reader of PyTorch's .pth files of plain tensors, without PyTorch.

Such a file is a pickle that describes tensors as views (offset, shape, strides) of flat storages,
and the storages' bytes. Since PyTorch 1.6 both are entries of a zip archive; before, the pickles
and the storages followed each other in one stream. A pickle calls whatever function it names, so
here it can name only what rebuilds a tensor.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import zipfile
from typing import Any, BinaryIO, Iterable, Mapping, NamedTuple

import numpy as np

from theseus_jax.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
STREAM_MAGIC, STREAM_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of a file that `torch.save(module.state_dict(), path)` wrote, in either format;
    C-contiguous copies. Of a training checkpoint, a dict of which one entry is a state dict, that
    one.

    Raises UserError for a file that is not there or is damaged, and for one that names anything but
    dense CPU tensors of plain dtypes in a flat dict: nothing else of the pickle is ever called.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            described, storages = (_archive if zipped else _stream)(file)
    except UserError as error:
        raise UserError(f"{path} {error}; save a plain state_dict() instead") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); give the .pth file of the weights"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise UserError(
            f"{path} is not a readable .pth file ({type(error).__name__}: {error}); "
            "download it again"
        ) from error
    described = _state_dict(path, described)
    return {str(name): _viewed(path, name, tensor, storages) for name, tensor in described.items()}


def _state_dict(path: Any, described: Any) -> Mapping[str, Any]:
    """The tensors by name, be they the whole content or one entry of it."""

    def flat(entry: Any) -> bool:
        return isinstance(entry, Mapping) and all(isinstance(one, _View) for one in entry.values())

    if flat(described):
        return described
    entries = described.items() if isinstance(described, Mapping) else ()
    inside = {str(name): entry for name, entry in entries if flat(entry) and entry}
    if len(inside) == 1:
        return next(iter(inside.values()))
    several = f"several, {', '.join(inside)}" if inside else "no flat dict of tensors"
    raise UserError(f"{path} holds {several}; save one plain state_dict() instead")


class _Storage(NamedTuple):
    key: str
    dtype: str
    count: int


def _dtype(storage: _Storage) -> np.dtype:
    if storage.dtype == "bfloat16":
        import ml_dtypes  # numpy knows the name by it

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(storage.dtype)


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Rebuilt:
    """What a file calls with a storage and a view of it. It has no attributes, which a pickle could
    set: on a function of this module they would stay.
    """

    __slots__ = ()

    def __new__(
        cls,
        storage: _Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: Any,
    ) -> _View:
        return _View(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows three kinds of names, and notes the storages that it meets."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuilt
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise UserError(f"names {module}.{name}, which is no part of a plain tensor")

    def persistent_load(self, name: Any) -> _Storage:
        kind, dtype, key, _, count, *view = name
        if kind != "storage" or dtype not in DTYPES.values() or (view and view[0] is not None):
            raise UserError(f"refers to {str(name)[:80]}, which is no plain storage")
        return self.storages.setdefault(key, _Storage(key, dtype, count))


def _archive(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(file) as archive:
        size, there = sum(member.file_size for member in archive.infolist()), file.seek(0, 2)
        if size > there:  # torch.save compresses nothing
            raise UserError(f"has entries of {size:,} bytes in a file of {there:,}")
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if (
            f"{root}byteorder" in archive.namelist()
            and archive.read(f"{root}byteorder") != b"little"
        ):
            raise UserError("was written in big-endian byte order")
        unpickler = _Unpickler(io.BytesIO(archive.read(pickled)))
        described = unpickler.load()
        return described, {
            key: np.frombuffer(archive.read(f"{root}data/{key}"), _dtype(storage), storage.count)
            for key, storage in unpickler.storages.items()
        }


def _stream(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    magic, protocol, system = (_Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (STREAM_MAGIC, STREAM_PROTOCOL) or not system["little_endian"]:
        raise UserError("does not start as a little-endian .pth file does")
    unpickler = _Unpickler(file)
    described, keys = unpickler.load(), _Unpickler(file).load()
    return described, dict(_following(file, [unpickler.storages[key] for key in keys]))


def _following(file: BinaryIO, storages: Iterable[_Storage]) -> Iterable[tuple[str, np.ndarray]]:
    for storage in storages:
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise ValueError(
                f"storage {storage.key} has {count} elements instead of {storage.count}"
            )
        yield (
            storage.key,
            np.frombuffer(file.read(count * _dtype(storage).itemsize), _dtype(storage), count),
        )


def _viewed(path: Any, name: str, view: _View, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    flat = storages[view.storage.key]
    numbers = (view.offset, *view.shape, *view.strides)
    last = view.offset + sum(
        (length - 1) * stride for length, stride in zip(view.shape, view.strides)
    )
    # as_strided trusts its arguments: a view past the storage would read foreign memory
    if (
        len(view.shape) != len(view.strides)
        or min(numbers) < 0
        or (0 not in view.shape and last >= len(flat))
    ):
        raise UserError(
            f"{path}: tensor {name} lies outside its storage of {len(flat)} elements; download it"
            " again"
        )
    if 0 not in view.shape and math.prod(view.shape) > len(flat):
        raise UserError(
            f"{path}: tensor {name} of {view.shape} repeats a storage of {len(flat)} elements; save"
            " it after .contiguous()"
        )
    item = flat.dtype.itemsize
    strided = np.lib.stride_tricks.as_strided(
        flat[view.offset :], view.shape, [item * stride for stride in view.strides]
    )
    return np.ascontiguousarray(strided).reshape(view.shape)
