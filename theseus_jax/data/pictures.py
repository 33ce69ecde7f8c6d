"""Labelled pictures in MNIST's four files."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Sequence

import numpy as np

from theseus_jax.data.cached import content_sha256
from theseus_jax.data.dataset import DataSet, checked, drawn_note, taken
from theseus_jax.data.decoding import reading
from theseus_jax.data.image_folder import image_folder
from theseus_jax.data.splits import Limit, published_rows
from theseus_jax.errors import UserError
from theseus_jax.paths import local

__all__ = ["FASHION", "fashion_mnist", "image_folder"]
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
    folder = local(path or FASHION_FOLDER)
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
