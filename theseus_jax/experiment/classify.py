"""Conversion of classifiers of images or texts: a guide, the converted network and its controls on one data set."""
from __future__ import annotations

import logging
from typing import Any

import jax
import numpy as np

from theseus_jax.data.labelled import DataSet
from theseus_jax.experiment import classify_data, guides
from theseus_jax.experiment import results as measured
from theseus_jax.experiment.arms import Bench, arms, guide, names, worse_than_guessing
from theseus_jax.experiment.classify_setup import build_guide, build_target, case, facts_of
from theseus_jax.experiment.jobs import rewind
from theseus_jax.experiment.plans import Setup, outline, prepare, rehearse
from theseus_jax.experiment.workdir import Workdir, write
from theseus_jax.methods.probes import HeldClasses, StageProbe
from theseus_jax.methods.recalibrate import Recalibrate
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import reads_labels

LOG = logging.getLogger("theseus_jax")
ACCURACY = measured.Compared("test_accuracy", "seeds", "value", "stderr", 1.0, "accuracy")


def plan_text(config: Any) -> str:
    """The outline of a run, after every phase was traced on shapes. Raises UserError."""
    made = _setup(config)
    rehearse(made)
    return outline(config, made, "examples")


def _setup(config: Any, probe: Any = None) -> Setup:
    return prepare(config, case(config), probe=probe)


def network(config: Any, model: str) -> Network:
    """The network of a model of a run of this config."""
    return build_guide(config) if model == "guide" else build_target(config)


def execute(config: Any, home: Workdir) -> dict[str, Any]:
    """Train and measure everything; the content of results.json but for schema, task, device and seconds."""
    facts = facts_of(config)
    data = classify_data.load(config, home.path / "cache", facts)
    bench = open_bench(config, home, data)
    write(home.path / "plan.txt", outline(config, bench.made, "examples"))
    rewind(home, names(config, bench.made))
    guide_variables = guide(bench, lambda keys: _given(bench, keys, facts.classes))
    table = _guide_table(bench, guide_variables)
    return {**_results(bench, data, guide_variables, arms(bench, guide_variables)), "guide_similarity": table}


def open_bench(config: Any, home: Workdir, data: DataSet) -> Bench:
    """Plans with their probes, and the examples that each model of a run may use."""
    share = classify_data.share_of(config, data)
    held = [HeldClasses(classify_data.inputs(part.x), part.y) for part in (data.validation, data.test)]
    c, few = config.convert, config.report.hybrid_examples or None
    hybrids = HeldClasses(jax.tree.map(lambda leaf: leaf[:few], held[0].x), held[0].y[:few])
    made = _setup(config, StageProbe(hybrids, neighbours=c.neighbours, kind=c.samples, ridge_weight=c.stitch_ridge,
                                     rank=c.stitch_rank, recalibrate=Recalibrate(None, c.recalibrate) if c.recalibrate else None))
    everything = classify_data.examples(data.train)
    return Bench(config, home, made, classify_data.examples(share.train), everything, *held,
                 pool=classify_data.unlabelled(everything) if config.data.unlabelled else None)


def _allowed(bench: Bench, name: str) -> dict[str, int]:
    """How many training examples an arm could use, and of how many the labels; of a guide that came from elsewhere nothing."""
    plan = bench.made.plans.get(name.removesuffix("_equal_flops"))
    if plan is None:
        return {}
    read = bench.guide_examples if name == "guide" else bench.of(name, plan)
    count = len(read["labels"])
    return {"train_examples": count, "labels": count if reads_labels(plan) else 0}


def _given(bench: Bench, keys: jax.Array, classes: int) -> Variables:
    """A guide that is not trained here."""
    config, net = bench.config, bench.made.guide
    if config.guide.origin == "untrained":
        return guides.untrained(config, net, keys, bench.guide_examples["inputs"])
    if config.guide.origin == "pretrained":
        validation = {"inputs": bench.validation.x, "labels": bench.validation.y}
        return guides.pretrained(config, net, bench.guide_examples, validation)
    stacked = guides.from_file(config, net)
    worse_than_guessing(config.guide.weights, bench.validation.scores(net, stacked)["loss"][0], classes,
                        "its classes or its input's scale are others; set data.mean and data.deviation to those it was trained with")
    return stacked


def _guide_table(bench: Bench, variables: Variables) -> dict[str, Any]:
    """Debiased CKA of the guide's stages against each other: parts that are nearly the same ask for one seam, not two."""
    if not bench.config.report.guide_table:
        return {}
    table = measured.stage_table(bench.made.guide, variables, bench.validation.inputs())
    LOG.info("seams (guide = target): %s\ndebiased CKA of the guide's stages\n%s",
             ", ".join(f"{g} = {t}" for g, t in bench.made.mapping), measured.table_text(table))
    return table


def _results(bench: Bench, data: DataSet, guide_variables: Variables, trained: dict[str, Variables]) -> dict[str, Any]:
    config, made, example = bench.config, bench.made, bench.made.case.example
    LOG.info("measuring latency")
    first = jax.tree.map(lambda leaf: leaf[0], trained["converted"])
    repeats = config.report.latency_repeats
    costs = {"guide": measured.classifier_cost(made.guide, guide_variables, example, repeats=repeats),
             "target": measured.classifier_cost(made.target, first, example, repeats=repeats)}
    rows = bench.home.records.read()
    models = [{**measured.model_record(name, rows, costs["guide" if name == "guide" else "target"], ACCURACY),
               **_allowed(bench, name)} for name in ("guide", *trained)]
    probes = _probes(bench, guide_variables, trained)
    models = [{**model, **probes.get(model["name"], {})} for model in models]
    most_common = np.bincount(data.train.y).argmax()
    facts = {"name": data.name, "sha256": data.sha256, "note": classify_data.share_of(config, data).note, "classes": list(data.classes),
             "train_examples": len(bench.examples["labels"]), "guide_train_examples": len(data.train.y),
             "validation_examples": len(data.validation.y), "eval_examples": len(data.test.y)}
    return {"metric": "accuracy", "higher_is_better": True, "chance": float((data.test.y == most_common).mean()), "data": facts,
            "models": models, "stages": measured.stage_records(rows, "accuracy"), "claims": measured.claims(models, ACCURACY)}


def _probes(bench: Bench, guide_variables: Variables, trained: dict[str, Variables]) -> dict[str, dict[str, Any]]:
    """`guides.probe` of every model, where the config asks for it."""
    if not bench.config.report.probe:
        return {}
    LOG.info("fitting probes")
    held = {split: {"inputs": part.x, "labels": part.y} for split, part in (("validation", bench.validation), ("test", bench.test))}
    sets, classes, guide_net = {"train": bench.examples, **held}, facts_of(bench.config).classes, bench.made.guide
    original = guides.features(guide_net, guide_variables, sets["test"]["inputs"])
    stacked = jax.tree.map(lambda leaf: leaf[None], guide_variables)
    return {"guide": guides.probe(guide_net, stacked, original, sets, classes),
            **{name: guides.probe(bench.made.target, variables, original, sets, classes) for name, variables in trained.items()}}
