"""A folder of pictures for each class, the user's own: what is in it is counted, and what cannot be
meant is refused.
"""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theseus_jax.data.dataset import DataSet, Labelled, checked, drawn_note, stratified_note
from theseus_jax.data.decoding import on_white, opened, reading, squared, stacked, upright
from theseus_jax.data.splits import SPELLINGS, Limit, published_rows, shortened, stratified_split
from theseus_jax.errors import UserError
from theseus_jax.paths import local

PUBLISHED = ("train", "validation", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# Pillow clips the deeper ones
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class _Tree(NamedTuple):
    """Image files (N,), their classes (N,) and the bounds of the published splits (of the whole,
    where there are none). passed: what was found and is not read, by kind.
    """

    files: list[Path]
    y: np.ndarray
    counts: tuple[int, ...]
    classes: tuple[str, ...]
    passed: collections.Counter[str]


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
    """Images of your own: path/CLASS/*.png (SUFFIXES), or path/train/CLASS/ and path/test/CLASS/ if
    there.

    x: (N, size, size, 3) uint8 with mode "RGB", (N, size, size, 1) with "L", resized one by one
    (`decoding.squared`). Every image is turned upright as its EXIF mark says, laid on white where
    it is transparent, and turned into the mode: grey and palette images get three equal or
    looked-up channels, colour becomes grey as 0.299 R + 0.587 G + 0.114 B, CMYK is taken without a
    profile, and of an animation the first picture counts. Classes are the folders' names, sorted,
    with whatever lies below them. Without published splits they are those of `stratified_split`;
    with them (any of `splits.SPELLINGS`), validation_fraction of train is for validation unless
    there is a folder for it. sha256: of the names and bytes of the files that were read. note: how
    many were turned, laid on white or repeat others, and what was passed over.

    Raises UserError for a missing folder, no or one class, a class without images or not in every
    split, splits without train or test, an unreadable image or one of more than 8 bits a level, the
    same bytes in two classes, a size below 1, another mode, and bad fractions or limits.
    """
    if size < 1 or mode not in ("RGB", "L"):
        raise UserError(
            f'size is {size} and mode {mode!r}; expected at least 1 pixel, and "RGB" or "L"; set'
            " those"
        )
    root = local(path)
    tree = _tree(root)
    if len(tree.counts) == 1:
        fractions = validation_fraction, test_fraction
        rows = shortened(stratified_split(tree.y, *fractions, seed, tree.classes), limit)
        note = stratified_note(*fractions, seed)
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
    reader = _Reader(root, size, mode)
    parts = [
        Labelled(reader.pictures([tree.files[row] for row in part]), tree.y[part]) for part in rows
    ]
    found = [[tree.files[row] for row in part] for part in rows]
    names = dict(zip(tree.files, (tree.classes[label] for label in tree.y)))
    told = [f"{mode} at {size}x{size}", note, *reader.told(), *_repeats(found, names, reader, root)]
    if tree.passed:
        told += [f"passed over: {', '.join(f'{n} {kind}' for kind, n in tree.passed.items())}"]
    return checked(
        DataSet(f"folder-{root.name}", *parts, tree.classes, reader.sha256(), "; ".join(told))
    )


def _tree(root: Path) -> _Tree:
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; give one with a folder of images for each class"
        )
    splits, passed = _splits(root), collections.Counter()
    there = {split: _folders(root / name) for split, name in splits.items()}
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
    for split, folder in splits.items() or [("", "")]:
        if split and there[split] != classes:
            other = sorted(set(there[split]) ^ set(classes))
            raise UserError(
                f"{root / folder} and {root / splits['train']} do not have the same classes:"
                f" {', '.join(other[:5])} in one only; give every class in every split"
            )
        passed += _loose(root / folder)
        for number, name in enumerate(classes):
            found = sorted(_images(root / folder / name, passed))
            if not found:
                raise UserError(
                    f"the class folder {root / folder / name} has no image ({', '.join(SUFFIXES)});"
                    " add some, or remove the folder; published splits go in folders train,"
                    " validation (if any) and test"
                )
            files += found
            y += [number] * len(found)
        counts.append(len(files) - sum(counts))
    extra = set(_folders(root)) - set(splits.values()) if splits else ()
    passed.update({f"folder {name} beside the splits": 1 for name in sorted(extra)})
    return _Tree(files, np.array(y, np.int32), tuple(counts), tuple(classes), passed)


