"""The named norms against closed forms; ResNets against transformers' outputs, and the strictness
of their files.

The goldens are written by `python tests/golden/make_resnet.py`.
"""

import json
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from mistakes import refusal

from theseus_jax.nets.blocks.norms import NORMS, BatchNorm, group_count, normalized
from theseus_jax.nets.models.resnet import Block, Layer, Stem, resnet
from theseus_jax.nets.stage import forward, init, seams
from theseus_jax.nets.weights.containers import read_tensors
from theseus_jax.nets.weights.resnet import load_resnet, tensor_places
from theseus_jax.trees import leaves_by_path, parameter_count

GOLDEN = pathlib.Path(__file__).parent / "golden"
OUTPUTS = dict(np.load(GOLDEN / "resnet_outputs.npz"))
SIZES = {18: {"depth": 18, "classes": 5, "width": 3}, 50: {"depth": 50, "classes": 5, "width": 2}}
ENDS = {
    18: ("stem", "block_2", "block_4", "block_6", "block_8"),
    50: ("stem", "block_3", "block_7", "block_13", "block_16"),
}
FIRST = "resnet.encoder.stages.1.layers.0"


def loaded(file, folder=GOLDEN, **changes):
    return load_resnet(folder / f"resnet{file}.safetensors", **SIZES[file] | changes)


def filled(module, x):
    """Random variables of a linen module by its shapes: kernels that keep the size of what they
    read, scales near 1.
    """
    generator = np.random.default_rng(4)

    def draw(path, leaf):
        positive = jax.tree_util.keystr(path[-1:], simple=True) in ("scale", "var")
        values = (
            generator.uniform(0.5, 1.5, leaf.shape)
            if positive
            else generator.normal(size=leaf.shape)
        )
        return (values * (2 / math.prod(leaf.shape[:3]) if leaf.ndim == 4 else 1) ** 0.5).astype(
            np.float32
        )

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(module.init, jax.random.key(0), x))


def doubled(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def trained(net, variables, x):
    """(logits, {path: new statistic}) of one step in training mode."""
    y, _, statistics = jax.jit(lambda v, x: forward(net, v, x, train=True))(variables, x)
    return y, leaves_by_path({name: {"batch_stats": tree} for name, tree in statistics.items()})


# Norms


class Normed(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x, train=False):
        return normalized(self.kind, x, train=train, name="norm")


def drawn(channels=12, offset=0.0):
    generator = np.random.default_rng(0)
    spread = 1.0 if offset else 0.01  # whose square is of the order of epsilon
    x = offset + spread * generator.normal(size=(3, 4, 5, channels)) * generator.uniform(
        0.5, 2, channels
    )
    scale, bias, mean = generator.normal(size=(3, channels))
    var = generator.uniform(0.5, 2, channels)
    return x.astype(np.float32), *(a.astype(np.float32) for a in (scale, bias, mean, var))


def centred(x, axes):
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("offset", [0.0, 3e3])  # at 3e3, E[x^2] - E[x]^2 is rounding alone
@pytest.mark.parametrize(
    "kind, channels", [("batch", 12), ("layer", 12), ("group", 12), ("group", 66)]
)
def test_norms_are_their_formulas(kind, channels, offset):
    x, scale, bias, mean, var = drawn(channels, offset)
    variables = {"params": {"norm": {"scale": scale, "bias": bias}}}
    if kind == "batch":
        variables["batch_stats"] = {"norm": {"mean": mean, "var": var}}
    y, _ = Normed(kind).apply(variables, x, train=True, mutable=["batch_stats"])
    groups = {12: 12, 66: 22}[channels]
    wanted = {
        "batch": lambda: centred(x, (0, 1, 2)),
        "layer": lambda: centred(x, (3,)),
        "group": lambda: centred(x.reshape(3, 4, 5, groups, -1), (1, 2, 4)).reshape(x.shape),
    }[kind]() * scale + bias
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 if offset == 0 else 5e-3)
    fresh = Normed(kind).init(jax.random.key(0), x)
    assert jax.tree.structure(fresh) == jax.tree.structure(variables)
    assert (
        fresh["params"]["norm"]["scale"].min() == 1 and np.ptp(fresh["params"]["norm"]["bias"]) == 0
    )
    held = Normed(kind).apply(variables, x)
    if kind == "batch":
        wanted = (x.astype(np.float64) - mean) / np.sqrt(
            var.astype(np.float64) + 1e-5
        ) * scale + bias
    np.testing.assert_allclose(held, wanted, rtol=2e-6, atol=1e-5 if offset == 0 else 5e-3)


