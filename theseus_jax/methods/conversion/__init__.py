"""The method `convert` as a run compares it: see `methods.convert` for what a conversion is."""

from theseus_jax.methods.conversion.arms import Pair, arms, network, pair_of
from theseus_jax.methods.conversion.config import RANGES, REMEDY, SEEDS, check, sections
from theseus_jax.methods.conversion.results import outline, results

__all__ = [
    "RANGES",
    "REMEDY",
    "SEEDS",
    "Pair",
    "arms",
    "check",
    "network",
    "outline",
    "pair_of",
    "results",
    "sections",
]
