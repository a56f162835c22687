"""Where a want fits among free GPUs: tiers, and the answers that `tight` gives about them, kept up to date.

A tier says which free GPUs of a pool may be used. Answers are those of looking at every node anew
(`tests/core/placement/naive.py` does); they are found by orders that outlive the question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement import orders as stacks
from scheduler.core.placement import tight
from scheduler.core.placement.cells import MANY_SLOTS, ROW_OF_LEVEL, Cells
from scheduler.core.placement.floor import Floor, Units, leaves_of
from scheduler.core.placement.orders import (
    ANY,
    FAN,
    LASTING_OWN,
    LASTING_OWN_OR_UNSOLD,
    LASTING_UNSOLD,
    MOST_LEVELS,
    OF_UNSOLD,
    STARTS,
    UNSOLD,
    UNSOLD_OR_LASTING,
    Kind,
    Orders,
)
from scheduler.core.placement.preference import Preference, ranks
from scheduler.core.placement.tight import Desk
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import ceil_div

FIRM = 1 << LASTING_OWN | 1 << LASTING_UNSOLD | 1 << LASTING_OWN_OR_UNSOLD
BORROWED = 1 << UNSOLD_OR_LASTING
ROOM = 32
"""So many orders have room at first: memory that nobody writes to costs nothing."""


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
        self.floor, self._units = floor, units
        self._n_pools = len(fleet.pools)
        most = int(np.diff(fleet.first_gpu).max(initial=0))
        self.cells = Cells.of(fleet)
        self.orders = _stack(fleet, [ranks(preferences.get(grade, ()), most) for grade, _ in fleet.pools], self.cells)
        self._at: dict[tuple[int, int], int] = {}
        self._begin = stacks.begin.compiled if compiled else stacks.begin
        self._fit = tight.fit.compiled if compiled else tight.fit
        self._changes_ms: list[int] | None = None
        self.desk = Desk(
            *(np.zeros(size, dtype=np.int64) for size in (self.cells.number, len(fleet.nodes) + 1, fleet.n_gpus, 0))
        )
        for kind in (UNSOLD, ANY):
            self.order(kind, 0)

    def fit(self, want: Want, where: Tiers) -> IntArray | None:
        """GPUs for the want in the first tier that has room, ascending by node, or None: tightest nodes first; on a
        node the account's own first, then unsold ones, then others'.
        """
        chosen = self._asked(want, where, only_whether=False)
        return self.desk.gpus[:chosen].copy() if chosen else None

    def has_room(self, want: Want, where: Tiers) -> bool:
        """Whether the want fits in one of the tiers."""
        return self._asked(want, where, only_whether=True) > 0

    def tightness(self, pool: int, size: int) -> IntArray:
        """(n_nodes): how tight each node is for a part of that size: less goes first."""
        by_size = self.orders.ranks[pool]
        tightness: IntArray = by_size[min(size, len(by_size) - 1)][self.floor.free_by_node]
        return tightness

    def order(self, kind: int, end_ms: int) -> int:
        """Where the order of the kind and end stands in the stack; made if there is none."""
        at = self._at.get((kind, end_ms))
        if at is None:
            at = self._at[kind, end_ms] = len(self._at)
            if at == len(self.orders.leaves):
                self.orders = _doubled(self.orders)
            self.orders.heads[at] = kind, end_ms, 0, 0
            self._begin(self.floor, self.orders, at)
        return at

    @property
    def changes_ms(self) -> list[int]:
        """The instants at which ownership changes, ascending."""
        if self._changes_ms is None:
            until_ms = self.floor.until_ms
            self._changes_ms = np.unique(until_ms[np.flatnonzero(np.diff(until_ms, prepend=-1))]).tolist()
        return self._changes_ms

    def forget_changes(self) -> None:
        """Ownership changes at other instants than before."""
        self._changes_ms = None

    # ---- inside ----

    def _asked(self, want: Want, where: Tiers, *, only_whether: bool) -> int:
        kinds, pool, account, end_ms = where
        low = high = 0
        if account >= 0:
            at = account * self._n_pools + pool
            low, high = self._units.first_unit[at], self._units.first_unit[at + 1]
        lasting = OF_UNSOLD
        if end_ms:
            end_ms, some, other = self.turn_ms(end_ms)
            if kinds & FIRM:
                lasting = self.order(LASTING_UNSOLD, end_ms)
            elif some and other:
                lasting = self.order(UNSOLD_OR_LASTING, end_ms)
            elif kinds & BORROWED:  # all ownership lasts, or none does
                kinds = kinds & ~BORROWED | 1 << (ANY if some else UNSOLD)
        row, whether = ROW_OF_LEVEL[want.level], int(only_whether)
        floor, orders, desk, cells = self.floor, self.orders, self.desk, self.cells
        return self._fit(
            floor,
            orders,
            desk,
            cells,
            kinds,
            lasting,
            pool,
            row,
            want.parts,
            want.size,
            account,
            end_ms,
            low,
            high,
            whether,
        )

    def turn_ms(self, end_ms: int) -> tuple[int, bool, bool]:
        """The first instant from then on at which ownership changes (few of them, so that orders are shared), and
        whether some ownership lasts until then, and some other does not.
        """
        changes_ms = self.changes_ms
        at = bisect_left(changes_ms, end_ms)
        return (changes_ms[at] if at < len(changes_ms) else changes_ms[-1] + 1), at < len(changes_ms), at > 0


def _stack(fleet: Fleet, by_pool: list[IntArray], cells: Cells) -> Orders:
    """Room for the first orders."""
    nodes, firsts = leaves_of(fleet)
    most = int(np.diff(fleet.first_gpu).max(initial=0))
    trees = np.zeros((len(fleet.pools), STARTS + MOST_LEVELS + 1), dtype=np.int64)
    inner = 0
    for pool in range(len(fleet.pools)):
        width = int(firsts[pool + 1] - firsts[pool])
        starts = [inner]
        while width > 1 or len(starts) == 1:
            width = ceil_div(width, FAN)
            starts.append(starts[-1] + width)
        trees[pool, : STARTS + len(starts)] = firsts[pool], firsts[pool + 1], len(starts) - 1, *starts
        inner = starts[-1]
    return Orders(
        leaves=np.zeros((ROOM, len(nodes), 2), dtype=np.int64),
        least=np.zeros((ROOM, inner, most + 1), dtype=np.int64),
        heads=np.zeros((ROOM, 4), dtype=np.int64),
        tally=np.zeros((ROOM, len(fleet.pools), most + 1), dtype=np.int64),
        slots=np.zeros((ROOM, 2, most + 1, cells.number), dtype=np.int64),
        by_slots=np.zeros((ROOM, 2, most + 1, len(fleet.pools), MANY_SLOTS + 1, 2), dtype=np.int64),
        counts=np.zeros((ROOM, 2, most + 1), dtype=np.int64),
        nodes=nodes,
        trees=trees,
        ranks=np.array(by_pool, dtype=np.int64).reshape(len(fleet.pools), most + 1, most + 1),
    )


def _doubled(orders: Orders) -> Orders:
    """The same with room for as many more."""
    return orders._replace(
        leaves=_twice(orders.leaves),
        least=_twice(orders.least),
        heads=_twice(orders.heads),
        tally=_twice(orders.tally),
        slots=_twice(orders.slots),
        by_slots=_twice(orders.by_slots),
        counts=_twice(orders.counts),
    )


def _twice(stack: IntArray) -> IntArray:
    longer = np.zeros((2 * len(stack), *stack.shape[1:]), dtype=np.int64)
    longer[: len(stack)] = stack
    return longer
