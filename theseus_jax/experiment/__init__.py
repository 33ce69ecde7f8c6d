"""The only reader of a ConfigDict: wires data, networks, plans, the loop, checkpoints and the report."""
from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import math
import pathlib
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints, report, trees
from theseus_jax.data import text
from theseus_jax.errors import UserError
from theseus_jax.evaluate import token_loss
from theseus_jax.experiment import results as measured
from theseus_jax.experiment.jobs import Streams, Workdir, finished, rewind, run_plan
from theseus_jax.experiment.setup import (Setup, build_guide, build_target, control_plan, outline, prepare, rehearse,
                                          vocabulary)
from theseus_jax.methods.probes import Held, StageProbe
from theseus_jax.nets import decode
from theseus_jax.nets.pretrained import load_gpt2
from theseus_jax.nets.stage import Network, Variables, init
from theseus_jax.plan import Plan
from theseus_jax.records import Records

LOG = logging.getLogger("theseus_jax")
SCHEMA = 1


def dry_run(config: Any) -> str:
    """The run's outline: shapes at each seam, exact parameters, every phase. No data is read. Raises UserError."""
    made = prepare(config)
    rehearse(config, made)
    return outline(config, made)


def run(config: Any, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Do what a config says and return results.json as a dict; a finished workdir is read, an unfinished one resumed.

    config: a ConfigDict from a file in configs/. Raises UserError, one line, for the user's mistakes; what earlier
    work left in the workdir stays.
    """
    rehearse(config, prepare(config))
    home = _open(config, pathlib.Path(workdir))
    if (home.path / "results.json").exists():
        LOG.info("%s holds a finished run; nothing to do", home.path)
        if not (home.path / "report.html").exists():
            report.write(home.path)
        return json.loads((home.path / "results.json").read_text())
    began = time.monotonic()
    corpus = _corpus(config, home)
    share = text.share(corpus, config.data.share)
    context = config.data.context
    held = {split: Held(text.evaluation_windows(getattr(corpus, split), context, split)) for split in ("validation", "test")}
    small = Streams(jnp.asarray(text.windows(share, context, "share")), held["validation"], held["test"])
    made = prepare(config, probe=StageProbe(held["validation"], neighbours=config.convert.neighbours))
    (home.path / "plan.txt").write_text(outline(config, made))
    rewind(home, ["guide", *made.plans, *(f"{name}_equal_flops" for name in config.controls.names)])
    guide = _guide(config, made, home, corpus, small)
    arms = _arms(config, made, home, guide, small)
    found = _results(config, made, home, corpus, share, guide, arms, time.monotonic() - began)
    _write(home.path / "results.json", json.dumps(found, indent=1))
    report.write(home.path)
    return found


def restore(workdir: str | pathlib.Path, model: str = "converted", seed: int = 0) -> tuple[Network, Variables]:
    """(network, variables) of a model of a run, ready for `forward` and `generate`. Raises UserError if there is none."""
    path = pathlib.Path(workdir) / "checkpoints" / model
    if not path.exists():
        there = sorted(p.name for p in path.parent.glob("*") if p.name != "unfinished") if path.parent.exists() else []
        raise UserError(f"{workdir} holds no finished model {model!r}; it has {', '.join(there) or 'none'}")
    tree, note = checkpoints.load(path, items=("variables",))
    from ml_collections import ConfigDict
    config = ConfigDict(json.loads(note["config"]))
    net = build_guide(config) if model == "guide" else build_target(config)
    return net, {**{name: {} for name in net.names}, **trees.unstack(tree["variables"], seed)}


def _open(config: Any, path: pathlib.Path) -> Workdir:
    wanted = config.to_json(sort_keys=True)
    try:
        path.mkdir(parents=True, exist_ok=True)
        known = path / "config.json"
        if known.exists() and json.loads(known.read_text()) != json.loads(wanted):
            raise UserError(f"{path} holds a run of another config ({_first_difference(known.read_text(), wanted)}); "
                            "give another --workdir or the same config")
        if not known.exists():
            _write(known, wanted)
            _write(path / "versions.json", json.dumps(_versions(), indent=1))
    except OSError as error:
        raise UserError(f"the workdir {path} cannot be written ({error.strerror}); give another --workdir") from error
    return Workdir(path, Records(path / "metrics.jsonl"))


def _first_difference(known: str, wanted: str) -> str:
    def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix: tree}
        return {key: value for k, v in tree.items() for key, value in leaves(v, f"{prefix}.{k}" if prefix else k).items()}

    old, new = leaves(json.loads(known)), leaves(json.loads(wanted))
    key = next(key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
    return f"{key} is {old.get(key)!r} there and {new.get(key)!r} here"


def _write(path: pathlib.Path, content: str) -> None:
    try:
        path.with_suffix(path.suffix + ".new").write_text(content)
        path.with_suffix(path.suffix + ".new").replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); free some space and start again") from error


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "ml-collections")
    found = {"python": platform.python_version(), "platform": platform.platform(), "device": _device()}
    return found | {name: importlib.metadata.version(name) for name in names}


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.platform} {device.device_kind}"


def _corpus(config: Any, home: Workdir) -> text.Corpus:
    c = config.data
    LOG.info("reading %s", {"stdlib": "the standard library's source text"}.get(c.source, c.path or c.dataset))
    corpus = text.load_corpus(
        source=c.source, path=c.path, dataset=c.dataset, text_key=c.text_key, tokenizer=c.tokenizer, vocabulary=c.vocabulary,
        validation_fraction=c.validation, test_fraction=c.test, cache_dir=home.path / "cache")
    if corpus.vocabulary > vocabulary(config):
        raise UserError(f"the text has {corpus.vocabulary} tokens and the networks know {vocabulary(config)}; raise data.vocabulary")
    return corpus


def _keys(config: Any, purpose: int, count: int) -> jax.Array:
    """(count,) keys: of the run's one key, the purpose and the seed."""
    key = jax.random.fold_in(jax.random.key(config.seed), purpose)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


def _initial(net: Network, keys: jax.Array, context: int) -> Variables:
    return jax.vmap(lambda key: init(net, key, jnp.zeros((1, context), jnp.int32)))(keys)


# run once a network: compiling it well costs more than running it
_fresh = jax.jit(_initial, static_argnames=("net", "context"), compiler_options={"xla_backend_optimization_level": 0})


def _train(config: Any, home: Workdir, name: str, plan: Plan, net: Network, guide_variables: Any, keys: jax.Array,
           streams: Streams) -> Variables:
    def score(variables: Variables) -> None:
        losses = {split: token_loss(net, variables, *getattr(streams, split)) for split in ("validation", "test")}
        for seed in range(len(keys)):
            home.records.write({"kind": "model", "model": name, "seed": seed,
                                **{f"{split}_loss": float(loss[seed]) for split, loss in losses.items()}})
        LOG.info("%s: validation %.3f nats per token", name, losses["validation"].mean())

    shapes = jax.eval_shape(lambda: _initial(net, keys, config.data.context))
    return run_plan(home, name, plan, lambda: _fresh(net, keys, config.data.context), shapes, guide_variables, keys, streams,
                    batch=config.train.batch, chunk=config.train.chunk, save_seconds=config.train.save_seconds,
                    score=score, metadata={"config": config.to_json(sort_keys=True)})


def _guide(config: Any, made: Setup, home: Workdir, corpus: text.Corpus, small: Streams) -> Variables:
    """The guide's variables: trained on all training documents, read from a file, or as initialised."""
    keys = _keys(config, 1, 1)
    windows = text.windows(corpus.train, config.data.context)
    streams = small._replace(windows=jnp.asarray(windows.astype(np.uint16 if corpus.vocabulary <= 65536 else np.int32)))
    stacked = finished(home, "guide")
    if stacked is None and config.guide.origin == "trained":
        stacked = _train(config, home, "guide", made.plans["guide"], made.guide, {}, keys, streams)
    elif stacked is None:
        stacked = _from_file(config) if config.guide.origin == "file" else _fresh(made.guide, keys, config.data.context)
        losses = {split: token_loss(made.guide, stacked, *getattr(small, split)) for split in ("validation", "test")}
        if config.guide.origin == "file" and losses["validation"][0] > math.log(corpus.vocabulary):
            raise UserError(f"the guide in {config.guide.weights} scores {losses['validation'][0]:.2f} nats a token, worse than "
                            f"guessing ({math.log(corpus.vocabulary):.2f}): its weights belong to another tokenizer; give "
                            "weights that were trained on this text and tokenizer")
        home.records.write({"kind": "model", "model": "guide", "seed": 0,
                            **{f"{split}_loss": float(loss[0]) for split, loss in losses.items()}})
        checkpoints.save(home.model("guide"), tree={"variables": stacked},
                         metadata={"config": config.to_json(sort_keys=True), "model": "guide", "offset": home.records.offset()})
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def _from_file(config: Any) -> Variables:
    c = config.guide
    variables = load_gpt2(c.weights, vocabulary=vocabulary(config), width=c.width, depth=c.depth, heads=c.heads,
                          positions=c.positions or config.data.context)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)


