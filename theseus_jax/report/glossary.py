"""What the words of a conversion's report mean, of those that it uses."""

from __future__ import annotations

from typing import Any

WORDS = {
    "guide": "the network that is converted; it stays as it is",
    "target": "the architecture that it becomes; converted: the target after conversion",
    "seam": "where a part ends: a stage of the guide and the stage of the target that takes over its role",
    "hybrid": "the target up to a seam, and the guide from there on",
    "stitch": "a linear map fitted to carry the target's activations at a seam to the guide's, so that the hybrid can be judged",
    "claim": "holds or fails where the 95 % t interval of the differences, paired over seeds, leaves 0 out; else, or with one seed, it is undecided",
}
MODELS = {
    "from_scratch": "fresh weights, trained on the labels",
    "supervised": "from_scratch with every label that the guide had",
    "distilled": "fresh weights, trained on the guide's outputs (Hinton et al. 2015)",
    "one_shot": "all parts replaced at once, what conversion inherits copied, trained on the labels",
    "one_shot_distilled": "as one_shot, trained on the guide's outputs",
    "fitnets": "a hint at the middle seam first, then distilled (Romero et al. 2014)",
    "theseus": "parts swapped in at random, then trained on the labels (BERT-of-Theseus, Xu et al. 2020)",
    "ted": "task-aware filters of both networks, then distilled with their distance (Liang et al. 2022)",
}
LONGER = "_equal_flops"


def terms(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(word, meaning) of the words that the report of a conversion uses: the field's, and its own models'."""
    names = [model["name"] for model in results.get("models", ())]
    plain = list(dict.fromkeys(name.removesuffix(LONGER) for name in names))
    found = [(name, MODELS[name]) for name in plain if name in MODELS]
    longer = [(f"...{LONGER}", "the same, prolonged to the conversion's training FLOPs")] if any(name.endswith(LONGER) for name in names) else []
    return [*WORDS.items(), *found, *longer]
