"""Similarity against float64 loops, scipy, scikit-learn, closed forms and the theorems."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
from jax.test_util import check_vjp
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import NearestNeighbors

from theseus_jax import similarity as sim
from theseus_jax.errors import UserError
from theseus_jax.similarity.cka import (
    _biased_by_feature,
    _biased_by_gram,
    _debiased_by_feature,
    _debiased_by_gram,
)
from theseus_jax.similarity.gram import prepare

K = 4
LOSS_NAMES = [name for name, entry in sim.METRICS.items() if entry.differentiable]
RIGID_NAMES = [name for name, entry in sim.METRICS.items() if "rotation" in entry.invariances]


def pair(n, p, q, seed=0, noise=1.0):
    """Related float64 features: y is a linear map of x's first half, plus noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * np.linspace(0.5, 2.0, p)
    y = x[:, : (p + 1) // 2] @ rng.normal(size=((p + 1) // 2, q)) + noise * rng.normal(size=(n, q))
    return x, y


def named(name):
    return sim.metric(name, k=K, temperature=0.05)


# The programs here are tiny and run a few times each: compiling them is what takes the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def _program(name):
    return jit(named(name))


@functools.cache
def _gradient_program(name):
    return jit(jax.grad(named(name)))


def value(name, x, y, mask=None):
    """The measure through one compiled program per name and shape for the whole file."""
    return np.asarray(_program(name)(x, y, np.ones(len(x), bool) if mask is None else mask))


def gradient(name, x, y, mask=None):
    return np.asarray(
        _gradient_program(name)(x, y, np.ones(len(x), bool) if mask is None else mask)
    )


def rotation(p, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(p, p)))[0]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# ---- float64 loops, written from the definitions ----


def loop_hsic_1(k, l):
    """Song et al.'s textbook sum, with explicit loops."""
    n = len(k)
    trace = sum(k[i, j] * l[j, i] for i in range(n) for j in range(n) if i != j)
    sum_k = sum(k[i, j] for i in range(n) for j in range(n) if i != j)
    sum_l = sum(l[i, j] for i in range(n) for j in range(n) if i != j)
    chain = sum(
        k[i, j] * l[j, m] for i in range(n) for j in range(n) for m in range(n) if i != j and j != m
    )
    return (trace + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain) / (n * (n - 3))


def loop_hsic_0(k, l):
    n = len(k)

    def mean(g, i, j):
        return g[i, j] - g[i].sum() / n - g[:, j].sum() / n + g.sum() / n**2

    return sum(mean(k, i, j) * mean(l, i, j) for i in range(n) for j in range(n))


