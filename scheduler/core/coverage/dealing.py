"""From a layout to holdings: which demand gets which of its group's cells, and which GPU of its node each GPU lot gets.

Inside a node, lots are told apart by start: each takes a free GPU, and since no more lots than GPUs ever run at once,
one is always free, unless a pinned holding that starts later stands in the way; then the lot finds no cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Level
from scheduler.core.coverage.board import Board
from scheduler.core.coverage.columns import Columns
from scheduler.core.coverage.packing import Group, Layout, Places
from scheduler.core.holdings import Demand, Holding


class Request(NamedTuple):
    """A group with its demands, by position; `preferred` are the fleet's cells that each would like, by demand."""

    group: Group
    demands: tuple[Demand, ...]
    preferred: tuple[tuple[int, ...], ...]


class _Lot(NamedTuple):
    """One GPU lot on a node. Sorts by start."""

    start_ms: int
    end_ms: int
    position: str
    account: str
    preferred: frozenset[int]
    request: int
    demand: int


Short = dict[tuple[int, int], int]
"""Lots that found no cell, by (request, demand in it)."""


def dealt(
    layout: Layout,
    requests: Sequence[Request],
    pinned: Columns,
    usable: npt.NDArray[np.bool_],
    account_of: Mapping[str, str],
) -> tuple[list[Holding], Short]:
    """The holdings of a layout, and what is left over. An account keeps its cells into the next window where it can."""
    board = layout.board
    holdings: list[Holding] = []
    short: Short = {}
    by_node: dict[int, list[_Lot]] = {}
    last = _last_places(board, requests, pinned, account_of)
    for r in sorted(range(len(requests)), key=lambda r: (requests[r].demands[0].start_ms, r)):
        request = requests[r]
        for d, ats in enumerate(_shared_out(board, request, layout.places[r], last, account_of)):
            demand = request.demands[d]
            account = account_of.get(demand.position, demand.position)
            if len(ats) < demand.lots:
                short[r, d] = demand.lots - len(ats)
            last.setdefault((account, demand.level, demand.end_ms), []).extend(ats)
            if demand.level == Level.GPU:
                preferred = frozenset(request.preferred[d])
                for at in ats:
                    lot = _Lot(demand.start_ms, demand.end_ms, demand.position, account, preferred, r, d)
                    by_node.setdefault(at, []).append(lot)
                continue
            cells = board.tiers[demand.level].cells
            holdings += [_holding(demand.position, demand.level, int(cells[at]), demand) for at in ats]
    taken = _pinned_by_gpu(board, pinned) if by_node else {}
    for node in sorted(by_node):
        for lot, gpu in _told_apart(board, node, by_node[node], taken, usable):
            demand = requests[lot.request].demands[lot.demand]
            if gpu is None:
                short[lot.request, lot.demand] = short.get((lot.request, lot.demand), 0) + 1
            else:
                holdings.append(_holding(demand.position, Level.GPU, gpu, demand))
    return holdings, short


_Last = dict[tuple[str, Level, int], list[int]]
"""Where an account's lots of a level stand until an instant: places in the tier, one for each lot."""


def _last_places(board: Board, requests: Sequence[Request], pinned: Columns, account_of: Mapping[str, str]) -> _Last:
    starts = np.unique(np.array([request.demands[0].start_ms for request in requests], dtype=np.int64))
    last: _Last = {}
    for row in np.flatnonzero(np.isin(pinned.end_ms, starts)).tolist():
        holding = pinned.holdings[row]
        at = board.place_in_tier(holding.level, holding.cell)
        if at >= 0:
            account = account_of.get(holding.position, holding.position)
            last.setdefault((account, holding.level, holding.end_ms), []).append(at)
    return last


def _holding(position: str, level: Level, cell: int, demand: Demand) -> Holding:
    return Holding(position=position, level=level, cell=cell, start_ms=demand.start_ms, end_ms=demand.end_ms)


def _shared_out(
    board: Board, request: Request, places: Places, last: _Last, account_of: Mapping[str, str]
) -> list[list[int]]:
    """For each demand, its places: first those it prefers or its account had just before, then the rest in order."""
    left = dict(sorted(places.items()))
    given: list[list[int]] = [[] for _ in request.demands]
    for d, demand in enumerate(request.demands):
        account = account_of.get(demand.position, demand.position)
        before = last.get((account, demand.level, demand.start_ms), [])
        for at in [*(board.place_in_tier(demand.level, cell) for cell in request.preferred[d]), *before]:
            if len(given[d]) < demand.lots and left.get(at, 0) > 0:
                given[d].append(at)
                left[at] -= 1
    rest = iter([at for at, count in left.items() for _ in range(count)])
    for d, demand in enumerate(request.demands):
        given[d] += itertools.islice(rest, demand.lots - len(given[d]))
        given[d].sort()
    return given


def _pinned_by_gpu(board: Board, pinned: Columns) -> dict[int, list[tuple[int, int]]]:
    """The windows in which pinned holdings take each GPU, of those that matter to this board."""
    inside = np.flatnonzero((pinned.start_ms < board.cuts[-1]) & (pinned.end_ms > board.cuts[0]))
    taken: dict[int, list[tuple[int, int]]] = {}
    for row in inside.tolist():
        window = (int(pinned.start_ms[row]), int(pinned.end_ms[row]))
        for gpu in board.topology.gpus(Level(int(pinned.level[row])), int(pinned.cell[row])).tolist():
            taken.setdefault(gpu, []).append(window)
    return taken


def _told_apart(
    board: Board,
    node: int,
    lots: list[_Lot],
    taken: Mapping[int, list[tuple[int, int]]],
    usable: npt.NDArray[np.bool_],
) -> list[tuple[_Lot, int | None]]:
    """Each lot with its GPU: one it prefers, else the one that fell free last before, so that long gaps stay whole."""
    cell = int(board.tiers[Level.NODE].cells[node])
    gpus = [gpu for gpu in board.topology.gpus(Level.NODE, cell).tolist() if usable[gpu]]
    free_from = dict.fromkeys(gpus, -1)
    account_on: dict[int, str] = {}
    windows = {gpu: taken.get(gpu, []) for gpu in gpus}
    result: list[tuple[_Lot, int | None]] = []
    for lot in sorted(lots):
        free = [
            gpu
            for gpu in gpus
            if free_from[gpu] <= lot.start_ms
            and all(end_ms <= lot.start_ms or start_ms >= lot.end_ms for start_ms, end_ms in windows[gpu])
        ]
        gpu = min(free, key=lambda gpu: _worth(lot, gpu, free_from[gpu], account_on.get(gpu))) if free else None
        if gpu is not None:
            free_from[gpu], account_on[gpu] = lot.end_ms, lot.account
        result.append((lot, gpu))
    return result


def _worth(lot: _Lot, gpu: int, free_from_ms: int, account_before: str | None) -> tuple[bool, bool, int, int]:
    """Sorts a lot's free GPUs, best first."""
    kept = account_before == lot.account and free_from_ms == lot.start_ms
    return gpu not in lot.preferred, not kept, -free_from_ms, gpu
