"""results.json: built from the rows of metrics.jsonl and from measured costs; nothing is kept in memory between arms."""
from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import cost
from theseus_jax.nets.adapters import adapter_count
from theseus_jax.nets.decode import initial_carries, state_bytes, step
from theseus_jax.experiment.claims import fact, judged
from theseus_jax.judging import judge
from theseus_jax.nets.stage import Network, forward, values_and_mask
from theseus_jax.program import in_blocks
from theseus_jax.similarity import metric, samples
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


def training_flops(rows: list[dict[str, Any]], name: str) -> float:
    """FLOPs that training one seed of a model took, with what was computed once and kept."""
    return sum(row["training_flops"] for row in rows
               if row.get("model") == name and row["kind"] in ("train", "stored") and row.get("seed", 0) == 0)


class Compared(NamedTuple):
    """What a run's models are judged by. row: the key of a model's rows; values, value, error: those of its record that claims
    compare; sign: 1 where higher is better, -1 where lower is; unit: in words.
    """

    row: str
    values: str
    value: str
    error: str
    sign: float
    unit: str


def model_record(name: str, rows: list[dict[str, Any]], costs: dict[str, Any], compared: Compared) -> dict[str, Any]:
    """One entry of results.json["models"] from a model's rows and its network's costs: values, losses, and what training took.

    seconds: of running compiled programs, for one seed. mfu: training_flops over those seconds, as a share of
    `cost.peak_flops`; None on a device that it does not know, as every CPU.
    """
    mine = [row for row in rows if row.get("model") == name]
    final = [row for row in mine if row["kind"] == "model"]
    scores = [row[compared.row] for row in final]
    losses = [row["test_loss"] for row in final]
    value, error = mean_and_error(scores)
    loss, loss_error = mean_and_error(losses)
    spent = [row for row in mine if row["kind"] in ("train", "stored") and row.get("seed", 0) == 0]
    phases = [row for row in mine if row["kind"] == "phase"]
    seconds, seen, flops = sum(row["seconds"] for row in spent), sum(row["examples_seen"] for row in phases), training_flops(rows, name)
    peak = cost.peak_flops(jax.devices()[0].device_kind)
    return {"name": name, "value": value, "stderr": error, "seeds": scores,
            "loss": loss, "loss_stderr": loss_error, "losses": losses,
            "validation_loss": mean_and_error([row["validation_loss"] for row in final])[0],
            "optimizer_steps": sum(row["optimizer_steps"] for row in phases),
            "examples_seen": seen, "training_flops": flops, "seconds": seconds,
            "examples_per_second": seen / seconds if seconds else None,
            "mfu": flops / seconds / peak if seconds and peak else None, **costs}


def stage_records(rows: list[dict[str, Any]], score: str) -> list[dict[str, Any]]:
    """results.json["stages"]: means over seeds of each alignment stage's similarity and hybrid scores, in order.

    score: "perplexity" (of the loss) or "accuracy": what hybrid_value is.
    """
    stages = [row for row in rows if row["kind"] == "stage"]
    records = []
    for name in dict.fromkeys(row["stage"] for row in stages):
        mine = [row for row in stages if row["stage"] == name]
        values = [math.exp(row["hybrid_loss"]) if score == "perplexity" else row["hybrid_accuracy"] for row in mine]
        value, error = mean_and_error(values)

        def mean(key: str) -> float | None:
            found = [row[key] for row in mine if key in row]
            return mean_and_error(found)[0] if found else None

        records.append({
            "stage": name, "guide_stage": mine[0]["guide_stage"],
            "similarity": {"cka_debiased": mean("similarity_cka_debiased"), "mutual_knn": mean("similarity_mutual_knn")},
            "hybrid_value": value, "hybrid_stderr": error, "hybrid_loss": mean("hybrid_loss"),
            "hybrid_raw_loss": mean("hybrid_raw_loss"), "hybrid_raw_accuracy": mean("hybrid_raw_accuracy"),
            "hybrid_moving_accuracy": mean("hybrid_moving_accuracy"), "stitch_parameters": mine[0]["stitch_parameters"],
            "optimizer_steps": mine[0]["optimizer_steps"]})
    return records


