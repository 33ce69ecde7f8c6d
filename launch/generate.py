"""Continue a text with an exported language model, token by token:

    python launch/generate.py FOLDER --prompt="def" [--length=200] [--temperature=0.8] [--batch=1]

Exit codes: 0 done, 2 the user's mistake (one line).
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import theseus_jax as tj  # noqa: E402
from launch.edge import command  # noqa: E402
from theseus_jax.nets import decode  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="that launch/export.py wrote")
    parser.add_argument("--prompt", default="def", help="how the text begins")
    parser.add_argument("--length", type=int, default=200, help="tokens")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--batch", type=int, default=1, help="texts at once")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    made = tj.load(given.folder)
    if made.tokenizer is None:
        raise tj.UserError(f"{given.folder} holds no language model; there is nothing to continue")
    prompt = made.tokenizer.encode(given.prompt)
    if not len(prompt) or min(given.length, given.batch) < 1 or given.temperature < 0:
        raise tj.UserError(
            f"a prompt of {len(prompt)} tokens, length {given.length}, batch {given.batch} and"
            f" temperature {given.temperature:g}: give a prompt, 1 or more of both, and 0 or more"
        )
    seconds = write(made, prompt, given)
    print(f"\n{given.batch * given.length / seconds:,.0f} tokens/s", file=sys.stderr)


def write(made: Any, prompt: np.ndarray, given: argparse.Namespace) -> float:
    """Prints texts while they grow (of a batch, when they are whole); seconds without compiling."""
    net, known = made.net, made.config
    trained = known["inputs"][0]["shape"][-1]
    context = max(len(prompt) + given.length, trained)
    decode.check_length(net, made.variables, context)
    step = jax.jit(functools.partial(decode.step, net))

    @jax.jit
    def advance(variables: Any, logits: jax.Array, carries: Any, key: jax.Array) -> Any:
        drawn = (
            jax.random.categorical(key, logits / given.temperature)
            if given.temperature
            else jnp.argmax(logits, axis=-1)
        ).astype(jnp.int32)
        return drawn, *decode.step(net, variables, drawn, carries)

    carries = decode.initial_carries(net, given.batch, context)
    for token in prompt:
        tokens = jnp.full(given.batch, token, jnp.int32)
        logits, carries = step(made.variables, tokens, carries)
    key = jax.random.key(given.seed)
    jax.block_until_ready(advance(made.variables, logits, carries, key))  # compiled untimed
    written: list[np.ndarray] = []
    shown, began = "", time.monotonic()
    for i in range(given.length):
        draw = jax.random.fold_in(key, i)
        tokens, logits, carries = advance(made.variables, logits, carries, draw)
        written.append(np.asarray(tokens))
        if given.batch == 1:
            text = given.prompt + made.tokenizer.decode(np.stack(written)[:, 0])
            if not text.endswith("\ufffd"):  # the rest of a letter is still to come
                print(text[len(shown) :], end="", flush=True)
                shown = text
    seconds = time.monotonic() - began
    for row in np.stack(written, axis=1) if given.batch > 1 else ():
        print(f"{given.prompt}{made.tokenizer.decode(row)}\n{'-' * 60}")
    return seconds


if __name__ == "__main__":
    command(main)
