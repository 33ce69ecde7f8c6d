"""Runs of task "classification": accuracy in percent, the data they saw, and the seams of their mapping."""

from __future__ import annotations

from typing import Any

from theseus_jax.report import units

SHARE = "for conversion and controls"


def classifies(results: dict[str, Any]) -> bool:
    """True for a run of task "classification", whose scores are accuracies in [0, 1]."""
    return results.get("task") == "classification" and results.get("metric") == "accuracy"


def percent(share: Any, decimals: int = 1) -> str:
    """0.873 -> "87.3 %"."""
    return f"{units.number(100 * share, decimals)} %" if units.measured(share) else units.number(share)


def percent_spread(share: Any, error: Any, count: int) -> str:
    """ "87.3 % +- 0.2" (mean and standard error over `count` seeds), or "87.3 % one seed"."""
    error = 100 * error if units.measured(error) else error
    if not units.measured(share):
        return units.number(share)
    figure, space, rest = units.spread(100 * share, error, count, 1).partition(" ")
    return f"{figure} %{space}{rest}"


def points(difference: Any) -> str:
    """A difference of accuracies in percentage points: 0.032 -> "+3.2"."""
    return f"{100 * difference:+.1f}" if units.measured(difference) else units.number(difference)


def recalibration(stage: dict[str, Any]) -> float | None:
    """What recalibrated batch-norm statistics gained a hybrid over moving averages, in accuracy; None if unknown."""
    after, before = stage.get("hybrid_value"), stage.get("hybrid_moving_accuracy")
    return after - before if units.measured(after) and units.measured(before) else None


def seams(results: dict[str, Any]) -> dict[str, str]:
    """Guide stage -> target stage, for every pair that a stage of the run was measured at."""
    return {
        str(stage["guide_stage"]): str(stage.get("stage"))
        for stage in results.get("stages") or ()
        if stage.get("guide_stage") is not None
    }


def guide_similarity(results: dict[str, Any]) -> tuple[list[str], list[list[float]]] | None:
    """(names, square matrix of debiased CKA of every two stages of the guide); nan where not measured.

    None where the run has none, or one of another shape.
    """
    table = results.get("guide_similarity") or {}
    names, rows = [str(name) for name in table.get("stages") or ()], table.get("cka") or ()
    if not names or len(rows) != len(names) or any(len(row) != len(names) for row in rows):
        return None
    return names, [[value if units.measured(value) else float("nan") for value in row] for row in rows]


def reads_unlabelled(results: dict[str, Any]) -> bool:
    """Whether a model could use more examples than the share, without labels."""
    share = (results.get("data") or {}).get("train_examples")
    used = [m.get("train_examples") for m in results["models"] if m.get("labels") == 0]
    return units.measured(share) and any(units.measured(value) and value > share for value in used)


def data_facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of the data, named in words, in the order to read it; unknown keys as they are, at the end."""
    data = dict(results.get("data") or {})
    classes, share, whole = (data.pop(k, None) for k in ("classes", "train_examples", "guide_train_examples"))
    facts = [("name", str(data.pop("name")))] if "name" in data else []
    if isinstance(classes, (list, tuple)):
        shown = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
        facts.append(("classes", f"{len(classes)}: {shown}"))
    facts += [("training examples", counted(whole))] if whole is not None else []
    if share is not None and share != whole:
        facts.append((f"of these {'labelled ' if reads_unlabelled(results) else ''}{SHARE}", counted(share)))
    for key, words in (("validation_examples", "validation examples"), ("eval_examples", "test examples")):
        facts += [(words, counted(data.pop(key)))] if key in data else []
    facts += [(key, str(data.pop(key))) for key in ("sha256", "note") if data.get(key)]
    return facts + [(key, str(value)) for key, value in data.items()]


def data_line(results: dict[str, Any]) -> str:
    """The data in one sentence of plain text, the sha256 shortened to 12 digits; "" where nothing is known."""
    facts = dict(data_facts(results))
    parts = [facts[key] for key in ("name",) if key in facts]
    if "classes" in facts:
        parts.append(f"{facts['classes'].split(':')[0]} classes")
    parts += [f"{facts['training examples']} training examples"] if "training examples" in facts else []
    parts += [f"{facts[key]} {key}" for key in facts if key.endswith(SHARE)]
    parts += [f"{facts[key]} {key.split()[0]}" for key in ("validation examples", "test examples") if key in facts]
    parts += [f"sha256 {facts['sha256'][:12]}"] if "sha256" in facts else []
    return "; ".join([", ".join(parts), *([facts["note"]] if "note" in facts else [])]) if parts else ""


def training_data(results: dict[str, Any], model: dict[str, Any]) -> str:
    """What a model was trained on: "2,000 of 54,000 training examples of digits, without their labels"."""
    data = results.get("data") or {}
    used = model.get("train_examples", data.get("train_examples"))
    whole, labels = data.get("guide_train_examples"), model.get("labels")
    text = "the training examples" if used is None else f"{counted(used)} training examples"
    if used is not None and whole is not None and used != whole:
        text = f"{counted(used)} of {counted(whole)} training examples"
    text += f" of {data['name']}" if data.get("name") else ""
    if labels == 0:
        return f"{text}, without their labels"
    return f"{text}, {counted(labels)} of them with labels" if labels is not None and labels != used else text


def counted(value: Any) -> str:
    """54000 -> "54,000"."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else units.number(value, 0)
