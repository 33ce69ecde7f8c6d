"""Tables and claims of a run of plasticity (metrics: arXiv 2605.15435, section 4)."""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np

from theseus_jax.arms import Finished, Row
from theseus_jax.judging import judge
from theseus_jax.methods.claims import judged, lead
from theseus_jax.methods.plasticity.ways import INTERVENTIONS, OF_STREAMS, TICKETS
from theseus_jax.nets.sites import masks

WHEN = ("post", "exit", "end")
RIVALS = ("dense", "prune", "prune_no_rewind")
RATIOS = ("active", "credit", "incoming", "outgoing")


def results(finished: Finished) -> dict[str, Any]:
    """Claims, and the tables of cycles, cohorts and tickets."""
    key = finished.task.compared.key
    curves = {arm.name: _curves(finished.rows, arm.name, key) for arm in finished.arms}
    cohorts = {arm.name: log_parities(finished.rows, arm.name) for arm in finished.arms}
    tables = {
        "cycles": _cycle_table(finished, curves),
        "cohorts": _cohort_table(cohorts),
        "pruned": _pruned_table(finished),
    }
    return {
        "claims": [
            *_last(finished),
            *_means(curves, finished.task.compared.sign),
            *_tickets(finished),
            *_credit(cohorts),
        ],
        "tables": {name: table for name, table in tables.items() if table["rows"]},
    }


def _curves(rows: Sequence[Row], model: str, key: str) -> np.ndarray:
    """(S, cycles): the score at every cycle's end."""
    mine = [row for row in rows if row["kind"] == "cycle" and row["model"] == model]
    mine.sort(key=lambda row: row["cycle"])
    seeds = sorted({row["seed"] for row in mine})
    return np.asarray([[row[key] for row in mine if row["seed"] == seed] for seed in seeds])


def log_parities(rows: Sequence[Row], model: str) -> dict[tuple[str, str], np.ndarray]:
    """{(when, quantity): (S,)}: log of newborn over incumbent means, its mean over sites and cycles
    for every seed; seeds without a cohort are left out.
    """
    mine = [row for row in rows if row["kind"] == "cohorts" and row["model"] == model]
    found = {}
    for when in WHEN:
        for name in RATIOS:
            here = [row for row in mine if row["when"] == when]
            logs = _log_ratios(here, f"newborn_{name}", f"incumbent_{name}")
            if len(logs):
                found[when, name] = logs
    return found


def _log_ratios(rows: Sequence[Row], over: str, under: str) -> np.ndarray:
    """(S,): the mean log of one key's value over another's, of every seed that has both."""
    seeds: dict[int, list[float]] = {}
    for row in rows:
        if row[over] and row[under]:  # a cohort without units has none, and 0 has no logarithm
            seeds.setdefault(row["seed"], []).append(math.log(row[over] / row[under]))
    return np.asarray([np.mean(seeds[seed]) for seed in sorted(seeds)])


