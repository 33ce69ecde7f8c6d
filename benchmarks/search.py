r"""Settings tried on validation data, with the guide of a finished run: one CSV row a trial; test
data are not touched.

    python benchmarks/search.py --guide=runs/resnet18_to_mlp \
        --config=configs/resnet18_to_mlp.py --csv=benchmarks/search_images.csv \
        --arm=converted --try convert.align_rate=1e-3 \
        --try convert.align_rate=3e-3,convert.finish_rate=1e-3

Each --try is one trial: comma-separated overrides of the config. Every trial of every arm costs the
same steps.
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
from theseus_jax.experiment import engine  # noqa: E402
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


def trained(config, name, task, data, guide, home):
    """One arm of a config, beside a guide that is there: (its network, stacked variables). task: as
    the data have it.
    """
    arms = engine.parts(config)[1].arms(config, task)
    stacked = jax.tree.map(lambda leaf: leaf[None], guide)
    run = engine.Run(config, task, home, data, arms, {}, {"guide": stacked}, {})
    arm = next(arm for arm in arms if arm.name == name)
    engine.make(run, arm)
    return arm.net, run.done[name]


def trial(config, arm, task, data, guide, home):
    sets = data.sets(0)
    sets = sets._replace(test=sets.validation)  # no trial may look at test data
    began = time.monotonic()
    config.seed += 1000  # other seeds than the table's
    data = data._replace(sets=lambda seed: sets)
    net, variables = trained(config, arm, task, data, guide, home)
    scores = sets.validation.scores(net, variables)
    return scores.get("accuracy"), scores["loss"].mean(), time.monotonic() - began


def main():
    jax.config.update(
        "jax_compilation_cache_dir",
        str(pathlib.Path(__file__).resolve().parents[1] / ".cache" / "jax"),
    )
    parser = argparse.ArgumentParser()
    for name in ("guide", "config", "csv", "arm"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--set", default="", dest="common")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--try", action="append", dest="tries", default=[])
    given = parser.parse_args()
    _, guide = tj.restore(given.guide, model="guide")
    table = pathlib.Path(given.csv)
    for text in given.tries or [""]:
        changed = overridden(
            load_config(given.config), ",".join(filter(None, (given.common, text)))
        )
        changed.seeds = given.seeds
        changed.controls.names = () if given.arm == "converted" else (given.arm,)
        with tempfile.TemporaryDirectory() as folder:
            home = Workdir(pathlib.Path(folder), Records(pathlib.Path(folder) / "metrics.jsonl"))
            task, data = engine.parts(changed)[0].load(pathlib.Path(given.guide) / "cache")
            accuracy, loss, seconds = trial(changed, given.arm, task, data, guide, home)
        row = {
            "config": pathlib.Path(given.config).stem,
            "arm": given.arm,
            "common": given.common,
            "try": text,
            "seeds": given.seeds,
            "validation_accuracy": "" if accuracy is None else round(float(jnp.mean(accuracy)), 4),
            "validation_loss": round(float(loss), 4),
            "seconds": round(seconds, 1),
        }
        new = not table.exists()
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
