r"""A guided training step against the same target's unguided one, and against PyTorch eager.

    python benchmarks/guided_step.py --json=benchmarks/guided_step.json

ResNet-18 of width 8 -> plain MLP of 50 layers and of 3, the pairs of `auto`, pictures 28 x 28,
batch 128, AdamW with clipping. Peers, forward hooks in PyTorch eager: "published" computes every
Gram matrix three times and centres by products with an (N, N) matrix, as the published code of
arXiv 2410.20035 does; "careful" computes each once and subtracts means. Rounds take turns; medians,
quartiles and ratios over rounds. Besides: the shares of the compiled FLOPs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time
from typing import Any, Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax import cost
from theseus_jax.experiment.jobs import fresh
from theseus_jax.experiment.workdir import device
from theseus_jax.methods import guidance
from theseus_jax.nets.stage import Network, forward, variable_shapes
from theseus_jax.nets.zoo import Architecture, Reading, build, example
from theseus_jax.plan import Optimizer
from theseus_jax.similarity import cka, metric
from theseus_jax.train import Hooks, State, fit
from theseus_jax.version import __version__

READING, CLASSES, BATCH, WIDTH, STEPS = Reading((28, 28, 1), (72.9,), (90.0,)), 10, 128, 8, 10
TARGETS = {
    "50 layers": Architecture("mlp", width=128, depth=50, norm="none"),
    "3 layers": Architecture("mlp", width=512, depth=3, norm="batch"),
}
GUIDE = Architecture("resnet18", width=WIDTH)


def data() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    inputs = draw.integers(0, 256, (BATCH * STEPS, 28, 28, 1)).astype(np.uint8)
    return {"inputs": inputs, "labels": draw.integers(0, CLASSES, BATCH * STEPS).astype(np.int32)}


def ours(target: Network, measure: str, weight: float) -> tuple[Callable[[], float], dict]:
    """(a round of STEPS steps -> seconds a step, {"flops": of a step})."""
    guide, shape = build(GUIDE, READING, CLASSES), example(READING)
    settings = guidance.Settings(
        STEPS, metric(measure), "pooled", weight=weight, optimizer=Optimizer(1e-3, 0.0, 1.0)
    )
    pairs = guidance.parse_pairs("auto", guide, target, shape)
    plan = guidance.plan(guide, target, pairs, settings, shape)
    keys = jax.random.split(jax.random.key(0), 1)
    theirs = jax.tree.map(lambda leaf: leaf[0], fresh(guide, keys, shape))
    examples, facts = jax.tree.map(jnp.asarray, data()), {}

    def run() -> float:
        rows: list[dict[str, Any]] = []
        state = State(0, fresh(target, keys, shape), theirs, None, keys)
        fit(
            plan,
            state,
            examples,
            batch=BATCH,
            chunk_steps=STEPS,
            name="step",
            hooks=Hooks(log=rows.append),
        )
        row = next(row for row in rows if row["kind"] == "train")
        facts["flops"] = row["training_flops"] / STEPS
        return row["seconds"] / STEPS

    return run, facts


def guide_flops(target: Network) -> float:
    """Of the guide's forward pass of a batch, as far as a pair reads it."""
    guide, shape = build(GUIDE, READING, CLASSES), example(READING)
    pairs = guidance.parse_pairs("auto", guide, target, shape)
    last = max((pair[0] for pair in pairs), key=guide.names.index)
    x = jax.ShapeDtypeStruct((BATCH, *READING.shape), jnp.uint8)
    one = variable_shapes(guide, shape)
    return cost.flops(lambda v, z: forward(guide, v, z, stop=last)[0], one, x)


def torch_cka(torch: Any, careful: bool) -> Callable[[Any, Any], Any]:
    """Biased CKA of (N, P) and (N, Q)."""

    def centred(x: Any) -> Any:
        n = len(x)
        h = torch.eye(n) - torch.ones(n, n) / n
        return h @ (x @ x.T) @ h

    def hsic(x: Any, y: Any) -> Any:
        return (centred(x) * centred(y)).sum()

    def published(x: Any, y: Any) -> Any:
        return hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()

    def once(x: Any, y: Any) -> Any:
        x, y = x - x.mean(0), y - y.mean(0)
        k, l = x @ x.T, y @ y.T  # noqa: E741
        return (k * l).sum() / (k.norm() * l.norm())

    return once if careful else published


