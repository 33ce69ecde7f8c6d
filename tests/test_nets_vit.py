"""ViT and DeiT against transformers (tests/golden/make_vit.py renews the files), their sizes and
strict loading.
"""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax.errors import InvalidRngError
from mistakes import refusal

from theseus_jax.nets.models.vit import DEIT_S16, VIT_B16, Heads, merged, vit
from theseus_jax.nets.stage import Stage, forward, init, replace
from theseus_jax.nets.weights.vit import load_deit, load_vit
from theseus_jax.trees import bit_equal, leaves_by_path, parameter_count

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZES = {"classes": 5, "image": 12, "patch": 4, "width": 12, "depth": 2, "heads": 3, "hidden": 20}
LOAD = {"vit": load_vit, "deit": load_deit, "deit_distilled": load_deit}
READ = {"vit": "class", "deit": "distilled", "deit_distilled": "distilled"}
NAMES = json.loads((GOLDEN / "vit_names.json").read_text())
STAGES = ("stem", "block_1", "block_2", "pool", "head")


@functools.lru_cache(maxsize=None)
def outputs():
    return dict(np.load(GOLDEN / "vit_outputs.npz"))


@functools.lru_cache(maxsize=None)
def loaded(name):
    return vit(**SIZES, read=READ[name]), LOAD[name](GOLDEN / f"{name}.safetensors", **SIZES)


def tensors(name):
    return safetensors.numpy.load_file(GOLDEN / f"{name}.safetensors")


def written(folder, arrays):
    path = folder / "w.safetensors"
    safetensors.numpy.save_file(
        {key: np.ascontiguousarray(array) for key, array in arrays.items()}, path
    )
    return path


def shapes(net, image):
    x = jax.ShapeDtypeStruct((1, image, image, 3), jnp.float32)
    return jax.eval_shape(lambda key: init(net, key, x), jax.random.key(0))


def fresh(net):
    """Initial variables for an image of 12 x 12, drawn in one program."""
    return jax.jit(lambda key: init(net, key, jnp.zeros((1, 12, 12, 3))))(jax.random.key(0))


# Against transformers


@pytest.mark.parametrize("train", [False, True], ids=["evaluate", "train"])
@pytest.mark.parametrize("name", LOAD)
def test_every_hidden_state_and_the_logits_are_those_of_transformers(name, train):
    (net, variables), golden = loaded(name), outputs()
    logits, stages, _ = jax.jit(lambda v, x: forward(net, v, x, train=train, capture=net.names))(
        variables, golden["x"]
    )
    assert net.names == STAGES and logits.dtype == jnp.float32
    for i, stage in enumerate(STAGES[:3]):
        wanted = golden[f"{name}_hidden_{i}"]
        assert np.std(wanted) > 0.5
        np.testing.assert_allclose(stages[stage], wanted, rtol=0, atol=1e-4, err_msg=stage)
    last, tokens = golden[f"{name}_last"], 1 if name == "vit" else 2
    np.testing.assert_allclose(stages["pool"], last[:, :tokens].reshape(3, -1), rtol=0, atol=1e-4)
    wanted = golden[f"{name}_{'train' if train else 'evaluate'}"]
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LOAD)
def test_the_gradient_by_the_image_is_that_of_transformers(name):
    (net, variables), golden = loaded(name), outputs()

    def loss(x):
        logits = forward(net, variables, x, train=True)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, golden["labels"]).mean()

    wanted = golden[f"{name}_gradient"]
    assert np.std(wanted) > 1e-3
    np.testing.assert_allclose(
        jax.jit(jax.grad(loss))(golden["x"]), wanted, rtol=0, atol=min(1e-4, np.std(wanted) / 100)
    )


def test_the_merged_head_is_the_mean_of_the_two_published_heads():
    (net, variables), golden = loaded("deit_distilled"), outputs()
    features = golden["deit_distilled_last"][:, :2]
    given = tensors("deit_distilled")
    heads = {
        ours: {"kernel": given[f"{theirs}.weight"].T, "bias": given[f"{theirs}.bias"]}
        for ours, theirs in (
            ("class", "cls_classifier"),
            ("distillation", "distillation_classifier"),
        )
    }
    singles = {
        name: features[:, i] @ heads[name]["kernel"] + heads[name]["bias"]
        for i, name in enumerate(heads)
    }
    for name, logits in singles.items():
        np.testing.assert_allclose(logits, golden[f"deit_distilled_{name}"], rtol=0, atol=1e-5)
    assert bit_equal(variables["head"]["params"], merged(heads))
    both = replace(net, "head", [Stage("head", Heads(5, ("class", "distillation")))])
    wanted = forward(both, {"head": {"params": heads}}, features.reshape(3, 24), start="head")[0]
    given = forward(net, variables, features.reshape(3, 24), start="head")[0]
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6)


