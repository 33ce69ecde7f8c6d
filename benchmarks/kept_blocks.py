"""Which attentions of a guide are worth keeping: loss, state and speed of every hybrid.

    python benchmarks/kept_blocks.py --guide=runs/gpt2_to_rnn [--config=configs/gpt2_to_rnn.py]
        [--keep= --keep=1 --keep=2,3 ...] [--set=convert.steps=600] [--out=FILE.json]

--keep: numbers of the blocks whose attention stays, one hybrid each; without it none, each block by
itself, and all. Every hybrid is converted as the config says, beside the finished run's guide, and
scored on validation data. tokens/s: one sequence, after --context tokens.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import tempfile
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402

import theseus_jax as tj  # noqa: E402
from benchmarks.long_context import STEPS, after, timed  # noqa: E402
from benchmarks.search import load_config, overridden, trained  # noqa: E402
from launch.edge import command  # noqa: E402
from launch.record import record  # noqa: E402
from theseus_jax.experiment import engine  # noqa: E402
from theseus_jax.experiment.workdir import Workdir  # noqa: E402
from theseus_jax.nets import decode  # noqa: E402
from theseus_jax.records import Records  # noqa: E402

REPEATS = 9


def speed(net: Any, variables: Any, context: int) -> float:
    """Tokens a second, of one sequence after so many tokens."""
    some, full = after(net, 1, context)
    run = functools.partial(jax.jit(some), variables, full)
    return STEPS / float(np.median(timed({"": run}, REPEATS)[""]))


def row(config: Any, kept: tuple[int, ...], guide: Any, cache: pathlib.Path, context: int) -> Any:
    """One hybrid, converted and measured."""
    config.convert.keep = tuple(f"block_{number}/attn" for number in kept)
    with tempfile.TemporaryDirectory() as folder:
        home = Workdir(pathlib.Path(folder), Records(pathlib.Path(folder) / "metrics.jsonl"))
        task, data = engine.parts(config)[0].load(cache)
        sets = data.sets(0)._replace(test=data.sets(0).validation)  # test data are not touched
        data = data._replace(sets=lambda seed: sets)
        net, variables = trained(config, "converted", task, data, guide, home)
    losses = sets.validation.scores(net, variables)["loss"]
    first = jax.tree.map(lambda leaf: leaf[0], variables)
    return {
        "kept": list(kept),
        "validation_loss": float(np.mean(losses)),
        "state_bytes_128": decode.state_bytes(net, 128),
        "state_bytes_8192": decode.state_bytes(net, 8192),
        "tokens_per_s": speed(net, first, context),
        "context": context,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guide", required=True, help="a finished run")
    parser.add_argument("--config", default="configs/gpt2_to_rnn.py")
    parser.add_argument("--keep", action="append", help="numbers of blocks, joined by commas")
    parser.add_argument("--set", default="", dest="common", help="overrides of the config")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--context", type=int, default=1024, help="tokens, for the speed")
    parser.add_argument("--out", default="", help="also write the table here")
    given = parser.parse_args()
    _, guide = tj.restore(given.guide, model="guide")
    depth = sum(name.startswith("block_") for name in guide)
    every = tuple(range(1, depth + 1))
    wanted = [(), *((number,) for number in every), every]
    if given.keep is not None:
        wanted = [tuple(int(n) for n in text.split(",") if n) for text in given.keep]
    rows, said = [], []
    for kept in wanted:
        config = overridden(load_config(given.config), given.common)
        config.seeds, config.controls.names = given.seeds, ()
        found = row(config, kept, guide, pathlib.Path(given.guide) / "cache", given.context)
        rows.append(found)
        said.append(
            f"kept {kept or 'none'}: {found['validation_loss']:.4f} nats,"
            f" {found['state_bytes_128']:,} bytes at 128 tokens, {found['state_bytes_8192']:,} at"
            f" 8,192, {found['tokens_per_s']:,.0f} tokens/s after {given.context:,}"
        )
        print(said[-1], flush=True)
    if given.out:
        record(given.out, rows, headline=said, command="python benchmarks/kept_blocks.py")


if __name__ == "__main__":
    command(main)
