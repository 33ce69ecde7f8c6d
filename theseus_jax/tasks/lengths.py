"""The loss of language models by position, up to several times the context that they were trained
on.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.data.windows import windows
from theseus_jax.errors import UserError
from theseus_jax.nets.decode import check_length
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.objectives import cross_entropy

TIMES = 8  # the trained context
TOKENS = 65536  # at most, of a split
BATCH = 4  # windows at a time


def reads(net: Network, variables: Variables, length: int) -> bool:
    """Whether a network can read so many tokens: learned positions end somewhere."""
    try:
        check_length(net, variables, length)
    except UserError:
        return False
    return True


@functools.partial(jax.jit, static_argnums=0)
def _losses(net: Network, variables: Variables, blocks: jax.Array) -> jax.Array:
    """Blocks (M, BATCH, T + 1) of windows -> the sum of losses at every position (T,)."""

    def one(block: jax.Array) -> jax.Array:
        logits = forward(net, variables, block[:, :-1])[0]
        return cross_entropy(logits, block[:, 1:]).sum(axis=0)

    return jax.lax.map(one, blocks).sum(axis=0)


Planted = Callable[[np.ndarray], np.ndarray]


def position_losses(
    net: Network,
    variables: Variables,
    tokens: np.ndarray,
    length: int,
    planted: Planted = lambda cut: cut,
) -> Any:
    """The mean loss at each position of windows of so many tokens, nats: (length,) float64.

    variables: of one seed. tokens: (N,) of a split, of which the first TOKENS are read. planted:
    what is done to windows first. Raises UserError for fewer than BATCH windows.
    """
    cut = planted(windows(tokens[: TOKENS + 1], length, "test"))
    count = len(cut) // BATCH * BATCH
    if not count:
        raise UserError(
            f"{len(tokens)} tokens are fewer than {BATCH} windows of {length}; give more text"
        )
    blocks = jnp.asarray(cut[:count].reshape(-1, BATCH, length + 1))
    return np.asarray(_losses(net, variables, blocks), np.float64) / count


def edges(context: int, times: int) -> list[int]:
    """Where positions are parted: an eighth, a half and all of the trained context, then twos."""
    inside = sorted({0, context // 8, context // 2, context})
    return [*inside, *(context * 2**i for i in range(1, times.bit_length()))]


def table(
    models: Sequence[tuple[str, Network, Variables]],
    tokens: np.ndarray,
    context: int,
    planted: Planted | None = None,
) -> dict[str, Any]:
    """A table of results.json: each model's loss in stretches of positions; of plain text beyond
    the trained context too, where it can read them and the split is long enough. planted: see
    `position_losses`; what is planted in longer windows stands at other places.
    """
    times = 1 if planted else TIMES
    while times > 1 and len(tokens) < BATCH * context * times + 1:
        times //= 2
    ends = edges(context, times)
    stretches = list(zip(ends, ends[1:]))
    rows = []
    for name, net, variables in models:
        length = context * times if reads(net, variables, context * times) else context
        losses = position_losses(net, variables, tokens, length, planted or np.asarray)
        row = {"model": name}
        row |= {f"from_{a}": float(losses[a:b].mean()) for a, b in stretches if b <= length}
        rows.append(row)
    columns = [{"key": "model", "label": "model", "unit": ""}]
    columns += [{"key": f"from_{a}", "label": f"{a}-{b - 1}", "unit": "loss"} for a, b in stretches]
    note = f"Test loss at these positions of a window, one seed; trained on {context}."
    if times > 1:
        note += " A model with learned positions, or none beyond, ends there."
    return {"title": "Loss by position", "note": note, "columns": columns, "rows": rows}
