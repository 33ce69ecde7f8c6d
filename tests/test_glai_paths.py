"""The budget to the digit of the paper's own sizes, and the exactness of the path form against
float64 loops.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theseus_jax.errors import UserError
from theseus_jax.methods.glai import paths as gp
from theseus_jax.methods.glai.budget import budget, narrow_line, path_count, reduced_hidden

SHAPES = [(5, (6,), 3), (4, (5, 3), 2), (3, (4, 3, 5), 2)]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def network(seed, n_in, hidden, outputs, dtype=np.float64):
    """He-scaled kernels and biases of order 1/2, so that bias paths matter."""
    draw = np.random.default_rng(seed)
    widths = (n_in, *hidden, outputs)
    return tuple(
        (
            draw.normal(size=(a, b)).astype(dtype) * dtype(math.sqrt(2 / a)),
            draw.normal(size=b).astype(dtype) / 2,
        )
        for a, b in zip(widths[:-1], widths[1:])
    )


def rows(seed, count, n_in, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(count, n_in)).astype(dtype)


def as_jax(layers):
    return tuple((jnp.asarray(kernel), jnp.asarray(bias)) for kernel, bias in layers)


# ---- float64 loops, written from the definition ----


def loop_units(layers, x):
    """(logits, list of boolean patterns) of one row, unit by unit."""
    value, gates = list(x), []
    for number, (kernel, bias) in enumerate(layers):
        value = [
            sum(value[i] * kernel[i, j] for i in range(len(value))) + bias[j]
            for j in range(len(bias))
        ]
        if number < len(layers) - 1:
            gates.append([v > 0 for v in value])
            value = [max(v, 0.0) for v in value]
    return value, gates


def loop_paths(layers):
    """[(input, unit, ..., unit, output, weight)]: paths from the inputs and from each bias,
    constants as the width.
    """
    widths = [layers[0][0].shape[0]] + [kernel.shape[1] for kernel, _ in layers]
    found = []
    for start in range(len(layers) + 1):  # 0: from an input; s: from the bias of layer s
        for nodes in itertools.product(*(range(width) for width in widths[start:])):
            weight = 1.0 if start == 0 else layers[start - 1][1][nodes[0]]
            for step in range(len(nodes) - 1):
                weight *= layers[start + step][0][nodes[step], nodes[step + 1]]
            found.append((*widths[:start], *nodes, weight))
    return found


def loop_estimate(layers, x):
    """One row's logits as the sum over paths."""
    _, gates = loop_units(layers, x)
    total = [0.0] * layers[-1][0].shape[1]
    for *nodes, output, weight in loop_paths(layers):
        value = x[nodes[0]] if nodes[0] < len(x) else 1.0
        opened = all(unit == len(gate) or gate[unit] for unit, gate in zip(nodes[1:], gates))
        total[output] += weight * value * opened
    return total


# ---- budget ----

# Sizes of the paper's table 1 at rho = 0.5, counted by hand; A2 with the 14 classes of DBPedia-14.
TABLE = [
    ((384, (256,), 37), 108_069, 54_053, 1_823_397, 54_016, 2.96, 1_459),
    ((768, (128,), 4), 98_948, 49_476, 196_868, 49_472, 25.1, 12_368),
    ((768, (128,), 14), 100_238, 50_126, 689_038, 50_112, 7.27, 3_579),
    ((1280, (640,), 128), 901_888, 451_008, 52_469_888, 450_880, 0.859, 3_522),
    ((768, (768,), 128), 689_024, 344_576, 37_798_016, 344_448, 0.911, 2_691),
    ((576, (256,), 5), 148_997, 74_501, 369_285, 74_496, 20.2, 14_899),
    ((768, (512,), 4), 395_780, 197_892, 787_460, 197_888, 25.1, 49_472),
    ((768, (768, 768), 128), 1_279_616, 492_416, 14_514_438_272, 787_200, 0.0054, 6_150),
]


