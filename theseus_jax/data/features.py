"""Features of a frozen backbone: a data set's examples run through it once, and kept on disk."""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

import jax
import numpy as np

from theseus_jax.data.cached import cached_arrays, content_sha256
from theseus_jax.data.dataset import DataSet, Labelled
from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked
from theseus_jax.nets.models.bert import MINILM, bert
from theseus_jax.nets.models.efficientnet import efficientnet_lite, load_efficientnet_lite0
from theseus_jax.nets.stage import Network, Variables, forward, position
from theseus_jax.nets.weights.bert import load_minilm
from theseus_jax.packaged import LITE0_FILE, MINILM_FILE, file_sha256, pinned_file
from theseus_jax.paths import local

SPLITS = ("train", "validation", "test")
SECONDS_BETWEEN_LINES = 10.0
log = logging.getLogger("theseus_jax")


class Backbone(NamedTuple):
    """A frozen network whose stage `stage` gives the features (B, P).

    prepare: turns a numpy batch (B, ...) of a data set's x into the network's input, on the host;
    its output must have one shape for one shape of batch. weights_sha256: of the file that the
    variables came from. version: of the code behind `network` and `prepare`, to be changed with
    them, since features kept on disk under the old one are then void.
    """

    name: str
    network: Network
    variables: Variables
    weights_sha256: str
    prepare: Callable[[np.ndarray], Any]
    stage: str
    version: str = "1"


def cached_features(
    data: DataSet, backbone: Backbone, *, cache_dir: str | Path, batch: int = 64
) -> DataSet:
    """The data set with the backbone's features (N, P) float32 as x; y and classes stay.

    Runs in inference mode in full float32, in batches of one shape (the last one padded with
    zeros), so with one compilation. The features are kept in one .npz in `cache_dir`, whose name is
    a hash of the backbone's name, version, stage, weights and variables and of the x of the three
    splits; see `cached_arrays` for damaged files. Progress goes to the logger "theseus_jax". The
    result's sha256 is that hash. Raises UserError for a batch below 1, an unknown stage, an output
    that is not (B, P), and features with a NaN or inf.
    """
    if batch < 1:
        raise UserError(f"batch is {batch}; expected at least 1; set for example 64")
    position(backbone.network, backbone.stage)
    inputs = {split: getattr(data, split).x for split in SPLITS}
    identity = repr(
        (backbone.name, backbone.version, backbone.stage, backbone.weights_sha256)
    ).encode()
    key = content_sha256(
        {
            "x": inputs,
            "variables": backbone.variables,
            "backbone": np.frombuffer(identity, np.uint8),
        }
    )
    name = re.sub(r"[^\w.-]+", "-", f"{data.name}-{backbone.name}-{key[:32]}.npz")
    arrays = cached_arrays(local(cache_dir) / name, lambda: _features(inputs, backbone, batch))
    parts = [Labelled(arrays[split], getattr(data, split).y) for split in SPLITS]
    note = (
        f"features {backbone.stage!r} of {backbone.name} (weights {backbone.weights_sha256[:12]})"
        f" of: {data.note}"
    )
    return DataSet(f"{data.name}-{backbone.name}", *parts, data.classes, key, note)


