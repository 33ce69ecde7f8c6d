"""One rule for every comparison of a run, its claims, tables and pages: differences are paired over
seeds, and decided where the 95 % t interval of their mean leaves 0 out.

The interval is over seeds: all of them share one test split, whose own sampling error it does not
hold.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, Iterable, NamedTuple

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"


class Judged(NamedTuple):
    """Mean of paired differences, > 0 for what is claimed; half its 95 % t interval, infinite for
    one pair; and how many pairs there were.
    """

    mean: float
    half: float
    count: int

    @property
    def verdict(self) -> str:
        """HOLDS above 0, FAILS below it, UNDECIDED where the interval holds 0."""
        if not abs(self.mean) > self.half:
            return UNDECIDED
        return HOLDS if self.mean > 0 else FAILS

    def words(self, ours: str, rival: str) -> str:
        """The verdict on ours less rival in words."""
        if self.count == 1:
            return "one seed decides nothing"
        if self.verdict == UNDECIDED:
            return "an interval that holds 0, so these seeds do not tell them apart"
        return f"an interval without 0, so {ours if self.mean > 0 else rival} is better"

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.mean:+.4f}; one seed decides nothing"
        return f"{self.mean:+.4f} +- {self.half:.4f} (95 % over {self.count} paired seeds)"


def judge(differences: Iterable[float]) -> Judged:
    """The verdict on differences, one a seed. Raises ValueError for none."""
    values = [float(value) for value in differences]
    if not values:
        raise ValueError("there is nothing to judge: give a difference for every seed")
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Judged(math.nan, math.nan, count)
    mean = statistics.fmean(values)
    if count < 2:
        return Judged(mean, math.inf, 1)
    from scipy import stats

    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Judged(mean, float(half), count)


def verdict_of(claim: dict[str, Any]) -> str:
    """The verdict of a claim of results.json; of one that names none, HOLDS if `holds` is true,
    else FAILS.
    """
    named = claim.get("verdict")
    if named in (HOLDS, FAILS, UNDECIDED):
        return named
    return HOLDS if claim.get("holds") is True else FAILS
