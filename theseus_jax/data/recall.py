"""Text in which words have to be recalled: pairs of words before it, and asked for after it.

A window of T + 1 tokens begins with P pairs of a key and its value, and ends with the same pairs in
another order; between lies the text, in whose first half each stands some times more, so that it is
learned from short distances too, and whose second half has to be bridged. Associative recall of
several pairs, as Arora et al. 2023 (arXiv 2312.04927, section 3) measure it, with text between.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError

# words a pair: with all of a tokenizer's, a small guide does not learn to recall in 3,000 steps
WORDS = 4


def words_of(tokenizer: Any) -> np.ndarray:
    """The tokens that are words, sorted (W,): a space and letters, or letters alone where no token
    has a space before them.
    """
    texts = {i: tokenizer.decode([i]) for i in range(tokenizer.vocabulary)}
    letters = {i: text for i, text in texts.items() if text.strip(" ").isalpha()}
    spaced = [i for i, text in letters.items() if text[0] == " " and text.isascii()]
    return np.asarray(spaced or [i for i, text in letters.items() if text.isascii()], np.int32)


@dataclasses.dataclass(frozen=True)
class Recall:
    """What is done to windows: `pairs` of them planted, drawn anew for every batch.

    keys, values: tokens that they are drawn from, without repetition in a window. repeats: how
    often each pair stands in the text. Raises UserError for fewer of either than pairs.
    """

    pairs: int
    keys: tuple[int, ...]
    values: tuple[int, ...]
    repeats: int = 4

    def __post_init__(self) -> None:
        few = min(len(self.keys), len(self.values))
        if few < self.pairs:
            raise UserError(
                f"data.recall is {self.pairs} pairs, and the tokenizer has {2 * few} tokens that"
                f" are words; lower data.recall to {few}, or raise data.vocabulary"
            )

    def plant(self, windows: jax.Array, key: jax.Array) -> jax.Array:
        """Windows (B, T + 1) with pairs, of the same dtype. Raises UserError where no text is left
        between them.
        """
        if windows.shape[1] <= 4 * self.pairs:
            raise UserError(
                f"data.context is {windows.shape[1] - 1} tokens, and {self.pairs} pairs before and"
                f" after a text take {4 * self.pairs}; raise data.context or lower data.recall"
            )

        def one(window: jax.Array, key: jax.Array) -> jax.Array:
            for_keys, for_values, for_order, for_places = jax.random.split(key, 4)
            drawn = [
                jax.random.permutation(k, jnp.asarray(words, window.dtype))[: self.pairs]
                for k, words in ((for_keys, self.keys), (for_values, self.values))
            ]
            told = jnp.stack(drawn, axis=1)
            asked = jax.random.permutation(for_order, told)
            text = window[2 * self.pairs : -2 * self.pairs]
            slots = len(text) // 4  # of two tokens, in the first half
            places = jax.random.permutation(for_places, slots)[: self.repeats * self.pairs]
            half = text[: 2 * slots].reshape(slots, 2)
            half = half.at[places].set(jnp.tile(told, (self.repeats, 1))[: len(places)])
            text = jnp.concatenate([half.reshape(-1), text[2 * slots :]])
            return jnp.concatenate([told.reshape(-1), text, asked.reshape(-1)])

        return jax.vmap(one)(windows, jax.random.split(key, len(windows)))

    def answers(self, length: int) -> np.ndarray:
        """Which targets of a window are answers: (length,) bool."""
        asked = np.zeros(length, bool)
        asked[length - 2 * self.pairs + 1 :: 2] = True
        return asked

    def __call__(
        self, inputs: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Inputs and targets (B, T) of a batch with new pairs in them."""
        planted = self.plant(jnp.concatenate([inputs, labels[:, -1:]], axis=1), key)
        return planted[:, :-1], planted[:, 1:]

    def __str__(self) -> str:
        return f"{self.pairs} pairs of words before and after the text"


def recall_of(tokenizer: Any, pairs: int) -> Recall:
    """`Recall` in WORDS * pairs words of a tokenizer, as far apart as they are: every other one is
    a key. Raises UserError.
    """
    words = words_of(tokenizer).tolist()
    words = words[:: max(1, len(words) // (WORDS * pairs))][: WORDS * pairs]
    return Recall(pairs, tuple(words[::2]), tuple(words[1::2]))
