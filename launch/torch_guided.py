"""A guided training step written plainly in PyTorch eager: the named peer of
benchmarks/guided_step.py. Needs PyTorch.

Modules have the names of our stages and of what lies inside them, so that weights are copied by
name and an activation that a pair names is a forward hook on the module of that name.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

RENAMED = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # of a kernel, from ours to PyTorch's
Pairs = Sequence[tuple[str, str]]


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Stem(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv, self.norm = convolution(inputs, width, 3, 1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class Block(nn.Module):
    """ReLU(x + two 3x3 convolutions), the skip through a 1x1 one where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv_1, self.norm_1 = convolution(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv_2, self.norm_2 = convolution(width, width, 3, 1), nn.BatchNorm2d(width)
        self.strided = stride > 1 or inputs != width
        if self.strided:
            self.shortcut = convolution(inputs, width, 1, stride)
            self.shortcut_norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm_2(self.conv_2(F.relu(self.norm_1(self.conv_1(x)))))
        return F.relu((self.shortcut_norm(self.shortcut(x)) if self.strided else x) + h)


class Pool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Hidden(nn.Module):
    def __init__(self, inputs: int, width: int, norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.linear(x.flatten(1))))


def resnet18(channels: int, width: int, classes: int) -> nn.Sequential:
    net, inputs = nn.Sequential(), width
    net.add_module("stem", Stem(channels, width))
    for i in range(8):
        outputs = width * 2 ** (i // 2)
        net.add_module(f"block_{i + 1}", Block(inputs, outputs, 2 if i in (2, 4, 6) else 1))
        inputs = outputs
    net.add_module("pool", Pool())
    net.add_module("head", nn.Linear(inputs, classes))
    return net


def mlp(inputs: int, width: int, depth: int, norm: bool, classes: int) -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("stem", Hidden(inputs, width, norm))
    for i in range(1, depth):
        net.add_module(f"block_{i}", Hidden(width, width, norm))
    net.add_module("head", nn.Linear(width, classes))
    return net


def load(net: nn.Module, variables: dict[str, Any]) -> None:
    """Copies our variables, NumPy arrays by stage, kind and path, into the modules of the same
    names.
    """
    found = {}

    def walk(tree: Any, path: tuple[str, ...]) -> None:
        if isinstance(tree, dict):
            for name, value in tree.items():
                walk(value, (*path, name))
            return
        *modules, leaf = path
        value = np.transpose(tree, AXES[tree.ndim]) if leaf == "kernel" else tree
        found[".".join((*modules, RENAMED.get(leaf, leaf)))] = torch.tensor(np.asarray(value))

    for stage, kinds in variables.items():
        for tree in kinds.values():
            walk(tree, (stage,))
    missing, unexpected = net.load_state_dict(found, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"weights are missing for {missing} and left over: {unexpected}")


def hooked(net: nn.Module, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """{name: what the module gave in the last forward pass}, filled in by forward hooks."""
    caught: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys(names):

        def keep(module, given, output, name=name):
            caught[name] = output

        net.get_submodule(name.replace("/", ".")).register_forward_hook(keep)
    return caught


def pooled(z: torch.Tensor) -> torch.Tensor:
    return z.mean((2, 3)) if z.ndim == 4 else z


def hsic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """<H K H, H L H>, each Gram matrix computed here and centred by two n x n products."""
    centring = torch.eye(len(x)) - torch.full((len(x), len(x)), 1 / len(x))
    k, l = centring @ (x @ x.T) @ centring, centring @ (y @ y.T) @ centring
    return (k * l).sum()


def distance_published(ours: dict, theirs: dict, pairs: Pairs) -> torch.Tensor:
    """Mean of 1 - biased CKA over pairs: per pair three HSICs and so every Gram three times."""
    total = 0.0
    for guide, target in pairs:
        x, y = pooled(ours[target]), pooled(theirs[guide])
        total = total + 1 - hsic(x, y) / (hsic(x, x).sqrt() * hsic(y, y).sqrt())
    return total / len(pairs)


def unit_gram(z: torch.Tensor) -> torch.Tensor:
    """The Gram matrix of features less their mean, of norm 1."""
    centred = z - z.mean(0)
    gram = centred @ centred.T
    return gram / gram.norm()


def distance_lean(ours: dict, theirs: dict, pairs: Pairs) -> torch.Tensor:
    """The same value with one Gram a stage, however many pairs share it, of centred features."""
    k = {name: unit_gram(pooled(z)) for name, z in ours.items()}
    with torch.no_grad():
        l = {name: unit_gram(pooled(z)) for name, z in theirs.items()}
    return 1 - sum((k[target] * l[guide]).sum() for guide, target in pairs) / len(pairs)


def read(pictures: np.ndarray) -> torch.Tensor:
    """(B, height, width, C) levels -> (B, C, height, width) in [-1, 1]."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127.5) / 127.5


Step = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def stepper(
    guide: nn.Module,
    target: nn.Module,
    *,
    pairs: Pairs,
    lean: bool,
    weight: float,
    rate: float,
    clip: float,
    b2: float,
) -> Step:
    """step(pictures (B, height, width, C) uint8, labels (B,)) -> its loss, alignment and gradient
    norm: one AdamW step of the target beside the frozen guide.

    lean: with the distance that computes nothing twice and the fused optimizer.
    """
    distance = distance_lean if lean else distance_published
    theirs, ours = hooked(guide, [g for g, _ in pairs]), hooked(target, [t for _, t in pairs])
    optimizer = torch.optim.AdamW(
        target.parameters(), rate, betas=(0.9, b2), weight_decay=0.0, fused=lean
    )
    guide.eval().requires_grad_(False)
    target.train()

    def step(pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        x = read(pictures)
        with torch.no_grad():
            guide(x)
        entropy = F.cross_entropy(target(x), torch.from_numpy(labels))
        alignment = distance(ours, theirs, pairs)
        loss = entropy + weight * alignment
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(target.parameters(), clip)
        optimizer.step()
        return {"loss": loss.item(), "alignment": alignment.item(), "gradient_norm": norm.item()}

    return step


def guide_alone(guide: nn.Module, pairs: Pairs) -> Step:
    """The guide's forward pass with the means that samples are, and nothing else."""
    caught = hooked(guide, [g for g, _ in pairs])
    guide.eval().requires_grad_(False)

    def step(pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        with torch.no_grad():
            guide(read(pictures))
            return {"sums": sum(pooled(z).sum() for z in caught.values()).item()}

    return step
