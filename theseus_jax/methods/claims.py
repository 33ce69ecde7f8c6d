"""Claims of results.json: what a run set out to show, what decided it, and what was measured."""

from __future__ import annotations

import math
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.judging import FAILS, HOLDS, Judged, judge

Row = dict[str, Any]


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
    """Both values of every seed; compared: `tasks.Compared`. Raises UserError for other seeds."""
    values = [model[compared.values] for model in (ours, rival)]
    if len(values[0]) != len(values[1]):
        raise UserError(
            f"{ours['name']} has {len(values[0])} seeds and {rival['name']} {len(values[1])}; arms"
            " that are compared need the same (Arm.seeds)"
        )
    return list(zip(*values))


def lead(ours: Row, rival: Row, text: str, compared: Any) -> Row:
    """ours is better than rival, seed by seed."""
    differences = judge([compared.sign * (a - b) for a, b in pairs(ours, rival, compared)])
    values = f"{ours[compared.value]:.4f} against {rival[compared.value]:.4f} {compared.unit}"
    return judged(text, differences, f"{values}: {differences}")


def leads(models: Sequence[Row], compared: Any) -> list[Row]:
    """Each of ours beats each rival, at equal optimizer steps where these are equal; and at equal
    training FLOPs, where the rival, or the same prolonged, was given at least ours.
    """
    ours = [model for model in models if model["role"] == "ours"]
    longer_of = {model["prolongs"]: model for model in models if model.get("prolongs")}
    rivals = [m for m in models if m["role"] == "rival" and not m.get("prolongs")]
    claims = []
    for mine in ours:
        for rival in rivals:
            text = f"{mine['name']} beats {rival['name']}"
            steps = [model.get("optimizer_steps") for model in (mine, rival)]
            terms = "at equal optimizer steps"
            if steps[0] != steps[1]:
                terms = f"({steps[0]:,} against {steps[1]:,} optimizer steps)"
            claims.append(lead(mine, rival, f"{text} {terms}", compared))
            longer = longer_of.get(rival["name"], rival)
            if (longer["training_flops"] or 0) >= (mine["training_flops"] or math.inf):
                claims.append(_at_equal_flops(mine, longer, text, compared))
    return claims


def _at_equal_flops(ours: Row, rival: Row, text: str, compared: Any) -> Row:
    ratio = rival["training_flops"] / ours["training_flops"]
    claim = lead(ours, rival, f"{text} at equal training FLOPs", compared)
    had = f"{rival['name']} had {ratio:.2f} x the {ours['name']} network's training FLOPs"
    return claim | {"measured": f"{claim['measured']}; {had}"}


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
