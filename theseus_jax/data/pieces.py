"""Texts as MiniLM's word pieces."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.packaged import MINILM_TOKENIZER, pinned_file

TEXTS_AT_ONCE = 1024


def word_pieces(texts: Sequence[str], tokens: int) -> np.ndarray:
    """(N, 2, tokens) int32: ids, 0 after the end, and the mask. Raises UserError for fewer than 2
    tokens and missing packages.
    """
    if tokens < 2:
        raise UserError(
            f"tokens is {tokens}, but every text starts and ends with a mark of its own; set at"
            " least 2"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            f"word pieces need the package tokenizers ({error}); pip install tokenizers"
        ) from error
    tokenizer = Tokenizer.from_file(str(pinned_file(MINILM_TOKENIZER)))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    pieces = np.empty((len(texts), 2, tokens), np.int32)
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        encoded = tokenizer.encode_batch(list(texts[begin : begin + TEXTS_AT_ONCE]))
        pieces[begin : begin + TEXTS_AT_ONCE] = [
            (text.ids, text.attention_mask) for text in encoded
        ]
    return pieces
