"""The constant attention weights that best give what a guide's heads see: a low-rank (T, T) matrix
a head, in closed form.

A stage has static attention if its module has `mixing()` with `weighing`
(`nets.models.token_mlp.StaticAttention`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax import lapack
from theseus_jax.methods.lookback import check_heads, mixing, seams_before
from theseus_jax.methods.stitch import drawn, reduced
from theseus_jax.nets import inner
from theseus_jax.nets.stage import Network, Variables, forward, position
from theseus_jax.program import over_seeds
from theseus_jax.train import Inputs, State

EXAMPLES = 512  # each gives D / H rows a head
RIDGE = 1e-4  # in units of the values' mean square
SEEN, VALUES = "attn/mixed", "attn/value"


def best_weights(
    values: jax.Array, seen: jax.Array, heads: int, rank: int
) -> tuple[jax.Array, jax.Array]:
    """(down (H, T, rank), up (H, rank, T)) whose product W_h (down up)^T minimises the sum of
    ||W_h v - s||^2 + lambda ||W_h||^2 over examples and the head's channels.

    values, seen: (N, T, D), heads side by side: what a head reads and what it passes on, v and s
    (T,) of a channel. lambda: RIDGE times the mean square of a head's values. Reduced-rank
    regression without an intercept (`stitch.reduced`), as softmax weights have none.
    """

    def one(values: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, wanted = (z.swapaxes(1, 2).reshape(-1, z.shape[1]) for z in (values, seen))
        return _balanced(*reduced(rows, wanted, RIDGE, rank))

    split = (*values.shape[:2], heads, -1)
    return jax.lax.map(
        lambda pair: one(*pair), tuple(jnp.moveaxis(z.reshape(split), 2, 0) for z in (values, seen))
    )


def _balanced(down: jax.Array, up: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same product of factors whose columns and rows have equal norms, so that one rate suits
    both: (P, rank), (rank, Q).
    """
    norms = jnp.linalg.norm(down, axis=0), jnp.linalg.norm(up, axis=1)
    scale = jnp.sqrt(norms[1] / norms[0])
    return down * scale, up / scale[:, None]


@functools.partial(jax.jit, static_argnames=("guide", "stages"))
def _seen(
    guide: Network, variables: Variables, x: Any, stages: tuple[str, ...]
) -> dict[str, jax.Array]:
    """{guide stage: (N, T, D)}: what its heads pass on, before the output's projection."""
    _, found, _ = forward(guide, variables, x, capture=[f"{name}/{SEEN}" for name in stages])
    return {name: found[f"{name}/{SEEN}"] for name in stages}


@functools.partial(jax.jit, static_argnames=("module",))
def _weighed(module: Any, stacked: Any, seam: jax.Array, seen: jax.Array) -> Any:
    """A target stage's variables with the best weights, for every seed."""
    mixer = module.mixing()

    def one(variables: Any) -> Any:
        values = inner.run(module, variables, seam, (VALUES,))[2][VALUES]
        down, up = best_weights(values, seen, mixer.heads, mixer.rank)
        params = variables["params"]
        return {**variables, "params": {**params, "attn": mixer.weighing(params["attn"], down, up)}}

    return over_seeds(one, stacked)


@dataclasses.dataclass(frozen=True)
class BestWeights:
    """Every static attention of the target gets the weights that on a few examples best give what
    the guide's heads in its place see.

    pairs: (guide stage, target stage). Both read the guide's seam before its stage.
    """

    guide: Network
    pairs: tuple[tuple[str, str], ...]
    examples: int = EXAMPLES

    def _places(self, net: Network) -> list[tuple[str, str, Any, Any]]:
        """(guide stage, target stage, the guide's mixer, the target's module)."""
        return [
            (g, t, mixing(self.guide, g), net.stages[position(net, t)].module)
            for g, t in self.pairs
            if mixing(self.guide, g) is not None and hasattr(mixing(net, t), "weighing")
        ]

    def __call__(self, state: State, inputs: Inputs) -> State:
        lapack.one_thread()
        places = self._places(inputs.phase.net)
        stages = tuple(dict.fromkeys(g for g, *_ in places))
        x = drawn(inputs, self.examples)
        seams = seams_before(self.guide, state.guide_variables, x, stages)
        seen, variables = _seen(self.guide, state.guide_variables, x, stages), dict(state.variables)
        for g, t, _, module in places:
            variables[t] = _weighed(module, variables[t], seams[g], seen[g])
        return state._replace(variables=variables)

    def check(self, net: Network, variables: Variables, guide_variables: Variables) -> None:
        """Raises UserError where no static attention takes an attention's place, or one has other
        heads.
        """
        check_heads(
            self._places(net),
            "static attention of the target",
            "convert.weights to 'fresh'",
            "target.arch to 'token_mlp' and target.heads to the guide's",
        )

    def __str__(self) -> str:
        return f"weigh tokens as the guide's heads do at best, on {self.examples} examples"
