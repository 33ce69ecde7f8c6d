"""Units of networks: where their numbers stand, edits of them beside any optimizer, and slicing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from theseus_jax.edits import unit_axes
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import births, units
from theseus_jax.methods.plasticity.compact import compact, narrowed, widths
from theseus_jax.methods.plasticity.elastic import elastic, resized
from theseus_jax.methods.plasticity.scores import View, first
from theseus_jax.methods.plasticity.signals import Reading
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.models.cnn import cnn
from theseus_jax.nets.models.fcn import mlp
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.models.resnet import resnet
from theseus_jax.nets.models.vit import vit
from theseus_jax.nets.sites import Slice, masks
from theseus_jax.nets.stage import Network, forward, init, network
from theseus_jax.nets.variables import partition
from theseus_jax.trees import bit_equal, leaves_by_path

VECTOR = jax.ShapeDtypeStruct((1, 5), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((1, 6), jnp.int32)
NETS = {
    "mlp": (lambda: mlp(classes=3, width=12, depth=3, norm="none"), VECTOR),
    "mlp_batch": (lambda: mlp(classes=3, width=12, depth=3, norm="batch"), VECTOR),
    "mlp_layer": (lambda: mlp(classes=3, width=12, depth=2, norm="layer"), VECTOR),
    "cnn": (lambda: cnn(classes=3, channels=(4, 6), hidden=(10, 8)), IMAGE),
    "cnn_batch": (lambda: cnn(classes=3, channels=(4, 6), hidden=(10,), norm="batch"), IMAGE),
    "resnet": (lambda: resnet(depth=18, classes=3, width=2, stem="cifar"), IMAGE),
    "vit": (
        lambda: vit(classes=3, image=8, patch=4, width=8, depth=1, heads=2, hidden=10, channels=2),
        IMAGE,
    ),
    "gpt2": (lambda: gpt2(vocabulary=9, positions=6, width=8, depth=1, heads=2), TOKENS),
}
# one site of each: what makes its units, and what reads them, as (leaf, axis, numbers a unit)
TYPED = {
    "mlp": (
        "block_1/units",
        {("block_1/params/linear/kernel", 1, 1), ("block_1/params/linear/bias", 0, 1)},
        {("block_2/params/linear/kernel", 0, 1)},
    ),
    "mlp_batch": (
        "stem/units",
        {
            ("stem/params/linear/kernel", 1, 1),
            ("stem/params/linear/bias", 0, 1),
            ("stem/params/norm/scale", 0, 1),
            ("stem/params/norm/bias", 0, 1),
        },
        {("block_1/params/linear/kernel", 0, 1)},
    ),
    "cnn": (
        "conv_2/units",
        {("conv_2/params/conv/kernel", 3, 1), ("conv_2/params/conv/bias", 0, 1)},
        {("block_1/params/linear/kernel", 0, 4)},  # 2 x 2 positions after two pools
    ),
    "resnet": (
        "block_3/units_1",
        {
            ("block_3/params/conv_1/kernel", 3, 1),
            ("block_3/params/norm_1/scale", 0, 1),
            ("block_3/params/norm_1/bias", 0, 1),
        },
        {("block_3/params/conv_2/kernel", 2, 1)},
    ),
    "vit": (
        "block_1/mlp/units",
        {("block_1/params/mlp/up/kernel", 1, 1), ("block_1/params/mlp/up/bias", 0, 1)},
        {("block_1/params/mlp/down/kernel", 0, 1)},
    ),
    "gpt2": (
        "block_1/mlp/units",
        {("block_1/params/mlp/c_fc/kernel", 1, 1), ("block_1/params/mlp/c_fc/bias", 0, 1)},
        {("block_1/params/mlp/c_proj/kernel", 0, 1)},
    ),
}


@functools.cache
def net_of(name):
    make, example = NETS[name]
    return elastic(make(), example)


@functools.cache
def started(name):
    net, x = net_of(name), some(name)
    variables = init(net, jax.random.key(1), x)
    return {
        stage: {
            kind: jax.tree.map(
                lambda leaf, kind=kind: leaf + 0.03 if kind == "params" else leaf, tree
            )
            for kind, tree in collections.items()
        }
        for stage, collections in variables.items()
    }


def some(name, count=7):
    spec = NETS[name][1]
    draw = np.random.default_rng(3)
    shape = (count, *spec.shape[1:])
    if spec.dtype == jnp.int32:
        return jnp.asarray(draw.integers(0, 9, shape), jnp.int32)
    return jnp.asarray(draw.normal(size=shape), jnp.float32)


def with_live(name, seed=0):
    """Variables with some units off at every site."""
    variables, draw = started(name), np.random.default_rng(seed)
    for site in net_of(name).sites:
        off = draw.random(site.width) < 0.5
        off[0], off[-1] = False, True
        variables = units.switched(variables, site, jnp.asarray(off), False, 0)
    return variables


def typed(slices):
    return {("/".join(one.path), one.axis, one.repeat) for one in slices}


@pytest.mark.parametrize("name", TYPED)
def test_the_slices_of_a_site_are_those_typed_by_hand(name):
    wanted, incoming, outgoing = TYPED[name]
    (site,) = (site for site in net_of(name).sites if site.name == wanted)
    assert typed(site.incoming) == incoming and typed(site.outgoing) == outgoing
    counted = {"/".join(one.path) for one in site.statistics}
    norm = {"mlp_batch": "stem/batch_stats/norm", "resnet": "block_3/batch_stats/norm_1"}
    assert counted == (
        {f"{norm[name]}/{one}" for one in ("mean", "var")} if name in norm else set()
    )
    assert not site.mixed


def test_a_norm_over_units_mixes_them():
    assert all(site.mixed for site in net_of("mlp_layer").sites)


@pytest.mark.parametrize("name", NETS)
def test_what_belongs_to_units_that_are_off_changes_nothing(name):
    net, x, variables = net_of(name), some(name), with_live(name)
    y = forward(net, variables, x, train=True, key=jax.random.key(0))[0]
    for site in net.sites:
        dead = ~masks(variables, site).live
        noise = {
            key: 7.0 + jnp.ones_like(rows)
            for key, rows in units.rows_of(variables, site.parameters).items()
        }
        changed = units.written(variables, site.parameters, dead, noise)
        assert not bit_equal(changed, variables)
        z = forward(net, changed, x, train=True, key=jax.random.key(0))[0]
        np.testing.assert_array_equal(z, y)
        touched = units.written(variables, site.outgoing, ~dead, noise)
        z = forward(net, touched, x, train=True, key=jax.random.key(0))[0]
        assert np.abs(z - y).max() > 1e-3


@pytest.mark.parametrize("name", NETS)
def test_a_compacted_network_computes_the_same(name):
    net, x, variables = net_of(name), some(name), with_live(name)
    to = widths(net, variables)
    assert any(to[site] < site.width for site in net.sites)
    small = narrowed(net, to)
    held = compact(units.Held(variables, None), net, to)
    fresh = init(small, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, held.variables) == jax.tree.map(jnp.shape, fresh)
    y, z = (
        forward(one, given, x, train=True, key=jax.random.key(0))[0]
        for one, given in ((net, variables), (small, held.variables))
    )
    np.testing.assert_allclose(z, y, atol=3e-5, rtol=1e-4)
    wide = widths(net, variables, multiple=4)
    assert all(width % 4 == 0 or width == site.width for site, width in wide.items())


def heads(repeat):
    """A layer whose units have their numbers side by side, as an attention's heads do."""

    class Heads(nn.Module):
        count: int

        @nn.compact
        def __call__(self, x):
            h = nn.Dense(self.count * repeat)(x).reshape(*x.shape[:-1], self.count, repeat)
            h = jnp.swapaxes(Units(nn.tanh, name="units")(jnp.swapaxes(h, -1, -2)), -1, -2)
            return nn.Dense(5)(h.reshape(*x.shape[:-1], -1))

    return network([("heads", Heads(6)), ("head", nn.Dense(3))])


