"""Networks as ordered, named stages, and the one function that runs them.

A stage is any linen module `y = module(x)` or `y = module(x, train=...)`, or another of flax's
words for it (`modes.MODES`). A network's variables are a plain dict `{stage name: {"params": ...,
"batch_stats": ...}}`, so reusing a part of one network in another is reusing a key.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Mapping, Sequence

import flax.linen as nn
import jax

from theseus_jax.errors import UserError
from theseus_jax.nets import inner
from theseus_jax.nets.masked import values_and_mask
from theseus_jax.nets.modes import check_mode, mode_arguments
from theseus_jax.nets.precision import lowered, raised
from theseus_jax.nets.sites import Site, with_fresh_masks
from theseus_jax.nets.variables import Variables


@dataclasses.dataclass(frozen=True)
class Stage:
    """A named linen module; hashable, so that a network can be a static argument of jit."""

    name: str
    module: nn.Module


@dataclasses.dataclass(frozen=True)
class Tie:
    """Parameter `name` of stage `stage` is parameter `source_name` of stage `source`, stored there
    alone.
    """

    stage: str
    name: str
    source: str
    source_name: str


@dataclasses.dataclass(frozen=True)
class Network:
    """An ordered tuple of stages with distinct names, the parameters that two of them share, sites
    whose units can be switched (`plasticity.elastic`), and in what its stages compute
    (`precision`).
    """

    stages: tuple[Stage, ...]
    ties: tuple[Tie, ...] = ()
    sites: tuple[Site, ...] = ()
    compute: str = "float32"

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled or not names:
            raise UserError(
                f"a network needs at least one stage and distinct names; doubled: {doubled}; rename"
                " them"
            )
        for tie in self.ties:
            for name in (tie.stage, tie.source):
                position(self, name)

    @property
    def names(self) -> tuple[str, ...]:
        """The stage names in order."""
        return tuple(stage.name for stage in self.stages)


def network(stages: Sequence[tuple[str, nn.Module]], ties: Sequence[Tie] = ()) -> Network:
    """A network from (name, linen module) pairs: `network([("stem", Stem()), ("block_1",
    Block())])`.

    Raises UserError for doubled names, for something that is not a linen module that can be hashed,
    or for a module whose mode is a field and no argument.
    """
    for name, module in stages:
        if not isinstance(module, nn.Module):
            raise UserError(
                f"stage {name!r} is a {type(module).__name__}, not a flax.linen module; wrap it"
                " in one"
            )
        loose = [
            field.name
            for field in dataclasses.fields(module)
            if not _hashable(getattr(module, field.name))
        ]
        if loose:
            raise UserError(
                f"stage {name!r}, a {type(module).__name__}, cannot be a static argument of jit,"
                f" since {', '.join(loose)} cannot be hashed; give tuples instead of lists, arrays"
                " or dicts"
            )
        check_mode(name, module)
    return Network(tuple(Stage(name, module) for name, module in stages), tuple(ties))


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def position(net: Network, name: str) -> int:
    """The index of stage `name`; raises UserError naming the stages that there are."""
    if name not in net.names:
        raise UserError(f"there is no stage {name!r}; the network has {', '.join(net.names)}")
    return net.names.index(name)


def replace(net: Network, name: str, stages: Sequence[Stage]) -> Network:
    """A new network in which `stages` stand where stage `name` stood; the other stages keep their
    names.

    Ties of the replaced stage go with it. Raises UserError for an unknown or doubled name.
    """
    i = position(net, name)
    kept = net.names[:i] + net.names[i + 1 :]
    ties = tuple(tie for tie in net.ties if tie.stage in kept and tie.source in kept)
    return Network(net.stages[:i] + tuple(stages) + net.stages[i + 1 :], ties, compute=net.compute)


def tied(net: Network, name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that stage `name` runs with: its own, and those tied to another stage's."""
    own = dict(variables.get(name, {}))
    for tie in net.ties:
        if tie.stage == name:
            own["params"] = {
                **own.get("params", {}),
                tie.name: variables[tie.source]["params"][tie.source_name],
            }
    return own


def _apply(
    net: Network,
    stage: Stage,
    variables: Variables,
    x: Any,
    train: bool,
    key: jax.Array | None,
    wanted: tuple[str, ...],
):
    """(output, new batch statistics or None, {path: activation} of what is wanted inside)."""
    own = tied(net, stage.name, variables)
    if "params" in own:
        own["params"] = lowered(own["params"], net.compute)
    given = lowered(x, net.compute)
    y, changed, inside = inner.applied(stage.module, train, wanted, own, given, key)
    mask = values_and_mask(y)[1]
    mask = values_and_mask(x)[1] if mask is None else mask
    inside = {path: inner.masked(value, mask) for path, value in inside.items()}
    return y, changed.get("batch_stats", own.get("batch_stats")), raised(inside, net.compute)


