"""Who gets which cell when cells are lost: class by class, the largest lots first, each from what lower classes leave.

Lots that wait for a cell (hit by a failure, displaced by a higher class, or sold and never covered) are served by
firmness class, in a class from SITE down to GPU. A lot takes a free cell; where free ones do not reach, a cell whose
holders are all of lower classes, of whatever level: the lots inside move to the same places of the cell that is left,
where these are well, and a larger lot around it loses its own. Who gives up is decided by the shortage rule over the
cells of that level, each a stake of its most senior holder. Whoever was displaced waits in turn. A lot whose terms let
other grades stand in may go to several pools, its own first: as many lots as can be are served from what is free, the
others from what lower classes hold, and each pool where that does not reach decides, and proves, its own shortage.
Laws: at the end no lower class holds a cell that a waiting lot of a higher one could use, at any level and in any of
its pools; nobody of the same or a higher class is disturbed; a taken cell is given back when the taker's window ends or
the cell's next one begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import columns_of, moved
from scheduler.core.coverage.shortage import Certificate, FirmnessClass, ShortClaim, ration
from scheduler.core.coverage.standing import Mask, PoolCells, counted, none_of, pool_cells
from scheduler.core.coverage.topology import LEVELS, topology_of
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import INT64_MAX

NOBODY = -1
FREE = len(FirmnessClass)
"""Stands for a class behind all others where nobody holds a GPU."""


class Rank(NamedTuple):
    """How the shortage rule sees a position."""

    firmness_class: int
    acquired_ms: int


FIRST = Rank(FirmnessClass.FIRM, 0)
"""How a position without a rank is seen."""


@dataclass(slots=True)
class _Lot:
    """One lot in force that something happens to: where it is from now until `until_ms`, and where it goes after."""

    position: str
    level: Level
    pools: tuple[int, ...]
    """Where it may stand, in order of preference."""
    rank: Rank
    cell: int | None
    until_ms: int
    gpus: int
    """GPUs of the cells that it may stand on."""
    oversold: bool = False
    later: list[tuple[int, int, int]] = field(default_factory=list)
    """(cell, from, until)."""
    moved: bool = False
    gap: bool = False
    """Whether it stands on no cell for a while before it comes back."""


def pool_name(fleet: Fleet, pool: int) -> str:
    """How certificates name a pool: `GRADE@SITE`."""
    grade, site = fleet.pools[pool]
    return f"{grade}@{site}"


class Waterfall:
    """One decision in progress. `serve` makes it; the other public methods say what came of it."""

    def __init__(
        self,
        fleet: Fleet,
        ahead: Sequence[Holding],
        usable: Mask,
        now_ms: int,
        *,
        spare_nodes: Iterable[int] = (),
        ranks: Mapping[str, Rank] | None = None,
        loss_by_gpu: IntArray | None = None,
        cell_gpus: Mapping[str, int] | None = None,
        waiting: Sequence[Demand] = (),
        oversold: Sequence[Demand] = (),
        well: Mask | None = None,
        pools: Mapping[str, Sequence[int]] | None = None,
        slow: Mapping[str, Mask] | None = None,
    ) -> None:
        self.certificates: list[Certificate] = []
        self._fleet, self._ahead, self._now_ms = fleet, ahead, now_ms
        self._topology, self._ranks, self._cell_gpus = topology_of(fleet), ranks or {}, cell_gpus or {}
        self._pools, self._slow = pools or {}, slow or {}
        by_rank = self._topology.gpu_at
        loss = np.zeros(fleet.n_gpus, dtype=np.int64) if loss_by_gpu is None else loss_by_gpu
        self._usable, self._loss = usable[by_rank], np.concatenate(([0], np.cumsum(loss[by_rank])))
        self._spare = np.isin(fleet.node_of_gpu, sorted(set(spare_nodes)))[by_rank]
        self._healthy = [self._topology.whole_and_usable(level, usable) for level in LEVELS]
        self._well = [self._topology.whole_and_usable(level, usable if well is None else well) for level in LEVELS]
        self._lots: dict[int, _Lot] = {}
        """By number: rows of `ahead`, then lots that stand nowhere."""
        self._holder = np.full(fleet.n_gpus, NOBODY, dtype=np.int64)
        """By rank: the number of the lot that holds the GPU now."""
        self._next_ms = np.full(fleet.n_gpus, INT64_MAX, dtype=np.int64)
        """By rank: when somebody else gets the GPU, whoever holds it now."""
        self._class = np.array([*(self._rank_of(held.position).firmness_class for held in ahead), FREE], dtype=np.int64)
        """By row; the last entry is what NOBODY picks."""
        self._pending: dict[tuple[int, Level], set[int]] = {}
        """Lots that wait, by (class, level)."""
        self._read_holdings()
        for demands, whole in ((waiting, False), (oversold, True)):
            for demand in sorted(demands):
                self._add(demand, oversold=whole)

    # -- the decision --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Give every waiting lot what it may have."""
        for firmness in FirmnessClass:
            for level in reversed(LEVELS):
                waiting = self._pending.get((int(firmness), level), set())
                for gpus in sorted({self._lots[number].gpus for number in waiting}, reverse=True):
                    alike = [n for n in sorted(waiting) if not self._lots[n].oversold and self._lots[n].gpus == gpus]
                    for pool, theirs in sorted(self._dealt(level, alike).items()):
                        self._serve(pool, level, theirs)
            self._serve_oversold(int(firmness))
        numbers = {pool_name(self._fleet, pool): pool for pool in range(len(self._fleet.pools))}
        self.certificates.sort(key=lambda each: numbers[each.pool])  # each by itself is in the order of its decisions

    def future(self) -> list[Holding]:
        """All holdings from now on."""
        result: list[Holding] = []
        for row, held in enumerate(self._ahead):
            lot = self._lots.get(row)
            if lot is None or not lot.moved:
                result.append(held)
                continue
            pieces = [*lot.later, *([] if lot.cell is None else [(lot.cell, self._now_ms, lot.until_ms)])]
            result += [moved(held, cell=cell, start_ms=start, end_ms=end) for cell, start, end in pieces]
        result += [
            Holding(position=lot.position, level=lot.level, cell=lot.cell, start_ms=self._now_ms, end_ms=lot.until_ms)
            for number, lot in sorted(self._lots.items())
            if number >= len(self._ahead) and lot.cell is not None
        ]
        return result

    @property
    def changed(self) -> set[str]:
        """The positions whose holdings changed."""
        return {lot.position for lot in self._lots.values() if lot.moved}

    @property
    def short(self) -> Counter[str]:
        """Lots by position that wait in vain, on an ill cell or on none; those never covered aside."""
        waiting = [self._lots[number] for numbers in self._pending.values() for number in numbers]
        return Counter(lot.position for lot in waiting if not lot.oversold)

    @property
    def uncovered(self) -> Counter[str]:
        """Lots by position that stand on no cell, now or for a while later on; those never covered aside."""
        lots = [lot for lot in self._lots.values() if not lot.oversold]
        return Counter(lot.position for lot in lots if lot.cell is None or lot.gap)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_holdings(self) -> None:
        columns, topology = columns_of(self._ahead), self._topology
        in_force = columns.start_ms <= self._now_ms
        for level in LEVELS:
            rows = np.flatnonzero(~in_force & (columns.level == level))
            which, ranks = topology.spread(level, columns.cell[rows])
            np.minimum.at(self._next_ms, ranks, columns.start_ms[rows][which])
            rows = np.flatnonzero(in_force & (columns.level == level))
            which, ranks = topology.spread(level, columns.cell[rows])
            self._holder[ranks] = rows[which]
            for row in rows[~self._healthy[level][columns.cell[rows]]].tolist():
                self._wait(row)

    def _rank_of(self, position: str) -> Rank:
        return self._ranks.get(position, FIRST)

    def _lot(self, number: int) -> _Lot:
        lot = self._lots.get(number)
        if lot is None:
            held = self._ahead[number]
            pools = self._pools_of(held.position, int(self._topology.pool[held.level][held.cell]))
            rank = self._rank_of(held.position)
            ranks = self._span(held.level, held.cell)
            gpus = self._cell_gpus.get(held.position, ranks.stop - ranks.start)
            lot = _Lot(held.position, Level(held.level), pools, rank, held.cell, held.end_ms, gpus)
            self._lots[number] = lot
        return lot

    def _add(self, demand: Demand, *, oversold: bool) -> None:
        """So many lots that stand nowhere."""
        for _ in range(demand.lots):
            rank = self._rank_of(demand.position)
            number = len(self._class) - 1
            self._class = np.append(self._class, FREE)
            self._class[number] = rank.firmness_class
            gpus = self._cell_gpus.get(demand.position, 0)
            pools = self._pools_of(demand.position, demand.pool)
            self._lots[number] = _Lot(
                demand.position, demand.level, pools, rank, None, demand.end_ms, gpus, oversold=oversold
            )
            self._wait(number)

    def _wait(self, number: int) -> None:
        lot = self._lot(number)
        self._pending.setdefault((lot.rank.firmness_class, lot.level), set()).add(number)

    def _pools_of(self, position: str, otherwise: int) -> tuple[int, ...]:
        return tuple(self._pools.get(position, (otherwise,)))

    def _order(self, number: int) -> tuple[int, str, int, int]:
        """The order of service inside a class: the rule's, then by cell."""
        lot = self._lot(number)
        return lot.rank.acquired_ms, lot.position, NOBODY if lot.cell is None else lot.cell, number

    # -- one level of one class ----------------------------------------------------------------------------------------

    def _dealt(self, level: Level, waiting: list[int]) -> dict[int, list[int]]:
        """The pool in which each lot is served, all of one class, level and size: its first one, where it has no other.

        A lot goes to the first of its pools with a free cell, and makes room for others by going to a later one where
        that serves more of them (augmenting paths, in the order of the rule); then the same with cells of lower
        classes. Whoever finds none waits in its first pool.
        """
        found: dict[int, list[int]] = {}
        if all(len(self._lot(number).pools) == 1 for number in waiting):
            for number in waiting:
                found.setdefault(self._lot(number).pools[0], []).append(number)
            return found
        open_cells = {
            pool: self._open(pool, level, waiting[0], with_spares=True)
            for pool in sorted({pool for number in waiting for pool in self._lot(number).pools})
        }
        found = {pool: [] for pool in open_cells}
        left = sorted(waiting, key=self._order)
        for lower_too in (False, True):
            room = {pool: len(free) + lower_too * len(lower) for pool, (free, lower) in open_cells.items()}
            left = [number for number in left if not self._put(number, found, room, set())]
        for number in left:
            found[self._lot(number).pools[0]].append(number)
        return found

    def _put(self, number: int, found: dict[int, list[int]], room: Mapping[int, int], seen: set[int]) -> bool:
        """Whether the lot finds a pool with room, others moving on for it."""
        for pool in self._lot(number).pools:
            if pool in seen:
                continue
            seen.add(pool)
            if len(found[pool]) < room[pool]:
                found[pool].append(number)
                return True
            for other in reversed(found[pool]):
                if len(self._lot(other).pools) > 1 and self._put(other, found, room, seen):
                    found[pool].remove(other)
                    found[pool].append(number)
                    return True
        return False

    def _open(self, pool: int, level: Level, number: int, *, with_spares: bool) -> tuple[list[int], list[int]]:
        """What a pool has for lots like this one: (free cells, those that lower classes hold)."""
        lot = self._lot(number)
        cells = pool_cells(self._fleet, pool)
        return self._open_cells(cells, level, lot.rank.firmness_class, lot.gpus, with_spares=with_spares)

    def _serve(self, pool: int, level: Level, waiting: list[int], *, with_spares: bool = True) -> None:
        """Serve lots of one class and level in one pool."""
        if not waiting:
            return
        waiting.sort(key=self._order)
        free, lower = self._open(pool, level, waiting[0], with_spares=with_spares)
        if len(free) >= len(waiting):
            for number in waiting:
                self._take_free(number, free)
            return
        leads = {cell: self._lead(level, cell) for cell in lower}
        certificate = self._decided(pool, level, waiting, leads, len(free))
        self.certificates.append(certificate)
        due = dict(certificate.awarded)
        given = self._given_up(level, leads, due)
        for number in waiting:
            position = self._lot(number).position
            if not due[position]:
                continue
            due[position] -= 1
            if free:
                self._take_free(number, free)
            else:
                # What was left of a larger lot that is broken already serves before another one is broken.
                rest = [cell for cell in leads if self._is_free(level, cell)]
                self._take(number, rest[0] if rest else given.pop(0))

    def _serve_oversold(self, firmness: int) -> None:
        """Positions that were never covered as sold, each whole or not at all, in the order of the rule."""
        for level in reversed(LEVELS):
            by_position: dict[tuple[int, str], list[int]] = {}
            for number in sorted(self._pending.get((firmness, level), ())):
                lot = self._lots[number]
                if lot.oversold:
                    by_position.setdefault((lot.rank.acquired_ms, lot.position), []).append(number)
            for _, numbers in sorted(by_position.items()):
                self._serve_whole(level, numbers)

    def _serve_whole(self, level: Level, numbers: list[int]) -> None:
        """All lots of a position or none, as many as can be in each of its pools."""
        parts: list[tuple[int, list[int]]] = []
        left = numbers
        for pool in self._lot(numbers[0]).pools:
            free, lower = self._open(pool, level, numbers[0], with_spares=False)
            most = len(free) + len(lower)
            parts.append((pool, left[:most]))
            left = left[most:]
        if not left:
            for pool, theirs in parts:
                self._serve(pool, level, theirs, with_spares=False)

    def _open_cells(
        self, cells: PoolCells, level: Level, firmness: int, gpus: int, *, with_spares: bool
    ) -> tuple[list[int], list[int]]:
        """(usable cells of so many GPUs (0: any) that cover nobody, those that only lower classes hold), by the fleet's
        numbers.
        """
        allowed = self._usable if with_spares else self._usable & ~self._spare
        usable = none_of(cells, level, counted(~allowed))
        if gpus:
            usable = usable & (cells.end[level] - cells.first[level] == gpus)
        if not len(usable):
            return [], []
        of_gpu = np.append(self._class[self._holder], FREE)  # one more, so that the last cell may end there
        edges = np.stack((cells.first[level], cells.end[level]), axis=1).ravel()
        senior = np.minimum.reduceat(of_gpu, edges)[::2]
        numbers = cells.cells[level]
        free, lower = usable & (senior == FREE), usable & (senior > firmness) & (senior < FREE)
        return sorted(numbers[free].tolist()), sorted(numbers[lower].tolist())

    def _lead(self, level: Level, cell: int) -> int:
        """The most senior of the lots that hold parts of a cell: by class, GPUs here, acquisition, position, cell."""
        ranks = self._span(level, cell)
        here = Counter(self._holder[ranks].tolist())
        here.pop(NOBODY, None)
        lead: int = min(here, key=lambda n: (self._lot(n).rank.firmness_class, -here[n], *self._order(n)))
        return lead

    def _decided(
        self, pool: int, level: Level, waiting: Sequence[int], leads: Mapping[int, int], free: int
    ) -> Certificate:
        lots = Counter(self._lot(number).position for number in (*waiting, *leads.values()))
        claims = [
            ShortClaim(
                position=position,
                firmness_class=self._rank_of(position).firmness_class,
                lots=count,
                acquired_ms=self._rank_of(position).acquired_ms,
            )
            for position, count in sorted(lots.items())
        ]
        name = pool_name(self._fleet, pool)
        return ration(claims, free + len(leads), pool=name, level=level, start_ms=self._now_ms)

    def _given_up(self, level: Level, leads: Mapping[int, int], awarded: Mapping[str, int]) -> list[int]:
        """The cells that holders give up: of each what it holds beyond its award, the cheapest; the lowest class
        first.
        """
        by_position: dict[str, list[int]] = {}
        for cell, number in leads.items():
            by_position.setdefault(self._lot(number).position, []).append(cell)
        given: list[int] = []
        for position, held in sorted(by_position.items()):
            held.sort(key=lambda cell: self._price(level, cell))
            given += held[: len(held) - awarded[position]]
        return sorted(given, key=lambda cell: (-self._lot(leads[cell]).rank.firmness_class, *self._price(level, cell)))

    def _price(self, level: Level, cell: int) -> tuple[bool, int, int]:
        """What taking a cell costs: a larger lot around it, then the work that is lost on it."""
        ranks = self._span(level, cell)
        holders = np.unique(self._holder[ranks])
        larger = any(number != NOBODY and self._lot(number).level > level for number in holders.tolist())
        return larger, int(self._loss[ranks.stop] - self._loss[ranks.start]), cell

    # -- taking a cell -------------------------------------------------------------------------------------------------

    def _take_free(self, number: int, free: list[int]) -> None:
        """A cell that is not slow for it; of those the one that serves longest, spares first, then where least is newly
        broken, then by number.
        """
        lot = self._lot(number)
        slow = self._slow.get(lot.position)

        def worth(cell: int) -> tuple[bool, int, bool, int, int]:
            ranks = self._span(lot.level, cell)
            until_ms = min(lot.until_ms, int(self._next_ms[ranks].min()))
            is_slow = slow is not None and bool(slow[self._topology.gpu_at[ranks]].any())
            spare = bool(self._spare[ranks].all())
            return is_slow, -until_ms, not spare, self._newly_broken(lot.level, cell), cell

        best = min(free, key=worth)
        free.remove(best)
        self._take(number, best)

    def _newly_broken(self, level: Level, cell: int) -> int:
        """How many of the cells above hold nothing sold yet."""
        at = int(self._topology.first_gpu[level][cell])
        outer = [(above, int(self._topology.cell_of_rank[above][at])) for above in LEVELS[level + 1 :]]
        return sum(self._is_free(above, number) for above, number in outer)

    def _take(self, number: int, cell: int) -> None:
        """The lot goes to the cell for as long as both last; who is there goes to the cell that it leaves, or waits."""
        lot, here = self._lot(number), self._span(self._lot(number).level, cell)
        until_ms = min(lot.until_ms, int(self._next_ms[here].min()))
        displaced = [n for n in np.unique(self._holder[here]).tolist() if n != NOBODY]
        left = lot.cell
        self._pending[lot.rank.firmness_class, lot.level].discard(number)
        for other in displaced:
            self._leave(other, min(self._lot(other).until_ms, until_ms))
        self._leave(number, until_ms)
        lot.cell, self._holder[here] = cell, number
        alike = left is not None and self._is_alike(lot.level, left, cell)
        for other in displaced:
            self._settle(other, lot.level, cell, left if alike else None)

    def _leave(self, number: int, until_ms: int) -> None:
        """A lot gives its cell up until an instant, and comes back where its window goes on."""
        lot = self._lot(number)
        if lot.cell is not None:
            ranks = self._span(lot.level, lot.cell)
            self._holder[ranks] = np.where(self._holder[ranks] == number, NOBODY, self._holder[ranks])
            if until_ms < lot.until_ms:
                lot.later.append((lot.cell, until_ms, lot.until_ms))
                self._next_ms[ranks] = np.minimum(self._next_ms[ranks], until_ms)
        elif until_ms < lot.until_ms:
            lot.gap = True
        lot.until_ms, lot.moved = until_ms, True

    def _settle(self, number: int, level: Level, taken: int, left: int | None) -> None:
        """A displaced lot takes its own place in the cell that was left, where there is one that is well; else it
        stands nowhere: what it lacks, it lacks by the rule, and not by what another's cell suffers from.
        """
        lot = self._lot(number)
        old, lot.cell = lot.cell, None
        if left is not None and old is not None and lot.level <= level:
            shift = int(self._topology.first_gpu[level][left] - self._topology.first_gpu[level][taken])
            place = self._topology.counterpart(lot.level, old, shift)
            if self._well[lot.level][place]:
                lot.cell = place
                self._holder[self._span(lot.level, place)] = number
        if lot.cell is None or not self._healthy[lot.level][lot.cell]:
            self._wait(number)

    def _is_alike(self, level: Level, left: int, right: int) -> bool:
        """Whether what stands in one cell may stand in the other: of one pool and shape."""
        topology = self._topology
        same_pool = topology.pool[level][left] == topology.pool[level][right]
        return bool(same_pool) and topology.shape(level, left) == topology.shape(level, right)

    def _is_free(self, level: Level, cell: int) -> bool:
        return bool((self._holder[self._span(level, cell)] == NOBODY).all())

    def _span(self, level: Level, cell: int) -> slice:
        return slice(int(self._topology.first_gpu[level][cell]), int(self._topology.end_gpu[level][cell]))