def test_numbers_side_by_side_are_told_from_numbers_far_apart():
    (site,) = elastic(heads(3), VECTOR).sites
    assert all(one.repeat == 3 and not one.tiled for one in site.parameters)
    rows = Slice((), 0, 3, False).rows(jnp.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(rows, np.arange(12).reshape(2, 6))
    rows = Slice((), 0, 3, True).rows(jnp.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(rows, [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]])


@pytest.mark.parametrize("tiled", (False, True))
@pytest.mark.parametrize("axis", (0, 1, 2))
def test_rows_are_placed_where_they_were(axis, tiled):
    leaf = jnp.arange(6.0 * 6 * 6).reshape(6, 6, 6)
    one = Slice((), axis, 2, tiled)
    np.testing.assert_array_equal(one.placed(one.rows(leaf), leaf.shape), leaf)
    mark = one.spread(jnp.arange(3.0), 3) * jnp.ones_like(leaf)
    np.testing.assert_array_equal(one.rows(mark), np.repeat(np.arange(3)[:, None], 72, axis=1))


def test_axes_are_found_in_any_tree():
    tree = {"a": np.zeros((4, 3)), "b": (np.zeros(12), np.zeros(())), "c": np.zeros((4, 4))}
    wider = {"a": np.zeros((5, 3)), "b": (np.zeros(15), np.zeros(())), "c": np.zeros((5, 5))}
    assert typed(unit_axes(tree, wider, 4)) == {
        ("a", 0, 1),
        ("b/0", 0, 3),
        ("c", 0, 1),
        ("c", 1, 1),
    }
    with pytest.raises(UserError, match="leaf a is .*6, 3.* in place of"):
        unit_axes(tree, {**wider, "a": np.zeros((6, 3))}, 4)
    with pytest.raises(UserError, match="another leaf, d"):
        unit_axes(tree, {**wider, "d": np.zeros(1)}, 4)


class Mixing(nn.Module):
    """Units that the next layer's norm mixes without asking which are on."""

    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(nn.Dense(self.width)(x))
        return nn.Dense(5)(Units(nn.relu, name="units")(h))


class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(Units(nn.relu, name="units")(nn.Dense(12)(x)))


@pytest.mark.parametrize(
    "module, message",
    [
        (Mixing(6), "cannot be taken apart: .* has a gradient where they are off"),
        (Fixed(), "no number of first's Fixed decides the 12 units"),
        (nn.Dense(4), "it has none: put nets.blocks.units.Units"),
    ],
)
def test_sites_that_cannot_be_are_named(module, message):
    with pytest.raises(UserError, match=message):
        elastic(network([("first", module), ("head", nn.Dense(3))]), VECTOR)
    with pytest.raises(UserError, match="no units nowhere; it has"):
        elastic(NETS["mlp"][0](), VECTOR, ["nowhere"])


# -- edits beside an optimizer's state ------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(1e-2),
    "lion": lambda: optax.lion(1e-3),
    "adafactor": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=8, momentum=0.9),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.trace(0.9),
        optax.scale_by_schedule(optax.linear_schedule(1.0, 0.1, 50)),
        optax.scale(-1e-2),
    ),
}
PARTS = ("conv_1", "conv_2", "block_1", "block_2", "head")


