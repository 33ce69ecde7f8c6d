"""What the words of a report mean, of those that it uses."""

from theseus_jax.report.canvas import LONGER
from theseus_jax.report.panel import Grid, Panel, Run

CLAIM = "decided where the 95 % t interval of differences, paired over seeds, leaves 0 out"
SEAMS = {
    "target": "the architecture that the guide becomes; converted: the target after conversion",
    "seam": "a stage of the guide and the stage of the target that takes its role",
    "hybrid": "the target up to a seam, and the guide from there on",
    "stitch": "a linear map fitted to carry activations of the target at a seam to the guide's",
}
MODELS = {
    "guide": "the network that others are to learn from; it stays as it is",
    "from_scratch": "fresh weights, trained on the labels",
    "supervised": "from_scratch with every label that the guide had",
    "distilled": "fresh weights, trained on the guide's outputs (Hinton et al. 2015)",
    "one_shot": "all parts replaced at once, inherited ones copied, trained on the labels",
    "one_shot_distilled": "as one_shot, trained on the guide's outputs",
    "fitnets": "a hint at the middle seam first, then distilled (Romero et al. 2014)",
    "theseus": "parts swapped in at random, then trained on the labels (Xu et al. 2020)",
    "ted": "task-aware filters of both, then distilled with their distance (Liang et al. 2022)",
}


def terms(run: Run) -> list[tuple[str, str]]:
    """(word, meaning) of the words that the report uses: the field's, and its own models'."""
    names = [str(model["name"]) for model in run.results["models"]]
    plain = dict.fromkeys(name.removesuffix(LONGER) for name in names)
    used = list(SEAMS.items()) if run.results.get("stages") else []
    used += [("claim", CLAIM)] if run.results.get("claims") else []
    used += [(name, MODELS[name]) for name in plain if name in MODELS]
    longer = (f"...{LONGER}", "the same, prolonged to the conversion's training FLOPs")
    return used + [longer] * any(name.endswith(LONGER) for name in names)


def grids(run: Run) -> list[Grid]:
    """The words as a table."""
    return [Grid(("word", "meaning"), terms(run), names=2)]


PANEL = Panel("Words", grids=grids, page=True)
