"""Values of a config that can be judged one by one: type, finiteness and range of every key, and
choices.
"""

from __future__ import annotations

import difflib
import math
import numbers
from typing import Any, Mapping, NamedTuple, Sequence

from theseus_jax.errors import UserError


def lookup(config: Any, path: str) -> Any:
    """The value at a dotted path of a config."""
    for key in path.split("."):
        config = config[key]
    return config


def check_values(
    config: Any, choices: Mapping[str, Sequence[str]], positive: Sequence[str] = ()
) -> None:
    """Raises UserError, one line, for the first value that is none of its choices, or not at least
    1 (positive).
    """
    for path, allowed in choices.items():
        if lookup(config, path) not in allowed:
            raise UserError(
                f"config.{path} is {lookup(config, path)!r}; choose one of {', '.join(allowed)}"
            )
    for path in positive:
        if lookup(config, path) < 1:
            raise UserError(f"config.{path} is {lookup(config, path)}; it must be at least 1")


LARGEST = 1e30  # beyond it float32 products are infinite


class Range(NamedTuple):
    """Numbers that a key may have: least <= x <= most, without the ends that are open."""

    least: float = 0.0
    most: float = LARGEST
    above: bool = False
    below: bool = False

    def __contains__(self, x: Any) -> bool:
        over = x > self.least if self.above else x >= self.least
        return over and (x < self.most if self.below else x <= self.most)

    def __str__(self) -> str:
        if self.most == LARGEST:
            return f"above {self.least:g}" if self.above else f"at least {self.least:g}"
        ends = "(" if self.above else "[", ")" if self.below else "]"
        return f"in {ends[0]}{self.least:g}, {self.most:g}{ends[1]}"


ABOVE = Range(above=True)  # rates, temperatures, scales
SHARE = Range(0, 1)
PART = Range(0, 1, below=True)  # dropout, momentum
SOME = Range(0, 1, above=True)  # a share that is not nothing
INSIDE = Range(0, 1, above=True, below=True)


def check_config(config: Any, default: Any, ranges: Mapping[str, Range]) -> None:
    """Raises UserError, one line, for the first key that `default` has not, and for the first value
    of another type than the default's, that is no finite number, or out of its range.

    ranges: {dotted path, or "section.*": of its numbers, or of each number in a tuple}; of all
    others at least 0. Of a tuple that is () by default the elements may be names or numbers.
    """
    _check_section(config, default, ranges, "")


def _check_section(config: Any, default: Any, ranges: Mapping[str, Range], at: str) -> None:
    for key in config:
        path, value = f"{at}{key}", config[key]
        if key not in default:
            close = difflib.get_close_matches(key, list(default), 1)
            hint = f"; did you mean config.{at}{close[0]}?" if close else ""
            raise UserError(f"there is no config.{path}{hint or f'; there are {_names(default)}'}")
        usual = default[key]
        if hasattr(usual, "keys"):
            if not hasattr(value, "keys"):
                raise UserError(
                    f"config.{path} is {value!r}; it is a section, with {_names(usual)}"
                )
            _check_section(value, usual, ranges, f"{path}.")
            continue
        wide = ranges.get(path) or ranges.get(f"{path.rpartition('.')[0]}.*") or Range()
        problem = _problem(value, usual, wide)
        if problem:
            raise UserError(f"config.{path} is {' '.join(repr(value).split())}; {problem}")


def _names(section: Any) -> str:
    return ", ".join(sorted(section))


def _problem(value: Any, usual: Any, wide: Range) -> str:
    """What is wrong with a value, or "": usual, the default, gives the type."""
    if isinstance(usual, (tuple, list)):
        if not isinstance(value, (tuple, list)):
            return "give a tuple, such as (1, 2)"
        kinds = usual or ("", 0.0)
        for one in value:
            found = [_problem(one, kind, wide) for kind in kinds]
            if all(found):
                return f"its element {one!r}: {found[0]}" if usual else "give names or numbers"
        return ""
    if isinstance(usual, bool) or isinstance(usual, str):
        kind, word = (bool, "True or False") if isinstance(usual, bool) else (str, "a name or text")
        return "" if isinstance(value, kind) else f"give {word}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return f"give {'a whole number' if isinstance(usual, int) else 'a number'}"
    if isinstance(usual, int) and not isinstance(value, numbers.Integral):
        return "give a whole number"
    if isinstance(usual, int) and abs(value) >= 2**31:
        return "give a whole number below 2,147,483,648"
    if not math.isfinite(value):
        return f"give a finite number {wide}"
    return "" if value in wide else f"give a number {wide}"
