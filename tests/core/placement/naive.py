"""Books that answer every question by looking at the whole fleet anew: what the fast ones must equal, byte for byte.

Nothing is kept between two questions but who holds which GPU; every answer is a few operations over arrays of all GPUs,
all nodes or all rows, as the rules are written.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import NO_GPUS, NONE, Books, BoolArray
from scheduler.core.placement.fits import Room, cells_of_nodes, has_slots, slots_by_cell
from scheduler.core.placement.inside import packs
from scheduler.core.placement.lines import Lines
from scheduler.core.placement.orders import Kind
from scheduler.core.placement.plan import decided
from scheduler.core.placement.preference import ranks
from scheduler.core.placement.reclaim import Ground, cheapest_room
from scheduler.core.placement.search import Tiers
from scheduler.core.placement.snapshot import Plan, Policy, Snapshot
from scheduler.core.placement.wants import Want, demand

Spread = list[tuple[int, int]]
"""(node, parts there), ascending by node."""


def naive_plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """The plan, by scanning."""
    return decided(NaiveBooks(snapshot, policy), Lines(snapshot.queue))


class NaiveBooks(Books):
    """See the module. Every turn is taken by the rules themselves, none in runs."""

    def _look(self) -> None:
        super()._look()
        self.in_runs = False

    def fit(self, want: Want, where: Tiers) -> IntArray | None:
        """As in the books, by scanning."""
        for kind in Kind:
            if where.kinds >> kind & 1:
                gpus = self._fit(want, where, kind)
                if gpus is not None:
                    return gpus
        return None

    def _fit(self, want: Want, where: Tiers, kind: Kind) -> IntArray | None:
        allowed, owner = self._allowed(where, kind), self.snapshot.owner
        cells = cells_of_nodes(self.fleet, want.level)
        apart = cells_of_nodes(self.fleet, want.apart)
        grade = self.fleet.pools[where.pool][0]
        most = int(np.diff(self.fleet.first_gpu).max())
        table = ranks(dict(self.policy.preferences).get(grade, ()), most)[min(want.size, most)]
        found = spread(self._by_node(allowed), table[self._by_node(self._free())], want, cells, apart)
        if found is None:
            return None
        rank = np.where(owner == where.account, 0, np.where(owner < 0, 1, 2))
        gpus: list[int] = []
        for node, parts in found:
            low, high = self.fleet.first_gpu[node : node + 2]
            there = np.flatnonzero(allowed[low:high]) + low
            best = there[rank[there].argsort(kind="stable")][: parts * want.size]
            gpus.extend(sorted(best.tolist()))
        return np.array(gpus, dtype=np.int64)

    def has_room(self, want: Want, where: Tiers) -> bool:
        """As in the books, by scanning."""
        kinds = [kind for kind in Kind if where.kinds >> kind & 1]
        return any(has_slots(self.fleet, self._by_node(self._allowed(where, kind)), want) for kind in kinds)

    def repacks(
        self, account: int, pool: int, want: Want | None = None, taken: IntArray = NO_GPUS, beyond: Counter[Want] = NONE
    ) -> bool:
        """As in the books, by scanning."""
        wanted: Counter[Want] = Counter()
        for row, gang in enumerate(self.rows):
            mine = self.account_of_row[row] == account and self.pool_of_row[row] == pool and self.counts_of_row[row]
            its = demand(gang.shape) if mine and gang.shape.preemptible else None
            if its is not None:
                wanted[its] += 1
        wanted.subtract(beyond)
        if want is not None:
            wanted[want] += 1
        firm = np.array([*self.firm_of_row, False], dtype=np.bool_)[self.floor.holder]
        room = self._own(account, pool) & ~firm
        room[taken] = False
        return packs(self._by_node(room), wanted, self.fleet)

    def room_over_count(self, want: Want, pool: int) -> Room | None:
        """As in the books, over the pool's ground laid out whole."""
        return cheapest_room(ground_of_accounts_over_count(self, pool), want)

    def free_gpus(self, pool: int) -> int:
        """As in the books, by scanning."""
        return int(np.count_nonzero(self._free() & self._of_pool(pool)))

    def usable_gpus(self, pool: int) -> int:
        """As in the books, by scanning."""
        return int(np.count_nonzero(self._of_pool(pool)))

    def own_gpus(self, account: int, pool: int) -> IntArray:
        """As in the books, by scanning."""
        return np.flatnonzero(self._own(account, pool))

    def rows_of(self, account: int, pool: int) -> list[int]:
        """As in the books, by scanning."""
        return [row for row, its in enumerate(self.account_of_row) if its == account and self.pool_of_row[row] == pool]

    def owned_lasting(self, account: int, pool: int, until_ms: int) -> int:
        """As in the books, by scanning."""
        return int(np.count_nonzero(self._own(account, pool) & (self.snapshot.until_ms >= until_ms)))

    # ---- arrays of everything ----

    def _free(self) -> BoolArray:
        free: BoolArray = self.snapshot.usable & (self.floor.holder < 0) & (self.floor.leaver < 0)
        return free

    def _of_pool(self, pool: int) -> BoolArray:
        usable: BoolArray = self.snapshot.usable & (self.fleet.pool_of_node[self.fleet.node_of_gpu] == pool)
        return usable

    def _own(self, account: int, pool: int) -> BoolArray:
        own: BoolArray = self._of_pool(pool) & (self.snapshot.owner == account)
        return own

    def _by_node(self, chosen: BoolArray) -> IntArray:
        return np.bincount(self.fleet.node_of_gpu[chosen], minlength=len(self.fleet.nodes))

    def _allowed(self, where: Tiers, kind: Kind) -> BoolArray:
        free = self._free() & self._of_pool(where.pool)
        own, unsold = self.snapshot.owner == where.account, self.snapshot.owner < 0
        lasting = self.snapshot.until_ms >= where.end_ms
        allowed = {
            Kind.OWN: own,
            Kind.OWN_OR_UNSOLD: own | unsold,
            Kind.UNSOLD: unsold,
            Kind.UNSOLD_OR_LASTING: unsold | lasting,
            Kind.ANY: free,
            Kind.LASTING_OWN: own & lasting,
            Kind.LASTING_UNSOLD: unsold & lasting,
            Kind.LASTING_OWN_OR_UNSOLD: (own | unsold) & lasting,
        }
        chosen: BoolArray = free & allowed[kind]
        return chosen


