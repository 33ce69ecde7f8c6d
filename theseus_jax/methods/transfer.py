"""Attention transfer: a linear attention's features and decays fitted to the attention weights of
the guide's head in its place, before anything else is trained (Zhang et al. 2024, arXiv 2402.04347,
section 4.2).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from theseus_jax import cost
from theseus_jax.methods.lookback import attentions, check_heads, seams_before
from theseus_jax.methods.stitch import drawn
from theseus_jax.nets.stage import Network, Variables
from theseus_jax.program import over_seeds
from theseus_jax.train import Inputs, State

TOKENS = 4096  # that a step reads
BATCHES = 8  # of windows, one after the other, again and again
RATE = 1e-2  # of Adam
LEAST = 1e-9  # of a weight, in its logarithm


def distance(wanted: jax.Array, given: jax.Array) -> jax.Array:
    """The mean cross-entropy of attention weights (N, H, T, T) with others, nats a token."""
    return -jnp.mean(jnp.sum(wanted * jnp.log(given + LEAST), axis=-1))


@functools.partial(jax.jit, static_argnames=("theirs", "ours", "steps"))
def fitted(
    theirs: Any, ours: Any, guide_params: Any, params: Any, seams: jax.Array, steps: int
) -> Any:
    """The parameters of the stage `ours` with those of its mixer's `fitting` fitted to the stage
    `theirs` of the guide. seams: (BATCHES, N, T, D), what both read.
    """
    names = ours.mixing().fitting
    chosen = {name: params["attn"][name] for name in names}
    tx = optax.adam(RATE)

    def step(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        chosen, state = carry
        x = seams[number % len(seams)]
        loss, slope = jax.value_and_grad(_loss)(chosen, theirs, ours, guide_params, params, x)
        updates, state = tx.update(slope, state)
        return (optax.apply_updates(chosen, updates), state), loss

    (chosen, _), _ = jax.lax.scan(step, (chosen, tx.init(chosen)), jnp.arange(steps))
    return {**params, "attn": {**params["attn"], **chosen}}


def _loss(
    chosen: Any, theirs: Any, ours: Any, guide_params: Any, params: Any, x: jax.Array
) -> jax.Array:
    params = {**params, "attn": {**params["attn"], **chosen}}
    wanted = theirs.apply({"params": guide_params}, x, method="weights")
    return distance(wanted, ours.apply({"params": params}, x, method="weights"))


def _batched(seams: dict[str, jax.Array], windows: int) -> dict[str, jax.Array]:
    """{stage: (BATCHES, N, T, D)} of so many windows, those left out that fill no batch."""
    count = max(1, windows // BATCHES)
    whole = windows // count * count
    return {g: seam[:whole].reshape(-1, count, *seam.shape[1:]) for g, seam in seams.items()}


@dataclasses.dataclass(frozen=True)
class AttentionTransfer:
    """`steps` of Adam for every linear attention of the target that takes an attention's place.

    pairs: (guide stage, target stage).
    """

    guide: Network
    pairs: tuple[tuple[str, str], ...]
    steps: int

    def _places(self, net: Network) -> list[tuple[str, str, Any, Any]]:
        return [
            place
            for place in attentions(self.guide, net, self.pairs)
            if hasattr(place[3].mixing(), "fitting")
        ]

    def __call__(self, state: State, inputs: Inputs) -> State:
        variables = dict(state.variables)
        stages, x = self._read(inputs)
        given = _batched(seams_before(self.guide, state.guide_variables, x, stages), len(x))
        for g, t, theirs, ours in self._places(inputs.phase.net):
            guide_params = state.guide_variables[g]["params"]
            one = functools.partial(fitted, theirs, ours, guide_params, steps=self.steps)
            run = lambda params, one=one, x=given[g]: one(params, x)  # noqa: E731
            params = over_seeds(run, variables[t]["params"])
            variables[t] = {**variables[t], "params": params}
        return state._replace(variables=variables)

    def _read(self, inputs: Inputs) -> tuple[tuple[str, ...], jax.Array]:
        """The guide's stages, and the windows that it reads for them."""
        stages = tuple(dict.fromkeys(g for g, *_ in self._places(inputs.phase.net)))
        count = max(1, TOKENS // drawn(inputs, 1).shape[1])
        return stages, drawn(inputs, BATCHES * count)

    def told(self, before: State, after: State, inputs: Inputs) -> list[dict[str, Any]]:
        """What it took of one seed, counted as training, without the guide reading once."""
        stages, x = self._read(inputs)
        read = functools.partial(seams_before, self.guide, stages=stages)
        shapes = jax.eval_shape(read, before.guide_variables, x)
        given, flops = jax.eval_shape(lambda seams: _batched(seams, len(x)), shapes), 0.0
        for g, t, theirs, ours in self._places(inputs.phase.net):
            params = jax.tree.map(lambda leaf: leaf[0], before.variables[t]["params"])
            chosen = {name: params["attn"][name] for name in ours.mixing().fitting}

            def slope(chosen, guide_params, params, x, theirs=theirs, ours=ours):
                return jax.grad(_loss)(chosen, theirs, ours, guide_params, params, x)

            x = jax.ShapeDtypeStruct(given[g].shape[1:], given[g].dtype)
            args = chosen, before.guide_variables[g]["params"], params, x
            flops += self.steps * cost.lowered_flops(slope, *args)
        return [{"kind": "stored", "training_flops": flops, "what": str(self)}]

    def check(self, net: Network, variables: Variables, guide_variables: Variables) -> None:
        """Raises UserError where no linear attention takes an attention's place, or one has other
        heads.
        """
        check_heads(
            [(g, t, theirs.mixing(), ours.mixing()) for g, t, theirs, ours in self._places(net)],
            "linear attention of the target",
            "convert.transfer to 0",
            "target.cell to 'linear_attention'",
        )

    def __str__(self) -> str:
        return f"fit features and decays to the guide's attention weights for {self.steps} steps"