@pytest.mark.parametrize("sizes, original, reduced, paths, kept, percent, pairs", TABLE)
def test_every_row_of_the_table_of_sizes_to_the_digit(
    sizes, original, reduced, paths, kept, percent, pairs
):
    found = budget(*sizes)
    assert found[:4] == (original, reduced, paths, kept)
    assert found.pairs == pairs
    assert float(f"{100 * found.share:.{2 if percent < 0.01 else 3}g}") == percent
    n_in, hidden, _ = sizes
    assert found.density == pairs / (n_in * math.prod(width // 2 for width in hidden))


def test_the_papers_example_1_contradicts_its_own_formulas():
    found = budget(1280, (640,), 128)
    assert (found.reduced, found.paths) == (451_008, 52_469_888)
    assert (
        found.reduced != 225_000 and found.paths != 13_000_000 and abs(found.share - 0.052) > 0.04
    )
    # The printed 225 K is the value at rho = 0.25, where the paper's formula counts the output bias
    # (1 + rho) times.
    assert budget(1280, (640,), 128, rho=0.25).reduced + 128 // 4 == 225_600


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_path_count_is_the_number_of_paths(sizes):
    n_in, hidden, outputs = sizes
    listed = gp.every_path((n_in, *hidden))
    assert path_count(*sizes) == len(listed.inputs) * outputs == len(loop_paths(network(0, *sizes)))


def test_widths_are_rounded_to_the_nearest_unit():
    assert reduced_hidden((100, 5, 3), 0.29) == (29, 1, 1)  # 0.29 * 100 is 28.999999999999996
    assert reduced_hidden((5,), 0.5) == (3,)


@pytest.mark.parametrize(
    "arguments, line",
    [
        ((10, (4,), 3, 0.1), "rho = 0.1 leaves no unit of a hidden layer of 4; raise rho"),
        ((10, (4,), 3, 1.0), "rho = 1.0 does not reduce"),
        ((10, (4,), 3, 0.0), "rho = 0.0 does not reduce"),
        (
            (10, (4,), 1, 0.5),
            (
                r"24 parameters to spend \(49 of the network less 25 of the selector\), but only 23"
                r" paths"
            ),
        ),
        ((10, (), 3, 0.5), "without a hidden layer"),
        ((0, (4,), 3, 0.5), "below 1"),
        (
            (1, (2,), 300, 0.8),
            "0 parameters to spend at rho = 0.8 do not give each of 300 outputs a path; lower rho",
        ),
    ],
)
def test_an_impossible_budget_is_named_in_one_line(arguments, line):
    with pytest.raises(UserError, match=line) as raised:
        budget(*arguments)
    assert "\n" not in str(raised.value)


def test_a_selector_narrower_than_the_output_is_warned_about():
    assert narrow_line((256,), 128, 0.5) == ""
    assert "127 units at rho = 0.5, fewer than the 128 outputs" in narrow_line((512, 254), 128, 0.5)


# ---- paths ----


@pytest.mark.parametrize("sizes", SHAPES)
def test_every_path_and_its_weight_equal_the_loop(x64, sizes):
    layers = network(1, *sizes)
    listed = gp.every_path(gp.sizes(layers))
    weights = gp.path_weights(layers, listed)
    table = {
        (*map(int, nodes), output): float(weights[row, output])
        for row, nodes in enumerate(zip(listed.inputs, *listed.units))
        for output in range(sizes[2])
    }
    expected = {tuple(nodes): weight for *nodes, weight in loop_paths(layers)}
    assert table.keys() == expected.keys()
    np.testing.assert_allclose(
        [table[key] for key in expected], list(expected.values()), rtol=1e-14
    )
    nodes = list(zip(listed.inputs, *listed.units))
    assert nodes == sorted(nodes) and listed.inputs.dtype == np.int32


def test_paths_that_turn_constant_late_carry_no_weight(x64):
    layers = network(2, 4, (5, 3), 2)
    late = gp.Paths(
        np.array([0, 4, 1], np.int32),
        (np.array([5, 2, 1], np.int32), np.array([1, 3, 3], np.int32)),
    )
    np.testing.assert_array_equal(gp.path_weights(layers, late), 0)


@pytest.mark.parametrize("sizes", SHAPES)
def test_gates_and_logits_equal_the_loop(x64, sizes):
    layers, x = network(3, *sizes), rows(4, 20, sizes[0])
    expected = [loop_units(layers, row) for row in x]
    np.testing.assert_allclose(gp.logits(layers, x), [row[0] for row in expected], atol=1e-13)
    for number, (gate, opened) in enumerate(zip(gp.patterns(layers, x), gp.open_gates(layers, x))):
        np.testing.assert_array_equal(gate, np.array([row[1][number] for row in expected]))
        np.testing.assert_array_equal(opened[:, :-1], gate)
        assert (
            gate.dtype == bool
            and bool(opened[:, -1].all())
            and opened.shape[1] == gate.shape[1] + 1
        )


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_sum_over_paths_equals_the_loop(x64, sizes):
    layers, x = network(5, *sizes), rows(6, 6, sizes[0])
    listed = gp.every_path(gp.sizes(layers))
    found = gp.estimate(
        jnp.asarray(x), gp.open_gates(layers, x), listed, gp.path_weights(layers, listed)
    )
    np.testing.assert_allclose(found, [loop_estimate(layers, row) for row in x], atol=1e-13)


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_conversion_is_exact_on_1000_rows(sizes, dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        layers, x = as_jax(network(7, *sizes, dtype)), jnp.asarray(rows(8, 1000, sizes[0], dtype))
        listed = gp.every_path(gp.sizes(layers))
        weights = jax.jit(gp.path_weights)(layers, listed)
        assert weights.dtype == jax.jit(gp.logits)(layers, x).dtype == dtype
        difference = jax.jit(
            lambda own, z: (
                gp.logits(own, z) - gp.estimate(z, gp.open_gates(own, z), listed, weights)
            )
        )
        assert float(jnp.max(jnp.abs(difference(layers, x)))) <= tolerance


def test_single_entries_give_the_same_logits_as_their_paths(x64):
    layers, x = network(11, 4, (5, 3), 2), jnp.asarray(rows(12, 30, 4))
    listed = gp.every_path((4, 5, 3))
    both = jax.tree.map(lambda column: np.repeat(column, 2), listed)
    entries = gp.Entries(both, np.tile(np.arange(2, dtype=np.int32), len(listed.inputs)))
    weights, gates = gp.entry_weights(layers, entries), gp.open_gates(layers, x)
    np.testing.assert_allclose(weights.reshape(-1, 2), gp.path_weights(layers, listed), rtol=1e-15)
    np.testing.assert_allclose(
        gp.estimate_entries(x, gates, entries, weights, 2), gp.logits(layers, x), atol=1e-13
    )


# ---- gradients at conversion ----

open_gates, path_weights = jax.jit(gp.open_gates), jax.jit(gp.path_weights)


def squared(outputs, target):
    return jnp.mean((outputs - target) ** 2)


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_gradient_to_the_path_weights_equals_finite_differences_of_the_loop(x64, sizes):
    layers, x, target = network(13, *sizes), rows(14, 8, sizes[0]), rows(15, 8, sizes[2])
    listed = gp.every_path(gp.sizes(layers))
    gates, weights = open_gates(layers, x), np.array(path_weights(layers, listed))
    found = jax.grad(lambda w: squared(gp.estimate(jnp.asarray(x), gates, listed, w), target))(
        jnp.asarray(weights)
    )
    opened = [
        np.array([loop_units(layers, row)[1][number] + [True] for row in x])
        for number in range(len(sizes[1]))
    ]

    def loss(changed):
        total = np.zeros_like(target)
        for row in range(len(x)):
            for path, (i, *units) in enumerate(zip(listed.inputs, *listed.units)):
                if all(gate[row, unit] for gate, unit in zip(opened, units)):
                    total[row] += changed[path] * (x[row, i] if i < x.shape[1] else 1.0)
        return np.mean((total - target) ** 2)

    step = 1e-6
    for path, output in np.random.default_rng(16).integers((len(weights), sizes[2]), size=(8, 2)):
        shift = np.zeros_like(weights)
        shift[path, output] = step
        difference = (loss(weights + shift) - loss(weights - shift)) / (2 * step)
        assert abs(float(found[path, output]) - difference) < 1e-8


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_gradient_to_the_input_equals_the_networks(x64, sizes):
    layers, x, target = (
        as_jax(network(17, *sizes)),
        jnp.asarray(rows(18, 40, sizes[0])),
        rows(19, 40, sizes[2]),
    )
    listed = gp.every_path(gp.sizes(layers))
    gates, weights = open_gates(layers, x), path_weights(layers, listed)
    estimator = jax.jit(
        jax.grad(lambda z: squared(gp.estimate(z, gates, listed, weights), target))
    )(x)
    whole = jax.jit(jax.grad(lambda z: squared(gp.logits(layers, z), target)))(x)
    np.testing.assert_allclose(estimator, whole, atol=1e-14)
    # Gates computed from x inside the differentiated function change nothing: they are constants to
    # it.
    inside = jax.jit(
        jax.grad(
            lambda z: squared(gp.estimate(z, gp.open_gates(layers, z), listed, weights), target)
        )
    )(x)
    np.testing.assert_allclose(estimator, inside, atol=1e-15)


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_chain_rule_through_the_path_weights_gives_the_gated_networks_gradient(x64, sizes):
    layers, x, target = (
        as_jax(network(20, *sizes)),
        jnp.asarray(rows(21, 40, sizes[0])),
        rows(22, 40, sizes[2]),
    )
    listed = gp.every_path(gp.sizes(layers))
    gates = open_gates(layers, x)

    def gated(own):
        value = x
        for (kernel, bias), gate in zip(own[:-1], gates):
            value = (value @ kernel + bias) * jax.lax.stop_gradient(gate[:, :-1])
        return squared(value @ own[-1][0] + own[-1][1], target)

    def chained(own):
        weights, back = jax.vjp(lambda own: gp.path_weights(own, listed), own)
        return back(jax.grad(lambda w: squared(gp.estimate(x, gates, listed, w), target))(weights))[
            0
        ]

    both = jax.jit(chained)(layers), jax.jit(jax.grad(gated))(layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), *both)


@pytest.mark.parametrize(
    "layers, line",
    [
        ([((3, 4), (4,))], "1 layers given"),
        ([((3, 4), (5,)), ((4, 2), (2,))], "layer 0: kernel"),
        ([((3, 4), (4,)), ((5, 2), (2,))], "layer 1 reads 5 units, but layer 0 has 4"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, line):
    with pytest.raises(UserError, match=line):
        gp.extended([(jnp.zeros(kernel), jnp.zeros(bias)) for kernel, bias in layers])


def test_rows_of_another_width_are_named():
    with pytest.raises(UserError, match=r"\(7, 3\), the network reads \(B, 5\)"):
        gp.patterns(network(23, 5, (6,), 3), np.zeros((7, 3)))


def test_bfloat16_values_are_gated_in_float32():
    layers = jax.tree.map(lambda value: jnp.asarray(value, jnp.bfloat16), network(24, 5, (6,), 3))
    x = jnp.asarray(rows(25, 200, 5), jnp.bfloat16)
    kernel, bias = (np.asarray(value, np.float64) for value in layers[0])
    np.testing.assert_array_equal(
        gp.patterns(layers, x)[0], np.asarray(x, np.float64) @ kernel + bias > 0
    )
    assert gp.logits(layers, x).dtype == jnp.float32


def test_every_product_asks_for_full_precision():
    """A CPU has no TF32 to be wrong with, so the request itself is what can be checked here."""
    layers, x = (
        as_jax(network(26, 4, (5, 3), 2, np.float32)),
        jnp.asarray(rows(27, 8, 4, np.float32)),
    )
    listed = gp.every_path((4, 5, 3))

    def difference(own, z):
        estimated = gp.estimate(z, gp.open_gates(own, z), listed, gp.path_weights(own, listed))
        return gp.logits(own, z) - estimated

    program = str(jax.make_jaxpr(difference)(layers, x))
    assert (
        program.count("dot_general")
        == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        > 3
    )
