"""The claims of a run, each with its verdict and what was measured."""

from theseus_jax.judging import FAILS, HOLDS, UNDECIDED, verdict_of
from theseus_jax.report.panel import Panel, Run, Verdict


def verdicts(run: Run) -> list[Verdict]:
    """One a claim: the failed first, then the undecided."""
    parts = (("text", None), ("measured", "no measurement is given"))
    claims = run.results.get("claims") or ()
    stated = [(verdict_of(c), *(str(c.get(key, other)) for key, other in parts)) for c in claims]
    return sorted(stated, key=lambda verdict: (FAILS, UNDECIDED, HOLDS).index(verdict[0]))


def words(run: Run) -> list[str]:
    """How many hold."""
    kinds = [kind for kind, _, _ in verdicts(run)]
    undecided = f" {kinds.count(UNDECIDED)} undecided." if UNDECIDED in kinds else ""
    count = f"{kinds.count(HOLDS)} of {len(kinds)} claims hold.{undecided}"
    return [count if kinds else "This run states no claims."]


PANEL = Panel("Claims", words=words, verdicts=verdicts)