def loop_cka(x, y, hsic):
    k, l = x @ x.T, y @ y.T
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def unit(x):
    x = x - x.mean(0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loop_neighbours(x, k):
    s = unit(x) @ unit(x).T
    others = [[j for j in range(len(x)) if j != i] for i in range(len(x))]
    return [set(sorted(near, key=lambda j: -s[i, j])[:k]) for i, near in enumerate(others)]


def loop_mutual_knn(x, y, k):
    return sum(len(a & b) / k for a, b in zip(loop_neighbours(x, k), loop_neighbours(y, k))) / len(
        x
    )


def loop_dmnn(x, y, k, temperature):
    def members(z):
        s, n = unit(z) @ unit(z).T, len(z)
        a = np.zeros((n, n))
        for i in range(n):
            others = sorted((s[i, j] for j in range(n) if j != i), reverse=True)
            for j in range(n):
                if i != j:
                    a[i, j] = 1 / (
                        1 + math.exp(-(s[i, j] - (others[k - 1] + others[k]) / 2) / temperature)
                    )
        return a

    a, b = members(x), members(y)
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def loop_dmnn_softmax(x, y, temperature):
    def probabilities(z, i):
        e = np.exp(unit(z) @ unit(z)[i] / temperature)
        e[i] = 0
        return e / e.sum()

    return np.mean([sum(np.sqrt(probabilities(x, i) * probabilities(y, i))) for i in range(len(x))])


def loop_cknna(x, y, k):
    n = len(x)
    near_x, near_y = loop_neighbours(x, k), loop_neighbours(y, k)
    kc, lc = (unit(z) @ unit(z).T - (unit(z) @ unit(z).T).mean(1, keepdims=True) for z in (x, y))

    def align(a, b, near_a, near_b):
        return sum(
            a[i, j] * b[i, j]
            for i in range(n)
            for j in range(n)
            if j in near_a[i] and j in near_b[i]
        )

    own = align(kc, kc, near_x, near_x) * align(lc, lc, near_y, near_y)
    return align(kc, lc, near_x, near_y) / math.sqrt(own)


def loop_rsa(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    a, b = (np.array([math.sqrt(sum((z[i] - z[j]) ** 2)) for i, j in pairs]) for z in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return (a @ b) / math.sqrt((a @ a) * (b @ b))


def canonical(x, y):
    """Canonical correlations as cosines of principal angles, from scipy."""
    return np.cos(scipy.linalg.subspace_angles(x - x.mean(0), y - y.mean(0)))


# an independent float64 loop of every measure, or where it is compared with another library
REFERENCES = {
    "cka_debiased": lambda x, y: loop_cka(x, y, loop_hsic_1),
    "cka_biased": lambda x, y: loop_cka(x, y, loop_hsic_0),
    "cka_angular": lambda x, y: 1 - math.acos(loop_cka(x, y, loop_hsic_0)) / (math.pi / 2),
    "mutual_knn": lambda x, y: loop_mutual_knn(x, y, K),
    "dmnn": lambda x, y: loop_dmnn(x, y, K, 0.05),
    "dmnn_softmax": lambda x, y: loop_dmnn_softmax(x, y, 0.05),
    "rsa": lambda x, y: loop_rsa(x, y),
    "cknna": lambda x, y: loop_cknna(x, y, K),
}
ELSEWHERE = {"procrustes": "scipy", "svcca": "scipy", "pwcca": "scikit-learn"}
ELSEWHERE |= {"ridge": "scikit-learn", "mse": "the definition of R^2"}


def test_every_measure_has_an_independent_reference():
    assert set(sim.METRICS) == REFERENCES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", REFERENCES)
def test_every_measure_equals_its_float64_loop(x64, name):
    x, y = pair(40, 6, 6)
    result = value(name, x, y)
    assert result.shape == () and result.dtype == jnp.float64
    np.testing.assert_allclose(result, REFERENCES[name](x, y), rtol=0, atol=1e-10)


def test_the_gram_form_of_cka_equals_its_float64_loop(x64):
    x, y = pair(13, 5, 40)
    np.testing.assert_allclose(jit(sim.cka)(x, y), loop_cka(x, y, loop_hsic_1), atol=1e-10)
    biased = jit(functools.partial(sim.cka, estimator="biased"))
    np.testing.assert_allclose(biased(x, y), loop_cka(x, y, loop_hsic_0), atol=1e-10)


@pytest.mark.parametrize("n, p, q", [(40, 7, 9), (8, 7, 9)])
def test_feature_and_gram_forms_of_cka_agree(x64, n, p, q):
    x, y = pair(n, p, q)
    mask = np.arange(n) != 2
    a, b = prepare(x, y, mask, 4, "test")
    for feature, gram in [
        (_debiased_by_feature, _debiased_by_gram),
        (_biased_by_feature, _biased_by_gram),
    ]:
        np.testing.assert_allclose(
            jit(feature)(a, b)[:3], jit(gram)(a, b)[:3], rtol=1e-10, atol=1e-10
        )


def test_the_form_of_cka_is_chosen_by_shape():
    def largest_array(n, p, estimator):
        x = jax.ShapeDtypeStruct((n, p), jnp.float32)
        jaxpr = jax.make_jaxpr(functools.partial(sim.cka, estimator=estimator))(x, x)
        return max(math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars)

    for estimator in ("biased", "debiased"):
        assert largest_array(400, 16, estimator) <= 400 * 16
        assert largest_array(16, 400, estimator) <= 400 * 16


# ---- outside packages ----


def test_procrustes_equals_scipy(x64):
    x, y = pair(30, 6, 6)
    _, _, disparity = scipy.spatial.procrustes(x, y)
    # scipy also fits the scale: disparity = 1 - s^2, s the sum of singular values; ours is 2 - 2 s.
    np.testing.assert_allclose(
        jit(sim.procrustes)(x, y), 2 - 2 * math.sqrt(1 - disparity), atol=1e-10
    )


@pytest.mark.parametrize("distance", ["euclidean", "correlation"])
def test_rsa_equals_scipy(x64, distance):
    x, y = pair(25, 6, 4)
    x[3], y[3] = x[7], y[7]  # ties
    a, b = (scipy.spatial.distance.pdist(z, distance) for z in (x, y))
    pearson, spearman = (
        jit(functools.partial(sim.rsa, distance=distance, correlation=c))(x, y)
        for c in ("pearson", "spearman")
    )
    np.testing.assert_allclose(pearson, scipy.stats.pearsonr(a, b)[0], atol=1e-7)
    np.testing.assert_allclose(spearman, scipy.stats.spearmanr(a, b)[0], atol=1e-10)


def test_spearman_gives_tied_distances_their_mean_rank(x64):
    x = np.array([[0.0], [1.0], [2.0], [4.0], [5.0]])
    y = np.array([[0.0], [2.0], [3.0], [3.0], [7.0]])
    a, b = (scipy.spatial.distance.pdist(z) for z in (x, y))
    assert len(set(a)) < len(a) - 3
    expected = scipy.stats.spearmanr(a, b)[0]
    result = jit(functools.partial(sim.rsa, correlation="spearman"))(x, y)
    np.testing.assert_allclose(result, expected, atol=1e-10)


def test_mutual_knn_equals_scikit_learn():
    x, y = pair(60, 8, 5)
    near = [
        NearestNeighbors(n_neighbors=7).fit(unit(z)).kneighbors(return_distance=False)
        for z in (x, y)
    ]
    expected = np.mean([len(set(a) & set(b)) / 7 for a, b in zip(*near)])
    np.testing.assert_allclose(
        jit(functools.partial(sim.mutual_knn, k=7))(x, y), expected, atol=1e-6
    )


def test_svcca_of_everything_is_the_mean_canonical_correlation(x64):
    x, y = pair(50, 6, 4)
    result = jit(functools.partial(sim.svcca, variance=1.0))(x, y)
    np.testing.assert_allclose(result, canonical(x, y).mean(), atol=1e-10)


def test_svcca_keeps_the_fewest_directions_with_enough_variance(x64):
    x, y = pair(50, 6, 4)

    def reduced(z):
        z = z - z.mean(0)
        u, s, _ = np.linalg.svd(z, full_matrices=False)
        return u[:, : np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.8) + 1]

    assert reduced(x).shape[1] < 6 and reduced(y).shape[1] < 4
    result = jit(functools.partial(sim.svcca, variance=0.8))(x, y)
    np.testing.assert_allclose(result, canonical(reduced(x), reduced(y)).mean(), atol=1e-10)


def test_pwcca_equals_scikit_learn_cca_with_projection_weights(x64):
    x, y = pair(60, 5, 3, noise=2.0)
    fit = CCA(n_components=3, scale=False, max_iter=5000, tol=1e-14).fit(x, y)
    h, g = fit.transform(x, y)
    h = h / np.linalg.norm(h, axis=0)
    rho = [np.corrcoef(h[:, i], g[:, i])[0, 1] for i in range(3)]
    weights = np.abs(h.T @ (x - x.mean(0))).sum(1)
    np.testing.assert_allclose(jit(sim.pwcca)(x, y), weights @ rho / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("n, p", [(40, 6), (15, 30)])
def test_ridge_predictivity_equals_scikit_learn(x64, n, p):
    x, y = pair(n, p, 4)
    error = 0.0
    for train, test in KFold(5).split(x):
        centred = x[train] - x[train].mean(0)
        model = Ridge(alpha=0.1 * (centred**2).sum() / p).fit(x[train], y[train])
        error += ((y[test] - model.predict(x[test])) ** 2).sum()
    expected = 1 - error / ((y - y.mean(0)) ** 2).sum()
    result = jit(functools.partial(sim.ridge_predictivity, folds=5, ridge=0.1))(x, y)
    np.testing.assert_allclose(result, expected, atol=1e-10)


def test_mse_similarity_is_r2():
    from sklearn.metrics import r2_score

    x, y = np.random.default_rng(0).normal(size=(2, 30, 4))
    expected = r2_score(y, x, multioutput="variance_weighted")
    fn = jit(sim.mse_similarity)
    np.testing.assert_allclose(fn(x, y), expected, atol=1e-5)
    np.testing.assert_allclose(fn(np.broadcast_to(y.mean(0), y.shape), y), 0, atol=1e-5)


# ---- theorems ----


@pytest.mark.parametrize("name", sim.METRICS)
def test_identical_features_score_1(name):
    x, _ = pair(40, 6, 6)
    if name == "ridge":  # predicted from itself with a penalty: near 1, not at it
        assert 0.99 < value(name, x, x) <= 1
    else:
        np.testing.assert_allclose(value(name, x, x), 1, atol=2e-6)


@pytest.mark.parametrize("name", RIGID_NAMES)
def test_rotation_scale_and_shift_change_nothing(name):
    x, y = pair(40, 6, 6)
    base = value(name, x, y)
    assert 0.02 < base < 0.98
    moved = 37.0 * x @ rotation(6) + np.linspace(-50, 50, 6)
    np.testing.assert_allclose(value(name, moved, y), base, atol=2e-5)
    np.testing.assert_allclose(value(name, x, y @ rotation(6) * 0.01 - 3), base, atol=2e-5)


@pytest.mark.parametrize("name", [n for n in RIGID_NAMES if n != "ridge"])
def test_an_anisotropic_map_changes_the_value(name):
    x, y = pair(40, 6, 6)
    stretched = x * np.array([0.03, 1, 5, 1, 1, 0.3])
    assert abs(value(name, stretched, y) - value(name, x, y)) > 5e-3


def test_pwcca_ignores_any_linear_map_of_y_only():
    x, y = pair(40, 6, 6)
    base = value("pwcca", x, y)
    linear = np.random.default_rng(5).normal(size=(6, 6))
    np.testing.assert_allclose(value("pwcca", x, y @ linear), base, atol=2e-5)
    assert abs(value("pwcca", x @ linear, y) - base) > 5e-3


@pytest.mark.parametrize("name", sim.METRICS)
def test_only_a_common_permutation_of_samples_changes_nothing(name):
    x, y = pair(40, 6, 6)
    order = np.random.default_rng(3).permutation(40)
    base = value(name, x, y)
    if name != "ridge":  # its folds are blocks of samples in order
        np.testing.assert_allclose(value(name, x[order], y[order]), base, atol=2e-5)
    assert value(name, x[order], y) < base - 0.02


@pytest.mark.parametrize("name", [n for n in sim.METRICS if n not in ("pwcca", "ridge", "mse")])
def test_symmetric(name):
    x, y = pair(40, 6, 6)
    np.testing.assert_allclose(value(name, y, x), value(name, x, y), atol=2e-6)


@pytest.mark.parametrize("name", sim.METRICS)
def test_values_stay_in_the_stated_range(name):
    entry = sim.METRICS[name]
    fn = functools.partial(value, name) if entry.direction == "higher" else jit(entry.fn)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_t(1.5, size=(2, 40, 6))
        for result in (fn(x, y), fn(x, -x), fn(x, x)):
            assert entry.low <= result <= np.float32(entry.high)


def test_orthogonal_designs_reach_the_ends_of_the_range():
    x = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    y = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert jit(functools.partial(sim.cka, estimator="biased"))(x, y) < 1e-12
    # U-centred Grams of two orthogonal contrasts of 4 samples are proportional to -1/2 of one
    # another.
    np.testing.assert_allclose(jit(sim.cka)(x, y), -0.5, atol=1e-6)
    np.testing.assert_allclose(jit(sim.procrustes)(x, y), 2, atol=1e-6)
    np.testing.assert_allclose(jit(sim.cka_angular)(x, y), math.pi / 2, atol=1e-6)


def test_angular_cka_satisfies_the_triangle_inequality():
    angle = jit(sim.cka_angular)
    for seed in range(10):
        x, y, z = np.random.default_rng(seed).standard_t(2, size=(3, 12, 3))
        assert angle(x, z) <= angle(x, y) + angle(y, z) + 1e-5


# ---- bias, chance, mini-batches ----


@pytest.mark.parametrize(
    "n, p, q", [(256, 64, 64), (256, 512, 512), (32, 512, 512), (256, 32, 300)]
)
def test_independent_features_show_the_bias_and_its_removal(n, p, q):
    biased = jit(jax.vmap(functools.partial(sim.cka, estimator="biased")))
    debiased = jit(jax.vmap(sim.cka))
    keys = jax.random.split(jax.random.key(n + p))
    x, y = jax.random.normal(keys[0], (4, n, p)), jax.random.normal(keys[1], (4, n, q))
    np.testing.assert_allclose(
        jnp.mean(biased(x, y)), 1 / math.sqrt((1 + n / p) * (1 + n / q)), atol=0.01
    )
    assert abs(jnp.mean(debiased(x, y))) < 0.03


def test_mutual_knn_of_independent_features_is_at_chance():
    x, y = np.random.default_rng(0).normal(size=(2, 400, 16))
    score = jit(functools.partial(sim.mutual_knn, k=20))(x, y)
    np.testing.assert_allclose(score, 20 / 399, atol=0.01)


def test_dmnn_tends_to_mutual_knn_as_the_temperature_falls(x64):
    x, y = pair(100, 6, 6)
    hard = jit(functools.partial(sim.mutual_knn, k=8))(x, y)
    soft = [jit(functools.partial(sim.dmnn, k=8, temperature=t))(x, y) for t in (0.1, 0.01, 1e-5)]
    distances = [abs(float(s) - float(hard)) for s in soft]
    assert distances[-1] < 2e-3 and distances == sorted(distances, reverse=True)


update = jit(sim.MinibatchCKA.update)


def accumulate(x, y, size):
    state = sim.MinibatchCKA.init()
    for start in range(0, len(x), size):
        state = update(state, x[start : start + size], y[start : start + size])
    return state


def test_accumulated_batches_reach_the_value_on_all_data_and_averaging_does_not():
    x, y = (z.astype(np.float32) for z in pair(2048, 64, 64, noise=2.0))
    full = jit(sim.cka)(x, y)
    assert 0.1 < full < 0.9
    for size in (32, 256):
        np.testing.assert_allclose(
            sim.MinibatchCKA.compute(accumulate(x, y, size)), full, atol=0.01
        )
    each = jit(jax.vmap(functools.partial(sim.cka, estimator="biased")))
    averaged = jnp.mean(each(x.reshape(-1, 32, 64), y.reshape(-1, 32, 64)))
    assert averaged > full + 0.1


def test_one_batch_accumulated_is_its_cka_and_hsic_1_is_the_textbook_value(x64):
    x, y = pair(17, 5, 3)
    state = update(sim.MinibatchCKA.init(jnp.float64), x, y)
    np.testing.assert_allclose(sim.MinibatchCKA.compute(state), jit(sim.cka)(x, y), atol=1e-12)
    np.testing.assert_allclose(
        state.hsic_xy / state.samples, loop_hsic_1(x @ x.T, y @ y.T), rtol=1e-10
    )


def test_merge_is_associative_and_equals_the_joint_update():
    x, y = (z.astype(np.float32) for z in pair(96, 5, 3))
    parts = [accumulate(x[i : i + 32], y[i : i + 32], 16) for i in (0, 32, 64)]
    merge = sim.MinibatchCKA.merge
    left, right = (
        merge(merge(parts[0], parts[1]), parts[2]),
        merge(parts[0], merge(parts[1], parts[2])),
    )
    for state in (left, right, merge(parts[2], merge(parts[1], parts[0]))):
        np.testing.assert_allclose(state, accumulate(x, y, 16), rtol=1e-5)


def test_the_accumulator_runs_in_scan_and_ignores_padding():
    x, y = (z.astype(np.float32) for z in pair(60, 5, 3))
    padded = [
        np.pad(z, ((0, 4), (0, 0)), constant_values=np.nan).reshape(4, 16, -1) for z in (x, y)
    ]
    mask = (np.arange(64) < 60).reshape(4, 16)

    def step(state, batch):
        return sim.MinibatchCKA.update(state, *batch), None

    state, _ = jit(functools.partial(jax.lax.scan, step))(sim.MinibatchCKA.init(), (*padded, mask))
    np.testing.assert_allclose(state, accumulate(x, y, 16), rtol=1e-5)
    assert state.samples == 60
    nothing = update(state, x[:16], y[:16], np.arange(16) < 3)
    np.testing.assert_array_equal(nothing, state)
    assert sim.MinibatchCKA.compute(sim.MinibatchCKA.init()) == 0


# ---- gradients, precision ----


def check_gradients(fn, *args):
    both = jit(jax.value_and_grad(fn, argnums=(0, 1)))

    def compiled_vjp(*at):
        result, slopes = both(*at)
        return result, lambda cotangent: tuple(cotangent * slope for slope in slopes)

    check_vjp(jit(fn), compiled_vjp, args, eps=1e-5, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in LOSS_NAMES if n != "dmnn"])
def test_gradients_are_those_of_finite_differences(x64, name):
    x, y = pair(40, 6, 6)

    def vjp(at):
        return value(name, at, y), lambda cotangent: (cotangent * gradient(name, at, y),)

    check_vjp(lambda at: value(name, at, y), vjp, (x,), eps=1e-5, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["cka_debiased", "cka_biased", "ridge"])
def test_gradients_of_the_gram_forms_and_of_the_reference(x64, name):
    check_gradients(sim.metric(name), *pair(12, 16, 16))


def reference_procrustes(x, y):
    x, y = (z - z.mean(0) for z in (x, y))
    return 2 - 2 * np.linalg.norm(x.T @ y, "nuc") / (np.linalg.norm(x) * np.linalg.norm(y))


@pytest.mark.parametrize(
    "n, p, q",
    [
        (12, 16, 20),
        (12, 16, 5),
        (12, 5, 16),
        (12, 12, 12),
        (13, 12, 13),
        (30, 6, 4),
        (2, 3, 1),
        (40, 1, 1),
    ],
)
def test_procrustes_of_every_shape_and_its_derivatives(x64, n, p, q):
    x, y = pair(n, p, q)
    np.testing.assert_allclose(jit(sim.procrustes)(x, y), reference_procrustes(x, y), atol=1e-12)
    check_gradients(sim.procrustes, x, y)
    forward = jit(lambda x, y: jax.jvp(sim.procrustes, (x, y), (jnp.cos(x), jnp.sin(y))))
    step = 1e-6
    by_hand = (
        reference_procrustes(x + step * np.cos(x), y + step * np.sin(y))
        - reference_procrustes(x - step * np.cos(x), y - step * np.sin(y))
    ) / (2 * step)
    np.testing.assert_allclose(forward(x, y)[1], by_hand, atol=1e-7)


def test_procrustes_of_layers_without_full_rank_descends_along_a_subgradient(x64):
    x, y = pair(20, 6, 7)
    x[:, 4:], y[:, 5:] = 0, y[:, :2]
    slope = np.asarray(jit(jax.grad(sim.procrustes))(x, y))
    a, b = (z - z.mean(0) for z in (x, y))
    left, singular, right = np.linalg.svd(a.T @ b, full_matrices=False)
    left, right = left[:, singular > 1e-9], right[singular > 1e-9]
    size = np.linalg.norm(a) * np.linalg.norm(b)
    aligned = singular.sum() / size
    np.testing.assert_allclose(
        slope, -2 * (b @ (left @ right).T / size - aligned * a / np.sum(a * a)), atol=1e-12
    )
    assert left.shape == (6, 4) and reference_procrustes(
        x - 1e-3 * slope, y
    ) < reference_procrustes(x, y)


def test_procrustes_of_wide_layers_decomposes_nothing_wider_than_the_batch():
    x, y = (z.astype(np.float32) for z in pair(16, 300, 200))

    def decomposed(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "svd":
                yield eqn.invars[0].aval.shape
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):
                    yield from decomposed(inner.jaxpr)

    assert list(decomposed(jax.make_jaxpr(jax.grad(sim.procrustes))(x, y).jaxpr)) == [(16, 16)]
    slope = jit(jax.grad(sim.procrustes))(x, y)
    with jax.enable_x64(True):
        exact = jit(jax.grad(sim.procrustes))(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(slope, exact, atol=1e-4 * np.abs(exact).max())


def test_the_gradient_of_dmnn_holds_its_thresholds_still(x64):
    x, y = (jnp.asarray(z) for z in pair(12, 3, 5))
    off = ~np.eye(12, dtype=bool)

    def cosines(z):
        z = z - z.mean(0, keepdims=True)
        z = z / (z * z).sum(1, keepdims=True) ** 0.5
        return z @ z.T

    ordered = [
        np.sort(np.where(off, cosines(z), -9), axis=1) for z in (np.asarray(x), np.asarray(y))
    ]
    thresholds = [(s[:, -2] + s[:, -3])[:, None] / 2 for s in ordered]

    def held(x, y):
        a, b = (
            jnp.where(off, jax.nn.sigmoid((cosines(z) - t) / 0.3), 0)
            for z, t in zip((x, y), thresholds)
        )
        return jnp.sum(a * b) / jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b))

    check_gradients(held, x, y)
    for mine, expected in zip(
        *(
            jit(jax.grad(fn, argnums=(0, 1)))(x, y)
            for fn in (sim.metric("dmnn", k=2, temperature=0.3), held)
        )
    ):
        np.testing.assert_allclose(mine, expected, atol=1e-10)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_gradient_is_finite_at_identical_features(name):
    x = pair(40, 6, 6)[0].astype(np.float32)
    slope = gradient(name, x, x)
    assert np.isfinite(slope).all()
    if name != "ridge":
        assert np.abs(slope).max() < 1e-3


@pytest.mark.parametrize("name", sim.METRICS)
def test_float32_at_offset_1000_keeps_three_digits(name):
    x, y = pair(40, 6, 6)
    x, y = ((z + 1000).astype(np.float32) for z in (x, y))
    with jax.enable_x64(True):
        exact = float(value(name, x.astype(np.float64), y.astype(np.float64)))
    np.testing.assert_allclose(value(name, x, y), exact, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
@pytest.mark.parametrize("name", RIGID_NAMES)
def test_extreme_scales_neither_overflow_nor_vanish(name, scale):
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6))
    base = value(name, x, y)
    np.testing.assert_allclose(value(name, x * np.float32(scale), y), base, atol=1e-5)


