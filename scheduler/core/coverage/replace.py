"""Keeping the plan through what happens: a trade, a failure, a transfer. Each answers with the whole future of what it
changes.

Coverage in force is sticky: a trade never moves it, a failure moves only what it hit (and what the shortage rule takes
from a lower class), a transfer moves whole cells, idle ones first. Future windows may be planned anew. A holding that
nothing replaces stays on its sick cell: that is its shortfall, and it is whole again when the cell is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.assign import admit, assign
from scheduler.core.coverage.columns import Columns, Holdings, clipped, columns_of, merged, moved, order, rows_of
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.ownership import owner_at
from scheduler.core.coverage.shortage import Certificate, FirmnessClass, ShortClaim, ration
from scheduler.core.coverage.topology import LEVELS, Topology, topology_of
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import INT64_MAX

Mask = npt.NDArray[np.bool_]

TRADE_ROUNDS = 40
"""Rounds of each turn of repair when a trade has the future planned anew: trades come one by one."""
REPLANS_MAX = 8
"""How often one call plans the future anew, each time with fewer new positions."""


class Rank(NamedTuple):
    """How the shortage rule sees a position."""

    firmness_class: int
    acquired_ms: int


@dataclass(frozen=True, slots=True)
class Covering:
    """What changes from an instant on. `holdings` is all that each of `positions` holds from then on, sorted.

    `refused`: (position, lots that found no cell), by position; of a trade, the position is then not covered at all; of
    a failure, the lots stay where they were. `certificates`: the shortages that were decided on the way.
    """

    positions: tuple[str, ...]
    holdings: tuple[Holding, ...]
    refused: tuple[tuple[str, int], ...] = ()
    certificates: tuple[Certificate, ...] = ()


def cover(
    fleet: Fleet,
    demands: Sequence[Demand],
    holdings: Holdings,
    now_ms: int,
    usable: Mask,
    *,
    account_of: Mapping[str, str] | None = None,
    rounds: int = TRADE_ROUNDS,
    calendar: OpenCalendar | None = None,
    handovers: bool = False,
) -> Covering:
    """Cells for new positions, each whole or not at all. Windows are taken from `now_ms` on.

    First beside everything already planned; where that fails, with the future of healthy cells planned anew, in force
    pinned. `account_of` (account by position) lets an account keep its cells from one window to the next. `calendar`,
    which must hold the same holdings, answers for one position without looking at all of them. `handovers`: whether
    lots that nothing else places may be split in time between cells, as the last resort.
    """
    wanted = [d._replace(start_ms=max(d.start_ms, now_ms)) for d in demands if d.end_ms > now_ms and d.lots]
    names = {demand.position for demand in wanted}
    if calendar is not None and len(names) == 1:
        found = calendar.found(wanted, usable, _of_account(calendar, names, account_of))
        if found is not None:
            own = _ahead(calendar.of_position.get(min(names), ()), now_ms)
            return _covering([*own, *found], names, {})
    ahead = _ahead(rows_of(holdings), now_ms)
    prefer = _neighbours(wanted, ahead, account_of or {})
    first = assign(fleet, wanted, pinned=ahead, usable=usable, prefer=prefer, account_of=account_of, rounds=0)
    short = _most_lots(first.unplaced)
    placed = [holding for holding in first.holdings if holding.position not in short]
    if not short:
        return _covering([*ahead, *placed], {d.position for d in wanted}, short)
    failing = [demand for demand in wanted if demand.position in short]
    before = (*ahead, *placed)
    future, short = _replanned(fleet, failing, before, now_ms, usable, account_of=account_of, rounds=rounds)
    if short and handovers:
        failing = [demand for demand in failing if demand.position in short]
        future, short = _replanned(
            fleet, failing, future, now_ms, usable, account_of=account_of, rounds=rounds, handovers=True
        )
    changed = {d.position for d in wanted} - set(short) | _differing(ahead, future)
    return _covering(future, changed, short)


def replace_failed(
    fleet: Fleet,
    holdings: Holdings,
    usable: Mask,
    now_ms: int,
    spare_nodes: Iterable[int] = (),
    position_rank: Mapping[str, Rank] | None = None,
    *,
    loss_by_gpu: IntArray | None = None,
) -> Covering:
    """New cells for what is in force on cells with an unusable GPU: spares, then unsold cells, then the shortage rule.

    The rule shares the free cells, and those that lower classes hold at the same level, among the lots that were hit
    and the lower classes; other coverage in force does not move. A cell that is free for a while serves for that while.
    Later windows are looked at when they begin: call this at every turn of the calendar too. `loss_by_gpu` (n_gpus)
    int64: GPU-ms that taking each GPU would waste; the cheapest cells are taken first. Positions without a rank count
    as FIRM, acquired at 0.
    """
    if not _is_hit(fleet, holdings, usable, now_ms):
        return Covering((), ())
    ahead = _ahead(rows_of(holdings), now_ms)
    loss = np.zeros(fleet.n_gpus, dtype=np.int64) if loss_by_gpu is None else loss_by_gpu
    work = _Replacing(fleet, ahead, usable, now_ms, set(spare_nodes), dict(position_rank or {}), loss)
    for level in sorted({ahead[k].level for k in work.hit}, reverse=True):
        for pool in sorted({work.pool_of(k) for k in work.hit if ahead[k].level == level}):
            work.serve(level, pool)
    left = Counter(ahead[k].position for k in work.hit if k not in work.replaced)
    return _covering(work.future(), work.changed, left, work.certificates)


def transfer(
    fleet: Fleet,
    holdings: Holdings,
    source: str,
    new: str,
    lots: int,
    at_ms: int,
    busy: Mask | None = None,
) -> Covering:
    """Moves `lots` whole cells of one position to a new one from `at_ms` on, at every instant ahead; idle cells go
    first.

    `busy` (n_gpus) bool: GPUs that somebody's work occupies. A cell once moved stays moved as long as it can. `refused`
    names the new position with the most lots that were missing at some instant. Raises InvalidValue on fewer than 1
    lot.
    """
    if lots < 1:
        raise InvalidValue("lots", f"a transfer from {source} to {new}", lots, "1 or more")
    topology = topology_of(fleet)
    ahead = _ahead(rows_of(holdings), at_ms)
    theirs = [holding for holding in ahead if holding.position == source]
    cuts = sorted({instant for h in theirs for instant in (h.start_ms, h.end_ms)})
    gone: set[tuple[Level, int]] = set()
    given: list[Holding] = []
    kept: list[Holding] = []
    missing = 0
    for start_ms, end_ms in pairwise(cuts):
        here = [h for h in theirs if h.start_ms <= start_ms < h.end_ms]
        here.sort(key=lambda h: ((h.level, h.cell) not in gone, _is_busy(topology, h, busy), h.level, h.cell))
        if here:
            missing = max(missing, lots - len(here))
        gone = {(h.level, h.cell) for h in here[:lots]} | (gone if not here else set())
        given += [moved(h, position=new, start_ms=start_ms, end_ms=end_ms) for h in here[:lots]]
        kept += [moved(h, start_ms=start_ms, end_ms=end_ms) for h in here[lots:]]
    others = [h for h in ahead if h.position == new]
    short = {new: missing} if missing else {}
    return Covering(tuple(sorted((source, new))), merged((*others, *given, *kept)), tuple(short.items()))


def _ahead(holdings: Iterable[Holding], now_ms: int) -> tuple[Holding, ...]:
    """What is in force or to come, from `now_ms` on."""
    parts = (clipped(holding, now_ms, INT64_MAX) for holding in holdings if holding.end_ms > now_ms)
    return tuple(part for part in parts if part is not None)


def _covering(
    future: Iterable[Holding],
    positions: Iterable[str],
    short: Mapping[str, int],
    certificates: Iterable[Certificate] = (),
) -> Covering:
    """The future of those positions, out of everybody's."""
    named = frozenset(positions)
    holdings = merged(holding for holding in future if holding.position in named)
    return Covering(tuple(sorted(named)), holdings, tuple(sorted(short.items())), tuple(certificates))


