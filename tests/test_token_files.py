"""Text of any size: read in pieces, tokenised once into a file, and trained on from it."""

import random
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from small_text import write_texts

from theseus_jax.data import sources, token_file
from theseus_jax.data.sources import Document
from theseus_jax.data.text import load_corpus
from theseus_jax.data.tokens import encoded, train_bpe
from theseus_jax.data.windows import views, windows
from theseus_jax.methods import convert
from theseus_jax.nets.stage import variable_shapes
from theseus_jax.objectives import CrossEntropy, Term
from theseus_jax.plan import Optimizer, Phase
from theseus_jax.train import State, fit
from theseus_jax.trees import bit_equal

PARTS = [
    "\x1c",
    "word",
    " word",
    "\n",
    "\n\n",
    "  ",
    " \n",
    "don't",
    "12",
    "!?",
    "é",
    "東",
    "\t",
    "_x",
    "𐌰",
]


def nasty(count, seed):
    draw = random.Random(seed)
    return "".join(draw.choice(PARTS) for _ in range(count))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pieces_are_the_text_and_end_where_no_token_or_word_goes_on(monkeypatch, size, tmp_path):
    monkeypatch.setattr(sources, "PIECE", size)
    text = nasty(3000, size)
    tokenizer = train_bpe([text], 330)
    (tmp_path / "a.txt").write_bytes(text.encode())
    for held in (text, tmp_path / "a.txt"):
        document = Document("a", held)
        pieces = list(document.pieces())
        assert len(pieces) > 5 and "".join(pieces) == text == document.text
        whole = tokenizer.encode(text)
        ids = np.concatenate(list(encoded(tokenizer, [document])))
        assert ids[0] == tokenizer.separator
        np.testing.assert_array_equal(ids[1:], whole)
        assert [word for piece in pieces for word in piece.split()] == text.split()


def test_a_text_without_a_place_to_cut_is_one_piece(monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 4)
    for text in ("abcdefghij", "\n" * 30, "  \n  \n  \n  \n"):
        assert list(Document("a", text).pieces()) == [text]
    assert list(Document("a", "").pieces()) == []


def test_line_ends_of_every_kind_are_read_as_one_kind(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert Document("a", tmp_path / "a.txt").text == "one\ntwo\nthree\n"


def test_a_file_is_never_held_whole(tmp_path):
    line = "the quick brown fox jumps over the lazy dog " * 4 + "\n"
    for i, name in enumerate(("train.txt", "valid.txt", "test.txt")):
        count = 40_000 if name == "train.txt" else 100
        (tmp_path / name).write_text(f"{i} " + line * count)
    size = (tmp_path / "train.txt").stat().st_size
    assert size > 7e6
    tracemalloc.start()
    corpus = load_corpus(source="directory", path=tmp_path, cache_dir=tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # GROUP pieces and their tokens: neither grows with the file
    assert peak < 40e6 and isinstance(corpus.train, np.memmap)
    assert corpus.train.size == size + 1 and corpus.bytes["train"] == size
    assert views(corpus.train, 64).base is not None and not views(corpus.train, 64).flags.owndata
    assert corpus.tokenizer.decode(corpus.train[:46]) == f"0 {line}"[:45]


def test_a_file_of_streams_holds_what_was_written(tmp_path):
    path = tmp_path / "new" / "a.cache"
    parts = {"x": [np.arange(5), np.arange(3)], "y": [], "z": [np.asarray([65535])]}
    token_file.write(path, {"bpe": "é"}, np.uint16, parts)
    told, arrays = token_file.read(path)
    assert told == {"bpe": "é"} and list(arrays) == ["x", "y", "z"]
    for name, wanted in parts.items():
        assert arrays[name].dtype == np.uint16 and arrays[name].tolist() == [
            number for part in wanted for number in part
        ]
    assert [file.name for file in path.parent.iterdir()] == ["a.cache"]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_cached_corpus_is_the_one_in_memory(tmp_path, tokenizer):
    texts = write_texts(tmp_path, 30)
    given = {"source": "directory", "path": texts, "tokenizer": tokenizer, "vocabulary": 300}
    given |= {"validation_fraction": 0.2, "test_fraction": 0.3}
    plain = load_corpus(**given)
    for _ in range(2):  # written, then found
        kept = load_corpus(**given, cache_dir=tmp_path / "cache")
        assert kept.provenance() == plain.provenance() and kept.tokenizer == plain.tokenizer
        for split in ("train", "validation", "test"):
            one = getattr(kept, split)
            assert isinstance(one, np.memmap) and bit_equal(np.asarray(one), getattr(plain, split))


def test_windows_in_a_file_train_as_windows_in_memory_do(tmp_path):
    tokens = np.random.default_rng(0).integers(0, tiny.VOCABULARY, 1300).astype(np.uint16)
    tokens.tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint16, mode="r")
    net = tiny.guide()
    shapes = variable_shapes(net, jax.ShapeDtypeStruct((1, tiny.CONTEXT), jnp.int32))
    phase = Phase(
        "train",
        net,
        convert.whole(net, shapes),
        (Term("cross_entropy", 1.0, CrossEntropy()),),
        17,
        optimizer=Optimizer(1e-2),
    )
    keys = jax.random.split(jax.random.key(1), 2)
    fresh = tiny.fresh(net)
    given = {
        "file": views(mapped, tiny.CONTEXT),
        "memory": jnp.asarray(windows(tokens, tiny.CONTEXT)),
    }
    assert isinstance(given["file"], np.memmap)
    done = {
        name: fit((phase,), State(0, fresh, {}, None, keys), examples, batch=4, chunk_steps=5)
        for name, examples in given.items()
    }
    assert bit_equal(done["file"].variables, done["memory"].variables)
    assert not bit_equal(done["file"].variables, fresh)