_outlier_program = jit(sim.cka)


@pytest.mark.parametrize("outlier", [1e2, 1e3, 1e4])
def test_debiased_cka_survives_one_sample_of_huge_norm(outlier):
    x, y = pair(512, 64, 64)
    x[5] *= outlier
    y[5] *= outlier
    with jax.enable_x64(True):
        exact = float(_outlier_program(x, y))
    np.testing.assert_allclose(_outlier_program(x, y), exact, atol=1e-3)


@pytest.mark.parametrize("name", ["cka_debiased", "rsa"])
def test_bfloat16_features_are_accumulated_in_float32(name):
    x, y = (jnp.asarray(z, jnp.bfloat16) for z in pair(40, 6, 6))
    base = value(name, x, y)
    assert base.dtype == np.float32
    rounded = {"cka_debiased": 1e-3, "rsa": 1e-6}[name]  # CKA's operands are bfloat16 too
    np.testing.assert_allclose(
        base, value(name, x.astype(jnp.float32), y.astype(jnp.float32)), atol=rounded
    )


def test_products_do_not_use_reduced_precision():
    text = str(jax.make_jaxpr(jax.grad(sim.cka))(jnp.zeros((40, 6)), jnp.zeros((40, 6))))
    assert (
        text.count("dot_general")
        == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        > 3
    )


