"""Sold against accredited: what a pool is good for at every level and interval of the calendar, and what is sold of it.

A fleet is accredited with what it still honours after the loss of k failure domains, as power plants are with what
they are expected to give when some are out. It is the same condition that says what more may be sold (`losses`).
Laws: `accredited - sold` is the margin at every level and interval; where it is below 0 somewhere, nothing more is
deliverable there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scheduler.core.cluster import Fleet, Level
from scheduler.core.coverage.columns import Columns, Holdings, columns_of
from scheduler.core.coverage.deliverable import proven_cells
from scheduler.core.coverage.losses import DEFAULT_DOMAIN, DEFAULT_LOSSES
from scheduler.core.coverage.prospects import Offer, Prospects, prospects_of
from scheduler.core.coverage.standing import Mask, standing
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand


@dataclass(frozen=True, slots=True)
class Accredited:
    """One pool, level and interval, in whole cells of the level.

    `healthy` cells of `cells` are wholly usable. `sold`: cells that lots of this level or higher need, waiting ones
    included. `free` cells cover nobody; the worst loss takes `lost`; `accredited` cells are honoured after it.
    `more`: lots of this level that may still be sold. Where sizes differ, `lost` is summed over parts of the pool, and
    what one part misses no other makes up for (`prospects`).
    """

    pool: int
    level: Level
    start_ms: int
    end_ms: int
    cells: int
    healthy: int
    sold: int
    free: int
    lost: int
    accredited: int
    more: int

    @property
    def margin(self) -> int:
        """Accredited beyond sold; below 0: so many cells are missing after the loss."""
        return self.accredited - self.sold


def accredited(
    fleet: Fleet,
    holdings: Holdings,
    usable: Mask,
    start_ms: int,
    end_ms: int,
    *,
    sellable: Mask | None = None,
    losses: int = DEFAULT_LOSSES,
    domain: Level = DEFAULT_DOMAIN,
    uncovered: Sequence[Demand] = (),
    pools: Sequence[int] | None = None,
    levels: Sequence[Level] = LEVELS,
) -> tuple[Accredited, ...]:
    """A row for each of the `levels` that a pool has cells of, in each interval of `[start_ms, end_ms)` between two
    changes of its calendar; by pool, time and level. Arguments as in `deliverable`.

    Raises InvalidValue on an empty window.
    """
    if start_ms >= end_ms:
        raise InvalidValue("window", "accreditation", (start_ms, end_ms), "an end after the start")
    held = columns_of(holdings)
    may_sell = usable if sellable is None else usable & sellable
    rows: list[Accredited] = []
    for pool in range(len(fleet.pools)) if pools is None else sorted(set(pools)):
        cuts = changes(fleet, held, pool, uncovered, start_ms, end_ms)
        for from_ms, to_ms in pairwise(cuts):
            state = standing(fleet, pool, held, from_ms, to_ms, usable)
            for level in levels:
                one = Demand("", level, 1, from_ms, to_ms, pool)
                if state.cells.cells[level].size:
                    offer = Offer((one,), losses, domain, tuple(uncovered))
                    found = prospects_of(fleet, held, state, offer, from_ms, to_ms, usable)
                    rows.append(_row(found, one, proven_cells(found, level, may_sell)))
    return tuple(rows)


def _row(found: Prospects, one: Demand, more: int) -> Accredited:
    level, state = one.level, found.whole.standing
    inside = state.cells.most_inside
    need = found.whole.waiting[level] + sum(
        int((state.lots[above] & state.healthy[above]).sum()) * inside[above][level] for above in LEVELS[level:]
    )
    return Accredited(
        pool=one.pool,
        level=level,
        start_ms=one.start_ms,
        end_ms=one.end_ms,
        cells=len(state.cells.cells[level]),
        healthy=int(state.healthy[level].sum()),
        sold=need,
        free=found.whole.free(level),
        lost=found.lost(level),
        accredited=need + found.margin(level),
        more=more,
    )


def changes(
    fleet: Fleet, held: Columns, pool: int, uncovered: Sequence[Demand], start_ms: int, end_ms: int
) -> list[int]:
    """The instants at which a pool's calendar changes, with both ends of the window."""
    topology = topology_of(fleet)
    in_pool = np.zeros(len(held), dtype=np.bool_)
    for level in LEVELS:
        rows = np.flatnonzero(held.level == level)
        in_pool[rows] = topology.pool[level][held.cell[rows]] == pool
    theirs = [each for each in uncovered if each.pool == pool]
    edges = [edge for each in theirs for edge in (each.start_ms, each.end_ms)]
    instants = np.concatenate([held.start_ms[in_pool], held.end_ms[in_pool], np.array(edges, dtype=np.int64)])
    inside = np.unique(instants[(instants > start_ms) & (instants < end_ms)])
    return [start_ms, *inside.tolist(), end_ms]
