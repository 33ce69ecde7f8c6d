"""What a target begins with: the edits before its first step, and what it scores after each."""

from __future__ import annotations

import dataclasses
from typing import Any

from theseus_jax.methods.lookback import LookBack
from theseus_jax.methods.mapping import Mapping
from theseus_jax.methods.static import BestWeights
from theseus_jax.methods.surgery import Inherit
from theseus_jax.methods.transfer import AttentionTransfer
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.plan import Edit
from theseus_jax.train import Inputs, State


def inherited(guide: Network, pairs: Mapping, settings: Any, held: Any = None) -> tuple[Edit, ...]:
    """The edits that begin a target from a guide; settings: with `inherit`, `keep`, `decays`,
    `weights` and `transfer`. held: held-out examples that the target is scored on after each.
    """
    kept = tuple(pair for pair in pairs if f"{pair[1]}/attn" in settings.keep)
    edits = [
        *([Inherit(guide, pairs, settings.inherit)] if settings.inherit else []),
        *([Inherit(guide, kept, ("attn",))] if kept and "attn" not in settings.inherit else []),
        *([LookBack(guide, pairs)] if settings.decays == "measured" else []),
        *([BestWeights(guide, pairs)] if settings.weights == "measured" else []),
        *([AttentionTransfer(guide, pairs, settings.transfer)] if settings.transfer else []),
    ]
    return tuple(Scored(edit, held) if held else edit for edit in edits)


@dataclasses.dataclass(frozen=True)
class Scored:
    """An edit before training, with rows of kind "begin": what the network scores on held-out data
    once it is made, one row a seed.
    """

    edit: Edit
    held_out: Any

    def __call__(self, state: State, inputs: Inputs) -> State:
        return self.edit(state, inputs)

    def check(self, net: Network, variables: Variables, guide_variables: Variables) -> None:
        """What the edit itself checks."""
        self.edit.check(net, variables, guide_variables)

    def told(self, before: State, after: State, inputs: Inputs) -> list[dict[str, Any]]:
        scores = self.held_out.scores(inputs.phase.net, after.variables)
        own = getattr(self.edit, "told", None)
        return (own(before, after, inputs) if own else []) + [
            {
                "kind": "begin",
                "seed": seed,
                "edit": str(self.edit),
                **{f"validation_{key}": float(value[seed]) for key, value in scores.items()},
            }
            for seed in range(len(scores["loss"]))
        ]

    def __str__(self) -> str:
        return str(self.edit)