# ---- masks, dead layers, NaN, small N ----


@pytest.mark.parametrize("junk", [np.nan, 3e38])
@pytest.mark.parametrize("name", sim.METRICS)
def test_masked_samples_have_no_influence_at_all(name, junk):
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6))
    keep = np.ones(48, bool)
    keep[[0, 3, 11, 30, 31, 44, 46, 47]] = False
    big = [np.full((48, z.shape[1]), junk, np.float32) for z in (x, y)]
    for padded, z in zip(big, (x, y)):
        padded[keep] = z
    np.testing.assert_allclose(value(name, *big, keep), value(name, x, y), atol=5e-6)
    if name in LOSS_NAMES:
        slope = gradient(name, *big, keep)
        np.testing.assert_allclose(slope[keep], gradient(name, x, y), atol=1e-5)
        assert (slope[~keep] == 0).all()


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_a_mask_in_the_gram_form_of_cka(estimator):
    x, y = (z.astype(np.float32) for z in pair(20, 64, 30))
    keep = np.arange(20) % 3 != 0
    x[~keep] = np.nan
    fn = functools.partial(sim.cka, estimator=estimator)
    masked, slope = jit(jax.value_and_grad(lambda z: fn(z, y, mask=keep)))(x)
    np.testing.assert_allclose(masked, jit(fn)(x[keep], y[keep]), atol=1e-6)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("name", sim.METRICS)