def _half(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval, 0 where one value has none)."""
    found = judge(values)
    return found.mean, found.half if math.isfinite(found.half) else 0.0


def _cycle_table(finished: Finished, curves: dict[str, np.ndarray]) -> dict[str, Any]:
    models = {model["name"]: model for model in finished.models}
    stretches = getattr(finished.task, "stretches", None)
    tickets = {base: models[name] for name, base in TICKETS.items() if name in models}
    rows = []
    for arm in finished.arms:
        if arm.name in TICKETS or not curves[arm.name].size:
            continue
        curve = curves[arm.name]
        (last, spread), (mean, around) = _half(curve[:, -1]), _half(curve.mean(axis=1))
        row: Row = {"model": arm.name, "units": _units(finished, arm)}
        chosen = finished.chosen.get(arm.name if arm.search else "grow")
        row |= {"rate": f"{chosen.rate:g}" if chosen else ""}
        row |= {"acc": last, "acc_half": spread, "taa": mean, "taa_half": around}
        row |= {"online": _online(finished.rows, arm.name)}
        if stretches:
            row |= {"early": _online(finished.rows, arm.name, stretches[1])}
        if arm.name in tickets:
            ticket = tickets[arm.name]["seeds"]
            row |= {"ticket": float(np.mean(ticket)), "delta": float(np.mean(ticket) - last)}
        rows.append(row)
    unit = finished.task.compared.unit
    columns = [
        ("model", "model", ""),
        ("units", "units on at each site", ""),
        ("rate", "rate", ""),
        ("acc", "last cycle", unit),
        ("acc_half", "95 %", unit),
        ("taa", "mean over cycles", unit),
        ("taa_half", "95 %", unit),
        ("online", "over all steps", unit),
        ("early", "over early steps", unit),
        ("ticket", "ticket", unit),
        ("delta", "ticket less cycle", unit),
    ]
    note = (
        "Test score at every cycle's end (its mean is the paper's TAA); over all steps: of the"
        " training batches, before each step (the paper's TAOA); early: of those in the first fifth"
        " of each task; ticket: the final mask retrained from another start."
    )
    return _table("Cycles", note, columns, rows)


def _table(title: str, note: str, columns: Any, rows: list[Row]) -> dict[str, Any]:
    """With those columns that some row has a value of."""
    columns = [one for one in columns if any(row.get(one[0]) is not None for row in rows)]
    columns = [{"key": key, "label": label, "unit": unit} for key, label, unit in columns]
    return {"title": title, "note": note, "columns": columns, "rows": rows}


def _units(finished: Finished, arm: Any) -> str:
    live = [masks(finished.first(arm.name), site).live for site in arm.net.sites]
    return "-".join(str(int(np.asarray(one).sum())) for one in live)


def _online(rows: Sequence[Row], model: str, task: int = 0) -> float | None:
    """The mean training accuracy over all steps and seeds, those of the search left out; task: its
    steps, of whose first fifth alone the mean is.
    """
    mine = [row for row in rows if row["kind"] == "train" and row["model"] == model]
    mine = [row for row in mine if row["seed"] >= 0 and "accuracy" in row]
    steps = sorted({row["step"] for row in mine})
    lengths = dict(zip(steps, np.diff([0, *steps])))  # a row is of the steps since the one before
    if task:
        mine = [
            row for row in mine if (row["step"] - 1) % task < max(lengths[row["step"]], task / 5)
        ]
    if not mine:
        return None
    weights = [lengths[row["step"]] for row in mine]
    return float(np.average([row["accuracy"] for row in mine], weights=weights))


def _pruned_table(finished: Finished) -> dict[str, Any]:
    """What pruning kept beside what it took."""
    rows = []
    for arm in finished.arms:
        mine = [row for row in finished.rows if row["kind"] == "pruned"]
        mine = [row for row in mine if row["model"] == arm.name]
        found: Row = {"model": arm.name}
        for name in ("active", "credit"):
            logs = _log_ratios(mine, f"kept_{name}", f"pruned_{name}")
            if len(logs):
                found[name], found[f"{name}_half"] = _half(logs)
        if mine:
            rows.append({**found, "moved": float(np.mean([row["moved"] for row in mine]))})
    columns = [
        ("model", "model", ""),
        ("active", "activation", "log"),
        ("active_half", "95 %", "log"),
        ("credit", "credit", "log"),
        ("credit_half", "95 %", "log"),
        ("moved", "survivors' activation moved by", "share"),
    ]
    note = (
        "Log of kept over pruned units' means right before a prune, mean over sites and cycles; and"
        " how much the prune itself changes the share of a batch on which those that stay are"
        " active."
    )
    return _table("Kept beside pruned units", note, columns, rows)


def _cohort_table(cohorts: dict[str, dict[tuple[str, str], np.ndarray]]) -> dict[str, Any]:
    rows = []
    for model, found in cohorts.items():
        for when in WHEN:
            if (when, "credit") not in found:
                continue
            row: Row = {"model": model, "when": when}
            for name in RATIOS:
                if (when, name) in found:
                    row[name], row[f"{name}_half"] = _half(found[when, name])
            rows.append(row)
    labels = {
        "active": "activation",
        "credit": "credit",
        "incoming": "gradient in",
        "outgoing": "gradient out",
    }
    columns = [("model", "model", ""), ("when", "when", "")]
    for name in RATIOS:
        columns += [(name, labels[name], "log"), (f"{name}_half", "95 %", "log")]
    note = (
        "Log of newborn over incumbent units' means, mean over sites and cycles; 0 is parity."
        " activation: share of a batch on which a unit is active; credit: mean |loss by what it"
        " reads|; gradients: norms of those of its weights. post: right after birth; exit: before"
        " the next; end: after the last step."
    )
    return _table("Newborn beside incumbent units", note, columns, rows)


def _last(finished: Finished) -> list[Row]:
    """Growing beats what it is compared with at the last cycle, and each intervention growing."""
    models = {model["name"]: model for model in finished.models}
    duels = [("grow", rival) for rival in RIVALS] + [(name, "grow") for name in INTERVENTIONS]
    return [
        lead(models[ours], models[rival], f"{ours} beats {rival}", finished.task.compared)
        for ours, rival in duels
        if ours in models and rival in models
    ]


def _means(curves: dict[str, np.ndarray], sign: float) -> list[Row]:
    """In the mean over cycles growing beats its rivals, and what else is there beats dense."""
    duels = [("grow", rival) for rival in RIVALS]
    duels += [(name, "dense") for name in OF_STREAMS]
    made = []
    for name, rival in duels:
        if not all(one in curves and curves[one].size for one in (name, rival)):
            continue
        ours, theirs = (curves[one].mean(axis=1) for one in (name, rival))
        found = judge(sign * (ours - theirs))
        values = f"{ours.mean():.4f} against {theirs.mean():.4f}: {found}"
        made.append(judged(f"{name} beats {rival} in the mean over cycles", found, values))
    return made


def _tickets(finished: Finished) -> list[Row]:
    """The mask that growth ends with is as good a ticket as pruning's, or better."""
    models = {model["name"]: model for model in finished.models}
    if not {"grow_ticket", "prune_ticket"} <= models.keys():
        return []
    ours, theirs = (np.asarray(models[f"{name}_ticket"]["seeds"]) for name in ("grow", "prune"))
    found = judge(finished.task.compared.sign * (ours - theirs))
    values = f"{ours.mean():.4f} against {theirs.mean():.4f}: {found}"
    return [judged("grow's mask makes a better ticket than prune's", found, values)]


def _credit(cohorts: dict[str, dict[tuple[str, str], np.ndarray]]) -> list[Row]:
    """Newborn units get less credit than incumbents, and what interventions do about it."""
    made, plain = [], cohorts.get("grow", {}).get(("exit", "credit"))
    if ("post", "credit") in cohorts.get("grow", {}):
        logs = cohorts["grow"]["post", "credit"]
        found = judge(-logs)
        text = "newborn units of grow get less credit than incumbents right after birth"
        made.append(judged(text, found, f"log ratio {logs.mean():+.3f}: shortfall {found}"))
    for model, logs in cohorts.items():
        theirs = logs.get(("exit", "credit"))
        if model == "grow" or plain is None or theirs is None or len(theirs) != len(plain):
            continue
        found = judge(np.abs(plain) - np.abs(theirs))
        text = f"{model} brings newborn units nearer to parity in credit than grow"
        values = f"log ratio {theirs.mean():+.3f} against {plain.mean():+.3f} at exit;"
        values += f" nearer to 0 by {found}"
        made.append(judged(text, found, values))
    return made
