"""Units that can be switched off and looked at: where they act in a network, whatever layer they
belong to.
"""

from __future__ import annotations

from typing import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class Units(nn.Module):
    """activation(z) with 0 where a unit is off: (..., J) -> (..., J), a unit an entry of the last
    axis.

    It has no variables of its own; what it is given decides. {"masks": {"live": (J,) bool}}
    (`nets.sites`): a unit that is off gives 0 and passes no gradient on. {"taps": {"z", "a"}}, of
    the shapes of input and output: they are added there, so that gradients with respect to them are
    those of z and of the output. z and the activation h before the mask are sown, "units/z" and
    "units/h". A layer whose norm reads all units of a position at once gives the norm `live()`.
    """

    activation: Callable[[jax.Array], jax.Array]

    def live(self) -> jax.Array | None:
        """(J,) bool, or None where nothing can be off."""
        there = self.has_variable("masks", "live")
        return self.get_variable("masks", "live") if there else None

    def __call__(self, z: jax.Array) -> jax.Array:
        tapped = self.has_variable("taps", "z")
        z = z + self.get_variable("taps", "z") if tapped else z
        h, live = self.activation(z), self.live()
        if not self.is_initializing():
            self.sow("intermediates", "z", z)
            self.sow("intermediates", "h", h)
        a = h if live is None else jnp.where(live, h, jnp.zeros((), h.dtype))
        return a + self.get_variable("taps", "a") if tapped else a
