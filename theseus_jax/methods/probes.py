"""What is measured after an alignment stage: similarity on held-out data, and the hybrid's score on the task."""
from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from theseus_jax.evaluate import stage_similarity, token_loss
from theseus_jax.methods.surgery import Stitch, fit_stitch, hybrid, hybrid_module_variables
from theseus_jax.similarity import metric
from theseus_jax.train import Inputs, State

HELD_OUT_TOKENS = 4096


class Held(tuple):
    """Held-out windows (N, T + 1) and their mask (N, T), compared by identity so that a probe can be hashed."""

    __hash__ = object.__hash__

    def __eq__(self, other: Any) -> bool:
        return self is other


def similarity_windows(windows: np.ndarray) -> np.ndarray:
    """Held-out windows spread evenly over the split, about HELD_OUT_TOKENS tokens; the last, padded one is left out."""
    count = min(max(1, HELD_OUT_TOKENS // (windows.shape[1] - 1)), max(1, len(windows) - 1))
    return windows[np.linspace(0, max(0, len(windows) - 2), count).astype(int)]


@dataclasses.dataclass(frozen=True)
class StageProbe:
    """Rows of kind "stage", one a seed: debiased CKA and mutual kNN at the seam, raw and stitched hybrid loss (nats).

    The hybrid is target up to the seam, then the frozen guide suffix; "raw" lets the suffix read the target as it is
    (only where widths agree), "stitched" through the ridge map.
    """

    held_out: Held
    pair: tuple[str, str] = ("", "")
    neighbours: int = 10

    def __call__(self, state: State, inputs: Inputs) -> list[dict[str, Any]]:
        net, guide, (windows, mask) = inputs.phase.net, inputs.phase.guide, self.held_out
        cka, knn = stage_similarity(
            net, state.variables, guide, state.guide_variables, similarity_windows(windows), pair=self.pair,
            metrics=(metric("cka_debiased"), metric("mutual_knn", k=self.neighbours)))
        stitch = fit_stitch(state, inputs, guide, self.pair)
        losses = {"hybrid_loss": self._loss(state, inputs, stitch)}
        seeds, rows, columns = stitch.matrix.shape
        if rows == columns:
            plain = Stitch(jnp.broadcast_to(jnp.eye(rows), stitch.matrix.shape), jnp.zeros_like(stitch.offset))
            losses["hybrid_raw_loss"] = self._loss(state, inputs, plain)
        return [{"kind": "stage", "stage": self.pair[1], "guide_stage": self.pair[0], "seed": seed,
                 "optimizer_steps": state.step, "similarity_cka_debiased": float(cka[seed]),
                 "similarity_mutual_knn": float(knn[seed]), **{key: float(value[seed]) for key, value in losses.items()}}
                for seed in range(seeds)]

    def _loss(self, state: State, inputs: Inputs, stitch: Stitch) -> np.ndarray:
        net, guide = inputs.phase.net, inputs.phase.guide
        mixed = hybrid(net, guide, self.pair, stitch.matrix.shape[-1])
        variables = hybrid_module_variables(net, state.variables, guide, state.guide_variables, self.pair, stitch)
        return token_loss(mixed, variables, *self.held_out)

    def __str__(self) -> str:
        return f"similarity at {self.pair[1]} on held-out data, and the loss of the hybrid"