def forward(
    net: Network,
    variables: Variables,
    x: Any,
    *,
    train: bool = False,
    start: str | None = None,
    stop: str | None = None,
    capture: Sequence[str] | str = (),
    key: jax.Array | None = None,
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Run the stages from `start` to `stop`, both included (None: the first and the last).

    x: the input of stage `start`. capture: names of stages (or one name) whose outputs are wanted,
    or of what lies inside them, "block_3/attn" (`nets.inner`). key: for dropout. Returns (y,
    activations, batch_stats): the output of `stop`, `{name: output}` for each captured name, and
    the new batch statistics of each stage that has some. Stages outside start..stop are not traced.
    Raises UserError for a name that is not a stage, or a captured stage that is not run.
    """
    first = 0 if start is None else position(net, start)
    last = len(net.stages) - 1 if stop is None else position(net, stop)
    run, capture = net.stages[first : last + 1], (capture,) if isinstance(capture, str) else capture
    missing = [name for name in capture if name.split("/")[0] not in {stage.name for stage in run}]
    if missing or not run:
        raise UserError(
            f"stages {missing or [start, stop]} are not among those run: {[s.name for s in run]}"
        )
    activations, statistics = {}, {}
    for i, stage in enumerate(run, start=first):
        stage_key = None if key is None else jax.random.fold_in(key, i)
        wanted = inner.split(capture, stage.name)
        x, changed, inside = _apply(net, stage, variables, x, train, stage_key, wanted)
        activations |= {f"{stage.name}/{path}": value for path, value in inside.items()}
        if changed is not None:
            statistics[stage.name] = changed
        if stage.name in capture:
            activations[stage.name] = raised(x, net.compute)
    return raised(x, net.compute), activations, statistics


def init(net: Network, key: jax.Array, x: Any) -> Variables:
    """Fresh variables of every stage for an input like x (array or ShapeDtypeStruct); x's values do
    not matter.

    Each stage's key is folded from its name, so the same stage in another network starts from the
    same numbers.
    """
    variables: Variables = {}
    for stage, reads in zip(net.stages, (x, *seams(net, x).values())):
        stage_key = jax.random.fold_in(key, _number(stage.name))
        fresh = _begun(stage.module, stage_key, _zeros(reads))
        variables[stage.name] = _owned(net, stage.name, fresh)
    return with_fresh_masks(net.sites, variables)


@functools.partial(jax.jit, static_argnums=0)
def _begun(module: nn.Module, key: jax.Array, x: Any) -> dict[str, Any]:
    """Fresh variables of a module: compiled once for all stages that are alike."""
    return module.init(key, x, **mode_arguments(module, False))


def _owned(net: Network, name: str, fresh: Mapping[str, Any]) -> dict[str, Any]:
    shared = {tie.name for tie in net.ties if tie.stage == name}
    missing = sorted(shared - set(fresh.get("params", {})))
    if missing:
        raise UserError(
            f"stage {name!r} has no parameter {missing[0]!r} to tie; it has"
            f" {', '.join(sorted(fresh.get('params', {}))) or 'none'}"
        )
    own = {
        kind: {key: leaf for key, leaf in tree.items() if kind != "params" or key not in shared}
        for kind, tree in fresh.items()
    }
    return {kind: tree for kind, tree in own.items() if tree}


def variable_shapes(net: Network, x: Any) -> Variables:
    """The variables that `init` makes for an input like x, as ShapeDtypeStructs; nothing is
    computed.
    """
    plain = {
        stage.name: _owned(net, stage.name, variables)
        for stage, (variables, _) in zip(net.stages, _shapes(net, x))
    }
    return (
        jax.eval_shape(functools.partial(with_fresh_masks, net.sites), plain)
        if net.sites
        else plain
    )


def seams(net: Network, x: Any) -> dict[str, Any]:
    """The shape and dtype of every stage's output for an input like x, in order; nothing is
    computed.
    """
    return {stage.name: out for stage, (_, out) in zip(net.stages, _shapes(net, x))}


def _shapes(net: Network, x: Any) -> list[tuple[Any, Any]]:
    shapes = []
    for stage in net.stages:
        leaves, structure = jax.tree.flatten(x)
        one = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        variables, x = _stage_shapes(stage.module, structure, one, jax.config.jax_enable_x64)
        # a copy, so that nobody changes what the cache holds
        shapes.append((jax.tree.map(lambda leaf: leaf, variables), x))
    return shapes


@functools.lru_cache(maxsize=1024)
def _stage_shapes(
    module: nn.Module, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...], x64: bool
) -> tuple[Any, Any]:
    """A stage's variables and output. Every plan asks for them, and blocks are alike, so each is
    traced once.
    """
    arguments = mode_arguments(module, False)

    def run(key: jax.Array, x: Any) -> tuple[Any, Any]:
        variables = module.init(key, x, **arguments)
        return variables, module.apply(variables, x, **arguments)

    return jax.eval_shape(run, jax.random.key(0), jax.tree.unflatten(structure, leaves))


def _number(name: str) -> int:
    return functools.reduce(lambda total, letter: (total * 31 + ord(letter)) % (2**31 - 1), name, 7)


def _zeros(x: Any):
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), x)