def _features(
    inputs: dict[str, np.ndarray], backbone: Backbone, batch: int
) -> dict[str, np.ndarray]:
    net, stage = backbone.network, backbone.stage
    compiled = jax.jit(lambda variables, x: forward(net, variables, x, stop=stage)[0])

    def run(x: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            return np.asarray(compiled(backbone.variables, backbone.prepare(x)), np.float32)

    return {
        split: _split_features(split, x, run, backbone.name, batch) for split, x in inputs.items()
    }


def _split_features(
    split: str, x: np.ndarray, run: Callable[[np.ndarray], np.ndarray], name: str, batch: int
) -> np.ndarray:
    rows, told = [], time.monotonic()
    for begin in range(0, len(x), batch):
        part = x[begin : begin + batch]
        padded = np.concatenate([part, np.zeros((batch - len(part), *x.shape[1:]), x.dtype)])
        out = run(padded)
        if out.ndim != 2 or len(out) != batch:
            raise UserError(
                f"the stage of {name} gives {out.shape} for {batch} examples, not ({batch}, P); "
                "choose another stage"
            )
        rows.append(out[: len(part)])
        wrong = np.flatnonzero(~np.isfinite(rows[-1]).all(1))
        if len(wrong):
            raise UserError(
                f"{name} gives a NaN or inf for row {begin + wrong[0]} of the {split} split; look"
                " at that example, or at the backbone's prepare and weights"
            )
        done = begin + len(part)
        if done == len(x) or time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            log.info("%s: features of %d of %d examples of the %s split", name, done, len(x), split)
    if not rows:
        raise UserError(
            f"the {split} split has no examples; give a data set with some in each split"
        )
    return np.concatenate(rows)


def efficientnet_lite0_backbone(size: int = 128, path: str | os.PathLike | None = None) -> Backbone:
    """EfficientNet-Lite0 trained on ImageNet-1k, 1280 features, for x (N, height, width, 1 or 3)
    uint8.

    size: pixels of the square to which `prepared_images` resizes. path: another file of weights
    than the packaged one. Raises UserError for a size below 32, and where the weights are missing
    (see `load_efficientnet_lite0`).
    """
    if size < 32:
        raise UserError(
            f"size is {size} pixels, but the network halves it five times; set at least 32"
        )
    file = pinned_file(LITE0_FILE) if path is None else path
    return Backbone(
        f"efficientnet_lite0-{size}px",
        efficientnet_lite(),
        load_efficientnet_lite0(file),
        file_sha256(file),
        functools.partial(prepared_images, size=size),
        "features",
    )


def minilm_backbone(path: str | os.PathLike | None = None) -> Backbone:
    """The sentence encoder all-MiniLM-L6-v2, 384 features, for x (N, 2, T) int32 of ids and mask,
    as `labelled.bbc` gives.

    The features are means over the mask's tokens, not scaled to length 1. path: another file of
    weights than the packaged one. Raises UserError where the weights are missing (see
    `load_minilm`).
    """
    file = pinned_file(MINILM_FILE) if path is None else path
    return Backbone(
        "minilm-l6",
        bert(**MINILM),
        load_minilm(file),
        file_sha256(file),
        prepared_tokens,
        "features",
    )


def prepared_images(x: np.ndarray, size: int) -> np.ndarray:
    """EfficientNet-Lite's input (B, size, size, 3) float32 of images (B, height, width, 1 or 3)
    uint8.

    Resized as `resized` does; levels become (x - 127) / 128, and grey counts for all three colours.
    Raises UserError for x of another shape or dtype.
    """
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise UserError(
            "efficientnet_lite0 takes images (N, height, width, 1 or 3) uint8 but was given"
            f" {x.shape} {x.dtype}; give raw images"
        )
    return np.broadcast_to((resized(x, size) - 127) / 128, (len(x), size, size, 3))


def prepared_tokens(x: np.ndarray) -> Masked:
    """MiniLM's input of ids x[:, 0] and mask x[:, 1], (B, 2, T) integers; UserError for other x or
    ids it does not have.
    """
    if x.ndim != 3 or x.shape[1] != 2 or not np.issubdtype(x.dtype, np.integer):
        raise UserError(
            f"minilm takes ids and mask (N, 2, T) int32 but was given {x.shape} {x.dtype}; "
            "tokenise as bbc() does"
        )
    if x.min() < 0 or x[:, 0].max() >= MINILM["vocabulary"]:
        raise UserError(
            f"minilm was given ids from {x.min()} to {x[:, 0].max()}; it has {MINILM['vocabulary']}"
            " from 0; tokenise with its own vocabulary"
        )
    return Masked(x[:, 0], x[:, 1])


def resized(x: np.ndarray, size: int) -> np.ndarray:
    """Images (B, height, width, C) -> (B, size, size, C) float32, bilinear with pixel centres at
    half integers.

    Where an axis shrinks, the triangle filter is widened by the factor, so that every pixel counts
    (no aliasing); weights past the rim are left out and the rest rescaled.
    """
    rows, columns = _weights(x.shape[1], size), _weights(x.shape[2], size)
    return np.einsum("oh,bhwc,pw->bopc", rows, x.astype(np.float32), columns, optimize=True)


def _weights(given: int, wanted: int) -> np.ndarray:
    factor = given / wanted
    centres = (np.arange(wanted) + 0.5) * factor - 0.5
    distance = np.abs(np.arange(given)[None, :] - centres[:, None]) / max(factor, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
