"""Heads as networks, GLAI heads, direct solvers, and the engine's stored prefixes and stopping
rules on labelled rows.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import Ridge

from theseus_jax.chunk import _compile
from theseus_jax.errors import UserError
from theseus_jax.evaluate import class_scores, contrast_loss
from theseus_jax.feeds import Cached, Feed, Views, Whole
from theseus_jax.methods import glai
from theseus_jax.methods.glai import paths as gp
from theseus_jax.methods.glai.plan import exactness
from theseus_jax.nets.models.glai import GLAIHead, entry_network, fused_network, joint_network
from theseus_jax.nets.models.heads import layers_of, low_rank_mlp, mlp
from theseus_jax.nets.stage import forward, init, network
from theseus_jax.objectives import (
    CrossEntropy,
    Distillation,
    InfoNCE,
    Signals,
    Term,
    cross_entropy,
    two_views,
)
from theseus_jax.plan import Optimizer, Patience, Phase
from theseus_jax.train import Hooks, State, fit
from theseus_jax.trees import parameter_count

I, J, O = 7, 9, 3


def rows(count=40, seed=0, inputs=I, outputs=O):
    """Gaussian clusters, one a class: (x (N, I) float32, y (N,) int32)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, outputs, count).astype(np.int32)
    centres = np.random.default_rng(99).normal(size=(outputs, inputs))
    return (centres[y] + 0.7 * rng.normal(size=(count, inputs))).astype(np.float32), y


@functools.lru_cache(maxsize=None)
def trained(hidden=(J,), seed=0):
    """An MLP's variables with biases that matter, seed axis of 1."""
    fresh = init(mlp(hidden, O), jax.random.key(seed), jnp.zeros((1, I)))
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    )


def all_paths(layers):
    return gp.every_path(gp.sizes(layers))


@pytest.mark.parametrize("hidden", [(J,), (5, 4), (4, 3, 5)])
def test_every_form_of_the_head_equals_the_mlp_it_came_from(hidden):
    x, _ = rows(33)
    variables = trained(hidden)
    layers = layers_of(variables)
    wanted = np.asarray(x, np.float64)
    for i, (kernel, bias) in enumerate(layers):
        wanted = wanted @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
        wanted = np.maximum(wanted, 0) if i < len(hidden) else wanted
    chosen = all_paths(layers)
    made = glai.joint_variables(layers, chosen)
    count = len(chosen.inputs)
    nets = {
        "joint": (joint_network(hidden, O, count), made),
        "fused": (
            fused_network(hidden, O, count),
            {
                "selector": made["selector"],
                "estimator": {
                    "params": {"weights": made["estimator"]["params"]["weights"].T},
                    "paths": made["contributions"]["paths"],
                },
            },
        ),
    }
    for name, (net, given) in nets.items():
        np.testing.assert_allclose(forward(net, given, x)[0], wanted, atol=2e-5, err_msg=name)
    head = GLAIHead(hidden, O, count)
    given = glai.head_variables(layers, chosen)
    np.testing.assert_allclose(head.apply(given, x), wanted, atol=2e-5)
    np.testing.assert_allclose(
        head.apply(given, x[:32].reshape(2, 4, 4, I)), wanted[:32].reshape(2, 4, 4, O), atol=2e-5
    )
    assert jax.tree.map(
        jnp.shape, jax.eval_shape(lambda: head.init(jax.random.key(0), x))
    ) == jax.tree.map(jnp.shape, given)
    assert float(exactness(layers, jnp.asarray(x))) < 2e-5


def test_an_entry_head_equals_the_mlp_with_every_entry_and_its_pruned_sum_with_some():
    x, _ = rows(33)
    layers = layers_of(trained())
    total = O * (I * J + J + 1)
    net = entry_network((J,), O)
    from theseus_jax.methods.glai.variables import entry_variables

    whole = glai.select(layers, jnp.asarray(x), kind="global", keep=total)
    np.testing.assert_allclose(
        forward(net, entry_variables(layers, whole), x)[0], gp.logits(layers, x), atol=2e-5
    )
    some = glai.select(layers, jnp.asarray(x), kind="global", keep=60)
    variables = entry_variables(layers, some)
    assert int(variables["estimator"]["paths"]["chosen"].sum()) == 60
    wanted = gp.estimate_entries(
        x, gp.open_gates(layers, x), some, gp.entry_weights(layers, some), O
    )
    np.testing.assert_allclose(forward(net, variables, x)[0], wanted, atol=2e-5)
    with pytest.raises(UserError, match="one hidden layer"):
        entry_variables(layers_of(trained((5, 4))), some)


