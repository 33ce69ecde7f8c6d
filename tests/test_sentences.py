"""Agreement of sentence embeddings against scipy, and its theorems."""

import numpy as np
import pytest
import scipy.stats

from theseus_jax.errors import UserError
from theseus_jax.similarity.sentences import sentence_agreement


def embeddings(n=40, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def cosines(x):
    x = np.float64(x)
    return np.array(
        [
            x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
            for i in range(len(x))
            for j in range(i + 1, len(x))
        ]
    )


def refusal(*args):
    with pytest.raises(UserError) as caught:
        sentence_agreement(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_of_pairs_are_scipy_s(ties):
    a, b = embeddings(), embeddings(d=7, seed=1) + np.pad(embeddings(), ((0, 0), (0, 2)))
    if ties:
        a, b = np.sign(a[:, :3]), np.sign(b)
        assert len(np.unique(cosines(a).round(9))) < 10
    found = sentence_agreement(a, b)
    x, y = cosines(a), cosines(b)
    assert found["spearman"] == pytest.approx(
        scipy.stats.spearmanr(x.round(12), y.round(12)).statistic, abs=1e-9
    )
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)
    assert (found["texts"], found["pairs"], found["cosine"]) == (40, 780, None)
    assert 0.05 < found["spearman"] < 0.9


def test_the_cosine_of_rows_is_a_loop_s_and_only_where_widths_agree():
    a, b = embeddings(), embeddings(seed=1)
    wanted = np.mean(
        [1 - scipy.spatial.distance.cosine(x, y) for x, y in zip(np.float64(a), np.float64(b))]
    )
    assert sentence_agreement(a, b)["cosine"] == pytest.approx(wanted, abs=1e-9)
    assert sentence_agreement(a, -a)["cosine"] == pytest.approx(-1, abs=1e-12)
    assert sentence_agreement(a, b[:, :4])["cosine"] is None


def test_rotations_and_scales_of_rows_change_no_correlation_and_shifts_do():
    a = embeddings()
    rotation = np.linalg.qr(embeddings(5, 5, seed=2).astype(np.float64))[0]
    scales = np.exp(embeddings(40, 1, seed=3))
    found = sentence_agreement(a, scales * a @ rotation)
    assert found["spearman"] == pytest.approx(1, abs=1e-6) and found["pearson"] == pytest.approx(
        1, abs=1e-6
    )
    assert found["cosine"] < 0.9 and sentence_agreement(a, 1e-30 * np.float64(a))[
        "cosine"
    ] == pytest.approx(1)
    assert sentence_agreement(a, 1e-300 * np.float64(a))["pearson"] == pytest.approx(1)
    assert sentence_agreement(a, a + 3)["pearson"] < 0.9
    assert abs(sentence_agreement(a, embeddings(seed=9))["spearman"]) < 0.15
    order = np.random.default_rng(4).permutation(40)
    b = embeddings(seed=1)
    for name, value in sentence_agreement(a[order], b[order]).items():
        assert value == pytest.approx(sentence_agreement(a, b)[name], abs=1e-9)


def test_more_than_1000_texts_are_spread_evenly_over_the_pairs():
    a, b = embeddings(2001, 3), embeddings(2001, 3, seed=1)
    found, spread = sentence_agreement(a, b), np.linspace(0, 2000, 1000).round().astype(int)
    assert (found["texts"], found["pairs"]) == (2001, 499_500)
    assert found["pearson"] == pytest.approx(
        sentence_agreement(a[spread], b[spread])["pearson"], abs=1e-12
    )
    assert found["cosine"] != sentence_agreement(a[spread], b[spread])["cosine"]


def test_degenerate_embeddings_have_documented_values():
    a = embeddings()
    flat = sentence_agreement(a, np.ones((40, 5)) * np.float32(0.1))
    assert flat["spearman"] == flat["pearson"] == 0 and np.isfinite(flat["cosine"])
    nothing = sentence_agreement(a, np.zeros((40, 5)))
    assert nothing["spearman"] == nothing["pearson"] == nothing["cosine"] == 0
    one = a.copy()
    one[3] = 0
    assert 0.5 < sentence_agreement(a, one)["pearson"] < 1


def test_what_cannot_be_compared_is_refused():
    a = embeddings()
    assert "shapes (40, 5) and (39, 5)" in refusal(a, a[1:])
    assert "3 or more texts" in refusal(a[:2], a[:2])
    assert "(5,)" in refusal(a[0], a)
    bad = a.copy()
    bad[2, 1] = np.nan
    assert "the second embeddings: 1 of 200 values are NaN" in refusal(a, bad)
    assert "the first embeddings" in refusal(np.where(np.isnan(bad), np.inf, bad), a)