def _differing(before: Iterable[Holding], after: Iterable[Holding]) -> set[str]:
    """The positions whose holdings differ."""
    return {row[0] for row in set(map(order, before)) ^ set(map(order, after))}


# -- a trade


def _of_account(calendar: OpenCalendar, names: Iterable[str], account_of: Mapping[str, str] | None) -> list[str]:
    """All positions of the accounts of those named, those alone where nobody says whose they are."""
    if account_of is None:
        return sorted(names)
    accounts = {account_of.get(name, name) for name in names}
    return [position for position in calendar.of_position if account_of.get(position, position) in accounts]


def _neighbours(wanted: Sequence[Demand], ahead: Sequence[Holding], account_of: Mapping[str, str]) -> list[Holding]:
    """For each demand, under its own name: the cells that its account holds right before or right after its window."""
    ending: dict[tuple[str, Level, int], list[Holding]] = {}
    starting: dict[tuple[str, Level, int], list[Holding]] = {}
    for holding in ahead:
        account = account_of.get(holding.position, holding.position)
        ending.setdefault((account, holding.level, holding.end_ms), []).append(holding)
        starting.setdefault((account, holding.level, holding.start_ms), []).append(holding)
    prefer: list[Holding] = []
    for demand in wanted:
        account = account_of.get(demand.position, demand.position)
        before = ending.get((account, demand.level, demand.start_ms), [])
        after = starting.get((account, demand.level, demand.end_ms), [])
        prefer += [moved(holding, position=demand.position) for holding in (*before, *after)]
    return prefer


