"""Groups of equal lots onto the cells of a board, in some order, each where it breaks least; and guided ejection.

Lots of one level and window are interchangeable, so they are placed as a group with a count; in the repair every lot
stands by itself. The order by level and start with first fit is interval-graph colouring: for lots of one level it
succeeds whenever any plan does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.board import Board
from scheduler.core.coverage.nest import Lots, Spans, Taken
from scheduler.core.coverage.search import eject, fill, put_rows

WEIGHT_SCALE = 1_000
"""Roots of GPU-milliseconds keep three decimals."""


class Groups(NamedTuple):
    """Lots of one level and window, as columns: (n_groups) int64 each but `liked`."""

    level: IntArray
    i: IntArray
    j: IntArray
    lots: IntArray
    liked: IntArray
    """Places that are taken first where they are free, each once for every time it is named, group by group."""
    liked_first: IntArray
    """(n_groups + 1): where each group's begin."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where lots stand. `rows`: (group, cell, lots), sorted; a group may name a cell once only."""

    taken: Taken
    rows: IntArray

    def short(self, groups: Groups) -> IntArray:
        """(n_groups): how many lots of each group found no cell."""
        got = np.zeros(len(groups.lots), dtype=np.int64)
        np.add.at(got, self.rows[:, 0], self.rows[:, 2])
        return groups.lots - got


class Order(NamedTuple):
    """A way through the groups: the keys that sort them, and whether a lot goes to the first fit or breaks least."""

    keys: Callable[[Board, Groups], tuple[IntArray, ...]]
    first_fit: bool


def length_ms(board: Board, groups: Groups) -> IntArray:
    """(n_groups): how long each group's window lasts."""
    return board.cuts[groups.j] - board.cuts[groups.i]


def gpu_ms(board: Board, groups: Groups) -> IntArray:
    """(n_groups): what one lot of each group is."""
    gpus = np.array([board.lot_gpus(level) for level in Level], dtype=np.int64)
    return length_ms(board, groups) * gpus[groups.level]


def _longest_first(board: Board, groups: Groups) -> tuple[IntArray, ...]:
    return -length_ms(board, groups), -groups.level, groups.i


def _largest_by_start(_: Board, groups: Groups) -> tuple[IntArray, ...]:
    return -groups.level, groups.i, -groups.j


def _by_start(_: Board, groups: Groups) -> tuple[IntArray, ...]:
    return groups.i, -groups.level, -groups.j


def _most_gpu_hours_first(board: Board, groups: Groups) -> tuple[IntArray, ...]:
    return -gpu_ms(board, groups), -groups.level, groups.i


BY_LEVEL_AND_START = Order(_largest_by_start, first_fit=True)
BY_START = Order(_by_start, first_fit=True)
ORDERS = (
    Order(_longest_first, first_fit=False),
    BY_LEVEL_AND_START,
    Order(_most_gpu_hours_first, first_fit=False),
    Order(_largest_by_start, first_fit=False),
    BY_START,
)


def filled(board: Board, groups: Groups, order: Order) -> Layout:
    """All groups placed in the given order, as far as they fit."""
    taken = board.fresh()
    n = int(groups.lots.sum())
    rows = np.zeros((n, 3), dtype=np.int64)
    keys = order.keys(board, groups)
    sequence = np.lexsort((np.arange(len(groups.lots)), *reversed(keys)))
    steps = len(groups.lots) * board.n_nodes * 10
    count = fill.at(steps)(
        board.nest,
        taken,
        (groups.level, groups.i, groups.j, groups.lots),
        sequence,
        (groups.liked, groups.liked_first),
        int(order.first_fit),
        rows,
    )
    return Layout(taken, gathered(rows[:count]))


def repaired(board: Board, layout: Layout, groups: Groups, rounds: int, root: int) -> Layout:
    """A layout at least as good, after so many rounds of guided ejection or once nothing is left."""
    if not layout.short(groups).any():
        return layout
    of, lots = lots_of(board, layout, groups, root)
    taken = Taken(layout.taken.used.copy(), layout.taken.held.copy())
    best = np.empty(len(of), dtype=np.int64)
    steps = rounds * board.n_nodes * 100
    eject.at(steps)(board.nest, board.base, taken, lots, _spans_of(lots), rounds, best)
    return laid_out(board, groups, of, best)


def laid_out(board: Board, groups: Groups, of: IntArray, cell: IntArray) -> Layout:
    """The layout of lots, each with its group and its cell or -1."""
    stand = cell >= 0
    rows = gathered(np.stack((of[stand], cell[stand], np.ones(int(stand.sum()), dtype=np.int64)), axis=1))
    fresh = board.fresh()
    put_rows.at(len(rows) * 100)(board.nest, fresh, groups.level, groups.i, groups.j, rows)
    return Layout(fresh, rows)


def weight_of(board: Board, groups: Groups, root: int = 3) -> IntArray:
    """(n_groups): what leaving one lot out counts, a root of its GPU-milliseconds: between counting lots, which gives
    up the large ones, and counting GPU-hours, which gives up many small ones.
    """
    return np.array([_root(each, root) for each in gpu_ms(board, groups).tolist()], dtype=np.int64)


def gathered(rows: IntArray) -> IntArray:
    """Rows (group, cell, lots) sorted, with those of one group and cell added up."""
    if not len(rows):
        return rows.reshape(-1, 3)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    starts = np.flatnonzero(np.any(np.diff(rows[:, :2], axis=0, prepend=-1) != 0, axis=1))
    return np.stack((rows[starts, 0], rows[starts, 1], np.add.reduceat(rows[:, 2], starts)), axis=1)


def lots_of(board: Board, layout: Layout, groups: Groups, root: int) -> tuple[IntArray, Lots]:
    """(group of each lot, the lots), by group, placed ones first."""
    short = layout.short(groups)
    of = np.concatenate((np.repeat(layout.rows[:, 0], layout.rows[:, 2]), np.repeat(np.arange(len(short)), short)))
    cell = np.concatenate(
        (np.repeat(layout.rows[:, 1], layout.rows[:, 2]), np.full(int(short.sum()), -1, dtype=np.int64))
    )
    by_group = np.argsort(of, kind="stable")
    of, cell = of[by_group], cell[by_group]
    weight = weight_of(board, groups, root)
    return of, Lots(groups.level[of], groups.i[of], groups.j[of], cell, weight[of])


def _spans_of(lots: Lots) -> Spans:
    """The index by time: classes of doubling length, by start inside."""
    length = lots.j - lots.i
    highest = int(length.max()).bit_length()
    longest = 2 ** np.arange(1, highest + 1, dtype=np.int64) - 1
    of_class = np.searchsorted(longest, length)
    by_class = np.lexsort((lots.i, of_class))
    first = np.searchsorted(of_class[by_class], np.arange(highest + 1))
    return Spans(by_class, lots.i[by_class], first, longest)


@lru_cache(maxsize=65_536)
def _root(number: int, degree: int) -> int:
    """The integer root of `number`, times WEIGHT_SCALE, rounded down; at least 1."""
    scaled = number * WEIGHT_SCALE**degree
    if degree == 4:
        return max(1, math.isqrt(math.isqrt(scaled)))
    low, high = 1, 1 << (scaled.bit_length() // degree + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= scaled else (low, middle)
    return low
