"""Every schedule against every alignment loss on one guide, at the default size.

    python benchmarks/schedules.py [--preset=smoke] [--guide=RUN] [--seeds=1]
        [--json=benchmarks/schedules.json]

The guide is trained once (or is a finished run's of configs/gpt2_to_rnn_plain.py) and handed to
every other run as a GPT-2 weight file. Settings other than schedule and metric are the config's,
which were found for the progressive schedule and the squared error: other cells are not at their
best. The table shows validation losses.
"""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "configs")]

import gpt2_to_rnn_plain  # noqa: E402
import jax  # noqa: E402

import theseus_jax as tj  # noqa: E402
from theseus_jax.errors import UserError  # noqa: E402
from theseus_jax.nets.weights.gpt2 import save_gpt2  # noqa: E402

SCHEDULES = ("progressive", "sequential", "independent", "joint")
METRICS = ("cka_biased", "cka_debiased", "dmnn", "mse")


def train_guide(preset: str, workdir: pathlib.Path) -> pathlib.Path:
    """The workdir of a run that holds the default config's guide."""
    c = gpt2_to_rnn_plain.get_config(preset)
    c.controls.names, c.seeds, c.convert.schedule = (), 1, "one_shot"
    tj.run(c, workdir / "guide")
    return workdir / "guide"


def cell(
    preset: str,
    schedule: str,
    metric: str,
    weights: pathlib.Path,
    workdir: pathlib.Path,
    seeds: int,
) -> dict:
    """One conversion; returns its row."""
    c = gpt2_to_rnn_plain.get_config(preset)
    c.guide.origin, c.guide.weights = "file", str(weights)
    c.controls.names, c.seeds = (), seeds
    c.convert.schedule, c.convert.metric = schedule, metric
    results = tj.run(c, workdir / f"{schedule}-{metric}")
    model = next(m for m in results["models"] if m["name"] == "converted")
    return {
        "schedule": schedule,
        "metric": metric,
        "test_loss": model["loss"],
        "validation_loss": model["validation_loss"],
        "losses": model["losses"],
        "optimizer_steps": model["optimizer_steps"],
        "examples_seen": model["examples_seen"],
        "training_flops": model["training_flops"],
        "seconds": model["seconds"],
        "align_steps": sum(
            {s["optimizer_steps"] for s in results["stages"]}
            if schedule in ("joint", "parallel")
            else [s["optimizer_steps"] for s in results["stages"]]
        ),
        "hybrid_losses": [stage["hybrid_loss"] for stage in results["stages"]],
        "cka_debiased": [stage["similarity"]["cka_debiased"] for stage in results["stages"]],
        "mutual_knn": [stage["similarity"]["mutual_knn"] for stage in results["stages"]],
    }


def show(row: dict) -> str:
    """One line of the table."""
    hybrids = " ".join(f"{loss:.3f}" for loss in row["hybrid_losses"])
    return (
        f"{row['schedule']:<12} {row['metric']:<13} {row['validation_loss']:.4f}  "
        f" {row['align_steps']:>4} of {row['optimizer_steps']:>4} steps   {row['examples_seen']:>6}"
        f" examples   {row['training_flops'] / 1e12:.2f} TFLOP   hybrids {hybrids}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="default", help="of configs/gpt2_to_rnn_plain.py")
    parser.add_argument("--workdir", default="runs/schedules")
    parser.add_argument(
        "--guide",
        default="",
        help="a finished run of configs/gpt2_to_rnn_plain.py whose guide is used",
    )
    parser.add_argument("--json", default="")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("theseus_jax").setLevel(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    workdir = pathlib.Path(given.workdir)
    weights = workdir / "guide.npz"
    source = pathlib.Path(given.guide) if given.guide else train_guide(given.preset, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    save_gpt2(weights, tj.restore(source, "guide")[1])
    rows = []
    for schedule in SCHEDULES:
        for metric in METRICS:
            rows.append(cell(given.preset, schedule, metric, weights, workdir, given.seeds))
            print(show(rows[-1]), flush=True)
            if given.json:
                about = {
                    "date": time.strftime("%Y-%m-%d"),
                    "command": " ".join(["python", *sys.argv]),
                    "versions": json.loads(
                        (workdir / f"{schedule}-{metric}" / "versions.json").read_text()
                    ),
                    "seeds": given.seeds,
                    "rows": rows,
                }
                pathlib.Path(given.json).write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"schedules.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
