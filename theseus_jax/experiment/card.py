"""The card of an exported model: what it is, what it is worth, what it was made from, and where it
ends.
"""

from __future__ import annotations

from typing import Any

from theseus_jax.report.units import cell


def text(results: dict[str, Any], model: str, seed: int, known: dict[str, Any]) -> str:
    """README.md of an exported folder. known: its config.json."""
    models = {one["name"]: one for one in results["models"]}
    guide = next((one for one in models.values() if one["role"] == "guide"), None)
    rows = [models[model], *([guide] if guide and guide["name"] != model else [])]
    lines = [
        f"# {model} ({results['task']}, method {results['method']})",
        "",
        f"Seed {seed} of a run of theseus_jax {known['theseus_jax']}, exported with jax"
        f" {known['jax']} for {' and '.join(known['platforms'])}.",
        "",
        "## Scores",
        "",
        *_table(rows, results["metric"]),
        "",
        "Means over seeds, on test data that no choice has seen.",
        "",
        "## Use",
        "",
        "    from load import WEIGHTS, program" + (", state" if "state" in known else ""),
        "    outputs = program('forward')(WEIGHTS, inputs)",
    ]
    if "state" in known:
        lines += ["    logits, carried = program('step')(WEIGHTS, tokens, state(batch))"]
    inputs = ", ".join(_shape(one) for one in known["inputs"])
    lines += [
        "",
        f"inputs: {inputs}; outputs: {_shape(known['outputs'])}.",
        "load.py needs `pip install jax safetensors flatbuffers`;"
        " `theseus_jax.load(FOLDER)` gives the network itself.",
        "",
        "## Data",
        "",
        *_data(results.get("data", {})),
        "",
        "## Limits",
        "",
        *_limits(known),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]], metric: str) -> list[str]:
    keys = [
        ("loss", "test loss, nats", "loss"),
        ("value", metric, ""),
        ("parameters", "parameters", "count"),
        ("inference_flops", "FLOPs an example", "count"),
        ("latency_us", "one example", "us"),
        ("token_latency_us", "one token", "us"),
    ]
    keys = [one for one in keys if any(row.get(one[0]) is not None for row in rows)]
    lines = [
        "| model | " + " | ".join(label for _, label, _ in keys) + " |",
        "| --- |" + " --- |" * len(keys),
    ]
    for row in rows:
        cells = ["" if row.get(key) is None else cell(row[key], unit) for key, _, unit in keys]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return lines


def _shape(said: dict[str, Any]) -> str:
    return f"({', '.join(map(str, said['shape']))}) {said['dtype']}"


def _data(facts: dict[str, Any]) -> list[str]:
    named = ("name", "sha256", "tokenizer", "vocabulary", "share", "train_examples", "note")
    return [f"- {key}: {facts[key]}" for key in named if facts.get(key) not in (None, "")]


def _limits(known: dict[str, Any]) -> list[str]:
    lines = [
        "- It was trained on the data above alone, and was not looked at for what it should not say"
        " or do.",
        f"- forward reads {_shape(known['inputs'][0])} with any b; its other sizes are fixed.",
        "- There is no ONNX file: no kept converter manages the scans of these networks.",
    ]
    if "state" in known:
        lines.append(
            "- step reads on for as long as is wanted; its state has one size."
            if known["ends"] is None
            else f"- step reads on to {known['ends']} tokens."
        )
    return lines
