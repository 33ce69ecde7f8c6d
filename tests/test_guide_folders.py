"""Guides of classifications from folders as save_pretrained leaves them: sizes, input scales, and
what contradicts them.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import changed

from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.bert import MINILM, bert
from theseus_jax.nets.stage import forward, variable_shapes
from theseus_jax.nets.weights.bert import load_bert, tensor_places
from theseus_jax.nets.weights.resnet import load_resnet
from theseus_jax.nets.weights.vit import load_deit, load_vit
from theseus_jax.tasks import guide_folders, labelled, pretrained
from theseus_jax.trees import bit_equal, leaves_by_path

GOLDEN = pathlib.Path(__file__).parent / "golden"
RESNET = {
    "model_type": "resnet",
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "embedding_size": 3,
    "hidden_sizes": [3, 6, 12, 24],
    "hidden_act": "relu",
    "num_channels": 3,
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
VIT = {
    "model_type": "vit",
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "num_channels": 3,
}
FILES = {"resnet18": RESNET, "vit": VIT, "deit_distilled": {**VIT, "model_type": "deit"}}
SIZES = {"image": 12, "patch": 4, "width": 12, "depth": 2, "heads": 3, "hidden": 20}
LOADED = {
    "resnet18": lambda path: load_resnet(path, depth=18, classes=5, width=3),
    "vit": lambda path: load_vit(path, classes=5, **SIZES),
    "deit_distilled": lambda path: load_deit(path, classes=5, **SIZES),
}
SCALE = {"image_mean": [0.5, 0.25, 0.4], "image_std": [0.2, 0.25, 0.3], "rescale_factor": 1 / 255}


def folder_of(folder, name, preprocessing=None, **changes):
    folder.mkdir()
    shutil.copy(GOLDEN / f"{name}.safetensors", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**FILES[name], **changes}))
    if preprocessing is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def config_of(folder, **changes):
    given = {"guide.origin": "file", "guide.weights": str(folder), "data.source": "folder"}
    given |= {"data.size": 12, "data.classes": 5, "data.channels": 3}
    return changed(base("classification"), {**given, **changes})


@pytest.mark.parametrize("name", FILES)
def test_a_guide_is_what_its_folder_says(tmp_path, name):
    config = config_of(folder_of(tmp_path / "m", name))
    task = labelled.Task(config)
    net = task.guide()
    variables = pretrained.from_file(config, net, task.reading, 5)
    wanted = LOADED[name](GOLDEN / f"{name}.safetensors")
    given = {stage: jax.tree.map(lambda leaf: leaf[0], variables[stage]) for stage in wanted}
    assert bit_equal(given, wanted)
    images = jax.random.randint(jax.random.key(0), (2, 12, 12, 3), 0, 256).astype(jnp.uint8)
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    assert forward(net, one, images)[0].shape == (2, 5)


@pytest.mark.parametrize(
    "name, folder, changes, word",
    [
        ("resnet18", {}, {"guide.width": 8}, "config.guide.width is 8, and .*config.json says 3"),
        ("resnet18", {}, {"guide.arch": "resnet50"}, "guide.arch is 'resnet50', and .* 'resnet18'"),
        ("vit", {}, {"guide.patch": 2}, "config.guide.patch is 2, and .* says 4; leave"),
        ("vit", {}, {"guide.read": "class", "guide.heads": 4}, "config.guide.heads is 4"),
        ("resnet18", {"depths": [3, 3, 3, 3]}, {}, "has depths = .3, 3, 3, 3. of layer_type"),
        ("resnet18", {"hidden_act": "gelu"}, {}, "hidden_act = 'gelu', and this ResNet-18"),
        ("resnet18", {"model_type": "convnext"}, {}, "model_type = 'convnext', and classif"),
        ("vit", {"layer_norm_eps": 1e-6}, {}, "layer_norm_eps = 1e-06, and this ViT has 1e-12"),
        ("vit", {"patch_size": None}, {}, "has no patch_size, which a ViT needs"),
    ],
)
def test_what_contradicts_a_folder_is_refused(tmp_path, name, folder, changes, word):
    config = config_of(folder_of(tmp_path / "m", name, **folder), **changes)
    with pytest.raises(UserError, match=word):
        labelled.Task(config).pair()


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_images_of_other_channels_than_the_guides_are_refused(tmp_path, name):
    config = config_of(folder_of(tmp_path / "m", name), **{"data.channels": 1})
    task = labelled.Task(config)
    with pytest.raises(UserError, match="channels"):
        pretrained.from_file(config, task.guide(), task.reading, 5)


def test_images_are_scaled_as_the_guide_was_trained(tmp_path):
    plain = folder_of(tmp_path / "plain", "vit")
    assert labelled.Task(config_of(plain)).reading.mean == (127.5,) * 3
    folder = folder_of(tmp_path / "m", "vit", SCALE)
    reading = labelled.Task(config_of(folder)).reading
    np.testing.assert_allclose(reading.mean, [127.5, 63.75, 102.0])
    np.testing.assert_allclose(reading.deviation, [51.0, 63.75, 76.5])
    same = {"data.mean": (127.5, 63.75, 102.0)}
    assert labelled.Task(config_of(folder, **same)).reading == reading
    with pytest.raises(UserError, match="config.data.mean is .120.0,., and .*says .127.500, 63.7"):
        labelled.Task(config_of(folder, **{"data.mean": (120.0,)}))
    raw = folder_of(tmp_path / "raw", "vit", {**SCALE, "do_rescale": False})
    np.testing.assert_allclose(labelled.Task(config_of(raw)).reading.mean, [0.5, 0.25, 0.4])
    none = folder_of(tmp_path / "none", "vit", {**SCALE, "do_normalize": False})
    reading = labelled.Task(config_of(none)).reading  # levels times 1 / 255, and nothing taken off
    assert reading.mean == (0.0,) * 3 and reading.deviation == pytest.approx((255.0,) * 3)


def test_a_settled_config_needs_no_folder(tmp_path):
    folder = folder_of(tmp_path / "m", "deit_distilled", SCALE)
    task = labelled.Task(config_of(folder))
    settled = task.settled()
    shutil.rmtree(folder)
    again = labelled.Task(settled)
    assert again.reading == labelled.Task(settled).reading and again.guide().names
    assert (settled.guide.arch, settled.guide.read, settled.guide.size) == ("vit", "distilled", 12)
    plain = labelled.Task(changed(base("classification"), {"data.source": "digits"}))
    assert plain.settled() is plain.config


BERT = {"vocab_size": 30522, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
BERT |= {"model_type": "bert", "intermediate_size": 20, "max_position_embeddings": 512}


def bert_folder(folder, prefix="", **changes):
    from safetensors.numpy import save_file

    sizes = MINILM | {"width": 12, "depth": 1, "heads": 3, "hidden": 20}
    ids = Masked(*[jax.ShapeDtypeStruct((1, 1), jnp.int32)] * 2)
    leaves, rng = leaves_by_path(variable_shapes(bert(**sizes), ids)), np.random.default_rng(0)
    arrays = {}
    for name, place in tensor_places(1).items():
        shape = leaves[place.path].shape
        array = rng.normal(size=shape[::-1] if place.axes else shape).astype(np.float32)
        arrays[prefix + name] = array
    arrays["classifier.weight"] = np.zeros((2, 12), np.float32)
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**BERT, **changes}))
    return folder


def test_a_bert_in_a_folder_gets_a_head(tmp_path):
    plain = bert_folder(tmp_path / "plain")
    sizes = {"width": 12, "depth": 1, "heads": 3, "hidden": 20}
    wanted = load_bert(plain, **sizes)
    assert bit_equal(load_bert(bert_folder(tmp_path / "inside", "bert."), **sizes), wanted)
    config = config_of(plain, **{"data.source": "bbc", "data.tokens": 8})
    assert guide_folders.sizes(config) == {"arch": "minilm", **sizes}
    task = labelled.Task(config)
    net, loaded = task.guide(), pretrained.backbone(config)
    assert bit_equal(loaded, wanted) and net.names == ("embed", "block_1", "features", "head")
    ids = jax.random.randint(jax.random.key(0), (40, 8), 0, 30522)
    x, y = Masked(ids, jnp.ones_like(ids)), np.arange(40) % 5
    train = {"inputs": x, "labels": jnp.asarray(y)}
    variables = pretrained.headed(loaded, net, train, x, y, 5)
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    logits = forward(net, one, x)[0]
    assert logits.shape == (40, 5) and float((logits.argmax(1) == y).mean()) > 0.5


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"vocab_size": 28996}, "vocab_size = 28996, and this BERT has 30522"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"model_type": "roberta"}, "model_type = 'roberta', and classifications read"),
    ],
)
def test_another_kind_of_bert_is_refused_by_name(tmp_path, changes, word):
    config = config_of(bert_folder(tmp_path / "m", **changes), **{"data.source": "bbc"})
    with pytest.raises(UserError, match=word):
        labelled.Task(config).guide()