def _replanned(
    fleet: Fleet,
    failing: Sequence[Demand],
    ahead: Sequence[Holding],
    now_ms: int,
    usable: Mask,
    *,
    account_of: Mapping[str, str] | None,
    rounds: int,
    handovers: bool = False,
) -> tuple[list[Holding], dict[str, int]]:
    """(the whole future, what is refused): as many of the failing positions as a new plan of the future can take in.

    Whatever happens, all that was covered stays covered.
    """
    topology = topology_of(fleet)
    healthy = [topology.whole_and_usable(level, usable) for level in LEVELS]
    free = [h.start_ms > now_ms and bool(healthy[h.level][h.cell]) for h in ahead]
    pinned = columns_of(h for h, is_free in zip(ahead, free, strict=True) if not is_free)
    old = _as_demands(topology, [h for h, is_free in zip(ahead, free, strict=True) if is_free])
    trying, refused = _admissible(fleet, old, failing, pinned, usable)
    for _ in range(REPLANS_MAX):
        if not trying:
            break
        plan = assign(
            fleet,
            [*old, *trying],
            pinned=pinned,
            usable=usable,
            account_of=account_of,
            rounds=rounds,
            handovers=handovers,
        )
        short = _most_lots(plan.unplaced)
        new = {demand.position for demand in trying}
        if short.keys() <= new - {demand.position for demand in old}:
            kept = [holding for holding in plan.holdings if holding.position not in short]
            return [*pinned.holdings, *kept], refused | short
        # Lots that were covered would be left out: positions that did not fit anyway give way, else the last by name.
        dropped = {position: short[position] for position in new & short.keys()} or {max(new): 1}
        refused |= dropped
        trying = [demand for demand in trying if demand.position not in dropped]
    return list(ahead), refused | _most_lots(trying)


def _admissible(
    fleet: Fleet, old: Sequence[Demand], failing: Sequence[Demand], pinned: Columns, usable: Mask
) -> tuple[list[Demand], dict[str, int]]:
    """(demands of the positions that pass admission by count one after the other, the lots of those that do not)."""
    trying: list[Demand] = []
    refused: dict[str, int] = {}
    for position in sorted({demand.position for demand in failing}):
        theirs = [demand for demand in failing if demand.position == position]
        if admit(fleet, [*old, *trying, *theirs], pinned, usable):
            refused |= _most_lots(theirs)
        else:
            trying += theirs
    return trying, refused


def _most_lots(demands: Iterable[Demand]) -> dict[str, int]:
    """The most lots of each position in one window."""
    most: dict[str, int] = {}
    for demand in demands:
        most[demand.position] = max(most.get(demand.position, 0), demand.lots)
    return most


def _as_demands(topology: Topology, holdings: Iterable[Holding]) -> list[Demand]:
    counts = Counter((h.position, h.level, h.start_ms, h.end_ms, int(topology.pool[h.level][h.cell])) for h in holdings)
    return [
        Demand(position, level, lots, start_ms, end_ms, pool)
        for (position, level, start_ms, end_ms, pool), lots in sorted(counts.items())
    ]


