"""From the levels of a picture to what an image network reads: one stage without parameters, and a
data set's statistics.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError

CHUNK = 1 << 24  # levels that are summed at once, 16 MiB


class Pixels(nn.Module):
    """Levels 0..255 -> (level - mean) / deviation per channel, then bilinear resizing: the first
    stage of an image network.

    (B, height, width, C) uint8 or float -> (B, height, width, C) float32, or (B, size, size, C)
    with size > 0. mean, deviation: C numbers each, in levels (`channel_statistics`); a channel of
    deviation 0, which is the same everywhere, becomes 0. Resizing: pixel centres at half integers,
    no filter against aliasing where an axis shrinks. Raises UserError for an input of other rank or
    channels, and for settings that fit no image.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        numbers = (*self.mean, *self.deviation)
        if (
            len(self.mean) != len(self.deviation)
            or not all(math.isfinite(n) for n in numbers)
            or any(deviation < 0 for deviation in self.deviation)
        ):
            raise UserError(
                f"mean is {self.mean} and deviation {self.deviation}; expected as many finite"
                " numbers, and deviations of at least 0; take them from channel_statistics of the"
                " training images"
            )
        if self.size < 0:
            raise UserError(
                f"size is {self.size} pixels; set at least 1, or 0 to leave images as they are"
            )
        if x.ndim != 4 or x.shape[-1] != len(self.mean):
            raise UserError(
                f"images are {x.shape}, but mean and deviation are for (B, height, width,"
                f" {len(self.mean)}); give statistics for each channel of these images, or convert"
                " the images"
            )
        scale = [1 / deviation if deviation else 0.0 for deviation in self.deviation]
        y = (x.astype(jnp.float32) - jnp.asarray(self.mean, jnp.float32)) * jnp.asarray(
            scale, jnp.float32
        )
        if not self.size:
            return y
        return jax.image.resize(
            y, (y.shape[0], self.size, self.size, y.shape[-1]), "bilinear", antialias=False
        )


def channel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(means, deviations) of every channel of images (N, height, width, C) uint8, in levels 0..255.

    Sums are of integers, so exact; only the last division and root are rounded to float64. The
    deviation divides by the number of pixels. Raises UserError for anything but such images.
    """
    if x.dtype != np.uint8 or x.ndim != 4 or not x.size:
        raise UserError(
            f"statistics were asked for of {x.shape} {x.dtype}; expected images (N, height, width,"
            " C) uint8; give the training images as their source gives them"
        )
    channels = x.shape[-1]
    levels = np.arange(256)
    rows = max(1, CHUNK // x[0].size)
    seen = np.zeros((channels, 256), np.int64)
    for begin in range(0, len(x), rows):
        part = x[begin : begin + rows].reshape(-1, channels)
        seen += np.stack(
            [np.bincount(part[:, channel], minlength=256) for channel in range(channels)]
        )
    count, first, second = (
        x.size // channels,
        [int(s) for s in seen @ levels],
        [int(s) for s in seen @ levels**2],
    )
    return (
        tuple(s / count for s in first),
        tuple(math.sqrt(count * square - s * s) / count for s, square in zip(first, second)),
    )
