"""The terminal's report of a run: its tables one under the other, plain text 100 columns wide."""

from __future__ import annotations

import textwrap
from typing import Any

from theseus_jax.report import head_tables, heads
from theseus_jax.report.tables import (
    WIDTH,
    aligned,
    claim_lines,
    cost_grid,
    gap_recovered,
    loss_unit,
    model_grid,
    stage_grid,
)


def table(results: dict[str, Any]) -> str:
    """The terminal's report of results.json: scores, costs, what the task adds, claims.

    results: a dict as in results.json; keys other than metric and models may be missing, numbers None or nan.
    """
    better = "higher" if results.get("higher_is_better") else "lower"
    title = f"Test results: {results['metric']}, {better} is better; loss in {loss_unit(results)}; "
    parts = _heads(results) if heads.compares_heads(results) else _conversion(results)
    claims = claim_lines(results.get("claims") or []) or ["none stated"]
    return "\n".join([title + "training of one seed", *parts, "", "Claims", *claims])


def _conversion(results: dict[str, Any]) -> list[str]:
    parts = [aligned(model_grid(results))]
    gap = gap_recovered(results)
    if gap is not None:
        parts.append(f"converted recovers {gap:.1%} of the loss between from_scratch and guide")
    costs = cost_grid(results)
    if len(costs.header) > 2:
        parts += [
            "",
            "Costs of use: one example, medians; state bytes kept at 128, 1k and 8k tokens of context",
            aligned(costs),
        ]
    if results.get("stages"):
        parts += [
            "",
            "Stages: held-out similarity; hybrid = target up to the stage, guide after it, raw or stitched",
            aligned(stage_grid(results)),
        ]
    return parts


def _heads(results: dict[str, Any]) -> list[str]:
    parts = [aligned(head_tables.score_grid(results))]
    found = heads.difference(results)
    if found is not None:
        text = (
            f"{found.ours['name']} against {found.rival['name']}, best by validation score: "
            f"{heads.difference_text(found)} over {found.count} paired seed{'s' if found.count > 1 else ''}; "
            f"{heads.verdict(found)}"
        )
        parts += textwrap.wrap(text, WIDTH)
    speeds = head_tables.speed_grid(results)
    if len(speeds.header) > 2:
        shown = heads.declared_text(results)
        text = "Speed: what the search chose, time of training"
        text += (
            f", and until the {heads.score_name(results)} that every seed of a model reaches" if shown else ""
        )
        text += f" ({shown})" if shown else ""
        parts += ["", *textwrap.wrap(text, WIDTH), aligned(speeds)]
    conversions, budget = head_tables.conversion_grid(results), head_tables.budget_facts(results)
    if conversions.rows:
        text = "Conversions: largest logit difference of all seeds, before pruning; means over seeds"
        parts += ["", text, aligned(conversions)]
    if budget:
        line = "  ".join(f"{letter} {value}" for letter, value in budget)
        parts += textwrap.wrap(f"GLAI budget: {line}", WIDTH, break_on_hyphens=False)
    costs = head_tables.use_grid(results)
    if len(costs.header) > 2:
        parts += ["", "Costs of use: one example, medians", aligned(costs)]
    return parts
