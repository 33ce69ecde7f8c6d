"""Token streams: nothing leaks between splits, nothing is lost in encoding, every target counts
once.
"""

import hashlib
import json
import platform
import random
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from theseus_jax.data import text as text_module
from theseus_jax.data.documents import share, split_documents
from theseus_jax.data.sources import Document, directory_files, stdlib_files, tfds_documents
from theseus_jax.data.text import load_corpus
from theseus_jax.data.tokens import ByteTokenizer, encoded, train_bpe
from theseus_jax.data.windows import evaluation_windows, windows
from theseus_jax.errors import UserError

SPLITS = ("train", "validation", "test")
STRINGS = [
    "",
    "plain",
    "def f(x):\n\treturn x\r\n",
    "größe — naïve 東京 🦊",
    "\x00\x7f\ufffd",
    "<|separator|> </s>",
    "  leading and trailing  \n\n",
]


def write_corpus(root: Path, count: int = 60) -> Path:
    rng = random.Random(0)
    words = [
        f"{a}{b}é" for a in ("ka", "lo", "mi", "tu", "zen") for b in ("ra", "po", "sing", "der")
    ]
    for index in range(count):
        path = root / f"part_{index % 4}" / f"file_{index:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            " ".join(rng.choices(words, k=20 + 7 * index)) + f"\nend of {index}\n", "utf-8"
        )
    return root


@pytest.fixture(scope="module")
def stdlib():
    return load_corpus()


@pytest.fixture
def folder(tmp_path):
    return write_corpus(tmp_path / "texts")


def load_folder(folder, **settings):
    return load_corpus(
        **{"source": "directory", "path": folder, "validation_fraction": 0.2, "test_fraction": 0.2}
        | settings
    )


def documents_of(corpus, split) -> dict[str, str]:
    """Name -> text, from the stream alone."""
    stream = getattr(corpus, split)
    starts = [
        index for index, token in enumerate(stream.tolist()) if token == corpus.tokenizer.separator
    ]
    assert starts[0] == 0 and len(starts) == len(corpus.names[split])
    ends = starts[1:] + [len(stream)]
    return {
        name: corpus.tokenizer.decode(stream[start + 1 : end])
        for name, start, end in zip(corpus.names[split], starts, ends)
    }


def refusal(call, *arguments, **settings) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message and ";" in message, message
    return message


# The standard library


def test_stdlib_streams_hold_the_files_of_disjoint_splits(stdlib):
    root = Path(sysconfig.get_path("stdlib"))
    by_split = {split: documents_of(stdlib, split) for split in SPLITS}
    texts, packages = [], []
    for split in SPLITS:
        for name, text in by_split[split].items():
            assert text == (root / name).read_text("utf-8", errors="ignore")
        texts.append(
            {hashlib.sha256(text.encode()).hexdigest() for text in by_split[split].values()}
        )
        packages.append({name.split("/")[0].removesuffix(".py") for name in by_split[split]})
        assert len(texts[-1]) == len(by_split[split])
    for sets in (texts, packages):
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_stdlib_shares_and_exclusions(stdlib):
    total = sum(stdlib.bytes.values())
    assert total > 8e6
    for split in ("validation", "test"):
        assert 0.02 < stdlib.bytes[split] / total < 0.04
        assert stdlib.documents[split] >= 9
    names = [name for split in SPLITS for name in stdlib.names[split]]
    assert "argparse.py" in names and "json/decoder.py" in names
    assert {"pydoc_data/topics.py", "html/entities.py"} <= set(stdlib.names["train"])
    for part in (
        "encodings/",
        "test/",
        "tests/",
        "site-packages",
        "idlelib/",
        "ensurepip/",
        "config-",
        "_sysconfigdata",
    ):
        assert not any(name.startswith(part) or f"/{part}" in name for name in names), part


def test_stdlib_files_are_sorted_and_unique():
    names = [document.name for document in stdlib_files()]
    assert names == sorted(set(names))


