"""What a language model's run adds to results.json: samples, scores in units of the text, losses by
position, and what was recalled.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.data.text import Corpus
from theseus_jax.nets import decode
from theseus_jax.nets.stage import Variables
from theseus_jax.tasks import lengths, recalled


def results(task: Any, corpus: Corpus, finished: Any) -> dict[str, Any]:
    """Samples of the guide and of ours, and losses by position; of text alone bits per byte and
    perplexity per word of every model, else what they recall. task: `tasks.language.Task`.
    """
    config, shown = task.config, [arm for arm in finished.arms if not arm.prolongs]
    samples = [
        sample(config, corpus, arm, finished.first(arm.name))
        for arm in finished.arms
        if arm.role != "rival"
    ]
    named = [(arm.name, arm.net, finished.first(arm.name)) for arm in shown]
    planted = functools.partial(task.planted, split="lengths") if task.transforms else None
    tables = {"positions": lengths.table(named, corpus.test, config.data.context, planted)}
    for recall in task.transforms:
        stacked = [(arm.name, arm.net, finished.done[arm.name]) for arm in shown]
        key = recalled.key_of(config.seed, "lengths")
        tables["recall"] = recalled.table(stacked, recall, corpus.test, config.data.context, key)
    models = finished.models
    if not task.transforms:
        models = [one | per_text(corpus, one["loss"]) for one in models]
    return {"models": models, "samples": samples, "tables": tables}


def per_text(corpus: Corpus, loss: float) -> dict[str, float]:
    """A loss on the test split, nats per token, as bits per byte and perplexity per word."""
    words_per_token = corpus.words["test"] / (corpus.tokens["test"] - 1)
    return {
        "bits_per_byte": loss / math.log(2) / corpus.bytes_per_token["test"],
        "word_perplexity": math.exp(loss / words_per_token),
    }


def sample(config: Any, corpus: Corpus, arm: Any, variables: Variables) -> dict[str, str]:
    """What a model goes on with after report.prompt; variables: of one seed."""
    encoded = jnp.asarray(corpus.tokenizer.encode(config.report.prompt))[None]
    prompt = encoded[:, : config.data.context // 2].astype(jnp.int32)
    length = min(config.report.sample_tokens, config.data.context - prompt.shape[1])
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    tokens = decode.generate(arm.net, variables, prompt, key, length=length)
    generated = corpus.tokenizer.decode(np.asarray(tokens[0]))
    return {"model": arm.name, "prompt": config.report.prompt, "text": generated}