class Scale(nn.Module):
    """A stage before and behind the MLP, of any leading shape."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.constant(1.5), (1,))


def test_an_mlp_inside_a_network_becomes_one_stage_that_trains_alone():
    rng = np.random.default_rng(0)
    net = network(
        [
            ("stem", Scale()),
            *((stage.name, stage.module) for stage in mlp((J,), O).stages),
            ("tail", Scale()),
        ]
    )
    variables = {**init(net, jax.random.key(0), jnp.zeros((1, I))), **trained()}
    x = rng.normal(size=(5, 4, I)).astype(np.float32)
    made, given = glai.replace_mlp(net, variables, ("hidden_1", "output"), x, keep=I * J + J + 1)
    assert made.names == ("stem", "glai", "tail") and set(given) == set(made.names)
    np.testing.assert_allclose(forward(made, given, x)[0], forward(net, variables, x)[0], atol=3e-5)
    x_rows, y = rows(40)
    start = State(0, jax.tree.map(lambda leaf: leaf[None], given), {}, None, keys())
    phase = head_phase(made, trainable=("glai/estimator",))
    after = fit(
        (phase,),
        start,
        {"inputs": jnp.asarray(x_rows), "labels": jnp.asarray(y)},
        batch=8,
        chunk_steps=3,
    ).variables
    same = jax.tree.map(lambda a, b: bool((a == b).all()), after, start.variables)
    assert (
        same["stem"]["params"]["scale"]
        and all(jax.tree.leaves(same["glai"]["params"]["selector"]))
        and all(jax.tree.leaves(same["glai"]["paths"]))
        and not same["glai"]["params"]["estimator"]["weights"]
    )
    with pytest.raises(UserError, match="do not follow each other"):
        glai.replace_mlp(net, variables, ("hidden_1", "tail"), x, keep=9)
    with pytest.raises(UserError, match="stem is a Scale: only ReLU layers"):
        glai.replace_mlp(net, variables, ("stem", "hidden_1", "output"), x, keep=9)
    with pytest.raises(UserError, match="one stage: only ReLU"):
        glai.replace_mlp(net, variables, ("output",), x, keep=9)


def test_layers_of_refuses_what_is_no_dense_relu_mlp():
    with pytest.raises(UserError, match="not those of a ReLU MLP"):
        layers_of({"stem": {}, "output": {}})
    low = init(low_rank_mlp(I, J, O, parameters=90), jax.random.key(0), jnp.zeros((1, I)))
    with pytest.raises(UserError, match="factorised"):
        layers_of(low)


@pytest.mark.parametrize("parameters", [90, 120, 200])
def test_a_low_rank_mlp_is_the_largest_that_keeps_to_its_parameters(parameters):
    def count(budget):
        return parameter_count(
            init(low_rank_mlp(I, J, O, parameters=budget), jax.random.key(0), jnp.zeros((1, I)))
        )

    assert parameters - (I + J) < count(parameters) <= parameters
    with pytest.raises(UserError, match="no rank left"):
        low_rank_mlp(I, J, O, parameters=50)


def test_infonce_equals_a_float64_loop():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(10, 4)).astype(np.float32)
    unit = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    losses = []
    for i in range(10):
        others = [j for j in range(10) if j != i]
        logits = np.array([unit[i] @ unit[j] / 0.07 for j in others])
        losses.append(
            np.log(np.exp(logits - logits.max()).sum())
            + logits.max()
            - unit[i] @ unit[(i + 5) % 10] / 0.07
        )
    got = InfoNCE(0.07)(Signals(None, jnp.asarray(z), {}, {}, None))
    assert float(got) == pytest.approx(np.mean(losses), rel=1e-5)
    dead = jnp.zeros((10, 4)).at[3].set(1.0)
    slope = jax.grad(lambda z: InfoNCE(0.07)(Signals(None, z, {}, {}, None)))(dead)
    assert np.isfinite(slope).all() and not np.asarray(slope)[4].any()
    with pytest.raises(ValueError, match="even number"):
        InfoNCE()(Signals(None, jnp.asarray(z[:9]), {}, {}, None))


def test_two_views_are_dropout_masks_of_the_rows():
    x = jnp.asarray(rows(400)[0])
    views = np.asarray(two_views(x, 0.25, jax.random.key(1)))
    assert views.shape == (800, I) and np.abs(views[:400] - views[400:]).max() > 0.1
    kept = views != 0
    np.testing.assert_allclose(views, np.where(kept, np.concatenate([x, x]) / 0.75, 0.0), rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.02


def test_the_contrast_loss_masks_every_network_alike():
    net, (x, _) = mlp((J,), O), rows(19)
    layers = layers_of(trained())
    head, given = (
        joint_network((J,), O, I * J + J + 1),
        glai.joint_variables(layers, all_paths(layers)),
    )
    losses = [
        contrast_loss(
            one,
            jax.tree.map(lambda leaf: leaf[None], variables),
            x,
            batch=8,
            temperature=0.07,
            rate=0.4,
            key=jax.random.key(2),
        )[0]
        for one, variables in ((net, trained()), (head, given))
    ]
    wanted = [
        InfoNCE(0.07)(
            Signals(
                None,
                gp.logits(
                    layers,
                    two_views(
                        jnp.asarray(x[8 * i : 8 * i + 8]),
                        0.4,
                        jax.random.fold_in(jax.random.key(2), i),
                    ),
                ),
                {},
                {},
                None,
            )
        )
        for i in range(2)
    ]
    np.testing.assert_allclose(losses, np.mean(wanted), rtol=2e-4)
    with pytest.raises(UserError, match="fewer than a batch of 8"):
        contrast_loss(
            net,
            jax.tree.map(lambda leaf: leaf[None], trained()),
            x[:7],
            batch=8,
            temperature=0.07,
            rate=0.4,
            key=jax.random.key(2),
        )


def test_a_phase_with_views_trains_on_masked_inputs_and_their_own_gates():
    """Equal to a plain loop that masks the batch itself; the GLAI head's gates are those of the
    masked rows.
    """
    net, start = glai_start()
    phase = head_phase(
        net,
        steps=2,
        trainable=("estimator",),
        terms=(Term("infonce", 1.0, InfoNCE(0.5)),),
        feed=Feed(transforms=(Views(0.3),)),
        optimizer=Optimizer(0.1, 0.0, clip=0.0, rule="sgd", momentum=0.0, schedule="constant"),
    )
    after = fit((phase,), start, examples(), batch=40, chunk_steps=1).variables
    noise = jax.random.split(jax.random.fold_in(keys()[0], 0), 3)[2]
    order = np.asarray(
        jax.random.permutation(
            jax.random.fold_in(jax.random.split(jax.random.fold_in(keys()[0], 0), 3)[0], 0), 40
        )
    )
    variables = jax.tree.map(lambda leaf: leaf[0], start.variables)
    for step in range(2):
        rows_ = (
            examples()["inputs"][order]
            if step == 0
            else examples()["inputs"][
                np.asarray(
                    jax.random.permutation(
                        jax.random.fold_in(
                            jax.random.split(jax.random.fold_in(keys()[0], 0), 3)[0], 1
                        ),
                        40,
                    )
                )
            ]
        )
        x = two_views(rows_, 0.3, jax.random.split(jax.random.fold_in(noise, step))[0])
        s = gp.contributions(
            x, gp.open_gates(layers_of(trained()), x), all_paths(layers_of(trained()))
        )
        slope = jax.grad(lambda w: InfoNCE(0.5)(Signals(None, s @ w.T, {}, {}, None)))(
            variables["estimator"]["params"]["weights"]
        )
        variables["estimator"]["params"]["weights"] -= 0.1 * slope
    np.testing.assert_allclose(
        after["estimator"]["params"]["weights"][0],
        variables["estimator"]["params"]["weights"],
        atol=2e-5,
    )


@pytest.mark.parametrize("count", [1, 40, 512, 700])
def test_class_scores_count_every_row_once(count):
    x, y = rows(count)
    variables = trained()
    logits = np.asarray(gp.logits(layers_of(variables), x), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(count), y]
    found = class_scores(mlp((J,), O), jax.tree.map(lambda leaf: leaf[None], variables), x, y)
    assert found.accuracy[0] == pytest.approx((logits.argmax(1) == y).mean(), abs=1e-9)
    assert found.loss[0] == pytest.approx(losses.mean(), rel=1e-5)


def test_class_scores_of_a_class_at_every_position():
    x = np.random.default_rng(0).normal(size=(5, 5, 3)).astype(np.float32)
    net = network([("head", nn.Dense(4))])
    variables = jax.tree.map(lambda leaf: leaf[None], init(net, jax.random.key(0), x))
    logits = np.asarray(
        forward(net, jax.tree.map(lambda leaf: leaf[0], variables), x)[0], np.float64
    )
    y = np.random.default_rng(1).integers(0, 4, (5, 5))
    found = class_scores(net, variables, x, y)
    assert found.accuracy[0] == pytest.approx((logits.argmax(-1) == y).mean(), abs=1e-6)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    assert found.loss[0] == pytest.approx(losses.mean(), rel=1e-5)
    for wrong in (y[:, 0], y[:, :4]):
        with pytest.raises(
            UserError,
            match=r"labels of shape \(5.* for logits of shape \(5, 5, 4\); give one integer",
        ):
            class_scores(net, variables, x, wrong)


def test_one_logit_tells_two_classes_apart():
    z = np.array([[-2.0], [0.5], [3.0]])
    y, share = np.array([0, 0, 1]), np.array([[0.0], [0.25], [1.0]])
    yes = 1 / (1 + np.exp(-z[:, 0]))
    np.testing.assert_allclose(
        cross_entropy(jnp.asarray(z), jnp.asarray(y)), -np.log(np.where(y, yes, 1 - yes)), rtol=1e-5
    )
    mixed = -(share[:, 0] * np.log(yes) + (1 - share[:, 0]) * np.log(1 - yes))
    np.testing.assert_allclose(
        cross_entropy(jnp.asarray(z), jnp.asarray(share, jnp.float32)), mixed, rtol=1e-5
    )
    guide = np.array([[1.0], [-1.0], [0.3]])
    p, q = (1 / (1 + np.exp(-value[:, 0] / 2)) for value in (guide, z))
    expected = 4 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    signals = Signals(None, jnp.asarray(z), {}, {"head": jnp.asarray(guide)}, None)
    assert float(Distillation(("head",), 2.0)(signals)) == pytest.approx(expected, rel=1e-5)
    net = network([("head", nn.Dense(1))])
    variables = {"head": {"params": {"kernel": jnp.ones((1, 1, 1)), "bias": jnp.zeros((1, 1))}}}
    found = class_scores(net, variables, z.astype(np.float32), y)
    assert found.accuracy[0] == pytest.approx(2 / 3) and found.loss[0] == pytest.approx(
        -np.log(np.where(y, yes, 1 - yes)).mean(), rel=1e-5
    )


@pytest.mark.parametrize("count", [30, 5])
def test_ridge_equals_sklearn_on_both_sides_of_the_gram_matrix(count):
    x, y = rows(count)
    targets = np.eye(O)[y] - 1 / O
    for penalty in (1e-3, 0.1, 2.0):
        weights = glai.ridge(jnp.asarray(x), jnp.asarray(y), O, penalty).weights
        peer = Ridge(alpha=penalty * count, fit_intercept=False, solver="svd").fit(
            x.astype(np.float64), targets
        )
        np.testing.assert_allclose(weights, peer.coef_.T, rtol=2e-3, atol=2e-4)
    with pytest.raises(UserError, match="labels run from"):
        glai.ridge(jnp.asarray(x), jnp.asarray(y), 2, 0.1)


def test_logistic_finds_the_minimum_that_scipy_finds():
    x, y = rows(60)
    penalty = 0.05

    def objective(flat):
        weights = flat.reshape(I, O)
        logits = x.astype(np.float64) @ weights
        top = logits.max(1, keepdims=True)
        p = np.exp(logits - top)
        losses = np.log(p.sum(1)) + top[:, 0] - logits[np.arange(60), y]
        slope = x.T.astype(np.float64) @ (p / p.sum(1, keepdims=True) - np.eye(O)[y]) / 60
        return losses.mean() + penalty / 2 * (flat**2).sum(), (slope + penalty * weights).ravel()

    peer = optimize.minimize(objective, np.zeros(I * O), jac=True, method="L-BFGS-B", tol=1e-12)
    found = glai.logistic(jnp.asarray(x), jnp.asarray(y), O, penalty)
    np.testing.assert_allclose(found.weights, peer.x.reshape(I, O), atol=2e-3)
    assert objective(np.asarray(found.weights, np.float64).ravel())[0] <= peer.fun + 1e-6
    assert 0 < found.iterations < 500 and found.gradient <= 1e-5


# ---- the engine on labelled rows


def examples(count=40):
    x, y = rows(count)
    return {"inputs": jnp.asarray(x), "labels": jnp.asarray(y)}


def keys(count=1):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(count))


def head_phase(net, steps=6, **changes):
    given = (
        dict(
            trainable=net.names,
            terms=(Term("cross_entropy", 1.0, CrossEntropy()),),
            steps=steps,
            optimizer=Optimizer(0.05, 0.0, clip=0.0, b2=0.999, schedule="constant"),
        )
        | changes
    )
    return Phase(
        "train", net, given.pop("trainable"), given.pop("terms"), given.pop("steps"), **given
    )


def started(net, seeds=1):
    return State(
        0,
        jax.tree.map(lambda leaf: jnp.stack([leaf + 0.01 * s for s in range(seeds)]), trained()),
        {},
        None,
        keys(seeds),
    )


def test_sgd_with_momentum_and_decoupled_decay_equals_a_float64_loop():
    net = mlp((J,), O)
    batch, rate, decay, steps = 40, 0.1, 0.2, 4
    phase = head_phase(
        net,
        steps,
        optimizer=Optimizer(rate, decay, clip=0.0, rule="sgd", momentum=0.9, schedule="constant"),
    )
    after = fit((phase,), started(net), examples(), batch=batch, chunk_steps=2).variables
    x, y = (np.asarray(value) for value in examples().values())
    x = x.astype(np.float64)
    w1, b1, w2, b2 = (
        np.asarray(part, np.float64) for layer in layers_of(trained()) for part in layer
    )
    velocity = [np.zeros_like(part) for part in (w1, b1, w2, b2)]
    for _ in range(steps):
        h = np.maximum(x @ w1 + b1, 0)
        p = np.exp(h @ w2 + b2)
        g = (p / p.sum(1, keepdims=True) - np.eye(O)[y]) / batch
        gh = (g @ w2.T) * (h > 0)
        gradient = [x.T @ gh, gh.sum(0), h.T @ g, g.sum(0)]
        velocity = [0.9 * v + d for v, d in zip(velocity, gradient)]
        w1, b1, w2, b2 = (
            part - rate * (v + (decay * part if part.ndim > 1 else 0))
            for part, v in zip((w1, b1, w2, b2), velocity)
        )
    found = layers_of(jax.tree.map(lambda leaf: leaf[0], after))
    for got, wanted in zip((part for layer in found for part in layer), (w1, b1, w2, b2)):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def glai_start(seeds=1):
    layers = layers_of(trained())
    made = glai.joint_variables(layers, all_paths(layers))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), made)
    return joint_network((J,), O, I * J + J + 1), State(0, stacked, {}, None, keys(seeds))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_stored_prefix_gives_the_same_training_and_leaves_the_frozen_parts_bit_equal(seeds):
    net, start = glai_start(seeds)
    plain = head_phase(net, trainable=("estimator",))
    stored, gates = (
        head_phase(
            net,
            trainable=("estimator",),
            feed=Feed(route=Whole(start=start), cached=(Cached("target", kept),)),
        )
        for start, kept in (("estimator", "contributions"), ("contributions", "selector"))
    )
    results = [
        fit((phase,), start, examples(), batch=8, chunk_steps=3).variables
        for phase in (plain, stored, gates)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(
            other["estimator"]["params"]["weights"],
            results[0]["estimator"]["params"]["weights"],
            atol=1e-5,
        )
    moved = np.abs(
        results[0]["estimator"]["params"]["weights"]
        - start.variables["estimator"]["params"]["weights"]
    )
    assert moved.max() > 0.05
    for part in ("selector", "contributions"):
        assert jax.tree.all(
            jax.tree.map(lambda a, b: bool((a == b).all()), results[1][part], start.variables[part])
        )


def test_a_stored_prefix_of_many_rows_has_every_row_once():
    from theseus_jax.frozen import _prefix

    net, start = glai_start(2)
    x, _ = rows(1100)
    out = _prefix(net, "contributions", start.variables, jnp.asarray(x))
    layers = layers_of(trained())
    assert out.shape == (2, 1100, I * J + J + 1)
    np.testing.assert_allclose(
        out[1], gp.contributions(x, gp.open_gates(layers, x), all_paths(layers)), atol=1e-6
    )


def test_patience_ends_with_the_best_parameters_and_asks_at_the_end():
    assert Patience(1, 2).done((0.3, 0.5, 0.5, 0.4)) and not Patience(1, 2).done((0.3, 0.5, 0.4))
    assert Patience(1, 2).keeps((0.3, 0.5)) and not Patience(1, 2).keeps((0.3, 0.5, 0.5))
    net, seen, given = mlp((J,), O), [], iter([0.1, 0.9, 0.5, 0.6, 0.7, 0.8])

    def score(phase, state):
        seen.append(jax.tree.map(np.asarray, state.variables))
        return next(given)

    phase = head_phase(net, steps=12, stop=Patience(2, patience=3))
    rows_, saved = [], []
    hooks = Hooks(
        log=rows_.append,
        score=score,
        score_name="score",
        save=lambda position, state: saved.append((position, state)),
    )
    after = fit((phase,), started(net), examples(), batch=8, chunk_steps=2, hooks=hooks).variables
    assert [row["step"] for row in rows_ if row["kind"] == "score"] == [2, 4, 6, 8, 10]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), after, seen[1]))
    assert saved[-1][1].kept == {} and saved[-1][1].opt_state is None
    given = iter([0.1, 0.2, 0.3])
    seen.clear()
    after = fit(
        (head_phase(net, steps=6, stop=Patience(2, patience=3)),),
        started(net),
        examples(),
        batch=8,
        chunk_steps=2,
        hooks=hooks,
    ).variables
    assert len(seen) == 3 and jax.tree.all(
        jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), after, seen[2])
    )


def test_a_glai_plan_turns_the_mlp_into_paths_between_its_phases():
    told, x = [], jnp.asarray(rows(30, seed=5)[0])
    terms = (Term("cross_entropy", 1.0, CrossEntropy()),)
    start = State(0, jax.tree.map(lambda leaf: leaf[None], trained((5,))), {}, None, keys())
    for selection, keep, width in (
        ("joint", 20, 20),
        ("global", 50, None),
        ("per_output", 50, None),
    ):
        settings = glai.Settings(
            I,
            (5,),
            O,
            selection,
            keep,
            terms,
            Optimizer(0.01, clip=0.0),
            5,
            None,
            Optimizer(0.01, clip=0.0),
            5,
            Patience(5, 3),
            reference=32,
        )
        plan = glai.plan(settings, held_out=glai.Held((x,)), report=told.append)
        after = fit(
            plan,
            start,
            examples(),
            batch=8,
            chunk_steps=5,
            hooks=Hooks(score=lambda phase, state: 0.0),
        ).variables
        assert set(after) == set(glai.final_network(settings).names)
        if width:
            assert after["estimator"]["params"]["weights"].shape == (1, O, width)
        else:
            chosen = np.asarray(after["estimator"]["paths"]["chosen"])
            assert (
                chosen.sum() == keep // O * O if selection == "per_output" else chosen.sum() == keep
            )
    assert len(told) == 3
    for row in told:
        assert (
            row["largest_logit_difference"] < 1e-4
            and 0 < row["pruning_error"] <= row["pruning_bound"]
            and row["seconds"] > 0
        )
    with pytest.raises(UserError, match="no selection 'best'"):
        glai.plan(settings._replace(selection="best"))


def test_settled_asks_the_maturity_rule_and_keeps_every_check():
    rule = glai.Settled(1, glai.Maturity(window=2, share=0.5))
    assert not rule.done((1.0,)) and not rule.done((1.0, 1.0)) and rule.done((1.0, 1.0, 0.5, 0.4))
    assert rule.keeps((1.0,)) and not rule.restore


def test_equal_phases_of_different_rates_share_a_program():
    net = mlp((J,), O)
    _compile.cache_clear()
    for rate in (0.01, 0.1):
        fit(
            (head_phase(net, optimizer=Optimizer(rate, 0.0, clip=0.0, schedule="constant")),),
            started(net),
            examples(),
            batch=8,
            chunk_steps=3,
        )
    assert _compile.cache_info().misses == 1
