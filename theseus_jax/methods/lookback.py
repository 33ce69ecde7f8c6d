"""How far the heads of a guide look back, and a recurrence whose heads forget at that rate.

A stage has attention if its module has `mixing()` with `look_back`, and decays if it has `mixing()`
with `remembering` and `decay` (`nets.models.gpt2.Block`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Sequence

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.methods.stitch import drawn
from theseus_jax.nets.stage import Network, Variables, forward, position, tied
from theseus_jax.train import Inputs, State

NEAREST = 0.05  # tokens: a head that reads its own token alone has a decay above 0 too


def mixing(net: Network, name: str) -> Any:
    """The module that mixes tokens in a stage, or None."""
    module = net.stages[position(net, name)].module
    return module.mixing() if hasattr(module, "mixing") else None


def check_heads(places: Sequence[tuple[str, str, Any, Any]], kind: str, off: str, on: str) -> None:
    """Raises UserError where no attention is replaced, or one by a mixer of other heads.

    places: (guide stage, target stage, their mixers). kind: of mixer, of the target; off, on: the
    settings that ask for none, and that make one, for errors.
    """
    if not places:
        raise UserError(
            f"no {kind} takes the place of an attention of the guide; set {off}, or {on}"
        )
    for g, t, theirs, ours in places:
        if theirs.heads != ours.heads:
            raise UserError(
                f"the target's {t} has {ours.heads} heads and the guide's {g} {theirs.heads}; set"
                f" target.heads to as many, or {off}"
            )


def attentions(
    guide: Network, net: Network, pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, str, Any, Any]]:
    """(guide stage, target stage, their modules) of the pairs whose guide stage has attention and
    whose target stage has another mixer that can be made to look back as it does.
    """
    found = []
    for g, t in pairs:
        if hasattr(mixing(guide, g), "look_back") and hasattr(mixing(net, t), "remembering"):
            modules = (
                one.stages[position(one, name)].module for one, name in ((guide, g), (net, t))
            )
            found.append((g, t, *modules))
    return found


@functools.partial(jax.jit, static_argnames=("net", "stages"))
def seams_before(
    net: Network, variables: Variables, x: Any, stages: tuple[str, ...]
) -> dict[str, jax.Array]:
    """{stage: (N, T, D)}: what these stages read where the network reads x (N, T)."""
    before = {name: net.names[position(net, name) - 1] for name in stages}
    _, read, _ = forward(net, variables, x, capture=tuple(dict.fromkeys(before.values())))
    return {name: read[before[name]] for name in stages}


@functools.partial(jax.jit, static_argnames=("net", "stages"))
def looked_back(
    net: Network, variables: Variables, x: Any, stages: tuple[str, ...]
) -> dict[str, jax.Array]:
    """{stage: (H,)}: tokens that each head of these stages looks back on, the mean distance under
    its attention weights over all tokens of x (N, T).
    """
    read = seams_before(net, variables, x, stages)
    return {
        name: net.stages[position(net, name)].module.apply(
            tied(net, name, variables), read[name], method="look_back"
        )
        for name in stages
    }


@dataclasses.dataclass(frozen=True)
class LookBack:
    """Every head of the target's linear attentions forgets as fast as the guide's head in its place
    does: weights a^n with the mean distance that the guide's attention has on a few windows.

    pairs: (guide stage, target stage); stages without an attention there are left as they are.
    """

    guide: Network
    pairs: tuple[tuple[str, str], ...]
    windows: int = 32

    def _places(self, net: Network) -> list[tuple[str, str, Any, Any]]:
        return [
            (g, t, theirs.mixing(), ours.mixing())
            for g, t, theirs, ours in attentions(self.guide, net, self.pairs)
            if ours.mixing().decay
        ]

    def __call__(self, state: State, inputs: Inputs) -> State:
        places = self._places(inputs.phase.net)
        stages = tuple(dict.fromkeys(g for g, *_ in places))
        x = drawn(inputs, self.windows)
        distances = looked_back(self.guide, state.guide_variables, x, stages)
        variables = dict(state.variables)
        for g, t, _, ours in places:
            params = variables[t]["params"]
            seeds = len(jax.tree.leaves(params)[0])
            wanted = jnp.broadcast_to(
                jnp.maximum(distances[g], NEAREST), (seeds, *distances[g].shape)
            )
            attn = ours.remembering(params["attn"], wanted)
            variables[t] = {**variables[t], "params": {**params, "attn": attn}}
        return state._replace(variables=variables)

    def check(self, net: Network, variables: Variables, guide_variables: Variables) -> None:
        """Raises UserError where the guide has no attention or the target no decays, or other
        heads.
        """
        check_heads(
            self._places(net),
            "linear attention of the target, with decays,",
            "convert.decays to 'fresh'",
            "target.cell to 'linear_attention' and target.decay to True",
        )

    def __str__(self) -> str:
        return f"forget as fast as the guide's heads do on {self.windows} windows"
