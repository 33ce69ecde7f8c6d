"""Methods: each returns a printable plan of phases; none owns a loop."""
from theseus_jax.methods import baselines, convert, glai, probes, surgery

__all__ = ["baselines", "convert", "glai", "probes", "surgery"]