def test_one_head_reads_the_class_token_and_leaves_the_distillation_token_alone():
    (_, variables), given = loaded("deit"), tensors("deit")
    head = variables["head"]["params"]
    np.testing.assert_array_equal(
        head["kernel"], np.concatenate([given["classifier.weight"].T, np.zeros((12, 5))])
    )
    np.testing.assert_array_equal(head["bias"], given["classifier.bias"])


# Files


@pytest.mark.parametrize("name", LOAD)
def test_both_namings_give_the_same_variables(name, tmp_path):
    given, (net, wanted) = tensors(name), loaded(name)
    model = name.split("_")[0]
    assert set(NAMES[name]) == set(given)
    assert f"{model}.encoder.layer.1.attention.attention.query.weight" in given
    renamed = {NAMES[name][key]: array for key, array in given.items()}
    assert (
        f"{model}.layers.1.attention.q_proj.weight" in renamed
        and len(set(renamed) & set(given)) < len(given) - 30
    )
    assert bit_equal(LOAD[name](written(tmp_path, renamed), **SIZES), wanted)
    assert jax.tree.structure(wanted) == jax.tree.structure(shapes(net, 12))
    pooler = {f"{model}.pooler.dense.weight": np.zeros((12, 12), np.float32)}
    assert bit_equal(LOAD[name](written(tmp_path, given | pooler), **SIZES), wanted)


@pytest.mark.parametrize("renames", [False, True], ids=["files", "memory"])
def test_each_fault_of_a_tensor_is_named(renames, tmp_path):
    def fault(name, changes, **sizes):
        given = {
            key: array for key, array in (tensors(name) | changes).items() if array is not None
        }
        given = (
            {NAMES[name].get(key, key): array for key, array in given.items()} if renames else given
        )
        return refusal(LOAD[name], written(tmp_path, given), **SIZES | sizes)

    query = "vit.encoder.layer.1.attention.attention.query.weight"
    shown = NAMES["vit"][query] if renames else query
    kernel = tensors("vit")[query]
    assert f"the expected ViT: missing {shown}; give" in fault("vit", {query: None})
    assert f"{shown} has another shape: given (11, 12), expected (12, 12);" in fault(
        "vit", {query: kernel[:-1]}
    )
    assert f"{shown} has another dtype: given float64," in fault(
        "vit", {query: kernel.astype(np.float64)}
    )
    assert ": extra extra.weight; give" in fault("vit", {"extra.weight": kernel})
    head = {"distillation_classifier.weight": None}
    assert "the expected DeiT: missing distillation_classifier.weight;" in fault(
        "deit_distilled", head
    )
    cut = {"cls_classifier.weight": tensors("deit_distilled")["cls_classifier.weight"][:4]}
    assert "cls_classifier.weight has another shape: given (4, 12), expected (5, 12);" in fault(
        "deit_distilled", cut
    )
    assert "deit.embeddings.distillation_token" in fault(
        "deit", {"deit.embeddings.distillation_token": None}
    )
    assert (
        "vit.embeddings.position_embeddings has another shape: given (1, 10, 12), expected (1,"
        " 5, 12)" in fault("vit", {}, image=8)
    )
    assert "; and 12 more; give" in fault("vit", {}, depth=3)  # 16 tensors a block, 4 told


def test_a_file_of_the_other_model_is_refused():
    assert "missing vit.embeddings.cls_token" in refusal(
        load_vit, GOLDEN / "deit.safetensors", **SIZES
    )
    assert "missing deit.embeddings.cls_token" in refusal(
        load_deit, GOLDEN / "vit.safetensors", **SIZES
    )


# Sizes and settings


