"""Which cells stand behind which position, over the whole calendar: demands in, holdings out; and admission by count.

All windows are known in advance, so the whole calendar is planned at once: groups of equal lots, longest first, each
where it newly breaks the fewest hours of the blocks, domains and nodes above; then repair by guided ejection for what
is left; then, where the caller asks for them, planned handovers. Laws: pinned holdings never move, no GPU is given
twice, the same input gives the same holdings, and lots of one level that are admissible by count at every instant are
all placed when what is pinned is in force from the first window on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.board import Board, board_of
from scheduler.core.coverage.columns import Holdings, columns_of, order
from scheduler.core.coverage.dealing import Request, dealt
from scheduler.core.coverage.handover import fewest_handovers
from scheduler.core.coverage.packing import ORDERS, Groups, Order
from scheduler.core.coverage.planning import ROUNDS, TURN_LOTS, planned
from scheduler.core.errors import InvalidValue
from scheduler.core.holdings import Demand, Holding

Usable = npt.NDArray[np.bool_]


class Handover(NamedTuple):
    """A lot of a position goes from one cell to another at an instant."""

    position: str
    at_ms: int
    level: Level
    from_cell: int
    to_cell: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """New holdings, sorted; what found no cell: each demand with the lots that are left of it; and the handovers in the
    holdings, by position, where they were allowed.
    """

    holdings: tuple[Holding, ...]
    unplaced: tuple[Demand, ...]
    handovers: tuple[Handover, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An assignment as columns, for calendars of a million lots: (n_rows) int64 each, by demand and start.

    Rows with one `lot` are the pieces of one lot, which is handed over from each to the next.
    """

    demands: tuple[Demand, ...]
    """Those that were asked for, sorted."""
    demand: IntArray
    """The row's demand, by its place in `demands`."""
    cell: IntArray
    """The fleet's number of the cell, at the demand's level."""
    start_ms: IntArray
    end_ms: IntArray
    lot: IntArray
    left: IntArray
    """(n_demands): lots that found no cell."""

    def __len__(self) -> int:
        return len(self.demand)

    def assignment(self) -> Assignment:
        """The same as values."""
        names = [(demand.position, demand.level) for demand in self.demands]
        columns = (self.demand.tolist(), self.cell.tolist(), self.start_ms.tolist(), self.end_ms.tolist())
        holdings = [
            Holding(position=names[d][0], level=names[d][1], cell=cell, start_ms=start_ms, end_ms=end_ms)
            for d, cell, start_ms, end_ms in zip(*columns, strict=True)
        ]
        unplaced = [self.demands[d]._replace(lots=int(self.left[d])) for d in np.flatnonzero(self.left).tolist()]
        return Assignment(tuple(sorted(holdings, key=order)), tuple(sorted(unplaced)), self.handovers())

    def handovers(self) -> tuple[Handover, ...]:
        """Where one piece of a lot follows another, by position and instant."""
        by_lot = np.lexsort((self.start_ms, self.lot))
        pairs = np.flatnonzero(self.lot[by_lot[1:]] == self.lot[by_lot[:-1]])
        found: list[Handover] = []
        for before, after in zip(by_lot[pairs].tolist(), by_lot[pairs + 1].tolist(), strict=True):
            demand = self.demands[int(self.demand[before])]
            cells = int(self.cell[before]), int(self.cell[after])
            found.append(Handover(demand.position, int(self.start_ms[after]), demand.level, *cells))
        return tuple(sorted(found))


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
    handovers: bool = False,
    quick: bool = False,
) -> Assignment:
    """Cells for all lots of all demands, as far as they go; all-or-nothing per position is the caller's (see
    `replace.cover`).

    `pinned` occupy their cells and never move. `usable` is (n_gpus) bool: cells with an unusable GPU are not given
    (None: all are usable). `prefer` holds cells that a demand of the same position and level takes first where they are
    free. `account_of` (account by position; missing: the position itself) lets an account keep its cells from one
    window to the next where that costs nothing. `rounds` bounds the repair of each try, `orders` are tried until
    nothing is left. `handovers`: whether a lot that no cell can take throughout may be split in time between several.
    `quick`: whether thousands of lots of which not all fit are to take about a second, not many, and leave out more
    (see `planning.TURN_LOTS`).
    Raises InvalidValue on a demand that no fleet could mean, Conflict where the pinned contradict themselves.
    """
    return plan(
        fleet,
        demands,
        pinned=pinned,
        usable=usable,
        prefer=prefer,
        account_of=account_of,
        rounds=rounds,
        orders=orders,
        handovers=handovers,
        quick=quick,
    ).assignment()


