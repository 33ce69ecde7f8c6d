"""Which units of a network can be switched, found by looking: a site is where a `Units` module
stands and one number of its stage's module decides how many there are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Iterator, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.edits import unit_axes
from theseus_jax.errors import UserError
from theseus_jax.nets.blocks.units import Units
from theseus_jax.nets.modes import mode_arguments
from theseus_jax.nets.sites import Masks, Path, Site, Slice, fresh_masks, leaf, with_masks
from theseus_jax.nets.stage import (
    Network,
    Stage,
    Variables,
    forward,
    position,
    seams,
    variable_shapes,
)

Widths = dict[tuple[str, Path], int]
PROBED = 4  # examples of the numerical check


def elastic(net: Network, example: Any, names: Sequence[str] | None = None) -> Network:
    """The network with its sites: hidden layers whose units can be switched, grown and pruned.

    example: of one input (1, ...), shapes are enough. names: of the sites that are wanted
    ("block_1/units"), None for all. Nothing else about the network changes but that its variables
    have masks. A site's slices are found by comparing shapes with one unit more (`edits.unit_axes`)
    and proved on random numbers: what belongs to a unit that is off gets no gradient. Raises
    UserError for a network without any site, a name that is none, or a site that cannot be taken
    apart, each named.
    """
    plain = dataclasses.replace(net, sites=())
    there = units_of(plain, example)
    names = ["/".join((stage, *path)) for stage, path in there] if names is None else list(names)
    known = {"/".join((stage, *path)): (stage, path) for stage, path in there}
    if not names or set(names) - known.keys():
        wrong = ", ".join(sorted(set(names) - known.keys())) or "any"
        raise UserError(
            f"the network has no units {wrong}; it has {', '.join(known) or 'none'}: put"
            " nets.blocks.units.Units between two layers where they are to be switched"
        )
    found = [_site(plain, example, *known[name], there) for name in names]
    return dataclasses.replace(net, sites=tuple(_sorted(net, example, site) for site in found))


def units_of(net: Network, example: Any) -> Widths:
    """{(stage, path): J} of every `Units` module that runs, in order."""
    found: Widths = {}
    for stage, x in zip(net.stages, (example, *seams(net, example).values())):
        leaves, structure = jax.tree.flatten(x)
        specs = tuple(jax.ShapeDtypeStruct(one.shape, one.dtype) for one in leaves)
        inside = _units_inside(stage.module, structure, specs)
        found |= {(stage.name, path): width for path, width in inside}
    return found


@functools.lru_cache(maxsize=1024)
def _units_inside(module: nn.Module, structure: Any, specs: Any) -> tuple[tuple[Path, int], ...]:
    found = {}

    def look(call, args, kwargs, context):
        if isinstance(context.module, Units) and context.method_name == "__call__":
            found[context.module.path] = args[0].shape[-1]
        return call(*args, **kwargs)

    given, x = mode_arguments(module, False), jax.tree.unflatten(structure, specs)
    with nn.intercept_methods(look):
        jax.eval_shape(lambda key, z: module.init(key, z, **given), jax.random.key(0), x)
    return tuple(found.items())


def resized(net: Network, widths: Mapping[Site, int]) -> Network:
    """The network with other numbers of units at these sites, and without any site."""
    modules = {stage.name: stage.module for stage in net.stages}
    for site, width in widths.items():
        modules[site.stage] = _set(modules[site.stage], site.field.split("."), width)
    stages = tuple(Stage(stage.name, modules[stage.name]) for stage in net.stages)
    return Network(stages, net.ties)


def _set(value: Any, keys: Sequence[str], number: int) -> Any:
    """A module, tuple or NamedTuple with another number at a path of fields."""
    if not keys:
        return number
    key, *rest = keys
    if isinstance(value, nn.Module):
        return value.clone(**{key: _set(getattr(value, key), rest, number)})
    if hasattr(value, "_fields"):
        return value._replace(**{key: _set(getattr(value, key), rest, number)})
    return tuple(_set(one, rest, number) if str(i) == key else one for i, one in enumerate(value))


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, int]]:
    """(path, number) of every whole number in a module's fields, those of modules in them too."""
    inside = f"{path}." if path else ""
    if isinstance(value, nn.Module):
        for field in dataclasses.fields(value):
            if field.name not in ("parent", "name"):
                yield from _numbers(getattr(value, field.name), inside + field.name)
    elif hasattr(value, "_fields"):
        for name in value._fields:
            yield from _numbers(getattr(value, name), inside + name)
    elif isinstance(value, tuple):
        for i, one in enumerate(value):
            yield from _numbers(one, f"{inside}{i}")
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value