@functools.cache
def bench(name):
    """(optimizer, its slots, a compiled step of training) for the small ConvNet."""
    net, tx = net_of("cnn"), OPTIMIZERS[name]()
    found = units.slots(tx, net, PARTS, IMAGE)
    x, y = some("cnn"), jnp.arange(7) % 3

    @jax.jit
    def step(held):
        params, rest = partition(held.variables, PARTS)

        def loss(params):
            given = {stage: {**rest.get(stage, {}), **params[stage]} for stage in PARTS}
            logits = forward(net, given, x, train=True)[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), held.opt_state, params)
        params = optax.apply_updates(params, updates)
        variables = {stage: {**rest.get(stage, {}), **params[stage]} for stage in PARTS}
        return units.Held(variables, opt_state)

    return tx, found, step


def begun(name):
    tx, _, step = bench(name)
    params, _ = partition(started("cnn"), PARTS)
    held = units.Held(started("cnn"), tx.init(params))
    return step(step(held))


def view_of(held, site, chosen, key):
    slices = (*site.parameters, *site.statistics)
    fresh = init(net_of("cnn"), key, some("cnn"))
    nothing = Reading(*[jnp.zeros((1, site.width))] * 4)
    rows = units.rows_of(held.variables, slices)
    return View(
        site,
        rows,
        units.rows_of(fresh, slices),
        masks(held.variables, site),
        chosen,
        nothing,
        {},
        key,
        jnp.int32(0),
    )


