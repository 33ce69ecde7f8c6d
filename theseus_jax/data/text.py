"""Text as token streams for language models: documents -> three splits -> tokens -> windows.

Loss in nats per token becomes bits per byte, comparable between tokenizers, through
`nats / log(2) / corpus.bytes_per_token[split]`.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from theseus_jax.data.documents import SPLITS, itself, package, published, split_documents
from theseus_jax.data.sources import Document, directory_files, stdlib_files, tfds_documents
from theseus_jax.data.tokens import (
    ByteTokenizer,
    Tokenizer,
    cached_bpe_streams,
    encode_documents,
    folder_tokenizer,
    tokenizers_library,
    train_bpe,
)
from theseus_jax.errors import UserError

SOURCES = ("stdlib", "directory", "tfds")
TOKENIZERS = ("bytes", "bpe", "guide")


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
    folder: str | Path = "",
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
      tokenizer: "bytes" (257 ids; `vocabulary` is not read), "bpe", trained on the train split
        only, or "guide", that of a model's `folder` (`tokens.folder_tokenizer`).
      validation_fraction, test_fraction: expected share of documents; see `split_documents`.
      cache_dir: where the BPE tokenizer and its streams are kept; None for nowhere. Bytes need no
        cache.

    Blank documents are left out, and so is every document whose text repeats, to the letter, that
    of one with an earlier name: no text is in two splits. In the standard library all modules of
    one top-level package go to the same split, since they share helpers, licences and idioms;
    elsewhere each document is drawn alone. A folder whose files are train, valid and test is split
    as it says.

    Raises UserError for unknown names, numbers out of range, and what sources and `split_documents`
    refuse.
    """
    if tokenizer not in TOKENIZERS:
        raise UserError(
            f"tokenizer is {tokenizer!r}; expected one of {TOKENIZERS}; set it to one of them"
        )
    documents = _distinct(_read(source, path, pattern, dataset, text_key))
    group = package if source == "stdlib" else itself
    fractions = validation_fraction, test_fraction
    splits = published(documents) or split_documents(documents, group, *fractions)
    names = {split: tuple(document.name for document in splits[split]) for split in SPLITS}
    texts = {split: [document.text for document in splits[split]] for split in SPLITS}
    sha256 = _digest(part for document in documents for part in document)
    known = folder_tokenizer(folder, vocabulary) if tokenizer == "guide" else None
    encoder, streams = _encoded(texts, tokenizer, vocabulary, cache_dir, sha256, names, known)
    return Corpus(
        _called(source, path, dataset),
        sha256,
        platform.python_version() if source == "stdlib" else "",
        encoder,
        **streams,
        names=names,
        bytes={one: sum(len(text.encode("utf-8")) for text in texts[one]) for one in SPLITS},
        words={one: sum(len(text.split()) for text in texts[one]) for one in SPLITS},
    )


def _called(source: str, path: str | Path, dataset: str) -> str:
    inside = {"directory": f":{Path(path).expanduser().resolve().name}", "tfds": f":{dataset}"}
    return source + inside.get(source, "")


def _encoded(
    texts: dict[str, list[str]],
    tokenizer: str,
    vocabulary: int,
    cache_dir: str | Path | None,
    sha256: str,
    names: dict[str, tuple[str, ...]],
    known: Tokenizer | None,
) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """The tokenizer, trained where it is a BPE, and the streams of all splits."""
    if tokenizer == "bpe" and cache_dir is not None:
        settings = json.dumps([tokenizers_library().__version__, vocabulary, names])
        cache = Path(cache_dir).expanduser() / f"bpe-{_digest([sha256, settings])[:32]}.cache"
        return cached_bpe_streams(cache, texts, vocabulary)
    if known is None:
        known = ByteTokenizer() if tokenizer == "bytes" else train_bpe(texts["train"], vocabulary)
    return known, {split: encode_documents(known, texts[split]) for split in SPLITS}


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


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
