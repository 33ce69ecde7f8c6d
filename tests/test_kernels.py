"""Every operation of pallas_kernels against float64 NumPy, by one body for every implementation
that runs here.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import pallas_kernels as pk
from pallas_kernels import path_rows
from pallas_kernels.dispatch import Device
from pallas_kernels.gates import batch_words

IMPLEMENTATIONS = (
    "xla",
    "pallas_interpret",
    *(["pallas"] if jax.default_backend() == "gpu" else []),
)
IN_FLOAT64 = ("xla", "pallas_interpret")
SHAPES = {
    "one_sample": (1, 5, 33, 7, 3, 1),
    "odd": (37, 21, 45, 70, 5, 1),
    "two_hidden": (67, 18, 40, 130, 66, 2),
    "no_paths": (5, 4, 32, 0, 3, 1),
    "no_samples": (0, 4, 32, 6, 3, 1),
    "no_outputs": (5, 4, 32, 6, 0, 1),
    "many_tiles": (520, 100, 200, 600, 130, 1),
}


def case(name, seed=0, dtype=jnp.float32, wide=jnp.float32):
    """Operands of a shape (batch, inputs, units, paths, outputs, layers): one input has no path,
    one pair comes twice.
    """
    batch, inputs, units, paths, outputs, layers = SHAPES[name] if isinstance(name, str) else name
    rng = np.random.default_rng(seed)
    index = rng.integers(0, inputs - 1, paths).astype(np.int32)
    through = [rng.integers(0, units, paths).astype(np.int32) for _ in range(layers)]
    if paths:
        index[0], index[-1] = inputs - 2, inputs - 2
        for unit in through:
            unit[0] = unit[-1] = units - 1
    gates = tuple(
        pk.pack_gates(jnp.asarray(rng.random((batch, units)) < 0.6)) for _ in range(layers)
    )
    return {
        "x": jnp.asarray(rng.standard_normal((batch, inputs)), dtype),
        "gates": gates,
        "inputs": jnp.asarray(index),
        "units": tuple(map(jnp.asarray, through)),
        "weights": jnp.asarray(rng.standard_normal((paths, outputs)), wide),
        "dy": jnp.asarray(rng.standard_normal((batch, outputs)), wide),
        "ds": jnp.asarray(rng.standard_normal((batch, paths)), dtype),
    }


def reference(c):
    """The definition in float64: a one-hot matrix from inputs to paths and the product of its
    gates, by einsum.
    """
    wide = {key: np.asarray(c[key], np.float64) for key in ("x", "weights", "dy", "ds")}
    start = np.eye(wide["x"].shape[1])[np.asarray(c["inputs"])].reshape(-1, wide["x"].shape[1])
    opened = np.ones(wide["ds"].shape)
    for words, index in zip(c["gates"], c["units"]):
        bits = np.unpackbits(np.asarray(words).view(np.uint8), axis=1, bitorder="little")
        opened = opened * np.einsum(
            "bj,pj->bp", bits, np.eye(bits.shape[1])[np.asarray(index)].reshape(-1, bits.shape[1])
        )
    s = np.einsum("bi,pi,bp->bp", wide["x"], start, opened)
    return {
        "s": s,
        "s_dx": np.einsum("bp,bp,pi->bi", wide["ds"], opened, start),
        "y": np.einsum("bp,po->bo", s, wide["weights"]),
        "dw": np.einsum("bp,bo->po", s, wide["dy"]),
        "dx": np.einsum(
            "bo,po,bp,pi->bi", wide["dy"], wide["weights"], opened, start, optimize=True
        ),
    }


@functools.partial(jax.jit, static_argnames="implementation")
def evaluate(c, implementation):
    paths = c["gates"], c["inputs"], c["units"]
    s, pull_s = jax.vjp(
        lambda x: pk.path_contributions(x, *paths, implementation=implementation), c["x"]
    )
    y, pull = jax.vjp(
        lambda x, w: pk.path_estimator(x, *paths, w, implementation=implementation),
        c["x"],
        c["weights"],
    )
    dx, dw = pull(c["dy"])
    return {"s": s, "s_dx": pull_s(c["ds"])[0], "y": y, "dx": dx, "dw": dw}


def assert_equal(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].shape == value.shape, key
        scale = np.max(np.abs(value), initial=0) or 1
        np.testing.assert_allclose(
            np.asarray(found[key], np.float64), value, atol=tolerance * scale, rtol=0, err_msg=key
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_derivatives_are_those_of_the_definition(name, implementation):
    c = case(name)
    assert_equal(evaluate(c, implementation), reference(c), 1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_gates_dead_or_all_open(implementation):
    c = case("odd")
    dead = c | {"gates": tuple(jnp.zeros_like(words) for words in c["gates"])}
    found = evaluate(dead, implementation)
    assert all(not np.any(np.asarray(value)) for value in found.values())
    opened = c | {"gates": tuple(jnp.full_like(words, 2**32 - 1) for words in c["gates"])}
    np.testing.assert_array_equal(evaluate(opened, implementation)["s"], c["x"][:, c["inputs"]])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_closed_path_carries_nothing_even_of_infinity(implementation):
    c = case("odd")
    closed = c | {
        "x": jnp.full_like(c["x"], jnp.inf),
        "gates": tuple(map(jnp.zeros_like, c["gates"])),
    }
    found = evaluate(closed, implementation)
    assert not np.any(np.asarray(found["y"])) and not np.any(np.asarray(found["dw"]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_operands_are_summed_in_float32(implementation):
    c = case("odd", dtype=jnp.bfloat16)
    found = evaluate(c, implementation)
    assert_equal(found, reference(c), 2e-2)
    assert {key: str(value.dtype) for key, value in found.items()} == {
        "s": "bfloat16",
        "s_dx": "bfloat16",
        "y": "float32",
        "dx": "bfloat16",
        "dw": "float32",
    }
    rounded = {key: c[key].astype(jnp.bfloat16).astype(jnp.float32) for key in ("weights", "dy")}
    exact = reference(c | rounded)
    assert_equal(
        {key: found[key] for key in ("y", "dw")}, {key: exact[key] for key in ("y", "dw")}, 1e-5
    )


@pytest.mark.parametrize("implementation", IN_FLOAT64)
def test_float64_and_numerical_derivatives(implementation):
    with jax.enable_x64(True):
        c = case((9, 6, 33, 20, 3, 2), dtype=jnp.float64, wide=jnp.float64)
        assert_equal(evaluate(c, implementation), reference(c), 1e-13)
        if implementation == "xla":
            paths = c["gates"], c["inputs"], c["units"]
            estimate = functools.partial(pk.path_estimator, implementation="xla")
            check_grads(lambda x, w: estimate(x, *paths, w), (c["x"], c["weights"]), 1, ["rev"])
            check_grads(
                lambda x: pk.path_contributions(x, *paths, implementation="xla"),
                (c["x"],),
                1,
                ["rev"],
            )


def test_numerical_derivatives_of_the_kernels():
    with jax.enable_x64(True):
        c = case((3, 4, 32, 6, 2, 1), dtype=jnp.float64, wide=jnp.float64)
        estimate = jax.jit(
            lambda x, w: pk.path_estimator(
                x, c["gates"], c["inputs"], c["units"], w, implementation="pallas_interpret"
            )
        )
        check_grads(estimate, (c["x"], c["weights"]), 1, ["rev"])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vmap_over_seeds(implementation):
    seeds = [case("odd", seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    found = jax.jit(jax.vmap(lambda c: evaluate(c, implementation)))(stacked)
    for i, c in enumerate(seeds):
        assert_equal(jax.tree.map(lambda leaf: leaf[i], found), reference(c), 1e-5)
    weights = jnp.stack([c["weights"] for c in seeds])
    paths = [seeds[0][key] for key in ("x", "gates", "inputs", "units")]
    shared = jax.vmap(lambda w: pk.path_estimator(*paths, w, implementation=implementation))(
        weights
    )
    np.testing.assert_allclose(
        shared[1], reference(seeds[0] | {"weights": weights[1]})["y"], atol=1e-4
    )


def test_s_by_tiles_of_paths_is_s_at_once(monkeypatch):
    monkeypatch.setattr(path_rows, "working_set", lambda: 64)
    c = case((11, 13, 40, 300, 4, 2))
    text = str(jax.make_jaxpr(functools.partial(evaluate, implementation="xla"))(c))
    assert "length=3" in text  # 300 paths in tiles of 128
    # in a loop, not side by side
    assert "stablehlo.while" in evaluate.lower(c, implementation="xla").as_text()
    assert_equal(evaluate(c, "xla"), reference(c), 1e-5)


def test_sums_split_over_many_cores(monkeypatch):
    module = importlib.import_module("pallas_kernels.path_estimator")
    monkeypatch.setattr(module, "device", lambda: Device("gpu", "NVIDIA H200", 132))
    c = case((520, 6, 33, 140, 3, 1))
    text = str(jax.make_jaxpr(functools.partial(evaluate, implementation="pallas_interpret"))(c))
    # partial sums of Y over paths and of dW over the batch
    assert "f32[2,576,16]" in text and "f32[4,192,16]" in text
    assert_equal(evaluate(c, "pallas_interpret"), reference(c), 1e-5)


@pytest.mark.parametrize(
    "dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2), ("float64", 1e-13)]
)
def test_the_dense_estimator_is_the_triple_sum(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(1)
        wide = jnp.float64 if dtype == "float64" else jnp.float32
        x, kernel = (
            jnp.asarray(rng.standard_normal((7, 5)), dtype),
            jnp.asarray(rng.standard_normal((5, 41, 3)), wide),
        )
        opened, dy = rng.random((7, 41)) < 0.5, jnp.asarray(rng.standard_normal((7, 3)), wide)
        y, pull = jax.vjp(
            lambda x, v: pk.dense_estimator(x, pk.pack_gates(jnp.asarray(opened)), v), x, kernel
        )
        dx, dkernel = pull(dy)
        a, b, g = (np.asarray(value, np.float64) for value in (x, kernel, dy))
        expected = {
            "y": np.einsum("bi,bj,ijo->bo", a, opened, b),
            "dx": np.einsum("bo,bj,ijo->bi", g, opened, b),
            "dkernel": np.einsum("bi,bj,bo->ijo", a, opened, g),
        }
        assert_equal({"y": y, "dx": dx, "dkernel": dkernel}, expected, tolerance)
        assert (y.dtype, dx.dtype, dkernel.dtype) == (wide, jnp.dtype(dtype), wide)
        seeds = jnp.stack([kernel, 2 * kernel])
        stacked = jax.vmap(lambda v: pk.dense_estimator(x, pk.pack_gates(jnp.asarray(opened)), v))(
            seeds
        )
        np.testing.assert_allclose(stacked[1], 2 * stacked[0], rtol=1e-6)


def test_the_dense_estimator_with_the_weights_of_paths_is_the_path_estimator():
    c = case("odd")
    kernel = jnp.zeros((21, 45, 5)).at[c["inputs"], c["units"][0]].add(c["weights"])
    np.testing.assert_allclose(
        pk.dense_estimator(c["x"], c["gates"][0], kernel), reference(c)["y"], atol=1e-4
    )


@pytest.mark.parametrize("units", [31, 32, 70])
def test_gates_are_packed_from_the_lowest_bit_by_sample_and_by_batch(units):
    opened = np.random.default_rng(units).random((13, units)) < 0.5
    words = np.asarray(pk.pack_gates(jnp.asarray(opened)))
    assert words.dtype == np.uint32 and words.shape == (13, -(-units // 32))
    np.testing.assert_array_equal(
        [[words[b, j // 32] >> (j % 32) & 1 for j in range(units)] for b in range(13)], opened
    )
    np.testing.assert_array_equal(pk.unpack_gates(jnp.asarray(words), units), opened)
    by_batch = np.asarray(batch_words(jnp.asarray(words), 64))
    assert by_batch.shape == (32 * words.shape[1], 2)
    np.testing.assert_array_equal(
        [[by_batch[j, b // 32] >> (b % 32) & 1 for j in range(units)] for b in range(13)], opened
    )
    assert not np.any(by_batch[:, 1]) and not np.any(by_batch[units:])
