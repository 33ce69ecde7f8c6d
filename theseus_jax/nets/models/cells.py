"""Recurrent cells over tokens: `elman` (tanh RNN), `gru` and `lstm` (flax's cells), `linear` (a
gated linear recurrence whose state is combined by an associative scan, after the RG-LRU of De et
al. 2024, arXiv 2402.19427, section 2.4).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError

CELLS = ("elman", "gru", "lstm", "linear")
DECAY_SHARPNESS = 8.0  # the constant c of RG-LRU: a = exp(-c softplus(L) r)


class Elman(nn.Module):
    """h_t = tanh(W x_t + U h_{t-1} + b): (B, T, D) -> (B, T, J). The input product is one GEMM
    outside the scan.
    """

    hidden: int

    def setup(self) -> None:
        self.input = nn.Dense(self.hidden)
        self.kernel = self.param(
            "recurrent", nn.initializers.orthogonal(), (self.hidden, self.hidden)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        u = jnp.swapaxes(self.input(x), 0, 1)

        def advance(h, u_t):
            h = jnp.tanh(u_t + h @ self.kernel)
            return h, h

        return jnp.swapaxes(jax.lax.scan(advance, jnp.zeros_like(u[0]), u)[1], 0, 1)

    def initial_carry(self, batch: int) -> jax.Array:
        return jnp.zeros((batch, self.hidden))

    def step(self, x: jax.Array, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(self.input(x) + carry @ self.kernel)
        return h, h


class FlaxCell(nn.Module):
    """A GRU or LSTM from flax over the tokens: (B, T, D) -> (B, T, J)."""

    hidden: int
    kind: str

    def setup(self) -> None:
        self.cell = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}[self.kind](self.hidden)
        self.rnn = nn.RNN(self.cell)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.rnn(x)

    def initial_carry(self, batch: int):
        state = jnp.zeros((batch, self.hidden))
        return (state, state) if self.kind == "lstm" else state

    def step(self, x: jax.Array, carry):
        carry, y = self.cell(carry, x)
        return y, carry


class GatedLinear(nn.Module):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t, y_t = gelu(g_t) h_t: (B, T, D) -> (B, T, J).

    u comes from a short causal depthwise convolution; a_t = exp(-c softplus(L) sigmoid(r_t)) in (0,
    1); r, i, g are linear in x. All products over tokens are GEMMs; the recurrence is one
    associative scan.
    """

    hidden: int
    taps: int = 4

    def setup(self) -> None:
        self.input = nn.Dense(4 * self.hidden)
        self.taps_kernel = self.param("taps", nn.initializers.normal(0.5), (self.taps, self.hidden))
        self.decay = self.param("decay", _decay_init, (self.hidden,))

    def _gates(self, x: jax.Array) -> list[jax.Array]:
        return jnp.split(self.input(x), 4, axis=-1)

    def _recurrence(self, u: jax.Array, r: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, b) of h_t = a_t h_{t-1} + b_t, in float32 at least: in bfloat16 every a above 0.996
        would be 1.
        """
        u, r, i = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (u, r, i))
        log_a = -DECAY_SHARPNESS * jax.nn.softplus(self.decay) * jax.nn.sigmoid(r)
        # expm1 keeps sqrt(1 - a^2) and its gradient finite where a is within rounding of 1
        return jnp.exp(log_a), jnp.sqrt(-jnp.expm1(2 * log_a) + 1e-12) * jax.nn.sigmoid(i) * u

    def __call__(self, x: jax.Array) -> jax.Array:
        u, r, i, g = self._gates(x)
        padded = jnp.pad(u, ((0, 0), (self.taps - 1, 0), (0, 0)))
        u = sum(self.taps_kernel[k] * padded[:, k : k + u.shape[1]] for k in range(self.taps))
        a, b = self._recurrence(u, r, i)
        _, h = jax.lax.associative_scan(
            lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b), axis=1
        )
        return nn.gelu(g) * h.astype(g.dtype)

    def initial_carry(self, batch: int) -> dict[str, jax.Array]:
        return {
            "state": jnp.zeros((batch, self.hidden)),
            "window": jnp.zeros((batch, self.taps - 1, self.hidden)),
        }

    def step(
        self, x: jax.Array, carry: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        u, r, i, g = self._gates(x)
        window = jnp.concatenate([carry["window"], u[:, None]], axis=1)
        a, b = self._recurrence(jnp.sum(self.taps_kernel * window, axis=1), r, i)
        h = a * carry["state"] + b
        return nn.gelu(g) * h.astype(g.dtype), {"state": h, "window": window[:, 1:]}


def _decay_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """softplus(L) such that the slowest decay at an open gate, a^(1/c), is uniform in [0.9,
    0.999].
    """
    a = jax.random.uniform(key, shape, minval=0.9, maxval=0.999)
    return jnp.log(jnp.expm1(-jnp.log(a)))


def cell(kind: str, hidden: int) -> nn.Module:
    """The recurrent cell `kind` with J = hidden units: (B, T, D) -> (B, T, J). Raises UserError for
    another kind.
    """
    if kind not in CELLS:
        raise UserError(f"there is no recurrent cell {kind!r}; choose one of {', '.join(CELLS)}")
    return {
        "elman": lambda: Elman(hidden),
        "linear": lambda: GatedLinear(hidden),
        "gru": lambda: FlaxCell(hidden, "gru"),
        "lstm": lambda: FlaxCell(hidden, "lstm"),
    }[kind]()