def test_a_dead_layer_scores_0_with_a_zero_gradient(name, constant):
    x = pair(40, 6, 6)[0].astype(np.float32)
    dead = np.broadcast_to(np.float32(constant) + np.arange(6, dtype=np.float32), (40, 6))
    # The angle's similarity is 1 - angle / (pi / 2), which rounding keeps off 0 by 1e-8.
    assert abs(value(name, x, dead)) < 1e-7
    if name != "mse":
        assert abs(value(name, dead, x)) < 1e-7 and abs(value(name, dead, dead)) < 1e-7
    if name in LOSS_NAMES:
        slope = gradient(name, dead, x)
        assert np.isfinite(slope).all()
        assert name == "mse" or (slope == 0).all()
        assert (gradient(name, x, dead) == 0).all()


def test_a_unit_of_huge_constant_value_does_not_hide_the_others():
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6))
    with_constant = np.concatenate([x, np.full((40, 1), 1e8, np.float32)], axis=1)
    np.testing.assert_allclose(
        jit(sim.cka)(with_constant, y), value("cka_debiased", x, y), atol=1e-5
    )


def test_features_without_any_debiased_signal_score_0():
    codes = np.eye(12, dtype=np.float32)  # all samples equally far apart
    x = pair(12, 5, 5)[0].astype(np.float32)
    base, slope = jit(jax.value_and_grad(sim.cka))(codes, x)
    assert base == 0 and (slope == 0).all()
    assert jit(sim.cka)(codes, codes) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", sim.METRICS)
