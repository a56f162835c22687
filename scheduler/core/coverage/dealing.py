"""From a layout to rows of cells: which demand gets which of its group's cells, and which GPU of its node each GPU lot.

Inside a node, lots are told apart by start: each takes a free GPU, and since no more lots than GPUs ever run at once,
one is always free, unless a pinned holding that starts later stands in the way; then the lot finds no cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.apart import tell_apart
from scheduler.core.coverage.board import Board, Mask
from scheduler.core.coverage.columns import Columns
from scheduler.core.coverage.handover import Split
from scheduler.core.coverage.packing import Groups, Layout
from scheduler.core.holdings import Demand


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """The demands of one pool as groups. Demands are named by their place in `demands`."""

    demands: Sequence[Demand]
    groups: Groups
    members: tuple[tuple[int, ...], ...]
    """By group: its demands, in order."""
    preferred: Mapping[int, tuple[int, ...]]
    """By demand: the fleet's cells that it would like."""


class Rows(NamedTuple):
    """Which cell which demand gets, and when: (n_rows) int64 each."""

    demand: IntArray
    cell: IntArray
    start_ms: IntArray
    end_ms: IntArray
    lot: IntArray
    """Pieces of one lot share it."""


class _Standing(NamedTuple):
    """`Rows` before GPUs are told apart: `place` is the flat cell."""

    demand: IntArray
    place: IntArray
    start_ms: IntArray
    end_ms: IntArray
    lot: IntArray


def dealt(
    board: Board,
    request: Request,
    layout: Layout,
    splits: Sequence[Split],
    pinned: Columns,
    usable: Mask,
    account_of: Mapping[str, str],
) -> Rows:
    """The rows of a layout. An account keeps its cells into the next window where it can. A lot that no GPU of its node
    can take has no row, nor any of its pieces.
    """
    standing = _standing(board, request, layout, splits, _last_places(board, request, pinned, account_of), account_of)
    level = np.array([demand.level for demand in request.demands], dtype=np.int64)[standing.demand]
    cell = board.cell_number[standing.place]
    single = np.flatnonzero(level == Level.GPU)
    if len(single):
        lots = _Standing(*(column[single] for column in standing))
        cell[single] = _told_apart(board, request, lots, pinned, usable, account_of)
    lost = np.unique(standing.lot[cell < 0])
    kept = ~np.isin(standing.lot, lost)
    return Rows(standing.demand[kept], cell[kept], standing.start_ms[kept], standing.end_ms[kept], standing.lot[kept])


_Last = dict[tuple[str, Level, int], list[IntArray]]
"""Where an account's lots of a level stand until an instant: places, one for each lot."""


def _last_places(board: Board, request: Request, pinned: Columns, account_of: Mapping[str, str]) -> _Last:
    starts = np.unique(np.array([demand.start_ms for demand in request.demands], dtype=np.int64))
    last: _Last = {}
    for row in np.flatnonzero(np.isin(pinned.end_ms, starts)).tolist():
        holding = pinned.holdings[row]
        places = board.places(holding.level, [holding.cell])
        if places[0] >= 0:
            account = account_of.get(holding.position, holding.position)
            last.setdefault((account, holding.level, holding.end_ms), []).append(places)
    return last


def _standing(
    board: Board,
    request: Request,
    layout: Layout,
    splits: Sequence[Split],
    last: _Last,
    account_of: Mapping[str, str],
) -> _Standing:
    """Each lot with its demand: group by group, by start, so that an account's earlier windows are known."""
    groups, rows = request.groups, layout.rows
    first = np.searchsorted(rows[:, 0], np.arange(len(groups.lots) + 1))
    split_by_group: dict[int, list[Split]] = {}
    for split in splits:
        split_by_group.setdefault(split.group, []).append(split)
    starts = {(request.demands[d].start_ms) for d in range(len(request.demands))}
    owners: list[IntArray] = []
    places: list[IntArray] = []
    pieces: list[tuple[int, int, int, int, int]] = []
    for g in np.lexsort((np.arange(len(groups.lots)), groups.i)).tolist():
        here = rows[first[g] : first[g + 1]]
        given = _shared_out(board, request, g, np.repeat(here[:, 1], here[:, 2]), last, account_of)
        for d, mine in zip(request.members[g], given, strict=True):
            demand = request.demands[d]
            owners.append(np.full(len(mine), d, dtype=np.int64))
            places.append(mine)
            if demand.end_ms in starts:
                account = account_of.get(demand.position, demand.position)
                last.setdefault((account, demand.level, demand.end_ms), []).append(mine)
        missing = [d for d, mine in zip(request.members[g], given, strict=True) for _ in range(_lots(request, d, mine))]
        for d, split in zip(missing, split_by_group.get(g, ()), strict=False):
            pieces += [(d, piece.cell, piece.i, piece.j, -1 - split.number) for piece in split.pieces]
    owner, place = np.concatenate([*owners, np.zeros(0, np.int64)]), np.concatenate([*places, np.zeros(0, np.int64)])
    window = np.array([(d.start_ms, d.end_ms) for d in request.demands], dtype=np.int64).reshape(-1, 2)
    extra = np.array(pieces, dtype=np.int64).reshape(-1, 5)
    return _Standing(
        np.concatenate((owner, extra[:, 0])),
        np.concatenate((place, extra[:, 1])),
        np.concatenate((window[owner, 0], board.cuts[extra[:, 2]])),
        np.concatenate((window[owner, 1], board.cuts[extra[:, 3]])),
        np.concatenate((np.arange(len(owner)), extra[:, 4])),
    )


