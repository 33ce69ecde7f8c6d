"""Documents of text to the splits of a corpus, and a share of those to train on."""

import collections
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theseus_jax.data.sources import LONGEST, Document
from theseus_jax.data.splits import SPELLINGS
from theseus_jax.errors import UserError

SPLITS = ("train", "validation", "test")
# Chosen from file sizes alone: with the default fractions each held-out split of the standard
# library of Python 3.11 to 3.13 gets 2.3 to 3.5 % of the bytes from 9 or more packages, none with
# over two fifths of the split, and the largest file (pydoc_data/topics.py) and the largest table
# (html/entities.py) go to train.
SPLIT_SALT = "9906"


class Measured(NamedTuple):
    """A document and what was counted of it. bytes: of its UTF-8; words: what white space parts;
    sha256: of the UTF-8. longest: characters of the longest piece.
    """

    document: Document
    bytes: int
    words: int
    sha256: bytes
    longest: int

    @property
    def name(self) -> str:
        """Of the document."""
        return self.document.name


def _measured(document: Document) -> Measured:
    summed, size, words, longest = hashlib.sha256(), 0, 0, 0
    for piece in document.pieces():
        content = piece.encode("utf-8")
        summed.update(content)
        size, words = size + len(content), words + len(piece.split())
        longest = max(longest, len(piece))
    return Measured(document, size, words, summed.digest(), longest)


def distinct(documents: Sequence[Document], passed: collections.Counter[str]) -> list[Measured]:
    """Those with words in them, each text once, under the first of its names; the others are
    counted in `passed`.
    """
    first_with_text: dict[bytes, Measured] = {}
    for one in map(_measured, documents):
        passed["blank"] += not one.words
        passed["repeats of others"] += bool(one.words) and one.sha256 in first_with_text
        if one.words:
            first_with_text.setdefault(one.sha256, one)
    return list(first_with_text.values())


def refuse_unbroken(documents: Sequence[Measured]) -> None:
    """Raises UserError for a text with a word of LONGEST."""
    for one in documents:
        if one.longest >= LONGEST:
            raise UserError(
                f"{one.name} has a line of {LONGEST:,} characters without a space, which no BPE can"
                ' bear; break it, or set data.tokenizer="bytes"'
            )


def digest(documents: Sequence[Measured]) -> str:
    """SHA-256 of names and texts, each after its length in bytes."""
    summed = hashlib.sha256()
    for one in documents:
        name = one.name.encode("utf-8")
        summed.update(len(name).to_bytes(8, "big") + name + one.bytes.to_bytes(8, "big"))
        for piece in one.document.pieces():
            summed.update(piece.encode("utf-8"))
    return summed.hexdigest()


def published(documents: Sequence[Document]) -> dict[str, list[Document]]:
    """Each file to the split that it is named after, where all are, as those of WikiText are
    (train.txt, wiki.valid.tokens, ...); {} elsewhere.
    """
    found: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document in documents:
        words = Path(document.name).name.lower().split(".")
        splits = [SPELLINGS[word] for word in words if word in SPELLINGS]
        if "/" in document.name or len(splits) != 1 or found[splits[0]]:
            return {}
        found[splits[0]].append(document)
    return found if all(found.values()) else {}


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
            f"config.data.validation is {validation_fraction} and config.data.test"
            f" {test_fraction}; expected both above 0 and their sum below 1; set for example 0.03"
            " and 0.03"
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
                "expected; split the text in more files, or change config.data.validation and "
                "config.data.test"
            )
    return splits


def share(corpus: Any, fraction: float, seed: int = 0) -> np.ndarray:
    """Token stream of whole train documents that make up about `fraction` of the train tokens.

    Of a train split that is one document its first tokens are taken. Of several, documents are
    taken in an order that depends only on `seed` and their names, skipping those that would exceed
    `fraction`: the result is never longer, and shorter by less than the shortest document left out.
    A small share therefore holds no very long document. Same dtype and document order as
    `corpus.train`.

    Raises UserError for a fraction outside (0, 1], or too small for any document.
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"config.data.share is {fraction}; expected above 0 and at most 1; set for example 0.1"
        )
    starts = np.flatnonzero(corpus.train == corpus.tokenizer.separator)
    pieces = np.split(corpus.train, starts[1:])
    names = corpus.names["train"]
    budget = int(fraction * corpus.train.size)
    if len(names) == 1:
        return corpus.train[:budget]
    chosen = []
    for index in sorted(range(len(names)), key=lambda i: _unit_interval(f"share {seed}", names[i])):
        if pieces[index].size <= budget:
            chosen.append(index)
            budget -= pieces[index].size
    if not chosen:
        shortest = min(piece.size for piece in pieces)
        raise UserError(
            f"config.data.share is {fraction}, {budget} tokens, but the shortest train document"
            f" has {shortest}; raise it, or split the text in more files"
        )
    return np.concatenate([pieces[index] for index in sorted(chosen)])


def package(name: str) -> str:
    """The top-level package of a module of the standard library."""
    return name.split("/")[0].removesuffix(".py")


def itself(name: str) -> str:
    """Every document alone."""
    return name


def _unit_interval(salt: str, name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:8], "big") / 2**64
