"""Sequence tasks whose examples are drawn from a key: copying, and parity.

Of each there are two forms. "mended" is a task of its own token for each meaning; "published" is
copying as the published code of guidance draws it (arXiv 2410.20035), in which symbol 0 is padding
and blank as well and the end is given, so that a constant answer scores 14.3 %: to show that.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked

FORMS = ("mended", "published")
NOT_ASKED = -1  # label of a position that asks for nothing
PAD, BLANK, COPY = range(3)  # of the mended form, before its symbols


def _lengths(name: str, shortest: int, longest: int) -> None:
    if not 1 <= shortest <= longest:
        raise UserError(
            f"sequences of {name} have lengths {shortest} to {longest}; give data.shortest from 1"
            " to data.longest"
        )


@dataclasses.dataclass(frozen=True)
class Copying:
    """n symbols, a sign, and n blanks, at which the symbols are asked for in order; n is uniform in
    shortest..longest.

    Ids of the mended form: PAD, BLANK, COPY, then the symbols. Of the published one: the symbols,
    of which 0 is also padding and blank and is never asked for, the sign, and an end that is given
    and asked for. Raises UserError for another form, lengths out of order, fewer than 2 symbols.
    """

    symbols: int = 10
    shortest: int = 20
    longest: int = 40
    form: str = "mended"

    def __post_init__(self) -> None:
        _lengths("copying", self.shortest, self.longest)
        if self.symbols < 2 or self.form not in FORMS:
            raise UserError(
                f"copying of {self.symbols} symbols in the form {self.form!r}: give at least 2, and"
                f" one of {', '.join(FORMS)}"
            )

    @property
    def vocabulary(self) -> int:
        """Ids that inputs and answers have."""
        return self.symbols + (3 if self.form == "mended" else 2)

    @property
    def tokens(self) -> int:
        """T, of the longest sequence."""
        return 2 * self.longest + (1 if self.form == "mended" else 2)

    def draw(self, key: jax.Array, count: int) -> tuple[Masked, jax.Array]:
        """(inputs: a `Masked` of ids and mask (B, T), labels (B, T) int32 of ids, NOT_ASKED where
        nothing is asked) of `count` examples.
        """
        for_lengths, for_symbols = jax.random.split(key)
        low, high = self.shortest, self.longest
        n = jax.random.randint(for_lengths, (count, 1), low, high + 1)
        drawn = jax.random.randint(for_symbols, (count, high), 0, self.symbols)
        places = jnp.arange(self.tokens)[None]
        back = places - n - 1  # of the symbol that a blank asks for
        given = jnp.take_along_axis(drawn, jnp.clip(places, 0, high - 1), axis=1)
        asked = jnp.take_along_axis(drawn, jnp.clip(back, 0, high - 1), axis=1)
        blank, sign = (back >= 0) & (back < n), places == n
        if self.form == "mended":
            ids = jnp.select([places < n, sign, blank], [given + 3, COPY, BLANK], PAD)
            return _masked(ids, places <= 2 * n), _asked(blank, asked + 3)
        end = places == 2 * n + 1
        ids = jnp.select([places < n, sign, end], [given, self.symbols, self.symbols + 1], 0)
        answers = jnp.where(end, self.symbols + 1, asked)
        return _masked(ids, places <= 2 * n + 1), _asked((blank & (asked > 0)) | end, answers)


@dataclasses.dataclass(frozen=True)
class Parity:
    """Bits of which the class is whether an odd number is 1; their number is uniform in
    shortest..longest. Raises UserError for lengths out of order.
    """

    shortest: int = 2
    longest: int = 50

    def __post_init__(self) -> None:
        _lengths("parity", self.shortest, self.longest)

    @property
    def vocabulary(self) -> int:
        """Padding, and the two bits."""
        return 3

    @property
    def tokens(self) -> int:
        """T, of the longest sequence."""
        return self.longest

    def draw(self, key: jax.Array, count: int) -> tuple[Masked, jax.Array]:
        """(inputs: a `Masked` of ids (0 padding, 1 and 2 the bits) and mask (B, T), labels (B,)
        int32 of 0 and 1) of `count` examples.
        """
        for_lengths, for_bits = jax.random.split(key)
        n = jax.random.randint(for_lengths, (count, 1), self.shortest, self.longest + 1)
        bits = jax.random.bernoulli(for_bits, 0.5, (count, self.longest))
        real = jnp.arange(self.longest)[None] < n
        odd = jnp.sum(bits & real, axis=1) % 2
        return _masked(jnp.where(real, bits + 1, 0), real), odd.astype(jnp.int32)


def _masked(ids: jax.Array, real: jax.Array) -> Masked:
    return Masked(ids.astype(jnp.int32), real.astype(jnp.int32))


def _asked(where: jax.Array, answers: jax.Array) -> jax.Array:
    return jnp.where(where, answers, NOT_ASKED).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Fresh:
    """A transform (`feeds`) that puts newly drawn examples in the place of a batch."""

    drawn: Copying | Parity

    def __call__(self, inputs: Any, labels: Any, key: jax.Array) -> tuple[Masked, jax.Array]:
        return self.drawn.draw(key, len(labels))

    def __str__(self) -> str:
        return f"drawn anew, {self.drawn}"


def chance(inputs: Masked, labels: Any) -> float:
    """The share of right answers, in [0, 1], of the best rule that reads nothing but the token at
    its own position; of a class a sequence, of the most common class.
    """
    labels = np.asarray(labels)
    ids = np.asarray(inputs.values) if labels.ndim == 2 else np.zeros_like(labels)
    asked = labels >= 0
    right = 0
    for token in np.unique(ids[asked]):
        right += np.bincount(labels[asked & (ids == token)]).max()
    return float(right / asked.sum())


def digest(inputs: Masked, labels: Any) -> str:
    """SHA-256 of examples."""
    parts = (inputs.values, inputs.mask, labels)
    return hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in parts)).hexdigest()
