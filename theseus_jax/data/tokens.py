"""Text to token ids and back: plain bytes, byte-pair encoding trained on the texts at hand, or the
tokenizer of a model's folder.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from theseus_jax.data.sources import Document
from theseus_jax.errors import UserError
from theseus_jax.paths import local


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per UTF-8 byte, and the separator 256."""

    vocabulary: int = 257
    name: str = "bytes"

    @property
    def separator(self) -> int:
        """Id of the token before every document; no text encodes to it."""
        return self.vocabulary - 1

    def encode(self, text: str) -> np.ndarray:
        """Token ids, (T,) int32 in [0, 256)."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        """The text of `ids` (T,), separators dropped; bytes that are not UTF-8 become U+FFFD.

        Raises UserError for ids outside [0, vocabulary).
        """
        kept = _text_ids(ids, self.vocabulary, self.separator)
        return bytes(kept.tolist()).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class BpeTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as base units: Radford et al.
    2019).

    `definition` is the JSON of a `tokenizers.Tokenizer`. end: the separator; -1: the last id,
    unknown to that tokenizer, so that no text can spell it.
    """

    definition: str
    vocabulary: int
    name: str = "bpe"
    end: int = -1

    @property
    def separator(self) -> int:
        """Id of the token before every document."""
        return self.end % self.vocabulary

    @functools.cached_property
    def _tokenizer(self):
        return tokenizers_library().Tokenizer.from_str(self.definition)

    def encode(self, text: str) -> np.ndarray:
        """Token ids, (T,) int32 in [0, vocabulary - 1)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, on several threads."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: np.ndarray) -> str:
        """The text of `ids` (T,), separators dropped; bytes that are not UTF-8 become U+FFFD.

        Raises UserError for ids outside [0, vocabulary).
        """
        kept = _text_ids(ids, self.vocabulary, self.separator)
        return self._tokenizer.decode(kept.tolist(), skip_special_tokens=False)


Tokenizer = ByteTokenizer | BpeTokenizer


def train_bpe(texts: Iterable[str], vocabulary: int) -> BpeTokenizer:
    """Byte-pair encoding of exactly `vocabulary` ids: 256 bytes, merges learned from `texts`, the
    separator.

    Raises UserError for a vocabulary below 257, or one that the texts have too few repeated pairs
    for.
    """
    if vocabulary < 257:
        raise UserError(
            f"vocabulary is {vocabulary}; bpe needs 256 bytes and a separator; set at least 257"
        )
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        library.trainers.BpeTrainer(
            vocab_size=vocabulary - 1,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    learned = tokenizer.get_vocab_size() + 1
    if learned != vocabulary:
        raise UserError(
            f"vocabulary is {vocabulary}, but the train split has text for {learned} only; "
            f"set vocabulary to at most {learned}, or give more text"
        )
    return BpeTokenizer(tokenizer.to_str(), vocabulary)


PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # of byte-level BPE
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>")


def folder_tokenizer(folder: str | Path, vocabulary: int) -> BpeTokenizer:
    """The tokenizer in a model's folder, tokenizer.json or a file of PAIRS, for `vocabulary` ids.

    The separator is the token that config.json calls eos, or else the first of ENDS. Raises
    UserError for a folder without a tokenizer, a tokenizer with ids that the network does not know,
    and for one without an end of text.
    """
    root, library = local(folder), tokenizers_library()
    root = root if root.is_dir() else root.parent
    pairs = [pair for pair in PAIRS if all((root / name).is_file() for name in pair)]
    try:
        if (root / "tokenizer.json").is_file():
            made = library.Tokenizer.from_file(str(root / "tokenizer.json"))
        elif pairs:
            vocab, merges = (str(root / name) for name in pairs[0])
            made = library.Tokenizer(library.models.BPE.from_file(vocab, merges))
            made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = library.decoders.ByteLevel()
            made.add_special_tokens([end for end in ENDS if made.token_to_id(end) is not None])
        else:
            wanted = " or ".join(["tokenizer.json", *(" and ".join(pair) for pair in PAIRS)])
            raise UserError(f"the folder {root} has no tokenizer; it needs {wanted}")
    except UserError:
        raise
    except Exception as error:  # the library raises its own bare exception for what it cannot read
        told = " ".join(str(error).split())[:200]
        raise UserError(
            f"the tokenizer in {root} cannot be read ({told}); save it again with save_pretrained"
        ) from error
    largest = max(made.get_vocab(with_added_tokens=True).values())
    if largest >= vocabulary:
        raise UserError(
            f"the tokenizer in {root} has ids up to {largest} and the network knows {vocabulary}"
            " tokens; give the tokenizer that the network was trained with"
        )
    return BpeTokenizer(made.to_str(), vocabulary, "guide", _end(root, made, vocabulary))


def _end(root: Path, made: Any, vocabulary: int) -> int:
    file = root / "config.json"
    named = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.is_file() else None
    ends = [named, *(made.token_to_id(end) for end in ENDS)]
    ends = [end for end in ends if isinstance(end, int) and 0 <= end < vocabulary]
    if not ends:
        raise UserError(
            f"the tokenizer in {root} has no token for the end of a text; name one as eos_token_id"
            " in config.json"
        )
    return ends[0]


GROUP = 16  # pieces that are encoded at a time: enough for every thread, little enough to hold


def encoded(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[np.ndarray]:
    """Every document as one separator and the tokens of its pieces, in arrays of `width_of`."""
    dtype = width_of(tokenizer.vocabulary)
    separator = np.asarray([tokenizer.separator], dtype)
    pieces = (
        (i == 0, piece) for document in documents for i, piece in enumerate(document.pieces())
    )
    while group := list(itertools.islice(pieces, GROUP)):
        ids = tokenizer.encode_batch([piece for _, piece in group])
        for (first, _), one in zip(group, ids):
            yield from ([separator] if first else [])
            yield one.astype(dtype)


def width_of(vocabulary: int) -> type:
    """uint16, or int32 above 65536 ids."""
    return np.uint16 if vocabulary <= 65536 else np.int32


def tokenizers_library() -> ModuleType:
    """The `tokenizers` package, or a UserError that says how to get it."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            'tokenizer="bpe" needs the package tokenizers; pip install tokenizers, '
            'or set tokenizer="bytes"'
        ) from error
    return tokenizers


def _text_ids(ids: np.ndarray, vocabulary: int, separator: int) -> np.ndarray:
    ids = np.asarray(ids, np.int64)
    if ids.size and not (0 <= ids.min() and ids.max() < vocabulary):
        raise UserError(
            f"token ids lie in [{ids.min()}, {ids.max()}]; this tokenizer has {vocabulary} ids "
            "from 0; decode with the tokenizer that the ids came from"
        )
    return ids[ids != separator]
