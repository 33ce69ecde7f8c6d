"""How gradients get through a network's depth: a watch, and a table of what it read."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax.arms import Arm, Finished, Row
from theseus_jax.program import StepRecord

PLACES = 3  # stages of a model that are shown: the first, those between at even shares, the last


@dataclasses.dataclass(frozen=True)
class GradientNorms:
    """A watch: the norm of the gradient of every stage, {stage: ()}."""

    every: int
    target: tuple[str, ...] = ()
    guide: tuple[str, ...] = ()

    def __call__(self, record: StepRecord) -> dict[str, jax.Array]:
        return {
            stage: jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
            for stage, tree in record.gradient.items()
            if jax.tree.leaves(tree)
        }

    def __str__(self) -> str:
        return f"gradient norm of every stage, {self.every} steps apart"


def depth_table(finished: Finished) -> dict[str, Any]:
    """A table of results.json: what `GradientNorms` read of every model at PLACES depths."""
    columns = [
        {"key": "model", "label": "model", "unit": ""},
        {"key": "stage", "label": "stage", "unit": ""},
        {"key": "early", "label": "early", "unit": "loss"},
        {"key": "late", "label": "late", "unit": "loss"},
    ]
    return {
        "title": "Gradients by depth",
        "note": "Norm of a stage's gradient, seed 0, at the first and the last reading.",
        "columns": columns,
        "rows": [row for arm in finished.arms for row in _readings(arm, finished.rows)],
    }


def _readings(arm: Arm, rows: list[Row]) -> list[Row]:
    mine = [row for row in rows if row["kind"] == "watch" and row["model"] == arm.name]
    mine = [row for row in mine if row["seed"] == 0]
    stages = [name for name in arm.net.names if mine and name in mine[0]]
    if not stages:
        return []
    shown = dict.fromkeys(stages[i * (len(stages) - 1) // (PLACES - 1)] for i in range(PLACES))
    return [
        {"model": arm.name, "stage": stage, "early": mine[0][stage], "late": mine[-1][stage]}
        for stage in shown
    ]