def test_provenance_is_plain_and_complete(stdlib):
    provenance = json.loads(json.dumps(stdlib.provenance()))
    assert set(provenance) == {
        "name",
        "sha256",
        "python",
        "tokenizer",
        "vocabulary",
        "documents",
        "tokens",
        "bytes",
        "words",
        "encoding",
        "passed_over",
    }
    assert (provenance["name"], provenance["tokenizer"], provenance["vocabulary"]) == (
        "stdlib",
        "bytes",
        257,
    )
    assert provenance["python"] == platform.python_version()
    for split in SPLITS:
        assert 5 < provenance["bytes"][split] / provenance["words"][split] < 20
        assert (
            provenance["tokens"][split]
            == provenance["bytes"][split] + provenance["documents"][split]
        )


def test_stdlib_inside_an_archive_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    assert 'source="directory"' in refusal(stdlib_files)


# Reading directories


def test_directory_is_read_recursively_by_relative_name(folder):
    (folder / "part_0" / "note.md").write_text("# note")
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9 tea")
    documents = directory_files(folder)
    names = [document.name for document in documents]
    assert len(names) == 61 and names == sorted(names) and "part_3/file_03.txt" in names
    assert {one.name: one.text for one in documents}["marked.txt"] == "café tea"
    assert [document.name for document in directory_files(folder, "*.md")] == ["part_0/note.md"]


def test_blank_and_repeated_documents_are_left_out(folder):
    before = load_folder(folder)
    (folder / "zz_blank.txt").write_text(" \n\t\n")
    text = (folder / "part_1" / "file_05.txt").read_text("utf-8")
    for index in range(30):
        (folder / f"zz_copy_{index}.txt").write_text(text, "utf-8")
    after = load_folder(folder)
    assert after.names == before.names and after.sha256 == before.sha256
    texts = [text for split in SPLITS for text in documents_of(after, split).values()]
    assert len(texts) == len(set(texts)) == 60


