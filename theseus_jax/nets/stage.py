"""Networks as ordered, named stages, and the one function that runs them.

A stage is any linen module `y = module(x)` or `y = module(x, train=...)`. A network's variables are a plain dict
`{stage name: {"params": ..., "batch_stats": ...}}`, so reusing a part of one network in another is reusing a key.
"""
from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, Mapping, NamedTuple, Sequence

import flax.linen as nn
import jax

from theseus_jax.errors import UserError

Variables = dict[str, dict[str, Any]]


class Masked(NamedTuple):
    """What goes between stages that read padded texts: token ids (B, T) int32 or hidden states (B, T, D); mask (B, T), 1
    for a token.
    """

    values: jax.Array
    mask: jax.Array


def values_and_mask(x: Any) -> tuple[jax.Array, jax.Array | None]:
    """A stage's output as (values (B, ..., D), mask of what counts, or None)."""
    return (x.values, x.mask) if isinstance(x, Masked) else (x, None)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A named linen module; hashable, so that a network can be a static argument of jit."""

    name: str
    module: nn.Module


@dataclasses.dataclass(frozen=True)
class Tie:
    """Parameter `name` of stage `stage` is parameter `source_name` of stage `source`, stored there alone."""

    stage: str
    name: str
    source: str
    source_name: str


@dataclasses.dataclass(frozen=True)
class Network:
    """An ordered tuple of stages with distinct names, and the parameters that two of them share."""

    stages: tuple[Stage, ...]
    ties: tuple[Tie, ...] = ()

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled or not names:
            raise UserError(f"a network needs at least one stage and distinct names; doubled: {doubled}; rename them")
        for tie in self.ties:
            for name in (tie.stage, tie.source):
                position(self, name)

    @property
    def names(self) -> tuple[str, ...]:
        """The stage names in order."""
        return tuple(stage.name for stage in self.stages)


def network(stages: Sequence[tuple[str, nn.Module]], ties: Sequence[Tie] = ()) -> Network:
    """A network from (name, linen module) pairs: `network([("stem", Stem()), ("block_1", Block())])`.

    Raises UserError for doubled names or for something that is not a linen module.
    """
    for name, module in stages:
        if not isinstance(module, nn.Module):
            raise UserError(f"stage {name!r} is a {type(module).__name__}, not a flax.linen module; wrap it in one")
    return Network(tuple(Stage(name, module) for name, module in stages), tuple(ties))


def position(net: Network, name: str) -> int:
    """The index of stage `name`; raises UserError naming the stages that there are."""
    if name not in net.names:
        raise UserError(f"there is no stage {name!r}; the network has {', '.join(net.names)}")
    return net.names.index(name)


def replace(net: Network, name: str, stages: Sequence[Stage]) -> Network:
    """A new network in which `stages` stand where stage `name` stood; the other stages keep their names.

    Ties of the replaced stage go with it. Raises UserError for an unknown or doubled name.
    """
    i = position(net, name)
    kept = net.names[:i] + net.names[i + 1:]
    ties = tuple(tie for tie in net.ties if tie.stage in kept and tie.source in kept)
    return Network(net.stages[:i] + tuple(stages) + net.stages[i + 1:], ties)


@functools.lru_cache(maxsize=None)
def _takes_train(kind: type[nn.Module]) -> bool:
    return "train" in inspect.signature(kind.__call__).parameters


def tied(net: Network, name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that stage `name` runs with: its own, and those tied to another stage's."""
    own = dict(variables.get(name, {}))
    for tie in net.ties:
        if tie.stage == name:
            own["params"] = {**own.get("params", {}), tie.name: variables[tie.source]["params"][tie.source_name]}
    return own


def _apply(net: Network, stage: Stage, variables: Variables, x: Any, train: bool, key: jax.Array | None):
    given = tied(net, stage.name, variables)
    arguments = {"train": train} if _takes_train(type(stage.module)) else {}
    rngs = None if key is None else {"dropout": key}
    if train and "batch_stats" in given:
        y, changed = stage.module.apply(given, x, rngs=rngs, mutable=["batch_stats"], **arguments)
        return y, changed["batch_stats"]
    return stage.module.apply(given, x, rngs=rngs, **arguments), given.get("batch_stats")


