"""Methods: each returns a printable plan of phases; none owns a loop."""
from theseus_jax.methods import baselines, convert, probes, surgery

__all__ = ["baselines", "convert", "probes", "surgery"]
