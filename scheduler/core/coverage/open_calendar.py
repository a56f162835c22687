"""The calendar kept open between trades: what is free throughout a window, found without looking at every holding.

Trades come one by one, and the next one waits. So which GPUs are taken, slot by slot, is kept from one trade to the
next: a row of bit masks for each slot of time, one mask for each node. A trade looks at the rows of its window only; a
new instant copies one row. Laws: after any changes the masks are those of the holdings; what is found is free
throughout the window on whole, usable cells.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.board import Board, Mask, board_of
from scheduler.core.coverage.columns import Columns, clipped, columns_of
from scheduler.core.coverage.renewal import Edges
from scheduler.core.coverage.topology import expanded
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import INT64_MAX

NEVER_MS = -(2**62)
"""Before every instant."""
SPARE_ROWS = 64
"""Rows kept ready for new instants; as many again are made when they run out."""

Bits = npt.NDArray[np.uint64]
Renewing = Callable[[int], bool]
"""Whether the holder of a cell, by the fleet's number, may renew just then."""


class OpenCalendar:
    """See the module. Holds its own state and changes with `changed`; everything else only reads."""

    def __init__(self, fleet: Fleet, holdings: Iterable[Holding]) -> None:
        self.fleet = fleet
        self.of_position: dict[str, list[Holding]] = {}
        for holding in holdings:
            self.of_position.setdefault(holding.position, []).append(holding)
        columns = columns_of([holding for each in self.of_position.values() for holding in each])
        self.edges = Edges(columns)
        self._pools = [_Pool(fleet, pool, columns) for pool in range(len(fleet.pools))]

    def found(self, demands: Sequence[Demand], usable: Mask, near: Iterable[str] = ()) -> tuple[Holding, ...] | None:
        """Holdings for all lots of all demands beside everything planned, where each is least broken, or None.

        Cells that the positions `near` hold right before or after a demand's window are taken first; of those that
        serve equally well, cells that others hold just as long right before or after it are taken last: they may
        renew. `usable` is (n_gpus) bool.
        """
        edges: dict[tuple[Level, int], list[int]] = {}
        for holding in (held for position in near for held in self.of_position.get(position, ())):
            edges.setdefault((holding.level, holding.end_ms), []).append(holding.cell)
            edges.setdefault((holding.level, holding.start_ms), []).append(holding.cell)
        made: list[Holding] = []
        for demand in sorted(demands, key=lambda d: (-d.level, d)):
            wishes = [*edges.get((demand.level, demand.start_ms), ()), *edges.get((demand.level, demand.end_ms), ())]
            renewing = self._renewing(demand)
            cells = self._pools[demand.pool].found(demand, usable, list(dict.fromkeys(wishes)), renewing)
            if cells is None:
                self._put(made, taken=False)
                return None
            more = [
                Holding(
                    position=demand.position,
                    level=demand.level,
                    cell=cell,
                    start_ms=demand.start_ms,
                    end_ms=demand.end_ms,
                )
                for cell in cells
            ]
            if len(demands) > 1:
                self._put(more, taken=True)
            made += more
        if len(demands) > 1:
            self._put(made, taken=False)
        return tuple(made)

    def changed(self, positions: Iterable[str], holdings: Iterable[Holding], from_ms: int) -> None:
        """From an instant on these positions have exactly these holdings; parts before are kept."""
        for position in positions:
            held = self.of_position.pop(position, [])
            self.edges.drop(held)
            self._put([part for h in held if (part := clipped(h, from_ms, INT64_MAX)) is not None], taken=False)
            before = [part for h in held if (part := clipped(h, NEVER_MS, from_ms)) is not None]
            if before:
                self.of_position[position] = before
                self.edges.put(before)
        new = list(holdings)
        self.edges.put(new)
        self._put(new, taken=True)
        for holding in new:
            self.of_position.setdefault(holding.position, []).append(holding)

    def _renewing(self, demand: Demand) -> Renewing:
        """Whether somebody holds a cell for as long as the demand's window right before or right after it. Lots of
        other lengths are rarely renewed just so, and cells that fell free just then leave the fewest gaps in time.
        """
        length_ms = demand.end_ms - demand.start_ms

        def renewing(cell: int) -> bool:
            beside = self.edges.beside(demand.level, cell, demand.start_ms, demand.end_ms)
            return any(held is not None and held.end_ms - held.start_ms == length_ms for held in beside)

        return renewing

    def holdings(self) -> Iterator[Holding]:
        """All of them, by position."""
        for position in sorted(self.of_position):
            yield from self.of_position[position]

    def _put(self, holdings: Iterable[Holding], *, taken: bool) -> None:
        cells: dict[tuple[Level, int, int], list[int]] = {}
        for holding in holdings:
            cells.setdefault((holding.level, holding.start_ms, holding.end_ms), []).append(holding.cell)
        for (level, start_ms, end_ms), numbers in cells.items():
            for pool in self._pools:
                pool.put(level, numbers, start_ms, end_ms, taken=taken)


