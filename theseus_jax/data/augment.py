"""Augmented batches of images, drawn inside jit: random crop, horizontal flip and mixup, each from
one key.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is done to a batch before a training step; hashable, so that it can be a static argument
    of jit.

    crop: every image is padded with this many pixels of level 0 on each side, and a window of its
    own size is cut out at one of (2 crop + 1)^2 places, all equally likely (He et al. 2016, section
    4.2, with 4). flip: mirrored left to right with probability 1/2. mixup: a > 0 blends every
    example with another one of the batch, in shares lambda and 1 - lambda with lambda ~ Beta(a, a),
    one for the batch (Zhang et al. 2017, arXiv 1710.09412, section 2). 0 and False: not done.
    classes: how many there are, which only mixup asks for. Raises UserError for a crop that is no
    integer of at least 0, or a mixup that is not finite and at least 0 or has no classes.
    """

    crop: int = 0
    flip: bool = False
    mixup: float = 0.0
    classes: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.crop, bool) or not isinstance(self.crop, int) or self.crop < 0:
            raise UserError(
                f"crop is {self.crop!r}; expected a number of pixels, 0 for none; set for example 4"
            )
        if not 0 <= self.mixup < math.inf:
            raise UserError(
                f"mixup is {self.mixup!r}; expected Beta's finite parameter, 0 for none; set for"
                " example 0.2"
            )
        if self.mixup and self.classes < 1:
            raise UserError(
                f"mixup {self.mixup:g} blends labels of {self.classes} classes; give the number of"
                " classes"
            )

    def __call__(
        self, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """images (B, height, width, C) of levels and labels (B,) int32 in [0, classes), as one step
        sees them.

        With everything off they are returned as they are. Crop and flip keep the dtype; mixup gives
        float32 images and (B, classes) float32 labels whose rows sum to 1. The key alone decides
        what is drawn. Raises UserError for other shapes.
        """
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise UserError(
                f"augmentation was given images {images.shape} and labels {labels.shape}; expected "
                "(B, height, width, C) and (B,); give a batch of images with their classes"
            )
        crop_key, flip_key, share_key, partner_key = jax.random.split(key, 4)
        count = len(images)
        if self.crop:
            images = shifted(
                images, jax.random.randint(crop_key, (count, 2), 0, 2 * self.crop + 1), self.crop
            )
        if self.flip:
            images = mirrored(images, jax.random.bernoulli(flip_key, shape=(count,)))
        if not self.mixup:
            return images, labels
        # Beta as the share of one of two gammas; by their logarithms, since with a small `a` both
        # may be 0 in float32
        one, other = jax.random.loggamma(share_key, self.mixup, (2,), dtype=jnp.float32)
        share = jax.nn.sigmoid(one - other)
        partners = jax.random.permutation(partner_key, count)
        one_hot = jax.nn.one_hot(labels, self.classes, dtype=jnp.float32)
        return blended(images, partners, share), blended(one_hot, partners, share)

    def __str__(self) -> str:
        parts = [f"crop after {self.crop} pixels of padding"] * bool(self.crop) + ["flip"] * bool(
            self.flip
        )
        return ", ".join(parts + [f"mixup {self.mixup:g}"] * bool(self.mixup)) or "none"


def shifted(images: jax.Array, offsets: jax.Array, pad: int) -> jax.Array:
    """images (B, height, width, C) padded with `pad` zeros on each side and cut to their own size.

    offsets: (B, 2) in [0, 2 pad], the first row and column kept; (pad, pad) leaves an image as it
    is.
    """
    padded = jnp.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    # The fastest on a CPU of seven forms: index gathers take 2 to 10 times as long, one-hot
    # products and selects 4 to 50
    return jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])
    )(padded, offsets)


def mirrored(images: jax.Array, chosen: jax.Array) -> jax.Array:
    """images (B, height, width, C), those with a True in chosen (B,) mirrored left to right."""
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def blended(x: jax.Array, partners: jax.Array, share: jax.Array) -> jax.Array:
    """share * x + (1 - share) * x[partners] for x (B, ...), partners (B,) rows of it and a share in
    [0, 1]; float32.
    """
    x = x.astype(jnp.float32)
    return share * x + (1 - share) * x[partners]
