"""Networks as ordered, named stages of flax.linen modules."""

from theseus_jax.nets.models import heads

__all__ = ["heads"]
