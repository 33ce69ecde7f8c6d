"""Hidden states of a language model of our own, as features."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import checkpoints, trees
from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.data.windows import windows as cut
from theseus_jax.errors import UserError
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.paths import local


def lm_states(workdir: str, limit: tuple[int | None, ...], cache: pathlib.Path) -> DataSet:
    """Hidden states (N, D) of a finished language run's guide, before its head; y is the next
    token.

    workdir: of a run with task language_model. limit: states of the three splits, each needed;
    every 8th position counts. Raises UserError for a folder without such a run, or without limits.
    """
    from theseus_jax.config import stored_config
    from theseus_jax.tasks import language

    path = local(workdir) / "checkpoints" / "guide"
    if not workdir or not path.exists():
        raise UserError(
            f"data.path is {workdir!r}, which holds no language run with a guide; make one: python"
            " launch/run.py --config=configs/gpt2_to_rnn.py --workdir="
            f"{workdir or 'runs/gpt2_to_rnn'}"
        )
    if None in limit:
        raise UserError(
            "hidden states are as many as tokens; set data.train, data.validation and data.test"
        )
    tree, note = checkpoints.load(path, items=("variables",))
    task = language.Task(stored_config(note["config"]))
    net, corpus = task.guide(), task.corpus(cache)
    variables = {**{name: {} for name in net.names}, **trees.unstack(tree["variables"], 0)}
    context = task.config.data.context
    parts = [
        _states(net, variables, getattr(corpus, split), context, count)
        for split, count in zip(("train", "validation", "test"), limit)
    ]
    return DataSet(
        "lm-states",
        *parts,
        tuple(map(str, range(corpus.vocabulary))),
        corpus.sha256,
        f"hidden states of the guide of {local(workdir).name}, every 8th position",
    )


def _states(
    net: Network, variables: Variables, tokens: np.ndarray, context: int, count: int
) -> Labelled:
    windows = cut(tokens, context)
    per_window, stop = context // 8, net.names[-2]
    rows = np.random.default_rng(0).permutation(len(windows))[: -(-count // per_window)]
    run = jax.jit(lambda tokens: forward(net, variables, tokens, stop=stop)[0][:, 7::8])
    parts = np.array_split(rows, max(1, len(rows) // 32))
    states = [np.asarray(run(jnp.asarray(windows[part, :-1].astype(np.int32)))) for part in parts]
    x = np.concatenate(states).reshape(len(rows) * per_window, -1)
    y = windows[rows][:, 8::8].reshape(-1)
    if len(x) < count:
        raise UserError(
            f"{count} hidden states were asked for and a split has {len(x)}; lower data.train,"
            " validation or test"
        )
    return Labelled(x[:count].astype(np.float32), y[:count].astype(np.int32))
