r"""What decides how much guidance helps: one study a call, beside the guide of a finished run.

    python benchmarks/guide_studies.py --run=runs/guide_rnn_lm --study=metric \
        --json=benchmarks/guide_rnn_lm_metric.json

Studies: metric (ridge regression, CKA, RSA, Procrustes: the published ablation), disconnect (the
guide is taken away after so many steps: what a better start alone buys), pairs (the first, every
other, all). Every row: the arm guided_trained of the run's own config, its rates searched as there,
three seeds, test score and loss.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from theseus_jax import checkpoints
from theseus_jax.config import stored_config
from theseus_jax.experiment import engine
from theseus_jax.experiment.models import mean_and_error
from theseus_jax.experiment.workdir import Workdir, device
from theseus_jax.methods.guide import Guided
from theseus_jax.records import Records
from theseus_jax.version import __version__

METRICS = ("cka_debiased", "cka_biased", "ridge", "rsa", "procrustes")
DISCONNECT = (0.0, 0.125, 0.375, 0.75, 1.0)  # shares of the steps: 0, 50, 150, 300 of 400, all


def settings(config: Any, study: str) -> dict[str, dict[str, Any]]:
    """{row: values of config.guidance}."""
    steps = config.guidance.steps
    if study == "metric":
        return {name: {"metric": name} for name in METRICS}
    if study == "disconnect":
        counts = {share: round(share * steps) for share in DISCONNECT}
        rows = {f"{count} steps": {"disconnect_after": count} for count in counts.values()}
        none, all_steps = (f"{counts[share]} steps" for share in (0.0, 1.0))
        return rows | {none: {"weight": 0.0}, all_steps: {"disconnect_after": 0}}
    task, _ = engine.parts(config)
    pairs = Guided(config, task, *task.pair()).pairs
    chosen = {"first": pairs[:1], "every other": pairs[::2], "last": pairs[-1:], "all": pairs}
    texts = {name: ", ".join("=".join(pair) for pair in some) for name, some in chosen.items()}
    return {f"{name}: {len(chosen[name])}": {"pairs": text} for name, text in texts.items()}


def row(name: str, config: Any, guide: Any, cache: pathlib.Path) -> dict[str, Any]:
    """One setting: search and seeds of guided_trained."""
    config.arms, config.seeds = ("guided_trained",), 3
    with tempfile.TemporaryDirectory() as folder:
        home = Workdir(pathlib.Path(folder), Records(pathlib.Path(folder) / "metrics.jsonl"))
        (home.path / "cache").symlink_to(cache.resolve())
        run = engine.opened(config, home)
        run.done["guide"] = guide
        arm = next(arm for arm in run.arms if arm.name == "guided_trained")
        engine.make(run, arm)
        found = [one for one in home.records.read() if one["model"] == arm.name]
        rate, task = run.chosen[arm.name].rate, run.task
    scored = [one for one in found if one["kind"] == "model"]
    key = f"test_{task.compared.key}"
    value, error = mean_and_error([one[key] for one in scored])
    made = {
        "setting": name,
        task.compared.key: value,
        "stderr": error,
        "loss": float(np.mean([one["test_loss"] for one in scored])),
        "rate": rate,
    }
    print(made, flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--study", required=True, choices=("metric", "disconnect", "pairs"))
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    path = pathlib.Path(given.run)
    tree, note = checkpoints.load(path / "checkpoints" / "guide", items=("variables",))
    rows = []
    for name, values in settings(stored_config(note["config"]), given.study).items():
        config = stored_config(note["config"])
        config.guidance.update(values)
        rows.append(row(name, config, _whole(config, tree["variables"]), path / "cache"))
    found = {
        "study": given.study,
        "command": f"python benchmarks/guide_studies.py --study={given.study}",
        "run": path.name,
        "device": device(),
        "jax": jax.__version__,
        "theseus_jax": __version__,
        "rows": rows,
    }
    pathlib.Path(given.json).write_text(json.dumps(found, indent=1))


def _whole(config: Any, variables: Any) -> Any:
    task, _ = engine.parts(config)
    return {**{name: {} for name in task.guide().names}, **variables}


if __name__ == "__main__":
    main()