def test_nan_and_infinity_are_never_turned_into_a_number(name, bad):
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6))
    for row in (0, 17):
        broken = x.copy()
        broken[row, 2] = bad
        assert np.isnan(value(name, broken, y)) or value(name, broken, y) == -np.inf
        assert np.isnan(value(name, y, broken))


@pytest.mark.parametrize("name", sim.METRICS)
def test_fewer_counted_samples_than_the_minimum_have_no_value(name):
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6))
    stated = sim.metric(name, k=3).minimum_samples
    least = {"pwcca": 6 + 2, "cknna": 3 + 1}.get(name, stated)  # of 6 features, and of k
    for count in (0, 1, 2, least - 1):
        if count < least:
            found = sim.metric(name, k=3)(x, y, np.arange(40) < count)
            assert np.isnan(found), (count, found)
    assert np.isfinite(sim.metric(name, k=3)(x, y, np.arange(40) < least))


@pytest.mark.parametrize("name", sim.METRICS)
def test_sums_beyond_the_range_of_float32_have_no_value(name):
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6))
    for left, right in ((x * np.float32(1e38), y), (x, y * np.float32(1e38))):
        found = value(name, left, right)
        assert np.isnan(found) or found == pytest.approx(value(name, x, y), abs=1e-3)
    infinite = x.copy()
    infinite[3, 2] = np.inf
    assert np.isnan(value(name, infinite, y))


