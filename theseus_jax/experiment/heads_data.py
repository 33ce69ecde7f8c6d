"""The features that heads are trained on: a labelled data set, a frozen backbone run over it once, scaled, per seed."""
from __future__ import annotations

import pathlib
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints, trees
from theseus_jax.data import features, labelled, text
from theseus_jax.data.labelled import DataSet, Labelled
from theseus_jax.errors import UserError
from theseus_jax.experiment import language
from theseus_jax.experiment.heads_setup import Facts
from theseus_jax.experiment.workdir import Workdir, stored_config
from theseus_jax.nets.stage import forward

DRAWINGS = 20  # of every Omniglot character


def load(config: Any, home: Workdir) -> Callable[[int], DataSet]:
    """The features of a seed, (N, I) float32 in three splits; negative ones are the search's. Raises UserError for missing data.

    Only few-shot episodes differ between seeds: those of the search come from other alphabets than those of the seeds.
    """
    c = config.data
    cache = pathlib.Path(c.cache) if c.cache else home.path / "cache"
    data = _with_backbone(_source(config, cache), c.backbone, c.size, cache)
    scaled = _scaled(data, c.standardise)  # few-shot: by the background alphabets, since an episode is too small
    if c.source == "omniglot":
        return lambda seed: episode(scaled, seed, ways=c.ways, shots=c.shots, key=config.seed)
    return lambda seed: scaled


def _source(config: Any, cache: pathlib.Path) -> DataSet:
    c = config.data
    limit = (c.train or None, c.validation or None, c.test or None)
    if c.source == "digits":
        return _limited(labelled.digits(), limit)
    if c.source == "cifar10":
        return labelled.cifar10_jpeg(c.path, cache_dir=cache, limit=limit)
    if c.source == "bbc":
        return _limited(labelled.bbc(), limit)
    if c.source == "omniglot":
        return labelled.omniglot(c.path)
    if c.source == "lm_states":
        return lm_states(c.path, limit, cache)
    return labelled.tfds_images(c.dataset, c.path, size=c.size, limit=limit)


def _limited(data: DataSet, limit: tuple[int | None, ...]) -> DataSet:
    parts = [Labelled(part.x[:count], part.y[:count]) for part, count in zip((data.train, data.validation, data.test), limit)]
    return data._replace(train=parts[0], validation=parts[1], test=parts[2])


def _with_backbone(data: DataSet, backbone: str, size: int, cache: pathlib.Path) -> DataSet:
    made = {"efficientnet_lite0": lambda: features.efficientnet_lite0_backbone(size), "minilm": features.minilm_backbone}
    if backbone != "none":
        return features.cached_features(data, made[backbone](), cache_dir=cache)

    def flat(part: Labelled) -> Labelled:
        scale = 255.0 if part.x.dtype == np.uint8 else 1.0
        return Labelled((part.x.reshape(len(part.x), -1) / scale).astype(np.float32), part.y)

    return data._replace(train=flat(data.train), validation=flat(data.validation), test=flat(data.test))


def _scaled(data: DataSet, standardise: bool) -> DataSet:
    """Every feature with the training split's mean 0 and deviation 1; a constant feature becomes 0."""
    if not standardise:
        return data
    mean, deviation = data.train.x.mean(0), data.train.x.std(0)
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    parts = [Labelled(((part.x - mean) * scale).astype(np.float32), part.y)
             for part in (data.train, data.validation, data.test)]
    return data._replace(train=parts[0], validation=parts[1], test=parts[2])