def firsts(slots: IntArray, tightness: IntArray, cells: IntArray | None) -> list[int]:
    """The tightest node with a slot of each cell, ties by number; without cells of each node."""
    best: dict[int, tuple[int, int]] = {}
    for node in np.flatnonzero(slots).tolist():
        cell = node if cells is None else int(cells[node])
        best[cell] = min(best.get(cell, (1 << 60, 0)), (int(tightness[node]), node))
    return [node for _, node in best.values()]


def spread(
    counts: IntArray, tightness: IntArray, want: Want, cells: IntArray | None, apart: IntArray | None = None
) -> Spread | None:
    """Nodes for all parts, or None where they do not fit.

    `counts` (n_nodes): GPUs that may be used; `tightness` (n_nodes): nodes with less go first, ties by number; `cells`:
    `cells_of_nodes` of the want's level. The smallest cell that suffices is taken.
    """
    slots = counts // want.size
    if want.apart is not None:
        slots = np.where(np.isin(np.arange(len(slots)), list(firsts(slots, tightness, apart))), 1, 0)
    if cells is not None:
        in_cell = slots_by_cell(cells, slots)
        enough = np.flatnonzero(in_cell >= want.parts)
        if not len(enough):
            return None
        slots = np.where(cells == enough[in_cell[enough].argmin()], slots, 0)
    if int(slots.sum()) < want.parts:
        return None
    nodes = np.flatnonzero(slots)
    taken: Spread = []
    parts = want.parts
    for node in nodes[tightness[nodes].argsort(kind="stable")].tolist():
        if parts > 0:
            taken.append((node, min(int(slots[node]), parts)))
            parts -= taken[-1][1]
    return sorted(taken)


def ground_of_accounts_over_count(books: Books, pool: int) -> Ground:
    """The whole pool, on which accounts over their count make way."""
    excess = {
        account: -books.headroom(account, pool)
        for account in range(len(books.account_index))
        if books.headroom(account, pool) < 0
    }
    prices = {
        row: books.price(row)
        for account in excess
        for row in books.rows_of(account, pool)
        if books.rows[row].shape.preemptible and books.is_placed(row)
    }
    return Ground.of(books, books.floor.gpus_of_pool(pool), prices, excess)
