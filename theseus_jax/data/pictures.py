"""Labelled pictures in files of the user's own: sets in MNIST's format, and a folder of images for
each class.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np

from theseus_jax.data.archives import imaging, reading, squared, stacked
from theseus_jax.data.cached import content_sha256
from theseus_jax.data.catalogue import first_line
from theseus_jax.data.dataset import DataSet, Labelled, checked, drawn_note, stratified_note, taken
from theseus_jax.data.splits import Limit, published_rows, shortened, stratified_split
from theseus_jax.errors import UserError

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"
FASHION_INSTALL = (
    "apt-get install dataset-fashion-mnist, or get the four files of"
    " https://github.com/zalandoresearch/fashion-mnist (data/fashion) and set the path to their"
    " folder"
)
UNSIGNED_BYTES = 8  # the idx format's number for uint8
PUBLISHED = ("train", "validation", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Pillow clips the deeper ones
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def fashion_mnist(
    path: str | Path = "",
    *,
    name: str = "fashion-mnist",
    classes: Sequence[str] = FASHION,
    validation_fraction: float = 0.1,
    limit: Limit | None = None,
    seed: int = 0,
) -> DataSet:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747; MIT licence), or another set in MNIST's
    four files.

    x: (N, height, width, 1) uint8, 28x28, bright on dark; 60,000 + 10,000 images in 10 classes.
    path: the folder of train-images-idx3-ubyte, train-labels-idx1-ubyte and the two of t10k, each
    as it is or with .gz (empty: where Debian's package dataset-fashion-mnist puts them). name,
    classes: of another set. validation_fraction of the training part and limit are as in
    `splits.published_rows`. sha256: of the arrays, packed or not. Raises UserError for a file that
    is missing, damaged or something else, counts that differ, labels beyond the classes, or a bad
    fraction or limit.
    """
    folder = Path(path or FASHION_FOLDER).expanduser()
    arrays = {
        f"{split}_{kind}": _idx(folder, f"{split}-{kind}-idx{rank}-ubyte", rank)
        for split in ("train", "t10k")
        for kind, rank in (("images", 3), ("labels", 1))
    }
    for split in ("train", "t10k"):
        images, labels = len(arrays[f"{split}_images"]), len(arrays[f"{split}_labels"])
        if images != labels:
            raise UserError(
                f"{folder} has {images} {split} images and {labels} labels; expected as many;"
                f" {FASHION_INSTALL}"
            )
    rows = published_rows(
        (len(arrays["train_labels"]), len(arrays["t10k_labels"])), validation_fraction, limit, seed
    )
    parts = [
        taken(arrays[f"{split}_images"][..., None], arrays[f"{split}_labels"], chosen)
        for split, chosen in zip(("train", "train", "t10k"), rows)
    ]
    return checked(
        DataSet(
            name,
            *parts,
            tuple(classes),
            content_sha256(arrays),
            drawn_note(validation_fraction, seed),
        )
    )


def _idx(folder: Path, name: str, rank: int) -> np.ndarray:
    file = next((folder / file for file in (name, f"{name}.gz") if (folder / file).is_file()), None)
    if file is None:
        raise UserError(f"there is no {name} or {name}.gz in {folder}; {FASHION_INSTALL}")
    with reading(file, "file in MNIST's format"):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        if content[:4] != bytes((0, 0, UNSIGNED_BYTES, rank)):
            raise ValueError(
                f"it starts with {content[:4].hex() or 'nothing'}, not with"
                f" 0000{UNSIGNED_BYTES:02x}{rank:02x}"
            )
        begin = 4 + 4 * rank
        shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, begin, 4))
        if len(content) != begin + math.prod(shape):
            raise ValueError(
                f"it has {len(content)} bytes, which is not {begin} and"
                f" {' x '.join(map(str, shape))}"
            )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


class _Tree(NamedTuple):
    """Image files (N,), their classes (N,) and the bounds of the published splits (of the whole,
    where there are none).
    """

    files: list[Path]
    y: np.ndarray
    counts: tuple[int, ...]
    classes: tuple[str, ...]


