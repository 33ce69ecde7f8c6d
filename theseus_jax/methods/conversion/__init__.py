"""The method `convert` as a run compares it: see `methods.convert` for what a conversion is."""

from theseus_jax.methods.conversion.arms import Pair, arms, pair_of
from theseus_jax.methods.conversion.config import SEEDS, check, sections
from theseus_jax.methods.conversion.results import outline, results

__all__ = ["SEEDS", "Pair", "arms", "check", "outline", "pair_of", "results", "sections"]
