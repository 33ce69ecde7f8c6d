"""Changes to trained weights between phases: what is inherited, the stitch of a hybrid, and its
folding into the head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.methods.stitch import fit_stitch
from theseus_jax.nets.blocks import readout
from theseus_jax.nets.stage import Network, Variables, tied
from theseus_jax.nets.variables import merge
from theseus_jax.train import Inputs, State


@dataclasses.dataclass(frozen=True)
class Inherit:
    """Copy parts of the guide into the target: whole stages or their submodules, matched by `pairs`
    of stages.

    pairs: (guide stage, target stage). parts: names of stages or submodules; a tensor is copied
    where the target has one of the same path, shape and dtype. Raises UserError for a part that
    fits nowhere.
    """

    guide: Network
    pairs: tuple[tuple[str, str], ...]
    parts: tuple[str, ...]

    def __call__(self, state: State, inputs: Inputs) -> State:
        variables, used = dict(state.variables), set()
        for g, t in self.pairs:
            source = tied(self.guide, g, state.guide_variables).get("params", {})
            target = variables.get(t, {}).get("params", {})
            for part in self.parts:
                chosen = (
                    source
                    if part == t
                    else {part: source[part]}
                    if part in source and part in target
                    else {}
                )
                copied, count = _copy(target, chosen)
                if count:
                    target, used = copied, used | {part}
            if t in variables:
                variables[t] = {**variables[t], "params": target}
        unused = [part for part in self.parts if part not in used]
        if unused:
            raise UserError(
                f"the target cannot inherit {', '.join(unused)}: no tensor of the guide fits there;"
                " take it out of convert.inherit or give the target the guide's width"
            )
        return state._replace(variables=variables)

    def check(self, net: Network, variables: Variables, guide_variables: Variables) -> None:
        """Raises UserError for what cannot be inherited, from shapes alone. variables: with a
        leading seed axis.
        """
        jax.eval_shape(
            lambda v, g: self(State(0, v, g, None, None), None).variables,
            variables,
            guide_variables,
        )

    def __str__(self) -> str:
        return f"inherit {', '.join(self.parts)} from the guide"


def _copy(target: Any, source: Any) -> tuple[Any, int]:
    """target (leading seed axis) with source's tensors where paths and shapes agree, and how many
    were copied.
    """
    if not isinstance(target, dict):
        fits = target.shape[1:] == source.shape and target.dtype == source.dtype
        return (jnp.broadcast_to(source, target.shape), 1) if fits else (target, 0)
    copied = {key: _copy(target[key], source[key]) for key in target.keys() & source.keys()}
    return {**target, **{key: pair[0] for key, pair in copied.items()}}, sum(
        pair[1] for pair in copied.values()
    )


@dataclasses.dataclass(frozen=True)
class Fold:
    """Stitch the last seam and fold the map into the target's linear head, which then reads what
    the guide's head reads.

    Exact up to rounding: (x M + c) K + b = x (M K) + (c K + b). Raises UserError when the head is
    not linear.
    """

    guide: Network
    pair: tuple[str, str]
    ridge_weight: float = 1e-4

    def __call__(self, state: State, inputs: Inputs) -> State:
        stitch = fit_stitch(state, inputs, self.guide, self.pair, ridge_weight=self.ridge_weight)
        self.check(inputs.phase.net, state.variables, state.guide_variables)
        kernel, bias = read_out(self.guide, state.guide_variables)
        given = stitch.params["map"]
        folded = (
            jnp.einsum("spq,qo->spo", given["kernel"], kernel, precision="highest"),
            jnp.matmul(given["bias"], kernel, precision="highest") + bias,
        )
        head = inputs.phase.net.stages[-1]
        params = readout.layout(head.module).write(*folded)
        return state._replace(variables=merge(state.variables, {head.name: {"params": params}}))

    def check(self, net: Network, variables: Variables, guide_variables: Variables) -> None:
        """Raises UserError unless both heads are linear and the target's has a bias."""
        check_head(self.guide, "guide")
        check_head(net, "target")
        if not readout.has_bias(net.stages[-1].module):
            raise UserError(
                f"the target's {net.names[-1]!r} has no bias, which the folded stitch needs; give"
                " it one, or set stitch to 'none' (convert.stitch)"
            )

    def __str__(self) -> str:
        return f"stitch {self.pair[1]} to the guide's {self.pair[0]} and fold the map into the head"


def check_head(net: Network, role: str) -> None:
    """Raises UserError when the last stage of the `role` ("guide" or "target") is not linear, by
    `nets.blocks.readout`.
    """
    stage = net.stages[-1]
    if readout.layout(stage.module) is None:
        raise UserError(
            f"the {role}'s {stage.name!r} is a {type(stage.module).__name__}, not a linear head;"
            f" end the {role} with nn.Dense, or set stitch to 'none' (convert.stitch)"
        )


def read_out(net: Network, variables: Variables) -> tuple[jax.Array, jax.Array]:
    """A linear head as (kernel (D, O), bias (O,)). Raises UserError when the last stage is none."""
    check_head(net, "guide")
    return readout.layout(net.stages[-1].module).read(
        tied(net, net.names[-1], variables).get("params", {})
    )