def _is_busy(topology: Topology, holding: Holding, busy: Mask | None) -> bool:
    return busy is not None and bool(busy[topology.gpus(holding.level, holding.cell)].any())


# -- a failure


def _is_hit(fleet: Fleet, holdings: Holdings, usable: Mask, now_ms: int) -> bool:
    """Whether anything in force lies on an unusable GPU: mostly nothing does, and this is asked often."""
    if usable.all():
        return False
    columns, topology = columns_of(holdings), topology_of(fleet)
    in_force = (columns.start_ms <= now_ms) & (columns.end_ms > now_ms)
    return any(
        not topology.whole_and_usable(level, usable)[columns.cell[in_force & (columns.level == level)]].all()
        for level in LEVELS
    )


class _Replacing:
    """One call of `replace_failed` in progress: what is free, what was hit, and what has been exchanged so far."""

    def __init__(
        self,
        fleet: Fleet,
        ahead: Sequence[Holding],
        usable: Mask,
        now_ms: int,
        spare_nodes: set[int],
        ranks: Mapping[str, Rank],
        loss: IntArray,
    ) -> None:
        self.fleet, self.ahead, self.now_ms = fleet, ahead, now_ms
        self.topology, self.ranks = topology_of(fleet), ranks
        columns = columns_of(ahead)
        index = {position: k for k, position in enumerate(sorted({h.position for h in ahead}))}
        owner, until_ms = owner_at(fleet, columns, now_ms, index)
        by_rank = self.topology.gpu_at
        self.free = ((owner < 0) & usable)[by_rank]
        """By rank: GPUs that a hit lot may have now."""
        self.sold = (owner >= 0)[by_rank]
        self.until_ms, self.loss = until_ms[by_rank], loss[by_rank]
        self.spare = np.isin(fleet.node_of_gpu, sorted(spare_nodes))[by_rank]
        self.healthy = [self.topology.whole_and_usable(level, usable) for level in LEVELS]
        self.in_force = [k for k, h in enumerate(ahead) if h.start_ms <= now_ms]
        self.hit = [k for k in self.in_force if not self.healthy[ahead[k].level][ahead[k].cell]]
        self.replaced: set[int] = set()
        self.moved_to: dict[int, tuple[int, int]] = {}
        """Holding by row: (its cell from now on, until when)."""
        self.changed: set[str] = set()
        self.certificates: list[Certificate] = []

    def pool_of(self, row: int) -> int:
        """The pool of a holding's cell."""
        return int(self.topology.pool[self.ahead[row].level][self.ahead[row].cell])

    def rank_of(self, row: int) -> tuple[int, int, str, int]:
        """The order of service: the rule's, then by cell."""
        holding = self.ahead[row]
        rank = self.ranks.get(holding.position, Rank(FirmnessClass.FIRM, 0))
        return rank.firmness_class, rank.acquired_ms, holding.position, holding.cell

    def serve(self, level: Level, pool: int) -> None:
        """Replace what was hit at a level of a pool, by rank; where free cells do not reach, by the shortage rule."""
        hit = sorted((k for k in self.hit if self._is_at(k, level, pool)), key=self.rank_of)
        cells = self._free_cells(level, pool)
        if len(cells) >= len(hit):
            for row in hit:
                self._take_free(row, cells)
            return
        highest = min(self.rank_of(k)[0] for k in hit)
        lower = [
            k
            for k in self.in_force
            if self._is_at(k, level, pool)
            and self.healthy[level][self.ahead[k].cell]
            and self.rank_of(k)[0] > highest
            and k not in self.moved_to
        ]
        certificate = self._decided(level, pool, hit, lower, len(cells))
        self.certificates.append(certificate)
        self._give_effect(certificate, hit, lower, cells)

    def future(self) -> list[Holding]:
        """All holdings from now on, exchanged as decided."""
        result: list[Holding] = []
        for row, holding in enumerate(self.ahead):
            if row not in self.moved_to:
                result.append(holding)
                continue
            cell, until_ms = self.moved_to[row]
            result.append(moved(holding, cell=cell, end_ms=until_ms))
            if until_ms < holding.end_ms:
                result.append(moved(holding, start_ms=until_ms))
        return result

    def _is_at(self, row: int, level: Level, pool: int) -> bool:
        return self.ahead[row].level == level and self.pool_of(row) == pool

    def _decided(self, level: Level, pool: int, hit: list[int], lower: list[int], free: int) -> Certificate:
        lots = Counter(self.ahead[k].position for k in (*hit, *lower))
        claims = [
            ShortClaim(
                position=position,
                firmness_class=self.ranks.get(position, Rank(FirmnessClass.FIRM, 0)).firmness_class,
                lots=count,
                acquired_ms=self.ranks.get(position, Rank(FirmnessClass.FIRM, 0)).acquired_ms,
            )
            for position, count in sorted(lots.items())
        ]
        grade, site = self.fleet.pools[pool]
        return ration(claims, free + len(lower), pool=f"{grade}@{site}", level=level, start_ms=self.now_ms)

    def _give_effect(self, certificate: Certificate, hit: list[int], lower: list[int], cells: list[int]) -> None:
        """Who holds more than the award gives up its cheapest cells; who holds less takes free cells first, then
        those.
        """
        has = Counter(self.ahead[k].position for k in lower)
        awarded = certificate.awarded
        given_up: list[int] = []
        for position in sorted(has):
            surplus = has[position] - awarded[position]
            theirs = sorted((k for k in lower if self.ahead[k].position == position), key=self._loss_of)
            given_up += theirs[: max(0, surplus)]
        due = {position: awarded[position] - min(has[position], awarded[position]) for position in awarded}
        given_up.sort(key=lambda k: (-self.rank_of(k)[0], *self._loss_of(k)))
        for row in hit:
            position = self.ahead[row].position
            if due[position] == 0:
                continue
            if cells:
                self._take_free(row, cells)
            else:
                self._exchange(row, given_up.pop(0))
            due[position] -= 1

    def _loss_of(self, row: int) -> tuple[int, int]:
        level, cell = self.ahead[row].level, self.ahead[row].cell
        first, end = int(self.topology.first_gpu[level][cell]), int(self.topology.end_gpu[level][cell])
        return int(self.loss[first:end].sum()), cell

    def _free_cells(self, level: Level, pool: int) -> list[int]:
        """Whole cells of the pool that cover nobody now and are usable."""
        first, end = self.topology.first_gpu[level], self.topology.end_gpu[level]
        taken = np.concatenate(([0], np.cumsum(~self.free)))
        free = (taken[first] == taken[end]) & (self.topology.pool[level] == pool)
        return [int(cell) for cell in np.flatnonzero(free)]

    def _take_free(self, row: int, cells: list[int]) -> None:
        """The cell that serves longest; of those spares first, then where least is newly broken, then by number."""
        holding = self.ahead[row]
        level = holding.level
        first, end = self.topology.first_gpu[level], self.topology.end_gpu[level]

        def worth(cell: int) -> tuple[int, bool, int, int]:
            until_ms = int(self.until_ms[first[cell] : end[cell]].min())
            spare = bool(self.spare[first[cell] : end[cell]].all())
            return -min(until_ms, holding.end_ms), not spare, self._newly_broken(level, cell), cell

        best = min(cells, key=worth)
        until_ms = -worth(best)[0]
        cells.remove(best)
        self.free[first[best] : end[best]] = False
        self.sold[first[best] : end[best]] = True
        self._move(row, best, until_ms)
        self.replaced.add(row)

    def _newly_broken(self, level: Level, cell: int) -> int:
        """How many of the cells above hold nothing sold yet."""
        at = int(self.topology.first_gpu[level][cell])
        broken = 0
        for above in LEVELS[level + 1 :]:
            outer = int(self.topology.cell_of_rank[above][at])
            first, end = int(self.topology.first_gpu[above][outer]), int(self.topology.end_gpu[above][outer])
            broken += int(not self.sold[first:end].any())
        return broken

    def _exchange(self, row: int, victim: int) -> None:
        """The hit lot and the victim trade cells for as long as both last."""
        mine, theirs = self.ahead[row], self.ahead[victim]
        until_ms = min(mine.end_ms, theirs.end_ms)
        self._move(row, theirs.cell, until_ms)
        self._move(victim, mine.cell, until_ms)
        self.replaced.add(row)
        self.hit.append(victim)

    def _move(self, row: int, cell: int, until_ms: int) -> None:
        self.moved_to[row] = (cell, until_ms)
        self.changed.add(self.ahead[row].position)