def test_no_norm_has_no_variables_and_changes_nothing():
    x = drawn()[0]
    assert not Normed("none").init(jax.random.key(0), x)
    np.testing.assert_array_equal(Normed("none").apply({}, x, train=True), x)


@pytest.mark.parametrize("count", [2, 60])
def test_running_statistics_move_by_a_tenth_to_the_mean_and_the_unbiased_variance(count):
    x, scale, bias, mean, var = drawn()
    x = 100 * x.reshape(60, 12)[:count]
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }
    y, changed = BatchNorm(use_running_average=False).apply(variables, x, mutable=["batch_stats"])
    ours, x64 = changed["batch_stats"], x.astype(np.float64)
    np.testing.assert_allclose(ours["mean"], 0.9 * mean + 0.1 * x64.mean(0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours["var"], 0.9 * var + 0.1 * x64.var(0, ddof=1), rtol=1e-6)
    flax = nn.BatchNorm(use_running_average=False, momentum=0.9, use_fast_variance=False)
    theirs = flax.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, theirs[0], rtol=0, atol=1e-5)
    biased = theirs[1]["batch_stats"]["var"] - 0.9 * var
    np.testing.assert_allclose((ours["var"] - 0.9 * var) / biased, count / (count - 1), rtol=1e-4)


def test_an_interceptor_meets_every_batch_norm_once_and_has_the_last_word():
    net, variables, met = resnet(**SIZES[18]), loaded(18), []

    def intercept(next_fun, args, kwargs, context):
        if not isinstance(context.module, nn.BatchNorm):
            return next_fun(*args, **kwargs)
        met.append((*context.module.path, args[0].shape[-1]))
        y = next_fun(*args, **kwargs)
        context.module.put_variable("batch_stats", "var", jnp.full(args[0].shape[-1], 7.0))
        return y

    with nn.intercept_methods(intercept):
        _, _, statistics = jax.jit(lambda v, x: forward(net, v, x, train=True, stop="block_3"))(
            variables, OUTPUTS["x"]
        )
    assert met == [
        ("norm", 3),
        ("norm_1", 3),
        ("norm_2", 3),
        ("norm_1", 3),
        ("norm_2", 3),
        ("norm_1", 6),
        ("norm_2", 6),
        ("shortcut_norm", 6),
    ]
    assert all((tree["var"] == 7).all() for stage in statistics.values() for tree in stage.values())


def test_a_batch_of_one_value_per_channel_cannot_train():
    x = np.ones((1, 1, 1, 4), np.float32)
    variables = Normed("batch").init(jax.random.key(0), x, train=True)
    Normed("batch").apply(variables, x)
    line = refusal(Normed("batch").apply, variables, x, train=True, mutable=["batch_stats"])
    assert "needs 2 values per channel, given 1 in (1, 1, 1, 4)" in line


def test_groups_of_one_value_are_refused():
    line = refusal(Normed("group").init, jax.random.key(0), np.ones((5, 8), np.float32))
    assert (
        "group norm of (5, 8) has 8 groups of one value; take layer norm or more channels" in line
    )
    Normed("group").init(jax.random.key(0), np.ones((5, 34), np.float32))  # 17 groups of two


@pytest.mark.parametrize(
    "channels, groups",
    [(1, 1), (12, 12), (32, 32), (37, 1), (48, 24), (64, 32), (66, 22), (2048, 32)],
)
def test_groups_are_32_or_the_largest_divisor_below(channels, groups):
    assert group_count(channels) == groups


# ResNets against transformers


@pytest.mark.parametrize("depth", SIZES)
def test_every_group_of_blocks_and_the_logits_are_those_of_transformers(depth):
    net = resnet(**SIZES[depth])
    y, stages, _ = jax.jit(lambda v, x: forward(net, v, x, capture=net.names))(
        loaded(depth), OUTPUTS["x"]
    )
    wanted = {name: OUTPUTS[f"{depth}_hidden_{i}"] for i, name in enumerate(ENDS[depth])}
    for name, hidden in wanted.items():
        assert np.std(hidden, 0).mean() > 0.1
        np.testing.assert_allclose(stages[name], hidden, rtol=0, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(
        stages["pool"], wanted[ENDS[depth][-1]].mean((1, 2)), rtol=0, atol=2e-5
    )
    assert y.dtype == jnp.float32 and np.std(OUTPUTS[f"{depth}_evaluate"], 0).mean() > 0.1
    np.testing.assert_allclose(y, OUTPUTS[f"{depth}_evaluate"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("depth", SIZES)
def test_a_training_step_gives_the_logits_and_statistics_of_transformers(depth):
    net, places = resnet(**SIZES[depth]), tensor_places(depth)
    wanted = {
        places[name.removeprefix(f"{depth}/")].path: value
        for name, value in OUTPUTS.items()
        if name.startswith(f"{depth}/")
    }
    # in float32 PyTorch's own logits are 1.3e-4 from its float64 ones at depth 50
    with jax.enable_x64(True):
        runs = {1e-9: trained(net, doubled(loaded(depth)), OUTPUTS["x"].astype(np.float64))}
    if depth == 18:
        runs[1e-4] = trained(net, loaded(depth), OUTPUTS["x"])
    for (tolerance, (y, statistics)), dtype in zip(runs.items(), (np.float64, np.float32)):
        assert set(wanted) == set(statistics) and y.dtype == dtype
        np.testing.assert_allclose(y, OUTPUTS[f"{depth}_train"], rtol=0, atol=tolerance)
        for path, value in wanted.items():
            np.testing.assert_allclose(
                statistics[path], value, rtol=0, atol=tolerance, err_msg=path
            )


def test_without_skips_it_is_the_plain_network_and_has_no_skip_parameters():
    net, variables = resnet(**SIZES[50], skip=False), loaded(50)
    fresh = jax.eval_shape(lambda key: init(net, key, OUTPUTS["x"]), jax.random.key(0))
    kept = {path for path in leaves_by_path(variables) if "shortcut" not in path}
    assert (
        set(leaves_by_path(fresh)) == kept and len(leaves_by_path(variables)) - len(kept) == 5 * 4
    )
    with jax.enable_x64(True):
        y, _ = trained(net, doubled(variables), OUTPUTS["x"].astype(np.float64))
    np.testing.assert_allclose(y, OUTPUTS["50_plain"], rtol=0, atol=1e-8)
    assert np.abs(OUTPUTS["50_plain"] - OUTPUTS["50_train"]).max() > 0.1


@pytest.mark.parametrize(
    "depth, parameters", [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)]
)
def test_at_the_paper_s_size_names_shapes_and_counts_are_those_of_transformers(depth, parameters):
    with np.load(GOLDEN / "resnet_tensors.npz") as archive:
        listed = json.loads(str(archive[str(depth)]))
    tensors = {
        name: shape
        for name, (shape, _) in listed.items()
        if not name.endswith("num_batches_tracked")
    }
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    fresh = jax.eval_shape(
        lambda key: init(resnet(depth=depth, classes=1000), key, image), jax.random.key(0)
    )
    leaves, places = leaves_by_path(fresh), tensor_places(depth)
    assert set(places) == set(tensors) and {place.path for place in places.values()} == set(leaves)
    for name, place in places.items():
        shape = [tensors[name][i] for i in place.axes] if place.axes else tensors[name]
        assert list(leaves[place.path].shape) == shape, name
    assert (
        parameter_count({name: tree.get("params", {}) for name, tree in fresh.items()})
        == parameters
    )


@pytest.mark.parametrize(
    "options, parameters",
    [
        # 25,557,032 less 4 downsample branches of 2,776,576
        ({"depth": 50, "classes": 1000, "skip": False}, 22_780_456),
        ({"depth": 18, "classes": 10, "stem": "cifar"}, 11_173_962),
        ({"depth": 18, "classes": 10, "stem": "cifar", "norm": "layer"}, 11_173_962),
        # 2 for each of 4,800 channels
        ({"depth": 18, "classes": 10, "stem": "cifar", "norm": "none"}, 11_173_962 - 9_600),
    ],
)
def test_parameters_of_the_other_forms(options, parameters):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    fresh = jax.eval_shape(lambda key: init(resnet(**options), key, image), jax.random.key(0))
    assert (
        parameter_count({name: tree.get("params", {}) for name, tree in fresh.items()})
        == parameters
    )
    assert any("batch_stats" in tree for tree in fresh.values()) == ("norm" not in options)


# Shapes and parts


def test_the_seams_have_the_shapes_of_table_1():
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    shapes = {
        name: seam.shape[1:] for name, seam in seams(resnet(depth=18, classes=1000), image).items()
    }
    assert shapes == {
        "stem": (56, 56, 64),
        "block_1": (56, 56, 64),
        "block_2": (56, 56, 64),
        "block_3": (28, 28, 128),
        "block_4": (28, 28, 128),
        "block_5": (14, 14, 256),
        "block_6": (14, 14, 256),
        "block_7": (7, 7, 512),
        "block_8": (7, 7, 512),
        "pool": (512,),
        "head": (1000,),
    }
    small = seams(
        resnet(depth=18, classes=10, stem="cifar"),
        jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),
    )
    assert [small[name].shape for name in ("stem", "block_3", "block_8", "pool", "head")] == [
        (2, 32, 32, 64),
        (2, 16, 16, 128),
        (2, 4, 4, 512),
        (2, 512),
        (2, 10),
    ]
    assert all(seam.dtype == jnp.float32 for seam in small.values())


def test_the_cifar_stem_is_a_3x3_convolution_with_a_rim_of_zeros():
    x = np.random.default_rng(0).normal(size=(1, 4, 3, 2)).astype(np.float32)
    stem = Stem(3, "cifar", "none")
    variables = filled(stem, x)
    kernel, rimmed = (
        np.float64(variables["params"]["conv"]["kernel"]),
        np.pad(np.float64(x[0]), ((1, 1), (1, 1), (0, 0))),
    )
    wanted = np.zeros((4, 3, 3))
    for i, j, d, a, b, c in np.ndindex(4, 3, 3, 3, 3, 2):
        wanted[i, j, d] += rimmed[i + a, j + b, c] * kernel[a, b, c, d]
    np.testing.assert_allclose(
        stem.apply(variables, x)[0], np.maximum(wanted, 0), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "module, stride",
    [
        (Stem(4, "imagenet", "batch"), 4),
        (Block((Layer(3, 2, 6), Layer(3, 1, 6)), "batch"), 2),
        (Block((Layer(1, 1, 2), Layer(3, 2, 2), Layer(1, 1, 8)), "batch"), 2),
    ],
)
def test_a_shift_by_the_stride_shifts_the_output_by_one(module, stride):
    x = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    variables, run = filled(module, x), jax.jit(module.apply)
    y, moved = run(variables, x), run(variables, np.roll(x, (stride, 2 * stride), (1, 2)))
    np.testing.assert_allclose(moved[:, 3:-2, 4:-2], y[:, 2:-3, 2:-4], rtol=0, atol=1e-5)
    assert np.abs(moved[:, 3:-2, 4:-2] - y[:, 3:-2, 4:-2]).max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_lets_an_example_see_the_others(norm):
    x = np.random.default_rng(2).normal(size=(3, 8, 8, 4)).astype(np.float32)
    for module in (
        stage.module
        for stage in resnet(depth=18, classes=2, width=4, stem="cifar", norm=norm).stages[:2]
    ):
        variables = filled(module, x)
        run = jax.jit(
            lambda x, m=module, v=variables: m.apply(v, x, train=True, mutable=["batch_stats"])[0]
        )
        y, other = run(x), run(np.concatenate([x[:1], 1 - x[1:]]))
        assert np.abs(y[1:] - other[1:]).max() > 1e-2 and ("batch_stats" in variables) == (
            norm == "batch"
        )
        assert (np.abs(y[0] - other[0]).max() > 1e-3) == (norm == "batch")


def test_kernels_start_as_he_s_normal_of_the_outputs():
    x = np.zeros((1, 8, 8, 24), np.float32)
    for module, count in (
        (Stem(80, "imagenet", "batch"), 1),
        (Block((Layer(3, 2, 64), Layer(1, 1, 200)), "batch"), 3),
    ):
        leaves = leaves_by_path(jax.jit(module.init)(jax.random.key(0), x))
        kernels = {
            path: np.asarray(leaf) for path, leaf in leaves.items() if path.endswith("kernel")
        }
        assert len(kernels) == count
        for path, kernel in kernels.items():
            scaled = (
                kernel.ravel() * (kernel.shape[0] * kernel.shape[1] * kernel.shape[3] / 2) ** 0.5
            )
            assert (
                abs(scaled.std() - 1) < 4 / (2 * scaled.size) ** 0.5
                and abs(scaled.mean()) < 4 / scaled.size**0.5
            ), path
            # a normal cut at two deviations ends at 2.3 of its own
            assert 2.5 < np.abs(scaled).max() < 6
        assert all((leaf == 1).all() for path, leaf in leaves.items() if path.endswith("scale"))


@pytest.mark.parametrize("depth, last", [(18, "norm_2"), (50, "norm_3")])
def test_zero_last_starts_each_block_as_its_skip(depth, last):
    zeroed, plain = (
        resnet(depth=depth, classes=3, width=2, zero_last=switch).stages[1:-2]
        for switch in (True, False)
    )
    assert {stage.module.scale for stage in zeroed} == {0.0} and {
        stage.module.scale for stage in plain
    } == {1.0}
    x = np.random.default_rng(3).uniform(size=(2, 8, 8, {18: 2, 50: 8}[depth])).astype(np.float32)
    block = zeroed[1].module
    fresh = jax.jit(
        lambda key: {name: tree.get("scale") for name, tree in block.init(key, x)["params"].items()}
    )
    start = {name: scale for name, scale in fresh(jax.random.key(0)).items() if scale is not None}
    assert {name for name, scale in start.items() if not scale.any()} == {last} and len(
        start
    ) == len(block.layers)
    variables = filled(block, x)
    variables["params"][last] = {"scale": start[last], "bias": 0 * start[last]}
    np.testing.assert_array_equal(jax.jit(block.apply)(variables, x), x)


# Errors


def test_networks_that_cannot_be_are_refused():
    assert "no ResNet of depth 101; take one of 18, 34, 50" in refusal(resnet, depth=101, classes=2)
    assert "no ResNet of depth 20;" in refusal(tensor_places, 20)
    assert "no stem 'tiny'; take one of imagenet, cifar" in refusal(
        resnet, depth=18, classes=2, stem="tiny"
    )
    assert "no norm 'other'; take one of batch, layer, group, none" in refusal(
        resnet, depth=18, classes=2, norm="other"
    )
    assert "width 0 with 2 classes cannot be" in refusal(resnet, depth=18, classes=2, width=0)
    assert "width 4 with 0 classes cannot be" in refusal(resnet, depth=18, classes=0, width=4)
    for wrong in ({"skip": False}, {"norm": "none"}):
        assert "zero_last needs a norm and a skip" in refusal(
            resnet, depth=18, classes=2, zero_last=True, **wrong
        )
    assert "reads images (B, height, width, channels), given an array (4, 9)" in refusal(
        init, resnet(depth=18, classes=2, width=2), jax.random.key(0), np.zeros((4, 9), np.float32)
    )


def test_each_fault_of_a_file_is_named(tmp_path):
    tensors, name = (
        read_tensors(GOLDEN / "resnet18.safetensors"),
        f"{FIRST}.shortcut.convolution.weight",
    )
    kernel, rest = tensors[name], {key: array for key, array in tensors.items() if key != name}

    def line(arrays):
        plain = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        safetensors.numpy.save_file(plain, tmp_path / "resnet18.safetensors")
        return refusal(loaded, 18, tmp_path)

    assert f"the expected ResNet-18: missing {name}; give the file" in line(rest)
    renamed = line(rest | {name.replace("shortcut", "downsample"): kernel})
    assert (
        f"missing {name}; extra {FIRST}.downsample.convolution.weight (did you mean {name}?);"
        in renamed
    )
    assert f"{name} has another shape: given (3, 6, 1, 1), expected (6, 3, 1, 1);" in line(
        rest | {name: kernel.transpose(1, 0, 2, 3)}
    )
    assert f"{name} has another dtype: given float64, expected float32;" in line(
        rest | {name: kernel.astype(np.float64)}
    )
    assert ": extra fc.weight; give" in line(tensors | {"fc.weight": kernel})
    assert "absent/resnet18.safetensors" in refusal(loaded, 18, tmp_path / "absent")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"classes": 6}, "classifier.1.weight has another shape: given (5, 24), expected (6, 24)"),
        ({"width": 4}, "given (3, 3, 7, 7), expected (4, 3, 7, 7)"),
        ({"stem": "cifar"}, "given (3, 3, 7, 7), expected (3, 3, 3, 3)"),
        ({"channels": 1}, "given (3, 3, 7, 7), expected (3, 1, 7, 7)"),
        ({"depth": 34}, "missing resnet.encoder.stages.0.layers.2.layer.0.convolution.weight"),
        ({"depth": 50}, "missing resnet.encoder.stages.0.layers.0.layer.2.convolution.weight"),
    ],
)
def test_a_file_of_another_network_is_refused(changes, said):
    assert said in refusal(loaded, 18, **changes)


def test_loaded_tensors_lie_where_they_belong():
    tensors, leaves = read_tensors(GOLDEN / "resnet50.safetensors"), leaves_by_path(loaded(50))
    for given, ours in (
        (f"{FIRST}.layer.1.convolution.weight", "block_4/params/conv_2/kernel"),
        ("resnet.embedder.embedder.convolution.weight", "stem/params/conv/kernel"),
    ):
        for o, i, a, b in np.ndindex(*tensors[given].shape[:2], 2, 3):
            assert leaves[ours][a, b, i, o] == tensors[given][o, i, a, b]
    variance = tensors[f"{FIRST}.shortcut.normalization.running_var"]
    np.testing.assert_array_equal(leaves["block_4/batch_stats/shortcut_norm/var"], variance)
    np.testing.assert_array_equal(leaves["head/params/kernel"], tensors["classifier.1.weight"].T)
    assert any(name.endswith("num_batches_tracked") for name in tensors)
