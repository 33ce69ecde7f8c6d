"""One token at a time: every stage carries its own state (KV cache, hidden state, position), and
text is generated.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from theseus_jax.nets.stage import Network, Variables, forward, tied

Carries = dict[str, Any]


def initial_carries(net: Network, batch: int, context: int) -> Carries:
    """The state of every stage that has one (`initial_carry(batch, context)`), before the first
    token.

    context: tokens that an attention stage must be able to look back on; recurrent stages ignore
    it.
    """
    return {
        stage.name: stage.module.initial_carry(batch, context)
        for stage in net.stages
        if hasattr(stage.module, "initial_carry")
    }


def step(
    net: Network, variables: Variables, tokens: jax.Array, carries: Carries
) -> tuple[jax.Array, Carries]:
    """Feed one token per sequence: tokens (B,) int -> (logits (B, V), carries).

    A stage without a state is applied to a sequence of length one, so it must not mix tokens.
    """
    x, moved = tokens, {}
    for stage in net.stages:
        if stage.name in carries:
            given = tied(net, stage.name, variables)
            x, moved[stage.name] = stage.module.apply(given, x, carries[stage.name], method="step")
        else:
            x = forward(net, variables, x[:, None], start=stage.name, stop=stage.name)[0][:, 0]
    return x, moved


def state_bytes(net: Network, context: int) -> int:
    """Bytes of the carried state of one sequence after `context` tokens; nothing is allocated."""
    shapes = jax.eval_shape(functools.partial(initial_carries, net, 1, context))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def check_length(net: Network, variables: Variables, length: int) -> None:
    """Raises UserError where a network cannot read so many tokens: step by step, a position past
    the last would be clamped silently; tracing the whole context refuses it.
    """
    tokens = jax.ShapeDtypeStruct((1, length), jax.numpy.int32)
    jax.eval_shape(lambda v, x: forward(net, v, x)[0], variables, tokens)


@functools.partial(jax.jit, static_argnames=("net", "length"))
def generate(
    net: Network,
    variables: Variables,
    prompt: jax.Array,
    key: jax.Array,
    *,
    length: int,
    temperature: float = 0.8,
) -> jax.Array:
    """Sample a continuation: prompt (B, T) int32, T >= 1 -> (B, length) int32, at a temperature
    above 0.

    Raises UserError when T + length tokens are more than the network's learned positions.
    """
    context = (prompt.shape[0], prompt.shape[1] + length)
    check_length(net, variables, context[1])
    carries = initial_carries(net, *context)

    def read(state, token):
        logits, carries = step(net, variables, token, state)
        return carries, logits

    carries, logits = jax.lax.scan(read, carries, prompt.T)

    def write(state, step_key):
        carries, logits = state
        token = jax.random.categorical(step_key, logits / temperature).astype(prompt.dtype)
        logits, carries = step(net, variables, token, carries)
        return (carries, logits), token

    return jax.lax.scan(write, (carries, logits[-1]), jax.random.split(key, length))[1].T