def _site(net: Network, example: Any, stage: str, path: Path, there: Widths) -> Site:
    """The site of a `Units` module, its slices not yet sorted. Raises UserError where no number of
    its stage decides its width alone.
    """
    width, module = there[stage, path], net.stages[position(net, stage)].module
    grown = {**there, (stage, path): width + 1}
    for field, number in _numbers(module):
        if number != width:
            continue
        site = Site(stage, path, field, width)
        wider = resized(net, {site: width + 1})
        try:
            fits = units_of(wider, example) == grown
            slices = unit_axes(*(_shapes(one, example) for one in (net, wider)), width)
        except Exception:  # whatever another module says to a number that is not a width
            continue
        if fits and _ends_alike(net, wider, example):
            return site._replace(incoming=slices)
    raise UserError(
        f"no number of {stage}'s {type(module).__name__} decides the {width} units of"
        f" {'/'.join((stage, *path))} alone; give the module a field for their number that changes"
        " nothing else"
    )


def _shapes(net: Network, example: Any) -> Variables:
    return variable_shapes(net, example)


def _ends_alike(net: Network, wider: Network, example: Any) -> bool:
    return list(seams(net, example).values())[-1] == list(seams(wider, example).values())[-1]


def _sorted(net: Network, example: Any, site: Site) -> Site:
    """The site with its slices sorted and laid out, proved on random numbers on the stages that
    they are in. Raises UserError, naming the site and the leaf, for units that cannot be taken
    apart, or that another stage shares.
    """
    shared = {tie.stage for tie in net.ties} | {tie.source for tie in net.ties}
    touched = {one.path[0] for one in site.incoming}
    if touched & shared:
        raise UserError(
            f"{site} cannot be switched: {', '.join(sorted(touched & shared))} shares parameters"
            " with another stage; leave this site out"
        )
    first, last = (f(position(net, stage) for stage in touched) for f in (min, max))
    inputs = (example, *seams(net, example).values())[first]
    leaves, structure = jax.tree.flatten(inputs)
    specs = tuple(jax.ShapeDtypeStruct(one.shape, one.dtype) for one in leaves)
    names = [str(i) for i in range(last - first + 1)]
    here = position(net, site.stage) - first
    renamed = dict(zip(net.names[first : last + 1], names))
    back = dict(zip(names, net.names[first : last + 1]))

    def moved(slices: tuple[Slice, ...], way: dict[str, str]) -> tuple[Slice, ...]:
        return tuple(one._replace(path=(way[one.path[0]], *one.path[1:])) for one in slices)

    modules = tuple(stage.module for stage in net.stages[first : last + 1])
    local = site._replace(stage=str(here), incoming=moved(site.incoming, renamed))
    done = _proved(modules, local, structure, specs, str(site))
    sides = {side: moved(getattr(done, side), back) for side in ("incoming", "outgoing")}
    counted = moved(done.statistics, back)
    return done._replace(stage=site.stage, statistics=counted, **sides)