def forward(
    net: Network, variables: Variables, x: Any, *, train: bool = False, start: str | None = None,
    stop: str | None = None, capture: Sequence[str] = (), key: jax.Array | None = None,
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Run the stages from `start` to `stop`, both included (None: the first and the last).

    x: the input of stage `start`. capture: names of stages whose outputs are wanted. key: for dropout.
    Returns (y, activations, batch_stats): the output of `stop`, `{name: output}` for each captured stage, and the
    new batch statistics of each stage that has some. Stages outside start..stop are not traced.
    Raises UserError for a name that is not a stage, or a captured stage that is not run.
    """
    first = 0 if start is None else position(net, start)
    last = len(net.stages) - 1 if stop is None else position(net, stop)
    run = net.stages[first: last + 1]
    missing = [name for name in capture if name not in {stage.name for stage in run}]
    if missing or not run:
        raise UserError(f"stages {missing or [start, stop]} are not among those run: {[s.name for s in run]}")
    activations, statistics = {}, {}
    for i, stage in enumerate(run, start=first):
        stage_key = None if key is None else jax.random.fold_in(key, i)
        x, changed = _apply(net, stage, variables, x, train, stage_key)
        if changed is not None:
            statistics[stage.name] = changed
        if stage.name in capture:
            activations[stage.name] = x
    return x, activations, statistics


def init(net: Network, key: jax.Array, x: Any) -> Variables:
    """Fresh variables of every stage for an input like x (array or ShapeDtypeStruct); x's values do not matter.

    Each stage's key is folded from its name, so the same stage in another network starts from the same numbers.
    """
    variables: Variables = {}
    for stage in net.stages:
        arguments = {"train": False} if _takes_train(type(stage.module)) else {}
        stage_key = jax.random.fold_in(key, _number(stage.name))
        fresh = jax.jit(lambda k, z, m=stage.module: m.init(k, z, **arguments))(stage_key, _zeros(x))
        for tie in net.ties:
            if tie.stage == stage.name:
                fresh["params"].pop(tie.name)
        variables[stage.name] = {kind: tree for kind, tree in fresh.items() if tree}
        x = jax.eval_shape(lambda v, z, s=stage: _apply(net, s, v, z, False, None)[0], variables, x)
    return variables


def seams(net: Network, x: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape and dtype of every stage's output for an input like x; nothing is computed."""
    def run(key, z):
        variables, out = {}, {}
        for stage in net.stages:
            arguments = {"train": False} if _takes_train(type(stage.module)) else {}
            variables[stage.name] = stage.module.init(key, z, **arguments)
            z = stage.module.apply(variables[stage.name], z, **arguments)
            out[stage.name] = z
        return out

    shapes = jax.eval_shape(run, jax.random.key(0), x)  # its dicts come back sorted by key
    return {name: shapes[name] for name in net.names}


def _number(name: str) -> int:
    return functools.reduce(lambda total, letter: (total * 31 + ord(letter)) % (2**31 - 1), name, 7)


def _zeros(x: Any):
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), x)


def partition(variables: Variables, parts: Sequence[str]) -> tuple[Variables, Variables]:
    """Split variables in the parameters named by `parts` and all the rest; `merge` puts them together again.

    parts: stage names, or "stage/submodule/..." prefixes of parameter paths. Raises UserError for a part that names
    no parameter.
    """
    seen: set[str] = set()

    def walk(tree: Any, path: str, inside: bool) -> tuple[Any, Any]:
        seen.add(path)
        inside = inside or path in parts
        if not isinstance(tree, Mapping):
            return (tree, {}) if inside else ({}, tree)
        pairs = {key: walk(value, f"{path}/{key}", inside) for key, value in tree.items()}
        return ({key: pair[0] for key, pair in pairs.items() if not _empty(pair[0])},
                {key: pair[1] for key, pair in pairs.items() if not _empty(pair[1])})

    chosen, rest = {}, {}
    for name, collections in variables.items():
        hit, other = walk(collections.get("params", {}), name, False)
        chosen |= {} if _empty(hit) else {name: {"params": hit}}
        kept = {kind: tree for kind, tree in collections.items() if kind != "params"}
        rest[name] = kept | ({} if _empty(other) else {"params": other})
    unknown = sorted(set(parts) - seen)
    if unknown:
        raise UserError(f"no parameter is named by {', '.join(unknown)}; the stages are {', '.join(variables)}")
    return chosen, rest


def _empty(tree: Any) -> bool:
    return isinstance(tree, Mapping) and not tree


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested dicts as one; where both have a leaf, b's counts."""
    both = {key: merge(a[key], b[key]) if isinstance(a[key], Mapping) and isinstance(b[key], Mapping) else b[key]
            for key in a.keys() & b.keys()}
    return {**a, **b, **both}
