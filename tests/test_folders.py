"""Folders as save_pretrained leaves them: logits of transformers (torch 2.13, transformers 4.57.1,
random weights), every container, wrappers of names, settings that are refused, and tokenizers.
"""

import json
import math
import pathlib
import shutil

import jax
import numpy as np
import pytest
from settings import changed

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.data.text import load_corpus
from theseus_jax.data.tokens import folder_tokenizer
from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.style import ACTIVATIONS
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.weights.containers import open_tensors, read_tensors, read_weights
from theseus_jax.nets.weights.gpt2 import gpt2_sizes, load_gpt2, save_gpt2
from theseus_jax.nets.weights.resnet import load_resnet
from theseus_jax.nets.weights.vit import load_deit, load_vit
from theseus_jax.tasks import language_nets
from theseus_jax.trees import bit_equal

ROOT = pathlib.Path(__file__).parent / "golden"
FOLDERS = ROOT / "folders"
LOGITS = np.load(FOLDERS / "logits.npz")
SIZES = {"vocabulary": 257, "width": 32, "depth": 2, "heads": 2, "positions": 32}


def logits(path, **sizes):
    net = gpt2(**sizes)
    return np.asarray(tj.forward(net, load_gpt2(path, **sizes), LOGITS["ids"])[0])[:, -4:]


@pytest.mark.parametrize("name", ["gpt2_bf16", "gpt2_relu"])
def test_a_folder_gives_the_logits_of_torch(name):
    sizes = gpt2_sizes(FOLDERS / name)
    assert {key: sizes[key] for key in SIZES} == SIZES and sizes["epsilon"] == 1e-5
    np.testing.assert_allclose(logits(FOLDERS / name, **sizes), LOGITS[name], rtol=0, atol=1e-5)


def test_a_training_checkpoint_gives_its_state_dict():
    y = logits(FOLDERS / "gpt2_nested.pt", **SIZES)
    np.testing.assert_allclose(y, LOGITS["gpt2"], rtol=0, atol=1e-5)


def written(folder, arrays, name="model.safetensors"):
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / name)


def test_half_precision_is_widened_exactly(tmp_path):
    given = read_tensors(FOLDERS / "gpt2_relu")
    for dtype in (np.float16, "bfloat16"):
        import ml_dtypes

        narrow = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        half = {name: array.astype(narrow) for name, array in given.items()}
        written(tmp_path, half)
        wide = read_weights(tmp_path)
        assert all(array.dtype == np.float32 for array in wide.values())
        for name, array in half.items():
            np.testing.assert_array_equal(wide[name], array.astype(np.float64))
        assert open_tensors(tmp_path)["transformer.wte.weight"].dtype == narrow.name


def test_shards_are_one_model_and_a_lost_one_is_told(tmp_path):
    arrays = read_tensors(FOLDERS / "gpt2_relu")
    names = sorted(arrays)
    parts = {f"model-{i + 1}-of-3.safetensors": names[i::3] for i in range(3)}
    for file, chosen in parts.items():
        written(tmp_path, {name: arrays[name] for name in chosen}, file)
    index = {"weight_map": {name: file for file, chosen in parts.items() for name in chosen}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert bit_equal(read_tensors(path), arrays)
    written(tmp_path, {names[0]: arrays[names[0]]}, "model-1-of-3.safetensors")
    with pytest.raises(UserError, match="model-1-of-3.safetensors lacks .*, which model.safeten"):
        read_tensors(tmp_path)
    (tmp_path / "model-2-of-3.safetensors").unlink()
    with pytest.raises(UserError, match="model-[12]-of-3.safetensors"):
        read_tensors(tmp_path)
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="names ../elsewhere.safetensors, which lies elsewhere"):
        read_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable .json file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    "wrapped", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_what_wraps_every_name_is_taken_off(tmp_path, wrapped):
    arrays = read_tensors(FOLDERS / "gpt2_relu")
    written(tmp_path, {wrapped + name: array for name, array in arrays.items()})
    assert bit_equal(read_tensors(tmp_path), arrays)
    written(
        tmp_path, {(wrapped if i else "") + name: a for i, (name, a) in enumerate(arrays.items())}
    )
    assert sum(name.startswith(wrapped) for name in open_tensors(tmp_path)) == len(arrays) - 1


def settings(folder, source, **changes):
    shutil.copytree(source, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"activation_function": "quick_gelu"}, "activation_function = 'quick_gelu', and this GPT"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False, and this GPT-2 has True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False"),
        ({"model_type": "gpt_neo"}, "model_type = 'gpt_neo', and this GPT-2 has 'gpt2'"),
        ({"quantization_config": {"bits": 4}}, "setting quantization_config = .*, which this"),
        ({"rotary_pct": 0.25}, "the setting rotary_pct = 0.25"),
        ({"n_head": None}, "has no n_head, which a GPT-2 needs"),
    ],
)
def test_a_setting_that_the_network_has_not_is_refused_by_name(tmp_path, changes, word):
    folder = settings(tmp_path / "m", FOLDERS / "gpt2_relu", **changes)
    with pytest.raises(UserError, match=word):
        gpt2_sizes(folder)


def test_a_config_that_names_no_activation_has_gpt2s_own(tmp_path):
    source = FOLDERS / "gpt2_bf16"
    folder = settings(tmp_path / "m", source)
    said = json.loads((folder / "config.json").read_text())
    needed = ("model_type", "vocab_size", "n_embd", "n_layer", "n_head", "n_positions")
    (folder / "config.json").write_text(json.dumps({key: said[key] for key in needed}))
    assert gpt2_sizes(folder) == {**gpt2_sizes(source), "activation": "gelu_new", "epsilon": 1e-5}
    given = {"guide.origin": "file", "guide.weights": str(folder), "data.context": 16}
    config = changed(base(), {**given, "data.tokenizer": "bytes"})
    block = language_nets.target(config).stages[1].module
    assert block.channel_mixer.activation == "gelu_new" and block.norm.epsilon == 1e-5


def test_what_is_off_or_changes_nothing_is_no_hindrance(tmp_path):
    given = {"resid_pdrop": 0.3, "new_thing": None, "other": False, "torch_dtype": "float16"}
    folder = settings(tmp_path / "m", FOLDERS / "gpt2_relu", **given)
    assert gpt2_sizes(folder) == gpt2_sizes(FOLDERS / "gpt2_relu")


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"heads": 4}, "has n_head = 2, and the network was given heads = 4; give heads = 2"),
        ({"activation": "gelu_new"}, "has activation_function = 'relu', and the network was given"),
        ({"epsilon": 1e-6}, "has layer_norm_epsilon = 1e-05"),
        ({"positions": 16}, "has n_positions = 32"),
    ],
)
def test_sizes_that_contradict_the_folder_are_refused(changes, word):
    sizes = {**gpt2_sizes(FOLDERS / "gpt2_relu"), **changes}
    for path in (FOLDERS / "gpt2_relu", FOLDERS / "gpt2_relu" / "model.safetensors"):
        with pytest.raises(UserError, match=word):
            load_gpt2(path, **sizes)


def test_a_config_that_contradicts_its_tensors_is_refused(tmp_path):
    folder = settings(tmp_path / "m", FOLDERS / "gpt2_relu", n_embd=64)
    with pytest.raises(UserError, match="has another shape: given .32,., expected .64,."):
        load_gpt2(folder, **gpt2_sizes(folder))
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no JSON object"):
        gpt2_sizes(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        gpt2_sizes(folder)


def test_a_wider_mlp_and_its_sizes_go_through_a_file(tmp_path):
    sizes = {**SIZES, "hidden": 48}
    net = gpt2(**sizes)
    variables = tj.init(net, jax.random.key(0), np.zeros((1, 3), np.int32))
    save_gpt2(tmp_path / "w.safetensors", variables)
    found = gpt2_sizes(tmp_path / "w.safetensors")
    assert found == {key: value for key, value in sizes.items() if key != "heads"}
    assert bit_equal(load_gpt2(tmp_path / "w.safetensors", **sizes), variables)


def test_activations_are_their_formulas():
    x = np.linspace(-4, 4, 41)
    erf = np.asarray([math.erf(value / 2**0.5) for value in x])
    tanh = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))
    formulas = {
        "gelu": 0.5 * x * (1 + erf),
        "gelu_new": 0.5 * x * (1 + tanh),
        "gelu_pytorch_tanh": 0.5 * x * (1 + tanh),
        "relu": np.maximum(x, 0),
        "silu": x / (1 + np.exp(-x)),
    }
    assert set(formulas) == set(ACTIVATIONS)
    for name, wanted in formulas.items():
        given = ACTIVATIONS[name](x.astype(np.float32))
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6)
    assert np.abs(formulas["gelu"] - formulas["gelu_new"]).max() > 1e-4


