"""How much a term of a loss counts: a number, a ramp over steps, or what balances it with another
term after the first epoch.

Numbers are part of the compiled step. The other two are passed in as (begin, end, steps), three
traced scalars, so that changing or calibrating them recompiles nothing.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, Iterable, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError

LOGGED = ("loss", "gradient_norm")  # what every step logs beside its terms


@dataclasses.dataclass(frozen=True)
class Ramp:
    """From `begin` to `end` in equal parts over the phase's first `steps` steps, then `end`."""

    begin: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"a ramp over {self.steps} steps; give at least 1, or a number")

    def bounds(self, measured: "Sums | None") -> tuple[float, float, float]:
        """(begin, end, steps), whatever was measured."""
        return self.begin, self.end, float(self.steps)

    def __str__(self) -> str:
        return f"({self.begin:g} to {self.end:g} over {self.steps} steps)"


@dataclasses.dataclass(frozen=True)
class Until:
    """`weight` in the phase's first `steps` steps, then 0."""

    weight: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"a weight until step {self.steps}; give at least 1, or no term")

    def bounds(self, measured: "Sums | None") -> tuple[float, float, float]:
        """(weight, 0, -steps), whatever was measured."""
        return self.weight, 0.0, -float(self.steps)

    def __str__(self) -> str:
        return f"({self.weight:g} until step {self.steps}, then 0)"


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """`initial` in the first epoch of the phase, and then what makes the term `ratio` times the
    term `to`, by the means of both over that epoch, all seeds together.
    """

    ratio: float
    to: str
    initial: float = 1.0

    def bounds(self, measured: "Sums | None") -> tuple[float, float, float]:
        """(weight, weight, 1); measured: None before the first epoch is over.

        Raises UserError where the term was 0 all the time, so that no weight balances it.
        """
        if measured is None:
            return self.initial, self.initial, 1.0
        if not measured.own > 0:
            raise UserError(
                f"a term that is to be {self.ratio:g} times {self.to} was {measured.own:g} over its"
                " first epoch; give its weight as a number"
            )
        weight = self.ratio * measured.other / measured.own
        return weight, weight, 1.0

    def __str__(self) -> str:
        return f"({self.initial:g}, after an epoch {self.ratio:g} x {self.to} over it)"


class Sums(NamedTuple):
    """Of a calibrated term and of the one that it is balanced with, over the first epoch."""

    own: float = 0.0
    other: float = 0.0
    steps: int = 0


def is_number(weight: Any) -> bool:
    """Whether a weight is part of the compiled step."""
    return isinstance(weight, numbers.Real)


def text(weight: Any) -> str:
    """A weight as a plan prints it."""
    return f"{weight:g}" if is_number(weight) else str(weight)


def at(bounds: jax.Array, step: jax.Array) -> jax.Array:
    """The weight at a step, from (3,) begin, end, steps; of negative steps, all at once after so
    many.
    """
    begin, end, steps = bounds[0], bounds[1], bounds[2]
    ramp = jnp.clip(step / jnp.abs(steps), 0.0, 1.0)
    return begin + (end - begin) * jnp.where(steps < 0, jnp.floor(ramp), ramp)


def check_terms(name: str, terms: Iterable[Any]) -> None:
    """Raises UserError for terms of one name, and where one is balanced with what is not there."""
    terms = tuple(terms)
    names = [term.name for term in terms]
    doubled = sorted({one for one in names if names.count(one) > 1 or one in LOGGED})
    if doubled:
        raise UserError(
            f"phase {name!r} has more than one value called {doubled[0]!r}; terms need distinct"
            f" names other than {', '.join(LOGGED)}"
        )
    for term in terms:
        other = getattr(term.weight, "to", None)
        if other is not None and (other not in names or other == term.name):
            raise UserError(
                f"phase {name!r} balances {term.name} with {other!r}, which is no other term of it;"
                f" take one of {', '.join(one for one in names if one != term.name) or 'none'}"
            )


def calibrated(phase: Any) -> list[Any]:
    """The terms of a phase whose weights are found in the first epoch."""
    return [term for term in phase.terms if hasattr(term.weight, "to")]


def weights_at(phase: Any, sums: tuple[Sums, ...], step: int, epoch: int) -> dict[str, jax.Array]:
    """{term: (begin, end, steps)} of a phase's terms whose weights are no numbers. sums: what was
    measured of the calibrated ones, which counts from the end of the first epoch on.
    """
    known = dict(zip((term.name for term in calibrated(phase)), sums)) if step >= epoch else {}
    return {
        term.name: jnp.asarray(term.weight.bounds(known.get(term.name)), jnp.float32)
        for term in phase.terms
        if not is_number(term.weight)
    }
