"""How the models of a run stand to each other: their order and scores, and who is better."""

import math
from typing import Any, Sequence

from theseus_jax.judging import Judged, judge
from theseus_jax.report import units

Model = dict[str, Any]
Results = dict[str, Any]
# What the best of several models is chosen by, the first that is recorded; 1: higher is better
CHOSEN_BY = {"validation_score": 1, "validation_accuracy": 1, "validation_loss": -1}


def named(results: Results, name: str) -> Model:
    """The model of that name, or an empty dict."""
    return next((model for model in results["models"] if model["name"] == name), {})


def of_role(results: Results, role: str) -> list[Model]:
    """The models of that role, as they were run."""
    return [model for model in results["models"] if model.get("role") == role]


def ordered(results: Results) -> list[Model]:
    """Guides first, then families together: those with models of ours first, and ours in each."""
    models = [*of_role(results, "ours"), *results["models"]]
    families = list(dict.fromkeys(model.get("family", "") for model in models))
    ranks = {model["name"]: families.index(model.get("family", "")) for model in models}
    order = sorted(results["models"], key=lambda model: model.get("role") != "ours")
    return sorted(order, key=lambda m: (m.get("role") != "guide", ranks[m["name"]]))


def scale(results: Results) -> tuple[int, int, str]:
    """(factor, decimals, unit) of scores: accuracies are percentages."""
    if results["metric"] == "accuracy":
        return 100, 1, " %"
    return 1, 2 if results["metric"] == "perplexity" else 4, ""


def score(results: Results, value: Any, error: Any, count: int) -> str:
    """A value of the run's metric with its spread over `count` seeds."""
    factor, decimals, unit = scale(results)
    scaled = (factor * each if units.measured(each) else each for each in (value, error))
    return units.spread(*scaled, count, decimals, unit)


def model_score(results: Results, model: Model) -> str:
    """`score` of a model's record."""
    return score(results, model.get("value"), model.get("stderr"), seed_count(model))


def level(results: Results, value: Any) -> str:
    """A single score, with the decimals that tell seeds apart."""
    _, decimals, unit = scale(results)
    return units.percent(value, 2) if unit else units.number(value, decimals)


def seed_count(model: Model) -> int:
    """Seeds behind a model's value; where none are listed, one unless it has a standard error."""
    return len(model.get("seeds") or ()) or (2 if model.get("stderr") else 1)


def sign(results: Results) -> int:
    """1 where a higher score is better, else -1."""
    return 1 if results.get("higher_is_better") else -1


def loss_unit(results: Results) -> str:
    """Unit of every loss of the run."""
    return "nats per token" if results["metric"] == "perplexity" else "nats"


def chosen_by(models: Sequence[Model]) -> str:
    """The key by which the best is chosen, "value" (on test data) if no other is recorded."""
    return next((k for k in CHOSEN_BY if any(units.measured(m.get(k)) for m in models)), "value")


def best(results: Results, role: str) -> Model | None:
    """The best model of a role by `chosen_by`, the first of equals; None where none has a score."""
    key = chosen_by(of_role(results, role))
    better = CHOSEN_BY.get(key, sign(results))
    known = [model for model in of_role(results, role) if units.measured(model.get(key))]
    return max(known, key=lambda model: better * model[key], default=None)


def difference(results: Results) -> tuple[Model, Model, Judged] | None:
    """The best of ours, the best rival and ours - rival on test data; None if no seed has both."""
    ours, rival = best(results, "ours") or {}, best(results, "rival") or {}
    # perplexities are compared by their logarithms, the losses, as the claims of a run are
    log = results["metric"] == "perplexity"
    pairs = zip(ours.get("seeds") or (), rival.get("seeds") or ())
    known = [pair for pair in pairs if all(units.measured(v) and (v > 0 or not log) for v in pair)]
    values = [[math.log(value) if log else value for value in pair] for pair in known]
    return (ours, rival, judge(sign(results) * (a - b) for a, b in values)) if values else None


def difference_words(results: Results, ours: Model, rival: Model, judged: Judged) -> str:
    """Size, direction and verdict by the rule of the run's claims."""
    (mean, half, count), (factor, _, percent) = judged, scale(results)
    unit = " points" if percent else f" {loss_unit(results)}" * (gap_unit(results) == "loss")
    sizes = factor * abs(mean), factor * half if count > 1 else None
    text = units.spread(*sizes, count, 1 if percent else 4).removesuffix(" one seed") + unit
    text += f" in favour of {(ours if mean > 0 else rival)['name']}" if mean else ""
    over = f" (95 % over {count} paired seeds)" if count > 1 else ""
    return f"{text}{over}: {judged.words(ours['name'], rival['name'])}"


def gap_unit(results: Results) -> str:
    """What the gap between from_scratch and guide is measured in, as in the run's claims."""
    return "loss" if results["metric"] == "perplexity" else str(results["metric"])


def gap_recovered(results: Results, model: Model | None) -> float | None:
    """(model - from_scratch) / (guide - from_scratch); None if the guide is no better than that."""
    key, direction = ("loss", -1) if gap_unit(results) == "loss" else ("value", sign(results))
    guide = (of_role(results, "guide") or [{}])[0]
    values = [each.get(key) for each in (guide, model or {}, named(results, "from_scratch"))]
    if not all(map(units.measured, values)):
        return None
    top, ours, scratch = (direction * value for value in values)
    return (ours - scratch) / (top - scratch) if top > scratch else None


def declared(results: Results) -> list[tuple[list[str], float]]:
    """(models, validation score that every seed of each reaches), highest first."""
    scores: dict[float, list[str]] = {}
    for name, value in (results.get("declared") or {}).items():
        if units.measured(value):
            scores.setdefault(value, []).append(name)
    return [(names, value) for value, names in sorted(scores.items(), reverse=True)]


def score_name(results: Results) -> str:
    """What the validation score is, which is higher for a better model whatever the metric."""
    minus = "" if results.get("higher_is_better") else f" (minus the {results['metric']})"
    return f"validation score{minus}"
