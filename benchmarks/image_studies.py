r"""What expert readers asked of Network of Theseus, on ResNet-18 -> MLP with biased CKA in 200
steps, else the default: one study a call.

    python benchmarks/image_studies.py --guide=runs/resnet18_to_mlp --study=batch \
        --json=benchmarks/image_batch.json

Studies: batch (64 to 512, the same number of examples seen), dmnn (k and temperature), estimator
(biased against debiased CKA, other losses), mapping (three, and one seam alone), schedule, norm
(batch, layer, group, none), labels (who may use what), steps, guide (guides stopped early, and
untrained ones, ResNet and MLP; these are trained here). Every row: three seeds, test accuracy and
loss, similarity at the last seam right after the alignment phases (1,000 validation pictures),
seconds of training one seed. Nothing is tuned within a study.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

import jax
import numpy as np
import search  # first: it sets up the process

import theseus_jax as tj
from theseus_jax.experiment import engine
from theseus_jax.experiment.models import mean_and_error
from theseus_jax.experiment.workdir import Workdir, device
from theseus_jax.records import Records, training_flops
from theseus_jax.version import __version__

BASE = "configs/resnet18_to_mlp.py"
STEPS = 200
# Of every row, where a study does not say otherwise. Biased CKA and its weight were the default
# when the studies began.
COMMON = (
    f"convert.steps={STEPS},convert.metric=cka_biased,convert.finish_align=30,"
    "report.guide_table=False,"
    "report.hybrid_examples=1000"
)
# the default's, in studies that came later
PROCRUSTES = "convert.metric=procrustes,convert.finish_align=100"
THREE = {
    "auto": "auto",
    "early": "block_1=block_1; block_2=block_2; pool=block_3",
    "late": "block_6=block_1; block_7=block_2; pool=block_3",
    "last seam alone": "pool=block_3",
}
STUDIES = {
    "batch": {
        f"batch {size}": f"train.batch={size},convert.steps={128 * STEPS // size}"
        for size in (64, 128, 256, 512)
    },
    "dmnn": {
        "cka_biased": "",
        **{
            f"k {k}, temperature {t}": (
                f"convert.metric=dmnn,convert.neighbours={k},convert.metric_temperature={t}"
            )
            for k, t in ((5, 0.05), (10, 0.01), (10, 0.02), (10, 0.05), (10, 0.1), (20, 0.05))
        },
    },
    "estimator": {
        name: f"convert.metric={name}"
        for name in ("cka_biased", "cka_debiased", "dmnn", "dmnn_softmax", "rsa", "procrustes")
    },
    "mapping": {name: f"convert.mapping={text}" for name, text in THREE.items()},
    # independent and parallel feed parts with the guide's activations, which an MLP of other seams
    # cannot read
    "schedule": {
        name: f"convert.schedule={name},convert.align=0.3"
        for name in ("joint", "progressive", "sequential", "one_shot")
    },
    "norm": {
        f"{norm}": f"target.norm={norm},convert.recalibrate={2048 if norm == 'batch' else 0}"
        for norm in ("layer", "batch", "group", "none")
    },
    "steps": {
        f"{steps} steps": f"{PROCRUSTES},convert.steps={steps}"
        for steps in (50, 100, 200, 400, 800)
    },
    "labels": {
        "pictures without labels": "",
        "1000 pictures alone": "data.unlabelled=False",
        "every label in fine-tuning": "data.share=0,convert.finish_kl=0.5",
    },
}
ARMS = {
    "batch": ("converted", "distilled"),
    "norm": ("converted", "distilled"),
    "steps": ("converted", "distilled"),
    "labels": ("converted", "distilled", "from_scratch"),
}
GUIDES = {
    "stopped after 100 steps": "guide.steps=100",
    "after 400": "guide.steps=400",
    "after 1500": "guide.steps=1500",
    "untrained ResNet-18": (
        "guide.origin=untrained,guide.mode=calibrated,convert.finish_kl=0.0,convert.stitch=none,"
        "data.share=5000"
    ),
    "untrained MLP": (
        "guide.origin=untrained,guide.arch=mlp,guide.width=512,guide.depth=4,guide.norm=layer,"
        "convert.finish_kl=0.0,"
        "convert.stitch=none,data.share=5000"
    ),
}


def settings(text: str):
    """The base config with overrides; a mapping's seams are separated by semicolons here."""
    config = search.overridden(search.load_config(BASE), f"{COMMON},{text}")
    config.convert.mapping = config.convert.mapping.replace(";", ",")
    return config