def test_sha256_is_of_names_and_texts(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.txt"), key=lambda path: path.relative_to(folder).as_posix()):
        for part in (path.relative_to(folder).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    first = load_folder(folder).sha256
    assert first == digest.hexdigest()
    path = folder / "part_0" / "file_00.txt"
    text = path.read_text("utf-8")
    path.write_text(text + "x", "utf-8")
    edited = load_folder(folder).sha256
    path.write_text(text, "utf-8")
    path.rename(folder / "part_0" / "file_99.txt")
    assert len({first, edited, load_folder(folder).sha256}) == 3


# Splits


def test_split_depends_on_the_name_alone():
    documents = [Document(f"name {index}", f"text {index}") for index in range(400)]
    more = [Document(f"other {index}", "other") for index in range(200)]
    few = split_documents(documents, str, 0.2, 0.2)
    edited = [Document(name, "edited") for name, *_ in reversed(documents)]
    many = split_documents(more + edited, str, 0.2, 0.2)
    for split in SPLITS:
        kept = {document.name for document in many[split] if document.name.startswith("name")}
        assert kept == {document.name for document in few[split]}


def test_split_fractions_are_probabilities():
    count = 20_000
    splits = split_documents([Document(str(index), "") for index in range(count)], str, 0.03, 0.1)
    for split, fraction in (("train", 0.87), ("validation", 0.03), ("test", 0.1)):
        deviation = 4 * np.sqrt(count * fraction * (1 - fraction))
        assert abs(len(splits[split]) - count * fraction) < deviation


def test_split_keeps_groups_together():
    documents = [Document(f"{index % 50}/{index}", "") for index in range(500)]
    splits = split_documents(documents, lambda name: name.split("/")[0], 0.2, 0.2)
    groups = [{document.name.split("/")[0] for document in splits[split]} for split in SPLITS]
    assert sum(map(len, groups)) == 50 == len(set.union(*groups))


# Tokenizers


@pytest.mark.parametrize("text", STRINGS)
@pytest.mark.parametrize("vocabulary", [0, 400])
def test_decode_inverts_encode(text, vocabulary):
    tokenizer = (
        train_bpe(["the theme of the thesis, größer 東京 " * 3, *STRINGS * 2], 300)
        if vocabulary
        else ByteTokenizer()
    )
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert np.all(ids >= 0) and np.all(ids < tokenizer.separator)
    assert tokenizer.decode(ids) == text
    assert (
        tokenizer.decode(np.concatenate([[tokenizer.separator], ids, [tokenizer.separator]]))
        == text
    )


def test_byte_ids_are_the_bytes():
    assert ByteTokenizer().encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert ByteTokenizer().decode(np.array([0x61, 0xC3])) == "a\ufffd"


def test_bpe_merges_the_most_frequent_pair():
    tokenizer = train_bpe(["abcab ab"], 258)
    a, b, c, space = (tokenizer.encode(letter).item() for letter in "abc ")
    assert len({a, b, c, space}) == 4
    assert tokenizer.encode("abcab ab").tolist() == [256, c, 256, space, 256]
    assert tokenizer.encode("ba").tolist() == [b, a]
    assert tokenizer.separator == 257


def test_ids_of_another_vocabulary_are_refused():
    bpe = train_bpe(["abcab ab"], 258)
    for tokenizer, bad in ((ByteTokenizer(), 257), (bpe, 258), (ByteTokenizer(), -1)):
        assert str(bad) in refusal(tokenizer.decode, np.array([65, bad]))


def test_bpe_is_trained_on_the_train_split_alone(folder):
    settings = {"tokenizer": "bpe", "vocabulary": 300}
    before = load_folder(folder, **settings)
    for split in ("test", "validation"):
        for name in before.names[split]:
            (folder / name).write_text(f"unseen syllables wuxwux {name} " * 200, "utf-8")
    after = load_folder(folder, **settings)
    assert after.tokenizer == before.tokenizer and np.array_equal(after.train, before.train)
    assert after.sha256 != before.sha256 and not np.array_equal(after.test, before.test)
    (folder / before.names["train"][0]).write_text("unseen syllables wuxwux " * 200, "utf-8")
    assert load_folder(folder, **settings).tokenizer != before.tokenizer


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_streams_hold_every_document_and_loading_repeats(folder, tokenizer):
    corpus, again = (load_folder(folder, tokenizer=tokenizer, vocabulary=320) for _ in range(2))
    on_disk = {document.name: document.text for document in directory_files(folder)}
    seen = {}
    for split in SPLITS:
        stream = getattr(corpus, split)
        assert (
            stream.dtype == np.uint16 and stream.ndim == 1 and stream.max() == corpus.vocabulary - 1
        )
        assert np.array_equal(stream, getattr(again, split))
        held = documents_of(corpus, split)
        assert corpus.bytes[split] == sum(len(text.encode()) for text in held.values())
        assert corpus.bytes_per_token[split] == corpus.bytes[split] / (len(stream) - 1)
        seen |= held
    assert seen == on_disk
    assert corpus.vocabulary == (257 if tokenizer == "bytes" else 320)
    assert corpus.provenance() == again.provenance()
    assert corpus.name == "directory:texts" and corpus.python == ""


def test_large_vocabularies_use_int32():
    class Wide(ByteTokenizer):
        pass

    def stream(vocabulary):
        return np.concatenate(list(encoded(Wide(vocabulary), [Document("a", "a")])))

    assert stream(65_536).dtype == np.uint16 and stream(65_536).tolist() == [65_535, 97]
    assert stream(65_537).dtype == np.int32 and stream(65_537).tolist() == [65_536, 97]


# Cache


def test_cache_is_read_back_and_a_damaged_one_is_rebuilt(folder, tmp_path, monkeypatch, capsys):
    settings = {"tokenizer": "bpe", "vocabulary": 300, "cache_dir": tmp_path / "new" / "cache"}
    plain = load_folder(folder, tokenizer="bpe", vocabulary=300)
    first = load_folder(folder, **settings)
    (file,) = (tmp_path / "new" / "cache").iterdir()
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            text_module, "train_bpe", lambda *arguments: pytest.fail("the cache was not used")
        )
        hit = load_folder(folder, **settings)
    assert capsys.readouterr().out == ""
    damages = [
        whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        for position in (0, 40, len(whole) // 2, len(whole) - 1)
    ]
    for damaged in [*damages, whole[:100], b""]:
        file.write_bytes(damaged)
        rebuilt = load_folder(folder, **settings)
        out = capsys.readouterr().out
        assert "damaged" in out and str(file) in out
        assert file.read_bytes() == whole and list(file.parent.iterdir()) == [file]
        for corpus in (first, hit, rebuilt):
            assert corpus.tokenizer == plain.tokenizer and corpus.provenance() == plain.provenance()
            assert all(
                np.array_equal(getattr(corpus, split), getattr(plain, split)) for split in SPLITS
            )
            assert corpus.train.dtype == np.uint16


def test_cache_is_not_shared_between_settings_or_contents(folder, tmp_path):
    cache = tmp_path / "cache"
    load_folder(folder, tokenizer="bpe", vocabulary=300, cache_dir=cache)
    assert load_folder(folder, tokenizer="bpe", vocabulary=301, cache_dir=cache).vocabulary == 301
    resplit = {"tokenizer": "bpe", "vocabulary": 300, "test_fraction": 0.4}
    cached = load_folder(folder, cache_dir=cache, **resplit)
    assert np.array_equal(cached.test, load_folder(folder, **resplit).test)
    (folder / "part_0" / "file_00.txt").write_text("something else", "utf-8")
    load_folder(folder, tokenizer="bpe", vocabulary=300, cache_dir=cache)
    assert len(list(cache.iterdir())) == 4


def test_cache_dir_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    message = refusal(
        load_folder, folder, tokenizer="bpe", vocabulary=300, cache_dir=tmp_path / "file"
    )
    assert "cache_dir" in message


# Share


@pytest.mark.parametrize("fraction", [0.03, 0.25, 0.5, 0.9])
def test_share_is_whole_train_documents(folder, fraction):
    corpus = load_folder(folder)
    stream = share(corpus, fraction)
    assert stream.dtype == corpus.train.dtype and stream[0] == corpus.tokenizer.separator
    assert np.array_equal(stream, share(load_folder(folder), fraction))
    texts = [
        corpus.tokenizer.decode(piece)
        for piece in np.split(stream, np.flatnonzero(stream == 256)[1:])
    ]
    train = documents_of(corpus, "train")
    order = [list(train.values()).index(text) for text in texts]
    assert order == sorted(set(order)) and 0 < len(order) < len(train)
    left_out = [
        len(text.encode()) + 1 for index, text in enumerate(train.values()) if index not in order
    ]
    shortfall = fraction * corpus.train.size - stream.size
    assert 0 <= shortfall < min(left_out)


def test_share_ends_and_seeds(folder):
    corpus = load_folder(folder)
    assert np.array_equal(share(corpus, 1.0), corpus.train)
    assert not np.array_equal(share(corpus, 0.3), share(corpus, 0.3, seed=1))
    for fraction in (0, -0.1, 1.01, float("nan")):
        assert "config.data.share" in refusal(share, corpus, fraction)
    assert "shortest" in refusal(share, corpus, 1e-4)


# Windows


@pytest.mark.parametrize(
    "length, context", [(9, 8), (17, 8), (18, 8), (24, 8), (25, 8), (10, 1), (2, 1), (101, 7)]
)
def test_windows_cover_each_target_once(length, context):
    stream = np.arange(100, 100 + length).astype(np.uint16)
    cut = windows(stream, context)
    assert cut.dtype == np.int32 and cut.shape == ((length - 1) // context, context + 1)
    for index, window in enumerate(cut):
        assert window.tolist() == stream[index * context : index * context + context + 1].tolist()
    padded, mask = evaluation_windows(stream, context)
    assert padded.dtype == np.int32 and mask.dtype == np.bool_
    count = int(np.ceil((length - 1) / context))
    assert padded.shape == (count, context + 1) and mask.shape == (count, context)
    assert np.array_equal(padded[: len(cut)], cut) and mask[: len(cut)].all()
    assert padded[:, 1:][mask].tolist() == stream[1:].tolist()
    assert padded[:, :-1][mask].tolist() == stream[:-1].tolist()
    assert not padded[:, 1:][~mask].any()


def test_windows_are_copies():
    stream = np.arange(10)
    windows(stream, 3)[:] = -1
    assert stream.tolist() == list(range(10))


@pytest.mark.parametrize("cut", [windows, evaluation_windows])
def test_short_streams_are_refused(cut):
    assert cut(np.arange(9), 8) is not None
    message = refusal(cut, np.arange(8), 8, "test")
    assert "test" in message and "8 tokens" in message and "needs 9" in message
    assert "context is 0" in refusal(cut, np.arange(8), 0)


# Mistakes


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"source": "web"}, "stdlib"),
        ({"tokenizer": "words"}, "bpe"),
        ({"path": ""}, "path is empty"),
        ({"path": "no/such/folder"}, "no/such/folder"),
        ({"pattern": "*.rst"}, "*.rst"),
        ({"pattern": ""}, "pattern"),
        ({"pattern": "/etc/*"}, "relative"),
        ({"dataset": "lm1b"}, "tfds"),
        ({"source": "stdlib"}, "does not read"),
        ({"source": "tfds", "path": ""}, "dataset is empty"),
        ({"tokenizer": "bpe", "vocabulary": 256}, "257"),
        ({"tokenizer": "bpe", "vocabulary": 50_000}, "at most"),
        ({"validation_fraction": 0.0}, "config.data.validation is 0"),
        ({"test_fraction": -0.1}, "config.data.test -0.1"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "below 1"),
        ({"validation_fraction": 1e-9}, "validation split got none"),
        ({"test_fraction": 1e-9}, "test split got none"),
        ({"validation_fraction": 0.5, "test_fraction": 0.4999999}, "train split got none"),
    ],
)
def test_mistakes_are_named(folder, settings, expected):
    assert expected in refusal(load_folder, folder, **settings)


