"""Classifiers that are not trained here: untrained, read from a file, or a packaged backbone with a
head fitted to the data; and what a linear probe finds in a network's features.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.checks import check_values
from theseus_jax.errors import UserError
from theseus_jax.methods.guide_modes import GUIDE_MODES
from theseus_jax.methods.recalibrate import batch_statistics
from theseus_jax.nets import zoo
from theseus_jax.nets.blocks.norms import NORMS
from theseus_jax.nets.models import efficientnet
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.nets.weights.bert import load_bert, load_minilm
from theseus_jax.nets.weights.resnet import load_resnet
from theseus_jax.nets.weights.vit import load_deit, load_vit
from theseus_jax.nets.zoo import Reading
from theseus_jax.program import in_blocks
from theseus_jax.similarity.sentences import sentence_agreement
from theseus_jax.solvers import logistic
from theseus_jax.tasks import guide_folders

LOG = logging.getLogger("theseus_jax")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
CALIBRATION = 2048  # examples
BACKBONES = {"efficientnet_lite0": efficientnet.load_efficientnet_lite0, "minilm": load_minilm}
FILES = ("resnet18", "resnet34", "resnet50", "vit", "minilm")
NETWORK_CHOICES = {
    "arch": zoo.ARCHITECTURES,
    "norm": NORMS,
    "stem": ("cifar", "imagenet"),
    "read": ("class", "mean", "distilled"),
}
PAIR_CHOICES = {
    "guide.origin": ("trained", "untrained", "pretrained", "file"),
    "guide.mode": GUIDE_MODES,
    **{
        f"{side}.{key}": names
        for side in ("guide", "target")
        for key, names in NETWORK_CHOICES.items()
    },
}


def check_pair(config: Any) -> None:
    """Raises UserError, one line, for the first value of a guide and a target that cannot
    be meant.
    """
    check_values(config, PAIR_CHOICES)
    guide = config.guide
    arch = guide_folders.sizes(config).get("arch", guide.arch)
    if guide.origin == "pretrained" and guide.arch not in BACKBONES:
        raise UserError(
            f"config.guide.arch is {guide.arch!r}, of which no weights are packaged; choose one of"
            f" {', '.join(BACKBONES)}, or another guide.origin"
        )
    if guide.origin == "file" and arch not in FILES:
        raise UserError(
            f"config.guide.arch is {arch!r}, which is not read from files; choose one of"
            f" {', '.join(FILES)}"
        )


def calibrated(net: Network, fresh: Variables, x: Any) -> Variables:
    """Fresh variables (leading seed axis of 1) with batch norm's statistics of training
    inputs x.
    """
    first = jax.tree.map(lambda leaf: leaf[0], fresh)
    rows = jax.tree.map(lambda leaf: leaf[:CALIBRATION], x)
    statistics = batch_statistics(net, first, rows)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], statistics)


def from_file(config: Any, net: Network, reading: Reading, classes: int) -> Variables:
    """The variables (leading seed axis of 1) in the file or folder of a config's guide. Raises
    UserError for another network's.
    """
    c = {**config.guide, **guide_folders.sizes(config)}
    if c["arch"] == "vit":
        if reading.shape[-1] != 3:
            raise UserError(
                f"the ViT in {c['weights']} reads 3 channels and the images have"
                f" {reading.shape[-1]}; give images in colour"
            )
        load = load_deit if c["read"] == "distilled" else load_vit
        sizes = {key: c[key] for key in ("patch", "width", "depth", "heads", "hidden")}
        image = c["size"] or reading.shape[0]
        variables = load(c["weights"], classes=classes, image=image, **sizes)
    else:
        depth = int(c["arch"].removeprefix("resnet"))
        sizes = {"width": c["width"] or 64, "stem": c["stem"], "channels": reading.shape[-1]}
        variables = load_resnet(c["weights"], depth=depth, classes=classes, **sizes)
    named = {name: variables.get(name, {}) for name in net.names}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], named)


def backbone(config: Any) -> Variables | None:
    """The variables of a guide that comes without a head: packaged ones, or a BERT's in a folder or
    file; None for others. Raises UserError for a missing package, or another network's.
    """
    c = {**config.guide, **guide_folders.sizes(config)}
    if c["origin"] == "pretrained":
        return BACKBONES[c["arch"]]()
    if c["arch"] != "minilm":
        return None
    sizes = {key: c[key] for key in ("width", "depth", "heads", "hidden") if c[key]}
    return load_bert(c["weights"], **sizes)


def headed(
    loaded: Variables, net: Network, train: dict[str, Any], x: Any, y: np.ndarray, classes: int
) -> Variables:
    """A backbone's variables (leading seed axis of 1), with a head fitted on the training examples'
    features; x, y: of validation.

    The head is a logistic regression on standardised features, its penalty out of PENALTIES by
    validation accuracy; the scale is folded into it.
    """
    variables = {name: loaded.get(name, {}) for name in net.names[:-1]}
    LOG.info("fitting a head on features of %d examples", len(train["labels"]))
    ours, held = (features(net, variables, inputs) for inputs in (train["inputs"], x))
    head = fitted_head(ours, train["labels"], held, y, classes)
    variables["head"] = {"params": head}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)


@functools.partial(jax.jit, static_argnames="net")
def features(net: Network, variables: Variables, x: Any) -> jax.Array:
    """What the head of a network reads, (N, D). variables: of one seed."""
    stop = net.names[-2]
    return in_blocks(lambda block: forward(net, variables, block, stop=stop)[0], x)


def fitted_head(
    x: jax.Array, y: jax.Array, held_x: jax.Array, held_y: jax.Array, classes: int
) -> dict[str, jax.Array]:
    """Logistic regression on features x (N, D) as a linear head: {"kernel": (D, O), "bias": (O,)}.

    Standardised first, the scale folded in; its penalty out of PENALTIES by accuracy on the
    held-out features.
    """
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    ones = [
        jnp.concatenate([(z - mean) / deviation, jnp.ones((len(z), 1))], axis=1)
        for z in (x, held_x)
    ]

    def accuracy(weights: jax.Array) -> float:
        return float((jnp.argmax(ones[1] @ weights, axis=1) == held_y).mean())

    fits = [logistic(ones[0], y, classes, penalty).weights for penalty in PENALTIES]
    best = fits[int(np.argmax([accuracy(weights) for weights in fits]))]
    kernel = best[:-1] / deviation[:, None]
    return {"kernel": kernel, "bias": best[-1] - mean @ kernel}


def probe(
    net: Network, variables: Variables, original: jax.Array, sets: dict[str, Any], classes: int
) -> dict[str, Any]:
    """How much a network's features (stacked seeds) still hold: {"probe_accuracy": mean over seeds,
    "probe_seeds": each, "agreement": means of `sentence_agreement` with the original's test
    features (N, D)}.

    sets: {"train", "validation", "test"} of {"inputs", "labels"}; the probe is `fitted_head`.
    """
    accuracies, agreements = [], []
    for seed in range(len(jax.tree.leaves(variables)[0])):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        parts = (sets[name]["inputs"] for name in ("train", "validation", "test"))
        x, held, test = (features(net, one, part) for part in parts)
        labels = sets["validation"]["labels"]
        head = fitted_head(x, sets["train"]["labels"], held, labels, classes)
        predicted = jnp.argmax(test @ head["kernel"] + head["bias"], axis=1)
        accuracies.append(float((predicted == sets["test"]["labels"]).mean()))
        agreements.append(sentence_agreement(test, original))
    keys = [k for k in ("cosine", "pearson", "spearman") if agreements[0][k] is not None]
    return {
        "probe_accuracy": float(np.mean(accuracies)),
        "probe_seeds": accuracies,
        "agreement": {key: float(np.mean([one[key] for one in agreements])) for key in keys},
    }


def probes(finished: Any, sets: Any, classes: int) -> dict[str, Any]:
    """The models of a run, each with what `probe` finds in its features beside those of the first
    guide; sets: `tasks.Sets`. Nothing where there is no guide.
    """
    guide = next((arm for arm in finished.arms if arm.role == "guide"), None)
    if guide is None:
        return {}
    LOG.info("fitting probes")
    parts = {"train": sets.train["share"]}
    for name in ("validation", "test"):
        part = getattr(sets, name)
        parts[name] = {"inputs": part.x, "labels": part.y}
    original = features(guide.net, finished.first(guide.name), parts["test"]["inputs"])
    extra = {
        arm.name: probe(arm.net, finished.done[arm.name], original, parts, classes)
        for arm in finished.arms
    }
    return {"models": [{**one, **extra[one["name"]]} for one in finished.models]}
