"""Device time of an operation, and what the device can do at best, both by many calls inside one
compiled loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SAMPLES = 30
UNROLLED = 16
# of calls in one sample: what it costs to start the loop is then a few percent
SAMPLE_SECONDS = 4e-3


class Roof(NamedTuple):
    """Measured ceilings of a device: bytes/s of a copy, read and written, and FLOP/s of a square
    matrix product by dtype.

    float32 products are exact, as the kernels' are; bfloat16 products are summed in float32.
    """

    bandwidth: float
    flops: dict[str, float]


def looped(function: Callable, count: int) -> Callable:
    """`count` calls of `function` as one function of its operands: (a scalar, the outputs of the
    last call).

    On a GPU a turn of a loop takes about 17 microseconds itself (H200, jax 0.11.2), so there a turn
    is up to UNROLLED calls (`calls_a_turn`).

    Each call waits for the one before it: its operands pass an optimization barrier together with a
    number that was read off every one of the earlier outputs. So XLA can neither hoist a call out
    of the loop nor leave a part of one out.
    """

    def run(*operands):
        shapes = jax.eval_shape(function, *operands)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def once(carry):
            given, token = lax.optimization_barrier((operands, carry[0]))
            outputs = lax.optimization_barrier(function(*given))
            read = sum(
                leaf[(0,) * leaf.ndim].astype(jnp.float32) for leaf in jax.tree.leaves(outputs)
            )
            return token + read, outputs

        def turn(carry, _):
            for _ in range(unrolled):
                carry = once(carry)
            return carry, None

        unrolled = calls_a_turn(count)
        return lax.scan(turn, (jnp.zeros(()), blank), length=count // unrolled)[0]

    return run


def calls_a_turn(count: int) -> int:
    """How many of `count` calls make one turn of the loop: 1 on a CPU, where a turn costs nothing.

    Also 1 before jax 0.11, whose XLA drops the barriers early and merges the calls of a turn.
    """
    several = jax.default_backend() == "gpu" and jax.__version_info__ >= (0, 11)
    return math.gcd(count, UNROLLED) if several else 1


def calls(seconds: float, *, sample_seconds: float = SAMPLE_SECONDS) -> int:
    """How many calls of about `seconds` each make a sample: a power of two between 2 and 256."""
    return 2 ** int(np.clip(np.log2(sample_seconds / max(seconds, 1e-9)), 1, 8))


def microseconds(
    compiled: Callable, operands: tuple, count: int, *, samples: int = SAMPLES
) -> tuple[float, float]:
    """Median time of one of the `count` calls that `compiled(*operands)` makes, and half the
    distance of the quartiles.
    """
    jax.block_until_ready(compiled(*operands))
    times = []
    for _ in range(samples):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*operands))
        times.append(1e6 * (time.perf_counter() - start) / count)
    low, middle, high = np.percentile(times, (25, 50, 75))
    return float(middle), float(high - low) / 2


def _best(function: Callable, *operands: Any, samples: int) -> float:
    """Seconds of a call: the median over samples of 8 calls each."""
    compiled = jax.jit(looped(function, 8)).lower(*operands).compile()
    return 1e-6 * microseconds(compiled, operands, 8, samples=samples)[0]


def empty_call() -> float:
    """Microseconds that a call of nothing takes in such a loop: they are in every time that is
    measured so.
    """
    count, operands = calls(0.0), (jnp.zeros(()),)
    compiled = jax.jit(looped(lambda x: x, count)).lower(*operands).compile()
    return microseconds(compiled, operands, count)[0]


def measured_roof(*, side: int = 8192, megabytes: int = 2048, samples: int = 10) -> Roof:
    """The ceilings of the default device: a copy of `megabytes`, and products of random `side` x
    `side` matrices.

    The copy adds 1, which costs nothing beside the memory traffic, so that XLA cannot leave it out.
    """
    words = megabytes * 2**20 // 4
    copied = _best(lambda x: x + 1, jnp.ones((words,), jnp.float32), samples=samples)
    keys = jax.random.split(jax.random.key(0))
    flops = {}
    for dtype in ("float32", "bfloat16"):
        a, b = (jax.random.normal(key, (side, side), jnp.float32).astype(dtype) for key in keys)
        taken = _best(
            lambda a, b: jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32),
            a,
            b,
            samples=samples,
        )
        flops[dtype] = 2 * side**3 / taken
    return Roof(8 * words / copied, flops)
