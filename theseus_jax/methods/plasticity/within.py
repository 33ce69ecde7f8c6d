"""Units that come and go inside another method: a stretch of its training becomes two, the first of
which grows or prunes, and the second goes on with what is left, sliced.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

from theseus_jax.checks import SOME
from theseus_jax.errors import UserError
from theseus_jax.methods.plasticity import budget, plan
from theseus_jax.methods.plasticity.compact import Compact, narrowed
from theseus_jax.methods.plasticity.elastic import elastic
from theseus_jax.nets.stage import Network
from theseus_jax.plan import Edit, Plan

CHOICES = {"elastic.way": ("prune", "grow")}
POSITIVE = ("elastic.edits",)
RANGES = {"elastic.compactness": SOME, "elastic.begin": SOME}


def section() -> dict[str, Any]:
    """Of a config whose target can be elastic, with defaults and units."""
    return {
        "compactness": 1.0,  # share of its sites' weights that the target ends with; 1: all
        "way": "prune",  # prune (incoming magnitude) | grow (activation)
        "edits": 3,  # in the first half of the last phase
        "begin": 0.1,  # share of a site's units that growth begins with
    }


def sliced(
    phases: Plan, wide: Network, counts: budget.Counts, cycles: Sequence[Sequence[Edit]]
) -> Plan:
    """The plan with its last phase, on `wide`, as two of as many steps: in the first come the edits
    of the cycles, evenly, and the second goes on with counts[i] units a site.

    Raises UserError for a phase that is too short for that.
    """
    *before, last = phases
    half, (first, *later) = last.steps // 2, cycles
    if half < len(cycles):
        raise UserError(
            f"phase {last.name!r} has {last.steps} steps for {len(cycles)} edits of units in its"
            f" first half; give it {2 * len(cycles)} or more, or fewer edits"
        )
    moments = ((half * i // len(cycles), edits) for i, edits in enumerate(later, 1))
    whole = dataclasses.replace(
        last,
        steps=half,
        stop=None,
        probes=(),
        edits=(*last.edits, *first),
        edits_at=tuple((step, edit) for step, edits in moments for edit in edits),
    )
    rest = dataclasses.replace(
        last,
        name=f"{last.name}, sliced",
        net=narrowed(wide, dict(zip(wide.sites, counts))),
        steps=last.steps - half,
        edits=(Compact(wide, counts),),
        carry=True,
    )
    return (*before, whole, rest)


def pruned(phases: Plan, wide: Network, counts: budget.Counts, edits: int) -> Plan:
    """`sliced`, after so many prunes of the units with the smallest incoming weights."""
    return sliced(phases, wide, counts, plan.pruning(wide, _settings(phases, counts, edits)))


def grown(
    phases: Plan, wide: Network, begun: budget.Counts, counts: budget.Counts, edits: int
) -> Plan:
    """`sliced`, after so many births of the units that are active most; before the first phase all
    but begun[i] a site are off.
    """
    cycles = plan.growth(
        dataclasses.replace(_settings(phases, counts, edits), start=begun), look=False
    )
    (start, *first), *later = cycles
    made = sliced(phases, wide, counts, (first, *later))
    return (dataclasses.replace(made[0], edits=(start, *made[0].edits)), *made[1:])


def _settings(phases: Plan, counts: budget.Counts, edits: int) -> plan.Settings:
    return plan.Settings(edits, 1, counts, counts, phases[-1].optimizer, rewind=False)


@dataclasses.dataclass(frozen=True)
class Within:
    """A target (without sites) whose last phase loses or gains units.

    compactness: share of its sites' weights at the end, in (0, 1]; 1: nothing is done. way: "prune"
    from all units or "grow" from a share of `begin`. Raises UserError for a budget that leaves a
    site without units, or a target without sites.
    """

    target: Network
    example: Any
    compactness: float = 1.0
    way: str = "prune"
    edits: int = 3
    begin: float = 0.1

    @property
    def idle(self) -> bool:
        """Whether the target stays as it is."""
        return self.compactness == 1

    @property
    def wide(self) -> Network:
        """The target as it is trained first."""
        return self.target if self.idle else elastic(self.target, self.example)

    @property
    def counts(self) -> budget.Counts:
        """Units of every site at the end."""
        return budget.targets(self.wide, self.example, self.compactness)

    @property
    def narrow(self) -> Network:
        """The target as it is deployed."""
        wide = self.wide
        return wide if self.idle else narrowed(wide, dict(zip(wide.sites, self.counts)))

    def __call__(self, phases: Plan) -> Plan:
        """The plan of training `wide` as one that ends with `narrow`, in as many steps."""
        if self.idle or not phases:
            return phases
        wide, counts = self.wide, self.counts
        if self.way == "prune":
            return pruned(phases, wide, counts, self.edits)
        return grown(phases, wide, budget.started(wide.sites, self.begin), counts, self.edits)

    def lines(self) -> list[str]:
        """Of plan.txt: how many units there are of each site."""
        if self.idle:
            return []
        begun = budget.started(self.wide.sites, self.begin) if self.way == "grow" else None
        first = begun or [site.width for site in self.wide.sites]
        sites = zip(self.wide.sites, first, self.counts)
        return [f"{site}: {self.way} from {begin} to {end}" for site, begin, end in sites]