def grown(name, number, birth, moments, held, chosen, key, step):
    site, (tx, found, _) = net_of("cnn").sites[number], bench(name)
    born = births.BIRTHS[birth](view_of(held, site, chosen, key))
    params, _ = partition(held.variables, PARTS)
    given = {
        "fresh": {"fresh": tx.init(params)},
        "kept": {},
        "transplanted": {"donors": born.donors},
    }[moments]
    return units.grown(held, site, found[site.name], chosen, born.rows, step, **given)


def unit_mask(site, one, leaf, chosen):
    """Which numbers of a leaf are of chosen units: loops, no use of `Slice`."""
    marked = np.zeros(leaf.shape, bool)
    for index in np.ndindex(leaf.shape):
        marked[index] = chosen[index[one.axis] % site.width]  # channels last
    return marked


def untouched(before, after, slices, site, chosen):
    """All numbers that are not of chosen units are bit-equal."""
    old, new = leaves_by_path(before), leaves_by_path(after)
    assert old.keys() == new.keys()
    for path, leaf in old.items():
        mine = np.zeros(np.shape(leaf), bool)
        for one in slices:
            if "/".join(one.path) == path:
                mine |= unit_mask(site, one, np.asarray(leaf), chosen)
        a, b = (np.asarray(tree[path])[~mine] for tree in (old, new))
        assert a.tobytes() == b.tobytes(), path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_random_sequences_of_edits(name):
    """A third of 200 sequences of up to six edits with each optimizer, at random sites."""
    _, found, step = bench(name)
    net, draw = net_of("cnn"), np.random.default_rng(list(OPTIMIZERS).index(name))
    for sequence in range(34):
        held = begun(name)
        for number in range(draw.integers(2, 6)):
            i = int(draw.integers(len(net.sites)))
            site = net.sites[i]
            live = np.asarray(masks(held.variables, site).live)
            kind = draw.choice(["grow", "prune", "freeze", "replace", "step"])
            among = ~live if kind == "grow" else live & (np.arange(site.width) > 0)
            chosen = among & (draw.random(site.width) < 0.6)
            before, pick = held, jnp.asarray(chosen)
            if kind == "step":
                held = step(held)
                continue
            if kind == "prune":
                held = held._replace(
                    variables=units.switched(held.variables, site, pick, False, number)
                )
            elif kind == "freeze":
                held = held._replace(variables=units.frozen(held.variables, site, pick))
            else:
                birth = str(draw.choice(["stored", "random", "zero_outgoing", "paired"]))
                moments = str(draw.choice(["fresh", "kept"]))
                key = jax.random.key(sequence)
                held = grown(name, i, birth, moments, held, pick, key, number)
                slots = found[site.name]
                untouched(before.opt_state, held.opt_state, slots, site, chosen)
                if moments == "fresh":
                    new = jax.tree.leaves(jax.tree.map(np.asarray, held.opt_state))
                    assert all(np.isfinite(leaf).all() for leaf in new)
                    for rows in units.rows_of(held.opt_state, slots).values():
                        assert not np.asarray(rows)[chosen].any()
                if moments == "kept":
                    assert bit_equal(held.opt_state, before.opt_state)
            params = [{s: t["params"] for s, t in one.variables.items()} for one in (before, held)]
            mine = [one._replace(path=(one.path[0], *one.path[2:])) for one in site.parameters]
            untouched(*params, mine, site, chosen)
            now = masks(held.variables, site)
            on = live & ~chosen if kind == "prune" else live | (chosen & (kind == "grow"))
            np.testing.assert_array_equal(now.live, on)
            if kind == "freeze":
                assert np.asarray(now.frozen)[chosen].all()
            if kind in ("grow", "replace"):
                assert (np.asarray(now.born)[chosen] == number).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_growing_and_pruning_the_same_units_restores_everything(name):
    held, site = begun(name), net_of("cnn").sites[2]
    off = jnp.arange(site.width) > 5
    held = held._replace(variables=units.switched(held.variables, site, off, False, 0))
    there = grown(name, 2, "stored", "kept", held, off, jax.random.key(0), 3)
    back = units.switched(there.variables, site, off, False, 4)
    born = masks(held.variables, site).born
    back = units.with_masks(back, site, masks(back, site)._replace(born=born))
    assert not bit_equal(there.variables, held.variables)
    assert bit_equal(back, held.variables) and bit_equal(there.opt_state, held.opt_state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_slicing_the_state_is_of_a_fresh_network_of_that_width(name):
    net, (tx, found, _) = net_of("cnn"), bench(name)
    held = begun(name)
    for site in net.sites:
        off = jnp.arange(site.width) % 3 == 1
        held = held._replace(variables=units.switched(held.variables, site, off, False, 0))
    to = widths(net, held.variables)
    small = narrowed(net, to)
    cut = compact(held, net, to, optimizer=tx, slots=found, trainable=PARTS)
    params, _ = partition(init(small, jax.random.key(0), some("cnn")), PARTS)
    wanted = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(cut.opt_state) == jax.tree.structure(wanted)
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(one)] for one in (cut.opt_state, wanted)]
    assert shapes[0] == shapes[1]
    # survivors' numbers are those that they had, where the state kept its form
    old, new = leaves_by_path(held.opt_state), leaves_by_path(cut.opt_state)
    for site in net.sites[-1:]:
        on = np.flatnonzero(np.asarray(masks(held.variables, site).live))
        for one in found[site.name]:
            path = "/".join(one.path)
            if np.ndim(old[path]) == 1 and "v_" not in path:
                np.testing.assert_array_equal(new[path], np.asarray(old[path])[on])
    y, z = (
        forward(one, given.variables, some("cnn"))[0] for one, given in ((net, held), (small, cut))
    )
    np.testing.assert_allclose(z, y, atol=1e-5)


