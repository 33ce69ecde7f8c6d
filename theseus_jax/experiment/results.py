"""results.json: built from the rows of metrics.jsonl and from measured costs; nothing is kept in memory between arms."""
from __future__ import annotations

import math
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import cost
from theseus_jax.nets.decode import initial_carries, state_bytes, step
from theseus_jax.nets.stage import Network, forward
from theseus_jax.trees import parameter_count

CONTEXTS = (128, 1024, 8192)


def network_cost(net: Network, variables: dict[str, Any], context: int, *, repeats: int) -> dict[str, Any]:
    """Parameters, FLOPs per example, latency of a full forward and of one token with its state, bytes of that state.

    variables: of one seed. Latencies are microseconds at batch 1, median and interquartile range of `repeats` calls;
    the token step runs with a state of `context` tokens. FLOPs are those of one window of `context` tokens.
    """
    tokens = jnp.zeros((1, context), jnp.int32)
    whole = jax.jit(lambda variables, tokens: forward(net, variables, tokens)[0])
    one = jax.jit(lambda variables, token, carries: step(net, variables, token, carries)[0])
    full, full_spread = cost.latency(whole, variables, tokens, repeats=repeats)
    single, single_spread = cost.latency(one, variables, tokens[:, 0], initial_carries(net, 1, context), repeats=repeats)
    return {"parameters": parameter_count(variables),
            "flops_per_example": cost.flops(lambda v, t: forward(net, v, t)[0], variables, tokens),
            "latency_us": full, "latency_iqr_us": full_spread, "token_latency_us": single,
            "token_latency_iqr_us": single_spread,
            "state_bytes": {str(length): state_bytes(net, length) for length in CONTEXTS}}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error over seeds; the error of a single value is 0."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def model_record(name: str, rows: list[dict[str, Any]], costs: dict[str, Any], bytes_per_token: float) -> dict[str, Any]:
    """One entry of results.json["models"] from a model's rows and its network's costs."""
    mine = [row for row in rows if row.get("model") == name]
    losses = [row["test_loss"] for row in mine if row["kind"] == "model"]
    loss, loss_error = mean_and_error(losses)
    value, error = mean_and_error([math.exp(loss) for loss in losses])
    train = [row for row in mine if row["kind"] == "train" and row["seed"] == 0]
    phases = [row for row in mine if row["kind"] == "phase"]
    return {"name": name, "value": value, "stderr": error, "seeds": [math.exp(loss) for loss in losses],
            "loss": loss, "loss_stderr": loss_error, "losses": losses,
            "bits_per_byte": loss / math.log(2) / bytes_per_token,
            "validation_loss": mean_and_error([row["validation_loss"] for row in mine if row["kind"] == "model"])[0],
            "optimizer_steps": sum(row["optimizer_steps"] for row in phases),
            "examples_seen": sum(row["examples_seen"] for row in phases),
            "training_flops": sum(row["training_flops"] for row in train),
            "seconds": sum(row["seconds"] for row in train), **costs}


def stage_records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """results.json["stages"]: means over seeds of each alignment stage's similarity and hybrid score, in order."""
    stages = [row for row in rows if row["kind"] == "stage"]
    records = []
    for name in dict.fromkeys(row["stage"] for row in stages):
        mine = [row for row in stages if row["stage"] == name]
        value, error = mean_and_error([math.exp(row["hybrid_loss"]) for row in mine])
        raw = [row["hybrid_raw_loss"] for row in mine if "hybrid_raw_loss" in row]
        records.append({
            "stage": name, "guide_stage": mine[0]["guide_stage"],
            "similarity": {"cka_debiased": mean_and_error([row["similarity_cka_debiased"] for row in mine])[0],
                           "mutual_knn": mean_and_error([row["similarity_mutual_knn"] for row in mine])[0]},
            "hybrid_value": value, "hybrid_stderr": error,
            "hybrid_loss": mean_and_error([row["hybrid_loss"] for row in mine])[0],
            "hybrid_raw_loss": mean_and_error(raw)[0] if raw else None, "optimizer_steps": mine[0]["optimizer_steps"]})
    return records


def claims(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the run set out to show, each with what was measured; a difference counts beyond two standard errors.

    At equal FLOPs a control counts only where it was given at least the converted network's; one seed supports no claim.
    """
    named = {model["name"]: model for model in models}
    ours, made = named["converted"], []
    for name in [name for name in named if name not in ("guide", "converted") and not name.endswith("_equal_flops")]:
        made.append(_claim(ours, named[name], f"converted beats {name} at equal optimizer steps"))
        rival = named.get(f"{name}_equal_flops", named[name])
        ratio = rival["training_flops"] / ours["training_flops"]
        if ratio >= 1:
            claim = _claim(ours, rival, f"converted beats {name} at equal training FLOPs")
            claim["measured"] += f"; {rival['name']} had {ratio:.2f} x the converted network's training FLOPs"
            made.append(claim)
    guide = named["guide"]
    small, large = ours["state_bytes"]["8192"], guide["state_bytes"]["8192"]
    made.append({"text": "converted carries less state than the guide at 8192 tokens of context", "holds": small < large,
                 "measured": f"{small:,} bytes against {large:,}, from the shapes of one sequence's state"})
    return made


def _claim(ours: dict[str, Any], rival: dict[str, Any], text: str) -> dict[str, Any]:
    gap = rival["loss"] - ours["loss"]
    error = math.hypot(ours["loss_stderr"], rival["loss_stderr"])
    return {"text": text, "holds": bool(len(ours["losses"]) > 1 and gap > 2 * error),
            "measured": f"{ours['loss']:.4f} against {rival['loss']:.4f} nats per token: {gap:+.4f} with a standard error of "
                        f"{error:.4f} over {len(ours['losses'])} seeds"}
