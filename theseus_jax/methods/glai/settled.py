"""The maturity criterion as a stopping rule of the selector's phase, and what is logged of its
gates each epoch.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Callable

import jax

from theseus_jax.methods.glai.maturity import (
    Maturity,
    Snapshot,
    mature,
    oui,
    pattern_distance,
    settling,
    snapshot,
)
from theseus_jax.nets.models.heads import layers_of
from theseus_jax.nets.stage import Variables


@dataclasses.dataclass(frozen=True)
class Settled:
    """End the selector's phase once its paths have settled by `rule`; checks are `every` steps
    apart.

    Scores are m_t (`maturity.settling`) against the parameters of the check before (at first, the
    initial ones), which are therefore always kept; the phase ends with the newest. Unlike a share
    of the epochs that the MLP would need, it does not need the MLP. measure(state): m_t, where it
    is not handed in.
    """

    every: int
    rule: Maturity = Maturity()
    restore: bool = False
    last: bool = True
    measure: Callable[[Any], float] | None = dataclasses.field(default=None, compare=False)

    def measured_by(self, measure: Callable[[Any], float]) -> Settled:
        """The same rule with its own reading of the state."""
        return dataclasses.replace(self, measure=measure)

    def done(self, scores: tuple[float, ...]) -> bool:
        """True when the history of m_t satisfies the rule."""
        return mature(scores, self.rule)

    def keeps(self, scores: tuple[float, ...]) -> bool:
        """Always: the next check compares with this one."""
        return True

    def __str__(self) -> str:
        return (
            f"when the mean path change of {self.rule.window} checks is under {self.rule.share:.0%}"
            f" of the largest one, {self.every} steps apart"
        )


@jax.jit
def _settling(
    before: Variables, after: Variables, x: jax.Array
) -> tuple[jax.Array, Snapshot, Snapshot]:
    old, new = (
        snapshot(layers_of(jax.tree.map(lambda leaf: leaf[0], variables)), x)
        for variables in (before, after)
    )
    return settling(x, old, new), old, new


def watch(before: Variables, after: Variables, x: jax.Array) -> dict[str, float]:
    """Three readings of an MLP's gates on reference rows x (B, I) between two checks (variables
    with a seed axis of 1).

    settling: m_t of the paths; pattern_distance: the share of gates that changed, mean over layers;
    oui: of the newer. seconds: what settling took, the one reading that the stopping rule needs.
    """
    began = time.perf_counter()
    value, old, new = jax.block_until_ready(_settling(before, after, x))
    seconds = time.perf_counter() - began
    return {
        "settling": float(value),
        "pattern_distance": float(pattern_distance(old, new).mean()),
        "oui": float(oui(new)),
        "seconds": seconds,
    }
