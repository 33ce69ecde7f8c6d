"""What length costs: a token with its state, and a training step, at 128 to 16,384 tokens.

    python benchmarks/long_context.py [--repeats=15] [--out=benchmarks/long_context.json]

use: the guide of configs/gpt2_to_rnn.py (4 blocks, width 128, random weights, as many learned
positions as are needed) and the linear attention that it becomes, one token after a context of that
length: tokens/s, bytes of a sequence's state, bytes that the program holds. train: one block's
forward and backward pass over 1,024 tokens, and over one sequence where that is
longer; of today's gated linear recurrence, linear attention in chunks, and softmax attention.
Both kinds take turns in each repeat; a ratio is the median of the repeats' ratios, with quartiles.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time
from typing import Any, Callable

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from launch.record import record  # noqa: E402
from theseus_jax.nets import decode  # noqa: E402
from theseus_jax.nets.blocks.style import Style  # noqa: E402
from theseus_jax.nets.models.attention import Attention  # noqa: E402
from theseus_jax.nets.models.gpt2 import Block, gpt2  # noqa: E402
from theseus_jax.nets.models.linear_attention import LinearAttention  # noqa: E402
from theseus_jax.nets.models.recurrent import ResidualBlock, recurrent  # noqa: E402
from theseus_jax.nets.stage import init  # noqa: E402

LENGTHS = (128, 512, 2048, 8192, 16384)
SIZES = {"vocabulary": 1024, "width": 128, "depth": 4, "heads": 4}
WIDTH, HEADS, DEPTH, STEPS = 128, 4, 4, 10
PARTS = Style().mlp(WIDTH, 4 * WIDTH, DEPTH), Style().norm()
BLOCKS = {
    "cell": ResidualBlock("linear", WIDTH, WIDTH, DEPTH, *PARTS),
    "linear_attention": Block(LinearAttention(WIDTH, HEADS, DEPTH), *PARTS),
    "softmax": Block(Attention(WIDTH, HEADS, DEPTH), *PARTS),
}
SOFTMAX_ENDS = 4096  # tokens: beyond, its (T, T) arrays fill the memory


def nets(length: int) -> dict[str, Any]:
    return {
        "guide": gpt2(**SIZES, positions=length + STEPS),
        "converted": recurrent(**SIZES, kind="linear_attention"),
    }


def timed(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each, taking turns, after a first call."""
    for run in runs.values():
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - began)
    return {name: np.asarray(values) for name, values in times.items()}


def held(compiled: Any) -> int:
    """Bytes that a compiled program needs besides its arguments."""
    return int(compiled.memory_analysis().temp_size_in_bytes)


def after(net: Any, batch: int, length: int) -> tuple[Callable[..., Any], Any]:
    """STEPS likeliest tokens as a function of (variables, state), and a state after `length`."""
    carries = decode.initial_carries(net, batch, length + STEPS)
    full = jax.tree.map(lambda leaf: leaf + length if leaf.ndim == 0 else leaf, carries)

    def some(variables: Any, carries: Any) -> Any:
        def one(state: Any, _: Any) -> Any:
            tokens, carries = state
            logits, carries = decode.step(net, variables, tokens, carries)
            return (jnp.argmax(logits, -1).astype(jnp.int32), carries), None

        first = jnp.zeros(batch, jnp.int32)
        return jax.lax.scan(one, (first, carries), None, length=STEPS)[0][0]

    return some, full


def use_row(length: int, batch: int, repeats: int) -> dict[str, Any]:
    """Tokens a second after a context of `length` tokens."""
    runs, row = {}, {"what": "use", "context": length, "batch": batch}
    for name, net in nets(length).items():
        variables = init(net, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
        some, full = after(net, batch, length)
        compiled = jax.jit(some).lower(variables, full).compile()
        runs[name] = functools.partial(compiled, variables, full)
        row[f"{name}_state_bytes"] = decode.state_bytes(net, length)
        row[f"{name}_held_bytes"] = held(compiled)
    times = timed(runs, repeats)
    for name, seconds in times.items():
        row[f"{name}_tokens_per_s"] = float(batch * STEPS / np.median(seconds))
    ratio = np.percentile(times["guide"] / times["converted"], [25, 50, 75])
    return row | {"guide_over_converted": ratio.tolist()}


def train_row(length: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a block's forward and backward pass."""
    batch = max(1, 1024 // length)
    x = jax.random.normal(jax.random.key(0), (batch, length, WIDTH))
    runs, row = {}, {"what": "train", "context": length, "batch": batch}
    for name, block in BLOCKS.items():
        if name == "softmax" and length > SOFTMAX_ENDS:
            continue
        variables = block.init(jax.random.key(1), x[:, :4])
        slope = jax.grad(lambda v, x, block=block: (block.apply(v, x) ** 2).mean())
        compiled = jax.jit(slope).lower(variables, x).compile()
        runs[name] = functools.partial(compiled, variables, x)
        row[f"{name}_held_bytes"] = held(compiled)
    times = timed(runs, repeats)
    for name, seconds in times.items():
        row[f"{name}_ms"] = float(1e3 * np.median(seconds))
    ratio = np.percentile(times["linear_attention"] / times["cell"], [25, 50, 75])
    return row | {"linear_attention_over_cell": ratio.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed turns of every program")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--out", default="", help="also write the table here")
    given, rows, said = parser.parse_args(), [], []
    for length in given.lengths:
        for batch in (1, 16):
            row = use_row(length, batch, given.repeats)
            a, m, b = row["guide_over_converted"]
            said.append(
                f"{length} tokens, batch {batch}: {row['guide_tokens_per_s']:,.0f} and"
                f" {row['converted_tokens_per_s']:,.0f} tokens/s, ratio {m:.2f} [{a:.2f}, {b:.2f}]"
            )
            rows.append(row)
            print(said[-1], flush=True)
    for length in given.lengths:
        row = train_row(length, given.repeats)
        a, m, b = row["linear_attention_over_cell"]
        times = ", ".join(f"{k[:-3]} {v:.1f} ms" for k, v in row.items() if k.endswith("_ms"))
        said.append(f"a block over {row['batch']} x {length}: {times}, {m:.2f} [{a:.2f}, {b:.2f}]")
        rows.append(row)
        print(said[-1], flush=True)
    if given.out:
        command = f"python benchmarks/long_context.py --repeats={given.repeats}"
        note = "a machine that others use too: ratios count; ratios are guide / converted (use)"
        note += " and linear attention / today's cell (train)"
        record(given.out, rows, headline=said, command=command, note=note)


if __name__ == "__main__":
    main()