class _Pool:
    """One pool: rows by slot of time, in the order of `order`; a slot goes from its cut to the next."""

    def __init__(self, fleet: Fleet, pool: int, columns: Columns) -> None:
        nobody = columns_of(())
        self.board: Board = board_of(fleet, pool, (), nobody, np.ones(fleet.n_gpus, dtype=np.bool_))
        nest = self.board.nest
        self.nodes = self.board.n_nodes
        self.wide = int(nest.size.max(initial=1)) > 8
        self.full = self._fitting((np.uint64(2**64 - 1) >> (64 - nest.size).astype(np.uint64)).astype(np.uint64))
        self.bit_of_gpu = np.zeros(fleet.n_gpus, dtype=np.uint64)
        self.node_of_gpu = np.full(fleet.n_gpus, -1, dtype=np.int64)
        node = np.repeat(np.arange(self.nodes), nest.size)
        self.node_of_gpu[self.board.gpu_number] = node
        within = np.arange(len(node)) - nest.first_row[node]
        self.bit_of_gpu[self.board.gpu_number] = np.uint64(1) << within.astype(np.uint64)
        self.usable: Mask | None = None
        self.sick = np.zeros_like(self.full)
        self._filled(columns)

    def _fitting(self, bits: Bits) -> npt.NDArray[np.unsignedinteger]:
        return bits if self.wide else bits.astype(np.uint8)

    def _filled(self, columns: Columns) -> None:
        """Rows from the holdings, all at once: since no GPU is held twice, sums of bits are masks."""
        topology, nest = self.board.topology, self.board.nest
        cuts = np.unique(np.concatenate(([NEVER_MS], columns.start_ms, columns.end_ms)))
        change = np.zeros((len(cuts), self.nodes), dtype=np.int64)
        full = self.full.astype(np.uint64).view(np.int64)
        for level in Level:
            rows = np.flatnonzero(columns.level == level)
            cells = columns.cell[rows]
            first, end = topology.first_node[level][cells], topology.end_node[level][cells]
            which, ranks = expanded(first, end)
            nodes = self.board.node_of_rank[ranks]
            here = nodes >= 0
            which, nodes = which[here], nodes[here]
            bits = self.bit_of_gpu[cells[which]].view(np.int64) if level == Level.GPU else full[nodes]
            np.add.at(change, (np.searchsorted(cuts, columns.start_ms[rows])[which], nodes), bits)
            np.subtract.at(change, (np.searchsorted(cuts, columns.end_ms[rows])[which], nodes), bits)
        masks = np.cumsum(change, axis=0, out=change)
        self.cuts: list[int] = cuts.tolist()
        self.order = np.arange(len(cuts))
        self.mask = np.zeros((len(cuts) + SPARE_ROWS, self.nodes), dtype=np.uint64 if self.wide else np.uint8)
        self.mask[: len(cuts)] = masks.view(np.uint64)
        counts = np.bitwise_count(self.mask[: len(cuts)]).astype(np.int32)
        running = np.concatenate(
            (np.zeros((len(cuts), 1), dtype=np.int32), np.cumsum(counts, axis=1, dtype=np.int32)), 1
        )
        upper = slice(self.nodes, None)
        held = running[:, nest.end[upper]] - running[:, nest.first[upper]]
        self.held = np.zeros((len(cuts) + SPARE_ROWS, held.shape[1]), dtype=np.int32)
        self.held[: len(cuts)] = held

    def put(self, level: Level, numbers: Sequence[int], start_ms: int, end_ms: int, *, taken: bool) -> None:
        """Take or give back cells, by the fleet's numbers, in a window."""
        nest = self.board.nest
        places = self.board.places(level, numbers)
        here = places >= 0
        if not here.any():
            return
        first, end = self._cut(start_ms), self._cut(end_ms)
        rows = self.order[first:end]
        places = places[here]
        _, nodes = expanded(nest.first[places], nest.end[places])
        whole = self.full[nodes] if level > Level.GPU else self.bit_of_gpu[np.array(numbers, dtype=np.int64)[here]]
        touched, inverse = np.unique(nodes, return_inverse=True)
        bits = np.zeros(len(touched), dtype=np.uint64)
        np.bitwise_or.at(bits, inverse, whole.astype(np.uint64))
        masks = self.mask[rows[:, None], touched]
        fitting = self._fitting(bits)
        self.mask[rows[:, None], touched] = masks | fitting if taken else masks & ~fitting
        gpus = np.zeros(self.held.shape[1], dtype=np.int32)
        single = np.ones(len(nodes), dtype=np.int64) if level == Level.GPU else nest.size[nodes]
        for outer in range(Level.NVLINK_DOMAIN, len(Level)):
            np.add.at(gpus, nest.above[outer][nodes] - self.nodes, single)
        upper = np.flatnonzero(gpus)
        self.held[rows[:, None], upper] += gpus[upper] if taken else -gpus[upper]

    def _cut(self, at_ms: int) -> int:
        """The slot that starts at an instant, made where there was none."""
        k = bisect_left(self.cuts, at_ms)
        if k < len(self.cuts) and self.cuts[k] == at_ms:
            return k
        row = len(self.cuts)
        if row == len(self.mask):
            self.mask = np.concatenate((self.mask, np.zeros_like(self.mask)))
            self.held = np.concatenate((self.held, np.zeros_like(self.held)))
        before = self.order[k - 1]
        self.mask[row], self.held[row] = self.mask[before], self.held[before]
        self.cuts.insert(k, at_ms)
        self.order = np.insert(self.order, k, row)
        return k

    def found(self, demand: Demand, usable: Mask, wishes: Sequence[int], renewing: Renewing) -> list[int] | None:
        """The fleet's numbers of cells for all lots of a demand, or None; those wished for first, of those that serve
        equally well those last whose holder may renew.
        """
        self._look_at(usable)
        nest, level = self.board.nest, demand.level
        i, j = bisect_right(self.cuts, demand.start_ms) - 1, bisect_left(self.cuts, demand.end_ms)
        rows = self.order[i:j]
        length = np.diff(np.clip(np.array([*self.cuts[i:j], demand.end_ms]), demand.start_ms, demand.end_ms))
        cells = self._granted(level, rows, wishes)[: demand.lots]
        given = frozenset(cells)
        if level >= Level.FABRIC_BLOCK:
            free = self._free(rows, int(nest.offset[level]), int(nest.offset[level + 1]), renewing)
            cells += [cell for cell in free if cell not in given]
            return cells[: demand.lots] if len(cells) >= demand.lots else None
        first, end = int(nest.offset[Level.FABRIC_BLOCK]), int(nest.offset[Level.FABRIC_BLOCK + 1])
        held = self.held[rows, first - self.nodes : end - self.nodes]
        blocks = np.flatnonzero(nest.gpus[first:end] - held.max(axis=0) >= nest.least[level])
        broken = length @ (held[:, blocks] == 0) * nest.whole[first:end][blocks]
        for block in (blocks[np.argsort(broken, kind="stable")] + first).tolist():
            if len(cells) >= demand.lots:
                break
            more = self._inside(demand, rows, length, block, demand.lots - len(cells) + len(given), renewing)
            cells += [cell for cell in more if cell not in given]
        return cells[: demand.lots] if len(cells) >= demand.lots else None

    def _granted(self, level: Level, rows: IntArray, wishes: Sequence[int]) -> list[int]:
        """Those of the cells that are free, usable and whole."""
        granted: list[int] = []
        places = self.board.places(level, wishes).tolist()
        for number, place in zip(wishes, places, strict=True):
            if place < 0 or not self.board.nest.whole[place]:
                continue
            if level > Level.NODE:
                free = self._is_free(rows, place)
            else:
                taken = int(np.bitwise_or.reduce(self.mask[rows, place])) | int(self.sick[place])
                free = not taken & (int(self.bit_of_gpu[number]) if level == Level.GPU else int(self.full[place]))
            if free:
                granted.append(number)
        return granted

    def _look_at(self, usable: Mask) -> None:
        """Remember which GPUs are unusable, as masks."""
        if self.usable is not None and np.array_equal(self.usable, usable):
            return
        self.usable = usable.copy()
        gpus = self.board.gpu_number
        bits = np.where(usable[gpus], np.uint64(0), self.bit_of_gpu[gpus])
        if self.nodes:
            self.sick = self._fitting(np.bitwise_or.reduceat(bits, self.board.nest.first_row[:-1]))

    def _is_free(self, rows: IntArray, cell: int) -> bool:
        first, end = int(self.board.nest.first[cell]), int(self.board.nest.end[cell])
        return not self.held[rows, cell - self.nodes].any() and not self.sick[first:end].any()

    def _free(self, rows: IntArray, first: int, end: int, renewing: Renewing) -> list[int]:
        """The free ones of the cells `[first, end)` above the nodes, by the fleet's numbers."""
        free = [cell for cell in range(first, end) if self.board.nest.whole[cell] and self._is_free(rows, cell)]
        return sorted((int(self.board.cell_number[cell]) for cell in free), key=renewing)

    def _inside(
        self, demand: Demand, rows: IntArray, length: IntArray, block: int, lots: int, renewing: Renewing
    ) -> list[int]:
        """Up to so many cells of a block, where the fewest hours of domains, then of nodes, are newly broken."""
        nest = self.board.nest
        first, end = int(nest.first[block]), int(nest.end[block])
        lo, hi = int(nest.above[Level.NVLINK_DOMAIN, first]), int(nest.above[Level.NVLINK_DOMAIN, end - 1]) + 1
        if demand.level == Level.NVLINK_DOMAIN:
            return self._free(rows, lo, hi, renewing)[:lots]
        masks = self.mask[rows, first:end]
        taken = np.bitwise_or.reduce(masks, axis=0) | self.sick[first:end]
        fit = np.flatnonzero(taken != self.full[first:end] if demand.level == Level.GPU else taken == 0)
        if not len(fit):
            return []
        domain = nest.above[Level.NVLINK_DOMAIN, first + fit]
        broken = (length @ (self.held[rows, lo - self.nodes : hi - self.nodes] == 0) * nest.whole[lo:hi])[domain - lo]
        by_node = length @ (masks[:, fit] == 0) if demand.level == Level.GPU else np.zeros(len(fit), dtype=np.int64)
        ordered = np.lexsort((fit, by_node, domain, broken))
        # What newly breaks is filled before the next one; in what is broken any cell serves as well as any other.
        ties = np.where(broken > 0, domain, -1)[ordered].tolist(), np.where(by_node > 0, fit, -1)[ordered].tolist()
        cells: list[int] = []
        later: list[int] = []
        before = None
        for node, *tie in zip(fit[ordered].tolist(), *ties, strict=True):
            if tie != before:
                cells, later, before = cells + later, [], tie
            if len(cells) >= lots:
                break
            numbers = self._numbers(demand.level, first + node, ~int(taken[node]) & int(self.full[first + node]))
            for number in numbers:
                (later if renewing(number) else cells).append(number)
        return (cells + later)[:lots]

    def _numbers(self, level: Level, node: int, free: int) -> list[int]:
        """The fleet's numbers of a node, or of its free GPUs."""
        if level == Level.NODE:
            return [int(self.board.cell_number[node])]
        start = int(self.board.nest.first_row[node])
        return [int(self.board.gpu_number[start + g]) for g in range(free.bit_length()) if free >> g & 1]
