"""Where a want fits among free GPUs: tiers, and the answers that `tight` gives about them, kept up to date.

A tier says which free GPUs of a pool may be used. Answers are those of looking at every node anew
(`tests/core/placement/naive.py` does); they are found by orders that outlive the question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.placement import tight
from scheduler.core.placement.fits import cells_of_nodes
from scheduler.core.placement.floor import Floor, Units
from scheduler.core.placement.preference import Preference, ranks
from scheduler.core.placement.tight import (
    ANY,
    FAN,
    LASTING_OWN,
    LASTING_OWN_OR_UNSOLD,
    LASTING_UNSOLD,
    LEVELS,
    NODE,
    NONE,
    STARTS,
    TALLY,
    UNSOLD,
    UNSOLD_OR_LASTING,
    Cells,
    Desk,
    Kind,
    Order,
)
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import ceil_div

FIRM = 1 << LASTING_OWN | 1 << LASTING_UNSOLD | 1 << LASTING_OWN_OR_UNSOLD
BORROWED = 1 << UNSOLD_OR_LASTING
NO_CELLS = Cells(*(np.zeros(0, dtype=np.int64) for _ in range(3)))


class Tiers(NamedTuple):
    """Which free GPUs of a pool may be used, by kinds that are tried in order; whose own they are, and owned as now
    until when, where the kind asks for it.
    """

    kinds: int
    """A bit for each kind."""
    pool: int
    account: int = -2
    end_ms: int = 0


def tiers(*kinds: Kind) -> int:
    """The kinds as bits."""
    return sum(1 << kind for kind in kinds)


class Search:
    """See the module. `compiled`: by machine code where there is a compiler."""

    def __init__(
        self, fleet: Fleet, floor: Floor, units: Units, preferences: Mapping[str, Preference], *, compiled: bool
    ) -> None:
        self._fleet = fleet
        self._floor = floor
        self._units = units
        self._n_pools = len(fleet.pools)
        most = int(np.diff(fleet.first_gpu).max(initial=0))
        self._ranks = [ranks(preferences.get(grade, ()), most) for grade, _ in fleet.pools]
        self._begin = tight.begin.compiled if compiled else tight.begin
        self._fit = tight.fit.compiled if compiled else tight.fit
        self._orders: dict[tuple[int, int, int], Order] = {}
        self._cells: dict[Level | None, Cells] = {None: NO_CELLS}
        self._changes_ms: list[int] | None = None
        cells = max(len(fleet.domains), len(fleet.blocks))
        sizes = (cells, len(fleet.nodes), fleet.n_gpus)
        self._desk = Desk(*(np.zeros(size, dtype=np.int64) for size in sizes))

    def fit(self, want: Want, where: Tiers) -> IntArray | None:
        """GPUs for the want in the first tier that has room, ascending by node, or None: tightest nodes first; on a
        node the account's own first, then unsold ones, then others'.
        """
        chosen = self._asked(want, where, only_whether=False)
        return self._desk.gpus[:chosen].copy() if chosen else None

    def has_room(self, want: Want, where: Tiers) -> bool:
        """Whether the want fits in one of the tiers."""
        return self._asked(want, where, only_whether=True) > 0

    def tightness(self, pool: int, size: int) -> IntArray:
        """(n_nodes): how tight each node is for a part of that size: less goes first."""
        by_free = self._ranks[pool][min(size, len(self._ranks[pool]) - 1)]
        tightness: IntArray = by_free[self._floor.free_by_node]
        return tightness

    # ---- inside ----

    def _asked(self, want: Want, where: Tiers, *, only_whether: bool) -> int:
        kinds, pool, account, end_ms = where
        low = high = 0
        if account >= 0:
            at = account * self._n_pools + pool
            low, high = self._units.first_unit[at], self._units.first_unit[at + 1]
        unsold, free = self._order(pool, UNSOLD, 0), self._order(pool, ANY, 0)
        lasting = unsold
        if end_ms:
            end_ms, some, other = self._turn_ms(end_ms)
            if kinds & FIRM:
                lasting = self._order(pool, LASTING_UNSOLD, end_ms)
            elif some and other:
                lasting = self._order(pool, UNSOLD_OR_LASTING, end_ms)
            elif kinds & BORROWED:  # all ownership lasts, or none does
                kinds = kinds & ~BORROWED | 1 << (ANY if some else UNSOLD)
        desk, cells, whether = self._desk, self._cells_at(want.level), int(only_whether)
        parts, size = want.parts, want.size
        return self._fit(
            self._floor, unsold, lasting, free, desk, cells, kinds, parts, size, account, end_ms, low, high, whether
        )

    def _turn_ms(self, end_ms: int) -> tuple[int, bool, bool]:
        """The first instant from then on at which ownership changes (few of them, so that orders are shared), and
        whether some ownership lasts until then, and some other does not.
        """
        if self._changes_ms is None:
            until_ms = self._floor.until_ms
            self._changes_ms = np.unique(until_ms[np.flatnonzero(np.diff(until_ms, prepend=-1))]).tolist()
        changes_ms = self._changes_ms
        at = bisect_left(changes_ms, end_ms)
        return (changes_ms[at] if at < len(changes_ms) else changes_ms[-1] + 1), at < len(changes_ms), at > 0

    def _order(self, pool: int, kind: int, end_ms: int) -> Order:
        key = (pool, kind, end_ms)
        order = self._orders.get(key)
        if order is None:
            order = self._orders[key] = self._ordered(*key)
        return order

    def _ordered(self, pool: int, kind: int, end_ms: int) -> Order:
        nodes = np.flatnonzero(self._fleet.pool_of_node == pool)
        most = len(self._ranks[pool]) - 1
        starts, width = [0], len(nodes)
        while width > 1 or len(starts) == 1:
            width = ceil_div(width, FAN)
            starts.append(starts[-1] + width)
        leaves = np.zeros((len(nodes), 3), dtype=np.int64)
        leaves[:, NODE] = nodes
        head = np.zeros(TALLY + most + 1, dtype=np.int64)
        head[:3] = pool, kind, end_ms
        head[LEVELS : STARTS + len(starts)] = len(starts) - 1, *starts
        order = Order(leaves, np.full((starts[-1], most + 1), NONE, dtype=np.int64), head, self._ranks[pool])
        self._begin(self._floor, order)
        return order

    def _cells_at(self, level: Level | None) -> Cells:
        cells = self._cells.get(level)
        if cells is None:
            of_node = cells_of_nodes(self._fleet, level)
            if of_node is None:
                cells = NO_CELLS
            else:
                first = of_node[(nodes := of_node.argsort(kind="stable"))].searchsorted(np.arange(of_node.max() + 2))
                cells = Cells(of_node, first, nodes)
            self._cells[level] = cells
        return cells
