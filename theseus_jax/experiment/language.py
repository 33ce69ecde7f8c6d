"""Conversion of language models: a guide, the converted network and its controls on one corpus."""
from __future__ import annotations

import logging
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints
from theseus_jax.data import text
from theseus_jax.errors import UserError
from theseus_jax.evaluate import token_loss
from theseus_jax.experiment import results as measured
from theseus_jax.experiment.jobs import Job, Streams, finished, fresh, held_out_similarity, initial, rewind, run_keys, run_plan
from theseus_jax.experiment.setup import (Setup, build_guide, build_target, control_plan, example, outline, prepare, rehearse,
                                          vocabulary)
from theseus_jax.experiment.workdir import Workdir, write
from theseus_jax.methods.probes import Held, StageProbe
from theseus_jax.nets import decode
from theseus_jax.nets.pretrained import load_gpt2
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Plan

LOG = logging.getLogger("theseus_jax")


def plan_text(config: Any) -> str:
    """The outline of a run, after every phase was traced on shapes. Raises UserError."""
    made = prepare(config)
    rehearse(config, made)
    return outline(config, made)


def network(config: Any, model: str) -> Network:
    """The network of a model of a run of this config."""
    return build_guide(config) if model == "guide" else build_target(config)


def execute(config: Any, home: Workdir) -> dict[str, Any]:
    """Train and measure everything; the content of results.json but for schema, task, device and seconds."""
    read = corpus(config, home.path / "cache")
    share = text.share(read, config.data.share)
    context = config.data.context
    held = {split: Held(text.evaluation_windows(getattr(read, split), context, split)) for split in ("validation", "test")}
    small = Streams(jnp.asarray(text.windows(share, context, "share")), held["validation"], held["test"])
    made = prepare(config, probe=StageProbe(held["validation"], neighbours=config.convert.neighbours))
    write(home.path / "plan.txt", outline(config, made))
    rewind(home, ["guide", *made.plans, *(f"{name}_equal_flops" for name in config.controls.names)])
    guide = _guide(config, made, home, read, small)
    arms = _arms(config, made, home, guide, small)
    return _results(config, made, home, read, share, guide, arms)


def corpus(config: Any, cache: pathlib.Path) -> text.Corpus:
    """The tokenised text that a config names. Raises UserError for missing text or a vocabulary that is too small."""
    c = config.data
    LOG.info("reading %s", {"stdlib": "the standard library's source text"}.get(c.source, c.path or c.dataset))
    found = text.load_corpus(
        source=c.source, path=c.path, dataset=c.dataset, text_key=c.text_key, tokenizer=c.tokenizer, vocabulary=c.vocabulary,
        validation_fraction=c.validation, test_fraction=c.test, cache_dir=cache)
    if found.vocabulary > vocabulary(config):
        raise UserError(f"the text has {found.vocabulary} tokens and the networks know {vocabulary(config)}; raise data.vocabulary")
    return found


def _train(config: Any, home: Workdir, name: str, plan: Plan, net: Network, guide_variables: Any, keys: jax.Array,
           streams: Streams) -> Variables:
    def score(variables: Variables) -> None:
        losses = {split: token_loss(net, variables, *getattr(streams, split)) for split in ("validation", "test")}
        for seed in range(len(keys)):
            home.records.write({"kind": "model", "model": name, "seed": seed,
                                **{f"{split}_loss": float(loss[seed]) for split, loss in losses.items()}})
        LOG.info("%s: validation %.3f nats per token", name, losses["validation"].mean())

    job = Job(name, plan, fresh=lambda: fresh(net, keys, example(config)),
              shapes=lambda net: jax.eval_shape(lambda: initial(net, keys, example(config))),
              guide_variables=guide_variables, keys=keys, examples=streams.windows, batch=config.train.batch,
              chunk=config.train.chunk, score=score,
              measure=lambda phase, state: held_out_similarity(phase, state, streams.validation),
              metadata={"config": config.to_json(sort_keys=True)})
    return run_plan(home, job, save_seconds=config.train.save_seconds)


def _guide(config: Any, made: Setup, home: Workdir, corpus: text.Corpus, small: Streams) -> Variables:
    """The guide's variables: trained on all training documents, read from a file, or as initialised."""
    keys = run_keys(config.seed, 1, 1)
    windows = text.windows(corpus.train, config.data.context)
    streams = small._replace(windows=jnp.asarray(windows.astype(np.uint16 if corpus.vocabulary <= 65536 else np.int32)))
    stacked = finished(home, "guide")
    if stacked is None and config.guide.origin == "trained":
        stacked = _train(config, home, "guide", made.plans["guide"], made.guide, {}, keys, streams)
    elif stacked is None:
        stacked = _from_file(config) if config.guide.origin == "file" else fresh(made.guide, keys, example(config))
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
    keys = run_keys(config.seed, 2, config.seeds)
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
             arms: dict[str, Variables]) -> dict[str, Any]:
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
    return {"metric": "perplexity", "higher_is_better": False, "chance": float(corpus.vocabulary), "data": data,
            "models": models, "stages": measured.stage_records(rows),
            "claims": measured.claims(models), "samples": samples}


def _sample(config: Any, corpus: text.Corpus, name: str, net: Network, variables: Variables) -> dict[str, str]:
    prompt = jnp.asarray(corpus.tokenizer.encode(config.report.prompt))[None, : config.data.context // 2].astype(jnp.int32)
    length = min(config.report.sample_tokens, config.data.context - prompt.shape[1])
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    tokens = decode.generate(net, variables, prompt, key, length=length)
    return {"model": name, "prompt": config.report.prompt, "text": corpus.tokenizer.decode(np.asarray(tokens[0]))}
