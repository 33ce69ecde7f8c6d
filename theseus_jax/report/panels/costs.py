"""What using the models takes: parameters, FLOPs, latencies, and state kept between tokens."""

from theseus_jax.report import canvas, grid, standing, units
from theseus_jax.report.canvas import Line, Plot
from theseus_jax.report.panel import Grid, Panel, Picture, Run
from theseus_jax.report.standing import Model, Results

STATES = {"128": "state 128", "1024": "state 1k", "8192": "state 8k"}  # tokens of context
# label, key, unit, title in the picture, of those that are in it
COSTS = (
    ("params", "parameters", "count", "parameters"),
    ("in adapters", "adapter_parameters", "count", ""),
    ("FLOPs/ex.", "flops_per_example", "count", "FLOPs of one example"),
    ("forward", "latency_us", "us", "latency of one example"),
    ("1 token", "token_latency_us", "us", "latency of one token"),
    *((label, label, "bytes", "") for label in ("state 128", "state 1k")),
    ("state 8k", "state 8k", "bytes", "state at 8k tokens"),
)


def networks(results: Results) -> list[Model]:
    """Models of different costs; "alike": the names of others whose costs are the same."""
    adapted = any(model.get("adapter_parameters") for model in results["models"])
    shown: dict[str, Model] = {}
    for model in standing.ordered(results):
        sizes = model.get("state_bytes") or {}
        record = model | {label: sizes.get(tokens) for tokens, label in STATES.items()}
        record |= {"alike": []} | ({} if adapted else {"adapter_parameters": None})
        costs = repr([record.get(key) for _, key, _, _ in COSTS])
        shown.setdefault(costs, record)["alike"].append(model["name"])
    return list(shown.values())


def grids(run: Run) -> list[Grid]:
    """One row a network."""
    rows, best = networks(run.results), standing.best(run.results, "ours") or {}
    content = grid.of(rows, (("model", "name", ""), *(cost[:3] for cost in COSTS)))
    parts = ["One example; latencies are medians at batch 1"]
    if set(STATES.values()) & set(content.header):
        parts.append("state: bytes kept between tokens at a context of so many")
    alike = [row["alike"] for row in rows if len(row["alike"]) > 1]
    parts += [f"{', '.join(names)}: as {first}" for first, *names in alike]
    return [content._replace(bold=(best.get("name"),), note=f"{'; '.join(parts)}.")]


def pictures(run: Run) -> list[Picture]:
    """Axes a cost, a dot a model."""
    models, plots = networks(run.results), []
    names = {"yticks": range(len(models)), "yticklabels": [model["name"] for model in models]}
    names |= {"ylim": (len(models) - 0.5, -0.5)}
    for _, key, unit, title in (cost for cost in COSTS if cost[3]):
        known = [(i, model) for i, model in enumerate(models) if units.measured(model.get(key))]
        most, lines = max((model[key] for _, model in known), default=0), []
        for i, model in known:
            half = (model.get(key.replace("_us", "_iqr_us")) or 0.0) / 2 if unit == "us" else 0.0
            style = {"marker": "o", "markersize": 7}
            lines.append(Line([model[key]], [i], canvas.color(model["name"]), None, style))
            ends = [model[key] - half, model[key] + half]
            lines += [Line(ends, [i, i], canvas.INK)] * (half > 0)
        settings = names | {"title": title, "xlim": (0, 1.2 * most or 1), "xticks": (0, most)}
        plots += [Plot(lines, settings, units.UNITS[unit])] if lines else []
    text = "One example at batch 1; latencies are medians, whiskers interquartile ranges."
    return [(canvas.chart([plots], [0.4 + 0.3 * len(models)], "Costs of use"), text)]


PANEL = Panel("Cost of use", pictures=pictures, grids=grids)
