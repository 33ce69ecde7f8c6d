"""Recalibrated batch norm against float64 loops and its theorems, the surgery of all seeds, and the
modes of a guide.
"""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import refusal

from theseus_jax.methods.guide_modes import GUIDE_MODES, BatchMode, guide_mode
from theseus_jax.methods.moments import moments
from theseus_jax.methods.recalibrate import Recalibrate, batch_statistics
from theseus_jax.nets.stage import Tie, forward, init, network
from theseus_jax.program import over_seeds
from theseus_jax.train import Inputs, State
from theseus_jax.trees import bit_equal, leaves_by_path, stack, unstack

EPSILON, SHAPE = 1e-7, (5, 4, 3)


def norm(train, name, **changes):
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=EPSILON, name=name, **changes
    )


class Stem(nn.Module):
    """Mixes neighbours, so that positions are not alike."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.relu(norm(train, "norm")(nn.Conv(4, (3, 3), name="conv")(x)))


class Branch(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        # against the order of the names
        h = nn.relu(norm(train, "later")(nn.Dense(6, name="up")(x)))
        return norm(train, "earlier")(nn.Dense(4, name="down")(h))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return x + Branch(name="branch")(x, train)


class Pool(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return norm(train, "norm")(x.mean((1, 2)))


NET = network(
    [
        ("stem", Stem()),
        ("block_1", Block()),
        ("block_2", Block()),
        ("pool", Pool()),
        ("head", nn.Dense(2)),
    ]
)
NORMED = NET.names[:4]
SMALL = network([("block_1", Block()), ("block_2", Block()), ("pool", Pool())])


def rows(count=23, offset=0.0, seed=0, shape=SHAPE):
    return (offset + np.random.default_rng(seed).normal(size=(count, *shape))).astype(np.float32)


def small(count=23, seed=0):
    return rows(count, seed=seed, shape=(2, 1, 4))


def variables(seed=0, net=NET, x=None):
    """Random parameters, and running statistics that fit nothing."""
    fresh = jax.eval_shape(
        lambda key: init(net, key, jnp.zeros((1, *SHAPE)) if x is None else x), jax.random.key(0)
    )
    generator = np.random.default_rng(seed)

    def drawn(path, leaf):
        positive = path.split("/")[-1] in ("scale", "var")
        return jnp.asarray(
            generator.uniform(0.5, 2.0, leaf.shape)
            if positive
            else generator.normal(size=leaf.shape)
        )

    leaves = {
        path: drawn(path, leaf).astype(leaf.dtype) for path, leaf in leaves_by_path(fresh).items()
    }
    return jax.tree.unflatten(jax.tree.structure(fresh), list(leaves.values()))


def statistics(given):
    return {
        path: np.asarray(leaf)
        for path, leaf in leaves_by_path(given).items()
        if "/batch_stats/" in path
    }


def norm_outputs(net, given, x):
    """What each norm gives before its scale and bias, (samples, D), in an evaluation of all
    rows.
    """

    def run(given, x):
        found = []

        def interceptor(run, args, kwargs, context):
            y = run(*args, **kwargs)
            if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
                params = context.module.variables["params"]
                found.append(((y - params["bias"]) / params["scale"]).reshape(-1, y.shape[-1]))
            return y

        with nn.intercept_methods(interceptor):
            forward(net, given, x)
        return found

    return [np.float64(y) for y in jax.jit(run)(given, x)]


def looped(given, x):
    """{path: statistics} in float64, layer by layer, all rows at once."""
    found, given = {}, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), given)

    def normalised(x, stage, *path):
        params = given[stage]["params"]
        for key in path:
            params = params[key]
        flat = x.reshape(-1, x.shape[-1])
        mean, var = np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
        for row in flat:
            mean += row / len(flat)
        for row in flat:
            var += (row - mean) ** 2 / len(flat)
        found["/".join((stage, "batch_stats", *path, "mean"))] = mean
        found["/".join((stage, "batch_stats", *path, "var"))] = var
        return (x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"]

    def dense(x, params):
        return x @ params["kernel"] + params["bias"]

    conv, padded = (
        given["stem"]["params"]["conv"],
        np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0))),
    )
    x = sum(
        padded[:, i : i + SHAPE[0], j : j + SHAPE[1]] @ conv["kernel"][i, j]
        for i in range(3)
        for j in range(3)
    )
    x = x + conv["bias"]
    x = np.maximum(normalised(x, "stem", "norm"), 0)
    for stage in ("block_1", "block_2"):
        branch = given[stage]["params"]["branch"]
        h = np.maximum(normalised(dense(x, branch["up"]), stage, "branch", "later"), 0)
        x = x + normalised(dense(h, branch["down"]), stage, "branch", "earlier")
    normalised(x.mean((1, 2)), "pool", "norm")
    return found


def agree(given, wanted, tolerance):
    assert given.keys() == wanted.keys() and given
    for path, leaf in wanted.items():
        np.testing.assert_allclose(given[path], leaf, rtol=tolerance, atol=tolerance, err_msg=path)


# Moments


@pytest.mark.parametrize(
    "count, offset",
    [
        (1, 5.0),
        (2, 0.0),
        (63, 1000.0),
        (64, 3.0),
        (65, 1e5),
        (1009, -1000.0),
        (1_000_003, 1000.0),
        (1_000_003, 0.0),
    ],
)
def test_moments_of_many_samples_are_those_of_float64(count, offset):
    x = (offset + np.random.default_rng(0).normal(size=(count, 2)) * [1, 3]).astype(np.float32)
    found, exact = jax.jit(moments)(x), np.float64(x)
    assert found.count == count
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(found.variance, exact.var(0), rtol=1e-5, atol=1e-12)


def test_naive_moments_would_not_be():
    x = (1000 + np.random.default_rng(0).normal(size=(100_000, 1))).astype(np.float32)
    naive = np.mean(np.square(x)) - np.square(np.mean(x))
    assert abs(naive - np.float64(x).var()) > 1e-2


# Statistics of a network


@pytest.mark.parametrize("block", [5, 100])
def test_every_layer_gets_the_statistics_of_a_float64_loop(block):
    given, x = variables(), rows()
    found = batch_statistics(NET, given, x, block=block)
    agree(statistics(found), looped(given, x), 1e-5)
    assert len(statistics(found)) == 12
    assert bit_equal(
        {name: tree["params"] for name, tree in found.items()},
        {name: tree["params"] for name, tree in given.items()},
    )


def test_an_offset_of_1000_costs_no_digits():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return norm(train, "norm")(x)

    net = network([("bare", Bare())])
    x = rows(count=700, offset=1000.0)
    found = statistics(batch_statistics(net, variables(net=net), x, block=64))
    np.testing.assert_allclose(
        found["bare/batch_stats/norm/mean"], np.float64(x).mean((0, 1, 2)), rtol=1e-7
    )
    np.testing.assert_allclose(
        found["bare/batch_stats/norm/var"], np.float64(x).var((0, 1, 2)), rtol=1e-5
    )


def test_recalibrated_layers_give_mean_0_and_variance_1_and_a_moving_average_does_not():
    given, x = variables(), rows()
    for y in norm_outputs(NET, batch_statistics(NET, given, x, block=5), x):
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(y.var(0), 1, atol=1e-4)
    assert len(norm_outputs(NET, given, x)) == 6
    train = jax.jit(lambda v, x: forward(NET, v, x, train=True)[2])
    for i in range(40):
        new = train(given, x[np.random.default_rng(i).permutation(len(x))[:8]])
        given = {
            name: {**tree, "batch_stats": new[name]} if name in new else tree
            for name, tree in given.items()
        }
    worst = max(np.abs(y.var(0) - 1).max() for y in norm_outputs(NET, given, x))
    assert 0.01 < worst < 0.8  # near, for it has converged, but not there


def test_the_order_of_rows_and_a_second_pass_change_nothing():
    given, x = variables(), rows()
    once = batch_statistics(NET, given, x, block=5)
    agree(statistics(batch_statistics(NET, once, x, block=5)), statistics(once), 1e-6)
    turned = x[np.random.default_rng(1).permutation(len(x))]
    agree(statistics(batch_statistics(NET, given, turned, block=5)), statistics(once), 1e-5)
    other = statistics(batch_statistics(NET, given, rows(seed=1), block=5))
    assert max(np.abs(leaf - other[path]).max() for path, leaf in statistics(once).items()) > 0.01


def test_one_row_and_one_position():
    given, x = variables(), rows(count=1)
    found = statistics(batch_statistics(NET, given, x))
    agree(found, looped(given, x), 2e-5)
    np.testing.assert_array_equal(found["pool/batch_stats/norm/var"], np.zeros(4))
    net = network([("pool", Pool())])
    x = rows(count=9)[:, :1, :1]
    found = statistics(batch_statistics(net, variables(net=net), x, block=4))
    np.testing.assert_allclose(
        found["pool/batch_stats/norm/mean"], x.mean((0, 1, 2)), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(found["pool/batch_stats/norm/var"], x.var((0, 1, 2)), rtol=1e-5)


def test_chosen_stages_alone_are_recalibrated_with_the_others_as_they_are():
    given, x = variables(), rows()
    found = batch_statistics(NET, given, x, stages=("block_2",), block=5)
    changed = {name for name in NORMED if not bit_equal(found[name], given[name])}
    assert changed == {"block_2"} and bit_equal(found["head"], given["head"])
    seam = forward(NET, given, x, stop="block_1")[0]
    np.testing.assert_allclose(
        found["block_2"]["batch_stats"]["branch"]["later"]["mean"],
        np.mean(
            seam @ given["block_2"]["params"]["branch"]["up"]["kernel"]
            + given["block_2"]["params"]["branch"]["up"]["bias"],
            (0, 1, 2),
        ),
        rtol=1e-5,
        atol=1e-5,
    )
    later = batch_statistics(NET, given, seam, start="block_2", block=5)
    agree(
        statistics({"block_2": later["block_2"]}), statistics({"block_2": found["block_2"]}), 1e-6
    )
    assert bit_equal(later["stem"], given["stem"]) and not bit_equal(later["pool"], given["pool"])


def test_seeds_are_recalibrated_one_by_one_or_at_once():
    net, x = network([("pool", Pool())]), small(16)
    each = [variables(seed, net, x) for seed in (0, 1)]
    wanted = stack([batch_statistics(net, given, x, block=8) for given in each])
    assert not bit_equal(each[0], each[1])
    for mapped in (
        jax.jit(lambda v: over_seeds(lambda one: batch_statistics(net, one, x, block=8), v)),
        jax.jit(jax.vmap(lambda one: batch_statistics(net, one, x, block=8))),
    ):
        agree(statistics(mapped(stack(each))), statistics(wanted), 1e-5)


def test_a_stage_is_one_program_shared_by_equal_stages_and_compiled_once():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: (
            compiled.append(name) if name.endswith("backend_compile_duration") else None
        )
    )

    def count(seed, size, block=6):
        given, x = variables(seed, SMALL, small(1)), jnp.asarray(small(size))
        compiled.clear()
        jax.block_until_ready(batch_statistics(SMALL, given, x, block=block))
        return len(compiled)

    assert 0 < count(0, 12) <= 2  # one for both blocks, one for the pool
    assert count(1, 12) == 0
    assert 0 < count(0, 24) <= 2  # two blocks of rows or four are one program a stage
    assert 0 < count(0, 7, block=7) <= 2 and count(0, 7, block=100) == 0


def test_a_stage_costs_a_pass_for_each_norm_and_one_for_its_outputs():
    class Counted(nn.Module):
        tag: str

        @nn.compact
        def __call__(self, x, train=False):
            traces.append(self.tag)
            return norm(train, "second")(norm(train, "first")(x))

    net = network([(tag, Counted(tag)) for tag in "abc"] + [("head", nn.Dense(2))])
    traces = []
    given, x = variables(net=net, x=small(1)), small(8)
    traces.clear()
    # one trace more finds out what norms there are
    batch_statistics(net, given, x, stages=("a", "c"), block=4)
    assert [traces.count(tag) for tag in "abc"] == [1 + 2 + 1, 1, 1 + 2]


def test_layers_inside_lifted_transforms_and_other_axes():
    class Turned(nn.Module):
        """Rows are no longer the leading axis, features not the last."""

        @nn.compact
        def __call__(self, x, train=False):
            return (
                norm(train, "norm", axis=(-1, 1))(x.transpose(1, 2, 3, 0)[..., None])
                .sum((0, 4))
                .transpose(2, 0, 1)
            )

    class Lifted(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.remat(Branch, static_argnums=(2,))(name="branch")(x, train)
            many = nn.vmap(
                Branch,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                in_axes=(0, None),
                axis_size=2,
            )(name="many")
            return many(jnp.stack([x, x]), train).sum(0)

    net, x = network([("turned", Turned()), ("lifted", Lifted())]), rows()
    given = variables(net=net)
    found = batch_statistics(net, given, x, block=8)
    turned = np.float64(x).transpose(1, 2, 3, 0)[..., None]
    np.testing.assert_allclose(
        found["turned"]["batch_stats"]["norm"]["mean"], turned.mean((0, 2, 3)), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        found["turned"]["batch_stats"]["norm"]["var"], turned.var((0, 2, 3)), rtol=1e-5
    )
    seam = np.asarray(forward(net, found, x, stop="turned")[0])
    params = jax.tree.map(np.asarray, found["lifted"]["params"]["branch"])
    np.testing.assert_allclose(
        found["lifted"]["batch_stats"]["branch"]["later"]["var"],
        (seam @ params["up"]["kernel"] + params["up"]["bias"]).var((0, 1)),
        rtol=1e-4,
    )
    assert found["lifted"]["batch_stats"]["many"]["later"]["mean"].shape == (2, 6)
    assert not np.allclose(*found["lifted"]["batch_stats"]["many"]["later"]["mean"])


def test_a_tied_stage_and_inputs_of_several_leaves():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return norm(train, "norm")(x["a"] + x["b"])

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return norm(train, "norm")(x * self.param("scale", nn.initializers.ones, (3,)))

    net = network(
        [("sum", Sum()), ("first", Scaled()), ("second", Scaled())],
        [Tie("second", "scale", "first", "scale")],
    )
    x = {"a": rows(), "b": 2 * rows(seed=1)}
    given = variables(net=net, x=jax.tree.map(lambda leaf: leaf[:1], x))
    found = batch_statistics(net, given, x, block=8)
    np.testing.assert_allclose(
        found["sum"]["batch_stats"]["norm"]["var"], (x["a"] + x["b"]).var((0, 1, 2)), rtol=1e-5
    )
    tied = found["first"]["params"]["norm"]["scale"] * found["first"]["params"]["scale"]
    np.testing.assert_allclose(found["second"]["batch_stats"]["norm"]["var"], tied**2, rtol=1e-3)


def test_what_cannot_be_calibrated_is_refused():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            layer = norm(train, "shared")
            return layer(layer(x))

    class Always(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=False, name="always")(x)

    class Padded(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return norm(train, "padded")(x, mask=jnp.ones(x.shape, bool))

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return x - self.variable("batch_stats", "centre", jnp.zeros, (3,)).value

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            class Layer(nn.Module):
                @nn.compact
                def __call__(self, x, _):
                    return norm(train, "scanned")(x), None

            return nn.scan(
                Layer,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=2,
            )(name="layers")(x, None)[0]

    x = rows(count=2)
    for module, told in (
        (Shared(), "batch norm it/shared is called twice"),
        (Always(), "it/always has a mask or uses"),
        (Padded(), "it/padded has a mask"),
        (Own(), "batch statistics of it are read by no nn.BatchNorm"),
        (Scanned(), "it/layers/scanned is called twice"),
    ):
        net = network([("it", module)])
        given = {"it": jax.jit(module.init)(jax.random.key(0), x)}
        assert told in refusal(batch_statistics, net, given, x)
    given = variables()
    assert "no stage 'blok_1'" in refusal(batch_statistics, NET, given, x, stages=("blok_1",))
    assert "stages stem stand before 'pool'" in refusal(
        batch_statistics, NET, given, x, stages=("stem",), start="pool"
    )
    assert "block 0" in refusal(batch_statistics, NET, given, x, block=0)
    assert "1 or more" in refusal(batch_statistics, NET, given, x[:0])
    assert "one and the same" in refusal(batch_statistics, NET, given, {"a": x, "b": x[:1]})


# Surgery


def surroundings(net, examples, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return Inputs(types.SimpleNamespace(net=net), examples, keys, keys, keys)


def state_of(given):
    return State(3, given, {}, "optimizer", jax.random.split(jax.random.key(9), 2))


def test_surgery_recalibrates_every_seed_on_the_drawn_rows():
    given, x = stack([variables(seed, SMALL, small(1)) for seed in (0, 1)]), small(31)
    inputs = surroundings(SMALL, {"inputs": jnp.asarray(x), "labels": jnp.zeros(31, jnp.int32)})
    surgery = Recalibrate(rows=11)
    state = surgery(state_of(given), inputs)
    drawn = np.asarray(jax.random.permutation(inputs.surgery[0], 31)[:11])
    for seed in (0, 1):
        wanted = batch_statistics(SMALL, unstack(given, seed), x[drawn])
        assert bit_equal(unstack(state.variables, seed), wanted)
    assert (state.step, state.opt_state) == (3, "optimizer")
    other = surgery(
        state_of(given), inputs._replace(surgery=jax.random.split(jax.random.key(5), 2))
    )
    assert not bit_equal(other.variables["pool"], state.variables["pool"])
    part = Recalibrate(("block_1",), 11)(state_of(given), inputs).variables
    assert {name for name in part if not bit_equal(part[name], given[name])} == {"block_1"}
    assert "no stage 'block_9'" in refusal(Recalibrate(("block_9",)), state_of(given), inputs)


def test_surgery_leaves_a_network_without_batch_norm_alone():
    net = network([("head", nn.Dense(2))])
    state = state_of(stack([variables(seed, net) for seed in (0, 1)]))
    inputs = surroundings(net, {"inputs": jnp.asarray(rows(4)), "labels": jnp.zeros(4)})
    assert Recalibrate()(state, inputs) is state
    normed = state_of(stack([variables()]))
    assert Recalibrate(("head",))(normed, surroundings(NET, inputs.examples)) is normed


def test_surgery_is_data_and_prints_itself():
    assert Recalibrate() == Recalibrate(None, 2048) and hash(Recalibrate(("a",))) == hash(
        Recalibrate(("a",))
    )
    assert (
        str(Recalibrate(("block_1", "pool"), 7))
        == "recalibrate batch norm of block_1, pool on 7 training examples"
    )
    assert str(Recalibrate()) == "recalibrate batch norm of all stages on 2048 training examples"


# Modes of an untrained guide


def untrained(net=NET, x=None):
    return jax.jit(lambda key: init(net, key, jnp.zeros((1, *SHAPE)) if x is None else x))(
        jax.random.key(3)
    )


def test_identity_and_calibrated_guides():
    given, x = untrained(), rows()
    assert GUIDE_MODES == ("identity", "batch", "calibrated")
    net, same = guide_mode(NET, given, None, "identity")
    assert net == NET and bit_equal(same, given)
    net, new = guide_mode(NET, given, x, "calibrated")
    assert net == NET and bit_equal(new, batch_statistics(NET, given, x))
    whole = jax.jit(lambda v, x: forward(NET, v, x, train=True)[0])(given, x)
    # of all rows it is the batch mode
    np.testing.assert_allclose(forward(NET, new, x)[0], whole, rtol=0, atol=1e-4)
    assert np.abs(forward(NET, given, x)[0] - whole).max() > 0.1


def test_a_guide_in_batch_mode_is_in_training_whatever_it_is_told_and_learns_nothing():
    given, x = untrained(), rows()
    net, same = guide_mode(NET, given, None, "batch")
    assert (
        same is given
        and net.stages[-1] == NET.stages[-1]
        and net.stages[0].module == BatchMode(Stem())
    )
    assert hash(net) == hash(guide_mode(NET, given, None, "batch")[0])
    run = jax.jit(lambda v, x: forward(net, v, x))
    wanted = jax.jit(lambda v, x: forward(NET, v, x, train=True)[0])
    np.testing.assert_allclose(run(given, x)[0], wanted(given, x), rtol=0, atol=1e-6)
    # an example depends on its batch
    assert np.abs(run(given, x[:5])[0] - run(given, x)[0][:5]).max() > 0.05
    kept = jax.jit(lambda v, x: forward(net, v, x, train=True))(given, x)[2]
    assert bit_equal(kept, {name: given[name]["batch_stats"] for name in NORMED})
    assert bit_equal(untrained(net), given)  # names and numbers of init
    moved = variables()
    np.testing.assert_allclose(run(moved, x)[0], wanted(moved, x), rtol=0, atol=1e-5)


def test_batch_mode_has_no_dropout_and_lets_gradients_through():
    class Noisy(nn.Module):
        rate: float

        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dropout(self.rate, deterministic=not train)(
                norm(train, "norm")(nn.Dense(3, name="dense")(x))
            )

    loud, quiet, x = network([("it", Noisy(0.5))]), network([("it", Noisy(0.0))]), rows(count=6)
    given = untrained(loud, x)
    net = guide_mode(loud, given, None, "batch")[0]
    y = forward(net, given, x, key=jax.random.key(0))[0]
    np.testing.assert_allclose(y, forward(quiet, given, x, train=True)[0], rtol=0, atol=1e-6)
    slope = jax.grad(lambda x: (forward(net, given, x)[0] ** 3).sum())(jnp.asarray(x))
    wanted = jax.grad(lambda x: (forward(quiet, given, x, train=True)[0] ** 3).sum())(
        jnp.asarray(x)
    )
    np.testing.assert_allclose(slope, wanted, rtol=0, atol=1e-5)


def test_guide_modes_that_cannot_be_are_refused():
    given, x = untrained(), rows(count=3)
    assert "no guide mode 'eval'; take one of identity" in refusal(
        guide_mode, NET, given, x, "eval"
    )
    moved = batch_statistics(NET, given, x)
    assert "but stem/norm/mean has other values" in refusal(guide_mode, NET, moved, x, "identity")
    bare = network([("bare", nn.BatchNorm(use_running_average=True))])
    assert "bare has batch statistics and does not take it" in refusal(
        guide_mode, bare, untrained(bare), x, "batch"
    )
    fixed = guide_mode(bare, untrained(bare), x, "calibrated")[1]
    np.testing.assert_allclose(fixed["bare"]["batch_stats"]["var"], x.var((0, 1, 2)), rtol=1e-5)
    batch = guide_mode(NET, given, x, "batch")[0]
    assert "stem/norm has a mask or uses its batch's own statistics" in refusal(
        batch_statistics, batch, given, x
    )
