"""Folders of pictures as people have them: splits of any spelling, deep folders, other files,
photos on their side, logos on nothing, copies: used as meant, told, or refused.
"""

import os
import stat

import numpy as np
import pytest
from mistakes import refusal
from PIL import Image, ImageOps

from theseus_jax.data import decoding
from theseus_jax.data.image_folder import image_folder

RNG = np.random.default_rng(0)


def noise():
    return Image.fromarray(RNG.integers(0, 256, (12, 10, 3), np.uint8))


def fill(folder, count, suffix=".png", **how):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise().save(folder / f"{i:03d}{suffix}", **how)


def classes(root, count=9, names="ab"):
    for name in names:
        fill(root / name, count)


def every(data):
    return np.concatenate([part.x for part in (data.train, data.validation, data.test)])


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "TEST")])
def test_published_splits_are_found_by_any_of_their_names(tmp_path, names):
    for split, count in zip(names, (12, 5, 7)):
        classes(tmp_path / split, count)
    (tmp_path / "extra").mkdir()
    data = image_folder(tmp_path, 8)
    assert [len(part.y) for part in (data.train, data.validation, data.test)] == [24, 10, 14]
    assert "1 folder extra beside the splits" in data.note


@pytest.mark.parametrize(
    "names, words",
    [
        (("train", "val"), "none for test"),
        (("val", "test"), "none for train"),
        (("train", "val", "valid", "test"), "two of them of one kind"),
    ],
)
def test_splits_that_are_not_all_there_are_no_classes(tmp_path, names, words):
    for split in names:
        classes(tmp_path / split)
    line = refusal(image_folder, tmp_path, 8)
    assert words in line and "class folder" not in line


def test_images_by_split_without_classes_are_refused(tmp_path):
    classes(tmp_path, names=("train", "test"))
    assert "none of classes" in refusal(image_folder, tmp_path, 8)


def test_what_lies_deeper_is_read_and_what_is_no_image_is_counted(tmp_path):
    classes(tmp_path, 30)
    fill(tmp_path / "a" / "more" / "still", 40)
    fill(tmp_path / "a", 10, ".tif")
    fill(tmp_path / "b", 10, ".gif")
    fill(tmp_path / "b", 10, ".jfif", format="JPEG")
    (tmp_path / "b" / "notes.txt").write_text("none")
    (tmp_path / "b" / "._000.png").write_bytes(b"of a file system")
    (tmp_path / "b" / ".thumbs").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    fill(tmp_path, 1)
    data = image_folder(tmp_path, 8)
    assert len(every(data)) == 130
    told = data.note.partition("passed over: ")[2].split(", ")
    wanted = [
        "1 .txt files",
        "1 hidden files",
        "1 hidden folders",
        "1 images outside of the classes",
    ]
    assert sorted(told) == wanted


def test_photos_are_turned_upright_as_their_camera_says(tmp_path):
    classes(tmp_path)
    half = np.zeros((40, 40, 3), np.uint8)
    half[:20] = 255
    photo = Image.fromarray(np.rot90(half).copy())
    mark = photo.getexif()
    mark[0x0112] = 6
    photo.save(tmp_path / "a" / "photo.jpg", exif=mark, quality=100)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a" / "photo.jpg"))
    small = np.asarray(upright.resize((8, 8), Image.Resampling.BILINEAR))
    data = image_folder(tmp_path, 8)
    assert any((x == small).all() for x in every(data))
    assert "1 turned upright by their EXIF mark" in data.note


def test_a_logo_on_nothing_lies_on_white(tmp_path):
    classes(tmp_path)
    black = np.zeros((12, 12, 4), np.uint8)
    black[3:9, 3:9, 3] = 255
    Image.fromarray(black).save(tmp_path / "a" / "logo.png")
    data = image_folder(tmp_path, 12)
    wanted = np.full((12, 12, 3), 255, np.uint8)
    wanted[3:9, 3:9] = 0
    assert any((x == wanted).all() for x in every(data))
    assert "1 transparent, laid on white" in data.note


def test_copies_are_told_across_splits_and_refused_in_two_classes(tmp_path):
    same = noise()
    for split in ("train", "test"):
        classes(tmp_path / split)
        same.save(tmp_path / split / "a" / "same.png")
    assert "1 of them those of another split" in image_folder(tmp_path, 8).note
    same.save(tmp_path / "test" / "b" / "other.png")
    line = refusal(image_folder, tmp_path, 8)
    assert "one image in two classes" in line and "same.png" in line and "other.png" in line


def test_a_class_too_rare_to_split_is_named(tmp_path):
    fill(tmp_path / "common", 30)
    fill(tmp_path / "rare", 2)
    assert "class rare has 2 examples" in refusal(image_folder, tmp_path, 8)


def test_what_only_looks_like_an_image_is_named_without_reading_it(tmp_path):
    classes(tmp_path)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert stat.S_ISFIFO((tmp_path / "a" / "pipe.png").stat().st_mode)
    assert "pipe.png is a pipe or device" in refusal(image_folder, tmp_path, 8)
    (tmp_path / "a" / "pipe.png").unlink()
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    assert "gone.png is a link to nothing" in refusal(image_folder, tmp_path, 8)


def test_no_program_is_started_by_a_file_of_another_format(tmp_path, monkeypatch):
    classes(tmp_path)
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    root = tmp_path / "set"
    classes(root)
    (root / "a" / "page.png").write_bytes(head)
    line = refusal(image_folder, root, 8)
    assert "page.png is not a readable image: it is none of PNG, JPEG" in line
    assert "0x" not in line and not (tmp_path / "started").exists()


@pytest.mark.filterwarnings("error")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    classes(tmp_path)
    monkeypatch.setattr(decoding, "PIXELS", 119)
    assert "has 10 x 12 pixels, more than 119" in refusal(image_folder, tmp_path, 8)
    monkeypatch.setattr(decoding, "PIXELS", 120)
    assert len(every(image_folder(tmp_path, 8))) == 18
