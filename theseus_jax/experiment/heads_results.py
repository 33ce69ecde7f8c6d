"""results.json of a comparison of heads: scores, time to a declared score, time a step, parameters, and claims."""
from __future__ import annotations

import math
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import cost
from theseus_jax.experiment.claims import fact, judged
from theseus_jax.judging import judge
from theseus_jax.data.labelled import DataSet
from theseus_jax.experiment.heads_setup import SOLVED, Facts, Trial, budget_of, deployed_parameters, epoch_steps, trials
from theseus_jax.experiment.results import mean_and_error
from theseus_jax.experiment.workdir import Workdir
from theseus_jax.nets.stage import Network, Variables, forward

DECLARED = ("mlp_sgd", "mlp_adam")  # times are measured to the best validation score that every seed of these reaches
COUNTED = ("train", "conversion", "stored", "maturity")  # rows whose seconds are training time
Row = dict[str, Any]


def collect(config: Any, facts: Facts, home: Workdir, data: DataSet, chosen: dict[str, Trial],
            made: dict[str, tuple[Network, Variables]]) -> dict[str, Any]:
    """The content of results.json but for schema, task, device and seconds."""
    rows = [row for row in home.records.read() if row.get("seed", -1) >= 0]
    contrast = config.head.loss == "infonce"
    curves = {arm: [curve(rows, arm, seed) for seed in range(config.seeds)] for arm in made}
    declared = {name: min(max(score for _, score in one) for one in curves[name]) for name in DECLARED if name in curves}
    models = []
    for arm in made:
        net, variables = made[arm]
        found = _model(rows, arm, config.seeds, contrast)
        found |= _costs(config, facts, arm, net, jax.tree.map(lambda leaf: leaf[0], variables), config.report.latency_repeats)
        found |= {"learning_rate": chosen[arm].rate or None, "decay": chosen[arm].decay,
                  "at_edge": at_edge(chosen[arm], trials(config, arm))}
        for name, target in declared.items():
            times = [reached(one, target - config.report.slack) for one in curves[arm]]
            found[f"seconds_to_{name}"] = float(np.mean(times)) if None not in times else None
            found[f"seconds_to_{name}_seeds"] = times
            found[f"reached_{name}"] = sum(time is not None for time in times)
        models.append(found)
    spent = budget_of(config, facts)
    return {"metric": "loss" if contrast else "accuracy", "higher_is_better": not contrast,
            "chance": None if contrast else 1 / facts.outputs, "models": models, "stages": [],
            "data": {"name": data.name, "sha256": data.sha256, "note": data.note, "train_examples": len(data.train.y),
                     "validation_examples": len(data.validation.y), "eval_examples": len(data.test.y)},
            "budget": spent._asdict(), "declared": declared,
            "conversions": [row for row in rows if row["kind"] == "conversion"],
            "selector_epochs": _selector_epochs(rows, epoch_steps(config, facts)),
            "claims": claims(models, rows, len(data.test.y))}


def curve(rows: Sequence[Row], arm: str, seed: int) -> list[tuple[float, float]]:
    """(seconds of training so far, validation score) of each check of one seed of an arm, in order; a solver has one."""
    mine = [row for row in rows if row.get("model") == arm and row["seed"] == seed]
    if arm in SOLVED:
        before = _before_estimator(rows, seed) if arm.startswith("glai") else 0.0
        seconds = sum(row["seconds"] for row in mine if row["kind"] == "solve")
        return [(before + seconds, row["validation_score"]) for row in mine if row["kind"] == "model"]
    points, seconds = [], 0.0
    for row in mine:
        if row["kind"] in COUNTED:
            seconds += row["seconds"]
        if row["kind"] == "score" and row["phase"] != "selector":
            points.append((seconds, row["score"]))
    return points


def _before_estimator(rows: Sequence[Row], seed: int) -> float:
    mine = [row for row in rows if row.get("model") == "glai_joint" and row["seed"] == seed]
    return sum(row["seconds"] for row in mine if row["kind"] in ("conversion", "maturity") or
               row["kind"] == "train" and row["phase"] == "selector")


