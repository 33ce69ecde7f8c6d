"""Next-token prediction: a corpus in windows, GPT-2s and recurrent networks, perplexity."""

from __future__ import annotations

import copy
import functools
import logging
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import cost
from theseus_jax.checks import INSIDE, SOME, check_values
from theseus_jax.data import documents, text
from theseus_jax.data.recall import Recall, recall_of
from theseus_jax.data.tokens import ByteTokenizer
from theseus_jax.data.windows import evaluation_windows, views, windows
from theseus_jax.errors import UserError
from theseus_jax.nets import decode
from theseus_jax.nets.models.recurrent import CURES
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.tasks import Compared, Data, Sets, language_nets, language_results, recalled
from theseus_jax.tasks.costs import network_costs
from theseus_jax.tasks.held import HeldWindows
from theseus_jax.tasks.language_nets import sizes

__all__ = ["Task", "sections", "sizes"]
LOG = logging.getLogger("theseus_jax")
METHOD = "convert"
CONTEXTS = (128, 1024, 8192)
CHOICES = {
    "data.source": ("stdlib", "directory", "tfds"),
    "data.tokenizer": ("bytes", "bpe", "guide"),
}
POSITIVE = ("data.context", "report.sample_tokens")
RANGES = {
    "data.share": SOME,
    "data.validation": INSIDE,
    "data.test": INSIDE,
    **language_nets.RANGES,
}
# what methods take where the config does not say otherwise
USUAL = {
    "batch": 8,
    "guide_steps": 3000,
    "samples": "tokens",
    "inherit": ("embed", "ln_1", "ln_2", "mlp", "norm", "head"),
    "hybrid_examples": 0,
    "guide_table": False,
    "cures": (),  # the default target has skips and gates
}


def sections() -> dict[str, dict[str, Any]]:
    """The task's part of a config, with defaults and units."""
    data = {
        "source": "stdlib",  # stdlib | directory | tfds
        "path": "",  # directory: of *.txt files; tfds: its data_dir
        "encoding": "utf-8",  # directory: of its files; any that Python knows
        "dataset": "",  # tfds: the data set's name
        "text_key": "",  # tfds: the feature that holds the text, where it is not the only one
        "tokenizer": "bpe",  # bytes | bpe, trained here | guide, of the folder guide.weights
        "vocabulary": 1024,  # tokens, for bpe
        "context": 128,  # tokens a window
        "share": 0.1,  # of the training documents: all that conversion and controls may use
        "validation": 0.03,  # of the bytes, by file
        "test": 0.03,  # of the bytes, by file
        # pairs of words before the text of a window that are asked for after it; 0: text alone
        "recall": 0,
    }
    report = {"prompt": "def ", "sample_tokens": 96}  # start of the generated samples
    return {"data": data, "report": report}


