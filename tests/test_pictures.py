"""Pictures from files: MNIST's format byte by byte, folders of classes as Pillow reads them, one
line for what is wrong.
"""

import gzip
import hashlib
import struct
import sys

import numpy as np
import PIL.Image
import pytest
from mistakes import refusal

from theseus_jax.data import decoding, pictures
from theseus_jax.data.image_folder import image_folder
from theseus_jax.data.pictures import FASHION, fashion_mnist
from theseus_jax.data.splits import published_rows, stratified_split


def parts(data):
    return data.train, data.validation, data.test


# MNIST's format


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays(train=20, test=6, classes=10):
    draw = np.random.default_rng(0)
    found = {}
    for split, count in (("train", train), ("t10k", test)):
        found[f"{split}-images-idx3-ubyte"] = draw.integers(0, 256, (count, 4, 3), np.uint8)
        found[f"{split}-labels-idx1-ubyte"] = (np.arange(count) % classes).astype(np.uint8)
    return found


def write(folder, packed=True, **changes):
    folder.mkdir(exist_ok=True)
    for name, array in arrays().items():
        content = changes.get(name.replace("-", "_"), idx(array))
        if content is not None:
            (folder / (name + ".gz" * packed)).write_bytes(
                gzip.compress(content) if packed else content
            )
    return folder


def test_mnist_s_four_files_packed_or_not_are_split(tmp_path):
    data, plain = (
        fashion_mnist(write(tmp_path / "a"), seed=2),
        fashion_mnist(write(tmp_path / "b", packed=False), seed=2),
    )
    given = arrays()
    assert data.classes == FASHION and data.name == "fashion-mnist" and data.sha256 == plain.sha256
    for part, other, split, rows in zip(
        parts(data), parts(plain), ("train", "train", "t10k"), published_rows((20, 6), 0.1, None, 2)
    ):
        assert (part.x.dtype, part.y.dtype, part.x.shape[1:]) == (np.uint8, np.int32, (4, 3, 1))
        np.testing.assert_array_equal(part.x[..., 0], given[f"{split}-images-idx3-ubyte"][rows])
        np.testing.assert_array_equal(part.y, given[f"{split}-labels-idx1-ubyte"][rows])
        np.testing.assert_array_equal(part.x, other.x)
    short = fashion_mnist(
        tmp_path / "a",
        seed=2,
        limit=(5, 1, None),
        validation_fraction=0.25,
        name="mnist",
        classes=tuple("0123456789"),
    )
    assert (
        [len(part.y) for part in parts(short)] == [5, 1, 6]
        and short.name == "mnist"
        and short.classes[3] == "3"
    )
    images = given["train-images-idx3-ubyte"].copy()
    images[0, 0, 0] ^= 1
    assert (
        fashion_mnist(write(tmp_path / "c", train_images_idx3_ubyte=idx(images)), seed=2).sha256
        != data.sha256
    )


def test_damaged_and_other_files_in_mnist_s_format_are_refused(tmp_path):
    found = arrays()
    labels, images = found["train-labels-idx1-ubyte"], found["train-images-idx3-ubyte"]
    for i, (name, content, told) in enumerate(
        [
            (
                "train_images_idx3_ubyte",
                None,
                "there is no train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
            ),
            ("t10k_labels_idx1_ubyte", None, "there is no t10k-labels-idx1-ubyte"),
            (
                "train_images_idx3_ubyte",
                idx(images)[:-5],
                "has 251 bytes, which is not 16 and 20 x 4 x 3",
            ),
            ("train_images_idx3_ubyte", idx(images) + b"\0", "has 257 bytes"),
            ("train_images_idx3_ubyte", idx(images)[:10], "has 10 bytes"),
            ("train_images_idx3_ubyte", b"", "it starts with nothing, not with 00000803"),
            ("train_labels_idx1_ubyte", idx(images), "it starts with 00000803, not with 00000801"),
            (
                "train_labels_idx1_ubyte",
                b"\0\0\x0d\x01" + idx(labels)[4:],
                "it starts with 00000d01",
            ),
            ("train_labels_idx1_ubyte", idx(labels[:-1]), "has 20 train images and 19 labels"),
            (
                "train_labels_idx1_ubyte",
                idx(labels + 1),
                "has labels from 1 to 10, but there are 10 classes",
            ),
            (
                "t10k_images_idx3_ubyte",
                idx(np.zeros((6, 4, 4), np.uint8)),
                "has examples (4, 4, 1) uint8, and training",
            ),
        ]
    ):
        assert told in refusal(fashion_mnist, write(tmp_path / str(i), **{name: content}))
    packed = write(tmp_path / "cut") / "train-images-idx3-ubyte.gz"
    whole = packed.read_bytes()
    for damaged in (
        whole[:-9],
        whole[:4],
        b"text",
        whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
    ):
        packed.write_bytes(damaged)
        line = refusal(fashion_mnist, tmp_path / "cut")
        assert f"{packed} is not a readable file in MNIST's format" in line and line.endswith(
            "get it again"
        )


