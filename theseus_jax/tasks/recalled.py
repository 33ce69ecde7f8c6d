"""How well language models recall planted words, at up to several times the trained context."""

from __future__ import annotations

from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.data.recall import Recall
from theseus_jax.data.windows import windows
from theseus_jax.evaluate import class_scores
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.tasks.lengths import BATCH, TIMES, TOKENS, reads

SPLITS = ("share", "validation", "test", "lengths")


def key_of(seed: int, split: str) -> jax.Array:
    """Of the pairs that are planted in a split's windows."""
    return jax.random.fold_in(jax.random.key(seed), SPLITS.index(split))


def asked(recall: Recall, tokens: np.ndarray, length: int, key: jax.Array) -> tuple[Any, Any]:
    """(inputs (N, T), labels (N, T) with -1 where no answer is due) of a split's first tokens; N is
    a multiple of BATCH, if there are so many.
    """
    cut = windows(tokens[: TOKENS + 1], length, "test")
    planted = recall.plant(jnp.asarray(cut[: max(1, len(cut) // BATCH) * BATCH]), key)
    labels = np.where(recall.answers(length), np.asarray(planted[:, 1:]), -1)
    return planted[:, :-1], labels


def table(
    models: Sequence[tuple[str, Network, Variables]],
    recall: Recall,
    tokens: np.ndarray,
    context: int,
    key: jax.Array,
) -> dict[str, Any]:
    """A table of results.json: the share of answers that are right, and their loss, over all seeds,
    at contexts of 1 to TIMES times the trained one; variables with a leading seed axis.
    """
    rows = [{"model": name} for name, _, _ in models]
    columns = [{"key": "model", "label": "model", "unit": ""}]
    length = context
    while length <= TIMES * context and len(tokens) > length:
        x, y = asked(recall, tokens, length, jax.random.fold_in(key, length))
        for row, (_, net, variables) in zip(rows, models):
            one = jax.tree.map(lambda leaf: leaf[0], variables)
            if reads(net, one, length):
                scores = [
                    class_scores(net, variables, x[i : i + BATCH], y[i : i + BATCH])
                    for i in range(0, len(y), BATCH)
                ]
                row[f"right_{length}"] = float(np.mean([part.accuracy for part in scores]))
                row[f"loss_{length}"] = float(np.mean([part.loss for part in scores]))
        columns += [
            {"key": f"right_{length}", "label": f"right, {length} tokens", "unit": "share"},
            {"key": f"loss_{length}", "label": f"loss, {length} tokens", "unit": "loss"},
        ]
        length *= 2
    note = (
        f"Answers to {recall.pairs} keys at the end of a window whose pairs stand at its beginning;"
        f" trained on {context} tokens, means over seeds. A model with learned positions ends with"
        " them."
    )
    return {"title": "Recall", "note": note, "columns": columns, "rows": rows}