def plan(
    fleet: Fleet,
    demands: Sequence[Demand],
    *,
    pinned: Holdings = (),
    usable: Usable | None = None,
    prefer: Sequence[Holding] = (),
    account_of: Mapping[str, str] | None = None,
    rounds: int = ROUNDS,
    orders: Sequence[Order] = ORDERS,
    handovers: bool = False,
    quick: bool = False,
) -> Plan:
    """`assign`, as columns."""
    _check_demands(fleet, demands)
    mask = all_usable(fleet) if usable is None else usable
    columns = columns_of(pinned)
    asked = tuple(sorted(demands))
    liked = _liked(prefer)
    parts = [np.zeros((5, 0), dtype=np.int64)]
    n_lots = 0
    for pool in sorted({demand.pool for demand in asked}):
        mine = [k for k, demand in enumerate(asked) if demand.pool == pool and demand.lots]
        theirs = [asked[k] for k in mine]
        board = board_of(fleet, pool, theirs, columns, mask)
        request = _request(board, theirs, liked)
        turn_lots = TURN_LOTS if quick else None
        layouts = planned(board, request.groups, rounds, orders, turn_lots=turn_lots)
        layout, splits = fewest_handovers(board, request.groups, layouts) if handovers else (layouts[0], ())
        rows = dealt(board, request, layout, splits, columns, mask, account_of or {})
        numbers = np.unique(rows.lot, return_inverse=True)[1] + n_lots
        n_lots += len(numbers)
        owner = np.array(mine, dtype=np.int64)[rows.demand]
        parts.append(np.stack((owner, rows.cell, rows.start_ms, rows.end_ms, numbers)))
    demand, cell, start_ms, end_ms, lot = np.concatenate(parts, axis=1)
    first = np.unique(lot, return_index=True)[1]
    left = np.array([each.lots for each in asked], dtype=np.int64)
    left -= np.bincount(demand[first], minlength=len(asked))
    by_demand = np.lexsort((cell, start_ms, demand))
    return Plan(asked, demand[by_demand], cell[by_demand], start_ms[by_demand], end_ms[by_demand], lot[by_demand], left)


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


def _liked(prefer: Sequence[Holding]) -> dict[tuple[str, Level], tuple[int, ...]]:
    """The cells that each position would like at each level, each once."""
    liked: dict[tuple[str, Level], dict[int, None]] = {}
    for holding in sorted(prefer, key=order):
        liked.setdefault((holding.position, holding.level), {})[holding.cell] = None
    return {key: tuple(cells) for key, cells in liked.items()}


def _request(board: Board, demands: Sequence[Demand], liked: Mapping[tuple[str, Level], tuple[int, ...]]) -> Request:
    """The demands of one pool as groups of one level and window."""
    members: dict[tuple[int, int, int], list[int]] = {}
    for d, demand in enumerate(demands):
        members.setdefault((demand.level, demand.start_ms, demand.end_ms), []).append(d)
    keys = sorted(members)
    preferred = {
        d: liked[demand.position, demand.level]
        for d, demand in enumerate(demands)
        if (demand.position, demand.level) in liked
    }
    places: list[int] = []
    first = [0]
    for key in keys:
        for d in members[key]:
            if d in preferred:
                at = board.places(Level(key[0]), preferred[d][: demands[d].lots])
                places += at[at >= 0].tolist()
        first.append(len(places))
    level, start_ms, end_ms = np.array(keys, dtype=np.int64).reshape(-1, 3).T
    groups = Groups(
        level=np.ascontiguousarray(level),
        i=np.searchsorted(board.cuts, start_ms),
        j=np.searchsorted(board.cuts, end_ms),
        lots=np.array([sum(demands[d].lots for d in members[key]) for key in keys], dtype=np.int64),
        liked=np.array(places, dtype=np.int64),
        liked_first=np.array(first, dtype=np.int64),
    )
    return Request(demands, groups, tuple(tuple(members[key]) for key in keys), preferred)


def _count_refusals(fleet: Fleet, board: Board, level: Level, wanted: Sequence[Demand]) -> list[str]:
    need = np.zeros(len(board.nest.length), dtype=np.int64)
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
    nest = board.nest
    counts: list[int] = []
    for cell in range(nest.offset[outer], nest.offset[outer + 1]):
        if nest.whole[cell]:
            first, end = int(nest.first[cell]), int(nest.end[cell])
            inside = nest.above[inner, end - 1] - nest.above[inner, first] + 1
            counts.append(int(nest.gpus[cell] if inner == Level.GPU else inside))
    return min(counts, default=1)


def _free_cells(board: Board, level: Level) -> IntArray:
    """(n_slots) int64: whole cells that are usable and not pinned."""
    nest, base = board.nest, board.base
    if level == Level.GPU:
        return np.asarray((nest.size[:, None] - base.used).sum(axis=0))
    if level == Level.NODE:
        return np.asarray((base.used == 0).sum(axis=0))
    cells = np.arange(nest.offset[level], nest.offset[level + 1])
    return np.asarray(((base.held[cells - board.n_nodes] == 0) & nest.whole[cells, None]).sum(axis=0))


def _runs(failing: npt.NDArray[np.bool_], need: IntArray, have: IntArray) -> list[tuple[int, int]]:
    """The runs `[i, j)` of failing slots with the same need and the same cells to have."""
    runs: list[tuple[int, int]] = []
    for i in np.flatnonzero(failing).tolist():
        if runs and runs[-1][1] == i and need[runs[-1][0]] == need[i] and have[runs[-1][0]] == have[i]:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs
