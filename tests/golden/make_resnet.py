"""Writes small random ResNets in transformers' files, what PyTorch computes with them, and the
names at the paper's size.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/make_resnet.py

Every weight and statistic is drawn, so that dropping one, swapping two or moving a padding shifts
the outputs by far more than the tolerance. Training mode is in float64, since batch norm upon batch
norm turns float32's rounding into 1e-4 to 1e-2; its one step moves the statistics. The plain
outputs run ResNet-50's layers without the shortcuts.
"""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from transformers import ResNetConfig, ResNetForImageClassification

FOLDER = Path(__file__).parent
DEPTHS = {
    18: ("basic", [2, 2, 2, 2], 1),
    34: ("basic", [3, 4, 6, 3], 1),
    50: ("bottleneck", [3, 4, 6, 3], 4),
}
WIDTHS, CLASSES = {18: 3, 50: 2}, 5


def model(depth, width, classes):
    """transformers' ResNet, in evaluation mode, with random statistics, scales and biases."""
    kind, depths, expansion = DEPTHS[depth]
    config = ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width * expansion * 2**i for i in range(4)],
        depths=depths,
        layer_type=kind,
        num_labels=classes,
        downsample_in_bottleneck=False,
    )
    return ResNetForImageClassification(config).eval()


def drawn(net, generator):
    """The same network with every tensor random."""
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if value.ndim == 4:
            value.data = (
                torch.randn(value.shape, generator=generator) * (1.3 / value[0].numel()) ** 0.5
            )
        elif name.endswith(("normalization.weight", "running_var")):
            value.data = 0.5 * torch.rand(value.shape, generator=generator) + (
                0.5 if "shortcut" in name else 0.75
            )
        elif name.endswith(("weight", "bias", "running_mean")):
            value.data = 0.3 * torch.randn(value.shape, generator=generator)
    return net


def plain(net, x):
    """Logits of the network without its shortcuts, in training mode: fixed statistics would drown
    the input.
    """
    net = copy.deepcopy(net).train()
    h = net.resnet.embedder(x)
    for stage in net.resnet.encoder.stages:
        for block in stage.layers:
            h = block.activation(block.layer(h))
    return net.classifier(h.mean((2, 3)))


def main():
    x = torch.randn((4, 3, 50, 37), generator=torch.Generator().manual_seed(0))
    arrays, names = {"x": x.permute(0, 2, 3, 1).numpy()}, {}
    for depth, width in WIDTHS.items():
        net = drawn(model(depth, width, CLASSES), torch.Generator().manual_seed(depth))
        (FOLDER / f"resnet{depth}.safetensors").write_bytes(save(net.state_dict()))
        with torch.no_grad():
            out = net(x, output_hidden_states=True)
            net = net.double()
            if depth == 50:
                arrays["50_plain"] = plain(net, x.double()).numpy()
            arrays[f"{depth}_train"] = net.train()(x.double()).logits.numpy()
        arrays |= {
            f"{depth}_hidden_{i}": h.permute(0, 2, 3, 1).numpy()
            for i, h in enumerate(out.hidden_states)
        }
        arrays |= {f"{depth}_evaluate": out.logits.numpy()}
        arrays |= {
            f"{depth}/{name}": value.numpy()
            for name, value in net.named_buffers()
            if "running" in name
        }
    np.savez_compressed(FOLDER / "resnet_outputs.npz", **arrays)
    for depth in DEPTHS:
        with torch.device("meta"):
            state = model(depth, 64, 1000).state_dict()
        names[depth] = {
            name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in state.items()
        }
    np.savez_compressed(
        FOLDER / "resnet_tensors.npz",
        **{str(depth): json.dumps(listed) for depth, listed in names.items()},
    )


if __name__ == "__main__":
    main()
