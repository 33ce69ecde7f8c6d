"""Folders of text as people have them: in any encoding, with marks, hidden copies, what is no text
and lines without an end: read as meant and counted, or refused by file and place.
"""

import codecs
import os

import numpy as np
import pytest
from mistakes import refusal

from theseus_jax.data.sources import LONGEST, Document, directory_files
from theseus_jax.data.text import load_corpus

TEXT = "naïve café, déjà vu. " * 20


def folder(path, encoding="utf-8", count=60):
    for i in range(count):
        (path / f"{i:03d}.txt").write_bytes(f"Grüße {i}: {TEXT}".encode(encoding))
    return path


def read(path, **given):
    given = {"validation_fraction": 0.1, "test_fraction": 0.1, **given}
    return load_corpus(source="directory", path=path, **given)


def decoded(corpus, split="train"):
    ids = getattr(corpus, split)
    return corpus.tokenizer.decode(ids[ids != corpus.tokenizer.separator])


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig", "utf-32"])
def test_a_declared_encoding_gives_the_text_that_utf8_gives(tmp_path, encoding):
    for name in ("plain", "coded"):
        (tmp_path / name).mkdir()
    plain = read(folder(tmp_path / "plain"))
    coded = read(folder(tmp_path / "coded", encoding), encoding=encoding)
    assert decoded(coded) == decoded(plain) and coded.sha256 == plain.sha256
    assert coded.provenance()["encoding"] == encoding


def test_a_mark_before_utf8_is_no_text(tmp_path):
    assert "\ufeff" not in decoded(read(folder(tmp_path, "utf-8-sig")))


@pytest.mark.parametrize(
    "encoding, words",
    [
        ("latin-1", "000.txt is not utf-8: byte 2 is 0xfc; set data.encoding to its own, such as"),
        ("utf-16", "000.txt is not utf-8: byte 0 is 0xff; set data.encoding to its own, such as"),
        ("utf-16-le", "000.txt is not utf-8: byte 4 is 0xfc"),
    ],
)
def test_another_encoding_is_refused_by_file_and_byte(tmp_path, encoding, words):
    assert words in refusal(read, folder(tmp_path, encoding))


def test_utf16_without_a_mark_of_plain_letters_is_seen_by_its_nuls(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_bytes("plain".encode("utf-16-le"))
    assert "0.txt has NULs" in refusal(read, tmp_path)


@pytest.mark.parametrize("encoding", ["no-such", "rot13", "base64"])
def test_an_encoding_that_is_none_is_refused(tmp_path, encoding):
    assert "data.encoding is" in refusal(read, folder(tmp_path), encoding=encoding)
    assert "leave it utf-8" in refusal(load_corpus, source="stdlib", encoding=encoding)


def test_hidden_copies_blank_and_repeated_texts_are_passed_over_and_counted(tmp_path):
    folder(tmp_path)
    (tmp_path / "._000.txt").write_bytes(b"\0\5\26\7" * 50)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "000-checkpoint.txt").write_text("copy " * 99)
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "copy.txt").write_bytes((tmp_path / "000.txt").read_bytes())
    corpus = read(tmp_path)
    assert sum(corpus.documents.values()) == 60
    wanted = {"hidden files": 2, "blank": 1, "repeats of others": 1}
    assert corpus.provenance()["passed_over"] == wanted


def test_a_binary_file_called_txt_is_refused(tmp_path):
    folder(tmp_path, count=20)
    noise = np.random.default_rng(0).integers(128, 256, 4000, np.uint8)
    (tmp_path / "zz.txt").write_bytes(bytes(noise))
    assert "zz.txt is not utf-8" in refusal(read, tmp_path)


def test_a_pipe_and_a_link_to_nothing_are_refused_without_reading(tmp_path):
    folder(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    assert "pipe.txt is a pipe or device" in refusal(read, tmp_path)
    (tmp_path / "pipe.txt").unlink()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    assert "gone.txt is a link to nothing" in refusal(read, tmp_path)


def test_a_line_without_an_end_is_for_bytes_alone(tmp_path):
    folder(tmp_path)
    line = "ab" * (LONGEST // 2 + 7)
    (tmp_path / "line.txt").write_text(line)
    assert "line.txt has a line of 1,048,576 characters" in refusal(read, tmp_path, tokenizer="bpe")
    corpus = read(tmp_path)
    split = next(split for split, names in corpus.names.items() if "line.txt" in names)
    assert line in decoded(corpus, split)
    pieces = list(Document("line", line).pieces())
    assert [len(piece) for piece in pieces] == [LONGEST, 14] and "".join(pieces) == line


def test_a_byte_that_utf16_does_not_allow_is_refused(tmp_path):
    folder(tmp_path, "utf-16")
    (tmp_path / "007.txt").write_bytes(codecs.BOM_UTF16_LE + b"a\0\x00\xd8")
    assert "007.txt is not utf-16" in refusal(read, tmp_path, encoding="utf-16")
    assert len(directory_files(tmp_path, "00[0-6].txt", "utf-16")) == 7