IMAGES = {
    "resnet": (
        lambda path: load_resnet(path, depth=18, classes=5, width=4, stem="imagenet"),
        {
            "model_type": "resnet",
            "hidden_act": "relu",
            "layer_type": "basic",
            "depths": [2, 2, 2, 2],
            "hidden_sizes": [4, 8, 16, 32],
            "embedding_size": 4,
            "num_channels": 3,
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
            "stage_names": ["stem"],
        },
        [
            ("hidden_act", "gelu"),
            ("layer_type", "bottleneck"),
            ("depths", [3, 4, 6, 3]),
            ("downsample_in_bottleneck", True),
            ("downsample_in_first_stage", True),
            ("num_channels", 1),
            ("hidden_sizes", [64, 128, 256, 512]),
            ("model_type", "convnext"),
        ],
    ),
    "vit": (
        lambda path: load_vit(
            path, classes=5, image=8, patch=4, width=12, depth=2, heads=3, hidden=20
        ),
        {
            "model_type": "vit",
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "qkv_bias": True,
            "image_size": 8,
            "patch_size": 4,
            "hidden_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 20,
            "num_channels": 3,
        },
        [
            ("hidden_act", "quick_gelu"),
            ("qkv_bias", False),
            ("layer_norm_eps", 1e-6),
            ("num_attention_heads", 4),
            ("patch_size", 2),
            ("use_mask_token", True),
        ],
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_settings_of_image_networks_are_looked_at(tmp_path, name):
    load, right, wrong = IMAGES[name]
    (tmp_path / "config.json").write_text(json.dumps(right))
    with pytest.raises(UserError, match="holds no weights"):
        load(tmp_path)  # the settings are right, and then there is nothing to read
    for key, value in wrong:
        (tmp_path / "config.json").write_text(json.dumps({**right, key: value}))
        with pytest.raises(UserError, match=f"config.json has (the setting )?{key} = "):
            load(tmp_path)


def test_a_deit_is_no_vit_with_two_tokens(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(IMAGES["vit"][1]))
    with pytest.raises(UserError, match="model_type = 'vit', and this DeiT has 'deit'"):
        load_deit(tmp_path, classes=5, image=8, patch=4, width=12, depth=2, heads=3, hidden=20)


def test_torchvisions_names_are_the_same_network(tmp_path):
    arrays = read_tensors(ROOT / "resnet18.safetensors")
    sizes = {"depth": 18, "classes": arrays["classifier.1.weight"].shape[0]}
    sizes["width"] = arrays["resnet.embedder.embedder.convolution.weight"].shape[0]

    def theirs(name):
        for ours, given in (
            ("resnet.embedder.embedder.convolution", "conv1"),
            ("resnet.embedder.embedder.normalization", "bn1"),
            ("classifier.1", "fc"),
            (".shortcut.convolution", ".downsample.0"),
            (".shortcut.normalization", ".downsample.1"),
        ):
            name = name.replace(ours, given)
        for i in range(2):
            name = name.replace(f".layer.{i}.convolution", f".conv{i + 1}")
            name = name.replace(f".layer.{i}.normalization", f".bn{i + 1}")
        for i in range(4):
            name = name.replace(f"resnet.encoder.stages.{i}.layers.", f"layer{i + 1}.")
        return name

    renamed = {theirs(name): array for name, array in arrays.items()}
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias"} <= set(
        renamed
    )
    written(tmp_path, renamed, "w.safetensors")
    ours = load_resnet(ROOT / "resnet18.safetensors", **sizes)
    assert bit_equal(load_resnet(tmp_path / "w.safetensors", **sizes), ours)


MERGES = ["t h", "th e", "Ġ the", "a t", "Ġ c", "Ġc at"]


def tokenizer_folder(folder, end="<|endoftext|>", names=("vocab.json", "merges.txt"), extra=0):
    """A byte-level BPE of 256 bytes, a few merges, and the end of a text."""
    folder.mkdir(exist_ok=True)
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {byte: chr(byte) for byte in letters}
    symbols |= {byte: chr(256 + i) for i, byte in enumerate(set(range(256)) - set(letters))}
    ids = {symbol: i for i, symbol in enumerate(symbols[byte] for byte in range(256))}
    for merge in MERGES:
        ids["".join(merge.split())] = len(ids)
    for i in range(extra):
        ids[f"<extra{i}>"] = len(ids)
    if end:
        ids[end] = len(ids)
    (folder / names[0]).write_text(json.dumps(ids))
    (folder / names[1]).write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return ids


def by_hand(ids, text):
    """Merges in their order, inside what the pre-tokenizer of GPT-2 keeps apart."""
    pieces, word = [], ""
    for letter in text:
        if letter == " ":
            pieces, word = [*pieces, word], "Ġ"
        else:
            word += letter
    found = []
    for piece in filter(None, [*pieces, word]):
        parts = list(piece)
        for merge in MERGES:
            a, b = merge.split()
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == (a, b):
                    parts[i : i + 2] = [a + b]
                i += 1
        found += [ids[part] for part in parts]
    return found


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_a_folders_tokenizer_gives_its_own_ids(tmp_path, names):
    ids = tokenizer_folder(tmp_path, names=names)
    made = folder_tokenizer(tmp_path, 300)
    text = "the cat sat at the hat"
    assert made.encode(text).tolist() == by_hand(ids, text)
    assert ids["Ġcat"] in made.encode(text) and made.decode(made.encode("naïve the")) == "naïve the"
    assert made.separator == ids["<|endoftext|>"] and made.vocabulary == 300
    kept = np.asarray([made.separator, *made.encode("the"), made.separator])
    assert made.decode(kept) == "the"
    from tokenizers import Tokenizer

    Tokenizer.from_str(made.definition).save(str(tmp_path / "tokenizer.json"))
    assert folder_tokenizer(tmp_path, 300).encode(text).tolist() == made.encode(text).tolist()


@pytest.mark.parametrize(
    "prepare, word",
    [
        (
            lambda folder: None,
            "has no tokenizer; it needs tokenizer.json or vocab.json and merges.txt",
        ),
        (
            lambda folder: tokenizer_folder(folder, extra=40),
            "has ids up to 302 and the network knows 300 tokens",
        ),
        (
            lambda folder: tokenizer_folder(folder, end=""),
            "has no token for the end of a text; name one as eos_token_id",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read"),
    ],
)
def test_tokenizers_that_cannot_be_are_refused(tmp_path, prepare, word):
    prepare(tmp_path)
    with pytest.raises(UserError, match=word):
        folder_tokenizer(tmp_path, 300)


def test_the_end_of_a_text_is_what_the_config_says(tmp_path):
    tokenizer_folder(tmp_path, end="")
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 10}))
    assert folder_tokenizer(tmp_path, 300).separator == 10