def test_factored_moments_through_a_change_of_form():
    """Adafactor factors matrices of two axes of 8 and more: widths 10 and 8 become 6 and 5."""
    net, (tx, found, _) = net_of("cnn"), bench("adafactor")
    held = begun("adafactor")
    second = leaves_by_path(held.opt_state)
    prefix = next(path.split("/v_row/")[0] for path in second if "/v_row/block_2" in path)
    name = "block_2/params/linear/kernel"
    row, column = (np.asarray(second[f"{prefix}/{part}/{name}"]) for part in ("v_row", "v_col"))
    whole = np.outer(column, row) / row.mean()  # (10, 8): columns are averaged over the 8
    assert {row.shape, column.shape} == {(8,), (10,)}
    whole = whole if whole.shape == (10, 8) else whole.T
    variables = held.variables
    for site, keep in zip(net.sites[2:], (6, 5)):
        variables = units.switched(variables, site, jnp.arange(site.width) >= keep, False, 0)
    held = held._replace(variables=variables)
    to = {site: site.width for site in net.sites} | dict(zip(net.sites[2:], (6, 5)))
    cut = compact(held, net, to, optimizer=tx, slots=found, trainable=PARTS)
    got = np.asarray(leaves_by_path(cut.opt_state)[f"{prefix}/v/{name}"])
    np.testing.assert_allclose(got, whole[:6, :5], rtol=1e-5)


