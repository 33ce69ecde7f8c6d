"""Maturity measures on packed gates against enumeration in plain Python, and the rule on histories
and on digits.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theseus_jax.errors import UserError
from theseus_jax.methods.glai import maturity as mt
from theseus_jax.methods.glai import paths as gp

WIDTHS = [(37,), (5, 33), (3, 4, 2)]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def gates(seed, rows, widths, share=0.5):
    draw = np.random.default_rng(seed)
    return [draw.random((rows, width)) < share for width in widths]


def snapshot(patterns):
    return mt.Snapshot(
        tuple(mt.pack(jnp.asarray(gate)) for gate in patterns),
        tuple(gate.shape[1] for gate in patterns),
    )


def flipped(patterns, seed, share):
    draw = np.random.default_rng(seed)
    return [gate ^ (draw.random(gate.shape) < share) for gate in patterns]


# ---- packing ----


@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_unit_j_is_bit_j_mod_32_of_word_j_over_32(width):
    (gate,) = gates(0, 7, (width,))
    words = np.asarray(mt.pack(jnp.asarray(gate)))
    assert words.dtype == np.uint32 and words.shape == (7, -(-width // 32))
    for row in range(7):
        bits = sum(1 << unit for unit in range(width) if gate[row, unit])
        assert [int(word) for word in words[row]] == [
            (bits >> 32 * k) % 2**32 for k in range(words.shape[1])
        ]
    np.testing.assert_array_equal(mt.popcount(jnp.asarray(words)), gate.sum(axis=1))


def test_a_snapshot_holds_the_networks_patterns():
    draw = np.random.default_rng(1)
    layers = tuple(
        (jnp.asarray(draw.normal(size=s), "f"), jnp.asarray(draw.normal(size=s[1]), "f"))
        for s in ((6, 40), (40, 9), (9, 2))
    )
    x = jnp.asarray(draw.normal(size=(11, 6)), "f")
    taken = mt.snapshot(layers, x)
    assert taken.widths == (40, 9)
    for words, gate in zip(taken.words, gp.patterns(layers, x)):
        units = np.arange(gate.shape[1])
        np.testing.assert_array_equal((np.asarray(words)[:, units // 32] >> (units % 32)) & 1, gate)


# ---- settling, distance ----


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("share", [0.02, 0.4])
def test_settling_equals_the_enumeration_over_all_paths(x64, widths, share):
    before = gates(2, 6, widths, 0.7)
    after = flipped(before, 3, share)
    x = np.random.default_rng(4).normal(size=(6, 5))
    total = count = 0
    for i, *units in itertools.product(range(5), *(range(width) for width in widths)):
        count += 1
        for row in range(6):
            indicators = [
                all(gate[row, unit] for gate, unit in zip(one, units)) for one in (before, after)
            ]
            total += abs(x[row, i]) * abs(int(indicators[0]) - int(indicators[1])) / 6
    found = float(mt.settling(jnp.asarray(x), snapshot(before), snapshot(after)))
    assert found > 0 and abs(found - total / count) < 1e-14
    assert (
        abs(float(mt.settling(jnp.asarray(x), snapshot(after), snapshot(before))) - found) < 1e-15
    )


def test_one_flipped_gate_of_1000_is_measured_to_rounding_in_float32():
    before = gates(5, 64, (1000, 500))
    after = [gate.copy() for gate in before]
    after[0][9, 123] ^= True
    x = np.random.default_rng(6).normal(size=(64, 8)).astype("f")
    exact = before[1][9].sum() / 500 / 1000 * np.abs(x[9].astype(float)).mean() / 64
    np.testing.assert_allclose(mt.settling(x, snapshot(before), snapshot(after)), exact, rtol=1e-6)
    assert float(mt.settling(x, snapshot(before), snapshot(before))) == 0


@pytest.mark.parametrize("widths", WIDTHS)
def test_pattern_distance_is_the_share_of_gates_that_differ(widths):
    before = gates(7, 20, widths)
    after = flipped(before, 8, 0.2)
    found = mt.pattern_distance(snapshot(before), snapshot(after))
    np.testing.assert_allclose(found, [np.mean(a != b) for a, b in zip(before, after)], rtol=1e-6)
    np.testing.assert_array_equal(
        mt.pattern_distance(snapshot(before), snapshot([~gate for gate in before])), 1
    )


@pytest.mark.parametrize(
    "measure", [mt.pattern_distance, lambda a, b: mt.settling(jnp.ones((20, 3)), a, b)]
)
def test_snapshots_that_do_not_belong_together_are_named(measure):
    whole = snapshot(gates(9, 20, (37, 5)))
    for other in (gates(9, 20, (38, 5)), gates(9, 19, (37, 5))):
        with pytest.raises(
            UserError, match="the snapshots differ: .*take both from one network on the same rows"
        ):
            measure(whole, snapshot(other))


def test_rows_of_another_number_are_named():
    both = snapshot(gates(10, 20, (37,)))
    with pytest.raises(UserError, match="19 rows for snapshots of 20"):
        mt.settling(jnp.ones((19, 3)), both, both)


# ---- OUI ----


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_oui_equals_the_loop_over_pairs(widths, share):
    patterns = gates(11, 9, widths, share)
    values = [
        min(int(sum(gate[a] != gate[b])), gate.shape[1] // 2) / (gate.shape[1] // 2)
        for gate in patterns
        for a, b in itertools.combinations(range(9), 2)
    ]
    np.testing.assert_allclose(mt.oui(snapshot(patterns)), np.mean(values), rtol=1e-6)


def test_oui_is_0_for_equal_rows_and_1_where_half_the_units_differ():
    row = np.arange(65) % 3 == 0
    assert float(mt.oui(snapshot([np.stack([row] * 6)]))) == 0
    half = row ^ (np.arange(65) < 32)
    np.testing.assert_allclose(mt.oui(snapshot([np.stack([row, half])])), 1, rtol=1e-6)
    np.testing.assert_allclose(mt.oui(snapshot([np.stack([row, ~row])])), 1, rtol=1e-6)
    one_less = row ^ (np.arange(65) < 31)
    np.testing.assert_allclose(mt.oui(snapshot([np.stack([row, one_less])])), 31 / 32, rtol=1e-6)


@pytest.mark.parametrize("rows, widths", [(1, (8,)), (4, (8, 1))])
def test_oui_of_one_row_or_one_unit_is_refused(rows, widths):
    with pytest.raises(UserError, match="at least 2 rows and 2 units"):
        mt.oui(snapshot(gates(12, rows, widths)))


# ---- the rule ----


def first_mature(history, rule=mt.Maturity()):
    return next((t for t in range(1, len(history) + 1) if mt.mature(history[:t], rule)), None)


@pytest.mark.parametrize(
    "history, rule, epoch",
    [
        ([1.0, 0.5, 0.25, 0.125, 0.0625], mt.Maturity(window=1, share=0.2), 4),
        ([1.0, 0.5, 0.25, 0.125, 0.0625, 0.0], mt.Maturity(window=2, share=0.2), 4),
        ([1.0, 0.5, 0.25, 0.125, 0.0625], mt.Maturity(window=3, share=0.2), 5),
        # a window with the peak in it is not under it
        ([1.0, 0.0, 0.0, 0.0], mt.Maturity(window=3, share=0.2), 4),
        # the largest so far, wherever it stands
        ([0.1, 0.1, 1.0, 0.1, 0.1, 0.1], mt.Maturity(window=2, share=0.2), 5),
        ([1.0] * 50, mt.Maturity(), None),
        ([0.0] * 3, mt.Maturity(), 3),
        ([1.0, np.nan, 0.0], mt.Maturity(), None),
        ([], mt.Maturity(), None),
    ],
)
def test_the_rule_fires_where_the_smoothed_history_reaches_the_share(history, rule, epoch):
    assert first_mature(history, rule) == epoch


@pytest.mark.parametrize(
    "rule", [mt.Maturity(window=0), mt.Maturity(share=0.0), mt.Maturity(share=1.0)]
)
def test_an_impossible_rule_is_named(rule):
    with pytest.raises(UserError, match="window of at least 1 and a share in"):
        mt.mature([1.0], rule)


def digits_history(rate, epochs):
    """m_t of a 64-128-10 network under plain SGD on scikit-learn's digits, batches of 16, and its
    accuracy per epoch.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y)
    keys = jax.random.split(jax.random.key(0))
    layers = tuple(
        (jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5, jnp.zeros(shape[1]))
        for key, shape in zip(keys, ((64, 128), (128, 10)))
    )

    def loss(own, rows):
        return -jnp.mean(jax.nn.log_softmax(gp.logits(own, x[rows]))[jnp.arange(16), y[rows]])

    def step(own, rows):
        return jax.tree.map(lambda p, g: p - rate * g, own, jax.grad(loss)(own, rows)), None

    epoch = jax.jit(lambda own, order: jax.lax.scan(step, own, order)[0])

    draw, taken, history, accuracy = (
        np.random.default_rng(0),
        [mt.snapshot(layers, x[:512])],
        [],
        [],
    )
    for _ in range(epochs):
        layers = epoch(layers, draw.permutation(len(x))[:1792].reshape(-1, 16))
        taken.append(mt.snapshot(layers, x[:512]))
        history.append(float(mt.settling(x[:512], *taken[-2:])))
        accuracy.append(float(jnp.mean(jnp.argmax(gp.logits(layers, x), axis=1) == y)))
    return history, accuracy


def test_on_digits_the_selector_settles_long_before_the_network_converges():
    fast, fast_accuracy = digits_history(0.1, 30)
    slow, slow_accuracy = digits_history(0.01, 14)
    early, late = first_mature(fast), first_mature(slow)
    assert 3 <= early <= 6 < late <= 13
    # The networks still learn after it: the rule does not wait for them.
    assert fast_accuracy[early - 1] < 0.98 < fast_accuracy[-1] and slow_accuracy[late - 1] < 0.95