def _arms(config: Any, made: Setup, home: Workdir, guide: Variables, small: Streams) -> dict[str, Variables]:
    """The converted network and every control, then controls prolonged to the conversion's FLOPs where those are more."""
    keys = _keys(config, 2, config.seeds)
    arms = {name: _train(config, home, name, plan, made.target, guide, keys, small)
            for name, plan in made.plans.items() if name != "guide"}
    if not config.controls.equal_flops:
        return arms
    rows = home.records.read()
    spent = {name: sum(row["training_flops"] for row in rows
                       if row["kind"] == "train" and row["model"] == name and row["seed"] == 0) for name in arms}
    for name in config.controls.names:
        ratio = spent["converted"] / spent[name]
        if ratio > 1.0:
            chunks = math.ceil(config.convert.steps * ratio / config.train.chunk)
            steps = chunks * config.train.chunk
            plan = control_plan(config, name, made.guide, made.target, made.mapping, made.shapes, steps)
            longer = f"{name}_equal_flops"
            arms[longer] = _train(config, home, longer, plan, made.target, guide, keys, small)
    return arms


def _results(config: Any, made: Setup, home: Workdir, corpus: text.Corpus, share: np.ndarray, guide: Variables,
             arms: dict[str, Variables], seconds: float) -> dict[str, Any]:
    context, repeats = config.data.context, config.report.latency_repeats
    LOG.info("measuring latency and memory")
    first = {name: jax.tree.map(lambda leaf: leaf[0], variables) for name, variables in arms.items()}
    costs = {"guide": measured.network_cost(made.guide, guide, context, repeats=repeats),
             "target": measured.network_cost(made.target, first["converted"], context, repeats=repeats)}
    rows = home.records.read()
    per_token = corpus.bytes_per_token["test"]
    models = [measured.model_record(name, rows, costs["guide" if name == "guide" else "target"], per_token)
              for name in ("guide", *arms)]
    samples = [_sample(config, corpus, name, net, variables) for name, net, variables in
               (("guide", made.guide, guide), ("converted", made.target, first["converted"]))]
    data = corpus.provenance() | {
        "share": config.data.share, "train_examples": (share.size - 1) // context,
        "guide_train_examples": (corpus.train.size - 1) // context,
        "eval_examples": -(-(corpus.test.size - 1) // context), "bytes_per_token": corpus.bytes_per_token}
    return {"schema": SCHEMA, "task": config.task, "metric": "perplexity", "higher_is_better": False,
            "chance": float(corpus.vocabulary), "data": data, "models": models, "stages": measured.stage_records(rows),
            "claims": measured.claims(models), "samples": samples, "device": _device(), "seconds_total": seconds}


def _sample(config: Any, corpus: text.Corpus, name: str, net: Network, variables: Variables) -> dict[str, str]:
    prompt = jnp.asarray(corpus.tokenizer.encode(config.report.prompt))[None, : config.data.context // 2].astype(jnp.int32)
    length = min(config.report.sample_tokens, config.data.context - prompt.shape[1])
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    tokens = decode.generate(net, variables, prompt, key, length=length)
    return {"model": name, "prompt": config.report.prompt, "text": corpus.tokenizer.decode(np.asarray(tokens[0]))}
