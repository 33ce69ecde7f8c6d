"""Conversion of language models: a guide, the converted network and its controls on one corpus."""
from __future__ import annotations

import logging
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.data import text
from theseus_jax.errors import UserError
from theseus_jax.experiment import results as measured
from theseus_jax.experiment.arms import Bench, arms, guide, names, worse_than_guessing
from theseus_jax.experiment.jobs import fresh, rewind
from theseus_jax.experiment.plans import Setup, outline, prepare, rehearse
from theseus_jax.experiment.setup import build_guide, build_target, case, example, vocabulary
from theseus_jax.experiment.workdir import Workdir, write
from theseus_jax.methods.probes import HeldWindows, StageProbe
from theseus_jax.nets import decode
from theseus_jax.nets.pretrained import load_gpt2
from theseus_jax.nets.stage import Network, Variables

LOG = logging.getLogger("theseus_jax")
LOSS = measured.Compared("test_loss", "losses", "loss", "loss_stderr", -1.0, "nats per token")


def plan_text(config: Any) -> str:
    """The outline of a run, after every phase was traced on shapes. Raises UserError."""
    made = _setup(config)
    rehearse(made)
    return _outline(config, made)


def _setup(config: Any, probe: Any = None) -> Setup:
    return prepare(config, case(config), probe=probe)


def _outline(config: Any, made: Setup) -> str:
    return outline(config, made, f"windows of {config.data.context} tokens")


def network(config: Any, model: str) -> Network:
    """The network of a model of a run of this config."""
    return build_guide(config) if model == "guide" else build_target(config)


def execute(config: Any, home: Workdir) -> dict[str, Any]:
    """Train and measure everything; the content of results.json but for schema, task, device and seconds."""
    read = corpus(config, home.path / "cache")
    share = text.share(read, config.data.share)
    context = config.data.context
    held = [HeldWindows(*text.evaluation_windows(getattr(read, split), context, split)) for split in ("validation", "test")]
    c = config.convert
    made = _setup(config, StageProbe(held[0], neighbours=c.neighbours, kind=c.samples, ridge_weight=c.stitch_ridge, rank=c.stitch_rank))
    write(home.path / "plan.txt", _outline(config, made))
    rewind(home, names(config, made))
    everything = text.windows(read.train, context).astype(np.uint16 if read.vocabulary <= 65536 else np.int32)
    bench = Bench(config, home, made, jnp.asarray(text.windows(share, context, "share")), jnp.asarray(everything), *held)

    def given(keys: jax.Array) -> Variables:
        if config.guide.origin == "file":
            return _from_file(config, read, made, held[0])
        return fresh(made.guide, keys, example(config))

    guide_variables = guide(bench, given)
    return _results(config, made, home, read, share, guide_variables, arms(bench, guide_variables))


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


def _from_file(config: Any, corpus: text.Corpus, made: Setup, validation: HeldWindows) -> Variables:
    c = config.guide
    variables = load_gpt2(c.weights, vocabulary=vocabulary(config), width=c.width, depth=c.depth, heads=c.heads,
                          positions=c.positions or config.data.context)
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)
    worse_than_guessing(c.weights, validation.scores(made.guide, stacked)["loss"][0], corpus.vocabulary,
                        "its weights belong to another tokenizer; give weights that were trained on this text and tokenizer")
    return stacked


def _results(config: Any, made: Setup, home: Workdir, corpus: text.Corpus, share: np.ndarray, guide: Variables,
             arms: dict[str, Variables]) -> dict[str, Any]:
    context, repeats = config.data.context, config.report.latency_repeats
    LOG.info("measuring latency and memory")
    first = {name: jax.tree.map(lambda leaf: leaf[0], variables) for name, variables in arms.items()}
    costs = {"guide": measured.network_cost(made.guide, guide, context, repeats=repeats),
             "target": measured.network_cost(made.target, first["converted"], context, repeats=repeats)}
    rows = home.records.read()
    per_token = corpus.bytes_per_token["test"]
    models = [_in_perplexity(measured.model_record(name, rows, costs["guide" if name == "guide" else "target"], LOSS), per_token)
              for name in ("guide", *arms)]
    samples = [_sample(config, corpus, name, net, variables) for name, net, variables in
               (("guide", made.guide, guide), ("converted", made.target, first["converted"]))]
    data = corpus.provenance() | {
        "share": config.data.share, "train_examples": (share.size - 1) // context,
        "guide_train_examples": (corpus.train.size - 1) // context,
        "eval_examples": -(-(corpus.test.size - 1) // context), "bytes_per_token": corpus.bytes_per_token}
    return {"metric": "perplexity", "higher_is_better": False, "chance": float(corpus.vocabulary), "data": data,
            "models": models, "stages": measured.stage_records(rows, "perplexity"),
            "claims": measured.claims(models, LOSS), "samples": samples}


def _in_perplexity(model: dict[str, Any], bytes_per_token: float) -> dict[str, Any]:
    """A record whose values are perplexities, with bits per byte; claims compare its losses."""
    values = [math.exp(loss) for loss in model["losses"]]
    value, error = measured.mean_and_error(values)
    return {**model, "value": value, "stderr": error, "seeds": values,
            "bits_per_byte": model["loss"] / math.log(2) / bytes_per_token}


def _sample(config: Any, corpus: text.Corpus, name: str, net: Network, variables: Variables) -> dict[str, str]:
    prompt = jnp.asarray(corpus.tokenizer.encode(config.report.prompt))[None, : config.data.context // 2].astype(jnp.int32)
    length = min(config.report.sample_tokens, config.data.context - prompt.shape[1])
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    tokens = decode.generate(net, variables, prompt, key, length=length)
    return {"model": name, "prompt": config.report.prompt, "text": corpus.tokenizer.decode(np.asarray(tokens[0]))}