@functools.lru_cache(maxsize=256)
def _proved(
    modules: tuple[nn.Module, ...], site: Site, structure: Any, specs: Any, said: str
) -> Site:
    """See `_sorted`; blocks are alike, so each kind is looked at once. The modules are stages "0",
    "1", ...
    """
    net = Network(tuple(Stage(str(i), module) for i, module in enumerate(modules)))
    draw = np.random.default_rng(0)
    x = _some(jax.tree.unflatten(structure, specs), draw)
    variables = _generic(variable_shapes(net, x), draw)
    half = draw.random(site.width) < 0.5
    half[0], half[-1] = True, False  # at least one of each kind
    slopes, felt = _slopes(net, site, variables, x, jnp.asarray(half))
    kept = [_laid_out(said, one, slopes, half) for one in site.incoming if one.path[1] == "params"]
    doubled = [one.path for one in kept if [two.path for two in kept].count(one.path) > 1]
    if doubled:
        raise UserError(
            f"{said} cannot be switched: {'/'.join(doubled[0][1:])} leads from its units to its"
            " units; leave this site out"
        )
    incoming = tuple(
        one for one in kept if one.path[0] == site.stage and leaf(felt, one.path).any()
    )
    weights = max(incoming, key=lambda one: one.rows(leaf(felt, one.path)).shape[1])
    others = weights.rows(leaf(felt, weights.path))[1:]
    return site._replace(
        incoming=incoming,
        outgoing=tuple(one for one in kept if one not in incoming),
        statistics=tuple(one for one in site.incoming if one.path[1] == "batch_stats"),
        mixed=bool(others.any()),
    )


def _laid_out(said: str, one: Slice, slopes: Variables, live: jax.Array) -> Slice:
    """The slice, tiled or not: the one of which units that are off have no gradient."""
    slope = leaf(slopes, one.path)
    for tiled in (True, False):
        rows = jnp.abs(one._replace(tiled=tiled).rows(slope)).max(axis=1)
        if not jnp.where(live, 0.0, rows).any() and rows.any():
            return one._replace(tiled=tiled)
    raise UserError(
        f"the units of {said} cannot be taken apart: {'/'.join(one.path[1:])} has a gradient where"
        " they are off; let nothing between the layer and its Units mix them (a norm over units"
        " takes Units.live())"
    )


def _generic(shapes: Variables, draw: np.random.Generator) -> Variables:
    """Parameters of which none is 0, and statistics of 1."""
    return {
        name: {
            kind: jax.tree.map(
                lambda leaf, kind=kind: np.asarray(
                    draw.normal(size=leaf.shape) if kind == "params" else np.ones(leaf.shape),
                    leaf.dtype,
                ),
                tree,
            )
            for kind, tree in collections.items()
        }
        for name, collections in shapes.items()
    }


def _some(example: Any, draw: np.random.Generator) -> Any:
    def one(spec: Any) -> np.ndarray:
        shape = (PROBED, *spec.shape[1:])
        if jnp.issubdtype(spec.dtype, jnp.floating):
            return np.asarray(draw.normal(size=shape), spec.dtype)
        top = 256 if spec.dtype == jnp.uint8 else 2  # levels, or tokens and masks
        return draw.integers(0, top, shape).astype(spec.dtype)

    return jax.tree.map(one, example)


@functools.partial(
    jax.jit, static_argnames=("net", "site"), compiler_options={"xla_backend_optimization_level": 0}
)
def _slopes(
    net: Network, site: Site, variables: Variables, x: Any, half: jax.Array
) -> tuple[Variables, Variables]:
    """Two gradients of the parameters: of a random sum of the outputs with half of the units on,
    and of a random sum of what the first unit reads with all on.
    """
    on = Masks(**fresh_masks(site.width))
    name = f"{site.name}/z"

    def outputs(params: Any) -> jax.Array:
        given = with_masks(_joined(variables, params), site, on._replace(live=half))
        return _mixture(jax.tree.leaves(forward(net, given, x)[0])[0])

    def inputs(params: Any) -> jax.Array:
        given = with_masks(_joined(variables, params), site, on)
        seen = forward(net, given, x, stop=site.stage, capture=(name,))[1][name]
        return _mixture(jax.tree.leaves(seen)[0][..., 0])

    params = {stage: tree.get("params", {}) for stage, tree in variables.items()}
    return tuple(
        {stage: {"params": tree} for stage, tree in jax.grad(one)(params).items()}
        for one in (outputs, inputs)
    )


def _joined(variables: Variables, params: Any) -> Variables:
    return {name: {**variables[name], "params": params[name]} for name in variables}


def _mixture(y: jax.Array) -> jax.Array:
    return (y * jax.random.normal(jax.random.key(1), y.shape)).sum()