def test_fashion_mnist_that_is_not_installed_is_told_how_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "FASHION_FOLDER", str(write(tmp_path / "debian")))
    assert len(fashion_mnist().test.y) == 6
    for call in (lambda: fashion_mnist(tmp_path / "absent"), lambda: fashion_mnist(tmp_path)):
        line = refusal(call)
        assert (
            "apt-get install dataset-fashion-mnist" in line
            and "zalandoresearch/fashion-mnist" in line
        )
    assert "three counts from 1 to (18, 2, 6)" in refusal(fashion_mnist, limit=(19, 1, 1))
    assert "no split may be empty" in refusal(fashion_mnist, validation_fraction=0.0)


# Folders


def picture(seed, mode="RGB", size=(9, 6)):
    bands = len(PIL.Image.new(mode, (1, 1)).getbands())
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    return PIL.Image.frombytes(mode, size, levels.tobytes())


def tree(root, folders, count=10, first=0):
    """`count` distinct PNGs in every folder; {relative name: image}."""
    made = {}
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            name = f"{folder}/{i:02d}.png"
            made[name] = picture(first + 100 * number + i)
            made[name].save(root / name)
    return made


def on_white(image):
    """By hand: alpha times the colour and the rest white, rounded as 8 bits are."""
    rgba = np.asarray(image.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    if (alpha == 1).all():
        return image
    return PIL.Image.fromarray(np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


def wanted(image, mode="RGB", size=4):
    return np.asarray(
        image.convert(mode).resize((size, size), PIL.Image.Resampling.BILINEAR)
    ).reshape(size, size, -1)


def test_a_folder_of_classes_is_split_by_class(tmp_path):
    made = tree(tmp_path, ("dog", "ant", "cat"))
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "._00.png").write_text("of a file system")
    (tmp_path / ".cache").mkdir()
    data = image_folder(tmp_path, 4, validation_fraction=0.2, test_fraction=0.3, seed=1)
    names = sorted(made)
    y = np.array([("ant", "cat", "dog").index(name.split("/")[0]) for name in names])
    assert data.classes == ("ant", "cat", "dog") and data.name == f"folder-{tmp_path.name}"
    for part, rows in zip(parts(data), stratified_split(y, 0.2, 0.3, 1)):
        assert (part.x.dtype, part.y.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(part.x, [wanted(made[names[row]]) for row in rows])
        np.testing.assert_array_equal(part.y, y[rows])
    assert [len(part.y) for part in parts(data)] == [15, 6, 9]
    grey = image_folder(
        tmp_path,
        3,
        mode="L",
        validation_fraction=0.2,
        test_fraction=0.3,
        seed=1,
        limit=(2, None, 1),
    )
    assert [part.x.shape for part in parts(grey)] == [(2, 3, 3, 1), (6, 3, 3, 1), (1, 3, 3, 1)]
    row = stratified_split(y, 0.2, 0.3, 1)[0][0]
    np.testing.assert_array_equal(grey.train.x[0], wanted(made[names[row]], "L", 3))


def test_the_content_of_a_folder_is_what_its_hash_tells(tmp_path):
    tree(tmp_path / "one" / "x", ("a", "b"))
    tree(tmp_path / "two" / "x", ("a", "b"))
    first = image_folder(tmp_path / "one" / "x", 4, seed=0)
    assert image_folder(tmp_path / "two" / "x", 5, seed=3).sha256 == first.sha256
    assert image_folder(tmp_path / "one" / "x", 4, limit=(3, 1, 1)).sha256 != first.sha256
    (tmp_path / "two" / "x" / "a" / "00.png").rename(tmp_path / "two" / "x" / "a" / "99.png")
    renamed = image_folder(tmp_path / "two" / "x", 4)
    content = (tmp_path / "one" / "x" / "b" / "02.png").read_bytes()
    (tmp_path / "two" / "x" / "b" / "01.png").write_bytes(content)
    changed = image_folder(tmp_path / "two" / "x", 4)
    assert len({first.sha256, renamed.sha256, changed.sha256}) == 3
    assert "repeat" not in first.note and "1 files repeat others" in changed.note


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "validation", "test")])
def test_published_folders_keep_their_test_part(tmp_path, splits):
    made = {
        split: tree(tmp_path / split, ("a", "b"), count=5, first=1000 * i)
        for i, split in enumerate(splits)
    }
    data = image_folder(tmp_path, 4, validation_fraction=0.2, seed=4)
    rows = published_rows([10] * len(splits), 0.2, None, 4)
    of_part = splits if len(splits) == 3 else ("train", "train", "test")
    for part, split, chosen in zip(parts(data), of_part, rows):
        names = sorted(made[split])
        np.testing.assert_array_equal(part.x, [wanted(made[split][names[row]]) for row in chosen])
        np.testing.assert_array_equal(part.y, [names[row].startswith("b") for row in chosen])
    assert [len(part.y) for part in parts(data)] == (
        [8, 2, 10] if len(splits) == 2 else [10, 10, 10]
    )
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    assert "do not have the same classes: b, c in one only" in refusal(image_folder, tmp_path, 4)


