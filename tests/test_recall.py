"""Pairs of words planted in text: what stands where, what is asked, and how it is scored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.data.recall import Recall, recall_of, words_of
from theseus_jax.data.tokens import ByteTokenizer, train_bpe
from theseus_jax.errors import UserError
from theseus_jax.experiment import engine
from theseus_jax.nets.stage import network
from theseus_jax.tasks import lengths, recalled

PAIRS, LENGTH, V = 3, 80, 40
RECALL = Recall(PAIRS, tuple(range(20, 27)), tuple(range(30, 36)), repeats=2)
TEXT = np.random.default_rng(0).integers(0, 20, (5, LENGTH + 1)).astype(np.uint16)


def planted(seed=0, recall=RECALL, text=TEXT):
    return np.asarray(recall.plant(jnp.asarray(text), jax.random.key(seed)))


def test_pairs_stand_at_both_ends_and_between_and_the_text_stays():
    windows = planted()
    assert windows.shape == TEXT.shape and windows.dtype == TEXT.dtype
    for window, text in zip(windows, TEXT):
        told = window[: 2 * PAIRS].reshape(PAIRS, 2)
        value_of = dict(told.tolist())
        assert len(value_of) == PAIRS == len(set(value_of.values()))
        assert set(value_of) <= set(RECALL.keys) and set(value_of.values()) <= set(RECALL.values)
        assert dict(window[-2 * PAIRS :].reshape(PAIRS, 2).tolist()) == value_of
        middle, was = window[2 * PAIRS : -2 * PAIRS], text[2 * PAIRS : -2 * PAIRS]
        changed_at = np.flatnonzero(middle != was)
        assert len(changed_at) == 2 * 2 * PAIRS and changed_at.max() < len(middle) / 2
        for key, value in middle[changed_at].reshape(-1, 2):
            assert value_of[key] == value
        counts = {key: int((middle == key).sum()) for key in value_of}
        assert set(counts.values()) == {2}
    orders = [
        tuple(window[-2 * PAIRS :: 2]) == tuple(window[: 2 * PAIRS : 2]) for window in planted(1)
    ]
    assert not all(orders)


def test_every_batch_has_pairs_of_its_own_and_a_key_has_them_again():
    x, y = jnp.asarray(TEXT[:, :-1]), jnp.asarray(TEXT[:, 1:])
    one, again, other = (RECALL(x, y, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[0], again[0])
    assert (np.asarray(one[0]) != np.asarray(other[0])).any()
    np.testing.assert_array_equal(one[0][:, 1:], one[1][:, :-1])
    np.testing.assert_array_equal(one[0], planted(1)[:, :-1])
    rows = {tuple(row[: 2 * PAIRS]) for row in planted(1).tolist()}
    assert len(rows) == len(TEXT)


def test_answers_are_the_values_of_the_end():
    asked = RECALL.answers(LENGTH)
    targets = planted()[:, 1:]
    assert asked.sum() == PAIRS and set(targets[:, asked].ravel()) <= set(RECALL.values)
    inputs = planted()[:, :-1]
    assert set(inputs[:, asked].ravel()) <= set(RECALL.keys)


def test_words_are_tokens_of_letters():
    byte = words_of(ByteTokenizer())
    assert bytes(byte.tolist()).decode() == "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    tokenizer = train_bpe(["the cat sat, the cat 12 sat on the mat " * 9], 268)
    words = [tokenizer.decode([i]) for i in words_of(tokenizer)]
    assert " cat" in words and all(word[0] == " " and word[1:].isalpha() for word in words)


def test_there_are_four_times_as_many_words_as_pairs():
    recall = recall_of(ByteTokenizer(), 4)
    assert len(recall.keys) == len(recall.values) == 8
    assert not set(recall.keys) & set(recall.values)
    with pytest.raises(UserError, match="27 pairs, and the tokenizer has 52 tokens that are words"):
        recall_of(ByteTokenizer(), 27)
    with pytest.raises(UserError, match="context is 80 tokens, and 21 pairs before and after"):
        planted(recall=recall_of(ByteTokenizer(), 21))


class Finds(nn.Module):
    """Says at every token what came after its first occurrence: it recalls everything."""

    first: bool = True

    @nn.compact
    def __call__(self, x):
        x = x.astype(jnp.int32)
        places = jnp.arange(x.shape[1])
        before = (x[:, :, None] == x[:, None, :]) & (places < places[:, None])[None]
        found = jnp.where(before, places, x.shape[1]).min(-1) + 1
        told = jnp.take_along_axis(x, jnp.minimum(found, x.shape[1] - 1), axis=1)
        sure = self.param("sure", nn.initializers.constant(30.0), ())
        return sure * self.first * jax.nn.one_hot(told, V)


def test_what_recalls_everything_scores_so_at_every_length(monkeypatch):
    monkeypatch.setattr(lengths, "TOKENS", 4000)
    monkeypatch.setattr(recalled, "TOKENS", 4000)
    tokens = np.random.default_rng(1).integers(0, 20, 2600).astype(np.uint16)
    nets = {name: network([("find", Finds(name == "finds"))]) for name in ("finds", "guesses")}
    variables = {"find": {"params": {"sure": jnp.full((2,), 30.0)}}}
    models = [(name, net, variables) for name, net in nets.items()]
    table = recalled.table(models, RECALL, tokens, LENGTH, jax.random.key(0))
    rows = {row["model"]: row for row in table["rows"]}
    for times in (1, 2, 4, 8):
        assert rows["finds"][f"right_{times * LENGTH}"] == 1.0
        assert rows["finds"][f"loss_{times * LENGTH}"] < 1e-6
        assert rows["guesses"][f"loss_{times * LENGTH}"] == pytest.approx(np.log(V), rel=1e-5)
    assert f"right_{16 * LENGTH}" not in rows["finds"] and len(table["columns"]) == 1 + 2 * 4


TINY = LANGUAGE | {
    "data.context": 40,
    "data.test": 0.3,
    "data.recall": 2,
    "target.cell": "linear_attention",
    "convert.schedule": "one_shot",
    "convert.inherit": ("embed", "ln_1", "ln_2", "attn", "mlp", "norm", "head"),
    "convert.steps": 3,
    "controls.names": ("window",),
    "controls.equal_flops": False,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    texts = write_texts(tmp_path_factory.mktemp("texts"), 40)
    return changed(base(), {**TINY, "data.path": str(texts)})


def test_a_task_plants_in_all_that_is_read(config, tmp_path):
    task, data = engine.parts(config)[0].load(tmp_path)
    (recall,), sets = task.transforms, data.sets(0)
    for windows in (sets.train["share"], sets.validation.windows, sets.test.windows):
        window = np.asarray(windows)[0]
        assert dict(window[:4].reshape(2, 2).tolist()) == dict(window[-4:].reshape(2, 2).tolist())
        assert set(window[:4:2].tolist()) <= set(recall.keys)
    ends = [tuple(np.asarray(one.windows)[0][-4:]) for one in (sets.validation, sets.test)]
    assert ends[0] != ends[1]


@pytest.mark.slow
def test_a_run_tells_what_is_recalled_and_no_score_of_text_alone(config, tmp_path):
    results = tj.run(config, tmp_path / "run")
    rows = {row["model"]: row for row in results["tables"]["recall"]["rows"]}
    assert set(rows) == {"guide", "converted", "window"}
    assert "right_80" in rows["converted"] and "right_80" not in rows["guide"]
    assert 0 <= rows["converted"]["right_40"] <= 1
    net, variables = tj.restore(tmp_path / "run", model="converted")
    task, _ = engine.parts(config)[0].load(tmp_path / "cache")
    tokens = task.corpus(tmp_path / "cache").test
    losses = lengths.position_losses(
        net, variables, tokens, 40, lambda cut: task.planted(cut, "lengths")
    )
    positions = {row["model"]: row for row in results["tables"]["positions"]["rows"]}
    assert "from_40" not in positions["converted"]  # in longer windows pairs stand elsewhere
    assert positions["converted"]["from_20"] == pytest.approx(losses[20:].mean(), rel=1e-4)
    plain = lengths.position_losses(net, variables, tokens, 40)
    assert abs(plain[20:].mean() - losses[20:].mean()) > 1e-3
    assert "bits_per_byte" not in results["models"][0]
    assert "Recall" in (tmp_path / "run" / "report.html").read_text()
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert plan.count("2 pairs of words before and after the text") >= 2


def test_numbers_that_cannot_be_meant_are_refused(config):
    with pytest.raises(UserError, match="data.recall"):
        engine.parts(changed(config, {"data.recall": -1}))