def _splits(root: Path) -> dict[str, str]:
    """{split: its folder's name}, in order; {} where the folders are classes. Raises UserError for
    what is neither.
    """
    named = {name: SPELLINGS[name.lower()] for name in _folders(root) if name.lower() in SPELLINGS}
    held = {name: split for name, split in named.items() if _folders(root / name)}
    if not held:
        if named and set(named) == set(_folders(root)):
            raise UserError(
                f"{root} has folders {', '.join(named)} of images and none of classes; sort the"
                " images of each split into a folder for each class"
            )
        return {}
    splits = {split: name for name, split in held.items()}
    if len(splits) < len(held) or not {"train", "test"} <= set(splits):
        missing = [split for split in ("train", "test") if split not in splits]
        raise UserError(
            f"{root} has the splits {', '.join(held)}"
            + (f" and none for {' and '.join(missing)}" if missing else ", two of them of one kind")
            + "; call one train, one test (what results are told of) and, if there is a third,"
            " validation; or give a folder whose own folders are the classes"
        )
    return {split: splits[split] for split in PUBLISHED if split in splits}


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(
        folder.name
        for folder in path.iterdir()
        if folder.is_dir() and not folder.name.startswith((".", "__"))
    )


def _loose(folder: Path) -> collections.Counter[str]:
    """Images that lie beside the folders of classes."""
    count = sum(file.suffix.lower() in SUFFIXES for file in folder.iterdir() if file.is_file())
    return collections.Counter({"images outside of the classes": count} if count else {})


def _images(folder: Path, passed: collections.Counter[str]) -> Iterator[Path]:
    """The image files of a class, at any depth; others are counted. Raises UserError for what only
    looks like one.
    """
    seen = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        hidden = [name for name in folders if name.startswith((".", "__"))]
        folders[:] = [] if real in seen else [name for name in folders if name not in hidden]
        if real in seen:  # a link to where we are
            continue
        seen.add(real)
        passed.update({"hidden folders": len(hidden)} if hidden else {})
        for name in names:
            file = Path(at, name)
            if name.startswith("."):
                passed["hidden files"] += 1
            elif file.suffix.lower() not in SUFFIXES:
                passed[f"{file.suffix.lower() or 'unsuffixed'} files"] += 1
            elif not file.is_file():
                kind = "a pipe or device" if file.exists() else "a link to nothing"
                raise UserError(f"{file} is {kind}, no image; remove it")
            else:
                yield file


class _Reader:
    """Decodes files, and notes what it did with which."""

    def __init__(self, root: Path, size: int, mode: str) -> None:
        self.root, self.size, self.mode = root, size, mode
        self.digests: dict[Path, bytes] = {}
        self.done: collections.Counter[str] = collections.Counter()

    def pictures(self, files: list[Path]) -> np.ndarray:
        """(N, size, size, channels) uint8."""
        return stacked(map(self._picture, files), len(files), f"the images in {self.root}")

    def _picture(self, file: Path) -> np.ndarray:
        with reading(file, "image"):
            content = file.read_bytes()
        self.digests[file] = hashlib.sha256(content).digest()
        image = opened(content, file)
        if image.mode not in EIGHT_BITS:
            raise UserError(
                f"{file} has levels of more than 8 bits (Pillow's mode {image.mode}); convert it to"
                " 8 bits first"
            )
        self.done["animations of which the first picture is read"] += self._several(image)
        turned = upright(image)
        self.done["turned upright by their EXIF mark"] += turned is not image
        flat = on_white(turned)
        self.done["transparent, laid on white"] += flat is not turned
        return squared(flat.convert(self.mode), self.size)

    def _several(self, image: Any) -> bool:
        return getattr(image, "n_frames", 1) > 1 and image.format != "MPO"

    def told(self) -> list[str]:
        """What was done with how many."""
        return [f"{count} {what}" for what, count in self.done.items() if count]

    def sha256(self) -> str:
        """Of the names and bytes of all that was read."""
        named = {file.relative_to(self.root).as_posix(): one for file, one in self.digests.items()}
        return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()


def _repeats(
    parts: list[list[Path]], names: dict[Path, str], reader: _Reader, root: Path
) -> list[str]:
    """What is told of files that are others byte by byte. Raises UserError for two classes of one
    content.
    """
    first: dict[bytes, tuple[int, Path]] = {}
    repeated, across = 0, 0
    for part, files in enumerate(parts):
        for file in files:
            part_before, before = first.setdefault(reader.digests[file], (part, file))
            if names[before] != names[file]:
                one, other = (path.relative_to(root) for path in (before, file))
                raise UserError(
                    f"{root} has one image in two classes, {one} and {other}; remove one of them"
                )
            repeated += before != file
            across += before != file and part_before != part
    return [
        *([f"{repeated} files repeat others byte by byte"] if repeated else []),
        *([f"{across} of them those of another split, which flatters results"] if across else []),
    ]