def test_a_state_that_cannot_be_carried_is_named():
    odd = optax.GradientTransformation(
        lambda params: {"total": jnp.zeros(sum(leaf.size for leaf in jax.tree.leaves(params)))},
        lambda updates, state, params=None: (updates, state),
    )
    with pytest.raises(UserError, match="state of conv_1.width .4 units. cannot be .*total"):
        units.slots(odd, net_of("cnn"), PARTS, IMAGE)


# -- births ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("birth", ("zero_outgoing", "copy_split", "paired"))
@pytest.mark.parametrize("name", [name for name in NETS if name != "mlp_layer"])
def test_a_preserving_birth_keeps_the_function(name, birth):
    net, x, variables = net_of(name), some(name), with_live(name, seed=1)
    y = forward(net, variables, x)[0]
    for i, site in enumerate(net.sites):
        dead = ~masks(variables, site).live
        slices = (*site.parameters, *site.statistics)
        fresh = init(net, jax.random.key(9), x)
        view = View(
            site,
            units.rows_of(variables, slices),
            units.rows_of(fresh, slices),
            masks(variables, site),
            dead,
            None,
            {},
            jax.random.key(i),
            jnp.int32(0),
        )
        born = births.BIRTHS[birth](view)
        held = units.grown(units.Held(variables, {}), site, (), dead, born.rows, 5)
        variables = held.variables
        assert np.asarray(masks(variables, site).live).all()
    z = forward(net, variables, x)[0]
    assert np.abs(z - y).max() <= 1e-5 * max(1.0, float(np.abs(y).max()))
    assert birth != "copy_split" or not bit_equal(variables, with_live(name, seed=1))


def test_twins_of_a_copy_part():
    held, site = units.Held(started("mlp"), {}), net_of("mlp").sites[1]
    chosen = jnp.arange(site.width) >= 7
    held = held._replace(variables=units.switched(held.variables, site, chosen, False, 0))
    slices = site.parameters
    rows = units.rows_of(held.variables, slices)
    view = View(
        site, rows, rows, masks(held.variables, site), chosen, None, {}, jax.random.key(0), 0
    )
    born = births.copy_split(view)
    donors = np.asarray(born.donors)
    assert (donors[:7] == np.arange(7)).all() and (donors[7:] < 7).all()
    assert len(set(donors[7:])) == 5  # five newborn, seven donors: all of them different
    out = np.asarray(born.rows["block_2/params/linear/kernel"])
    old = np.asarray(rows["block_2/params/linear/kernel"])
    for child in range(7, 12):
        parent = donors[child]
        np.testing.assert_allclose(out[child] + out[parent], old[parent], rtol=1e-6)
        share = out[child] / old[parent]
        assert 0.3 < share[0] < 0.7 and abs(share[0] - 0.5) > 1e-4


def test_first_is_a_stable_top_k():
    draw = np.random.default_rng(0)
    for _ in range(50):
        scores = draw.integers(0, 4, 9).astype(np.float32)
        among, count = draw.random(9) < 0.7, int(draw.integers(0, 10))
        for highest in (False, True):
            merit = scores if highest else -scores
            ranked = sorted(np.flatnonzero(among), key=lambda j: (-merit[j], j))[:count]
            found = first(jnp.asarray(scores), jnp.asarray(among), count, highest)
            assert np.flatnonzero(found).tolist() == sorted(ranked)
    nan = first(jnp.asarray([jnp.nan, 1.0, -jnp.inf]), jnp.ones(3, bool), 2, True)
    assert nan.tolist() == [False, True, True] or nan.tolist() == [True, True, False]


def test_a_resized_network_is_an_ordinary_one():
    net = net_of("cnn")
    small = resized(net, {net.sites[2]: 5})
    assert isinstance(small, Network) and not small.sites
    variables = init(small, jax.random.key(0), some("cnn"))
    assert variables["block_1"]["params"]["linear"]["kernel"].shape == (24, 5)
    assert "masks" not in variables["block_1"]
