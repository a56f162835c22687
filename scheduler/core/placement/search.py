"""Where a want fits among free GPUs: tiers, and the answers that `tight` gives about them, kept up to date.

A tier says which free GPUs of a pool may be used. Answers are those of looking at every node anew
(`tests/core/placement/naive.py` does); they are found by orders that outlive the question.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.placement import tight
from scheduler.core.placement.fits import cells_of_nodes
from scheduler.core.placement.floor import Floor, Units
from scheduler.core.placement.tight import FAN, NODE, NONE, Ask, Cells, Desk, Kind, Order
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import ceil_div

NO_CELLS = Cells(*(np.zeros(0, dtype=np.int64) for _ in range(3)))


class Tier(NamedTuple):
    """Free GPUs of a pool: of which kind, for which account, owned as now until when (0: whenever)."""

    kind: Kind
    pool: int
    account: int = -2
    end_ms: int = 0


class Search:
    """See the module. `compiled`: by machine code where there is a compiler."""

    def __init__(self, fleet: Fleet, floor: Floor, units: Units, *, compiled: bool) -> None:
        self._fleet = fleet
        self._floor = floor
        self._units = units
        self._n_pools = len(fleet.pools)
        self._begin = tight.begin.compiled if compiled else tight.begin
        self._fit = tight.fit.compiled if compiled else tight.fit
        self._has_parts = tight.has_parts.compiled if compiled else tight.has_parts
        self._orders: dict[tuple[int, Kind, int], Order] = {}
        self._cells: dict[Level | None, Cells] = {None: NO_CELLS}
        self._changes_ms: list[int] | None = None
        cells = max(len(fleet.domains), len(fleet.blocks))
        sizes = (cells, len(fleet.nodes), fleet.n_gpus)
        self._desk = Desk(*(np.zeros(size, dtype=np.int64) for size in sizes))

    def fit(self, want: Want, tier: Tier, first: int) -> IntArray | None:
        """GPUs for the want in the tier, ascending by node, or None: tightest nodes first; on a node those of account
        `first` first, then unsold ones, then others'.
        """
        order, ask = self._asked(want, tier)
        chosen = self._fit(self._floor, order, self._desk, ask, self._cells_at(want.level), first)
        return self._desk.gpus[:chosen].copy() if chosen else None

    def has_room(self, want: Want, tier: Tier) -> bool:
        """Whether the want fits in the tier."""
        order, ask = self._asked(want, tier)
        return bool(self._has_parts(self._floor, order, self._desk, ask, self._cells_at(want.level)))

    # ---- inside ----

    def _asked(self, want: Want, tier: Tier) -> tuple[Order, Ask]:
        kind, pool, account, end_ms = tier
        low = high = 0
        if kind <= Kind.OWN_OR_UNSOLD:
            at = account * self._n_pools + pool
            low, high = self._units.first_unit[at], self._units.first_unit[at + 1]
        if end_ms:
            kind, end_ms = self._simplest(kind, end_ms)
        listed = Kind.UNSOLD if kind <= Kind.OWN_OR_UNSOLD else kind
        key = (pool, listed, 0 if kind is Kind.OWN else end_ms)
        order = self._orders.get(key)
        if order is None:
            order = self._orders[key] = self._ordered(*key)
        return order, Ask(want.parts, want.size, int(kind), account, end_ms, low, high)

    def _simplest(self, kind: Kind, end_ms: int) -> tuple[Kind, int]:
        """The same tier by an instant at which ownership changes: few of them, so that orders are shared."""
        if self._changes_ms is None:
            until_ms = self._floor.until_ms
            self._changes_ms = np.unique(until_ms[np.flatnonzero(np.diff(until_ms, prepend=-1))]).tolist()
        at = bisect_left(self._changes_ms, end_ms)
        if at == 0:
            return (Kind.FREE if kind is Kind.LASTING_OR_UNSOLD else kind), 0
        if at == len(self._changes_ms):
            return (Kind.UNSOLD, 0) if kind is Kind.LASTING_OR_UNSOLD else (kind, self._changes_ms[-1] + 1)
        return kind, self._changes_ms[at]

    def _ordered(self, pool: int, kind: Kind, end_ms: int) -> Order:
        nodes = np.flatnonzero(self._fleet.pool_of_node == pool)
        most = int(np.diff(self._fleet.first_gpu).max())
        starts, width = [0], len(nodes)
        while width > 1 or len(starts) == 1:
            width = ceil_div(width, FAN)
            starts.append(starts[-1] + width)
        leaves = np.zeros((len(nodes), 3), dtype=np.int64)
        leaves[:, NODE] = nodes
        order = Order(
            leaves=leaves,
            least=np.full((starts[-1], most + 1), NONE, dtype=np.int64),
            starts=np.array(starts, dtype=np.int64),
            tally=np.zeros(most + 1, dtype=np.int64),
            seen=np.array([pool, int(kind), end_ms, 0], dtype=np.int64),
        )
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
