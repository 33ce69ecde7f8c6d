"""A model of a finished run as a folder that needs no theseus_jax: weights, programs, a loader, and
a card that says what it is worth.

model.safetensors has the variables by their paths, forward.stablehlo and step.stablehlo (of
language models: one token and its state) are programs of `jax.export` for PLATFORMS whose batch is
left open, config.json says what they read, and load.py runs them with jax, safetensors and
flatbuffers, by which jax reads its programs.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from theseus_jax import tasks, trees
from theseus_jax.config import stored_config
from theseus_jax.errors import UserError
from theseus_jax.experiment import card, parts
from theseus_jax.nets import decode
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.stage import Network, Variables, forward, variable_shapes
from theseus_jax.nets.weights.containers import library, read_tensors
from theseus_jax.paths import local
from theseus_jax.version import __version__

FORMAT = 1
PLATFORMS = ("cpu", "cuda")
LOADER = '''"""Runs what is exported beside it: pip install jax safetensors flatbuffers"""
import json, pathlib
import jax, jax.numpy as jnp
from jax import export
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = json.loads((HERE / "config.json").read_text())
WEIGHTS = load_file(HERE / "model.safetensors")

def program(name):  # forward(weights, inputs); step(weights, tokens, state) -> logits, state
    return jax.jit(export.deserialize(bytearray((HERE / f"{name}.stablehlo").read_bytes())).call)

def state(batch):  # before the first token
    sizes = {k: [batch if n == "b" else n for n in v["shape"]] for k, v in CONFIG["state"].items()}
    return {k: jnp.zeros(size, CONFIG["state"][k]["dtype"]) for k, size in sizes.items()}
'''


class Deployed(NamedTuple):
    """What a folder holds. config: its config.json. tokenizer: of a language model, else None."""

    net: Network
    variables: Variables
    config: dict[str, Any]
    tokenizer: Any = None


def export(
    workdir: str | pathlib.Path, out: str | pathlib.Path, *, model: str = "converted", seed: int = 0
) -> pathlib.Path:
    """Write a model of a finished run to the folder `out`, which must be new or empty.

    Raises UserError for an unfinished run, a model that it has not, and a folder with something in
    it.
    """
    from theseus_jax.experiment import restore

    home, folder = local(workdir), local(out)
    if not (home / "results.json").is_file():
        raise UserError(
            f"{home} holds no finished run (no results.json); run its config to the end first"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give another --out")
    save = library("safetensors.numpy").numpy.save
    library("flatbuffers")  # jax writes programs by it
    results = json.loads((home / "results.json").read_text())
    net, variables = restore(home, model, seed)
    config = stored_config((home / "config.json").read_text())
    task = tasks.module(config.task).Task(config)
    settled = task.settled() if hasattr(task, "settled") else config
    known = {
        "format": FORMAT,
        "theseus_jax": __version__,
        "jax": jax.__version__,
        "model": model,
        "seed": seed,
        "platforms": PLATFORMS,
        "run": json.loads(settled.to_json()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: np.asarray(leaf) for name, leaf in trees.leaves_by_path(variables).items()}
    known |= _programs(folder, net, variables, task.example)
    if hasattr(task, "tokenizer"):
        known |= _tokenizer(folder, task.tokenizer(home / "cache", results["data"]["sha256"]))
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "flax"}))
    (folder / "load.py").write_text(LOADER)
    (folder / "README.md").write_text(card.text(results, model, seed, known))
    (folder / "config.json").write_text(json.dumps(known, indent=1))  # last: it says all is there
    return folder


def load(folder: str | pathlib.Path) -> Deployed:
    """The network and variables of an exported folder, ready for `forward` and `generate`. Raises
    UserError for a folder that is not one, or of another version of the format.
    """
    from theseus_jax.data.tokens import BpeTokenizer, ByteTokenizer

    root = local(folder)
    if not (root / "config.json").is_file():
        raise UserError(f"{root} has no config.json; give a folder that launch/export.py wrote")
    known = json.loads((root / "config.json").read_text())
    if known.get("format") != FORMAT:
        raise UserError(
            f"{root} has the format {known.get('format')!r} and this version reads {FORMAT}; export"
            " the run again"
        )
    config = stored_config(json.dumps(known["run"]))
    net = parts.network(config, known["model"])
    example = tasks.module(config.task).Task(config).example
    leaves = trees.leaves_by_path(variable_shapes(net, example))
    given = read_tensors(root / "model.safetensors")
    odd = sorted(given.keys() ^ leaves.keys())
    if odd:
        raise UserError(
            f"{root}/model.safetensors and config.json do not belong together: {odd[0]} is in one"
            " of them alone; export the run again"
        )
    variables = {**{name: {} for name in net.names}, **trees.nested(given)}
    variables = jax.tree.map(jnp.asarray, variables)
    tokenizer = None
    if known.get("tokenizer") == "bytes":
        tokenizer = ByteTokenizer()
    elif "tokenizer" in known:
        definition = (root / known["tokenizer"]).read_text()
        tokenizer = BpeTokenizer(definition, known["vocabulary"], end=known["separator"])
    return Deployed(net, variables, known, tokenizer)


def _tokenizer(folder: pathlib.Path, tokenizer: Any) -> dict[str, Any]:
    known = {"vocabulary": tokenizer.vocabulary, "separator": tokenizer.separator}
    definition = getattr(tokenizer, "definition", None)
    if definition is None:
        return known | {"tokenizer": "bytes"}
    (folder / "tokenizer.json").write_text(definition)
    return known | {"tokenizer": "tokenizer.json"}


def _programs(
    folder: pathlib.Path, net: Network, variables: Variables, example: Any
) -> dict[str, Any]:
    """Writes the programs; what config.json says of what they read and give."""
    (batch,) = jax_export.symbolic_shape("b", scope=jax_export.SymbolicScope())
    paths = trees.leaves_by_path(variables)
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in paths.items()}

    def whole(weights: dict[str, jax.Array]) -> Variables:
        return {**{name: {} for name in net.names}, **trees.nested(weights)}

    def write(name: str, run: Any, *given: Any) -> Any:
        program = jax_export.export(jax.jit(run), platforms=PLATFORMS)(shapes, *given)
        (folder / f"{name}.stablehlo").write_bytes(program.serialize())
        return program

    leaves, kind = jax.tree.flatten(example)
    inputs = [jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]

    def run(weights: Any, *given: Any) -> jax.Array:
        x = jax.tree.unflatten(kind, given)
        return values_and_mask(forward(net, whole(weights), x)[0])[0]

    program = write("forward", run, *inputs)
    said = {"inputs": [*map(_said, inputs)], "outputs": _said(program.out_avals[0])}
    one, two = (decode.initial_carries(net, count, example.shape[-1]) for count in (1, 2))
    if not one:
        return said
    ours, doubled = trees.leaves_by_path(one), trees.leaves_by_path(two)
    state = {
        path: jax.ShapeDtypeStruct(
            [a if a == b else batch for a, b in zip(leaf.shape, doubled[path].shape)], leaf.dtype
        )
        for path, leaf in ours.items()
    }

    def step(weights: Any, tokens: Any, carried: Any) -> Any:
        before = jax.tree.unflatten(jax.tree.structure(one), [carried[path] for path in ours])
        logits, after = decode.step(net, whole(weights), tokens, before)
        return logits, trees.leaves_by_path(after)

    write("step", step, jax.ShapeDtypeStruct((batch,), jnp.int32), state)
    ends = _ends(net, variables, example.shape[-1])
    return said | {"state": {path: _said(leaf) for path, leaf in state.items()}, "ends": ends}


def _ends(net: Network, variables: Variables, context: int) -> int | None:
    """After how many tokens no more can be read; None: never."""
    grows = decode.state_bytes(net, context) != decode.state_bytes(net, 2 * context)
    try:
        decode.check_length(net, variables, 2 * context)
    except UserError:
        grows = True
    return context if grows else None


def _said(leaf: Any) -> dict[str, Any]:
    """A shape for config.json: "b" for the batch."""
    sizes = [n if isinstance(n, int) else "b" for n in leaf.shape]
    return {"shape": sizes, "dtype": str(jnp.dtype(leaf.dtype))}
