"""GLAI against its rivals over all experiments at once, in the paper's way and in one that does not
take seeds for tasks.

    python benchmarks/glai_summary.py [benchmarks/glai_*.json ...]

Reads results.json files of runs with task "head". For every rival: the one-sided Wilcoxon
signed-rank test over (experiment, seed) pairs, as in arXiv 2510.00883, for scores and for times to
the rival's declared score; then per experiment the mean paired difference with its standard error,
and over experiments the mean of those means with a t interval whose degrees of freedom count
experiments. Needs scipy.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys

import numpy as np

RIVALS = ("mlp_sgd", "mlp_adam", "mlp_reduced", "linear_sgd", "linear_adam", "logistic")
OURS = ("glai_joint", "glai_untrained", "glai_path", "glai_joint_logistic")


def read(paths: list[pathlib.Path]) -> dict[str, dict]:
    """{experiment: results.json} of the files, by their stem."""
    found = {path.stem: json.loads(path.read_text()) for path in paths}
    return {name: results for name, results in found.items() if results.get("task") == "head"}


def gains(results: dict, ours: str, rival: str) -> np.ndarray | None:
    """(seeds,) how much smaller ours is than the rival's error rate (or loss), as a share of the
    rival's mean one.
    """
    models = {model["name"]: model for model in results["models"]}
    if ours not in models or rival not in models:
        return None
    mine, theirs = (np.asarray(models[name]["seeds"]) for name in (ours, rival))
    if results["higher_is_better"]:
        mine, theirs = 1 - mine, 1 - theirs
    return (theirs - mine) / theirs.mean()


def speedups(results: dict, ours: str, rival: str) -> list[float]:
    """(seeds,) log(rival's seconds / ours) to the score that every seed of the rival reaches.

    A seed of ours that never reaches it counts with all its seconds of training: its true ratio is
    worse.
    """
    models = {model["name"]: model for model in results["models"]}
    key = f"seconds_to_{rival}_seeds"
    if ours not in models or rival not in models or key not in models[ours]:
        return []
    spent = models[ours]["seconds_seeds"]
    return [
        math.log(b / (a or whole))
        for a, b, whole in zip(models[ours][key], models[rival][key], spent)
    ]


def line(name: str, per_experiment: dict[str, np.ndarray]) -> str:
    """Both readings of one comparison."""
    from scipy import stats

    pairs = np.concatenate(list(per_experiment.values()))
    p = stats.wilcoxon(pairs, alternative="greater").pvalue if np.any(pairs) else float("nan")
    means = np.array([values.mean() for values in per_experiment.values()])
    text = f"{name:<46} {pairs.mean():+.4f}  p {p:.4f} over {len(pairs):>3} pairs"
    if len(means) > 1:
        half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
        text += (
            f";  over {len(means)} experiments {means.mean():+.4f} [{means.mean() - half:+.4f},"
            f" {means.mean() + half:+.4f}]"
        )
    return text


def report(runs: dict[str, dict]) -> list[str]:
    """The tables as lines."""
    lines = [
        "scores: share of the rival's error rate (or InfoNCE loss) that ours does away with; above"
        " 0: ours is better"
    ]
    for ours in OURS:
        for rival in RIVALS:
            found = {
                name: values
                for name, results in runs.items()
                if (values := gains(results, ours, rival)) is not None
            }
            if found:
                lines.append(line(f"{ours} over {rival}", found))
                lines += [
                    f"    {name:<42} {values.mean():+.4f} +-"
                    f" {values.std(ddof=1) / math.sqrt(len(values)):.4f}"
                    for name, values in found.items()
                    if len(values) > 1
                ]
    lines.append(
        "times: log of the rival's seconds over ours to the rival's declared score; above 0: ours"
        " is faster; seeds of ours that never reach it count with all their seconds, which flatters"
        " them"
    )
    for ours in OURS:
        for rival in ("mlp_sgd", "mlp_adam"):
            found = {
                name: np.asarray(values)
                for name, results in runs.items()
                if (values := speedups(results, ours, rival))
            }
            if found:
                lines.append(line(f"{ours} over {rival}", found))
                for name, values in found.items():
                    model = next(model for model in runs[name]["models"] if model["name"] == ours)
                    lines.append(
                        f"    {name:<42} {math.exp(values.mean()):.2f} times as fast,"
                        f" {model[f'reached_{rival}']} of {len(values)} seeds reach it"
                    )
                means = [values.mean() for values in found.values()]
                lines.append(
                    f"    {'geometric mean over experiments':<42}"
                    f" {math.exp(float(np.mean(means))):.2f}"
                )
    return lines


def main() -> None:
    given = [pathlib.Path(arg) for arg in sys.argv[1:]] or sorted(
        pathlib.Path(__file__).parent.glob("glai_*.json")
    )
    runs = read(given)
    for title, labelled in (
        ("Experiments with labels (accuracy)", True),
        ("Experiments without labels (InfoNCE)", False),
    ):
        chosen = {
            name: results
            for name, results in runs.items()
            if results["higher_is_better"] is labelled
        }
        if chosen:
            print(f"{title}: {', '.join(chosen)}", *report(chosen), "", sep="\n")


if __name__ == "__main__":
    main()
