"""The one rule that decides comparisons, against scipy's paired t test."""

import numpy as np
import pytest
from scipy import stats

from theseus_jax.judging import FAILS, HOLDS, UNDECIDED, Judged, judge, verdict_of


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_a_verdict_is_that_of_the_paired_t_test(seed, count):
    rng = np.random.default_rng(seed)
    ours, rival = rng.normal(size=(2, count)) + [[rng.normal()], [0.0]]
    found, test = judge(ours - rival), stats.ttest_rel(ours, rival)
    interval = test.confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(
        (interval.low, interval.high)
    )
    assert (found.verdict == UNDECIDED) == (test.pvalue >= 0.05)
    assert (
        judge(rival - ours).verdict
        == {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}[found.verdict]
    )


def test_one_seed_no_seed_and_seeds_without_spread():
    assert (
        judge([0.3]).verdict == UNDECIDED
        and str(judge([0.3])) == "+0.3000; one seed decides nothing"
    )
    assert judge([0.2, 0.2, 0.2]).verdict == HOLDS and judge([0.0, 0.0]).verdict == UNDECIDED
    assert Judged(float("nan"), 0.1, 3).verdict == UNDECIDED
    assert (
        judge([0.2, float("nan"), 0.2]).verdict == judge([1.0, float("inf")]).verdict == UNDECIDED
    )
    assert (
        judge([float("inf"), -float("inf")]).verdict == judge([float("nan")]).verdict == UNDECIDED
    )
    with pytest.raises(ValueError, match="nothing to judge"):
        judge([])


def test_claims_of_older_runs_hold_or_fail():
    assert (
        verdict_of({"holds": True}) == HOLDS
        and verdict_of({"holds": None}) == verdict_of({}) == FAILS
    )
    assert verdict_of({"holds": False, "verdict": "undecided"}) == UNDECIDED
    assert verdict_of({"holds": True, "verdict": "perhaps"}) == HOLDS
