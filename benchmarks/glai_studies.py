"""Two questions about GLAI that nobody has answered in print, on three data sets: which paths, and
when to freeze the gates.

    python benchmarks/glai_studies.py selection|maturity [--data=digits,bbc,cifar10]
        [--json=FILE] [--work=DIR] [--cifar10=NPZ] [--cache=DIR]

selection: test accuracy of joint, per-output and global selection at 25, 50, 100 and 200 % of O - R
weights. maturity: the selector trained for 0, 1, 2, 4, 8, 16 epochs against the rule on m_t (share
0.5, window 1; share 0.2, window 3) and against the paper's rule, a fifth of the epochs that the
full MLP needs; the best epoch by validation is the oracle's choice. Five seeds; learning rates by a
small search of their own in every cell (cifar10: the rate of its default run); other settings are
those of configs/glai_*.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import pathlib
import platform
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "configs")]

import jax  # noqa: E402

import theseus_jax as tj  # noqa: E402

DATA = {"digits": "glai_digits", "bbc": "glai_bbc_minilm", "cifar10": "glai_cifar10_effnet"}
RATES = {"digits": (3e-3, 1e-2), "bbc": (3e-4, 1e-3), "cifar10": (3e-4,)}
DECAY = {"digits": 1e-1, "bbc": 1e-1, "cifar10": 1e-1}
BUDGETS, EPOCHS, RULES = (0.25, 0.5, 1.0, 2.0), (0, 1, 2, 4, 8, 16), ((0.5, 1), (0.2, 3))


def config(name: str, given: argparse.Namespace, arms: tuple[str, ...]):
    """The config of a data set with these arms and a search of two rates, two seeds."""
    c = importlib.import_module(DATA[name]).get_config("default")
    c.arms, c.data.cache = arms, given.cache
    c.search.adam_rates, c.search.decays, c.search.seeds = (
        RATES[name],
        (DECAY[name],),
        2 if len(RATES[name]) > 1 else 1,
    )
    c.search.epochs = min(c.search.epochs, 30)
    if name == "cifar10":
        c.data.path = given.cifar10
    return c


def row(name: str, results: dict, arm: str, **more) -> dict:
    """Scores of one arm of a finished run."""
    model = next(model for model in results["models"] if model["name"] == arm)
    return {
        "data": name,
        "arm": arm,
        **more,
        "accuracy": model["value"],
        "stderr": model["stderr"],
        "seeds": model["seeds"],
        "validation": model["validation_score"],
        "loss": model["loss"],
        "parameters": model["parameters"],
        "seconds": model["seconds"],
        "selector_epochs": results["selector_epochs"].get(arm),
    }


def selection(name: str, given: argparse.Namespace, work: pathlib.Path) -> list[dict]:
    """Rows of every budget and selection."""
    rows = []
    for budget in BUDGETS:
        c = config(name, given, ("mlp_reduced", "glai_path", "glai_per_output", "glai_joint"))
        c.glai.budget = budget
        results = tj.run(c, work / f"selection-{name}-{budget:g}")
        rows += [
            row(name, results, arm, budget=budget, error=_pruning(results, arm))
            for arm in c.arms[1:]
        ]
        show(rows[-3:])
    return rows


def _pruning(results: dict, arm: str) -> float:
    mine = [found["pruning_error"] for found in results["conversions"] if found["model"] == arm]
    return sum(mine) / len(mine)


def maturity(name: str, given: argparse.Namespace, work: pathlib.Path) -> list[dict]:
    """Rows of every fixed number of epochs and of every rule, the paper's from the MLP's own best
    epoch.
    """
    rows = []
    whole = tj.run(config(name, given, ("mlp_adam",)), work / f"maturity-{name}-mlp")
    lines = [
        line
        for line in map(json.loads, (work / f"maturity-{name}-mlp" / "metrics.jsonl").open())
        if line["kind"] == "score" and line["seed"] >= 0
    ]
    best = [
        max(
            (line for line in lines if line["seed"] == seed),
            key=lambda line: (line["score"], -line["step"]),
        )["step"]
        for seed in range(len(whole["models"][0]["seeds"]))
    ]
    steps = whole["data"]["train_examples"] // config(name, given, ()).train.batch
    published = max(1, round(0.2 * sum(best) / len(best) / steps))
    cells = (
        [("epochs", epochs, None) for epochs in EPOCHS]
        + [("paper", published, None)]
        + [("rule", 40, rule) for rule in RULES]
    )
    for kind, epochs, rule in cells:
        # L-BFGS on CIFAR-10's 8,262 contributions takes minutes a cell
        solved = () if name == "cifar10" else ("glai_joint_logistic",)
        c = config(name, given, ("mlp_reduced", "glai_joint", *solved))
        c.glai.selector, c.glai.selector_epochs = "maturity" if rule else "epochs", epochs
        if rule:
            c.glai.settled_share, c.glai.settled_window = rule
        results = tj.run(
            c, work / f"maturity-{name}-{kind}-{epochs}{'-%g-%d' % rule if rule else ''}"
        )
        made = [row(name, results, arm, kind=kind, epochs=epochs, rule=rule) for arm in c.arms[1:]]
        rows += [found | {"selector_epochs": made[0]["selector_epochs"]} for found in made]
        show(rows[-len(made) :])
    return rows


def show(rows: list[dict]) -> None:
    """A line a row."""
    for r in rows:
        what = (
            f"{r['budget']:>5.0%}  pruning error {r['error']:8.3f}"
            if "budget" in r
            else (
                f"{r['kind']:<6} {str(r['rule'] or r['epochs']):<10} selector epochs"
                f" {r['selector_epochs']}"
            )
        )
        print(
            f"{r['data']:<8} {r['arm']:<20} {what}  accuracy {r['accuracy']:.4f} +-"
            f" {r['stderr']:.4f}  validation {r['validation']:.4f}  {r['seconds']:.3f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=("selection", "maturity"))
    parser.add_argument("--data", default="digits,bbc,cifar10")
    parser.add_argument("--json", default="")
    parser.add_argument(
        "--work", default="", help="where runs are kept; default: a temporary folder"
    )
    parser.add_argument("--cifar10", default="cifar10_jpeg.npz")
    parser.add_argument("--cache", default="", help="folder of cached features")
    given = parser.parse_args()
    logging.getLogger("theseus_jax").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(given.work or temporary)
        given.cache = given.cache or str(work / "features")
        study = {"selection": selection, "maturity": maturity}[given.study]
        rows = [found for name in given.data.split(",") for found in study(name, given, work)]
    if given.json:
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python benchmarks/glai_studies.py {given.study} --data={given.data}",
            "python": platform.python_version(),
            "jax": jax.__version__,
            "machine": f"{platform.machine()} CPU",
            "rows": rows,
        }
        pathlib.Path(given.json).write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