@pytest.mark.parametrize("name", ["dmnn", "mutual_knn", "cknna"])
@pytest.mark.parametrize("k", [2.5, 0])
def test_a_number_of_neighbours_that_is_none_is_refused(name, k):
    x, y = pair(40, 6, 6)
    with pytest.raises(UserError, match="expected a whole number of neighbours"):
        sim.metric(name, k=k)(x, y)


@pytest.mark.parametrize("name", sim.METRICS)
def test_too_small_a_batch_is_refused_and_the_stated_minimum_accepted(name):
    chosen = sim.metric(name, k=1)
    x, y = np.random.default_rng(0).normal(size=(2, chosen.minimum_samples, 1)).astype(np.float32)
    assert chosen.minimum_samples == sim.METRICS[name].minimum_samples
    assert jax.eval_shape(chosen, x, y).shape == ()
    few = sim.METRICS[name].minimum_samples - 1
    with pytest.raises(UserError, match=f"{few} samples given, .*at least {few + 1}"):
        chosen(x[1:], y[1:])


@pytest.mark.parametrize("name, needed", [("mutual_knn", 11), ("cknna", 12), ("dmnn", 12)])
def test_the_minimum_counts_k(name, needed):
    x = np.random.default_rng(0).normal(size=(20, 3))
    assert sim.metric(name, k=10).minimum_samples == needed
    assert jax.eval_shape(sim.metric(name, k=10), x[:needed], x[:needed]).shape == ()
    with pytest.raises(UserError, match="k=10 needs at least"):
        sim.metric(name, k=10)(x[:10], x[:10])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: sim.cka(x, x[1:]), r"\(6, 3\) and y \(5, 3\)"),
        (lambda x: sim.cka(x[None], x[None]), r"expected \(N, P\)"),
        (lambda x: sim.cka(x, x, estimator="best"), "debiased, biased"),
        (lambda x: sim.cka(x, x, mask=np.ones(3)), r"mask has shape \(3,\)"),
        (lambda x: sim.cka(x * 1j, x), "complex64"),
        (lambda x: sim.mse_similarity(x, x[:, :2]), "3 features and y 2"),
        (lambda x: sim.pwcca(x[:4], x[:4]), "4 samples given, needs at least 5"),
        (lambda x: sim.metric("ckka"), "cka_debiased.*mse"),
        (lambda x: sim.dmnn(x, x, k=2, temperature=0), "temperature=0"),
        (lambda x: sim.dmnn_softmax(x, x, temperature=-1), "temperature=-1"),
        (lambda x: sim.mutual_knn(x, x, k=0), "k=0"),
        (lambda x: sim.rsa(x, x, correlation="kendall"), "kendall"),
        (lambda x: sim.rsa(x, x[:, :1], distance="correlation"), "3 and 1 features"),
        (lambda x: sim.svcca(x, x, variance=0), "variance=0"),
        (lambda x: sim.ridge_predictivity(x, x, folds=1), "folds=1"),
        (lambda x: sim.samples(x[0]), r"shape \(3,\)"),
        (lambda x: sim.samples(x, kind="batch"), "'batch'"),
        (lambda x: sim.samples(x, mask=np.ones(3)), r"mask of shape \(3,\)"),
        (
            lambda x: sim.check_finite(x.at[4, 1].set(jnp.nan), "block_2"),
            r"block_2: 1 of 18 .* \(4, 1\)",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call(jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)))
    assert "\n" not in str(error.value)


# ---- samples, lookup, transformations ----


def test_samples_of_tokens_sequences_and_images():
    x = np.arange(24.0).reshape(2, 3, 4)
    for kind, shape in (("tokens", (6, 4)), ("sequences", (2, 12))):
        flat, mask = sim.samples(x, kind=kind)
        assert mask is None
        np.testing.assert_array_equal(flat, x.reshape(shape))
    image = np.arange(48.0).reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(sim.samples(image)[0], image.reshape(12, 4))
    np.testing.assert_array_equal(sim.samples(image, kind="sequences")[0], image.reshape(2, 24))
    for kind in ("tokens", "sequences"):
        flat, mask = sim.samples(x[0], kind=kind, mask=[1, 0, 1])
        np.testing.assert_array_equal(flat[mask], x[0][[0, 2]])


