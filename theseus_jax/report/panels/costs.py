"""What using the models takes: parameters, FLOPs, latencies, and state kept between tokens."""

from theseus_jax.report import canvas, grid, standing, units
from theseus_jax.report.canvas import Line, Plot
from theseus_jax.report.panel import Grid, Panel, Picture, Run
from theseus_jax.report.standing import Model, Results

STATES = {"128": "state 128", "1024": "state 1k", "8192": "state 8k"}  # tokens of context
# label, key, unit, title in the picture
COSTS = (
    ("params", "parameters", "count", "parameters"),
    ("in adapters", "adapter_parameters", "count", "in adapters"),
    ("FLOPs/ex.", "flops_per_example", "count", "FLOPs of one example"),
    ("forward", "latency_us", "us", "latency of one example"),
    ("1 token", "token_latency_us", "us", "latency of one token"),
    *((label, label, "bytes", f"{label} tokens") for label in STATES.values()),
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
    names |= {"ylim": (len(models) - 0.5, -0.5), "xlim": (0, None)}
    for _, key, unit, title in COSTS:
        lines, spread = [], key.replace("_us", "_iqr_us") if unit == "us" else ""
        for i, model in enumerate(models):
            value, half = model.get(key), (model.get(spread) or 0.0) / 2
            if units.measured(value):
                shade, style = canvas.color(model["name"]), {"marker": "o", "markersize": 7}
                lines.append(Line([value], [i], shade, None, style))
                lines += [Line([value - half, value + half], [i, i], canvas.INK)] * (half > 0)
        plots += [Plot(lines, names | {"title": title}, units.UNITS[unit])] if lines else []
    text = "One example at batch 1; latencies are medians, whiskers interquartile ranges."
    return [(canvas.chart([plots[:5]], [0.4 + 0.3 * len(models)], "Costs of use"), text)]


PANEL = Panel("Cost of use", pictures=pictures, grids=grids)