def claims(models: list[dict[str, Any]], compared: Compared) -> list[dict[str, Any]]:
    """What the run set out to show, each with what was measured, by the rule of `judging`.

    At equal FLOPs a control counts only where it was given at least the converted network's.
    """
    named = {model["name"]: model for model in models}
    ours, made = named["converted"], []
    for name in [name for name in named if name not in ("guide", "converted") and not name.endswith("_equal_flops")]:
        made.append(_lead(ours, named[name], f"converted beats {name} at equal optimizer steps", compared))
        rival = named.get(f"{name}_equal_flops", named[name])
        ratio = rival["training_flops"] / ours["training_flops"]
        if ratio >= 1:
            found = _lead(ours, rival, f"converted beats {name} at equal training FLOPs", compared)
            found["measured"] += f"; {rival['name']} had {ratio:.2f} x the converted network's training FLOPs"
            made.append(found)
    if "state_bytes" in ours:
        small, large = ours["state_bytes"]["8192"], named["guide"]["state_bytes"]["8192"]
        made.append(fact("converted carries less state than the guide at 8192 tokens of context", small < large,
                         f"{small:,} bytes against {large:,}, from the shapes of one sequence's state"))
    elif "from_scratch" in named and compared.sign * (named["guide"][compared.value] - named["from_scratch"][compared.value]) > 0:
        made.append(_recovery(named, compared))
    if "probe_accuracy" in ours:
        lost = named["guide"]["probe_accuracy"] - ours["probe_accuracy"]
        made.append(fact("a linear probe on converted's features is within 3 points of one on the guide's", lost <= 0.03,
                         f"{ours['probe_accuracy']:.4f} against {named['guide']['probe_accuracy']:.4f} accuracy, mean over seeds"))
    return made


def _recovery(named: dict[str, dict[str, Any]], compared: Compared) -> dict[str, Any]:
    guide, ours, scratch = (named[name][compared.value] for name in ("guide", "converted", "from_scratch"))
    share = (ours - scratch) / (guide - scratch)
    over = [compared.sign * (a - b - (guide - b) / 2) for a, b in _pairs(named["converted"], named["from_scratch"], compared)]
    found = judge(over)
    return judged("converted recovers at least half of the gap between from_scratch and guide", found,
                  f"{share:.1%} of {scratch:.4f} to {guide:.4f} {compared.unit}; above half by {found}")


def _pairs(ours: dict[str, Any], rival: dict[str, Any], compared: Compared) -> list[tuple[float, float]]:
    """Both values of every seed; all arms of a run but the guide have the same seeds."""
    return list(zip(ours[compared.values], rival[compared.values], strict=True))


def _lead(ours: dict[str, Any], rival: dict[str, Any], text: str, compared: Compared) -> dict[str, Any]:
    found = judge([compared.sign * (a - b) for a, b in _pairs(ours, rival, compared)])
    return judged(text, found, f"{ours[compared.value]:.4f} against {rival[compared.value]:.4f} {compared.unit}: {found}")


def classifier_cost(net: Network, variables: dict[str, Any], example: Any, *, repeats: int) -> dict[str, Any]:
    """Parameters, those of them in adapters, FLOPs per example, and latency (us) of one example, median and interquartile range.

    variables: of one seed. example: one input (1, ...), ShapeDtypeStructs.
    """
    x = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), example)
    run = jax.jit(lambda variables, x: forward(net, variables, x)[0])
    median, spread = cost.latency(run, variables, x, repeats=repeats)
    return {"parameters": parameter_count(variables), "adapter_parameters": adapter_count(variables),
            "flops_per_example": cost.flops(lambda v, z: forward(net, v, z)[0], variables, x), "latency_us": median,
            "latency_iqr_us": spread}


def stage_table(net: Network, variables: dict[str, Any], x: Any) -> dict[str, Any]:
    """Debiased CKA of every two stages on inputs x (leaves (N, ...)), an example a sample: {"stages": names, "cka": rows}."""
    names = tuple(name for name in net.names if variables.get(name, {}).get("params"))[:-1]

    @jax.jit
    def measure(variables, x):
        captured = in_blocks(lambda block: forward(net, variables, block, capture=names)[1], x)
        rows = {name: samples(*values_and_mask(captured[name])[:1], kind="pooled", mask=values_and_mask(captured[name])[1])[0]
                for name in names}
        return jnp.stack([jnp.stack([metric("cka_debiased")(rows[a], rows[b]) for b in names]) for a in names])

    return {"stages": list(names), "cka": np.asarray(measure(variables, x), np.float64).round(4).tolist()}


def table_text(table: dict[str, Any]) -> str:
    """`stage_table` as text, a line a stage."""
    width = max(map(len, table["stages"]))
    return "\n".join(f"{name:<{width}} " + " ".join(f"{value:6.3f}" for value in row)
                     for name, row in zip(table["stages"], table["cka"]))