def image_folder(
    path: str | Path,
    size: int,
    *,
    mode: str = "RGB",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    limit: Limit | None = None,
    seed: int = 0,
) -> DataSet:
    """Images of your own: path/CLASS/*.png (jpg, jpeg, bmp, webp), or path/train/CLASS/ and
    path/test/CLASS/ if there.

    x: (N, size, size, 3) uint8 with mode "RGB", (N, size, size, 1) with "L", resized one by one
    (`archives.squared`). Every image is turned into the mode first: grey and palette images get
    three equal or looked-up channels, colour becomes grey as 0.299 R + 0.587 G + 0.114 B,
    transparency is dropped, CMYK is taken without a profile, of an animation the first picture
    counts, and a camera's rotation mark is not applied. Classes are the folders' names, sorted;
    what is no image file by its suffix is passed over. Without published splits they are those of
    `stratified_split`; with them, validation_fraction of train is for validation unless
    path/validation/CLASS exists. sha256: of the names and bytes of the files that were read. Raises
    UserError for a missing folder, no or one class, a class without images or not in every split,
    an unreadable image or one of more than 8 bits a level, a size below 1, another mode, and bad
    fractions or limits.
    """
    if size < 1 or mode not in ("RGB", "L"):
        raise UserError(
            f'size is {size} and mode {mode!r}; expected at least 1 pixel, and "RGB" or "L"; set'
            " those"
        )
    root = Path(path).expanduser()
    tree = _tree(root)
    if len(tree.counts) == 1:
        rows = shortened(stratified_split(tree.y, validation_fraction, test_fraction, seed), limit)
        note = stratified_note(validation_fraction, test_fraction, seed)
    else:
        chosen_rows = published_rows(tree.counts, validation_fraction, limit, seed)
        starts = np.cumsum((0, *tree.counts[:-1]))
        rows = [
            chosen + start
            for chosen, start in zip(chosen_rows, starts if len(starts) == 3 else (0, 0, starts[1]))
        ]
        note = "published splits; " + (
            drawn_note(validation_fraction, seed) if len(tree.counts) == 2 else f"seed {seed}"
        )
    digests: dict[str, bytes] = {}
    parts = [
        Labelled(
            _pictures([tree.files[row] for row in part], root, size, mode, digests), tree.y[part]
        )
        for part in rows
    ]
    sha256 = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
    repeated = len(digests) - len(set(digests.values()))
    note = f"{mode} at {size}x{size}; {note}" + (
        f"; {repeated} files repeat others byte by byte" if repeated else ""
    )
    return checked(DataSet(f"folder-{root.name}", *parts, tree.classes, sha256, note))


def _tree(root: Path) -> _Tree:
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; give one with a folder of images for each class"
        )
    there = {split: _folders(root / split) for split in PUBLISHED}
    splits = (
        [split for split in PUBLISHED if there[split]] if there["train"] and there["test"] else []
    )
    classes = there["train"] if splits else _folders(root)
    if len(classes) < 2:
        raise UserError(
            f"{root} has {len(classes)} folders of classes, {', '.join(classes) or 'none'};"
            " expected at least two, as path/CLASS or path/train/CLASS and path/test/CLASS; sort"
            " the images into such folders"
        )
    files: list[Path] = []
    y: list[int] = []
    counts = []
    for split in splits or [""]:
        if split and there[split] != classes:
            other = sorted(set(there[split]) ^ set(classes))
            raise UserError(
                f"{root / split} and {root / 'train'} do not have the same classes:"
                f" {', '.join(other[:5])} in one only; give every class in every split"
            )
        for number, name in enumerate(classes):
            found = sorted(
                file
                for file in (root / split / name).iterdir()
                if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
            )
            if not found:
                raise UserError(
                    f"the class folder {root / split / name} has no image ({', '.join(SUFFIXES)});"
                    " add some, or remove the folder; published splits go in folders train,"
                    " validation (if any) and test"
                )
            files += found
            y += [number] * len(found)
        counts.append(len(files) - sum(counts))
    return _Tree(files, np.array(y, np.int32), tuple(counts), tuple(classes))


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(
        folder.name
        for folder in path.iterdir()
        if folder.is_dir() and not folder.name.startswith((".", "__"))
    )


def _pictures(
    files: Sequence[Path], root: Path, size: int, mode: str, digests: dict[str, bytes]
) -> np.ndarray:
    def pictures() -> Iterator[np.ndarray]:
        for file in files:
            with reading(file, "image"):
                content = file.read_bytes()
            digests[file.relative_to(root).as_posix()] = hashlib.sha256(content).digest()
            yield squared(_converted(content, file, mode), size)

    return stacked(pictures(), len(files), f"the images in {root}")


def _converted(content: bytes, file: Path, mode: str) -> Any:
    try:
        image = imaging("reading images").Image.open(io.BytesIO(content))
        image.load()
    except UserError:
        raise
    except Exception as error:  # a damaged image raises whatever its bytes run into
        raise UserError(
            f"{file} is not a readable image ({first_line(error)}); replace or remove it"
        ) from error
    if image.mode not in EIGHT_BITS:
        raise UserError(
            f"{file} has levels of more than 8 bits (Pillow's mode {image.mode}); convert it to 8"
            " bits first"
        )
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)
