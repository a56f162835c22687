"""Which cells stand behind which position, over the whole calendar: demands in, holdings out; and admission by count.

All windows are known in advance, so the whole calendar is planned at once: groups of equal lots, longest first, each
where it newly breaks the fewest hours of the blocks, domains and nodes above; then repair by guided ejection for what
is left. Laws: pinned holdings never move, no GPU is given twice, the same input gives the same holdings, and lots of
one level that are admissible by count at every instant are all placed when what is pinned is in force from the first
window on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.board import Board, board_of
from scheduler.core.coverage.columns import Holdings, columns_of, order
from scheduler.core.coverage.dealing import Request, dealt
from scheduler.core.coverage.packing import ORDERS, Group, Layout, Order, filled, length_ms, lot_gpus
from scheduler.core.coverage.repair import repaired
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand, Holding

Usable = npt.NDArray[np.bool_]

ROUNDS = 2_000
"""Rounds of repair for each order, where lots are left."""
ROUNDS_PER_LOT = 20
"""Rounds for each lot at most: a small calendar is settled, or hopeless, soon."""
ROUND_LOTS = 20_000_000
"""Rounds × lots at most, so that the largest calendars stay quick."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """New holdings, sorted, and what found no cell: each demand with the lots that are left of it."""

    holdings: tuple[Holding, ...]
    unplaced: tuple[Demand, ...]


def assign(
    fleet: Fleet,
    demands: Sequence[Demand],
    *,
    pinned: Holdings = (),
    usable: Usable | None = None,
    prefer: Sequence[Holding] = (),
    account_of: Mapping[str, str] | None = None,
    rounds: int = ROUNDS,
    orders: Sequence[Order] = ORDERS,
) -> Assignment:
    """Cells for all lots of all demands, as far as they go; all-or-nothing per position is the caller's (see
    `replace.cover`).

    `pinned` occupy their cells and never move. `usable` is (n_gpus) bool: cells with an unusable GPU are not given
    (None: all are usable). `prefer` holds cells that a demand of the same position and level takes first where they are
    free. `account_of` (account by position; missing: the position itself) lets an account keep its cells from one
    window to the next where that costs nothing. `rounds` bounds the repair of each of the `orders`, which are
    tried until nothing is left. Raises InvalidValue on a demand that no
    fleet could mean, Conflict where the pinned contradict themselves.
    """
    _check_demands(fleet, demands)
    mask = all_usable(fleet) if usable is None else usable
    columns = columns_of(pinned)
    holdings: list[Holding] = []
    unplaced: list[Demand] = []
    for pool in sorted({demand.pool for demand in demands}):
        board = board_of(fleet, pool, demands, columns, mask)
        requests = _requests(board, (d for d in demands if d.pool == pool and d.lots), prefer)
        layout = planned(board, [request.group for request in requests], rounds, orders)
        made, short = dealt(layout, requests, columns, mask, account_of or {})
        holdings += made
        unplaced += [requests[r].demands[d]._replace(lots=lots) for (r, d), lots in short.items()]
    return Assignment(tuple(sorted(holdings, key=order)), tuple(sorted(unplaced)))


def planned(board: Board, groups: Sequence[Group], rounds: int, orders: Sequence[Order] = ORDERS) -> Layout:
    """The best layout of the orders, each repaired; the first one that leaves nothing ends the search."""
    best: Layout | None = None
    best_short = 0
    n_lots = sum(group.lots for group in groups)
    rounds = min(rounds, ROUNDS_PER_LOT * n_lots, ROUND_LOTS // max(1, n_lots))
    for way in orders:
        layout = filled(board, groups, way)
        if rounds and any(layout.short(groups)):
            layout = repaired(board, layout, groups, rounds)
        short = _short_gpu_ms(board, layout, groups)
        if best is None or short < best_short:
            best, best_short = layout, short
        if short == 0:
            break
    assert best is not None, "there is at least one order"  # noqa: S101
    return best


def admit(
    fleet: Fleet, demands: Sequence[Demand], pinned: Holdings = (), usable: Usable | None = None
) -> tuple[str, ...]:
    """Admission by count: empty where at every instant and level the lots need no more whole cells than are free.

    Else a sentence for each failing level and interval. Necessary at an instant, never sufficient over time. A lot of a
    higher level needs as many cells of a lower one as the smallest of its cells holds.
    """
    _check_demands(fleet, demands)
    mask = all_usable(fleet) if usable is None else usable
    columns = columns_of(pinned)
    refusals: list[str] = []
    for pool in sorted({demand.pool for demand in demands}):
        board = board_of(fleet, pool, demands, columns, mask)
        wanted = [demand for demand in demands if demand.pool == pool]
        for level in sorted({demand.level for demand in wanted}):
            refusals += _count_refusals(fleet, board, level, wanted)
    return tuple(refusals)


def all_usable(fleet: Fleet) -> Usable:
    """(n_gpus) bool, all True."""
    return np.ones(fleet.n_gpus, dtype=np.bool_)


def _check_demands(fleet: Fleet, demands: Iterable[Demand]) -> None:
    for demand in demands:
        if not 0 <= demand.pool < len(fleet.pools):
            raise InvalidValue("pool", f"a demand of {demand.position}", demand.pool, f"0..{len(fleet.pools) - 1}")
        if demand.start_ms >= demand.end_ms:
            window = (demand.start_ms, demand.end_ms)
            raise InvalidValue("window", f"a demand of {demand.position}", window, "an end after the start")
        if demand.lots < 0:
            raise InvalidValue("lots", f"a demand of {demand.position}", demand.lots, "0 or more")


def _requests(board: Board, demands: Iterable[Demand], prefer: Sequence[Holding]) -> list[Request]:
    liked: dict[tuple[str, Level], list[int]] = {}
    for holding in sorted(prefer, key=order):
        cells = liked.setdefault((holding.position, holding.level), [])
        if holding.cell not in cells:
            cells.append(holding.cell)
    by_group: dict[tuple[int, int, int], list[Demand]] = {}
    for demand in sorted(demands):
        by_group.setdefault((demand.level, demand.start_ms, demand.end_ms), []).append(demand)
    requests: list[Request] = []
    for (level, start_ms, end_ms), members in sorted(by_group.items()):
        i, j = board.slots(start_ms, end_ms)
        cells_of = tuple(tuple(liked.get((d.position, d.level), ())) for d in members)
        places = [
            board.place_in_tier(Level(level), cell)
            for cells, d in zip(cells_of, members, strict=True)
            for cell in cells[: d.lots]
        ]
        preferred = tuple(at for at in places if at >= 0)
        group = Group(Level(level), i, j, sum(d.lots for d in members), preferred)
        requests.append(Request(group, tuple(members), cells_of))
    return requests


def _short_gpu_ms(board: Board, layout: Layout, groups: Sequence[Group]) -> int:
    return sum(
        short * length_ms(board, group) * lot_gpus(board, group.level)
        for short, group in zip(layout.short(groups), groups, strict=True)
        if short
    )


def _count_refusals(fleet: Fleet, board: Board, level: Level, wanted: Sequence[Demand]) -> list[str]:
    need = np.zeros(len(board.length_ms), dtype=np.int64)
    for demand in wanted:
        if demand.level >= level:
            i, j = board.slots(demand.start_ms, demand.end_ms)
            need[i:j] += demand.lots * _cells_inside(board, demand.level, level)
    have = _free_cells(board, level)
    refusals: list[str] = []
    for i, j in _runs(need > have, need, have):
        grade, site = fleet.pools[board.pool]
        window = f"[{int(board.cuts[i])}, {int(board.cuts[j])})"
        refusals.append(
            f"{level.name} cells of {grade} at {site} in {window}: need {int(need[i])}, have {int(have[i])}"
        )
    return refusals


def _cells_inside(board: Board, outer: Level, inner: Level) -> int:
    """How many cells of the inner level the smallest whole cell of the outer one holds (1 where there is none at
    all).
    """
    if outer == inner:
        return 1
    counts: list[int] = []
    tier = board.tiers[max(outer, Level.NODE)]
    for at in np.flatnonzero(tier.whole).tolist():
        first, end = int(tier.first[at]), int(tier.end[at])
        if inner == Level.GPU:
            counts.append(int(board.size[first:end].sum(dtype=np.int64)))
        else:
            cells = board.tiers[inner].of_node[first:end]
            counts.append(int(cells[-1] - cells[0]) + 1)
    return min(counts, default=1)


def _free_cells(board: Board, level: Level) -> IntArray:
    """(n_slots) int64: whole cells that are usable and not pinned."""
    if level == Level.GPU:
        return np.asarray((board.size[:, None].astype(np.int64) - board.used).sum(axis=0))
    if level == Level.NODE:
        return np.asarray((board.used == 0).sum(axis=0))
    return np.asarray(((board.touched[level] == 0) & board.tiers[level].whole[:, None]).sum(axis=0))


def _runs(failing: npt.NDArray[np.bool_], need: IntArray, have: IntArray) -> list[tuple[int, int]]:
    """The runs `[i, j)` of failing slots with the same need and the same cells to have."""
    runs: list[tuple[int, int]] = []
    for i in np.flatnonzero(failing).tolist():
        if runs and runs[-1][1] == i and need[runs[-1][0]] == need[i] and have[runs[-1][0]] == have[i]:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs
