"""Config -> the networks of a language-model conversion. Nothing here reads data or computes."""
from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.experiment.checks import check_values
from theseus_jax.experiment.plans import Case, check_conversion, check_samples
from theseus_jax.methods import convert
from theseus_jax.nets.gpt2 import gpt2
from theseus_jax.nets.recurrent import recurrent
from theseus_jax.nets.stage import Network
from theseus_jax.similarity import METRICS

CHOICES = {
    "task": ("language_model",), "data.source": ("stdlib", "directory", "tfds"), "data.tokenizer": ("bytes", "bpe"),
    "guide.origin": ("trained", "untrained", "file"), "convert.samples": ("tokens", "sequences", "pooled"),
    "convert.train_inherited": ("stage", "frozen"), "convert.stitch": ("ridge", "none"),
    "convert.schedule": convert.SCHEDULES,
    "convert.metric": tuple(name for name, entry in METRICS.items() if entry.differentiable),
}
POSITIVE = ("seeds", "data.context", "train.batch", "train.chunk", "guide.width", "guide.depth", "guide.heads",
            "target.width", "target.depth", "target.hidden", "convert.steps", "convert.neighbours",
            "report.sample_tokens", "report.latency_repeats")


def check(config: Any) -> None:
    """Raises UserError, one line, for the first value that cannot be meant."""
    check_values(config, CHOICES, POSITIVE)
    check_conversion(config)
    if config.data.context < 2 or not config.report.prompt:
        raise UserError(f"config.data.context is {config.data.context} and config.report.prompt is {config.report.prompt!r}; a "
                        "sample needs a context of 2 tokens or more and a prompt that is not empty")
    sequences = config.train.batch
    check_samples(config, {"tokens": sequences * config.data.context, "sequences": sequences, "pooled": sequences})


def vocabulary(config: Any) -> int:
    """Tokens that both networks know: 256 bytes and a separator, or the BPE's."""
    return 257 if config.data.tokenizer == "bytes" else config.data.vocabulary


def build_guide(config: Any) -> Network:
    """The guide network of a config."""
    c = config.guide
    return gpt2(vocabulary=vocabulary(config), width=c.width, depth=c.depth, heads=c.heads,
                positions=c.positions or config.data.context, dropout=c.dropout)


def build_target(config: Any) -> Network:
    """The target network of a config; its seams have the guide's width when adapters are needed."""
    c = config.target
    return recurrent(vocabulary=vocabulary(config), width=c.width, depth=c.depth, hidden=c.hidden, kind=c.cell,
                     block=c.block, expansion=c.expansion, rank=c.adapter_rank,
                     seam_width=0 if c.width == config.guide.width else config.guide.width)


def example(config: Any) -> jax.ShapeDtypeStruct:
    """The shape of one window of tokens, (1, T) int32."""
    return jax.ShapeDtypeStruct((1, config.data.context), jnp.int32)


def case(config: Any) -> Case:
    """Both networks of a checked config and what they read. Raises UserError."""
    check(config)
    batch = jax.ShapeDtypeStruct((config.train.batch, config.data.context + 1), jnp.int32)
    words = (f"the guide's width is {config.guide.width}, the target's {config.target.width}, its units {config.target.hidden}")
    return Case(build_guide(config), build_target(config), example(config), batch, words)
