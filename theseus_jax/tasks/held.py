"""Held-out examples, and how a network is scored on them; compared by identity, so that a probe
that holds some can be hashed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.evaluate import class_scores, contrast_loss, right_answers, token_loss
from theseus_jax.nets.stage import Network, Variables

HELD_OUT_TOKENS = 4096
HELD_OUT_EXAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class HeldWindows:
    """Held-out windows (N, T + 1) and their mask (N, T)."""

    windows: np.ndarray
    mask: np.ndarray

    def inputs(self) -> jax.Array:
        """Token inputs spread evenly over the split, about HELD_OUT_TOKENS of them; the last,
        padded window is left out.
        """
        windows = self.windows
        wanted = max(1, HELD_OUT_TOKENS // (windows.shape[1] - 1))
        count = min(wanted, max(1, len(windows) - 1))
        chosen = windows[np.linspace(0, max(0, len(windows) - 2), count).astype(int)]
        return jnp.asarray(chosen[:, :-1]).astype(jnp.int32)

    def scores(self, net: Network, variables: Variables) -> dict[str, np.ndarray]:
        """{"loss": nats per token of each seed (S,)}."""
        return {"loss": token_loss(net, variables, self.windows, self.mask)}

    def right(self, net: Network, variables: Variables) -> np.ndarray:
        """(S, targets) bool: which tokens are the most probable one."""
        tokens = self.windows.astype(np.int32)
        y = np.where(self.mask, tokens[:, 1:], -1)
        return right_answers(net, variables, tokens[:, :-1], y)

    def part(self, count: int) -> HeldWindows:
        """The first `count` windows."""
        return HeldWindows(self.windows[:count], self.mask[:count])


@dataclasses.dataclass(frozen=True, eq=False)
class HeldClasses:
    """Held-out inputs (leaves (N, ...)) and classes (N,). name: what their share of right answers
    is called.
    """

    x: Any
    y: np.ndarray
    name: str = "accuracy"

    def inputs(self) -> Any:
        """The first HELD_OUT_EXAMPLES inputs; splits are in drawn order."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[:HELD_OUT_EXAMPLES]), self.x)

    def scores(self, net: Network, variables: Variables) -> dict[str, np.ndarray]:
        """{"loss": nats, name: in [0, 1]} of each seed (S,)."""
        scores = class_scores(net, variables, self.x, self.y)
        return {"loss": scores.loss, self.name: scores.accuracy}

    def right(self, net: Network, variables: Variables) -> np.ndarray:
        """(S, asked) bool: which answers are right."""
        return right_answers(net, variables, self.x, self.y)

    def part(self, count: int) -> HeldClasses:
        """The first `count` examples."""
        x = jax.tree.map(lambda leaf: leaf[:count], self.x)
        return HeldClasses(x, self.y[:count], self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class HeldViews:
    """Held-out rows (N, I) of which two views by dropout are to be told apart from others.

    rate, key: of the masks, the same for every network; batch: rows that are compared at a time.
    """

    x: Any
    batch: int
    temperature: float
    rate: float
    key: jax.Array

    def inputs(self) -> jax.Array:
        """The first HELD_OUT_EXAMPLES rows."""
        return jnp.asarray(self.x[:HELD_OUT_EXAMPLES])

    def scores(self, net: Network, variables: Variables) -> dict[str, np.ndarray]:
        """{"loss": nats, "score": less the loss} of each seed (S,)."""
        loss = contrast_loss(
            net,
            variables,
            self.x,
            batch=self.batch,
            temperature=self.temperature,
            rate=self.rate,
            key=self.key,
        )
        return {"score": -loss, "loss": loss}