def _lots(request: Request, demand: int, given: IntArray) -> int:
    return request.demands[demand].lots - len(given)


def _shared_out(
    board: Board, request: Request, g: int, places: IntArray, last: _Last, account_of: Mapping[str, str]
) -> list[IntArray]:
    """For each demand of a group, its places: first those it prefers or its account had just before, then the rest in
    order.
    """
    members = request.members[g]
    wishes = {d: wish for d in members if len(wish := _wishes(board, request, d, last, account_of))}
    left = Counter(places.tolist()) if wishes else Counter()
    own: dict[int, list[int]] = {}
    for d, wish in wishes.items():
        taken: list[int] = []
        for at in wish.tolist():
            if len(taken) < request.demands[d].lots and left[at] > 0:
                taken.append(at)
                left[at] -= 1
        own[d] = taken
    rest = np.array(sorted(left.elements()), dtype=np.int64) if wishes else places
    given: list[IntArray] = []
    at = 0
    for d in members:
        mine = own.get(d, [])
        more = rest[at : at + request.demands[d].lots - len(mine)]
        at += len(more)
        given.append(np.sort(np.concatenate((np.array(mine, dtype=np.int64), more))) if mine else more)
    return given


def _wishes(board: Board, request: Request, d: int, last: _Last, account_of: Mapping[str, str]) -> IntArray:
    demand = request.demands[d]
    account = account_of.get(demand.position, demand.position)
    liked = request.preferred.get(d)
    return np.concatenate(
        [
            np.zeros(0, dtype=np.int64),
            *([board.places(demand.level, liked)] if liked else []),
            *last.get((account, demand.level, demand.start_ms), []),
        ]
    )


# -- inside a node


def _told_apart(
    board: Board,
    request: Request,
    lots: _Standing,
    pinned: Columns,
    usable: Mask,
    account_of: Mapping[str, str],
) -> IntArray:
    """The fleet's number of each lot's GPU, -1 for none: one it prefers, else its account's from just before, else the
    one that fell free last before, so that long gaps stay whole.
    """
    codes: dict[str, int] = {}
    accounts = [codes.setdefault(account_of.get(d.position, d.position), len(codes)) for d in request.demands]
    sequence = np.lexsort((lots.demand, lots.end_ms, lots.start_ms, lots.place))
    gpu = np.empty(len(sequence), dtype=np.int64)
    tell_apart.at(len(sequence) * 20)(
        board.nest.first_row,
        usable[board.gpu_number],
        sequence,
        (lots.place, lots.start_ms, lots.end_ms, lots.demand),
        np.array(accounts, dtype=np.int64),
        _liked_gpus(board, request),
        _pinned_windows(board, pinned),
        gpu,
    )
    return np.where(gpu >= 0, board.gpu_number[gpu], -1)


def _liked_gpus(board: Board, request: Request) -> tuple[IntArray, IntArray]:
    """(rows, (n_demands + 1) where each demand's begin): the GPUs that demands would like."""
    row_of = {number: row for row, number in enumerate(board.gpu_number.tolist())} if request.preferred else {}
    rows: list[int] = []
    first = [0]
    for d, demand in enumerate(request.demands):
        if demand.level == Level.GPU:
            rows += [row_of[cell] for cell in request.preferred.get(d, ()) if cell in row_of]
        first.append(len(rows))
    return np.array(rows, dtype=np.int64), np.array(first, dtype=np.int64)


def _pinned_windows(board: Board, pinned: Columns) -> tuple[IntArray, IntArray, IntArray]:
    """(starts, ends, (n_gpus + 1) where each GPU's begin): when pinned holdings take each GPU, as far as it matters."""
    row_of = np.full(len(board.topology.gpu_at), -1, dtype=np.int64)
    row_of[board.topology.rank_of_gpu[board.gpu_number]] = np.arange(len(board.gpu_number))
    inside = (pinned.start_ms < board.cuts[-1]) & (pinned.end_ms > board.cuts[0])
    rows, holdings = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for level in Level:
        theirs = np.flatnonzero(inside & (pinned.level == level))
        which, ranks = board.topology.spread(level, pinned.cell[theirs])
        here = row_of[ranks] >= 0
        rows.append(row_of[ranks[here]])
        holdings.append(theirs[which[here]])
    row, holding = np.concatenate(rows), np.concatenate(holdings)
    by_row = np.argsort(row, kind="stable")
    first = np.searchsorted(row[by_row], np.arange(len(board.gpu_number) + 1))
    return pinned.start_ms[holding[by_row]], pinned.end_ms[holding[by_row]], first
