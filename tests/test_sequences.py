"""Generated sequences and the networks on them: what is asked, chance, causality, padding."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import changed

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.data.sequences import BLANK, COPY, PAD, Copying, Fresh, Parity, chance
from theseus_jax.errors import UserError
from theseus_jax.evaluate import class_scores
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.sequences import sequence_network
from theseus_jax.nets.stage import forward, init
from theseus_jax.objectives import CrossEntropy, Distillation, Signals

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SIZES = {"vocabulary": 7, "outputs": 5, "width": 8, "depth": 3, "heads": 2, "positions": 12}


def drawn(task, count=400, seed=0):
    inputs, labels = task.draw(jax.random.key(seed), count)
    return np.asarray(inputs.values), np.asarray(inputs.mask), np.asarray(labels)


def test_copying_asks_for_every_symbol_once_at_its_blank():
    ids, mask, labels = drawn(Copying(symbols=10, shortest=3, longest=6))
    for tokens, real, asked in zip(ids, mask, labels):
        n = int(np.argmax(tokens == COPY))
        assert 3 <= n <= 6 and (tokens[:n] >= 3).all() and real.sum() == 2 * n + 1
        assert (tokens[n + 1 : 2 * n + 1] == BLANK).all() and (tokens[2 * n + 1 :] == PAD).all()
        assert (asked[n + 1 : 2 * n + 1] == tokens[:n]).all()
        assert (np.delete(asked, np.s_[n + 1 : 2 * n + 1]) == -1).all()
    lengths = np.bincount((labels >= 0).sum(1), minlength=7)[3:]
    assert (lengths > 60).all()  # of 100 expected, 8.7 standard deviation
    assert np.bincount(ids[ids >= 3])[3:].min() > 0


def test_the_published_form_of_copying_is_won_by_a_constant():
    """arXiv 2410.20035 reports 14.35 % for its plain RNN: a constant non-zero symbol and the end
    that is given, of n in 20..40, get (0.1 n + 1) / (0.9 n + 1) of a sequence.
    """
    ids, mask, labels = drawn(Copying(form="published"), 4000)
    constant = np.where(ids == 11, 11, 7)
    counted = labels >= 0
    assert np.mean(constant[counted] == labels[counted]) == pytest.approx(0.143, abs=0.003)
    lengths = np.arange(20, 41)
    exact = np.sum(0.1 * lengths + 1) / np.sum(0.9 * lengths + 1)
    score = chance(Masked(ids, mask), labels)
    assert exact == pytest.approx(0.1429, abs=1e-4) and score == pytest.approx(exact, abs=0.003)
    assert ((labels >= 0) & (ids == 0) & (labels == 0)).sum() == 0


def test_a_constant_is_at_a_tenth_where_every_symbol_counts():
    ids, mask, labels = drawn(Copying(), 4000)
    assert chance(Masked(ids, mask), labels) == pytest.approx(0.1, abs=0.003)
    assert set(np.unique(labels)) == {-1, *range(3, 13)}


def test_parity_is_the_sum_of_the_bits():
    ids, mask, labels = drawn(Parity(2, 9), 1000)
    bits = np.where(mask == 1, ids - 1, 0)
    assert set(np.unique(ids[mask == 1])) == {1, 2} and (ids[mask == 0] == 0).all()
    np.testing.assert_array_equal(labels, bits.sum(1) % 2)
    np.testing.assert_array_equal(np.unique(mask.sum(1)), np.arange(2, 10))
    share = max(labels.mean(), 1 - labels.mean())
    assert chance(Masked(ids, mask), labels) == pytest.approx(share)


@pytest.mark.parametrize("make", [Copying, Parity])
def test_a_batch_comes_from_its_key_alone(make):
    fresh = Fresh(make(shortest=2, longest=4))
    nothing = jnp.zeros(6)
    one, again, other = (fresh(None, nothing, jax.random.key(seed)) for seed in (0, 0, 1))
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(again)))
    assert not np.array_equal(one[0].values, other[0].values)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Copying(shortest=5, longest=4), "lengths 5 to 4"),
        (lambda: Parity(0, 4), "lengths 0 to 4"),
        (lambda: Copying(symbols=1), "copying of 1 symbols"),
        (lambda: Copying(form="true"), "in the form 'true'"),
    ],
)
def test_no_such_sequences(make, words):
    with pytest.raises(UserError, match=words):
        make()


def padded(seed=0, count=4, tokens=12):
    ids = jax.random.randint(jax.random.key(seed), (count, tokens), 0, 7)
    lengths = jnp.arange(tokens - count + 1, tokens + 1)[:, None]
    return Masked(ids, (jnp.arange(tokens) < lengths).astype(jnp.int32))


CAUSAL = [("rnn", cell, block) for cell in ("elman", "gru", "lstm", "linear") for block in
          ("plain", "residual")] + [("decoder", "elman", "plain")]  # fmt: skip


@pytest.mark.parametrize("arch, cell, block", CAUSAL)
def test_no_earlier_logit_changes_with_a_later_token_bit_for_bit(arch, cell, block):
    """In the published RNN, layer i's last state starts layer i + 1: the second layer sees the
    end."""
    net = sequence_network(arch, everywhere=True, cell=cell, block=block, **SIZES)
    x = padded()._replace(mask=jnp.ones((4, 12), jnp.int32))
    variables = init(net, KEY, x)
    run = jax.jit(lambda x: forward(net, variables, x)[0])
    whole = np.asarray(run(x))
    for t in (11, 7, 1):
        other = x._replace(values=x.values.at[:, t].set((x.values[:, t] + 1) % 7))
        moved = np.asarray(run(other))
        np.testing.assert_array_equal(moved[:, :t], whole[:, :t])
        assert (moved[:, t] != whole[:, t]).any()


@pytest.mark.parametrize("arch", ["rnn", "decoder", "encoder"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_padding_is_not_read(arch, everywhere):
    net = sequence_network(arch, everywhere=everywhere, **SIZES)
    x = padded()
    variables = init(net, KEY, x)
    other = x._replace(values=jnp.where(x.mask == 1, x.values, 6))
    answers = [np.asarray(forward(net, variables, one)[0]) for one in (x, other)]
    assert answers[0].shape == ((4, 12, 5) if everywhere else (4, 5))
    counted = np.asarray(x.mask == 1) if everywhere else slice(None)
    np.testing.assert_array_equal(answers[0][counted], answers[1][counted])
    if not everywhere:  # the shortest alone, without its padding
        alone = Masked(x.values[:1, :9], x.mask[:1, :9])
        np.testing.assert_allclose(
            forward(net, variables, alone)[0], answers[0][:1], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("arch", ["rnn", "decoder", "encoder"])
def test_layers_are_distinct(arch):
    """In the published code stacked layers are one object."""
    net = sequence_network(arch, everywhere=True, **SIZES)
    variables = init(net, KEY, padded())
    blocks = [name for name in net.names if name.startswith("block_")]
    assert len(blocks) == 3
    kernels = [[leaf for leaf in jax.tree.leaves(variables[b]) if leaf.ndim == 2] for b in blocks]
    for one, other in zip(kernels, kernels[1:]):
        assert not any(np.array_equal(a, b) for a, b in zip(one, other))
    scales = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if "scale" in jax.tree_util.keystr(path)
    ]
    assert scales and all((leaf == 1).all() for leaf in scales)


def test_activations_inside_a_padded_stage_have_its_mask():
    net = sequence_network("decoder", everywhere=True, **SIZES)
    x = padded()
    _, found, _ = forward(net, init(net, KEY, x), x, capture=("block_2/attn", "block_2"))
    for one in found.values():
        assert one.values.shape == (4, 12, 8) and np.array_equal(one.mask, x.mask)


def test_positions_that_ask_nothing_count_neither_in_losses_nor_in_scores():
    draw = np.random.default_rng(0)
    logits, guide = draw.normal(size=(2, 3, 5, 4))
    labels = draw.integers(-1, 4, size=(3, 5))
    asked = labels >= 0

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    signals = Signals(jnp.asarray(labels), jnp.asarray(logits), {}, {"out": jnp.asarray(guide)})
    exact = np.mean([-log_softmax(logits)[i, t, labels[i, t]] for i, t in np.argwhere(asked)])
    assert float(CrossEntropy()(signals)) == pytest.approx(exact, rel=1e-5)
    for temperature in (1.0, 2.0):
        p, q = log_softmax(guide / temperature), log_softmax(logits / temperature)
        divergence = temperature**2 * (np.exp(p) * (p - q)).sum(-1)[asked].mean()
        got = Distillation(("out",), temperature=temperature)(signals)
        assert float(got) == pytest.approx(divergence, rel=1e-5)

    net = sequence_network("rnn", everywhere=True, **SIZES)
    x = padded()
    variables = jax.tree.map(lambda leaf: leaf[None], init(net, KEY, x))
    y = np.where(draw.random((4, 12)) < 0.5, -1, draw.integers(0, 5, (4, 12)))
    answers = np.asarray(forward(net, jax.tree.map(lambda leaf: leaf[0], variables), x)[0])
    scores = class_scores(net, variables, x, y)
    right = answers.argmax(-1) == y
    assert scores.accuracy[0] == pytest.approx(right[y >= 0].mean())
    losses = [-log_softmax(answers)[i, t, y[i, t]] for i, t in np.argwhere(y >= 0)]
    assert scores.loss[0] == pytest.approx(np.mean(losses), rel=1e-5)


TINY = {
    "data.shortest": 2,
    "data.longest": 4,
    "data.train": 64,
    "data.validation": 40,
    "data.test": 60,
    "guide.width": 8,
    "guide.depth": 1,
    "guide.steps": 6,
    "target.width": 8,
    "target.depth": 1,
    "guidance.steps": 6,
    "search.steps": 3,
    "search.rates": (1e-3, 1e-2),
    "train.batch": 16,
    "train.chunk": 3,
    "train.watch": 3,
    "seeds": 2,
    "report.latency_repeats": 2,
}


def tiny(**changes):
    return changed(base("sequences", "guide"), TINY, **changes)


def test_the_held_out_sequences_are_the_same_for_every_seed(tmp_path):
    digests = []
    for seed in (0, 1):
        config = tiny(seed=seed, arms=("baseline", "baseline_gated"), seeds=1)
        results = tj.run(config, tmp_path / str(seed))
        digests.append(results["data"]["sha256"])
        assert results["chance"] == pytest.approx(0.1, abs=0.05)
        assert [m["name"] for m in results["models"]] == ["guide", "baseline", "baseline_gated"]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"guide__positions": 5}, "positions is 5 and sequences have up to 9 tokens; raise it"),
        ({"guide__arch": "gpt"}, "no network 'gpt' on sequences; choose one of rnn, decoder"),
        ({"data__kind": "sort"}, "choose one of copy, parity"),
        ({"target__depth": 0}, "config.target has width 8, depth 0"),
        ({"target__arch": "encoder", "arms": ("baseline_gated",)}, "config.arms has baseline_gat"),
        ({"target__cell": "gru", "arms": ("baseline_gated",)}, "is what it would make of it"),
        ({"guidance__samples": "sequences", "train__batch": 3}, "3 samples given, needs at least"),
    ],
)
def test_mistakes_are_one_line(changes, words, tmp_path):
    with pytest.raises(UserError) as caught:
        tj.run(tiny(**changes), tmp_path / "x")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_many_seeds_of_a_deep_recurrent_network_start_at_all():
    """Batched QRs of several stages at once used to wait for XLA's threads for ever."""
    code = (
        "import jax, jax.numpy as jnp\n"
        "from theseus_jax.experiment.jobs import fresh\n"
        "from theseus_jax.nets.models.recurrent import recurrent\n"
        "sizes = dict(vocabulary=9, width=96, depth=6, hidden=128)\n"
        "net = recurrent(**sizes, kind='elman', block='plain')\n"
        "keys = jax.random.split(jax.random.key(0), 5)\n"
        "made = fresh(net, keys, jax.ShapeDtypeStruct((1, 4), jnp.int32))\n"
        "print(jax.block_until_ready(made)['head']['params']['kernel'].shape)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.strip() == "(5, 9, 128)"