def test_samples_carry_masks_of_positions_and_of_examples():
    x = np.arange(24.0).reshape(2, 3, 4) + 1
    x[0, 2] = np.nan
    positions = np.array([[1, 1, 0], [0, 0, 0]])
    flat, mask = sim.samples(x, mask=positions)
    assert mask.tolist() == [True, True, False, False, False, False]
    np.testing.assert_array_equal(flat[mask], x[0, :2])
    flat, mask = sim.samples(x, kind="sequences", mask=positions)
    assert mask.tolist() == [True, False]
    np.testing.assert_array_equal(flat[0], [*range(1, 9), 0, 0, 0, 0])
    assert sim.samples(x, mask=[True, False])[1].tolist() == [True] * 3 + [False] * 3
    assert sim.samples(x, kind="sequences", mask=[True, False])[1].tolist() == [True, False]


def test_metrics_chosen_by_equal_values_share_one_trace():
    traces = []

    @functools.partial(jax.jit, static_argnames="measure")
    def loss(x, y, measure):
        traces.append(measure)
        return 1 - measure(x, y)

    x, y = pair(40, 6, 6)
    loss(x, y, sim.metric("dmnn", k=5))
    loss(x, y, sim.metric("dmnn", k=5))
    assert len(traces) == 1
    loss(x, y, sim.metric("dmnn", k=6))
    assert len(traces) == 2
    assert sim.metric("cka_debiased", k=5) == sim.metric("cka_debiased", k=6)
    assert hash(sim.metric("rsa")) == hash(sim.metric("rsa"))
    assert len({sim.metric(name) for name in sim.METRICS}) == len(sim.METRICS)


@pytest.mark.parametrize("name", sim.METRICS)
def test_every_measure_obeys_strict_shapes_and_types(name):
    x, mask = jnp.zeros((14, 6)), jnp.ones(14, bool)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for arguments in ((x, x, mask), (x, x)):
            assert jax.eval_shape(named(name), *arguments).dtype == jnp.float32
        if name in LOSS_NAMES:
            assert jax.eval_shape(jax.grad(named(name)), x, x, mask).shape == (14, 6)


@pytest.mark.parametrize("name", ["cka_debiased", "mutual_knn", "dmnn", "svcca", "ridge"])
def test_measures_run_in_vmap(name):
    x, y = (jnp.asarray(z, jnp.float32).reshape(3, 40, 6) for z in pair(120, 6, 6))
    mask = jnp.arange(120).reshape(3, 40) % 40 < 30
    batched = jit(jax.vmap(named(name)))(x, y, mask)
    np.testing.assert_allclose(batched, [value(name, *each) for each in zip(x, y, mask)], atol=5e-6)


def test_a_few_gradient_steps_on_each_loss_raise_its_similarity():
    x, y = (z.astype(np.float32) for z in pair(40, 6, 6, noise=3.0))
    for name in LOSS_NAMES:
        before, z = value(name, x, y), x
        for _ in range(5):
            g = gradient(name, z, y)
            z = z + 0.5 * g / np.linalg.norm(g)
        assert value(name, z, y) > before + 1e-3, name


def _cka64(x, y, estimator):
    """CKA by its definition in float64."""
    k, l = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
    if estimator == "biased":
        return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    n = len(x)
    k, l = (z @ z.T * (1 - np.eye(n)) for z in (x, y))

    def hsic(a, b):
        return (
            (a * b).sum()
            + a.sum() * b.sum() / ((n - 1) * (n - 2))
            - 2 * a.sum(0) @ b.sum(0) / (n - 2)
        )

    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("shape", [(600, 24), (60, 200)], ids=["by_feature", "by_gram"])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_cka_of_bfloat16_layers_multiplies_in_bfloat16_and_sums_in_float32(
    estimator, shape, offset
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * np.exp(rng.normal(size=shape[1])) + offset
    y = x @ rng.normal(size=(shape[1], 40)) / 4 + rng.normal(size=(shape[0], 40)) * 3
    narrow = [jnp.asarray(z, jnp.bfloat16) for z in (x, y)]
    exact = [np.asarray(z, np.float64) for z in narrow]  # what bfloat16 holds of them
    value, slope = jax.value_and_grad(lambda x, y: sim.cka(x, y, estimator=estimator))(*narrow)
    wide, wide_slope = jax.value_and_grad(lambda x, y: sim.cka(x, y, estimator=estimator))(
        *[z.astype(jnp.float32) for z in narrow]
    )
    assert value.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    assert float(wide) == pytest.approx(_cka64(*exact, estimator), abs=1e-5)
    assert float(value) == pytest.approx(_cka64(*exact, estimator), abs=1e-3)
    apart = np.linalg.norm(np.float64(slope) - np.float64(wide_slope)) / np.linalg.norm(
        np.float64(wide_slope)
    )
    assert apart < 0.02, apart
    text = jax.jit(lambda x, y: sim.cka(x, y, estimator=estimator)).lower(*narrow).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all(
        "bf16" in line and "-> tensor<" in line and line.rstrip().split("->")[-1].count("f32")
        for line in products
    )


def test_a_layer_of_float32_beside_one_of_bfloat16_is_compared_in_float32():
    x, y = jax.random.normal(jax.random.key(0), (2, 50, 9))
    mixed = sim.cka(x.astype(jnp.bfloat16), y)
    assert float(mixed) == pytest.approx(
        float(sim.cka(x.astype(jnp.bfloat16).astype(jnp.float32), y)), abs=1e-7
    )
    text = jax.jit(sim.cka).lower(x.astype(jnp.bfloat16), y).as_text()
    assert "bf16" not in "".join(line for line in text.splitlines() if "dot_general" in line)
