"""Where a run comes from: its data, plan, config and versions."""

import json

from theseus_jax.report import units
from theseus_jax.report.panel import Grid, Listing, Panel, Run
from theseus_jax.report.standing import Results

WORDS = {
    "classes": "classes",
    "guide_train_examples": "training examples",
    "train_examples": "of these in the share",
    "validation_examples": "validation examples",
    "eval_examples": "test examples",
}


def data_facts(results: Results) -> dict[str, str]:
    """What is known of the data, named in words, in the order to read it; other keys at the end."""
    data = dict(results.get("data") or {})
    classes, whole = data.get("classes"), data.get("guide_train_examples")
    if isinstance(classes, (list, tuple)):
        first = ", ".join(map(str, classes[:20])) + ", ..." * (len(classes) > 20)
        data["classes"] = f"{len(classes)}: {first}"
    if whole is None or whole == data.get("train_examples"):
        data["guide_train_examples"] = data.pop("train_examples", None)
    order = dict.fromkeys(("name", *WORDS, "sha256", "note", *data))
    shown = {key: data[key] for key in order if data.get(key) is not None}
    return {WORDS.get(key, key): units.plain(value) for key, value in shown.items()}


def data_line(results: Results) -> str:
    """The data in one sentence with what was passed over, without its checksum; "" where nothing
    is known.
    """
    facts = data_facts(results)
    parts = [facts["name"]] if "name" in facts else []
    parts += [f"{facts['classes'].split(':')[0]} classes"] if "classes" in facts else []
    parts += [f"{facts[word]} {word}" for word in list(WORDS.values())[1:] if word in facts]
    passed = {**((results.get("data") or {}).get("passed_over") or {})}
    left = ", ".join(f"{count} {kind}" for kind, count in passed.items() if count)
    parts += [f"passed over: {left}"] if left else []
    return ", ".join(parts) + (f" ({facts['note']})" if parts and "note" in facts else "")


def listings(run: Run) -> list[Listing]:
    """Plan, config and versions behind lines to click on."""
    trees = {"Config": run.config, "Versions": run.versions}
    texts = {name: json.dumps(tree, indent=2, ensure_ascii=False) for name, tree in trees.items()}
    return [(name, text, "", True) for name, text in {"Plan": run.plan, **texts}.items()]


def grids(run: Run) -> list[Grid]:
    """The facts of the data."""
    return [Grid(("data", "what it is"), list(data_facts(run.results).items()), names=2)]


PANEL = Panel("Where this comes from", grids=grids, listings=listings, page=True)
