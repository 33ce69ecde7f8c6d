"""The closed-form stitch between a target's activations at a seam and the guide's, and hybrids."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from theseus_jax import lapack
from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.bridge import LARGEST, Bridge, bridge, fitted
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Stage, Variables, forward, position, tied
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
    if not rank:
        root, half = _halved(u, v, ridge_weight)
        matrix = jax.scipy.linalg.solve_triangular(root.T, half, lower=False)
        return {
            "map": {
                "kernel": matrix,
                "bias": mean_y - jnp.matmul(mean_x, matrix, precision="highest"),
            }
        }
    down, up = reduced(u, v, ridge_weight, rank)
    offset = mean_y - jnp.matmul(
        jnp.matmul(mean_x, down, precision="highest"), up, precision="highest"
    )
    return {"down": {"kernel": down}, "up": {"kernel": up, "bias": offset}}


def _halved(u: jax.Array, v: jax.Array, ridge_weight: float) -> tuple[jax.Array, jax.Array]:
    """(R, R^-1 u^T v) with the Cholesky factor R of u's penalised scatter."""
    gram = jnp.matmul(u.T, u, precision="highest")
    weight = ridge_weight * jnp.trace(gram) / u.shape[1] + 1e-12
    root = jnp.linalg.cholesky(gram + weight * jnp.eye(u.shape[1]))
    cross = jnp.matmul(u.T, v, precision="highest")
    return root, jax.scipy.linalg.solve_triangular(root, cross, lower=True)


def reduced(
    u: jax.Array, v: jax.Array, ridge_weight: float, rank: int
) -> tuple[jax.Array, jax.Array]:
    """(down (P, rank), up (rank, Q)) whose product M minimises the penalised loss of `ridge` among
    matrices of that rank, without an intercept: u (N, P), v (N, Q), float.
    """
    root, half = _halved(u, v, ridge_weight)
    _, directions = jnp.linalg.eigh(jnp.matmul(half, half.T, precision="highest"))
    leading = directions[:, -rank:]
    # M V = root^-T half V, half V = leading * scale
    down = jax.scipy.linalg.solve_triangular(root.T, leading, lower=False)
    return down, jnp.matmul(leading.T, half, precision="highest")


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

    ours, what = shape(net, variables, pair[1]), f"the target's {pair[1]} to the guide's {pair[0]}"
    seam_map = bridge(ours, shape(guide, guide_variables, pair[0]), rank=rank, what=what)
    values = values_and_mask(ours)[0]
    features = math.prod(values.shape[1:]) if seam_map.rank else values.shape[-1]
    if features**2 > LARGEST:
        raise UserError(
            f"the stitch from {what} would solve for {features:,} features at once; choose smaller"
            " stages in convert.mapping, or set convert.stitch to 'none'"
        )
    return seam_map


@functools.partial(jax.jit, static_argnames=("net", "guide", "pair", "ridge_weight", "seam_map"))
def _fit_stitch(net, variables, guide, guide_variables, x, pair, ridge_weight, seam_map):
    def rows(net, variables, stop):
        values, mask = values_and_mask(
            in_blocks(lambda block: forward(net, variables, block, stop=stop)[0], x)
        )
        # padding is 0 on both sides
        return values if mask is None else values * (mask > 0)[..., None]

    y = rows(guide, guide_variables, pair[0])

    def one_seed(variables):
        z = fitted(rows(net, variables, pair[1]), seam_map.shape)
        features = math.prod(y.shape) // math.prod(z.shape[:-1])
        return ridge(
            z.reshape(-1, z.shape[-1]), y.reshape(-1, features), ridge_weight, seam_map.rank
        )

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
    seam_map = stitch_bridge(
        inputs.phase.net, first, guide, state.guide_variables, drawn(inputs, 1), pair, rank
    )
    positions = 1 if seam_map.rank else math.prod(seam_map.shape[:-1])
    least = STITCH_EXAMPLES if isinstance(inputs.examples, dict) else 1
    x = drawn(inputs, max(least, STITCH_SAMPLES // positions))
    return Stitch(
        seam_map,
        _fit_stitch(
            inputs.phase.net,
            state.variables,
            guide,
            state.guide_variables,
            x,
            pair,
            ridge_weight,
            seam_map,
        ),
    )


def hybrid(net: Network, guide: Network, pair: tuple[str, str], seam_map: Bridge) -> Network:
    """Target stages up to the seam, a bridge to the guide, then the guide's stages after the seam:
    a Network.

    Stage names get the prefixes `target.` and `guide.`.
    """
    ours = net.stages[: position(net, pair[1]) + 1]
    theirs = guide.stages[position(guide, pair[0]) + 1 :]
    stages = [Stage(f"target.{s.name}", s.module) for s in ours] + [Stage("stitch", seam_map)]
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
