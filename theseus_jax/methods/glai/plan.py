"""GLAI as a plan: train a reduced MLP until its gates settle, turn it into paths, train the linear
estimator.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from theseus_jax import trees
from theseus_jax.errors import UserError
from theseus_jax.feeds import Cached, Feed, Whole
from theseus_jax.methods.glai import paths as glai_paths
from theseus_jax.methods.glai.budget import path_count
from theseus_jax.methods.glai.paths import Entries, Layers, Paths
from theseus_jax.methods.glai.pruning import pruning_bound, pruning_error
from theseus_jax.methods.glai.selection import select
from theseus_jax.nets.models.glai import (
    GLAIHead,
    LinearEstimator,
    PathEstimator,
    entry_network,
    joint_network,
)
from theseus_jax.nets.models.heads import layers_of, mlp, variables_of
from theseus_jax.nets.stage import Network, Variables, forward
from theseus_jax.objectives import Term
from theseus_jax.plan import Optimizer, Phase, Plan
from theseus_jax.train import Inputs, State

EVERY_PATH = 1 << 20
SELECTIONS = ("global", "per_output", "joint")


class Held(tuple):
    """Held-out rows of inputs, compared by identity so that Surgery that looks at them can be
    hashed.
    """

    __hash__ = object.__hash__

    def __eq__(self, other: Any) -> bool:
        return self is other


def selector_variables(layers: Layers) -> Variables:
    """{"params": ...} of a `PathSelector` with the hidden layers of an MLP; its output layer is not
    needed.
    """
    return {
        "params": {
            f"hidden_{i}": {"kernel": kernel, "bias": bias}
            for i, (kernel, bias) in enumerate(layers[:-1], 1)
        }
    }


def joint_variables(layers: Layers, chosen: Paths) -> Variables:
    """Variables of `nets.models.glai.joint_network` that reproduce the MLP on the chosen paths."""
    return {
        "selector": selector_variables(layers),
        "contributions": {"paths": _indices(chosen)},
        "estimator": {"params": LinearEstimator.holding(glai_paths.path_weights(layers, chosen))},
    }


def _indices(chosen: Paths) -> dict[str, jax.Array]:
    return {
        "inputs": jnp.asarray(chosen.inputs),
        "units": jnp.stack([jnp.asarray(units) for units in chosen.units]),
    }


# a dozen small operations: dispatched one by one they outlast a training epoch
_joint_variables = jax.jit(joint_variables)


def head_variables(layers: Layers, chosen: Paths) -> dict[str, Any]:
    """Variables of the one-module `nets.models.glai.GLAIHead` that reproduce the MLP on the chosen
    paths.
    """
    weights = glai_paths.path_weights(layers, chosen)
    params = {
        "selector": selector_variables(layers)["params"],
        "estimator": PathEstimator.holding(weights),
    }
    return {"params": params, "paths": {"estimator": _indices(chosen)}}


def entry_variables(layers: Layers, chosen: Entries) -> Variables:
    """Variables of `nets.models.glai.entry_network` that reproduce the MLP on the chosen entries.
    One hidden layer.

    Raises UserError for more: each output's own choice among triples has no dense form; choose
    joint.
    """
    if len(layers) != 2:
        raise UserError(
            "paths that each output chose by itself need one hidden layer, the network has"
            f" {len(layers) - 1}; choose the joint selection"
        )
    inputs, hidden = glai_paths.sizes(layers)
    outputs = len(layers[-1][1])
    index = (
        jnp.asarray(chosen.paths.inputs),
        jnp.asarray(chosen.paths.units[0]),
        jnp.asarray(chosen.outputs),
    )
    empty = jnp.zeros((inputs + 1, hidden + 1, outputs))
    weights = empty.at[index].set(glai_paths.entry_weights(layers, chosen))
    return {
        "selector": selector_variables(layers),
        "estimator": {
            "params": {"weights": weights},
            "paths": {"chosen": jnp.zeros(empty.shape, bool).at[index].set(True)},
        },
    }


@dataclasses.dataclass(frozen=True)
class ToPaths:
    """Surgery: every seed's trained MLP becomes the selector, the chosen paths and the estimator
    that starts as it.

    selection: "joint" keeps `keep` paths shared by all outputs; "global" and "per_output" keep
    `keep` single entries. reference: training rows over which path norms are means. report(row):
    told the seconds that a seed's conversion took and, where there are `held_out` rows, its
    receipts.
    """

    selection: str
    keep: int
    reference: int = 1024
    held_out: Held = Held()
    report: Callable[[dict[str, Any]], None] = dataclasses.field(
        default=lambda row: None, compare=False
    )

    def __call__(self, state: State, inputs: Inputs) -> State:
        rows = inputs.examples["inputs"]
        order = jax.random.permutation(inputs.surgery[0], len(rows))[: self.reference]
        made = []
        for seed in range(len(state.key)):
            layers = layers_of(trees.unstack(state.variables, seed))
            for _ in range(2):  # the second time is told: the first may compile
                began = time.perf_counter()
                chosen = select(layers, rows[order], kind=self.selection, keep=self.keep)
                done = (
                    _joint_variables(layers, chosen)
                    if self.selection == "joint"
                    else entry_variables(layers, chosen)
                )
                jax.block_until_ready(done)
                seconds = time.perf_counter() - began
            made.append(done)
            row = {
                "kind": "conversion",
                "selection": self.selection,
                "seed": seed,
                "seconds": seconds,
            }
            self.report(row | (receipts(layers, chosen, self.held_out[0]) if self.held_out else {}))
        return state._replace(variables=trees.stack(made))

    def __str__(self) -> str:
        return (
            f"the MLP becomes paths: {self.selection} selection keeps {self.keep:,} "
            f"{'paths shared by all outputs' if self.selection == 'joint' else 'entries'}, "
            f"norms over {self.reference} training rows"
        )


def receipts(layers: Layers, chosen: Paths | Entries, x: jax.Array) -> dict[str, float]:
    """What a conversion did to the logits of rows x (B, I): largest difference with every path,
    mean error of pruning, its bound.
    """
    return {
        "rows": len(x),
        "largest_logit_difference": float(exactness(layers, x)),
        "largest_logit": float(jnp.abs(glai_paths.logits(layers, x)).max()),
        "pruning_error": float(pruning_error(layers, chosen, x)),
        "pruning_bound": float(pruning_bound(layers, chosen, x)),
    }


def exactness(layers: Layers, x: jax.Array) -> jax.Array:
    """Largest absolute logit difference on rows x (B, I) between the MLP and a head with every
    path: a scalar.

    Both as they are deployed, `nets.models.heads.mlp` and `nets.models.glai.GLAIHead`. Where the
    paths to one output are more than EVERY_PATH (two hidden layers and up), they are summed unit by
    unit through the frozen gates: the same sum in another order.
    """
    widths, outputs = glai_paths.sizes(layers), len(layers[-1][1])
    whole = forward(mlp(widths[1:], outputs), variables_of(layers), x)[0]
    if path_count(widths[0], widths[1:], 1) <= EVERY_PATH:
        chosen = glai_paths.every_path(widths)
        head = GLAIHead(widths[1:], outputs, len(chosen.inputs))
        return jnp.max(jnp.abs(head.apply(head_variables(layers, chosen), x) - whole))
    found = glai_paths.augment(x)
    for matrix, gate in zip(glai_paths.extended(layers), glai_paths.open_gates(layers, x)):
        found = glai_paths.product(found, matrix) * gate
    return jnp.max(jnp.abs(glai_paths.product(found, glai_paths.extended(layers)[-1]) - whole))


class Settings(NamedTuple):
    """What a GLAI plan is made of. hidden: of the reduced MLP. keep: paths (joint) or entries
    (else).

    selector_steps, estimator_steps: at most. settled, patience: stopping rules of the two phases.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    selection: str
    keep: int
    terms: tuple[Term, ...]
    selector_optimizer: Optimizer
    selector_steps: int
    settled: Any
    optimizer: Optimizer
    estimator_steps: int
    patience: Any
    transforms: tuple[Any, ...] = ()
    reference: int = 1024


