"""Text as token streams for language models: documents -> three splits -> tokens -> windows.

Loss in nats per token becomes bits per byte, comparable between tokenizers, through
`nats / log(2) / corpus.bytes_per_token[split]`.
"""

import collections
import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from theseus_jax.data import token_file
from theseus_jax.data.documents import (
    SPLITS,
    Measured,
    digest,
    distinct,
    itself,
    package,
    published,
    refuse_unbroken,
    split_documents,
)
from theseus_jax.data.sources import UTF8, Document, directory_files, stdlib_files, tfds_documents
from theseus_jax.data.tokens import (
    BpeTokenizer,
    ByteTokenizer,
    Tokenizer,
    encoded,
    folder_tokenizer,
    tokenizers_library,
    train_bpe,
    width_of,
)
from theseus_jax.errors import UserError
from theseus_jax.paths import local

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
      encoding: that the texts were read in. passed: files that were found and are not in it.
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
    encoding: str
    passed: dict[str, int]

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
            "encoding": self.encoding,
            "passed_over": dict(self.passed),
        }


def load_corpus(
    *,
    source: str = "stdlib",
    path: str | Path = "",
    pattern: str = "*.txt",
    encoding: str = UTF8,
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
        `pattern`) or "tfds" (the train split of `dataset`, prepared under `path` or TFDS's default,
        divided anew, so that results do not compare with those on its published test split).
      encoding: of the files of a directory; see `sources.directory_files`.
      text_key: see `sources.tfds_documents`.
      tokenizer: "bytes" (257 ids; `vocabulary` is not read), "bpe", trained on the train split
        only, or "guide", that of a model's `folder` (`tokens.folder_tokenizer`).
      validation_fraction, test_fraction: expected share of documents; see `split_documents`.
      cache_dir: where the streams lie in a file that is mapped, not read; None: in memory.

    Files are read in pieces. Blank documents are left out, and those whose text repeats that of one
    with an earlier name: no text is in two splits. In the standard library modules of one top-level
    package go to one split; elsewhere each document is drawn alone. A folder whose files are train,
    valid and test is split as it says. Raises UserError for unknown names, numbers out of range,
    and what sources and `split_documents` refuse.
    """
    passed: collections.Counter[str] = collections.Counter()
    read = _read(source, path, pattern, dataset, text_key, encoding, passed)
    documents = _fit(distinct(read, passed), tokenizer)
    group = package if source == "stdlib" else itself
    fractions = validation_fraction, test_fraction
    parted = published(documents) or split_documents(documents, group, *fractions)
    splits = {split: parted[split] for split in SPLITS}
    names = {split: tuple(one.name for one in splits[split]) for split in SPLITS}
    sha256 = digest(documents)
    known = folder_tokenizer(folder, vocabulary) if tokenizer == "guide" else None
    told = [sha256, _encoder_name(tokenizer, known), vocabulary, names]
    cache = None if cache_dir is None else local(cache_dir) / _cache_name(tokenizer, told)
    encoder, streams = _encoded(splits, tokenizer, vocabulary, known, cache)
    return Corpus(
        _called(source, path, dataset),
        sha256,
        platform.python_version() if source == "stdlib" else "",
        encoder,
        **streams,
        names=names,
        bytes={one: sum(text.bytes for text in splits[one]) for one in SPLITS},
        words={one: sum(text.words for text in splits[one]) for one in SPLITS},
        encoding=encoding,
        passed={kind: count for kind, count in passed.items() if count},
    )


def _fit(documents: list[Measured], tokenizer: str) -> list[Measured]:
    if tokenizer not in TOKENIZERS:
        raise UserError(
            f"tokenizer is {tokenizer!r}; expected one of {TOKENIZERS}; set it to one of them"
        )
    if tokenizer != "bytes":
        refuse_unbroken(documents)
    return documents


def _cache_name(tokenizer: str, settings: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    return f"{tokenizer}-{digest[:32]}.cache"


def _called(source: str, path: str | Path, dataset: str) -> str:
    inside = {"directory": f":{local(path).resolve().name}", "tfds": f":{dataset}"}
    return source + inside.get(source, "")


def _encoder_name(tokenizer: str, known: Tokenizer | None) -> str:
    """What the ids depend on besides texts and vocabulary."""
    if isinstance(known, BpeTokenizer):
        return f"{known.definition} {known.end}"
    return tokenizers_library().__version__ if tokenizer == "bpe" else ""


def _encoded(
    splits: dict[str, list[Measured]],
    tokenizer: str,
    vocabulary: int,
    known: Tokenizer | None,
    cache: Path | None,
) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """The tokenizer, trained where it is a BPE, and the streams of all splits; in the file `cache`,
    whose name tells all that they depend on, they are kept and read from.
    """
    documents = {split: [one.document for one in splits[split]] for split in SPLITS}
    if cache is not None and cache.exists():
        kept = token_file.read(cache)
        if kept:
            definition = kept.told.get("bpe")
            made = BpeTokenizer(definition, vocabulary) if definition else known or ByteTokenizer()
            return made, kept.arrays
        print(f"{cache} is damaged; building it again", flush=True)
    if known is None and tokenizer == "bytes":
        known = ByteTokenizer()
    if known is None:
        pieces = (piece for document in documents["train"] for piece in document.pieces())
        known = train_bpe(pieces, vocabulary)
    streams = {split: encoded(known, documents[split]) for split in SPLITS}
    if cache is None:
        return known, {split: np.concatenate(list(parts)) for split, parts in streams.items()}
    told = {"bpe": known.definition} if tokenizer == "bpe" else {}
    token_file.write(cache, told, width_of(known.vocabulary), streams)
    kept = token_file.read(cache)
    if not kept:
        raise UserError(f"{cache} reads otherwise than it was written; give another --workdir")
    return known, kept.arrays


def _read(
    source: str,
    path: str | Path,
    pattern: str,
    dataset: str,
    text_key: str,
    encoding: str,
    passed: collections.Counter[str],
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
    if source != "directory" and encoding != UTF8:
        raise UserError(
            f"encoding is {encoding!r}, which source={source!r} does not read; leave it {UTF8}"
        )
    if source == "stdlib":
        return stdlib_files()
    if source == "directory":
        return directory_files(path, pattern, encoding, passed)
    return tfds_documents(dataset, path, text_key=text_key)