class Task:
    """A checked config's language model."""

    compared = Compared("loss", -1.0, "nats per token", "losses", "loss")
    cures = CURES

    def __init__(self, config: Any) -> None:
        check_values(config, CHOICES, POSITIVE)
        if config.data.context < 2 or not config.report.prompt:
            raise UserError(
                f"config.data.context is {config.data.context} and config.report.prompt is"
                f" {config.report.prompt!r}; a sample needs a context of 2 tokens or more and a"
                " prompt that is not empty"
            )
        context, batch = config.data.context, config.train.batch
        self.config = config
        self.example = jax.ShapeDtypeStruct((1, context), jnp.int32)
        self.batch = jax.ShapeDtypeStruct((batch, context + 1), jnp.int32)
        self.samples = {"tokens": batch * context, "sequences": batch, "pooled": batch}
        self.tokens = self.vocabulary  # that the text has, once it is read
        self.unit = f"windows of {context} tokens"
        # of words that are known once the text is read
        words = tuple(range(config.data.recall))
        self.transforms = (Recall(len(words), words, words),) if words else ()

    @property
    def words(self) -> str:
        """The sizes that decide whether two networks fit, for errors."""
        widths = [
            f"{side}.{key} is {self.config[side][key]}"
            for side, keys in (("guide", ("width",)), ("target", ("width", "hidden")))
            for key in keys
            if side in self.config
        ]
        return ", ".join([*widths, f"{self.vocabulary} tokens are known"])

    @property
    def vocabulary(self) -> int:
        """Tokens that both networks know (`language_nets.vocabulary`)."""
        return language_nets.vocabulary(self.config)

    def pair(self) -> tuple[Network, Network]:
        """The guide, and the target, whose seams have the guide's width where adapters are needed.
        Raises UserError.
        """
        check_values(self.config, language_nets.CHOICES, language_nets.POSITIVE)
        return self.guide(), self.target()

    def guide(self, **changes: Any) -> Network:
        """A Transformer; or one that differs in some sizes."""
        return language_nets.guide(self.config, **changes)

    def target(self, **changes: Any) -> Network:
        """A recurrent network, with seams of the guide's width; or one that differs in some
        sizes.
        """
        return language_nets.target(self.config, **changes)

    def windowed(self, state: int) -> Network:
        """The guide with attention cut to `state` bytes (`language_nets.windowed`)."""
        return language_nets.windowed(self.config, state)

    def kept(self) -> tuple[int, ...]:
        """The numbers of the blocks whose attention stays (convert.keep). Raises UserError."""
        return language_nets.kept(self.config)

    def begin(self, net: Network, fresh: Variables, sets: Sets) -> Variables:
        """The variables (leading seed axis) of a guide that is not trained here: `fresh` ones, or
        those of a file. Raises UserError for a file of another network or tokenizer.
        """
        c = self.config.guide
        if c.origin == "untrained":
            return fresh
        variables = language_nets.loaded(self.config)
        stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)
        loss = float(sets.validation.scores(net, stacked)["loss"][0])
        if loss > math.log(self.tokens) * (1 + 1e-4):
            raise UserError(
                f"the guide in {c.weights} scores {loss:.2f} nats, worse than guessing"
                f" ({math.log(self.tokens):.2f}): its weights belong to another tokenizer; give"
                " weights that were trained on this text and tokenizer"
            )
        return stacked

    def corpus(self, cache: pathlib.Path) -> text.Corpus:
        """The tokenised text. Raises UserError for missing text or too small a vocabulary."""
        c = self.config.data
        named = {"stdlib": "the standard library's source text"}
        LOG.info("reading %s", named.get(c.source, c.path or c.dataset))
        corpus = text.load_corpus(
            source=c.source,
            path=c.path,
            encoding=c.encoding,
            dataset=c.dataset,
            text_key=c.text_key,
            tokenizer=c.tokenizer,
            vocabulary=self.vocabulary if c.tokenizer == "guide" else c.vocabulary,
            folder=self.config.guide.weights if c.tokenizer == "guide" else "",
            validation_fraction=c.validation,
            test_fraction=c.test,
            cache_dir=cache,
        )
        if corpus.vocabulary > self.vocabulary:
            raise UserError(
                f"the text has {corpus.vocabulary} tokens and the networks know {self.vocabulary};"
                " raise data.vocabulary"
            )
        return corpus

    def tokenizer(self, cache: pathlib.Path, sha256: str) -> Any:
        """The tokenizer of a run on text of this sum; cache: the run's. Raises UserError where the
        text is another one now.
        """
        if self.config.data.tokenizer == "bytes":
            return ByteTokenizer()
        corpus = self.corpus(cache)
        if corpus.sha256 != sha256:
            raise UserError(
                f"the text has changed since the run (sha256 {corpus.sha256[:12]}, then"
                f" {sha256[:12]}), and with it the tokenizer; bring the text of the run back"
            )
        return corpus.tokenizer

    def settled(self) -> Any:
        """The config as one that needs no folder of a guide any more."""
        return language_nets.settled(self.config)

    def load(self, cache: pathlib.Path) -> tuple[Task, Data]:
        """(itself, the corpus in windows): "share" of the documents, and "all" of them."""
        corpus, context = self.corpus(cache), self.config.data.context
        task = copy.copy(self)
        task.tokens = corpus.vocabulary
        if self.transforms:
            task.transforms = (recall_of(corpus.tokenizer, self.config.data.recall),)
        share = windows(documents.share(corpus, self.config.data.share), context, "share")
        validation, test = (
            HeldWindows(task.planted(held, split), mask)
            for split in ("validation", "test")
            for held, mask in [evaluation_windows(getattr(corpus, split), context, split)]
        )
        everything = views(corpus.train, context)  # streamed: only edits see what is planted
        train = {"share": jnp.asarray(task.planted(share, "share")), "all": everything}
        train["unlabelled"] = train["share"]
        sets = Sets(train, validation, test)
        facts = corpus.provenance() | {
            "share": self.config.data.share,
            "train_examples": len(share),
            "guide_train_examples": len(everything),
            "eval_examples": len(test.windows),
            "bytes_per_token": corpus.bytes_per_token,
        }
        return task, Data(
            lambda seed: sets,
            {
                "metric": "perplexity",
                "higher_is_better": False,
                "chance": float(corpus.vocabulary),
                "data": facts,
            },
            functools.partial(language_results.results, task, corpus),
        )

    def planted(self, given: np.ndarray, split: str) -> np.ndarray:
        """Windows of a split as the networks read them."""
        for transform in self.transforms:
            key = recalled.key_of(self.config.seed, split)
            given = np.asarray(transform.plant(jnp.asarray(given), key))
        return given

    def value(self, scores: dict[str, float]) -> float:
        """Perplexity."""
        return math.exp(scores["loss"])

    def costs(self, net: Network, variables: Variables, repeats: int) -> dict[str, Any]:
        """Besides `costs.network_costs`: latency (us) of one token with its state at data.context,
        and the bytes of that state at CONTEXTS.
        """
        context = self.config.data.context
        tokens = jnp.zeros((1,), jnp.int32)
        one = jax.jit(lambda v, token, carries: decode.step(net, v, token, carries)[0])
        carries = decode.initial_carries(net, 1, context)
        median, spread = cost.latency(one, variables, tokens, carries, repeats=repeats)
        state = {str(length): decode.state_bytes(net, length) for length in CONTEXTS}
        return network_costs(net, variables, self.example, repeats=repeats) | {
            "token_latency_us": median,
            "token_latency_iqr_us": spread,
            "state_bytes": state,
        }