def episode(data: DataSet, seed: int, *, ways: int, shots: int, key: int) -> DataSet:
    """A few-shot task: `ways` characters, `shots` drawings of each to train on, half of the others to validate, half to test.

    seed >= 0 draws from the test alphabets, a negative one from the validation alphabets. y is in [0, ways). Raises
    UserError for more ways than characters, or shots that leave no drawing for both held-out splits.
    """
    part = data.test if seed >= 0 else data.validation
    there = np.unique(part.y)
    if ways > len(there) or shots > DRAWINGS - 4:
        raise UserError(f"{ways} ways of {shots} shots; there are {len(there)} characters of {DRAWINGS} drawings, of which 4 "
                        "have to be held out: lower data.ways or data.shots")
    draw = np.random.default_rng([key, int(seed < 0), abs(seed)])
    chosen = draw.choice(there, ways, replace=False)
    rows = np.stack([draw.permutation(np.flatnonzero(part.y == label)) for label in chosen])
    middle = shots + (DRAWINGS - shots) // 2
    parts = [Labelled(part.x[columns.ravel()], np.repeat(np.arange(ways, dtype=np.int32), columns.shape[1]))
             for columns in (rows[:, :shots], rows[:, shots:middle], rows[:, middle:])]
    return DataSet(f"{data.name}-{ways}-way-{shots}-shot", *parts, tuple(data.classes[label] for label in chosen), data.sha256,
                   f"one episode a seed; {data.note}")


def lm_states(workdir: str, limit: tuple[int | None, ...], cache: pathlib.Path) -> DataSet:
    """Hidden states (N, D) of a finished language run's guide, before its head; y is the next token.

    workdir: of a run with task language_model. limit: states of the three splits, each needed; every 8th position counts.
    Raises UserError for a folder without such a run, or without limits.
    """
    path = pathlib.Path(workdir) / "checkpoints" / "guide"
    if not workdir or not path.exists():
        raise UserError(f"data.path is {workdir!r}, which holds no language run with a guide; make one: "
                        f"python launch/run.py --config=configs/gpt2_to_rnn.py --workdir={workdir or 'runs/gpt2_to_rnn'}")
    if None in limit:
        raise UserError("hidden states are as many as tokens; set data.train, data.validation and data.test")
    tree, note = checkpoints.load(path, items=("variables",))
    config = stored_config(note["config"])
    net = language.network(config, "guide")
    variables = {**{name: {} for name in net.names}, **trees.unstack(tree["variables"], 0)}
    corpus = language.corpus(config, cache)
    parts = [_states(net, variables, getattr(corpus, split), config.data.context, count)
             for split, count in zip(("train", "validation", "test"), limit)]
    return DataSet("lm-states", *parts, tuple(map(str, range(corpus.vocabulary))), corpus.sha256,
                   f"hidden states of the guide of {pathlib.Path(workdir).name}, every 8th position")


def _states(net: Any, variables: Any, tokens: np.ndarray, context: int, count: int) -> Labelled:
    windows = text.windows(tokens, context)
    per_window = context // 8
    rows = np.random.default_rng(0).permutation(len(windows))[: -(-count // per_window)]
    run = jax.jit(lambda tokens: forward(net, variables, tokens, stop=net.names[-2])[0][:, 7::8])
    parts = np.array_split(rows, max(1, len(rows) // 32))
    x = [np.asarray(run(jnp.asarray(windows[part, :-1].astype(np.int32)))) for part in parts]
    x, y = np.concatenate(x).reshape(len(rows) * per_window, -1), windows[rows][:, 8::8].reshape(-1)
    if len(x) < count:
        raise UserError(f"{count} hidden states were asked for and a split has {len(x)}; lower data.train, validation or test")
    return Labelled(x[:count].astype(np.float32), y[:count].astype(np.int32))


def check_facts(facts: Facts, data: DataSet, contrast: bool) -> Facts:
    """The facts with the data's own number of training examples. Raises UserError where width differs, or classes do.

    contrast: a loss without labels, whose outputs are no classes."""
    if data.train.x.shape[1] != facts.inputs:
        raise UserError(f"the features are {data.train.x.shape[1]} wide and the config says {facts.inputs}; set data.backbone "
                        "or data.width right")
    largest = max(int(part.y.max()) for part in (data.train, data.validation, data.test))
    if contrast:
        return facts._replace(train=len(data.train.y))
    if len(data.classes) != facts.outputs or largest >= facts.outputs:
        raise UserError(f"{data.name} has {len(data.classes)} classes, labels up to {largest}, and the config says "
                        f"{facts.outputs}; set data.classes right, or to 0 where the source is known")
    return facts._replace(train=len(data.train.y))
