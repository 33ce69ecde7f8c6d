"""Numbers as people read them. None is "-" (not measured); nan and inf stay visible."""

import math
from typing import Any

THOUSANDS = ("", " k", " M", " G", " T", " P", " E", " Z")
BYTES = (" B", " KiB", " MiB", " GiB", " TiB")
SMOKE = "SMOKE RUN: everything was cut to seconds; its numbers and verdicts mean nothing."


def measured(value: Any) -> bool:
    """True for a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, decimals: int = 2) -> str:
    """Fixed decimals, one fewer for each digit beyond three before the point."""
    if not measured(value):
        return "-" if value is None else str(value)
    return f"{value:.{max(0, decimals - max(0, len(str(int(abs(value)))) - 3))}f}"


def spread(value: Any, error: Any, count: int, decimals: int = 2, unit: str = "") -> str:
    """ "12.34 +- 0.05" (mean and standard error over `count` seeds), or "12.34 one seed"."""
    if not measured(value) or (count != 1 and not measured(error)):
        return number(value, decimals) + unit * measured(value)
    if count == 1:
        return f"{number(value, decimals)}{unit} one seed"
    error = 0.0 if error < 1e-12 * abs(value) else error  # equal seeds, but for rounding
    if 0 < error < 0.5 * 10.0**-decimals:
        decimals = min(6, math.ceil(-math.log10(error)))
    return f"{number(value, decimals)}{unit} +- {number(error, decimals)}"


def percent(share: Any, decimals: int = 1) -> str:
    """0.873 -> "87.3 %"."""
    return f"{number(100 * share, decimals)} %" if measured(share) else number(share)


def human(value: Any, units: tuple[str, ...] = THOUSANDS, base: int = 1000) -> str:
    """Three significant digits and a unit prefix: 1234567 -> "1.23 M"."""
    if not measured(value):
        return number(value)
    power, value = 0, float(f"{value:.3g}") if base == 1000 else value
    while abs(value) >= base and power + 1 < len(units):
        value, power = value / base, power + 1
    exact = float(value).is_integer() and (power == 0 or base != 1000)
    decimals = 0 if exact or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}{units[power]}"


def size(count: Any) -> str:
    """Bytes in binary units: 65536 -> "64 KiB"."""
    return human(count, BYTES, 1024)


def duration(microseconds: Any) -> str:
    """A latency: 1234.5 -> "1.23 ms"."""
    return human(microseconds, (" us", " ms", " s"))


def seconds(value: Any) -> str:
    """Seconds with a fitting unit: 0.0138 -> "13.8 ms"."""
    return duration(1e6 * value) if measured(value) else number(value)


def plain(value: Any) -> str:
    """A value as it is: whole numbers with commas, of a fraction six digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)


UNITS = {
    **{"": plain, "share": percent, "s": seconds, "us": duration, "count": human, "bytes": size},
    "number": number,
    "whole": lambda value: number(value, 0),
    "loss": lambda value: number(value, 4),
    "similarity": lambda value: number(value, 3),
    "accuracy": percent,
    "log": lambda value: number(value, 3),
}


def cell(value: Any, unit: str = "") -> str:
    """A cell of a table; text is as it is, an unknown unit follows its number."""
    if isinstance(value, str):
        return value
    return UNITS[unit](value) if unit in UNITS else plain(value) + f" {unit}" * measured(value)