def torch_networks(torch: Any, target: Architecture) -> tuple[Any, Any]:
    """(guide, target) as dicts of named stages in order."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inside: int, width: int, stride: int) -> None:
            super().__init__()
            norm = nn.BatchNorm2d
            self.body = nn.Sequential(
                nn.Conv2d(inside, width, 3, stride, 1, bias=False),
                norm(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, 1, 1, bias=False),
                norm(width),
            )
            change = nn.Conv2d(inside, width, 1, stride, bias=False)
            same = stride == 1 and inside == width
            self.skip = nn.Identity() if same else nn.Sequential(change, norm(width))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.skip(x))

    first = nn.Conv2d(1, WIDTH, 3, 1, 1, bias=False)
    guide = {"stem": nn.Sequential(first, nn.BatchNorm2d(WIDTH), nn.ReLU())}
    width = WIDTH
    for i in range(8):
        wider = WIDTH * 2 ** (i // 2)
        guide[f"block_{i + 1}"] = Block(width, wider, 2 if i in (2, 4, 6) else 1)
        width = wider
    guide["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    guide["head"] = nn.Linear(width, CLASSES)

    def layer(inside: int) -> Any:
        norm = [nn.BatchNorm1d(target.width)] if target.norm == "batch" else []
        return nn.Sequential(nn.Linear(inside, target.width), *norm, nn.ReLU())

    plain = {"stem": nn.Sequential(nn.Flatten(), layer(784))}
    plain |= {f"block_{i}": layer(target.width) for i in range(1, target.depth)}
    plain["head"] = nn.Linear(target.width, CLASSES)
    return nn.ModuleDict(guide), nn.ModuleDict(plain)


def peer(
    torch: Any, target: Architecture, pairs: guidance.Pairs, careful: bool
) -> Callable[[], float]:
    """A round of STEPS steps in PyTorch eager with hooks -> seconds a step."""
    torch.manual_seed(0)
    guide, net = torch_networks(torch, target)
    guide.eval()
    similarity, held = torch_cka(torch, careful), {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            held[name] = output.mean((2, 3)) if output.ndim == 4 else output

        return hook

    for guide_stage, stage in pairs:
        guide[guide_stage].register_forward_hook(keep(f"guide/{guide_stage}"))
        net[stage].register_forward_hook(keep(stage))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0)
    examples = data()
    x = torch.tensor(examples["inputs"]).permute(0, 3, 1, 2).float().sub(72.9).div(90.0)
    y = torch.tensor(examples["labels"]).long()

    def through(stages: Any, z: Any) -> Any:
        for module in stages.values():
            z = module(z)
        return z

    def step(z: Any, labels: Any) -> None:
        with torch.no_grad():
            through(guide, z)
        loss = torch.nn.functional.cross_entropy(through(net, z), labels)
        distances = [1 - similarity(held[t], held[f"guide/{g}"]) for g, t in pairs]
        optimizer.zero_grad()
        (loss + sum(distances) / len(pairs)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    def run() -> float:
        begin = time.perf_counter()
        for z, labels in zip(x.split(BATCH), y.split(BATCH)):
            step(z, labels)
        return (time.perf_counter() - begin) / STEPS

    return run


def same_value(torch: Any) -> float:
    """The largest difference between our biased CKA and the peers', on random activations."""
    draw = np.random.default_rng(1)
    x, y = (draw.normal(size=(BATCH, p)).astype(np.float32) for p in (128, 16))
    mine = float(cka(x, y, estimator="biased"))
    peers = [torch_cka(torch, careful)(*map(torch.tensor, (x, y))) for careful in (False, True)]
    return max(abs(float(value) - mine) for value in peers)


def measured(name: str, architecture: Architecture, repeats: int, torch: Any) -> dict[str, Any]:
    """Every program of one target, rounds taking turns."""
    target = build(architecture, READING, CLASSES)
    pairs = guidance.parse_pairs("auto", build(GUIDE, READING, CLASSES), target, example(READING))
    made = {
        "unguided": ours(target, "cka_biased", 0.0),
        "guided, cka_biased": ours(target, "cka_biased", 1.0),
        "guided, cka_debiased": ours(target, "cka_debiased", 1.0),
    }
    runs = {key: run for key, (run, _) in made.items()}
    for careful in (False, True):
        key = f"PyTorch, {'careful' if careful else 'published'}"
        runs[key] = peer(torch, architecture, pairs, careful)
    times: dict[str, list[float]] = {key: [] for key in runs}
    for number in range(repeats + 1):
        for key, run in runs.items():
            seconds = run()
            if number:  # the first warms up
                times[key].append(1e3 * seconds)
    flops = {key: facts["flops"] for key, (_, facts) in made.items()}
    whole, guide = flops["guided, cka_debiased"], guide_flops(target)
    rows = {key: [float(q) for q in np.percentile(t, (25, 50, 75))] for key, t in times.items()}
    base = rows["guided, cka_debiased"][1]
    return {
        "target": name,
        "pairs": len(pairs),
        "milliseconds (quartiles)": rows,
        "over guided, cka_debiased": {key: row[1] / base for key, row in rows.items()},
        "guided over unguided": base / rows["unguided"][1],
        "share of FLOPs": {
            "target": flops["unguided"] / whole,
            "guide": guide / whole,
            "alignment": (whole - flops["unguided"] - guide) / whole,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", default="")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    found = {
        "command": "python benchmarks/guided_step.py",
        "device": device(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "theseus_jax": __version__,
        "largest difference of CKA": same_value(torch),
        "rows": [measured(name, one, given.repeats, torch) for name, one in TARGETS.items()],
    }
    print(json.dumps(found, indent=1))
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
