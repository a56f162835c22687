"""Mending by swapped tails: a lot stays on one cell because the cell's future trades places with an equal cell's.

A lot that is free to stand on cell A until some instant, and on an equal cell B from then on, needs no handover where
what comes on A and on B trades places at that instant: nothing else runs across it on either. The trade lasts until an
instant that nothing on either runs across, before any lot of a higher level lies over one of them. For lots of a single
level this alone places all that pass by count (it is interval-graph colouring by exchange); for nested levels it places
most of what ejection leaves. No lot is ever pushed out. Cells are ranges of GPU rows here, a GPU lot has its own row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.kernels import kernel

Int64s = npt.NDArray[np.int64]

LATEST = 1 << 60
"""After every slot."""
STARTS_TRIED = 8
"""How many cells are tried to begin on."""
PARTNERS_TRIED = 6
"""How many cells are looked at for each trade."""
TRADES_MOST = 24
"""How many trades one lot may take."""


class Standing(NamedTuple):
    """Lots as rectangles: (n_lots) int64 each. Rows `[first, end)`, first -1 without a cell; slots `[i, j)`."""

    first: Int64s
    end: Int64s
    i: Int64s
    j: Int64s


class Cells(NamedTuple):
    """All cells of one level as rows. `shape`: equal where cells may trade; -1 for a cell that cannot be given."""

    first: Int64s
    end: Int64s
    shape: Int64s


@kernel
def free_until(lots: Standing, cells: Cells, at: int, until: Int64s, rows: Int64s) -> None:
    """Fills `until`, (n_cells): up to which slot each cell is free from `at` on; `at` where it is not.

    `rows`, (n_rows), is scratch.
    """
    rows[:] = LATEST
    for lot in range(len(lots.first)):
        if lots.first[lot] >= 0 and lots.j[lot] > at:
            start = max(at, lots.i[lot])
            for row in range(lots.first[lot], lots.end[lot]):
                rows[row] = min(rows[row], start)
    for cell in range(len(cells.first)):
        until[cell] = rows[cells.first[cell] : cells.end[cell]].min() if cells.shape[cell] >= 0 else at


@kernel
def trade_until(lots: Standing, cells: Cells, left: int, right: int, at: int, wanted: int, near: Int64s) -> int:
    """Until when two cells may trade what comes from `at` on: the first such slot from `wanted` on, else the last one
    before; -1 where they may not.
    """
    a, b, c, d = cells.first[left], cells.end[left], cells.first[right], cells.end[right]
    limit = LATEST
    n = 0
    for lot in range(len(lots.first)):
        first, end = lots.first[lot], lots.end[lot]
        if first < 0 or lots.j[lot] <= at or not ((first < b and end > a) or (first < d and end > c)):
            continue
        inside = (first >= a and end <= b) or (first >= c and end <= d)
        if lots.i[lot] < at or (not inside and lots.i[lot] == at):
            return -1
        if inside:
            near[n] = lot
            n += 1
        else:
            limit = min(limit, lots.i[lot])
    until = settled(lots, near, n, wanted, 1)
    if until > limit:
        until = settled(lots, near, n, limit, 0)
    return until if until > at else -1


@kernel
def settled(lots: Standing, near: Int64s, n: int, until: int, later: int) -> int:
    """The next slot, later or earlier, that none of these lots runs across."""
    moving = True
    while moving:
        moving = False
        for k in range(n):
            if lots.i[near[k]] < until < lots.j[near[k]]:
                until = lots.j[near[k]] if later == 1 else lots.i[near[k]]
                moving = True
    return until


@kernel
def trade(lots: Standing, cells: Cells, left: int, right: int, at: int, until: int) -> None:
    """What starts on either cell in the slots `[at, until)` trades places. Doing it twice changes nothing."""
    shift = cells.first[right] - cells.first[left]
    for lot in range(len(lots.first)):
        if lots.first[lot] >= 0 and at <= lots.i[lot] < until:
            if lots.first[lot] >= cells.first[left] and lots.end[lot] <= cells.end[left]:
                lots.first[lot] += shift
                lots.end[lot] += shift
            elif lots.first[lot] >= cells.first[right] and lots.end[lot] <= cells.end[right]:
                lots.first[lot] -= shift
                lots.end[lot] -= shift


@kernel
def threaded(lots: Standing, cells: Cells, lot: int, n_rows: int, near: Int64s) -> tuple[int, int]:
    """(1 where the lot stands now, else 0 and nothing has changed; passes over all lots that it took)."""
    i, j = lots.i[lot], lots.j[lot]
    rows = np.empty(n_rows, dtype=np.int64)
    begin, until = np.empty(len(cells.first), dtype=np.int64), np.empty(len(cells.first), dtype=np.int64)
    trades = np.empty((TRADES_MOST, 3), dtype=np.int64)
    free_until(lots, cells, i, begin, rows)
    passes = 1
    for cell in np.argsort(-begin, kind="mergesort")[:STARTS_TRIED]:
        at = begin[cell]
        if at <= i:
            break
        n = 0
        while i < at < j and n < TRADES_MOST:
            free_until(lots, cells, at, until, rows)
            partner, last, took = best_trade(lots, cells, cell, at, until, near)
            passes += took + 2
            if partner < 0:
                break
            trade(lots, cells, cell, partner, at, last)
            trades[n, 0], trades[n, 1], trades[n, 2] = partner, at, last
            n += 1
            at = min(last, until[partner])
        if at >= j:
            lots.first[lot], lots.end[lot] = cells.first[cell], cells.end[cell]
            return 1, passes
        for k in range(n - 1, -1, -1):
            trade(lots, cells, cell, trades[k, 0], trades[k, 1], trades[k, 2])
    return 0, passes


@kernel
def best_trade(lots: Standing, cells: Cells, cell: int, at: int, until: Int64s, near: Int64s) -> tuple[int, int, int]:
    """(partner, until when, passes): the trade at `at` that gives the cell the longest free stretch; partner -1 where
    there is none.
    """
    best, best_until, gained, looked = -1, at, at, 0
    for partner in np.argsort(-until, kind="mergesort"):
        if looked == PARTNERS_TRIED or until[partner] <= gained:
            break
        if partner == cell or cells.shape[partner] != cells.shape[cell]:
            continue
        looked += 1
        last = trade_until(lots, cells, cell, partner, at, until[partner], near)
        if last > at and min(last, until[partner]) > gained:
            best, best_until, gained = partner, last, min(last, until[partner])
    return best, best_until, looked


@kernel
def mend(lots: Standing, cells: Cells, waiting: Int64s, n_rows: int, passes: int) -> int:
    """Places as many of the waiting lots of one level as can be, in order, with at most about so many passes over all
    lots; gives the passes that are left.
    """
    near = np.empty(len(lots.first), dtype=np.int64)
    for lot in waiting:
        if passes <= 0:
            break
        _, took = threaded(lots, cells, lot, n_rows, near)
        passes -= took
    return passes


@kernel
def join(lots: Standing, cells: Cells, before: Int64s, after: Int64s, passes: int) -> int:
    """How many pairs of pieces, one following the other, came to stand on one cell by trades between their cells."""
    near = np.empty(len(lots.first), dtype=np.int64)
    joined = 0
    moving = True
    while moving and passes > 0:
        moving = False
        for k in range(len(before)):
            one, other = before[k], after[k]
            if lots.first[one] == lots.first[other] or passes <= 0:
                continue
            left = np.searchsorted(cells.first, lots.first[one])
            right = np.searchsorted(cells.first, lots.first[other])
            passes -= 1
            if cells.shape[left] != cells.shape[right]:
                continue
            until = trade_until(lots, cells, left, right, lots.i[other], lots.j[other], near)
            if until >= lots.j[other]:
                trade(lots, cells, left, right, lots.i[other], until)
                joined += 1
                moving = True
                passes -= 1
    return joined
