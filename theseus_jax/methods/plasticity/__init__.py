"""Structural plasticity: units of a network grown, pruned, replaced and frozen while it trains,
with everything that belongs to them (arXiv 2605.15435).

    net = plasticity.elastic(net, example)            # finds the hidden layers; adds masks
    slots = plasticity.slots(optimizer, net, stages, example)
    held = plasticity.grown(held, site, slots[site.name], chosen, rows, step, fresh=opt_state)
    held = plasticity.compact(held, net, plasticity.widths(net, held.variables), ...)

are pure functions on one seed; `Grow`, `Prune`, `Replace`, `Freeze` and `Rewind` are edits of a
phase (`plan.Phase.edits_at`); `doctor` says which newborn units do not learn, and why.
"""

from theseus_jax.methods.plasticity.compact import Compact, compact, narrowed, widths
from theseus_jax.methods.plasticity.doctor import doctor, layer
from theseus_jax.methods.plasticity.edits import Freeze, Grow, Prune, Replace, Rewind, Start
from theseus_jax.methods.plasticity.elastic import elastic, resized
from theseus_jax.methods.plasticity.units import Held, frozen, grown, slots, switched

__all__ = [
    "Compact",
    "Freeze",
    "Grow",
    "Held",
    "Prune",
    "Replace",
    "Rewind",
    "Start",
    "compact",
    "doctor",
    "elastic",
    "frozen",
    "grown",
    "layer",
    "narrowed",
    "resized",
    "slots",
    "switched",
    "widths",
]
