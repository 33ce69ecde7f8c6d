"""Numbers as people read them. None is "-" (not measured); nan and inf stay visible."""

from __future__ import annotations

import math
from typing import Any

THOUSANDS = ("", " k", " M", " G", " T", " P", " E", " Z")
BYTES = (" B", " KiB", " MiB", " GiB", " TiB")


SMOKE = "SMOKE RUN: everything was cut to seconds to see that it works; its numbers and verdicts mean nothing."


def measured(value: Any) -> bool:
    """True for a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, decimals: int = 2) -> str:
    """Fixed decimals, one fewer for each digit beyond three before the point."""
    if not measured(value):
        return "-" if value is None else str(value)
    return f"{value:.{max(0, decimals - max(0, len(str(int(abs(value)))) - 3))}f}"


def spread(value: Any, error: Any, count: int, decimals: int = 2) -> str:
    """ "12.34 +- 0.05" (mean and standard error over `count` seeds), or "12.34 one seed"."""
    if not measured(value) or (count != 1 and not measured(error)):
        return number(value, decimals)
    if count == 1:
        return f"{number(value, decimals)} one seed"
    error = 0.0 if error < 1e-12 * abs(value) else error  # equal seeds, but for rounding
    if 0 < error < 0.5 * 10.0**-decimals:
        decimals = min(6, math.ceil(-math.log10(error)))
    return f"{number(value, decimals)} +- {number(error, decimals)}"


def human(value: Any, units: tuple[str, ...] = THOUSANDS) -> str:
    """Three significant digits and a unit prefix: 1234567 -> "1.23 M"."""
    if not measured(value):
        return number(value)
    power, value = 0, float(f"{value:.3g}")
    while abs(value) >= 1000 and power + 1 < len(units):
        value, power = value / 1000, power + 1
    return f"{_three_digits(value, exact=power == 0)}{units[power]}"


def size(count: Any) -> str:
    """Bytes in binary units: 65536 -> "64 KiB"."""
    if not measured(count):
        return number(count)
    power = 0
    while abs(count) >= 1024 and power + 1 < len(BYTES):
        count, power = count / 1024, power + 1
    return f"{_three_digits(count, exact=True)}{BYTES[power]}"


def duration(microseconds: Any) -> str:
    """A latency: 1234.5 -> "1.23 ms"."""
    return human(microseconds, (" us", " ms", " s"))


def _three_digits(value: float, exact: bool) -> str:
    if exact and float(value).is_integer():
        return str(int(value))
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"
