"""Generated sequences: copying with an answer at every blank, and parity with one a sequence.

Training batches are drawn from a key, anew for every step or from a fixed set; the held-out sets
are the same whatever the run's seed.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax.checks import check_values
from theseus_jax.data.sequences import FORMS, Copying, Fresh, Parity, chance, digest
from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.recurrent import CURES
from theseus_jax.nets.models.sequences import sequence_network
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.tasks import Compared, Data, Sets
from theseus_jax.tasks.costs import network_costs
from theseus_jax.tasks.held import HeldClasses

METHOD = "guide"
CHOICES = {
    "data.kind": ("copy", "parity"),
    "data.form": FORMS,
    "guide.origin": ("trained", "untrained"),
}
POSITIVE = ("data.train", "data.validation", "data.test")
HELD, FIXED = 0, 1  # keys: of held-out examples, and of a fixed training set
USUAL = {
    "batch": 64,
    "guide_steps": 2000,
    "samples": "tokens",
    "inherit": (),
    "hybrid_examples": 0,
    "guide_table": False,
    "cures": ("baseline_residual", "baseline_gated"),
}


def sections() -> dict[str, dict[str, Any]]:
    """The task's part of a config, with defaults and units."""
    data = {
        "kind": "copy",  # copy | parity
        "form": "mended",  # copy: mended | published, whose 14.3 % are chance
        "symbols": 10,  # copy: different symbols
        "shortest": 20,  # symbols to copy, or bits
        "longest": 40,
        "fresh": True,  # every batch is drawn anew; else from data.train fixed examples
        "train": 4096,  # examples an epoch
        "validation": 512,
        "test": 2048,
    }
    return {"data": data}


def sizes() -> dict[str, dict[str, Any]]:
    """The sizes of a guide and of a target: see `sequence_network`."""
    both = {
        "arch": "decoder",  # rnn | decoder | encoder
        "width": 64,
        "depth": 2,  # blocks
        "heads": 4,  # decoder, encoder
        "positions": 0,  # decoder, encoder: learned positions; 0: as many as the longest sequence
        "dropout": 0.0,  # decoder
        "hidden": 0,  # rnn: units a block; 0: width
        "cell": "elman",  # rnn: elman | gru | lstm | linear
        "block": "plain",  # rnn: plain | residual
    }
    return {"guide": both, "target": both | {"arch": "rnn"}}


class Task:
    """A checked config's sequences."""

    compared = Compared("accuracy", 1.0, "accuracy")
    unit = "sequences"

    def __init__(self, config: Any) -> None:
        check_values(config, CHOICES, POSITIVE)
        c, count = config.data, config.train.batch
        if config.guide.get("weights"):
            raise UserError(
                f"config.guide.weights is {config.guide.weights!r}; guides on sequences are trained"
                " here: leave it empty"
            )
        self.config = config
        self.drawn = (
            Copying(c.symbols, c.shortest, c.longest, c.form)
            if c.kind == "copy"
            else Parity(c.shortest, c.longest)
        )
        self.everywhere = c.kind == "copy"
        ids = jax.ShapeDtypeStruct((1, self.drawn.tokens), jnp.int32)
        self.example = Masked(ids, ids)
        key = jax.random.key(HELD)
        inputs, labels = jax.eval_shape(lambda: self.drawn.draw(key, count))
        self.batch = {"inputs": inputs, "labels": labels}
        self.samples = {"tokens": count * self.drawn.tokens, "sequences": count, "pooled": count}
        self.transforms = (Fresh(self.drawn),) if c.fresh else ()

    @property
    def words(self) -> str:
        """What is to be learnt, for errors."""
        return f"sequences have up to {self.drawn.tokens} tokens of {self.drawn.vocabulary}"

    @property
    def cures(self) -> dict[str, dict[str, Any]]:
        """{arm: sizes of the target that it changes}; a Transformer has skips and norms."""
        return dict(CURES) if self.config.target.arch == "rnn" else {}

    def pair(self) -> tuple[Network, Network]:
        """The guide and the target, checked. Raises UserError."""
        return self.guide(), self.target()

    def guide(self) -> Network:
        """The guide."""
        return self._network("guide")

    def target(self, **changes: Any) -> Network:
        """The target, or one that differs from it in some sizes."""
        return self._network("target", **changes)

    def _network(self, side: str, **changes: Any) -> Network:
        held = {key: self.config[side][key] for key in sizes()[side]} | changes
        if min(held["width"], held["depth"], held["heads"]) < 1:
            raise UserError(
                f"config.{side} has width {held['width']}, depth {held['depth']} and"
                f" {held['heads']} heads; each is at least 1"
            )
        positions = held["positions"] or self.drawn.tokens
        if held["arch"] != "rnn" and positions < self.drawn.tokens:
            raise UserError(
                f"config.{side}.positions is {positions} and sequences have up to"
                f" {self.drawn.tokens} tokens; raise it, or lower data.longest"
            )
        return sequence_network(
            **held | {"positions": positions},
            vocabulary=self.drawn.vocabulary,
            outputs=self.drawn.vocabulary if self.everywhere else 2,
            everywhere=self.everywhere,
        )

    def begin(self, net: Network, fresh: Variables, sets: Sets) -> Variables:
        """The variables of an untrained guide: `fresh` ones."""
        return fresh

    def load(self, cache: pathlib.Path) -> tuple[Task, Data]:
        """(itself, its data): the sets drawn, and what a rule scores that reads one token."""
        c = self.config.data
        keys = jax.random.split(jax.random.key(HELD))
        held = [self.drawn.draw(k, n) for k, n in zip(keys, (c.validation, c.test))]
        inputs, labels = self.drawn.draw(jax.random.key(FIXED), c.train)
        examples = {"inputs": inputs, "labels": labels}
        train = dict.fromkeys(("all", "share", "unlabelled"), examples)
        sets = Sets(train, *[HeldClasses(x, jax.device_get(y)) for x, y in held])
        facts = {
            "name": f"{c.kind} ({c.form})" if self.everywhere else c.kind,
            "sha256": digest(*held[1]),
            "note": str(self.drawn),
            "fresh": c.fresh,
            "train_examples": c.train,
            "validation_examples": c.validation,
            "eval_examples": c.test,
        }
        known = {"metric": "accuracy", "higher_is_better": True, "chance": chance(*held[1])}
        return self, Data(lambda seed: sets, {**known, "data": facts})

    def value(self, scores: dict[str, float]) -> float:
        """Accuracy: of the asked positions, or of sequences."""
        return scores["accuracy"]

    def costs(self, net: Network, variables: Variables, repeats: int) -> dict[str, Any]:
        """See `costs.network_costs`."""
        return network_costs(net, variables, self.example, repeats=repeats)
