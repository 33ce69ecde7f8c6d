"""Changes to trained weights between phases: what is inherited, the stitch of a hybrid, and its
folding into the head.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax import lapack
from theseus_jax.errors import UserError
from theseus_jax.nets.blocks import readout
from theseus_jax.nets.blocks.bridge import LARGEST, Bridge, bridge, fitted
from theseus_jax.nets.stage import (
    Network,
    Stage,
    Variables,
    forward,
    merge,
    position,
    tied,
    values_and_mask,
)
from theseus_jax.program import in_blocks, inputs_and_labels, over_seeds
from theseus_jax.train import Inputs, State

# tokens of text or examples: a forward pass over them costs as much as a few steps
STITCH_SAMPLES = 2048
STITCH_EXAMPLES = 256  # at least, where each gives many positions: neighbours say nearly the same


class Stitch(NamedTuple):
    """A fitted map from a target stage's output to a guide stage's: a bridge, and its parameters
    with a seed axis.
    """

    bridge: Bridge
    params: dict[str, Any]


def ridge(x: jax.Array, y: jax.Array, ridge_weight: float, rank: int = 0) -> dict[str, Any]:
    """argmin over M, c of ||x M + c - y||^2 + lambda ||M||^2, lambda = ridge_weight * trace of x's
    scatter / P, as the parameters of a `Bridge`.

    x: (N, P), y: (N, Q), float. Centred first, so that c is not penalised; solved in float32 by
    Cholesky. rank r > 0: the best M of that rank under the same penalised loss, M V V^T with V the
    r leading directions of the penalised fit (reduced-rank regression, Izenman 1975; ridge form:
    Mukherjee and Zhu 2011).
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, v = x - mean_x, y - mean_y
    gram = jnp.matmul(u.T, u, precision="highest")
    weight = ridge_weight * jnp.trace(gram) / x.shape[1] + 1e-12
    root = jnp.linalg.cholesky(gram + weight * jnp.eye(x.shape[1]))
    half = jax.scipy.linalg.solve_triangular(
        root, jnp.matmul(u.T, v, precision="highest"), lower=True
    )
    if not rank:
        matrix = jax.scipy.linalg.solve_triangular(root.T, half, lower=False)
        return {
            "map": {
                "kernel": matrix,
                "bias": mean_y - jnp.matmul(mean_x, matrix, precision="highest"),
            }
        }
    _, directions = jnp.linalg.eigh(jnp.matmul(half, half.T, precision="highest"))
    leading = directions[:, -rank:]
    # M V = root^-T half V, half V = leading * scale
    down = jax.scipy.linalg.solve_triangular(root.T, leading, lower=False)
    up = jnp.matmul(leading.T, half, precision="highest")
    offset = mean_y - jnp.matmul(
        jnp.matmul(mean_x, down, precision="highest"), up, precision="highest"
    )
    return {"down": {"kernel": down}, "up": {"kernel": up, "bias": offset}}


def drawn(inputs: Inputs, count: int) -> Any:
    """What the networks read of `count` training examples drawn once (all, if there are fewer), the
    same for every seed.
    """
    total = len(jax.tree.leaves(inputs.examples)[0])
    rows = jax.random.permutation(inputs.surgery[0], total)[:count]
    return inputs_and_labels(jax.tree.map(lambda leaf: leaf[rows], inputs.examples))[0]


def stitch_bridge(
    net: Network,
    variables: Variables,
    guide: Network,
    guide_variables: Variables,
    x: Any,
    pair: tuple[str, str],
    rank: int,
) -> Bridge:
    """The bridge of a seam (guide stage, target stage) for inputs like x. variables: shapes or
    arrays of one seed.
    """

    def shape(net, variables, stop):
        return jax.eval_shape(lambda v, z: forward(net, v, z, stop=stop)[0], variables, x)

    given, what = shape(net, variables, pair[1]), f"the target's {pair[1]} to the guide's {pair[0]}"
    made = bridge(given, shape(guide, guide_variables, pair[0]), rank=rank, what=what)
    values = values_and_mask(given)[0]
    features = math.prod(values.shape[1:]) if made.rank else values.shape[-1]
    if features**2 > LARGEST:
        raise UserError(
            f"the stitch from {what} would solve for {features:,} features at once; choose smaller"
            " stages in convert.mapping, or set convert.stitch to 'none'"
        )
    return made


