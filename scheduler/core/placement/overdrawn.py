"""Room made by ending work of accounts over their count, anywhere in a pool, without laying out the whole pool.

The same answer as `reclaim.cheapest_room` over the pool's ground. What is known of every node (open GPUs, GPUs once
all displaceable gangs are gone, the price of the cheapest of these) is kept in a table and caught up with the floor;
from it follows which nodes can be the cheapest at all, and only those are looked at more closely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement import excess as kernels
from scheduler.core.placement.devices import Devices
from scheduler.core.placement.excess import BOUND, DEAREST, GPUS, OPEN, PRICE, RANK, ROOM, desk_of
from scheduler.core.placement.fits import Room, cells_of_nodes
from scheduler.core.placement.floor import AT_NODE, FIRST_GPU, HOLDER, LEAVER, USABLE, Floor
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import INT64_MAX, MS_PER_HOUR
from scheduler.core.workloads import WHOLE_GPU_MILLI, Gang


class Rows(Protocol):
    """What this asks of the books, which ask this for room."""

    fleet: Fleet
    floor: Floor
    n_nodes: int
    now_ms: int
    rows: list[Gang]
    gpus_of_row: list[tuple[int, ...]]
    account_of_row: list[int]
    firm_of_row: list[bool]
    rank_of_row: list[int]
    excess: IntArray
    round_number: int
    first_of_round: int
    devices: Devices

    def rows_of(self, account: int, pool: int) -> list[int]:
        """All rows of the account in the pool."""

    def price(self, row: int) -> int:
        """GPU-ms that ending the row now weighs."""

    def holders(self, gpus: IntArray) -> list[int]:
        """The rows that hold any of these GPUs."""


NOT_STARTED_MS = INT64_MAX


class Overdrawn:
    """See the module. One for the books of one or more rounds."""

    def __init__(self, books: Rows, *, compiled: bool) -> None:
        self._books = books
        self._catch_up = kernels.catch_up.compiled if compiled else kernels.catch_up
        self._offer = kernels.offer.compiled if compiled else kernels.offer
        self._one_part = kernels.one_part.compiled if compiled else kernels.one_part
        self._lawful = kernels.lawful_rows.compiled if compiled else kernels.lawful_rows
        self._desk = desk_of(0)
        self._rows: IntArray = np.zeros((0, 11), dtype=np.int64)
        self._known = 0
        self._forgotten: set[int] = set()
        self._round = -1
        self._pools: dict[int, _Pool] = {}

    def cheapest_room(self, want: Want, pool: int) -> Room | None:
        """The least lost work that makes the want fit, or None where nothing does."""
        at = self._at(pool)
        room = np.where(self._books.floor.pool_of_node == pool, at.nodes[:, ROOM], 0)
        regions = self._regions(want, room)
        best: tuple[int, int, list[int], IntArray] | None = None
        for index, region in enumerate(regions):
            if best is not None and int(at.nodes[region, BOUND].min()) > best[0]:
                continue
            ended = (
                self._one(want, pool, at) if want.parts == 1 and want.level is None else self._many(want, region, at)
            )
            if ended is None:
                continue
            ended = self._filled_back(want, region, at, ended)
            price = sum(int(self._rows[row, PRICE]) for row in ended)
            if best is None or price < best[0]:
                best = (price, index, ended, region)
        return None if best is None else self._room(want, best[3], at, best[2])

    # ---- tables ----

    def forget(self, row: int) -> None:
        """The row's gang is another."""
        self._forgotten.add(row)

    def prices(self) -> IntArray:
        """(n_rows): `Books.price` of every row."""
        self._follow()
        return self._rows[: self._known, PRICE]

    def _at(self, pool: int) -> _Pool:
        books = self._books
        self._follow()
        at = self._pools.get(pool)
        if at is None:
            at = self._pools[pool] = _Pool(np.zeros((books.n_nodes, 3), dtype=np.int64))
        excess = books.excess[pool]
        if len(self._desk.total) < len(excess):
            self._desk = desk_of(len(excess))
        over = excess > 0
        more: list[int] = []
        stale: IntArray = np.zeros(0, dtype=np.int64)
        if at.seen >= 0:
            if at.round_number != books.round_number:  # the clock changed prices, and nothing else
                stale = np.flatnonzero(at.nodes[:, ROOM] > at.nodes[:, OPEN])
            crossed = np.flatnonzero(over[: len(at.over)] != at.over).tolist()
            crossed += range(len(at.over), len(over))
            for account in crossed:
                for row in books.rows_of(account, pool):
                    more += books.floor.gpus[list(books.gpus_of_row[row]), AT_NODE].tolist()
        at.over, at.round_number = over, books.round_number
        nodes = np.union1d(stale, np.array(more, dtype=np.int64))
        at.seen = self._catch_up(books.floor, self._rows, excess, self._desk, at.nodes, at.seen, nodes)
        at.excess = excess
        return at

    def _follow(self) -> None:
        """Take in new rows, and what the clock makes of the prices of all."""
        books = self._books
        total = len(books.rows)
        if total > len(self._rows):
            grown = np.zeros((2 * total, 11), dtype=np.int64)
            grown[: self._known] = self._rows[: self._known]
            self._rows = grown
        if self._round != books.round_number:
            self._round = books.round_number
            self._note_rows(sorted(row for row in self._forgotten if row < self._known))
            self._note_rows(range(self._known, books.first_of_round))
            self._forgotten.clear()
            self._known = max(self._known, books.first_of_round)
            self._price(books.first_of_round)
        self._note_rows(range(self._known, total))
        self._known = total

    def _note_rows(self, rows: Sequence[int]) -> None:
        """Take in what these rows are, but for their prices: a row that this round decided has none."""
        if not rows:
            return
        books = self._books
        noted = [
            (
                0,
                books.rank_of_row[row],
                books.account_of_row[row],
                (gang := books.rows[row]).shape.workers * gang.shape.gpus_per_worker,
                int(books.firm_of_row[row]),
                gang.shape.gpu_milli,
                NOT_STARTED_MS if gang.started_ms is None else gang.started_ms,
                gang.spec.checkpoint_ms,
                gang.spec.restart_ms + gang.spec.grace_ms,
                gang.spec.min_runtime_ms,
                gang.evicted_ms[-1] if gang.evicted_ms else -MS_PER_HOUR,
            )
            for row in rows
        ]
        self._rows[list(rows)] = np.array(noted, dtype=np.int64)

    def _price(self, high: int) -> None:
        """`Books.price` of all rows that were there before this round, which is `workloads.stop_price_ms` of most."""
        rows = self._rows[:high]
        ran_ms = np.maximum(0, self._books.now_ms - rows[:, kernels.STARTED_MS])
        every_ms = rows[:, kernels.CHECKPOINT_MS]
        since_ms = np.where(every_ms > 0, ran_ms % np.maximum(every_ms, 1), ran_ms)
        lost_ms = rows[:, GPUS] * (since_ms + rows[:, kernels.OVERHEAD_MS])
        wished_ms = np.clip(rows[:, kernels.MIN_RUN_MS] - ran_ms, 0, MS_PER_HOUR)
        milli = rows[:, kernels.MILLI]
        rows[:, PRICE] = lost_ms * milli // WHOLE_GPU_MILLI + rows[:, GPUS] * wished_ms * milli // WHOLE_GPU_MILLI
        hour_ago_ms = self._books.now_ms - MS_PER_HOUR
        evicted = np.flatnonzero(rows[:, kernels.EVICTED_MS] > hour_ago_ms).tolist()
        for row in (*self._books.devices.riders, *evicted):
            if row < high:
                rows[row, PRICE] = self._books.price(row)

    # ---- searching ----

    def _regions(self, want: Want, room: IntArray) -> list[IntArray]:
        """The nodes with room, by cell where the want is bound to one: cells with enough, in order of number."""
        nodes = np.flatnonzero(room >= want.size)
        slots = room[nodes] // want.size
        if int(slots.sum()) < want.parts:
            return []
        cells = cells_of_nodes(self._books.fleet, want.level)
        if cells is None:
            return [nodes]
        of_node = cells[nodes]
        enough = np.bincount(of_node, weights=slots) >= want.parts
        order = of_node.argsort(kind="stable")
        cuts = np.flatnonzero(np.diff(of_node[order])) + 1
        return [nodes[part] for part in np.split(order, cuts) if enough[of_node[part[0]]]]

    def _one(self, want: Want, pool: int, at: _Pool) -> list[int] | None:
        self._desk.total[:] = self._desk.largest[:] = 0
        node, count = self._one_part(self._books.floor, self._rows, at.excess, self._desk, at.nodes, pool, want.size)
        return None if node < 0 else self._desk.rows[:count].tolist()

    def _many(self, want: Want, region: IntArray, at: _Pool) -> list[int] | None:
        """Greedy by marginal node: take the cheapest next part until all parts have room."""
        self._desk.total[:] = self._desk.largest[:] = 0
        opens = at.nodes[region, OPEN]
        bounds = np.where(opens >= want.size, 0, at.nodes[region, BOUND])
        order = bounds.argsort(kind="stable")
        search = _Search(dict(zip(region.tolist(), opens.tolist(), strict=True)))
        coming = list(zip(bounds[order].tolist(), region[order].tolist(), strict=True))[::-1]
        for _ in range(want.parts):
            node = self._next_part(want, at, search, coming)
            if node is None:
                return None
            stale = {node}
            for row in search.offers[node]:
                search.ended.append(row)
                for there in self._nodes_of(row):
                    if there in search.available:
                        search.available[there] += 1
                        stale.add(there)
            search.parts[node] = search.parts.get(node, 0) + 1
            for there in stale:
                self._make_offer(want, at, search, there)
        return search.ended

    def _next_part(self, want: Want, at: _Pool, search: _Search, coming: list[tuple[int, int]]) -> int | None:
        """The node of the cheapest next part, whose rows now count as ended."""
        while True:
            while search.heap and search.version[search.heap[0][2]] != search.heap[0][3]:
                heappop(search.heap)
            while coming and (not search.heap or coming[-1][0] <= search.heap[0][0]):
                _, node = coming.pop()
                if node not in search.version:
                    self._make_offer(want, at, search, node)
            if not search.heap:
                return None
            _, _, node, version = search.heap[0]
            if search.version[node] != version:
                continue
            rows = search.offers[node]
            self._desk.rows[: len(rows)] = rows
            if self._lawful(self._rows, at.excess, self._desk, len(rows), 1):
                return node
            self._make_offer(want, at, search, node)

    def _make_offer(self, want: Want, at: _Pool, search: _Search, node: int) -> None:
        parts = search.parts.get(node, 0)
        need = want.size * (parts + 1) - search.available[node]
        ended = np.array(search.ended, dtype=np.int64)
        price, count = self._offer(self._books.floor, self._rows, at.excess, self._desk, node, need, ended)
        search.version[node] = search.version.get(node, 0) + 1
        if price < DEAREST:
            search.offers[node] = self._desk.rows[:count].tolist()
            heappush(search.heap, (int(price), -parts, node, search.version[node]))

    def _nodes_of(self, row: int) -> list[int]:
        """The node of each usable GPU that the row holds."""
        gpus = self._books.floor.gpus[list(self._books.gpus_of_row[row])]
        nodes: list[int] = gpus[(gpus[:, HOLDER] == row) & (gpus[:, USABLE] != 0), AT_NODE].tolist()
        return nodes

    def _available(self, region: IntArray, at: _Pool, rows: Sequence[int]) -> dict[int, int]:
        """GPUs of the region's nodes that some of these rows stand on, once they are gone."""
        available: dict[int, int] = {}
        for row in rows:
            for node in self._nodes_of(row):
                available[node] = available.get(node, int(at.nodes[node, OPEN])) + 1
        inside = np.isin(np.array(list(available), dtype=np.int64), region)
        return {node: count for (node, count), its in zip(available.items(), inside.tolist(), strict=True) if its}

    def _filled_back(self, want: Want, region: IntArray, at: _Pool, rows: list[int]) -> list[int]:
        """Whoever turns out not to be needed stays, the costliest first."""
        available = self._available(region, at, rows)
        opens = int((at.nodes[region, OPEN] // want.size).sum())
        slots = opens + sum(n // want.size - int(at.nodes[node, OPEN]) // want.size for node, n in available.items())
        kept = []
        for row in sorted(rows, key=lambda row: (-int(self._rows[row, PRICE]), int(self._rows[row, RANK]))):
            without = dict(available)
            for node in self._nodes_of(row):
                if node in without:
                    without[node] -= 1
            fewer = slots + sum(n // want.size - available[node] // want.size for node, n in without.items())
            if fewer >= want.parts:
                available, slots = without, fewer
            else:
                kept.append(row)
        return kept

    def _room(self, want: Want, region: IntArray, at: _Pool, rows: list[int]) -> Room | None:
        """Choose the GPUs, on nodes with least room first; victims that end up untouched stay."""
        counts = at.nodes[region, OPEN].copy()
        for node, count in self._available(region, at, rows).items():
            counts[region.searchsorted(node)] = count
        taken: list[tuple[int, int]] = []
        parts = want.parts
        enough = np.flatnonzero(counts >= want.size)
        if int((counts[enough] // want.size).sum()) < parts:
            return None
        for i in enough[counts[enough].argsort(kind="stable")].tolist():
            taken.append((int(region[i]), min(int(counts[i]) // want.size, parts)))
            parts -= taken[-1][1]
            if parts == 0:
                break
        gpus = [gpu for node, here in sorted(taken) for gpu in self._picked(node, here * want.size, rows)]
        chosen = np.array(gpus, dtype=np.int64)
        return Room(chosen, tuple(self._books.holders(chosen)))

    def _picked(self, node: int, number: int, rows: Sequence[int]) -> list[int]:
        """So many GPUs of the node, ascending: free ones first, then leavers', then those of these rows."""
        floor, ranked = self._books.floor, []
        for gpu in range(*floor.nodes[node : node + 2, FIRST_GPU].tolist()):
            row = int(floor.gpus[gpu, HOLDER])
            if floor.gpus[gpu, USABLE] and (row < 0 or row in rows):
                ranked.append((2 if row >= 0 else 1 if floor.gpus[gpu, LEAVER] >= 0 else 0, gpu))
        return sorted(gpu for _, gpu in sorted(ranked)[:number])


@dataclass(slots=True)
class _Pool:
    """What is known of a pool's nodes."""

    nodes: IntArray
    """(n_nodes, 3): open GPUs, GPUs once all that can be ended is gone, the price of the cheapest of that."""
    seen: int = -1
    round_number: int = -1
    over: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    excess: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(slots=True)
class _Search:
    """A search for many parts."""

    available: dict[int, int]
    heap: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(price, minus the parts there, node, version of the offer)."""
    offers: dict[int, list[int]] = field(default_factory=dict)
    version: dict[int, int] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
