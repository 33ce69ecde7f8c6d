"""Recurrent networks as named stages: embed, block_1 .. block_L, norm, head; constant memory per
generated token.

Cells: `elman` (tanh RNN), `gru` and `lstm` (flax's cells), `linear` (a gated linear recurrence
whose state is combined by an associative scan, after the RG-LRU of De et al. 2024, arXiv
2402.19427, section 2.4). Blocks: `plain` (the cell alone, as in the papers' RNN language models) or
`residual` (pre-layer-norm, with an MLP).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.adapters import adapted
from theseus_jax.nets.models.gpt2 import EPSILON, MLP, Embed, Head
from theseus_jax.nets.stage import Network, network

CELLS = ("elman", "gru", "lstm", "linear")
BLOCKS = ("plain", "residual")
# what helps a deep plain tanh network by itself, and the sizes that it changes
CURES = {"baseline_residual": {"block": "residual"}, "baseline_gated": {"cell": "gru"}}
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


class PlainBlock(nn.Module):
    """A recurrent cell and nothing else: (B, T, D) -> (B, T, J)."""

    kind: str
    hidden: int

    def setup(self) -> None:
        self.rnn = cell(self.kind, self.hidden)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.rnn(x)

    @nn.nowrap
    def initial_carry(self, batch: int, context: int):
        return cell(self.kind, self.hidden).initial_carry(batch)

    def step(self, x: jax.Array, carry):
        return self.rnn.step(x, carry)


class ResidualBlock(nn.Module):
    """x + out(rnn(ln_1(x))), then + mlp(ln_2(.)): (B, T, D) -> (B, T, D); the names are GPT-2's, so
    that its parts fit.

    mlp_hidden: units of the MLP; 0 leaves it out.
    """

    kind: str
    width: int
    hidden: int
    depth: int = 1
    mlp_hidden: int = 0

    def setup(self) -> None:
        self.ln_1 = nn.LayerNorm(epsilon=EPSILON)
        self.rnn = cell(self.kind, self.hidden)
        self.out = nn.Dense(
            self.width, kernel_init=nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        )
        if self.mlp_hidden:
            self.ln_2 = nn.LayerNorm(epsilon=EPSILON)
            self.mlp = MLP(self.width, self.mlp_hidden, self.depth)

    def _mix(self, x: jax.Array) -> jax.Array:
        return x + self.mlp(self.ln_2(x)) if self.mlp_hidden else x

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._mix(x + self.out(self.rnn(self.ln_1(x))))

    @nn.nowrap
    def initial_carry(self, batch: int, context: int):
        return cell(self.kind, self.hidden).initial_carry(batch)

    def step(self, x: jax.Array, carry):
        y, carry = self.rnn.step(self.ln_1(x), carry)
        return self._mix(x + self.out(y)), carry


def recurrent(
    *,
    vocabulary: int,
    width: int,
    depth: int,
    hidden: int,
    kind: str = "linear",
    block: str = "residual",
    expansion: int = 4,
    seam_width: int = 0,
    rank: int = 0,
) -> Network:
    """A recurrent language model: (B, T) int32 tokens -> (B, T, V) float32 logits, no learned
    positions.

    seam_width: the guide's width where it differs from `width`; each block then reads and writes
    that width through low-rank linear adapters of rank `rank`, so that every seam fits the guide's.
    Raises UserError for an unknown cell or block, or for a rank that a seam needs and does not get.
    """
    if block not in BLOCKS:
        raise UserError(f"there is no block {block!r}; choose one of {', '.join(BLOCKS)}")
    inner = hidden if block == "plain" else width
    outer = seam_width or width
    make = {
        "plain": lambda: PlainBlock(kind, hidden),
        "residual": lambda: ResidualBlock(kind, width, hidden, depth, expansion * width),
    }[block]
    cell(kind, hidden)
    if seam_width and seam_width != inner:
        blocks = [
            (f"block_{i + 1}", adapted(make(), width, seam_width, rank)) for i in range(depth)
        ]
    else:
        blocks = [(f"block_{i + 1}", make()) for i in range(depth)]
        outer = inner
    embed = seam_width or width
    return network(
        [
            ("embed", Embed(vocabulary, embed)),
            *blocks,
            ("norm", nn.LayerNorm(epsilon=EPSILON)),
            ("head", Head(vocabulary, outer, use_bias=True)),
        ]
    )
