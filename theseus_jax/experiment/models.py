"""Records of results.json from the rows of metrics.jsonl and from measured costs; nothing is kept
in memory between arms.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import jax
import numpy as np

from theseus_jax import cost
from theseus_jax.arms import Arm, Trial
from theseus_jax.nets.stage import Variables

Row = dict[str, Any]
SPENT = ("train", "stored", "conversion", "maturity", "solve")  # rows of seconds of training


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error over seeds; the error of a single value is 0."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def at_edge(chosen: Trial, points: Sequence[Trial]) -> bool:
    """Whether a chosen rate (of a solver: penalty) is the smallest or largest of several tried."""
    values = sorted({point.rate or point.decay for point in points})
    return len(values) > 1 and (chosen.rate or chosen.decay) in (values[0], values[-1])


def record(
    arm: Arm, rows: list[Row], task: Any, seeds: Sequence[int], chosen: Trial | None, data: Any
) -> Row:
    """One entry of results.json["models"] from a model's rows: scores on test data, and what
    training one seed took.

    seconds: of running compiled programs, mean over seeds. mfu: training_flops over those seconds,
    as a share of `cost.peak_flops`; None on a device that it does not know, as every CPU.
    """
    mine = [row for row in rows if row.get("model") == arm.name and row.get("seed", 0) >= 0]
    scored = [row for row in mine if row["kind"] == "model"]
    values = [task.value(_split(row, "test_")) for row in scored]
    losses = [row["test_loss"] for row in scored]
    (value, error), (loss, loss_error) = mean_and_error(values), mean_and_error(losses)
    validation = [_split(row, "validation_") for row in scored]
    entry = {
        "name": arm.name,
        "role": arm.role,
        **({"family": arm.family} if arm.family else {}),
        **({"prolongs": arm.prolongs} if arm.prolongs else {}),
        "value": value,
        "stderr": error,
        "seeds": values,
        "loss": loss,
        "loss_stderr": loss_error,
        "losses": losses,
        **{
            f"validation_{key}": mean_and_error([one[key] for one in validation])[0]
            for key in validation[0]
        },
        **_spent(arm, mine, seeds),
    }
    if arm.plan:
        examples = data.sets(0).train[arm.examples]
        count = len(jax.tree.leaves(examples)[0])
        entry["train_examples"] = count
        if isinstance(examples, dict):
            entry["labels"] = count if arm.labels else 0
    if chosen:
        entry |= {
            "learning_rate": chosen.rate or None,
            "decay": chosen.decay,
            "at_edge": at_edge(chosen, arm.search.trials),
        }
    return entry


def _split(row: Row, prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


def _spent(arm: Arm, rows: list[Row], seeds: Sequence[int]) -> Row:
    """Steps, examples, FLOPs and seconds of training one seed: means over seeds."""
    phases = [row for row in rows if row["kind"] == "phase"]
    solved = [row for row in rows if row["kind"] == "solve"]
    runs = len(seeds) if arm.apart else 1  # which wrote a row a phase
    examples = round(sum(row["examples_seen"] for row in phases) / runs)
    each = [
        [row for row in rows if row["kind"] in SPENT and row.get("seed", seed) == seed]
        for seed in seeds
    ]
    steps = sum(row["optimizer_steps"] for row in phases) / runs
    steps += sum(row.get("iterations", 0) for own in each for row in own) / len(seeds)
    flops = sum(row.get("training_flops", 0.0) for own in each for row in own) / len(seeds)
    seconds = [sum(row["seconds"] + row.get("before_seconds", 0.0) for row in own) for own in each]
    mean = float(np.mean(seconds))
    peak = cost.peak_flops(jax.devices()[0].device_kind)
    return {
        "optimizer_steps": round(steps),
        "examples_seen": examples,
        "training_flops": None if solved else flops,
        "seconds": mean,
        "seconds_seeds": seconds,
        "step_us": _step_us([row for row in rows if row["kind"] == "train"]),
        "examples_per_second": examples / mean if mean and phases else None,
        "mfu": flops / mean / peak if mean and peak and not solved else None,
    }


def _step_us(train: Sequence[Row]) -> float | None:
    """Median over chunks of the microseconds a step, of the last phase."""
    last = [row for row in train if row["phase"] == train[-1]["phase"]]
    times, before = [], {}
    for row in last:
        steps = row["step"] - before.get(row["seed"], 0)
        before[row["seed"]] = row["step"]
        times.append(1e6 * row["seconds"] / steps)
    return float(np.median(times)) if times else None


def costs(
    arms: Sequence[Arm], done: dict[str, Variables], task: Any, repeats: int
) -> list[dict[str, Any]]:
    """What using each arm's network takes; equal networks are measured once."""
    known: dict[Any, dict[str, Any]] = {}
    for arm in arms:
        if arm.net not in known:
            first = jax.tree.map(lambda leaf: leaf[0], done[arm.name])
            known[arm.net] = task.costs(arm.net, first, repeats)
    held = [{} if arm.parameters is None else {"parameters": arm.parameters} for arm in arms]
    return [known[arm.net] | own for arm, own in zip(arms, held)]


def stages(rows: list[Row], task: Any) -> list[Row]:
    """results.json["stages"]: means over seeds of each alignment stage's similarity and of its
    hybrid's scores, for every model in order.
    """
    measured = [row for row in rows if row["kind"] == "stage" and row.get("seed", 0) >= 0]
    records = []
    for model, name in dict.fromkeys((row["model"], row["stage"]) for row in measured):
        mine = [row for row in measured if (row["model"], row["stage"]) == (model, name)]
        value, error = mean_and_error([task.value(_split(row, "hybrid_")) for row in mine])

        def mean(key: str) -> float | None:
            values = [row[key] for row in mine if key in row]
            return mean_and_error(values)[0] if values else None

        records.append(
            {
                "stage": name,
                "model": model,
                "guide_stage": mine[0]["guide_stage"],
                "similarity": {
                    key: mean(f"similarity_{key}") for key in ("cka_debiased", "mutual_knn")
                },
                "hybrid_value": value,
                "hybrid_stderr": error,
                **{
                    key: mean(key)
                    for key in (
                        "hybrid_loss",
                        "hybrid_raw_loss",
                        "hybrid_raw_accuracy",
                        "hybrid_moving_accuracy",
                    )
                },
                "stitch_parameters": mine[0]["stitch_parameters"],
                "optimizer_steps": mine[0]["optimizer_steps"],
            }
        )
    return records
