"""Claims of results.json: what a run set out to show, what decided it, and what was measured."""

from __future__ import annotations

from typing import Any, Sequence

from theseus_jax.judging import FAILS, HOLDS, Judged, judge

Row = dict[str, Any]
LONGER = "_equal_flops"


def claim(text: str, verdict: str, measured: str) -> Row:
    """verdict: of `judging`; `holds` is true for a claim that holds, and for no other."""
    return {"text": text, "holds": verdict == HOLDS, "verdict": verdict, "measured": measured}


def judged(text: str, found: Judged, measured: str) -> Row:
    """A claim that differences over seeds decide."""
    return claim(text, found.verdict, measured)


def fact(text: str, true: bool, measured: str) -> Row:
    """A claim that one exact number decides."""
    return claim(text, HOLDS if true else FAILS, measured)


def pairs(ours: Row, rival: Row, compared: Any) -> list[tuple[float, float]]:
    """Both values of every seed; compared: `tasks.Compared`. All arms but guides have the same
    seeds.
    """
    return list(zip(ours[compared.values], rival[compared.values], strict=True))


def lead(ours: Row, rival: Row, text: str, compared: Any) -> Row:
    """ours is better than rival, seed by seed."""
    differences = judge([compared.sign * (a - b) for a, b in pairs(ours, rival, compared)])
    values = f"{ours[compared.value]:.4f} against {rival[compared.value]:.4f} {compared.unit}"
    return judged(text, differences, f"{values}: {differences}")


def leads(models: Sequence[Row], compared: Any) -> list[Row]:
    """Each of ours beats each rival at equal optimizer steps; and at equal training FLOPs, where
    the rival, or the same prolonged (LONGER), was given at least ours.
    """
    named = {model["name"]: model for model in models}
    ours = [model for model in models if model["role"] == "ours"]
    rivals = [
        model for model in models if model["role"] == "rival" and not model["name"].endswith(LONGER)
    ]
    claims = []
    for mine in ours:
        for rival in rivals:
            text = f"{mine['name']} beats {rival['name']} at equal"
            claims.append(lead(mine, rival, f"{text} optimizer steps", compared))
            longer = named.get(rival["name"] + LONGER, rival)
            ratio = longer["training_flops"] / mine["training_flops"]
            if ratio >= 1:
                found = lead(mine, longer, f"{text} training FLOPs", compared)
                found["measured"] += (
                    f"; {longer['name']} had {ratio:.2f} x the {mine['name']} network's training"
                    " FLOPs"
                )
                claims.append(found)
    return claims


def recovery(ours: Row, guide: Row, scratch: Row, compared: Any) -> Row | None:
    """ours recovers at least half of the gap between a rival and a guide; None without a gap."""
    best, mine, worst = (model[compared.value] for model in (guide, ours, scratch))
    if not compared.sign * (best - worst) > 0:
        return None
    share = (mine - worst) / (best - worst)
    over = judge(
        [compared.sign * (a - b - (best - b) / 2) for a, b in pairs(ours, scratch, compared)]
    )
    return judged(
        f"{ours['name']} recovers at least half of the gap between {scratch['name']} and"
        f" {guide['name']}",
        over,
        f"{share:.1%} of {worst:.4f} to {best:.4f} {compared.unit}; above half by {over}",
    )
