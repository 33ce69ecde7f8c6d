"""What is measured after an alignment stage: similarity on held-out data, and the hybrid's score on
the task.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.evaluate import stage_similarity
from theseus_jax.methods.stitch import Stitch, fit_stitch, hybrid, hybrid_module_variables
from theseus_jax.nets.stage import forward
from theseus_jax.similarity import NamedSimilarity, metric
from theseus_jax.train import Inputs, State
from theseus_jax.trees import parameter_count


@dataclasses.dataclass(frozen=True)
class StageProbe:
    """Rows of kind "stage", one a seed: debiased CKA and mutual kNN at the seam, and scores of the
    raw and stitched hybrid.

    The hybrid is target up to the seam, then the frozen guide suffix; "raw" lets the suffix read
    the target as it is (only where shapes agree), "stitched" through the ridge map. kind: what
    counts as a sample (`similarity.samples`). ridge_weight, rank: of the stitch. recalibrate: batch
    norm is measured anew first, and the stitched hybrid's scores before it are given as
    hybrid_moving_*, those of the moving averages. stitch_parameters: fitted numbers, of no deployed
    network.
    """

    held_out: Any
    pair: tuple[str, str] = ("", "")
    neighbours: int = 10
    kind: str = "tokens"
    ridge_weight: float = 1e-4
    rank: int = 64
    recalibrate: Callable[[State, Inputs], State] | None = None

    def __call__(self, state: State, inputs: Inputs) -> list[dict[str, Any]]:
        net, guide, moving = inputs.phase.net, inputs.phase.feed.guide, {}
        if self.recalibrate:
            moving = self._scores(state, inputs, self._stitch(state, inputs))
            state = self.recalibrate(state, inputs)
        measures: tuple[NamedSimilarity, ...] = (
            metric("cka_debiased"),
            metric("mutual_knn", k=self.neighbours),
        )
        cka, knn = stage_similarity(
            net,
            state.variables,
            guide,
            state.guide_variables,
            self.held_out.inputs(),
            pair=self.pair,
            metrics=measures,
            kind=self.kind,
        )
        stitch = self._stitch(state, inputs)
        scores = {
            f"hybrid_{key}": value for key, value in self._scores(state, inputs, stitch).items()
        }
        scores |= {f"hybrid_moving_{key}": value for key, value in moving.items()}
        square = "map" in stitch.params and len({*stitch.params["map"]["kernel"].shape[1:]}) == 1
        if square and self._same_shape(state, inputs):
            kernel, bias = stitch.params["map"]["kernel"], stitch.params["map"]["bias"]
            plain = {
                "map": {
                    "kernel": jnp.broadcast_to(jnp.eye(kernel.shape[-1]), kernel.shape),
                    "bias": jnp.zeros_like(bias),
                }
            }
            raw = self._scores(state, inputs, Stitch(stitch.bridge, plain))
            scores |= {f"hybrid_raw_{key}": value for key, value in raw.items()}
        return [
            {
                "kind": "stage",
                "stage": self.pair[1],
                "guide_stage": self.pair[0],
                "seed": seed,
                "optimizer_steps": state.step,
                "stitch_parameters": parameter_count(stitch.params) // len(cka),
                "similarity_cka_debiased": float(cka[seed]),
                "similarity_mutual_knn": float(knn[seed]),
                **{key: float(value[seed]) for key, value in scores.items()},
            }
            for seed in range(len(cka))
        ]

    def _stitch(self, state: State, inputs: Inputs) -> Stitch:
        return fit_stitch(
            state,
            inputs,
            inputs.phase.feed.guide,
            self.pair,
            ridge_weight=self.ridge_weight,
            rank=self.rank,
        )

    def _same_shape(self, state: State, inputs: Inputs) -> bool:
        """Whether the target's stage gives just what the guide's next stage reads."""
        phase, x = inputs.phase, self.held_out.inputs()
        first = jax.tree.map(lambda leaf: leaf[0], state.variables)
        ours = jax.eval_shape(lambda v, z: forward(phase.net, v, z, stop=self.pair[1])[0], first, x)
        theirs = jax.eval_shape(
            lambda v, z: forward(phase.feed.guide, v, z, stop=self.pair[0])[0],
            state.guide_variables,
            x,
        )
        return jax.tree.leaves(ours)[0].shape == jax.tree.leaves(theirs)[0].shape

    def _scores(self, state: State, inputs: Inputs, stitch: Stitch) -> dict[str, np.ndarray]:
        net, guide = inputs.phase.net, inputs.phase.feed.guide
        mixed = hybrid(net, guide, self.pair, stitch.bridge)
        variables = hybrid_module_variables(
            net, state.variables, guide, state.guide_variables, self.pair, stitch
        )
        return self.held_out.scores(mixed, variables)

    def __str__(self) -> str:
        return f"similarity at {self.pair[1]} on held-out data, and the scores of the hybrid"
