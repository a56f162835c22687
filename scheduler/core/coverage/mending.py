"""Mending a layout by swapped tails (see `mend`): lots that are left find a cell, pieces of one lot grow together."""

from __future__ import annotations

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.apart import tell_apart
from scheduler.core.coverage.board import Board
from scheduler.core.coverage.mend import Cells, Standing, join, mend
from scheduler.core.coverage.nest import Lots
from scheduler.core.coverage.packing import Groups, Layout, laid_out, lots_of

MEND_LOTS = 1_000_000_000
"""Passes of mending × lots at most."""


def mended(board: Board, layout: Layout, groups: Groups) -> Layout:
    """A layout at least as good, by swapped tails; the same where something is pinned, which cannot trade."""
    short = layout.short(groups)
    if not short.any() or board.base.used.any():
        return layout
    of, lots = lots_of(board, layout, groups, 3)
    standing = standing_of(board, lots)
    n_rows = int(board.nest.first_row[-1])
    passes = MEND_LOTS // len(of)
    waiting = np.flatnonzero(standing.first < 0)
    waiting = waiting[np.argsort(-lots.weight[waiting], kind="stable")]
    for level in sorted(set(groups.level[np.flatnonzero(short)].tolist()), reverse=True):
        mine = waiting[lots.level[waiting] == level]
        passes = mend.at(len(of) * 10_000)(standing, cells_of(board, level), mine, n_rows, passes)
    return laid_out(board, groups, of, cells_under(board, standing, lots.level))


def cells_under(board: Board, standing: Standing, level: IntArray) -> IntArray:
    """(n_lots): the flat cell of each lot (the node of a GPU lot), -1 without one."""
    node = np.searchsorted(board.nest.first_row, standing.first, side="right") - 1
    return np.where(standing.first >= 0, board.nest.above[level, node], -1)


def standing_of(board: Board, lots: Lots) -> Standing:
    """Lots on rows of GPUs, those on single GPUs told apart."""
    nest = board.nest
    placed = lots.cell >= 0
    first = np.where(placed, nest.first_row[nest.first[lots.cell]], -1)
    end = np.where(placed, nest.first_row[nest.end[lots.cell]], -1)
    single = np.flatnonzero(placed & (lots.level == Level.GPU))
    if len(single):
        node, i, j = lots.cell[single], lots.i[single], lots.j[single]
        n_rows = int(nest.first_row[-1])
        nobody, none = np.zeros(len(single), dtype=np.int64), np.zeros(0, dtype=np.int64)
        row = np.empty(len(single), dtype=np.int64)
        tell_apart.at(len(single) * 20)(
            nest.first_row,
            np.ones(n_rows, dtype=np.bool_),
            np.lexsort((j, i, node)),
            (node, i, j, nobody),
            nobody,
            (none, np.zeros(2, dtype=np.int64)),
            (none, none, np.zeros(n_rows + 1, dtype=np.int64)),
            row,
        )
        first[single], end[single] = row, row + 1
    return Standing(first, end, lots.i, lots.j)


def cells_of(board: Board, level: int) -> Cells:
    """The cells of a level as rows; equal shapes have the same sizes of cells inside, in order."""
    nest = board.nest
    if level == Level.GPU:
        rows = np.arange(int(nest.first_row[-1]))
        return Cells(rows, rows + 1, np.zeros(len(rows), dtype=np.int64))
    cells = np.arange(nest.offset[level], nest.offset[level + 1])
    known: dict[bytes, int] = {}
    shape: list[int] = []
    for cell in cells.tolist():
        first, end = int(nest.first[cell]), int(nest.end[cell])
        inside = nest.size[first:end], *(np.diff(nest.above[below, first:end]) for below in range(2, level))
        sizes = b"|".join(each.tobytes() for each in inside)
        shape.append(known.setdefault(sizes, len(known)) if nest.whole[cell] else -1)
    return Cells(nest.first_row[nest.first[cells]], nest.first_row[nest.end[cells]], np.array(shape, dtype=np.int64))


def grown_together(board: Board, lots: Lots, before: IntArray, after: IntArray) -> tuple[IntArray, int]:
    """(the flat cell of each lot, handovers that are gone): pieces of one lot on one cell where trades allow it.

    `before[k]` and `after[k]`: two pieces of one lot, one following the other. Not where something is pinned.
    """
    if board.base.used.any() or not len(before):
        return lots.cell, 0
    standing = standing_of(board, lots)
    gone = 0
    for level in sorted(set(lots.level[before].tolist()), reverse=True):
        mine = lots.level[before] == level
        gone += join.at(len(lots.cell) * len(before))(
            standing, cells_of(board, level), before[mine], after[mine], MEND_LOTS // len(lots.cell)
        )
    return cells_under(board, standing, lots.level), gone