def plan(
    settings: Settings,
    *,
    held_out: Held = Held(),
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Plan:
    """Two phases: "selector" trains the reduced MLP, "estimator" the path weights on stored gates
    or contributions.

    held_out, report: see `ToPaths`. Raises UserError for another selection.
    """
    s = settings
    if s.selection not in SELECTIONS:
        raise UserError(
            f"there is no selection {s.selection!r}; choose from {', '.join(SELECTIONS)}"
        )
    before = (ToPaths(s.selection, s.keep, s.reference, held_out, report),)
    reduced = mlp(s.hidden, s.outputs)
    # transforms change the gates: then nothing can be stored
    stored = "contributions" if s.selection == "joint" else "selector"
    kept = (
        Feed(transforms=s.transforms)
        if s.transforms
        else Feed(route=Whole(start="estimator"), cached=(Cached("target", stored),))
    )
    return (
        Phase(
            "selector",
            reduced,
            reduced.names,
            s.terms,
            s.selector_steps,
            Feed(transforms=s.transforms),
            s.selector_optimizer,
            stop=s.settled,
        ),
        Phase(
            "estimator",
            final_network(s),
            ("estimator",),
            s.terms,
            s.estimator_steps,
            kept,
            s.optimizer,
            stop=s.patience,
            edits=before,
        ),
    )


def final_network(settings: Settings) -> Network:
    """The network that a plan ends with."""
    s = settings
    if s.selection == "joint":
        return joint_network(s.hidden, s.outputs, s.keep)
    return entry_network(s.hidden, s.outputs)


def head_parameters(hidden: Sequence[int], inputs: int, kept: int) -> int:
    """Parameters of a deployed GLAI head: the selector's hidden layers and the `kept` weights of
    the estimator.
    """
    widths = (inputs, *hidden)
    return sum((before + 1) * after for before, after in zip(widths[:-1], widths[1:])) + kept