def test_parameter_counts_are_the_published_ones():
    assert parameter_count(shapes(vit(classes=1000, **VIT_B16), 224)) == 86_567_656
    assert parameter_count(shapes(vit(classes=1000, **DEIT_S16), 224)) == 22_050_664
    distilled = vit(classes=1000, **DEIT_S16, read="distilled")
    assert parameter_count(shapes(distilled, 224)) == 22_436_432 - 1000  # one bias for two
    both = replace(distilled, "head", [Stage("head", Heads(1000, ("class", "distillation")))])
    assert parameter_count(shapes(both, 224)) == 22_436_432


def test_reading_the_mean_has_no_class_token_and_is_the_mean_of_the_normalised_patches():
    net = vit(**SIZES, read="mean")
    variables = jax.tree.map(lambda leaf: leaf + np.float32(0.1), fresh(net))
    assert "class_token" not in variables["stem"]["params"] and variables["stem"]["params"][
        "positions"
    ].shape == (1, 9, 12)
    # small, so that the norm's epsilon counts
    x = np.float64(1e-4 * np.random.default_rng(1).normal(size=(3, 9, 12)))
    y, norm = (
        forward(net, variables, np.float32(x), start="pool", stop="pool")[0],
        variables["pool"]["params"]["norm"],
    )
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(
        y, (normal * norm["scale"] + norm["bias"]).mean(1), rtol=0, atol=1e-5
    )


def test_fresh_tokens_are_drawn_and_kernels_keep_the_scale():
    leaves = leaves_by_path(fresh(vit(**SIZES | {"width": 48, "depth": 1}, read="distilled")))
    for path, leaf in leaves.items():
        if path.endswith("kernel"):
            wanted = 1 / np.prod(leaf.shape[:-1]) ** 0.5
        elif path.endswith(("token", "positions")):
            wanted = 0.02
        else:
            assert np.all(np.asarray(leaf) == (1.0 if path.endswith("scale") else 0.0)), path
            continue
        assert abs(np.std(leaf) / wanted - 1) < 5 / (2 * leaf.size) ** 0.5, path
    assert not bit_equal(
        leaves["stem/params/class_token"], leaves["stem/params/distillation_token"]
    )


def test_dropout_acts_in_training_alone_behind_every_sum_and_in_the_mlp():
    net, (_, variables) = vit(**SIZES, dropout=0.5), loaded("vit")
    x, key, met = outputs()["x"], jax.random.key(0), []
    evaluated = jax.jit(lambda v: forward(net, v, x)[0])(variables)
    np.testing.assert_allclose(evaluated, outputs()["vit_evaluate"], rtol=0, atol=1e-4)

    def listed(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            met.append((context.module.rate, args[0].shape))
        return call(*args, **kwargs)

    with nn.intercept_methods(listed):
        jax.eval_shape(lambda: forward(net, variables, x, train=True, key=key)[0])
    block = [(0.5, (3, 10, 12)), (0.5, (3, 10, 20)), (0.5, (3, 10, 12))]
    assert met == [(0.5, (3, 10, 12)), *block, *block]
    h, all_dropped = jnp.ones((3, 10, 12)), vit(**SIZES, dropout=1.0)
    kept = forward(all_dropped, variables, h, train=True, key=key, start="block_1", stop="block_1")[
        0
    ]
    np.testing.assert_array_equal(kept, h)
    np.testing.assert_array_equal(
        forward(all_dropped, variables, x, train=True, key=key, stop="stem")[0], 0 * h
    )
    with pytest.raises(InvalidRngError):
        jax.eval_shape(lambda: forward(net, variables, x, train=True)[0])


def test_impossible_sizes_and_images_are_refused():
    assert "read 'first' is not one of class, mean, distilled" in refusal(
        vit, **SIZES, read="first"
    )
    assert "an image side of 14 is not a multiple of the patch side 4" in refusal(
        vit, **SIZES | {"image": 14}
    )
    assert "an image side of 0" in refusal(vit, **SIZES | {"image": 0})
    assert "a width of 12 is not a multiple of 5 heads" in refusal(vit, **SIZES | {"heads": 5})
    net, variables = loaded("vit")
    for shape in ((2, 8, 12, 3), (2, 16, 16, 3), (2, 12, 12, 1), (2, 12, 12)):
        assert f"images of shape {shape[1:]} are not the (12, 12, 3)" in refusal(
            forward, net, variables, jnp.zeros(shape)
        )
