"""Settings tried on validation data, with the guide of a finished run: one CSV row a trial; test data are not touched.

    python benchmarks/search.py --guide=runs/resnet18_to_mlp --config=configs/resnet18_to_mlp.py --csv=benchmarks/search_images.csv \
        --arm=converted --try convert.align_rate=1e-3 --try convert.align_rate=3e-3,convert.finish_rate=1e-3

Each --try is one trial: comma-separated overrides of the config. Every trial of every arm costs the same steps.
"""
from __future__ import annotations

import argparse
import csv
import importlib.util
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import theseus_jax as tj  # noqa: E402
from theseus_jax.experiment import arms, classify, classify_data  # noqa: E402
from theseus_jax.experiment.classify_setup import facts_of  # noqa: E402
from theseus_jax.experiment.jobs import run_keys  # noqa: E402
from theseus_jax.experiment.workdir import Workdir  # noqa: E402
from theseus_jax.records import Records  # noqa: E402


def load_config(name):
    path, _, preset = name.partition(":")
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def overridden(config, text):
    for item in filter(None, text.split(",")):
        path, value = item.split("=", 1)
        *sections, key = path.split(".")
        section = config
        for name in sections:
            section = section[name]
        old = section[key]
        section[key] = value == "True" if isinstance(old, bool) else type(old)(value)
    return config


def trial(config, arm, data, guide, home):
    bench = classify.open_bench(config, home, data)
    bench = bench._replace(test=bench.validation)  # no trial may look at test data
    made, held = bench.made, bench.validation
    began = time.monotonic()
    keys = run_keys(config.seed + 1000, 2, config.seeds)  # other seeds than the table's
    variables = arms.train(bench, arm, made.plans[arm], made.target, guide, keys, bench.of(arm, made.plans[arm]))
    scores = held.scores(made.target, variables)
    return scores["accuracy"], scores["loss"].mean(), time.monotonic() - began


def main():
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).resolve().parents[1] / ".cache" / "jax"))
    parser = argparse.ArgumentParser()
    for name in ("guide", "config", "csv", "arm"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--set", default="", dest="common")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--try", action="append", dest="tries", default=[])
    given = parser.parse_args()
    config = overridden(load_config(given.config), given.common)
    data = classify_data.load(config, pathlib.Path(given.guide) / "cache", facts_of(config))
    _, guide = tj.restore(given.guide, model="guide")
    table = pathlib.Path(given.csv)
    for text in given.tries or [""]:
        changed = overridden(load_config(given.config), ",".join(filter(None, (given.common, text))))
        changed.seeds = given.seeds
        changed.controls.names = () if given.arm == "converted" else (given.arm,)
        with tempfile.TemporaryDirectory() as folder:
            home = Workdir(pathlib.Path(folder), Records(pathlib.Path(folder) / "metrics.jsonl"))
            accuracy, loss, seconds = trial(changed, given.arm, data, guide, home)
        row = {"config": pathlib.Path(given.config).stem, "arm": given.arm, "common": given.common, "try": text,
               "seeds": given.seeds, "validation_accuracy": round(float(jnp.mean(accuracy)), 4),
               "validation_loss": round(float(loss), 4), "seconds": round(seconds, 1)}
        new = not table.exists()
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
