"""Held-out scores against NumPy, where rows and windows are filled up to whole blocks."""

import jax
import numpy as np
import pytest
import tiny

from theseus_jax.data.windows import evaluation_windows
from theseus_jax.evaluate import ROWS, class_scores, token_loss
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.stage import forward, init


def log_softmax(z):
    z = np.float64(z)
    return (
        z
        - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - z.max(-1, keepdims=True)
    )


def test_what_fills_up_windows_and_calls_counts_nowhere():
    net, draw = tiny.target(), np.random.default_rng(0)
    windows, mask = evaluation_windows(draw.integers(0, tiny.VOCABULARY, 50).astype(np.int32), 8)
    assert not mask.all()  # the last window is not full, and 7 windows fill no call
    variables = tiny.fresh(net)
    for seed, got in enumerate(token_loss(net, variables, windows, mask)):
        logits = forward(net, tiny.pick(variables, seed), windows[:, :-1])[0]
        losses = -np.take_along_axis(log_softmax(logits), windows[:, 1:, None], -1)[..., 0]
        assert got == pytest.approx(losses[mask].mean(), rel=1e-5)


def test_rows_that_fill_up_a_block_are_no_examples():
    net = mlp(classes=3, width=5, depth=2, norm="none")
    draw = np.random.default_rng(1)
    x = draw.normal(size=(ROWS + 100, 4)).astype(np.float32)
    y = draw.integers(0, 3, len(x))
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.vmap(lambda key: init(net, key, x[:1]))(keys)
    scores = class_scores(net, variables, x, y)
    for seed in range(2):
        logits = np.asarray(forward(net, tiny.pick(variables, seed), x)[0])
        losses = -log_softmax(logits)[np.arange(len(x)), y]
        assert scores.loss[seed] == pytest.approx(losses.mean(), rel=1e-5)
        assert scores.accuracy[seed] == pytest.approx((logits.argmax(-1) == y).mean(), rel=1e-6)
