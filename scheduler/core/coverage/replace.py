"""Keeping the plan through what happens: a trade, a failure, a transfer. Each answers with the whole future of what it
changes.

Coverage in force is sticky: a trade never moves it, a failure moves only what it hit (and what the shortage rule takes
from a lower class), a transfer moves whole cells, idle ones first. Future windows may be planned anew. A holding that
nothing replaces stays on its sick cell: that is its shortfall, and it is whole again when the cell is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.assign import admit, assign
from scheduler.core.coverage.columns import Columns, Holdings, clipped, columns_of, merged, moved, order, rows_of
from scheduler.core.coverage.open_calendar import OpenCalendar
from scheduler.core.coverage.renewal import Edges, regained
from scheduler.core.coverage.shortage import Certificate
from scheduler.core.coverage.topology import LEVELS, Topology, topology_of
from scheduler.core.coverage.waterfall import Rank, Waterfall
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand, Holding
from scheduler.core.quantities import INT64_MAX

Mask = npt.NDArray[np.bool_]

TRADE_ROUNDS = 40
"""Rounds of each turn of repair when a trade has the future planned anew: trades come one by one."""
REPLANS_MAX = 8
"""How often one call plans the future anew, each time with fewer new positions."""


@dataclass(frozen=True, slots=True)
class Covering:
    """What changes from an instant on. `holdings` is all that each of `positions` holds from then on, sorted.

    `refused`: (position, lots that found no cell), by position; of a trade, the position is then not covered at all; of
    a failure, the lots stay where they were. `certificates`: the shortages that were decided on the way. `uncovered`:
    of a failure, the lots of a position that stand on no cell any more, or will not for a while.
    """

    positions: tuple[str, ...]
    holdings: tuple[Holding, ...]
    refused: tuple[tuple[str, int], ...] = ()
    certificates: tuple[Certificate, ...] = ()
    uncovered: tuple[tuple[str, int], ...] = ()


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
    handovers: Collection[str] = (),
    replan: bool = True,
) -> Covering:
    """Cells for new positions, each whole or not at all. Windows are taken from `now_ms` on.

    First beside everything already planned, where a lot that has not begun may trade places with another one of the
    same window, so that an account stays where it is (see `renewal`); where that fails, with the future of healthy
    cells planned anew, in force pinned. `account_of` (account by position) tells whose cells are whose. `calendar`,
    which must hold the same holdings, answers for one position without looking at all of them. `handovers`: the
    positions whose lots may be split in time between cells, as the last resort; with lots of no other one is that done,
    and what others hold stays where it is meanwhile. `replan`: whether the future may be planned anew.
    """
    wanted = [d._replace(start_ms=max(d.start_ms, now_ms)) for d in demands if d.end_ms > now_ms and d.lots]
    names = {demand.position for demand in wanted}
    if calendar is not None and len(names) == 1:
        near = _of_account(calendar, names, account_of)
        found = calendar.found(wanted, usable, near)
        if found is not None:
            return _staying(fleet, calendar, near, found, now_ms, usable, account_of or {})
    ahead = _ahead(rows_of(holdings), now_ms)
    prefer = _neighbours(wanted, ahead, account_of or {})
    first = assign(fleet, wanted, pinned=ahead, usable=usable, prefer=prefer, account_of=account_of, rounds=0)
    short = lots_by_position(first.unplaced)
    placed = [holding for holding in first.holdings if holding.position not in short]
    if not short:
        stay = regained(fleet, Edges(ahead), placed, ahead, usable, now_ms, account_of or {})
        changed = {d.position for d in wanted} | {held.position for held in stay.gave}
        return _covering([*(stay.gave.get(held, held) for held in ahead), *stay.found], changed, short)
    if not replan:
        return _covering([*ahead, *placed], {d.position for d in wanted} - set(short), short)
    failing = [demand for demand in wanted if demand.position in short]
    before = (*ahead, *placed)
    future, short = _replanned(fleet, failing, before, now_ms, usable, account_of=account_of, rounds=rounds)
    failing = [demand for demand in failing if demand.position in short and demand.position in handovers]
    if failing:
        asked = {demand.position for demand in failing}
        future, left = _replanned(
            fleet, failing, future, now_ms, usable, account_of=account_of, rounds=rounds, handovers=handovers
        )
        short = {name: lots for name, lots in short.items() if name not in asked} | left
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
    cell_gpus: Mapping[str, int] | None = None,
    waiting: Sequence[Demand] = (),
    oversold: Sequence[Demand] = (),
    well: Mask | None = None,
    pools: Mapping[str, Sequence[int]] | None = None,
    slow: Mapping[str, Mask] | None = None,
) -> Covering:
    """New cells for what is in force on cells with an unusable GPU: spares, then unsold cells, then those of lower
    classes by the shortage rule (see `waterfall`); other coverage in force does not move.

    `waiting`: lots in force that were displaced before and stand nowhere; `oversold`: lots in force of positions that
    were never covered as sold, each position whole or not at all, not from spares. A cell that is free for a while
    serves for that while. Later windows are looked at when they begin: call this at every turn of the calendar too.
    `loss_by_gpu` (n_gpus) int64: GPU-ms that taking each GPU would waste; the cheapest cells are taken first. Positions
    without a rank count as FIRM, acquired at 0. `cell_gpus`: GPUs of a cell of each position's lots, by position;
    missing: as many as the cell that was hit. `well` (n_gpus) bool: GPUs that are not ill, though perhaps to be
    drained, on which a displaced lot may stand meanwhile; None: the usable ones. `pools`: where lots may stand, by
    position, in order of preference; missing: where they are. `slow`, by position (n_gpus) bool: GPUs below its floor,
    given only where no others are free.
    """
    if not (waiting or oversold or _is_hit(fleet, holdings, usable, now_ms)):
        return Covering((), ())
    work = Waterfall(
        fleet,
        _ahead(rows_of(holdings), now_ms),
        usable,
        now_ms,
        spare_nodes=spare_nodes,
        ranks=position_rank,
        loss_by_gpu=loss_by_gpu,
        cell_gpus=cell_gpus,
        waiting=waiting,
        oversold=oversold,
        well=well,
        pools=pools,
        slow=slow,
    )
    work.serve()
    made = _covering(work.future(), work.changed, work.short, work.certificates)
    return replace(made, uncovered=tuple(sorted(work.uncovered.items())))


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


def _staying(
    fleet: Fleet,
    calendar: OpenCalendar,
    near: Sequence[str],
    found: Sequence[Holding],
    now_ms: int,
    usable: Mask,
    account_of: Mapping[str, str],
) -> Covering:
    """What changes by the holdings that the calendar found for a new position."""
    theirs = [held for position in near for held in calendar.of_position.get(position, ())]
    stay = regained(fleet, calendar.edges, found, theirs, usable, now_ms, account_of)
    changed = {held.position for held in (*found, *stay.gave)}
    before = [held for position in sorted(changed) for held in calendar.of_position.get(position, ())]
    return _covering([*_ahead((stay.gave.get(held, held) for held in before), now_ms), *stay.found], changed, {})


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
    handovers: Collection[str] = (),
) -> tuple[list[Holding], dict[str, int]]:
    """(the whole future, what is refused): as many of the failing positions as a new plan of the future can take in.

    Whatever happens, all that was covered stays covered. `handovers`: of these alone the future is planned anew, and
    lots may be split.
    """
    topology = topology_of(fleet)
    healthy = [topology.whole_and_usable(level, usable) for level in LEVELS]
    free = [
        h.start_ms > now_ms and bool(healthy[h.level][h.cell]) and (not handovers or h.position in handovers)
        for h in ahead
    ]
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
            handovers=bool(handovers),
        )
        short = lots_by_position(plan.unplaced)
        new = {demand.position for demand in trying}
        if short.keys() <= new - {demand.position for demand in old}:
            kept = [holding for holding in plan.holdings if holding.position not in short]
            return [*pinned.holdings, *kept], refused | short
        # Lots that were covered would be left out: positions that did not fit anyway give way, else the last by name.
        dropped = {position: short[position] for position in new & short.keys()} or {max(new): 1}
        refused |= dropped
        trying = [demand for demand in trying if demand.position not in dropped]
    return list(ahead), refused | lots_by_position(trying)


def _admissible(
    fleet: Fleet, old: Sequence[Demand], failing: Sequence[Demand], pinned: Columns, usable: Mask
) -> tuple[list[Demand], dict[str, int]]:
    """(demands of the positions that pass admission by count one after the other, the lots of those that do not)."""
    trying: list[Demand] = []
    refused: dict[str, int] = {}
    for position in sorted({demand.position for demand in failing}):
        theirs = [demand for demand in failing if demand.position == position]
        if admit(fleet, [*old, *trying, *theirs], pinned, usable):
            refused |= lots_by_position(theirs)
        else:
            trying += theirs
    return trying, refused


def lots_by_position(demands: Iterable[Demand]) -> dict[str, int]:
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