@pytest.mark.parametrize("valid", ["valid.txt", "validation.txt", "val.txt", "wiki.valid.txt"])
def test_files_that_are_named_after_splits_are_the_splits(tmp_path, valid):
    names = (
        ("wiki.train.txt", valid, "wiki.test.txt")
        if "wiki" in valid
        else ("train.txt", valid, "test.txt")
    )
    for name, count in zip(names, (900, 80, 70)):
        (tmp_path / name).write_text(f"word {name} " * count)
    corpus = load_corpus(source="directory", path=tmp_path)
    assert corpus.names == {"train": (names[0],), "validation": (names[1],), "test": (names[2],)}
    from theseus_jax.data.documents import share

    part = share(corpus, 0.25)
    np.testing.assert_array_equal(part, corpus.train[: corpus.train.size // 4])
    (tmp_path / "validation.TEST.txt").write_text("two splits at once")
    (tmp_path / "corpus.train.txt").write_text("a second train")
    with pytest.raises(UserError, match="the .* split got none of the 5 documents"):
        load_corpus(source="directory", path=tmp_path, validation_fraction=1e-9, test_fraction=1e-9)
    (tmp_path / "validation.TEST.txt").unlink()
    with pytest.raises(UserError, match="the .* split got none of the 4 documents"):
        load_corpus(source="directory", path=tmp_path, validation_fraction=1e-9, test_fraction=1e-9)
    (tmp_path / "corpus.train.txt").unlink()
    (tmp_path / "more.txt").write_text("another text")
    with pytest.raises(UserError, match="the .* split got none of the 4 documents"):
        load_corpus(source="directory", path=tmp_path, validation_fraction=1e-9, test_fraction=1e-9)
