"""The terminal's report of a run: its tables one under the other, plain text 100 columns wide."""

from __future__ import annotations

import textwrap
from typing import Any

from theseus_jax.report import class_tables, classes, head_tables, heads, units
from theseus_jax.report.tables import (
    WIDTH,
    aligned,
    claim_lines,
    cost_grid,
    gap_recovered,
    gap_unit,
    loss_unit,
    model_grid,
    stage_grid,
)

STATE = "; state bytes kept at 128, 1k and 8k tokens of context"


def table(results: dict[str, Any]) -> str:
    """The terminal's report of results.json: scores, costs, what the task adds, claims.

    results: a dict as in results.json; keys other than metric and models may be missing, numbers None or nan.
    """
    better = "higher" if results.get("higher_is_better") else "lower"
    chance = ""
    if classes.classifies(results) and results.get("chance") is not None:
        chance = f", chance {classes.percent(results['chance'])}"
    title = f"Test results: {results['metric']}, {better} is better{chance}; loss in {loss_unit(results)}; "
    body = _heads if heads.compares_heads(results) else _classes if classes.classifies(results) else _conversion
    parts = body(results)
    claims = claim_lines(results.get("claims") or []) or ["none stated"]
    warning = [units.SMOKE, ""] if results.get("smoke") else []
    return "\n".join([*warning, title + "training of one seed", *parts, "", "Claims", *claims])


def _conversion(results: dict[str, Any]) -> list[str]:
    parts = [aligned(model_grid(results)), *_gap(results)]
    costs = cost_grid(results)
    if len(costs.header) > 2:
        parts += [
            "",
            "Costs of use: one example, medians" + (STATE if any(m.get("state_bytes") for m in results["models"]) else ""),
            aligned(costs),
        ]
    if results.get("stages"):
        parts += [
            "",
            "Stages: held-out similarity; hybrid = target up to the stage, guide after it, raw or stitched",
            aligned(stage_grid(results)),
        ]
    return parts


def _gap(results: dict[str, Any]) -> list[str]:
    gap = gap_recovered(results)
    words = f"of the {gap_unit(results)} between from_scratch and guide"
    return [] if gap is None else [f"converted recovers {gap:.1%} {words}"]


def _classes(results: dict[str, Any]) -> list[str]:
    parts = [aligned(model_grid(results)), *_gap(results)]
    if classes.data_line(results):
        parts += textwrap.wrap(f"Data: {classes.data_line(results)}", WIDTH)
    features, costs = class_tables.feature_grid(results), class_tables.use_grid(results)
    stages, similarity = class_tables.stage_grid(results), class_tables.similarity_grid(results)
    if features.rows:
        text = "Features that heads read: test accuracy of a linear probe on them, agreement with the guide's"
        parts += ["", text, aligned(features)]
    if len(costs.header) > 2:
        text = "Costs of use: one example, medians; controls have converted's network unless they are listed"
        parts += ["", text, aligned(costs)]
    if stages.rows:
        text = "Stages (target = guide): validation similarity and accuracy; hybrid = target up to the stage, guide after it"
        words = class_tables.stage_words(stages)
        parts += ["", *textwrap.wrap(f"{text}; {words}" if words else text, WIDTH), aligned(stages)]
    if similarity and len(similarity.rows) <= class_tables.TERMINAL_STAGES:
        text = "Debiased CKA of the guide's stages with each other; = the target's stage at a seam"
        parts += ["", *textwrap.wrap(text, WIDTH), aligned(similarity)]
    return parts


def _heads(results: dict[str, Any]) -> list[str]:
    parts = [aligned(head_tables.score_grid(results))]
    found = heads.difference(results)
    if found is not None:
        text = (
            f"{found.ours['name']} against {found.rival['name']}, best by validation score: "
            f"{heads.difference_text(found)} over {found.judged.count} paired seed{'s' if found.judged.count > 1 else ''}; "
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
