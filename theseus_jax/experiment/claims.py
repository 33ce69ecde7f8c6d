"""Claims of results.json: what a run set out to show, what decided it, and what was measured."""

from __future__ import annotations

from typing import Any

from theseus_jax.judging import FAILS, HOLDS, Judged

Claim = dict[str, Any]


def claim(text: str, verdict: str, measured: str) -> Claim:
    """verdict: of `judging`; `holds` is true for a claim that holds, and for no other."""
    return {"text": text, "holds": verdict == HOLDS, "verdict": verdict, "measured": measured}


def judged(text: str, found: Judged, measured: str) -> Claim:
    """A claim that differences over seeds decide."""
    return claim(text, found.verdict, measured)


def fact(text: str, true: bool, measured: str) -> Claim:
    """A claim that one exact number decides."""
    return claim(text, HOLDS if true else FAILS, measured)
