"""Room made by ending work of accounts over their count, anywhere in a pool, without laying out the whole pool.

The same answer as `reclaim.cheapest_room` over the pool's ground. What every node costs at the least is kept up to date
(`bounds`) as gangs come and go and accounts go over their count or come back; a question looks at the nodes that come
first by that (`regions`), so that it costs much the same in a fleet of any size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import IntArray
from scheduler.core.placement import regions, victims
from scheduler.core.placement.bounds import Bounds, bounds_of
from scheduler.core.placement.cells import ROW_OF_LEVEL, Cells
from scheduler.core.placement.cheapest import Ground
from scheduler.core.placement.excess import desk_of
from scheduler.core.placement.fits import Room
from scheduler.core.placement.floor import AT_NODE, PLACE, RING, Floor
from scheduler.core.placement.victims import Register
from scheduler.core.placement.wants import Want

NO_NODES: IntArray = np.zeros(0, dtype=np.int64)


class Rows(victims.Rows, Protocol):
    """What this asks of the books, which ask this for room."""

    floor: Floor
    excess: IntArray
    round_number: int

    def part(self, account: int, pool: int) -> list[int]:
        """All rows of the account in the pool, in any order."""
        ...

    def holders(self, gpus: IntArray) -> list[int]:
        """The rows that hold any of these GPUs."""
        ...


@dataclass(slots=True)
class _Pool:
    """What is known of a pool, and since when."""

    bounds: Bounds
    over: npt.NDArray[np.bool_]
    """(n_accounts known): whether each was over its count."""
    n_rows: int
    seen: int = -1
    stale: list[IntArray] = field(default_factory=list)
    """Nodes to look at anew."""

    @classmethod
    def of(cls, books: Rows, pool: int) -> _Pool:
        """Nothing is known yet."""
        nodes = np.flatnonzero(books.floor.pool_of_node == pool)
        most = int(np.diff(books.floor.first_gpu)[nodes].max())
        bounds = bounds_of(nodes, int(books.floor.nodes[nodes[0], PLACE]), most)
        bounds.head[1] = books.round_number
        return cls(bounds, np.zeros(0, dtype=np.bool_), len(books.rows))


class Overdrawn:
    """See the module. One for the books of one or more rounds."""

    def __init__(self, books: Rows, cells: Cells, *, compiled: bool) -> None:
        self._books = books
        self._cheapest = regions.cheapest_room.compiled if compiled else regions.cheapest_room
        self._register = Register()
        self._desk = desk_of(0, 0)
        self._cells = cells
        self._pools: dict[int, _Pool] = {}
        self._round_number = -1

    def forget(self, row: int) -> None:
        """The row's gang is another."""
        self._register.forget(row)

    def cheapest_room(self, want: Want, pool: int) -> Room | None:
        """The least lost work that makes the want fit, or None where nothing does."""
        books = self._books
        at = self._pools.get(pool)
        if at is None:
            at = self._pools[pool] = _Pool.of(books, pool)
        changed = self._changed(at, pool)
        victims = self._register.victims
        ground = Ground(books.floor, at.bounds, victims, books.excess[pool], self._desk, self._cells, pool)
        gpus = self._cheapest(ground, want.size, want.parts, ROW_OF_LEVEL[want.level], at.seen, changed)
        at.seen = int(books.floor.ring[RING])
        return Room(gpus, tuple(books.holders(gpus))) if len(gpus) else None

    def _changed(self, at: _Pool, pool: int) -> IntArray:
        """Nodes to look at anew beside those touched: where prices changed, or who is over its count. Whoever is may be
        a victim from now on.
        """
        books = self._books
        if self._round_number != books.round_number:
            self._round_number = books.round_number
            cheaper = [self._nodes_of(row) for row in self._register.begin_round(books)]
            for each in self._pools.values():
                each.bounds.head[1] = books.round_number
                each.stale += cheaper
        stale, at.stale = at.stale, []
        over = books.excess[pool] > 0
        crossed = np.flatnonzero(over[: len(at.over)] != at.over).tolist()
        crossed += (np.flatnonzero(over[len(at.over) :]) + len(at.over)).tolist()
        at.over = over
        rows = [row for row in range(at.n_rows, len(books.rows)) if over[books.account_of_row[row]]]
        at.n_rows = len(books.rows)
        for account in crossed:
            its = books.part(account, pool)
            stale += map(self._nodes_of, its) if at.seen >= 0 else ()
            rows += its if over[account] else ()
        self._register.take_in(books, dict.fromkeys(rows))
        self._make_room(len(over), len(books.rows))
        return np.unique(np.concatenate(stale)) if stale else NO_NODES

    def _nodes_of(self, row: int) -> IntArray:
        """The node of each of the row's GPUs."""
        nodes: IntArray = self._books.floor.gpus[list(self._books.gpus_of_row[row]), AT_NODE]
        return nodes

    def _make_room(self, n_accounts: int, n_rows: int) -> None:
        if self._desk.total.shape[1] < n_accounts or len(self._desk.ended) < n_rows:
            self._desk = desk_of(n_accounts, 2 * n_rows)
