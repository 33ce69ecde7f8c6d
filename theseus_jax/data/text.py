"""Text as token streams for language models: documents -> three splits -> tokens -> windows.

Loss in nats per token becomes bits per byte, comparable between tokenizers, through
`nats / log(2) / corpus.bytes_per_token[split]`.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from theseus_jax.data.sources import Document, directory_files, stdlib_files, tfds_documents
from theseus_jax.data.tokens import (
    ByteTokenizer,
    Tokenizer,
    cached_bpe_streams,
    encode_documents,
    tokenizers_library,
    train_bpe,
)
from theseus_jax.errors import UserError

SPLITS = ("train", "validation", "test")
SOURCES = ("stdlib", "directory", "tfds")
TOKENIZERS = ("bytes", "bpe")
# Chosen from file sizes alone: with the default fractions each held-out split of the standard
# library of Python 3.11 to 3.13 gets 2.3 to 3.5 % of the bytes from 9 or more packages, none with
# over two fifths of the split, and the largest file (pydoc_data/topics.py) and the largest table
# (html/entities.py) go to train.
SPLIT_SALT = "9906"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token streams of three disjoint sets of documents, and where they came from.

    Attributes:
      name: "stdlib", "directory:FOLDER" or "tfds:NAME". sha256: of the names and texts of the
        documents in it.
      python: version of the interpreter whose standard library was read; "" for other sources.
      tokenizer: encodes and decodes.
      train, validation, test: (T,) uint16, or int32 for vocabularies above 65536. Every document is
        one separator followed by its tokens, in the order of `names`.
      names: for each split the names of its documents.
      bytes, words: for each split the UTF-8 bytes of its documents, and what white space parts.
    """

    name: str
    sha256: str
    python: str
    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    names: dict[str, tuple[str, ...]]
    bytes: dict[str, int]
    words: dict[str, int]

    @property
    def vocabulary(self) -> int:
        """Number of token ids, the separator included."""
        return self.tokenizer.vocabulary

    @property
    def documents(self) -> dict[str, int]:
        """For each split the number of its documents."""
        return {split: len(self.names[split]) for split in SPLITS}

    @property
    def tokens(self) -> dict[str, int]:
        """For each split the length of its stream, one separator per document included."""
        return {split: getattr(self, split).size for split in SPLITS}

    @property
    def bytes_per_token(self) -> dict[str, float]:
        """For each split the bytes of text per predicted token, which is every token but the
        stream's first.

        Separators are predicted too and hold no bytes: knowing where a document ends is part of the
        cost.
        """
        return {split: self.bytes[split] / (self.tokens[split] - 1) for split in SPLITS}

    def provenance(self) -> dict:
        """Where the streams came from and their sizes, as plain values that go into JSON."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "python": self.python,
            "tokenizer": self.tokenizer.name,
            "vocabulary": self.vocabulary,
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": dict(self.bytes),
            "words": dict(self.words),
        }


def load_corpus(
    *,
    source: str = "stdlib",
    path: str | Path = "",
    pattern: str = "*.txt",
    dataset: str = "",
    text_key: str = "",
    tokenizer: str = "bytes",
    vocabulary: int = 1024,
    validation_fraction: float = 0.03,
    test_fraction: float = 0.03,
    cache_dir: str | Path | None = None,
) -> Corpus:
    """Read, split and encode a corpus; the same arguments and files always give the same arrays.

    Args:
      source: "stdlib" (this Python's own source), "directory" (files under `path` that match
        `pattern`) or "tfds" (the train split of `dataset`, prepared under `path` or TFDS's default;
        that split is divided anew, so results do not compare with ones on the data set's published
        test split).
      text_key: see `sources.tfds_documents`.
      tokenizer: "bytes" (257 ids; `vocabulary` is not read) or "bpe", trained on the train split
        only.
      validation_fraction, test_fraction: expected share of documents; see `split_documents`.
      cache_dir: where the BPE tokenizer and its streams are kept; None for nowhere. Bytes need no
        cache.

    Blank documents are left out, and so is every document whose text repeats, to the letter, that
    of one with an earlier name: no text is in two splits. In the standard library all modules of
    one top-level package go to the same split, since they share helpers, licences and idioms;
    elsewhere each document is drawn alone.

    Raises UserError for unknown names, numbers out of range, and what sources and `split_documents`
    refuse.
    """
    if tokenizer not in TOKENIZERS:
        raise UserError(
            f"tokenizer is {tokenizer!r}; expected one of {TOKENIZERS}; set it to one of them"
        )
    documents = _distinct(_read(source, path, pattern, dataset, text_key))
    splits = split_documents(
        documents, _package if source == "stdlib" else _itself, validation_fraction, test_fraction
    )
    names = {split: tuple(document.name for document in splits[split]) for split in SPLITS}
    texts = {split: [document.text for document in splits[split]] for split in SPLITS}
    sha256 = _digest(part for document in documents for part in document)
    encoder, streams = _encoded(texts, tokenizer, vocabulary, cache_dir, sha256, names)
    inside = {"directory": f":{Path(path).expanduser().resolve().name}", "tfds": f":{dataset}"}
    return Corpus(
        source + inside.get(source, ""),
        sha256,
        platform.python_version() if source == "stdlib" else "",
        encoder,
        streams["train"],
        streams["validation"],
        streams["test"],
        names,
        {split: sum(len(text.encode("utf-8")) for text in texts[split]) for split in SPLITS},
        {split: sum(len(text.split()) for text in texts[split]) for split in SPLITS},
    )


def _encoded(
    texts: dict[str, list[str]],
    tokenizer: str,
    vocabulary: int,
    cache_dir: str | Path | None,
    sha256: str,
    names: dict[str, tuple[str, ...]],
) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """The tokenizer, trained where it is a BPE, and the streams of all splits."""
    if tokenizer == "bpe" and cache_dir is not None:
        settings = json.dumps([tokenizers_library().__version__, vocabulary, names])
        cache = Path(cache_dir).expanduser() / f"bpe-{_digest([sha256, settings])[:32]}.cache"
        return cached_bpe_streams(cache, texts, vocabulary)
    encoder = ByteTokenizer() if tokenizer == "bytes" else train_bpe(texts["train"], vocabulary)
    return encoder, {split: encode_documents(encoder, texts[split]) for split in SPLITS}


def split_documents(
    documents: Sequence[Document],
    group: Callable[[str], str],
    validation_fraction: float,
    test_fraction: float,
) -> dict[str, list[Document]]:
    """Each document to "train", "validation" or "test" by a hash of `group(name)` alone.

    Adding, removing or editing other documents moves none. The fractions are probabilities, so a
    corpus of few or uneven documents gets other shares of bytes: `Corpus.provenance` says which.

    Raises UserError for fractions that are not above 0 with a sum below 1, fewer than 3 documents,
    or a split that got none.
    """
    if not (
        validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1
    ):
        raise UserError(
            f"validation_fraction is {validation_fraction} and test_fraction {test_fraction}; "
            "expected both above 0 and their sum below 1; set for example 0.03 and 0.03"
        )
    if len(documents) < 3:
        raise UserError(
            f"the corpus has {len(documents)} different documents; at least 3 were expected, one "
            "per split; split the text in more files"
        )
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document in documents:
        draw = _unit_interval(SPLIT_SALT, group(document.name))
        held_out = "validation" if draw < test_fraction + validation_fraction else "train"
        splits["test" if draw < test_fraction else held_out].append(document)
    for split in SPLITS:
        if not splits[split]:
            raise UserError(
                f"the {split} split got none of the {len(documents)} documents; at least one was "
                "expected; split the text in more files, or change validation_fraction and "
                "test_fraction"
            )
    return splits


def share(corpus: Corpus, fraction: float, seed: int = 0) -> np.ndarray:
    """Token stream of whole train documents that make up about `fraction` of the train tokens.

    Documents are taken in an order that depends only on `seed` and their names, skipping those that
    would exceed `fraction`: the result is never longer, and shorter by less than the shortest
    document left out. A small share therefore holds no very long document. Same dtype and document
    order as `corpus.train`.

    Raises UserError for a fraction outside (0, 1], or too small for any document.
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"share fraction is {fraction}; expected above 0 and at most 1; set for example 0.1"
        )
    starts = np.flatnonzero(corpus.train == corpus.tokenizer.separator)
    pieces = np.split(corpus.train, starts[1:])
    names = corpus.names["train"]
    budget = int(fraction * corpus.train.size)
    chosen = []
    for index in sorted(range(len(names)), key=lambda i: _unit_interval(f"share {seed}", names[i])):
        if pieces[index].size <= budget:
            chosen.append(index)
            budget -= pieces[index].size
    if not chosen:
        shortest = min(piece.size for piece in pieces)
        raise UserError(
            f"share fraction is {fraction}, {budget} tokens, but the shortest train document has "
            f"{shortest}; raise the fraction, or split the text in more files"
        )
    return np.concatenate([pieces[index] for index in sorted(chosen)])


def _read(
    source: str, path: str | Path, pattern: str, dataset: str, text_key: str
) -> list[Document]:
    if source not in SOURCES:
        raise UserError(f"source is {source!r}; expected one of {SOURCES}; set it to one of them")
    if source == "stdlib" and str(path):
        raise UserError(
            f'path is {str(path)!r}, which source="stdlib" does not read; set source="directory"'
        )
    if source != "tfds" and dataset:
        raise UserError(
            f'dataset is {dataset!r}, which source={source!r} does not read; set source="tfds"'
        )
    if source == "stdlib":
        return stdlib_files()
    if source == "directory":
        return directory_files(path, pattern)
    return tfds_documents(dataset, path, text_key=text_key)


def _distinct(documents: Sequence[Document]) -> list[Document]:
    first_with_text: dict[str, Document] = {}
    for document in documents:
        if document.text.strip():
            first_with_text.setdefault(document.text, document)
    return list(first_with_text.values())


def _package(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def _itself(name: str) -> str:
    return name


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _unit_interval(salt: str, name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:8], "big") / 2**64
