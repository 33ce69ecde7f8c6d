"""Networks as ordered, named stages of flax.linen modules."""
