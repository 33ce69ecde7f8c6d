"""Bridges: a learned or fitted affine map from the shape that one stage gives to the shape that
another stage reads.

Positions are fitted first, without parameters: kept, averaged down, repeated up, or an image's rows
laid out as tokens. Where no such fit is exact the whole activation is one vector, mapped at low
rank. Then an affine map acts on the last axis.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.masked import Masked, values_and_mask

LARGEST = 2**28  # numbers in one map: 1 GiB


def fitted(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x (B, ..., P) with its positions made those of `shape` (..., Q), or flattened to (B, P')
    where they cannot be.

    Equal positions are kept; an image whose sides are multiples of the wanted ones is averaged, one
    whose sides divide them repeated; T tokens and an image of T positions stand for each other, row
    by row.
    """
    given, wanted = x.shape[1:-1], shape[:-1]
    if given == wanted:
        return x
    if math.prod(given) == math.prod(wanted) and given and wanted:
        return x.reshape(x.shape[0], *wanted, x.shape[-1])
    if len(given) == len(wanted) == 2:
        (h, w), (rows, columns) = given, wanted
        if h % rows == 0 and w % columns == 0:
            return x.reshape(x.shape[0], rows, h // rows, columns, w // columns, x.shape[-1]).mean(
                (2, 4)
            )
        if rows % h == 0 and columns % w == 0:
            return jnp.repeat(jnp.repeat(x, rows // h, axis=1), columns // w, axis=2)
    return x.reshape(x.shape[0], -1)


def keeps_positions(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a bridge between these shapes (without batch) maps position by position, rather than
    whole activations.
    """
    fit = jax.eval_shape(
        lambda x: fitted(x, wanted), jax.ShapeDtypeStruct((1, *given), jnp.float32)
    )
    return fit.shape[1:-1] == wanted[:-1] and bool(given[:-1]) == bool(wanted[:-1])


class Bridge(nn.Module):
    """(B, ..., P) -> (B, *shape); of a `Masked` its values. rank 0: one matrix and a bias; else
    "down", "up" and a bias.
    """

    shape: tuple[int, ...]
    rank: int = 0

    @nn.compact
    def __call__(self, x: Any) -> Any:
        values, mask = values_and_mask(x)
        rows = fitted(values, self.shape)
        features = self.shape[-1] if rows.shape[1:-1] == self.shape[:-1] else math.prod(self.shape)
        if self.rank:
            y = nn.Dense(features, name="up")(
                nn.Dense(self.rank, use_bias=False, name="down")(rows)
            )
        else:
            y = nn.Dense(features, name="map")(rows)
        y = y.reshape(values.shape[0], *self.shape)
        return y if mask is None else Masked(y, mask)


def bridge(given: Any, wanted: Any, *, rank: int, what: str = "") -> Bridge:
    """The bridge from an output like `given` to one like `wanted`: arrays, ShapeDtypeStructs or
    `Masked` of them, (B, ...).

    rank: of maps between whole activations, at most; maps of channels, and of vectors to vectors,
    are not cut down. what: the pair, for errors. Raises UserError for a padded text against
    anything else or another length, and for a map that would be too large.
    """
    (x, mask), (y, other) = values_and_mask(given), values_and_mask(wanted)
    shapes = f"{_shown(x)} and {_shown(y)}"
    if (mask is None) != (other is None) or mask is not None and x.shape[1] != y.shape[1]:
        raise UserError(
            f"no bridge leads from {what or 'a stage'} of shapes {shapes}: padded texts keep their"
            " tokens; choose stages of as many tokens in convert.mapping"
        )
    whole = not keeps_positions(x.shape[1:], y.shape[1:])
    inputs, outputs = (math.prod(z.shape[1:]) if whole else z.shape[-1] for z in (x, y))
    if whole and rank < 1:
        raise UserError(
            f"no bridge leads from {what or 'a stage'} of shapes {shapes} with a rank of {rank}:"
            " their positions do not correspond; set convert.stitch_rank to at least 1"
        )
    rank = min(rank, inputs, outputs)
    numbers = rank * (inputs + outputs) if whole else inputs * outputs
    if numbers > LARGEST:
        raise UserError(
            f"no bridge leads from {what or 'a stage'} of shapes {shapes}: it would need"
            f" {numbers:,} numbers; choose smaller stages in convert.mapping, or lower"
            " convert.stitch_rank"
        )
    return Bridge(tuple(y.shape[1:]), rank if whole else 0)


def _shown(x: Any) -> str:
    return "x".join(map(str, ("B", *x.shape[1:])))
