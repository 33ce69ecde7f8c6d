"""What a guided target has in common with its guides: activations at every pair, and errors."""

from __future__ import annotations

from typing import Any, Sequence

import jax
import numpy as np

from theseus_jax.arms import GUIDE, Finished
from theseus_jax.evaluate import stage_similarity
from theseus_jax.nets.stage import init
from theseus_jax.similarity import NamedSimilarity

EXAMPLES = 256  # held-out examples that activations are compared on


def kappa(right: np.ndarray, other: np.ndarray) -> float:
    """Error consistency of two models: Cohen's kappa of which answers are right, booleans (N,).

    1: right on the same answers; 0: as often as two independent models of their accuracies; nan
    where both are all right or all wrong, and nothing is expected to differ. Geirhos et al. 2020
    (arXiv 2006.16736), equations 1 to 3.
    """
    p, q = float(np.mean(right)), float(np.mean(other))
    expected = p * q + (1 - p) * (1 - q)
    if expected == 1:
        return float("nan")
    return (float(np.mean(right == other)) - expected) / (1 - expected)


def error_table(finished: Finished) -> dict[str, Any]:
    """A table of results.json: kappa of every model with every guide, mean over seeds, on test
    answers.
    """
    held = finished.data.sets(0).test
    right = {arm.name: held.right(arm.net, finished.done[arm.name]) for arm in finished.arms}
    guides = [arm.name for arm in finished.arms if arm.role == GUIDE]
    rows = []
    for arm in finished.arms:
        each = {
            guide: np.mean([kappa(one, right[guide][0]) for one in right[arm.name]])
            for guide in guides
            if guide != arm.name
        }
        kappas = {key: float(value) for key, value in each.items() if np.isfinite(value)}
        rows.append({"model": arm.name, "right": float(right[arm.name].mean()), **kappas})
    columns = [("model", "model", ""), ("right", "right", "share")]
    columns += [(guide, f"kappa with {guide}", "similarity") for guide in guides]
    return {
        "title": "Error consistency",
        "note": "Cohen's kappa of which test answers are right, mean over seeds; 0 is what models"
        " of these accuracies share by chance.",
        "columns": [{"key": k, "label": label, "unit": unit} for k, label, unit in columns],
        "rows": rows,
    }


def pair_table(
    finished: Finished,
    pairs: Sequence[tuple[str, str]],
    measure: NamedSimilarity,
    kind: str,
    guides: dict[str, str],
) -> dict[str, Any]:
    """A table of results.json: the similarity of every pair on validation data, for a fresh target
    and for every model of the target's network, mean over seeds.

    guides: {model: the guide that it is compared with}; a fresh target is compared with "guide".
    """
    arms = {arm.name: arm for arm in finished.arms}
    net = arms[next(iter(guides))].net
    x = finished.data.sets(0).validation.inputs()
    x = jax.tree.map(lambda leaf: leaf[:EXAMPLES], x)

    def similarities(variables: Any, guide: str) -> list[float]:
        given = net, variables, arms[guide].net, finished.first(guide), x
        each = [stage_similarity(*given, pair=p, metrics=(measure,), kind=kind) for p in pairs]
        return [float(values[0].mean()) for values in each]

    fresh = init(net, jax.random.key(finished.config.seed), finished.task.example)
    held = {"fresh": similarities(jax.tree.map(lambda leaf: leaf[None], fresh), "guide")}
    held |= {name: similarities(finished.done[name], guide) for name, guide in guides.items()}
    rows = [
        {"pair": f"{g} = {t}", **{name: values[i] for name, values in held.items()}}
        for i, (g, t) in enumerate(pairs)
    ]
    columns = [("pair", "guide = target", ""), *((name, name, "similarity") for name in held)]
    return {
        "title": f"Similarity of every pair ({measure.name}, {kind})",
        "note": "On validation data, mean over seeds, with the guide that the model was given, else"
        " the trained one; fresh: the target with new weights, one draw.",
        "columns": [{"key": k, "label": label, "unit": unit} for k, label, unit in columns],
        "rows": rows,
    }
