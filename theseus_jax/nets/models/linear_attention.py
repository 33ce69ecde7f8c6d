"""Linear attention with a decay a head: what a softmax attention becomes when its state is to have
one size at any length.

With features phi(q_t), phi(k_s) > 0 and decays a_r in (0, 1),
    y_t = sum_{s <= t} w_ts v_s / sum_{s <= t} w_ts
    w_ts = phi(q_t) . phi(k_s) prod_{s < r <= t} a_r
(Katharopoulos et al. 2020, arXiv 2006.16236, equations 8 to 12; decays that depend on the input as
in gated linear attention, Yang et al. 2024, arXiv 2312.06635, section 4). Features "hedgehog":
[softmax(M x), softmax(-M x)] with a matrix M a head (Zhang et al. 2024, arXiv 2402.04347); "elu":
elu(x) + 1 (arXiv 2006.16236). Three forms of the same numbers: `parallel` over a window, `chunked`
(time and memory linear in T), and `advance` by one token with a carried state.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from theseus_jax.errors import UserError
from theseus_jax.nets.models.attention import MultiHead

FEATURES = ("hedgehog", "elu")
CHUNK = 128  # tokens at a time
SHORTEST, LONGEST = 1.0, 64.0  # tokens that heads look back on before anything is measured
# of features at first: a guide's projections alone then score 3.59 nats, where 1 gives 3.73 and 3
# 3.57 (configs/gpt2_to_rnn.py, validation); what training makes of them is the same
SHARPNESS = 2.0


class Streams(NamedTuple):
    """What heads read, float32: features of queries and keys (B, H, T, F), values with a one at
    their end (B, H, T, E + 1), logs of decays (B, H, T), at most 0.
    """

    queries: jax.Array
    keys: jax.Array
    values: jax.Array
    decays: jax.Array


def weighed(streams: Streams) -> jax.Array:
    """The weights w_ts, (B, H, T, T), 0 above the diagonal."""
    length = streams.decays.shape[-1]
    total = jnp.cumsum(streams.decays, axis=-1)
    lag = total[..., :, None] - total[..., None, :]
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jnp.einsum("bhtf,bhsf->bhts", streams.queries, streams.keys)
    # masked before exp: above the diagonal a lag is positive, and its exp may be infinite
    return weights * jnp.exp(jnp.where(causal, lag, -jnp.inf))


def parallel(streams: Streams, state: jax.Array | None = None) -> jax.Array:
    """Sums (B, H, T, E + 1) of weighted values, the last of weights: products of (T, T).

    state: (B, H, F, E + 1), of what came before.
    """
    sums = jnp.einsum("bhts,bhse->bhte", weighed(streams), streams.values)
    if state is None:
        return sums
    kept = jnp.exp(jnp.cumsum(streams.decays, axis=-1))[..., None] * streams.queries
    return sums + jnp.einsum("bhtf,bhfe->bhte", kept, state)


def carried(streams: Streams, state: jax.Array) -> jax.Array:
    """The state (B, H, F, E + 1) after a stretch of tokens."""
    total = jnp.cumsum(streams.decays, axis=-1)
    left = jnp.exp(total[..., -1:] - total)[..., None] * streams.keys
    gained = jnp.einsum("bhtf,bhte->bhfe", left, streams.values)
    return jnp.exp(total[..., -1])[..., None, None] * state + gained


def chunked(streams: Streams, size: int) -> jax.Array:
    """`parallel` in chunks of `size` tokens, a state between them."""
    batch, heads, length, features = streams.queries.shape
    if length <= size:
        return parallel(streams)
    count = -(-length // size)

    def cut(x: jax.Array) -> jax.Array:
        rest = [(0, 0)] * (x.ndim - 3)
        x = jnp.pad(x, [(0, 0), (0, 0), (0, count * size - length), *rest])
        return jnp.moveaxis(x.reshape(batch, heads, count, size, *x.shape[3:]), 2, 0)

    def one(state: jax.Array, chunk: Streams) -> tuple[jax.Array, jax.Array]:
        return carried(chunk, state), parallel(chunk, state)

    begin = jnp.zeros((batch, heads, features, streams.values.shape[-1]), streams.values.dtype)
    sums = jnp.moveaxis(jax.lax.scan(one, begin, Streams(*map(cut, streams)))[1], 0, 2)
    return sums.reshape(batch, heads, count * size, -1)[:, :, :length]


class LinearAttention(MultiHead):
    """(B, T, D) -> (B, T, D). The projections have an attention's names, so that its fit, and so do
    shared keys (each head of queries then has features, decays and a state of its own) and rotary
    positions (which turn queries and keys before their features); what an attention has not begins
    so that it does nothing (`taps`), or is set by a guide (`forget`).

    features: one of FEATURES. decay: whether the past is forgotten, by each head at a rate of
    its own that depends on the input. taps: of a causal depthwise convolution of queries, keys and
    values. chunk: tokens at a time.
    """

    features: str = "hedgehog"
    decay: bool = True
    taps: int = 4
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise UserError(
                f"there are no features {self.features!r}; choose one of {', '.join(FEATURES)}"
            )
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        if self.features == "hedgehog":
            shape = (self.heads, self.head_size, self.head_size)
            self.query_map = self.param("query_map", sharp, shape)
            self.key_map = self.param("key_map", sharp, shape)
        if self.decay:
            self.forget = nn.Dense(self.heads, kernel_init=nn.initializers.zeros, bias_init=spread)

    def _streams(
        self, x: jax.Array, carry: Mapping[str, jax.Array] | None = None
    ) -> tuple[Streams, dict[str, jax.Array]]:
        """Of x (B, T, D), and what `read` tells."""
        (q, k, v), moved = self.read(x, carry)
        whole = (q, self.repeated(k), self.repeated(v))
        q, k, v = (jnp.moveaxis(part, -2, 1).astype(jnp.float32) for part in whole)
        if self.features == "hedgehog":
            q, k = hedgehog(q, self.query_map), hedgehog(k, self.key_map)
        else:
            q, k = nn.elu(q) + 1.0, nn.elu(k) + 1.0
        decays = jnp.zeros(q.shape[:-1])
        if self.decay:
            decays = -nn.softplus(jnp.moveaxis(self.forget(x), -1, 1).astype(jnp.float32))
        values = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        return Streams(q, k, values, decays), moved

    @property
    def fitting(self) -> tuple[str, ...]:
        """Parameters that decide the weights and that an attention has not."""
        maps = ("query_map", "key_map") if self.features == "hedgehog" else ()
        return (*maps, *(("forget",) if self.decay else ()))

    def weights(self, x: jax.Array) -> jax.Array:
        """What each token reads of which, (B, H, T, T): rows sum to 1."""
        found = weighed(self._streams(x)[0])
        return found / found.sum(axis=-1, keepdims=True)

    def _written(self, sums: jax.Array, dtype: Any) -> jax.Array:
        y = sums[..., :-1] / sums[..., -1:]
        return self.written(jnp.moveaxis(y, 1, -2).astype(dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._written(chunked(self._streams(x)[0], self.chunk), x.dtype)

    @nn.nowrap
    def initial_carry(self, batch: int, context: int) -> dict[str, jax.Array]:
        features = (2 if self.features == "hedgehog" else 1) * self.head_size
        shape = (batch, self.heads, features, self.head_size + 1)
        return {"state": jnp.zeros(shape), **self.begun(batch)}

    @nn.nowrap
    def remembering(self, params: Any, distances: jax.Array) -> Any:
        """The parameters with heads that look back on so many tokens in the mean, (..., H)."""
        return {**params, "forget": {**params["forget"], "bias": forgetting(distances)}}

    def step(
        self, x: jax.Array, carry: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One token: x (B, D)."""
        streams, moved = self._streams(x[:, None], carry)
        state = carried(streams, carry["state"])
        sums = jnp.einsum("bhtf,bhfe->bhte", streams.queries, state)
        return self._written(sums, x.dtype)[:, 0], {"state": state, **moved}


def hedgehog(x: jax.Array, matrices: jax.Array) -> jax.Array:
    """[softmax(M x), softmax(-M x)]: x (B, H, T, E), matrices (H, E, E) -> (B, H, T, 2 E)."""
    z = jnp.einsum("bhte,hef->bhtf", x, matrices)
    return jnp.concatenate([nn.softmax(z, axis=-1), nn.softmax(-z, axis=-1)], axis=-1)


def sharp(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """SHARPNESS times the identity for every head."""
    return SHARPNESS * jnp.broadcast_to(jnp.eye(shape[-1]), shape)


def forgetting(distance: jax.Array) -> jax.Array:
    """The bias of `forget` with which weights a^n look back on so many tokens in the mean, a / (1 -
    a): a = sigmoid(-b) gives b = -log(distance).
    """
    return -jnp.log(distance)


def spread(key: jax.Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> jax.Array:
    """Heads that look back on SHORTEST to LONGEST tokens, evenly in their logarithm."""
    return forgetting(jnp.geomspace(SHORTEST, LONGEST, shape[0])).astype(dtype)
