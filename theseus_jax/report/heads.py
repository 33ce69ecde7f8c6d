"""Runs of task "head": GLAI and its rivals on the same features, in groups, compared seed by seed."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

from theseus_jax.judging import UNDECIDED, Judged, judge
from theseus_jax.report import units

FAMILIES = ("GLAI", "MLP", "linear", "other")
Model = dict[str, Any]


class Difference(NamedTuple):
    """ours - rival on test data, over paired seeds: > 0 if ours is better."""

    ours: Model
    rival: Model
    judged: Judged


def compares_heads(results: dict[str, Any]) -> bool:
    """True for a run of task "head"."""
    return results.get("task") == "head"


def family(model: str) -> str:
    """The group of FAMILIES an arm belongs to, by its name."""
    if model.startswith("glai"):
        return "GLAI"
    if model.startswith(("mlp", "low_rank")):
        return "MLP"
    return "linear" if model.startswith(("linear", "logistic", "ridge")) else "other"


def grouped(models: Sequence[Model]) -> list[Model]:
    """Families one after the other, the models of each as they were run."""
    return sorted(models, key=lambda model: FAMILIES.index(family(model["name"])))


def best(results: dict[str, Any], ours: bool) -> Model | None:
    """The best GLAI arm (ours) or the best other arm, by mean validation score; the first of equals.

    By the test score where no validation score is recorded; None where nothing finite is.
    """
    sign = 1 if results.get("higher_is_better") else -1
    candidates = [model for model in results["models"] if (family(model["name"]) == "GLAI") == ours]
    for key, direction in (("validation_score", 1), ("value", sign)):
        known = [model for model in candidates if units.measured(model.get(key))]
        if known:
            return max(known, key=lambda model: direction * model[key])
    return None


def difference(results: dict[str, Any]) -> Difference | None:
    """The best GLAI arm less the best rival; None where one is missing or no seed has a score in both."""
    ours, rival = best(results, True), best(results, False)
    if ours is None or rival is None:
        return None
    sign = 1 if results.get("higher_is_better") else -1
    pairs = [
        sign * (mine - other)
        for mine, other in zip(ours.get("seeds") or (), rival.get("seeds") or ())
        if units.measured(mine) and units.measured(other)
    ]
    if not pairs:
        return None
    return Difference(ours, rival, judge(pairs))


def verdict(found: Difference) -> str:
    """What a difference says, in words, by the rule of the run's claims."""
    if found.judged.count == 1:
        return "one seed decides nothing"
    if found.judged.verdict == UNDECIDED:
        return "an interval that holds 0, so these seeds do not tell them apart"
    better = found.ours if found.judged.mean > 0 else found.rival
    return f"an interval without 0, so {better['name']} is better"


def difference_text(found: Difference, signed: bool = True) -> str:
    """ "+0.0100 +- 0.0058", with more decimals where the interval needs them."""
    mean, half, count = found.judged
    text = units.spread(mean if signed else abs(mean), half if count > 1 else None, count, 4).removesuffix(" one seed")
    return f"+{text}" if signed and mean >= 0 else text


def score_name(results: dict[str, Any]) -> str:
    """What the validation score is, which is higher for a better arm whatever the metric."""
    metric = results["metric"]
    return "validation score" if results.get("higher_is_better") else f"validation score (minus the {metric})"


def declared(results: dict[str, Any]) -> list[tuple[list[str], float]]:
    """(models, validation score that every seed of each reaches), highest first; equal scores are one."""
    scores: dict[float, list[str]] = {}
    for name, value in (results.get("declared") or {}).items():
        if units.measured(value):
            scores.setdefault(value, []).append(name)
    return [(names, value) for value, names in sorted(scores.items(), reverse=True)]


def declared_text(results: dict[str, Any]) -> str:
    """ "mlp_sgd 0.9638, mlp_adam 0.9412"."""
    return ", ".join(f"{' and '.join(names)} {value:.4f}" for names, value in declared(results))


def fastest(results: dict[str, Any], name: str, ours: bool) -> Model | None:
    """The GLAI arm (ours) or other arm that is soonest, in the mean, to the declared score of `name`.

    Only arms of which every seed gets there are timed; None where there is none.
    """
    timed = [
        model
        for model in results["models"]
        if (family(model["name"]) == "GLAI") == ours and units.measured(model.get(f"seconds_to_{name}"))
    ]
    return min(timed, key=lambda model: model[f"seconds_to_{name}"], default=None)