def row(name: str, arm: str, config, data, guide) -> dict:
    """One arm under one setting: three seeds, scored on test data."""
    config.controls.names = () if arm == "converted" else (arm,)
    with tempfile.TemporaryDirectory() as folder:
        home = Workdir(pathlib.Path(folder), Records(pathlib.Path(folder) / "metrics.jsonl"))
        task = engine.parts(config)[0]
        search.trained(config, arm, task, task.divided(data), guide, home)
        found = home.records.read()
    final = [r for r in found if r["kind"] == "model"]
    accuracy, error = mean_and_error([r["test_accuracy"] for r in final])
    stages = [r for r in found if r["kind"] == "stage"]
    last = [r["similarity_cka_debiased"] for r in stages if r["stage"] == stages[-1]["stage"]]
    seconds = sum(
        r["seconds"] for r in found if r["kind"] in ("train", "stored") and r.get("seed", 0) == 0
    )
    made_row = {
        "setting": name,
        "arm": arm,
        "accuracy": accuracy,
        "stderr": error,
        "loss": float(np.mean([r["test_loss"] for r in final])),
        "last_seam_cka_debiased": float(np.mean(last)) if last else None,
        "training_flops": training_flops(found, arm),
        "seconds": seconds,
    }
    print(
        {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in made_row.items()
        },
        flush=True,
    )
    return made_row


def trained_guide(config, data) -> tuple[dict, dict]:
    """A guide of this config, and its test scores."""
    with tempfile.TemporaryDirectory() as folder:
        home = Workdir(pathlib.Path(folder), Records(pathlib.Path(folder) / "metrics.jsonl"))
        task, method = engine.parts(config)
        arm, data = method.arms(config, task)[0], task.divided(data)
        run = engine.Run(config, task, home, data, (arm,), {}, {}, {})
        engine.make(run, arm)
    stacked = run.done[arm.name]
    scores = data.sets(0).test.scores(arm.net, stacked)
    return jax.tree.map(lambda leaf: leaf[0], stacked), {
        key: float(value[0]) for key, value in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guide", required=True)
    parser.add_argument("--study", required=True, choices=(*STUDIES, "guide"))
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    jax.config.update(
        "jax_compilation_cache_dir",
        str(pathlib.Path(__file__).resolve().parents[1] / ".cache" / "jax"),
    )
    data = engine.parts(settings(""))[0].read(pathlib.Path(given.guide) / "cache")
    rows = []
    if given.study == "guide":
        for name, text in GUIDES.items():
            config = settings(f"{PROCRUSTES},{text}")
            variables, scores = trained_guide(config, data)
            rows.append(
                {
                    **row(name, "converted", config, data, variables),
                    "guide_accuracy": scores["accuracy"],
                }
            )
        rows.append(
            row(
                "no guide, 5000 labels",
                "from_scratch",
                settings("data.share=5000"),
                data,
                variables,
            )
        )
    else:
        _, guide = tj.restore(given.guide, model="guide")
        for name, text in STUDIES[given.study].items():
            rows += [
                row(name, arm, settings(text), data, guide)
                for arm in ARMS.get(given.study, ("converted",))
            ]
    note = {
        "study": given.study,
        "command": f"python benchmarks/image_studies.py --study={given.study}",
        "device": device(),
        "jax": jax.__version__,
        "theseus_jax": __version__,
        "data": data.name,
        "sha256": data.sha256,
        "rows": rows,
    }
    pathlib.Path(given.json).write_text(json.dumps(note, indent=1))


if __name__ == "__main__":
    main()