def test_a_class_that_is_called_train_is_one_beside_others(tmp_path):
    tree(tmp_path, ("train", "plane"))
    assert image_folder(tmp_path, 4).classes == ("plane", "train")


@pytest.mark.filterwarnings("error")  # Pillow's, of a palette whose transparency is lost
def test_every_kind_of_image_is_turned_into_the_mode(tmp_path):
    kinds = {
        "grey.png": "L",
        "alpha.png": "RGBA",
        "grey_alpha.png": "LA",
        "ink.png": "1",
        "print.jpg": "CMYK",
        "a.bmp": "RGB",
        "b.JPEG": "RGB",
        "c.webp": "RGB",
    }
    tree(tmp_path, ("x", "y"))
    for file in (tmp_path / "x").iterdir():
        file.unlink()
    for i, (name, mode) in enumerate(kinds.items()):
        (picture(i).convert("1") if mode == "1" else picture(i, mode)).save(tmp_path / "x" / name)
    table = picture(20).convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=8)
    table.save(tmp_path / "x" / "table.png", transparency=bytes(range(0, 256, 32)))
    for mode in ("RGB", "L"):
        data = image_folder(tmp_path, 4, mode=mode, seed=0)
        seen = {
            image.tobytes()
            for part in parts(data)
            for image, label in zip(part.x, part.y)
            if label == 0
        }
        files = sorted((tmp_path / "x").iterdir())
        assert (
            seen == {wanted(on_white(PIL.Image.open(file)), mode).tobytes() for file in files}
            and len(seen) == 9
        )


def test_folders_without_two_classes_of_readable_images_are_refused(tmp_path):
    assert "there is no folder" in refusal(image_folder, tmp_path / "absent", 4)
    (tmp_path / "none").mkdir()
    assert "has 0 folders of classes, none; expected at least two" in refusal(
        image_folder, tmp_path / "none", 4
    )
    tree(tmp_path / "one", ("a",))
    assert "has 1 folders of classes, a;" in refusal(image_folder, tmp_path / "one", 4)
    (tmp_path / "one" / "b").mkdir()
    (tmp_path / "one" / "b" / "readme.txt").write_text("none here")
    line = refusal(image_folder, tmp_path / "one", 4)
    assert f"the class folder {tmp_path / 'one' / 'b'} has no image (.png, .jpg" in line
    tree(tmp_path / "few", ("a", "b"), count=2)
    assert "class a has 2 examples, too few" in refusal(image_folder, tmp_path / "few", 4)
    tree(tmp_path / "good", ("a", "b"))
    for size, mode in ((0, "RGB"), (4, "CMYK")):
        assert f"size is {size} and mode {mode!r}" in refusal(
            image_folder, tmp_path / "good", size, mode=mode
        )
    file = tmp_path / "good" / "a" / "03.png"
    whole = file.read_bytes()
    for damaged in (whole[:-30], b"", b"text", whole[:60] + b"zzzz" + whole[64:]):
        file.write_bytes(damaged)
        assert f"{file} is not a readable image" in refusal(image_folder, tmp_path / "good", 4)
    PIL.Image.fromarray(np.full((3, 3), 700, np.uint16)).save(file)
    assert f"{file} has levels of more than 8 bits (Pillow's mode I;16)" in refusal(
        image_folder, tmp_path / "good", 4
    )


def test_more_images_than_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    assert decoding.memory() > 2**28
    tree(tmp_path, ("a", "b"))
    monkeypatch.setattr(decoding, "memory", lambda: 16 * 4 * 4 * 3 - 1)
    assert "more than the memory's" in refusal(image_folder, tmp_path, 4)
    monkeypatch.setattr(decoding, "memory", lambda: 16 * 4 * 4 * 3)
    assert len(image_folder(tmp_path, 4).train.y) == 16


def test_a_missing_pillow_is_told(tmp_path, monkeypatch):
    tree(tmp_path, ("a", "b"))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert "pip install pillow" in refusal(image_folder, tmp_path, 4)


def test_a_hash_is_of_names_and_bytes(tmp_path):
    tree(tmp_path, ("a", "b"), count=3)
    files = sorted(tmp_path.rglob("*.png"))
    listed = [
        (file.relative_to(tmp_path).as_posix(), hashlib.sha256(file.read_bytes()).digest())
        for file in files
    ]
    data = image_folder(tmp_path, 2, validation_fraction=0.3, test_fraction=0.3)
    assert data.sha256 == hashlib.sha256(repr(listed).encode()).hexdigest()