def reached(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Seconds until the first check at or above the target, None if there is none."""
    return next((seconds for seconds, score in points if score >= target), None)


def _model(rows: Sequence[Row], arm: str, seeds: int, contrast: bool) -> Row:
    mine = [row for row in rows if row.get("model") == arm]
    scores = [row["test_loss" if contrast else "test_score"] for row in mine if row["kind"] == "model"]
    losses = [row["test_loss"] for row in mine if row["kind"] == "model"]
    (value, error), (loss, loss_error) = mean_and_error(scores), mean_and_error(losses)
    train = [row for row in mine if row["kind"] == "train"]
    last = [row for row in train if row["phase"] != "selector"]
    steps = sum(row["optimizer_steps"] for row in mine if row["kind"] == "phase")
    examples = sum(row["examples_seen"] for row in mine if row["kind"] == "phase")
    iterations = sum(row["iterations"] for row in mine if row["kind"] == "solve")
    seconds = [_total(rows, arm, seed) for seed in range(seeds)]
    return {"name": arm, "value": value, "stderr": error, "seeds": scores,
            "loss": loss, "loss_stderr": loss_error, "losses": losses,
            "validation_score": mean_and_error([row["validation_score"] for row in mine if row["kind"] == "model"])[0],
            "optimizer_steps": round((steps + iterations) / seeds), "examples_seen": round(examples / seeds),
            "training_flops": sum(row.get("training_flops", 0.0) for row in mine) / seeds or None,
            "seconds": float(np.mean(seconds)), "seconds_seeds": seconds, "step_us": _step_us(last)}


def _total(rows: Sequence[Row], arm: str, seed: int) -> float:
    mine = [row for row in rows if row.get("model") == arm and row["seed"] == seed]
    before = _before_estimator(rows, seed) if arm.startswith("glai_joint_") else 0.0
    return before + sum(row["seconds"] for row in mine if row["kind"] in (*COUNTED, "solve"))


def _step_us(train: Sequence[Row]) -> float | None:
    """Median over chunks (an epoch each) of the microseconds a step, of the last phase."""
    times, before = [], {}
    for row in train:
        steps = row["step"] - before.get(row["seed"], 0)
        before[row["seed"]] = row["step"]
        times.append(1e6 * row["seconds"] / steps)
    return float(np.median(times)) if times else None


def _costs(config: Any, facts: Facts, arm: str, net: Network, variables: Variables, repeats: int) -> Row:
    x = jnp.zeros((1, facts.inputs))
    median, spread = cost.latency(jax.jit(lambda v, x: forward(net, v, x)[0]), variables, x, repeats=repeats)
    return {"parameters": deployed_parameters(config, facts, arm, variables),
            "flops_per_example": cost.flops(lambda v, x: forward(net, v, x)[0], variables, x),
            "latency_us": median, "latency_iqr_us": spread}


def _selector_epochs(rows: Sequence[Row], steps: int) -> dict[str, list[int]]:
    """Epochs that each seed's selector was trained, by arm."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row["kind"] == "phase" and row["phase"] == "selector":
            found.setdefault(row["model"], []).append(row["optimizer_steps"] // steps)
    return found


def at_edge(chosen: Trial, points: Sequence[Trial]) -> bool:
    """Whether a chosen rate (of a solver: penalty) is the smallest or largest of several that were tried."""
    values = sorted({point.rate or point.decay for point in points})
    return len(values) > 1 and (chosen.rate or chosen.decay) in (values[0], values[-1])


def claims(models: Sequence[Row], rows: Sequence[Row], test_examples: int) -> list[Row]:
    """What a comparison set out to show, by the rule of `judging`."""
    named = {model["name"]: model for model in models}
    made = []
    receipts = [row["largest_logit_difference"] / row["largest_logit"] for row in rows if "largest_logit_difference" in row]
    if receipts:
        made.append(fact("the conversion is exact: before pruning no logit moves by more than 1e-5 of the largest",
                         max(receipts) <= 1e-5, f"{max(receipts):.1e} at most, over {len(receipts)} conversions"))
    for ours in ("glai_joint", "glai_path"):
        for rival in ("mlp_sgd", "mlp_adam", "mlp_reduced", "linear_sgd", "linear_adam", "logistic", "glai_untrained"):
            if ours in named and rival in named:
                made.append(_score_claim(named[ours], named[rival], test_examples))
        for rival in DECLARED:
            if ours in named and rival in named:
                made.append(_time_claim(named[ours], named[rival]))
    return made


def _score_claim(ours: Row, rival: Row, test_examples: int) -> Row:
    """Losses are compared where there is no accuracy: then both lists of seeds hold losses."""
    accuracy = ours["seeds"] != ours["losses"]
    found = judge((1 if accuracy else -1) * (np.asarray(ours["seeds"]) - np.asarray(rival["seeds"])))
    count = f", {found.mean * test_examples:+.1f} of {test_examples} test examples" if accuracy else ""
    return judged(f"{ours['name']} scores better than {rival['name']}", found,
                  f"{ours['value']:.4f} against {rival['value']:.4f}: {found}{count}")


def _time_claim(ours: Row, rival: Row) -> Row:
    key = f"seconds_to_{rival['name']}"
    mine, theirs = ours[f"{key}_seeds"], rival[f"{key}_seeds"]
    text = f"{ours['name']} reaches the validation score that every seed of {rival['name']} reaches, sooner than {rival['name']}"
    pairs = [(a, b) for a, b in zip(mine, theirs) if a is not None and b is not None]
    if None in mine or not pairs:
        return fact(text, False, f"reached by {len(mine) - mine.count(None)} of {len(mine)} seeds")
    found = judge(np.log([b / a for a, b in pairs]))
    low, high = (math.exp(min(found.mean + side * found.half, 99.0)) for side in (-1, 1))
    return judged(text, found, f"{math.exp(found.mean):.2f} times as fast [{low:.2f}, {high:.2f}] (geometric mean, 95 % over "
                  f"{len(pairs)} paired seeds): {np.mean([a for a, _ in pairs]):.4f} s against {np.mean([b for _, b in pairs]):.4f} s")
