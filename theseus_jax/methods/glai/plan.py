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
from theseus_jax.methods.glai.variables import (
    entry_variables,
    head_variables,
    jitted_joint_variables,
)
from theseus_jax.methods.plasticity.elastic import elastic
from theseus_jax.methods.plasticity.within import pruned
from theseus_jax.nets.models.glai import GLAIHead, entry_network, joint_network
from theseus_jax.nets.models.heads import layers_of, mlp, variables_of
from theseus_jax.nets.stage import Network, forward
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
                    jitted_joint_variables(layers, chosen)
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
    whole: hidden widths of an MLP that the selector begins as, whose units are then pruned, () for
    the reduced MLP from the start.
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
    whole: tuple[int, ...] = ()


PRUNES = 3  # of a selector that begins as the whole MLP


def plan(
    settings: Settings,
    *,
    held_out: Held = Held(),
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Plan:
    """Two phases: "selector" trains the reduced MLP, "estimator" the path weights on stored gates
    or contributions. A selector that begins whole is trained in two.

    held_out, report: see `ToPaths`. Raises UserError for another selection.
    """
    s = settings
    if s.selection not in SELECTIONS:
        raise UserError(
            f"there is no selection {s.selection!r}; choose from {', '.join(SELECTIONS)}"
        )
    before = (ToPaths(s.selection, s.keep, s.reference, held_out, report),)
    # transforms change the gates: then nothing can be stored
    stored = "contributions" if s.selection == "joint" else "selector"
    kept = (
        Feed(transforms=s.transforms)
        if s.transforms
        else Feed(route=Whole(start="estimator"), cached=(Cached("target", stored),))
    )
    return (
        *_selector(s),
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


def _selector(s: Settings) -> Plan:
    net = mlp(s.whole or s.hidden, s.outputs)
    if s.whole:
        net = elastic(net, jax.ShapeDtypeStruct((1, s.inputs), jnp.float32))
    feed = Feed(transforms=s.transforms)
    given = s.terms, s.selector_steps, feed, s.selector_optimizer
    phases = (Phase("selector", net, net.names, *given, stop=s.settled),)
    return pruned(phases, net, s.hidden, PRUNES) if s.whole else phases


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
