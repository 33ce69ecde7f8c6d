"""What every edit of units has in common: each seed by itself, inside one compiled program."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import gradmax, units
from theseus_jax.methods.plasticity.births import BIRTHS
from theseus_jax.methods.plasticity.scores import SCORES, View
from theseus_jax.methods.plasticity.signals import Reading, readings
from theseus_jax.nets.sites import Site, masks, tracked
from theseus_jax.nets.stage import Variables, init
from theseus_jax.nets.variables import partition
from theseus_jax.order import seed_rows
from theseus_jax.program import Program, inputs_and_labels, over_seeds, program_of
from theseus_jax.rules import transformation
from theseus_jax.train import Inputs, State

MOMENTS = ("fresh", "kept", "transplanted")
NAMES = {"score": SCORES, "birth": BIRTHS, "moments": MOMENTS}


@dataclasses.dataclass(frozen=True)
class Task:
    """What an edit's program depends on besides shapes."""

    program: Program
    example: Any
    slots: tuple[tuple[str, Any], ...]


class Seed:
    """One seed under edit, inside jit: what views and edits of its sites are made of."""

    def __init__(self, task: Task, held: units.Held, guide: Variables, batch: Any, key: Any):
        self.task, self.held, self.given = task, held, (guide, batch)
        read, start, self.draw = jax.random.split(key, 3)
        program, example = task.program, task.example
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
        self.start = init(program.net, start, zeros)
        sites = program.net.sites
        given = program, held.variables, guide, batch, read, sites
        self.read, self.gradient = readings(*given)
        self.credit = _credit(*given, self.read)

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.task.program.net.sites

    def view(self, number: int, step: jax.Array, chosen: jax.Array | None = None) -> View:
        """Of a site, with the units that an edit chose."""
        site = self.sites[number]
        chosen = jnp.zeros(site.width, bool) if chosen is None else chosen
        slices = (*site.parameters, *site.statistics)
        return View(
            site,
            units.rows_of(self.held.variables, slices),
            units.rows_of(self.start, slices),
            masks(self.held.variables, site),
            chosen,
            self.read[site.name],
            units.rows_of(self.credit, site.outgoing),
            jax.random.fold_in(self.draw, number),
            step,
            self._gradmax,
            tracked(self.held.variables, site),
        )

    def _gradmax(self, view: View) -> units.Rows:
        guide, batch = self.given
        passes = gradmax.Passes(self.task.program, view.site, guide, batch, view.key)
        return gradmax.born_rows(passes, self.held.variables, view.chosen, view.key, view.rows)

    def gradient_rows(self, number: int) -> units.Rows:
        """The loss by all weights of a site's units; no statistics."""
        return units.rows_of(self.gradient, self.sites[number].parameters)

    def slots(self, site: Site) -> Any:
        return dict(self.task.slots)[site.name]

    def fresh_state(self) -> Any:
        params, _ = partition(self.held.variables, self.task.program.trainable)
        return transformation(self.task.program.optimizer).init(params)


def _credit(
    program: Program,
    variables: Variables,
    guide: Variables,
    batch: Any,
    key: Any,
    sites: tuple[Site, ...],
    read: dict[str, Reading],
) -> Variables:
    """The gradient of the parameters were every unit on that is off, and the weights that read it
    0: nothing else changes, and those weights get the gradient that they would get.
    """
    taps = {}
    for site in sites:
        off = ~masks(variables, site).live
        variables = units.mapped(
            variables, site.outgoing, lambda _, rows, off=off: jnp.where(off[:, None], 0, rows)
        )
        taps[site.name] = jnp.where(off, read[site.name].h, 0)
    return readings(program, variables, guide, batch, key, sites, taps)[1]


@functools.lru_cache(maxsize=32)
def _task(program: Program, example: Any) -> Task:
    for site in program.net.sites:
        fixed = {one.path[0] for one in site.parameters} - set(program.trainable)
        if fixed:
            raise UserError(
                f"{site} is edited and {', '.join(sorted(fixed))} not trained; train these stages,"
                " or leave the site out"
            )
    optimizer = transformation(program.optimizer)
    found = units.slots(optimizer, program.net, program.trainable, example)
    return Task(program, example, tuple(found.items()))


@dataclasses.dataclass(frozen=True)
class Edit:
    """Common to all: `change(seed, counts, step, start)` of one seed, see `each_seed`. Raises
    UserError for a score, birth or moments that are none.
    """

    def __post_init__(self) -> None:
        for field, there in NAMES.items():
            name = getattr(self, field, None)
            if name is not None and name not in there:
                raise UserError(f"{field} is {name!r}; choose one of {', '.join(there)}")

    def __call__(self, state: State, inputs: Inputs) -> State:
        held = each_seed(self, state, inputs)
        return state._replace(variables=held.variables, opt_state=held.opt_state)

    def told(self, before: State, after: State, inputs: Inputs) -> Iterator[dict[str, Any]]:
        """A row a site and seed: how many units are on, and how many were switched."""
        for site in inputs.phase.net.sites:
            old, new = (np.asarray(masks(one.variables, site).live) for one in (before, after))
            young = np.asarray(masks(after.variables, site).born) == after.step
            for seed in range(len(new)):
                yield {
                    "kind": "units",
                    "edit": str(self),
                    "seed": seed,
                    "site": site.name,
                    "live": int(new[seed].sum()),
                    "born": int((young[seed] & new[seed]).sum()),
                    "pruned": int((old[seed] & ~new[seed]).sum()),
                }


def example_of(examples: Any) -> Any:
    """The shape of one input, (1, ...), of training examples."""
    return jax.eval_shape(
        lambda x: jax.tree.map(lambda leaf: leaf[:1], inputs_and_labels(x)[0]), examples
    )


def each_seed(edit: Any, state: State, inputs: Inputs) -> Any:
    """What `edit.change(seed, counts, step, start)` gives for every seed, leaves (S, ...).

    counts: of the edit, or none; start: the seed's key of the run. Its batch is what the phase's
    order gives at this step. Raises UserError for a network
    without sites.
    """
    program = program_of(inputs.phase)
    if not program.net.sites:
        raise UserError(
            f"phase {inputs.phase.name!r} has the edit {edit} and its network no site; make it"
            " elastic first (plasticity.elastic)"
        )
    example = example_of(inputs.examples)
    count = len(jax.tree.leaves(inputs.examples)[0])
    order = inputs.phase.feed.order
    wanted = min(getattr(edit, "batch", 1), order.most(count))
    rows = seed_rows(order, inputs.order, count, wanted, state.step, 1)[:, 0]
    task = _task(program, example)
    general = dataclasses.replace(edit, counts=()) if hasattr(edit, "counts") else edit
    counts = jnp.asarray(getattr(edit, "counts", ()), jnp.int32)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(inputs.surgery)
    held = units.Held(state.variables, state.opt_state)
    args = held, state.guide_variables, inputs.examples, rows, keys, state.key
    return _run(general, task, *args, counts, jnp.asarray(state.step, jnp.int32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    edit: Any,
    task: Task,
    held: units.Held,
    guide: Variables,
    examples: Any,
    rows: jax.Array,
    keys: jax.Array,
    seeds: jax.Array,
    counts: jax.Array,
    step: jax.Array,
) -> Any:
    def one(args: Any) -> Any:
        held, rows, key, start = args
        batch = jax.tree.map(lambda leaf: leaf[rows], examples)
        return edit.change(Seed(task, held, guide, batch, key), counts, step, start)

    return over_seeds(one, (held, rows, keys, seeds))
