"""What a conversion's run adds to plan.txt and to results.json."""

from __future__ import annotations

import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import cost
from theseus_jax.arms import Finished, Row
from theseus_jax.methods.claims import fact, leads, recovery
from theseus_jax.methods.conversion.arms import Pair, pair_of
from theseus_jax.methods.stitch import stitch_bridge
from theseus_jax.nets.blocks.adapters import adapter_count
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Variables, forward, seams, variable_shapes
from theseus_jax.program import in_blocks
from theseus_jax.similarity import metric, samples
from theseus_jax.trees import parameter_count

LOG = logging.getLogger("theseus_jax")


def outline(config: Any, task: Any) -> list[str]:
    """Lines of plan.txt: both networks with shapes at each seam and exact parameters, the mapping
    and its stitches. Raises UserError for a seam that no bridge can stitch.
    """
    pair, lines, shapes = pair_of(config, task), [], {}
    for side, net in (("guide", pair.guide), ("target", pair.target)):
        shapes[side] = variable_shapes(net, task.example)
        work = cost.lowered_flops(
            lambda v, z, net=net: forward(net, v, z)[0], shapes[side], task.example
        )
        inside = adapter_count(shapes[side])
        adapters = f" ({inside:,} in adapters)" if inside else ""
        lines.append(
            f"{side}: {parameter_count(shapes[side]):,} parameters{adapters}, about {work:,.0f}"
            " FLOPs per example (before optimisation)"
        )
        for stage, out in zip(net.stages, seams(net, task.example).values()):
            count = parameter_count(shapes[side].get(stage.name, {}))
            values = values_and_mask(out)[0]
            shape = "x".join(map(str, ("B", *values.shape[1:])))
            lines.append(
                f"  {stage.name:<10} {type(stage.module).__name__:<14} {count:>12,} parameters   ->"
                f" {shape} {values.dtype}"
            )
    lines += pair.inside.lines()
    lines.append("seams (guide = target): " + _seams(pair))
    if config.convert.stitch == "ridge":
        lines += [f"  {_stitch(pair, shapes, seam)}" for seam in pair.mapping]
    return lines


def _seams(pair: Pair) -> str:
    return ", ".join(f"{guide} = {target}" for guide, target in pair.mapping)


def _stitch(pair: Pair, shapes: dict[str, Any], seam: tuple[str, str]) -> str:
    bridge = stitch_bridge(
        pair.target,
        shapes["target"],
        pair.guide,
        shapes["guide"],
        pair.task.example,
        seam,
        pair.config.convert.stitch_rank,
    )
    ours = seams(pair.target, pair.task.example)[seam[1]]
    count = parameter_count(jax.eval_shape(bridge.init, jax.random.key(0), ours))
    how = "position by position" if len(bridge.shape) > 1 else "vector to vector"
    how = f"rank {bridge.rank} between whole activations" if bridge.rank else how
    width = math.prod(values_and_mask(ours)[0].shape[1:])
    return (
        f"stitch {seam[1]} ({width} numbers) -> {seam[0]} ({math.prod(bridge.shape)}): {how},"
        f" {count:,} fitted numbers"
    )


def results(finished: Finished) -> dict[str, Any]:
    """Claims, and how similar the guide's stages are to each other: parts that are nearly the same
    ask for one seam, not two.
    """
    extra: dict[str, Any] = {"claims": claims(finished.models, finished.task.compared)}
    begun = begin_table(finished.rows, finished.task.compared.key)
    if begun["rows"]:
        extra["tables"] = {"begin": begun}
    if finished.config.report.guide_table:
        guide = finished.arms[0]
        held = finished.data.sets(0).validation
        table = stage_table(guide.net, finished.first(guide.name), held.inputs())
        LOG.info(
            "seams (guide = target): %s\ndebiased CKA of the guide's stages\n%s",
            _seams(pair_of(finished.config, finished.task)),
            table_text(table),
        )
        extra["guide_similarity"] = table
    return extra


def begin_table(rows: list[Row], key: str) -> dict[str, Any]:
    """What the target scores, untrained, after each edit that it begins with: means over seeds."""
    mine = [row for row in rows if row["kind"] == "begin"]
    edits = dict.fromkeys(row["edit"] for row in mine)
    name = f"validation_{key}"
    means = {
        edit: float(np.mean([row[name] for row in mine if row["edit"] == edit])) for edit in edits
    }
    columns = [
        {"key": "edit", "label": "edit", "unit": ""},
        {
            "key": "value",
            "label": f"validation {key}",
            "unit": "loss" if key == "loss" else "share",
        },
    ]
    return {
        "title": "What the target begins with",
        "note": "Before any training, after each edit in turn.",
        "columns": columns,
        "rows": [{"edit": edit, "value": mean} for edit, mean in means.items()],
    }


def claims(models: list[dict[str, Any]], compared: Any) -> list[dict[str, Any]]:
    """What the run set out to show, each with what was measured, by the rule of `judging`."""
    named = {model["name"]: model for model in models}
    guide = next(model for model in models if model["role"] == "guide")
    ours = next(model for model in models if model["role"] == "ours")
    stated = leads(models, compared)
    if "state_bytes" in ours:
        small, large = (model["state_bytes"]["8192"] for model in (ours, guide))
        stated.append(
            fact(
                f"{ours['name']} carries less state than the guide at 8192 tokens of context",
                small < large,
                f"{small:,} bytes against {large:,}, from the shapes of one sequence's state",
            )
        )
    elif "from_scratch" in named:
        stated += filter(None, [recovery(ours, guide, named["from_scratch"], compared)])
    if "probe_accuracy" in ours:
        lost = guide["probe_accuracy"] - ours["probe_accuracy"]
        stated.append(
            fact(
                f"a linear probe on {ours['name']}'s features is within 3 points of one on the"
                " guide's",
                lost <= 0.03,
                f"{ours['probe_accuracy']:.4f} against {guide['probe_accuracy']:.4f} accuracy, mean"
                " over seeds",
            )
        )
    return stated


def stage_table(net: Network, variables: Variables, x: Any) -> dict[str, Any]:
    """Debiased CKA of every two stages on inputs x (leaves (N, ...)), an example a sample:
    {"stages": names, "cka": rows}.
    """
    names = tuple(name for name in net.names if variables.get(name, {}).get("params"))[:-1]

    @jax.jit
    def measure(variables, x):
        captured = in_blocks(lambda block: forward(net, variables, block, capture=names)[1], x)
        parts = {name: values_and_mask(captured[name]) for name in names}
        rows = {
            name: samples(values, kind="pooled", mask=mask)[0]
            for name, (values, mask) in parts.items()
        }
        similarity = metric("cka_debiased")
        return jnp.stack([jnp.stack([similarity(rows[a], rows[b]) for b in names]) for a in names])

    table = np.asarray(measure(variables, x), np.float64).round(4).tolist()
    return {"stages": list(names), "cka": table}


def table_text(table: dict[str, Any]) -> str:
    """`stage_table` as text, a line a stage."""
    width = max(map(len, table["stages"]))
    return "\n".join(
        f"{name:<{width}} " + " ".join(f"{value:6.3f}" for value in row)
        for name, row in zip(table["stages"], table["cka"])
    )
