"""The arms of the method by name: what each does otherwise."""

from __future__ import annotations

from typing import Any, NamedTuple

SMOOTH = {"activation": "smooth_leaky"}


class Way(NamedTuple):
    """What an arm does otherwise. kind: dense, prune or grow. changes: to `plan.Settings`; net: to
    the target's sizes. cure: what is done against the loss of plasticity besides (`arms.Plastic`).
    """

    kind: str
    changes: dict[str, Any] = {}
    net: dict[str, Any] = {}
    cure: str = ""


WAYS = {
    "dense": Way("dense"),
    "prune": Way("prune"),
    "prune_no_rewind": Way("prune", {"rewind": False}),
    "grow": Way("grow"),
    "grow_two_speed": Way("grow", {"rates": "two_speed"}),
    "grow_moment_transplant": Way("grow", {"moments": "transplanted"}),
    "grow_net2wider": Way("grow", {"birth": "copy_split"}),
    "grow_gradmax": Way("grow", {"score": "gradmax"}),
    "grow_variance_matched": Way("grow", {"birth": "variance_matched"}),
    "grow_zero_outgoing": Way("grow", {"birth": "zero_outgoing"}),
    "grow_smooth_leaky": Way("grow", net=SMOOTH),
    "dense_smooth_leaky": Way("dense", net=SMOOTH),
    "layer_norm": Way("dense", net={"norm": "layer"}),
    "redo": Way("dense", cure="redo"),
    "continual_backprop": Way("dense", cure="continual_backprop"),
    "self_normalized_resets": Way("dense", cure="self_normalized_resets"),
    "upgd": Way("dense", cure="upgd"),
    "shrink_perturb": Way("dense", cure="shrink_perturb"),
    "l2_to_start": Way("dense", cure="l2_to_start"),
    "input_norm": Way("dense", cure="l2_to_start", net={"running": True}),
}
OF_STREAMS = ("layer_norm", "redo", "continual_backprop", "self_normalized_resets", "upgd")
OF_STREAMS += ("shrink_perturb", "l2_to_start", "input_norm")
USUAL = tuple(name for name in WAYS if name not in ("dense_smooth_leaky", *OF_STREAMS))
TICKETS = {"prune_ticket": "prune", "grow_ticket": "grow"}  # arm: whose mask it retrains
INTERVENTIONS = tuple(name for name, way in WAYS.items() if way.kind == "grow" and name != "grow")
