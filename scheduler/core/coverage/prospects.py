"""A pool before the loss of failure domains, in parts in which counts of cells are proof.

A lot stands on cells of its own size alone. Where the cells of a level that is sold or offered differ in size (nodes of
4 and of 8 GPUs, domains of 3 and of 4 nodes), the pool is divided: a *part* are the nodes around which every such cell
has the same size, and what is lost in a part is to find cells in that part. Laws: what each part survives the pool
survives, since a loss of k domains takes k at most of each part, and a lot that is hit moves inside its part; more lots
of a part touch no other part. A lot on a cell that lies in several parts (a *stray* one) is not shown to survive
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns
from scheduler.core.coverage.losses import DEFAULT_DOMAIN, DEFAULT_LOSSES, Outlook, outlook
from scheduler.core.coverage.standing import Mask, Standing, pool_cells, standing
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.holdings import Demand


@dataclass(frozen=True, slots=True)
class Offer:
    """What is asked about: one lot's `stretches` (each with the lot's cells as `lots`), and the risk to be borne.

    `uncovered`: lots that are sold and stand on no cell; they come first.
    """

    stretches: tuple[Demand, ...]
    losses: int = DEFAULT_LOSSES
    domain: Level = DEFAULT_DOMAIN
    uncovered: tuple[Demand, ...] = ()

    @property
    def level(self) -> Level:
        """The level of the lot's cells."""
        return self.stretches[0].level

    @property
    def cells(self) -> int:
        """Cells of one lot."""
        return self.stretches[0].lots

    @property
    def pool(self) -> int:
        """The lot's pool."""
        return self.stretches[0].pool

    def waiting(self, start_ms: int, end_ms: int) -> list[Demand]:
        """What is sold in the offer's pool and covered by nothing, at some instant of a window."""
        return [
            each
            for each in self.uncovered
            if each.pool == self.pool and each.start_ms < end_ms and each.end_ms > start_ms
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a pool, as a pool of its own in a fleet that has the same nodes, GPUs and cells."""

    fleet: Fleet
    pool: int
    view: Outlook


@dataclass(frozen=True, slots=True, eq=False)
class Prospects:
    """See the module."""

    whole: Outlook
    """The pool as one, whatever sizes its cells have."""
    parts: tuple[Part, ...]
    stray: tuple[int, ...]
    """By level: cells of lots, and inside them, that are wholly in no part."""

    @property
    def survives(self) -> bool:
        """Whether everything sold is shown to be honoured after the loss."""
        return not any(self.stray) and all(part.view.survives for part in self.parts)

    def lost(self, level: Level) -> int:
        """The cells of a level that the worst loss takes, in each part."""
        return sum(part.view.lost(level) for part in self.parts) + self.stray[level]

    def margin(self, level: Level) -> int:
        """Free cells beyond what waits and what the worst loss takes; below 0: so many are missing, whatever other
        parts have to spare.
        """
        margins = [-self.stray[level], *(part.view.margin(level) for part in self.parts)]
        missing = sum(margin for margin in margins if margin < 0)
        return missing or sum(margins)


def prospects(fleet: Fleet, held: Columns, offer: Offer, start_ms: int, end_ms: int, usable: Mask) -> Prospects:
    """The offer's pool in a window before the loss that the offer names, with what is sold and uncovered waiting."""
    whole = standing(fleet, offer.pool, held, start_ms, end_ms, usable)
    return prospects_of(fleet, held, whole, offer, start_ms, end_ms, usable)


def prospects_of(
    fleet: Fleet, held: Columns, whole: Standing, offer: Offer, start_ms: int, end_ms: int, usable: Mask
) -> Prospects:
    """The same, of the pool's standing in the window where that is there already."""
    pool, waiting = offer.pool, offer.waiting(start_ms, end_ms)
    view = _outlook(fleet, pool, whole, offer, waiting)
    cells, one = pool_cells(fleet, pool), Prospects(view, (Part(fleet, pool, view),), (0,) * len(LEVELS))
    if cells.alike or not offer.losses:
        return one
    here = (held.start_ms < end_ms) & (held.end_ms > start_ms)
    levels = _levels_in_use(fleet, held, here, offer, waiting)
    if all(cells.most_inside[each][Level.GPU] == cells.least_inside[each][Level.GPU] for each in levels):
        return one
    divided, n_parts = _divided(fleet, pool, levels)
    stray, not_theirs = _stray(fleet, divided, held, here, pool)
    parts = []
    for part in range(n_parts):
        state = standing(divided, part, held, start_ms, end_ms, usable & ~not_theirs)
        parts.append(Part(divided, part, _outlook(divided, part, state, offer, waiting)))
    return Prospects(view, tuple(parts), stray)


def _outlook(fleet: Fleet, pool: int, state: Standing, offer: Offer, waiting: list[Demand]) -> Outlook:
    """A part's outlook. Nobody says of what size a waiting lot is, so each part has all of them waiting."""
    lots = np.zeros(len(LEVELS), dtype=np.int64)
    for demand in waiting:
        lots[demand.level] += demand.lots
    return outlook(fleet, pool, state, losses=offer.losses, domain=offer.domain, uncovered=lots, offered=offer.level)


def _levels_in_use(fleet: Fleet, held: Columns, here: Mask, offer: Offer, waiting: list[Demand]) -> tuple[Level, ...]:
    """The levels above GPU of all lots in the window: those inside the largest cells count too, since they must have
    the same places in another one.
    """
    topology = topology_of(fleet)
    used = {offer.level, *(demand.level for demand in waiting)}
    for level in LEVELS[Level.NODE :]:
        if (topology.pool[level][held.cell[here & (held.level == level)]] == offer.pool).any():
            used.add(level)
    return tuple(sorted(used - {Level.GPU}))


def _stray(fleet: Fleet, divided: Fleet, held: Columns, here: Mask, pool: int) -> tuple[tuple[int, ...], Mask]:
    """(`Prospects.stray`, (n_gpus) bool: the GPUs of those lots)."""
    topology, in_parts, cells = topology_of(fleet), topology_of(divided), pool_cells(fleet, pool)
    counts, gpus = [0] * len(LEVELS), np.zeros(fleet.n_gpus, dtype=np.bool_)
    for level in LEVELS:
        theirs = np.unique(held.cell[here & (held.level == level)])
        theirs = theirs[(topology.pool[level][theirs] == pool) & (in_parts.pool[level][theirs] < 0)]
        places = cells.at_rank[level][topology.first_gpu[level][theirs]]
        for inner in LEVELS[: level + 1]:
            counts[inner] += int(cells.inside[level][inner][places].sum())
        gpus[topology.gpu_at[topology.spread(level, theirs)[1]]] = True
    return tuple(counts), gpus


@dataclass(frozen=True, eq=False)
class _Divided(Fleet):
    """A fleet of which one pool is several."""

    part_of_node: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @cached_property
    def pool_of_node(self) -> IntArray:
        """See Fleet; parts of the divided pool are 0 and up, the next number are all other nodes."""
        return self.part_of_node


@lru_cache(maxsize=16)
def _divided(fleet: Fleet, pool: int, levels: tuple[Level, ...]) -> tuple[Fleet, int]:
    """(the fleet with the pool's parts as its first pools, how many there are)."""
    topology = topology_of(fleet)
    first = topology.first_gpu[Level.NODE]
    sizes = []
    for level in levels:
        cell = topology.cell_of_rank[level][first]
        sizes.append(topology.end_gpu[level][cell] - topology.first_gpu[level][cell])
    mine = fleet.pool_of_node == pool
    kinds, part = np.unique(np.stack(sizes, axis=1)[mine], axis=0, return_inverse=True)
    part_of_node = np.full(len(fleet.nodes), len(kinds), dtype=np.int64)
    part_of_node[mine] = part.reshape(-1)
    return _Divided(fleet.nodes, part_of_node), len(kinds)