@functools.partial(jax.jit, static_argnames=("net", "guide", "pair", "ridge_weight", "made"))
def _fit_stitch(net, variables, guide, guide_variables, x, pair, ridge_weight, made):
    def rows(net, variables, stop):
        values, mask = values_and_mask(
            in_blocks(lambda block: forward(net, variables, block, stop=stop)[0], x)
        )
        # padding is 0 on both sides
        return values if mask is None else values * (mask > 0)[..., None]

    y = rows(guide, guide_variables, pair[0])

    def one_seed(variables):
        z = fitted(rows(net, variables, pair[1]), made.shape)
        features = math.prod(y.shape) // math.prod(z.shape[:-1])
        return ridge(z.reshape(-1, z.shape[-1]), y.reshape(-1, features), ridge_weight, made.rank)

    return over_seeds(one_seed, variables)


def fit_stitch(
    state: State,
    inputs: Inputs,
    guide: Network,
    pair: tuple[str, str],
    *,
    ridge_weight: float = 1e-4,
    rank: int = 64,
) -> Stitch:
    """The stitch at a seam (guide stage, target stage) from training examples drawn once, the same
    for every seed.

    rank: of a map between whole activations (see `nets.blocks.bridge`). About STITCH_SAMPLES tokens
    of text or examples are read.
    """
    lapack.one_thread()
    first = jax.eval_shape(functools.partial(jax.tree.map, lambda leaf: leaf[0]), state.variables)
    made = stitch_bridge(
        inputs.phase.net, first, guide, state.guide_variables, drawn(inputs, 1), pair, rank
    )
    positions = 1 if made.rank else math.prod(made.shape[:-1])
    least = STITCH_EXAMPLES if isinstance(inputs.examples, dict) else 1
    x = drawn(inputs, max(least, STITCH_SAMPLES // positions))
    return Stitch(
        made,
        _fit_stitch(
            inputs.phase.net,
            state.variables,
            guide,
            state.guide_variables,
            x,
            pair,
            ridge_weight,
            made,
        ),
    )


def hybrid(net: Network, guide: Network, pair: tuple[str, str], made: Bridge) -> Network:
    """Target stages up to the seam, a bridge to the guide, then the guide's stages after the seam:
    a Network.

    Stage names get the prefixes `target.` and `guide.`.
    """
    ours = net.stages[: position(net, pair[1]) + 1]
    theirs = guide.stages[position(guide, pair[0]) + 1 :]
    stages = [Stage(f"target.{s.name}", s.module) for s in ours] + [Stage("stitch", made)]
    stages += [Stage(f"guide.{s.name}", s.module) for s in theirs]
    return Network(tuple(stages))


def hybrid_module_variables(
    net: Network,
    variables: Variables,
    guide: Network,
    guide_variables: Variables,
    pair: tuple[str, str],
    stitch: Stitch,
) -> Variables:
    """The variables of `hybrid(...)` for every seed (leading axis S); what guide stages share by
    ties is written out.
    """
    seeds = len(jax.tree.leaves(stitch.params)[0])
    ours = {
        f"target.{s.name}": tied(net, s.name, variables)
        for s in net.stages[: position(net, pair[1]) + 1]
    }
    repeat = functools.partial(
        jax.tree.map, lambda leaf: jnp.broadcast_to(leaf, (seeds, *leaf.shape))
    )
    theirs = {
        f"guide.{s.name}": repeat(tied(guide, s.name, guide_variables))
        for s in guide.stages[position(guide, pair[0]) + 1 :]
    }
    return {
        name: tree
        for name, tree in {**ours, "stitch": {"params": stitch.params}, **theirs}.items()
        if tree
    }


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