def test_too_few_documents(tmp_path):
    assert "matches" in refusal(load_folder, tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(" \n")
    assert "empty" in refusal(load_folder, tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("one text" if name == "a" else "another")
    message = refusal(load_folder, tmp_path)
    assert "2 different documents" in message and "more files" in message


def test_missing_packages_are_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "pip install tokenizers" in refusal(load_folder, folder, tokenizer="bpe")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets" in refusal(load_corpus, source="tfds", dataset="lm1b")


# TensorFlow Datasets


def test_tfds_text_features_of_the_catalogue():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        documents = tfds_documents("lm1b", splits=("train", "test"))
        example = tfds.data_source("lm1b", split="train")[0]["text"]
        assert [document.name for document in documents][4:6] == ["train/00000004", "test/00000000"]
        assert len(documents) == 10 and documents[0].text == example and example.strip()
        assert "['description', 'title']" in refusal(tfds_documents, "ag_news_subset")
        assert len(tfds_documents("ag_news_subset", text_key="title")) == 5
        assert "no text feature" in refusal(tfds_documents, "mnist")
    assert "tensorflow" not in sys.modules


def test_tfds_reads_prepared_data_without_tensorflow(tmp_path):
    import tensorflow_datasets as tfds

    class PreparedNotes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {"id": tfds.features.Text(), "text": tfds.features.Text()}
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": ((i, {"id": str(i), "text": f"größe {i}"}) for i in range(80))}

        def _generate_examples(self):
            raise AssertionError

    PreparedNotes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    corpus = load_corpus(
        source="tfds",
        dataset="prepared_notes",
        path=tmp_path,
        validation_fraction=0.2,
        test_fraction=0.2,
    )
    texts = [text for split in SPLITS for text in documents_of(corpus, split).values()]
    assert sorted(texts) == sorted(f"größe {i}" for i in range(80))
    assert corpus.name == "tfds:prepared_notes"
    assert "'nowhere'" in refusal(tfds_documents, "prepared_notes", tmp_path, ("nowhere",))
    assert "tensorflow" not in sys.modules


def test_tfds_data_that_is_not_there(tmp_path):
    message = refusal(tfds_documents, "lm1b", tmp_path)
    assert f"tfds.data_source('lm1b', data_dir='{tmp_path}')" in message
    assert "catalog" in refusal(tfds_documents, "no_such_dataset_here", tmp_path)
