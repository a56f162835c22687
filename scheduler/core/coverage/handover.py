"""Planned handovers: a lot that no cell can take throughout gets several, one after the other, split at an instant.

Each time it goes to the cell that is free longest, which gives the fewest pieces for the lot. Where no cell of its
level is free at some instant, though there are GPUs enough, smaller lots are handed over to make one whole: the cell
with the least on it. All or nothing for each lot; what is pinned never moves; ties go to the lower number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.board import Board
from scheduler.core.coverage.mending import grown_together
from scheduler.core.coverage.nest import Lots, Taken
from scheduler.core.coverage.packing import Groups, Layout, laid_out
from scheduler.core.coverage.search import longest_free, put, room

CELLS_TRIED = 4
"""How many cells are tried, at an instant at which none is free, for each lot."""


PASSES = 4
"""How often all lots in pieces are looked at again at most."""


class Piece(NamedTuple):
    """A lot's cell in the slots `[i, j)`."""

    cell: int
    i: int
    j: int


class Split(NamedTuple):
    """One lot of a group in pieces that tile its window, by time. `number` tells lots apart."""

    number: int
    group: int
    pieces: tuple[Piece, ...]


def handed_over(board: Board, groups: Groups, layout: Layout) -> tuple[Layout, tuple[Split, ...]]:
    """(the layout less what was split, the splits): as many lots placed as handovers can place."""
    work = _Work(board, groups, layout, ())
    short = layout.short(groups)
    waiting = sorted(np.flatnonzero(short).tolist(), key=lambda g: (-groups.level[g], groups.i[g], -groups.j[g], g))
    for g in waiting:
        for _ in range(int(short[g])):
            work.place(g)
    done = work.result()
    for _ in range(PASSES):
        before = n_handovers(done[1])
        done = _grown(board, groups, *done)
        again = _Work(board, groups, *done)
        again.simplified()
        done = again.result()
        if n_handovers(done[1]) == before:
            break
    return done


def fewest_handovers(board: Board, groups: Groups, layouts: Sequence[Layout]) -> tuple[Layout, tuple[Split, ...]]:
    """`handed_over` for the layout that is left with the fewest lots, then with the fewest handovers.

    Each lot without a cell takes one handover at least, so layouts with more such lots than the handovers that place
    all lots of another one need not be looked at.
    """
    short = [int(layout.short(groups).sum()) for layout in layouts]
    found: dict[int, tuple[Layout, tuple[Split, ...]]] = {}
    enough: int | None = None
    for k in sorted(range(len(layouts)), key=lambda k: (short[k], k)):
        if enough is not None and short[k] > enough:
            break
        found[k] = handed_over(board, groups, layouts[k])
        if not _n_left(groups, *found[k]):
            enough = min(n_handovers(found[k][1]), n_handovers(found[k][1]) if enough is None else enough)
    best = min(found, key=lambda k: (_n_left(groups, *found[k]), n_handovers(found[k][1]), k))
    return found[best]


def _n_left(groups: Groups, layout: Layout, splits: Sequence[Split]) -> int:
    return int(layout.short(groups).sum()) - len(splits)


def _grown(board: Board, groups: Groups, layout: Layout, splits: tuple[Split, ...]) -> tuple[Layout, tuple[Split, ...]]:
    """The same with pieces of one lot grown together where equal cells may trade what comes later."""
    pieces = [(split.group, *piece) for split in splits for piece in split.pieces]
    if not pieces:
        return layout, splits
    g, cell, i, j = np.array(pieces, dtype=np.int64).T
    of = np.repeat(layout.rows[:, 0], layout.rows[:, 2])
    n_whole = len(of)
    lots = Lots(
        level=groups.level[np.concatenate((of, g))],
        i=np.concatenate((groups.i[of], i)),
        j=np.concatenate((groups.j[of], j)),
        cell=np.concatenate((np.repeat(layout.rows[:, 1], layout.rows[:, 2]), cell)),
        weight=np.ones(n_whole + len(g), dtype=np.int64),
    )
    number = np.repeat(np.arange(len(splits)), [len(split.pieces) for split in splits])
    before = n_whole + np.flatnonzero(number[1:] == number[:-1])
    cells, gone = grown_together(board, lots, before, before + 1)
    if not gone:
        return layout, splits
    kept = iter(cells[n_whole:].tolist())
    grown = [
        split._replace(pieces=_joined([piece._replace(cell=next(kept)) for piece in split.pieces])) for split in splits
    ]
    return laid_out(board, groups, of, cells[:n_whole]), tuple(grown)


def n_handovers(splits: Sequence[Split]) -> int:
    """How many times a lot goes from one cell to another."""
    return sum(len(split.pieces) - 1 for split in splits)


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    joined: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.i):
        if joined and joined[-1].cell == piece.cell:
            joined[-1] = Piece(piece.cell, joined[-1].i, piece.j)
        else:
            joined.append(piece)
    return tuple(joined)


class _Work:
    """One call in progress: the rows of whole lots, the lots in pieces, and how to take back what did not work out."""

    def __init__(self, board: Board, groups: Groups, layout: Layout, splits: Sequence[Split]) -> None:
        self.board, self.groups = board, groups
        self.taken = Taken(layout.taken.used.copy(), layout.taken.held.copy())
        self.rows = layout.rows.copy()
        self.split: dict[int, tuple[int, list[Piece]]] = {}
        self.next_number = 0
        self.n_pieces = 0
        self.undo: list[tuple[str, int, Piece]] = []
        for split in splits:
            number = self._begun(split.group)
            for piece in split.pieces:
                self._put(number, piece)
        g, cell = self.rows[:, 0], self.rows[:, 1]
        self.row_of_window = (groups.i[g], groups.j[g], board.nest.first[cell], board.nest.end[cell])

    def place(self, g: int) -> bool:
        """One more lot of a group, in pieces; or nothing changes."""
        mark = len(self.undo)
        number = self._begun(g)
        if self._placed(number, int(self.groups.i[g]), int(self.groups.j[g])):
            return True
        self._take_back(mark)
        del self.split[number]
        return False

    def result(self) -> tuple[Layout, tuple[Split, ...]]:
        """What `handed_over` gives."""
        splits = tuple(Split(number, g, _joined(pieces)) for number, (g, pieces) in enumerate(self.split.values()))
        return Layout(self.taken, self.rows[self.rows[:, 2] > 0]), splits

    @property
    def n_handovers(self) -> int:
        """So far."""
        return self.n_pieces - len(self.split)

    def simplified(self) -> bool:
        """Whether some lot in pieces, placed anew beside all others, got by with fewer."""
        fewer = False
        for number in sorted(self.split, key=lambda number: (len(self.split[number][1]), number)):
            mark, before = len(self.undo), self.n_handovers
            for piece in list(self.split[number][1]):
                self._off(number, piece)
            g = self.split[number][0]
            found = self._placed(number, int(self.groups.i[g]), int(self.groups.j[g]), alone=True)
            if found and self.n_handovers < before:
                fewer = True
            else:
                self._take_back(mark)
        return fewer

    def _begun(self, g: int) -> int:
        number = self.next_number
        self.next_number += 1
        self.split[number] = (g, [])
        return number

    def _level(self, number: int) -> int:
        return int(self.groups.level[self.split[number][0]])

    def _placed(self, number: int, i: int, j: int, *, alone: bool = False) -> bool:
        """The lot's slots `[i, j)`, piece by piece; `alone`: without moving others."""
        nest, level, at = self.board.nest, self._level(number), i
        while at < j:
            cell, until = longest_free.at(self.board.n_nodes * 100)(nest, self.taken, level, at, j)
            if cell >= 0:
                self._put(number, Piece(int(cell), at, int(until)))
            else:
                until = -1 if alone else self._made_whole(number, at, j)
                if until < 0:
                    return False
            at = int(until)
        return True

    def _made_whole(self, number: int, at: int, j: int) -> int:
        """Hands over what smaller lots take of some cell from a slot on; until when the lot then has the cell, -1 where
        none could be made whole. Of a few cells, the one with the fewest handovers for the time gained.
        """
        best: tuple[int, int, int] | None = None
        cells = self._candidates(self._level(number), at)
        for cell in cells:
            mark, before = len(self.undo), self.n_handovers
            until = self._cell_made_whole(number, cell, at, j)
            cost, gained = self.n_handovers - before, int(self.board.cuts[max(until, at)] - self.board.cuts[at])
            self._take_back(mark)
            if until > at and (best is None or cost * best[1] < best[0] * gained):
                best = (cost, gained, cell)
        return -1 if best is None else self._cell_made_whole(number, best[2], at, j)

    def _cell_made_whole(self, number: int, cell: int, at: int, j: int) -> int:
        """`_made_whole` for one cell."""
        moved = self._cleared(cell, at)
        until = self._free_until(number, cell, at, j)
        self._put(number, Piece(cell, at, until))
        return until if all(self._placed(other, at, end) for other, end in moved) else -1

    def _candidates(self, level: int, at: int) -> list[int]:
        """Cells of the level that hold smaller lots only, and nothing pinned, at a slot: those with the fewest lots
        that would have to be handed over first.
        """
        if level == Level.GPU:
            return []
        nest, n_nodes = self.board.nest, self.board.n_nodes
        cells = np.arange(nest.offset[level], nest.offset[level + 1])
        table = self.taken.used if level == Level.NODE else self.taken.held
        held = table[cells - (0 if level == Level.NODE else n_nodes), at].astype(np.int64)
        # A lot of the level or a higher one fills the cell; smaller ones that fill it are as dear to move.
        open_cells = cells[(held < nest.gpus[cells]) & nest.whole[cells]]
        running = self._running(level, at)[open_cells - cells[0]]
        fewest = open_cells[np.lexsort((open_cells, held[open_cells - cells[0]], running))]
        free = [cell for cell in fewest.tolist() if room(nest, self.board.base, level, cell, at, at + 1) > 0]
        return free[:CELLS_TRIED]

    def _running(self, level: int, at: int) -> IntArray:
        """(cells of the level): lots on each that began before a slot and go on in it."""
        nest = self.board.nest
        starts, ends, firsts, _ = self.row_of_window
        here = np.flatnonzero((starts < at) & (ends > at) & (self.rows[:, 2] > 0))
        count = np.zeros(int(nest.offset[level + 1] - nest.offset[level]), dtype=np.int64)
        np.add.at(count, nest.above[level][firsts[here]] - nest.offset[level], self.rows[here, 2])
        for _, pieces in self.split.values():
            for piece in pieces:
                if piece.i < at < piece.j:
                    count[nest.above[level][nest.first[piece.cell]] - nest.offset[level]] += 1
        return count

    def _cleared(self, cell: int, at: int) -> list[tuple[int, int]]:
        """(lot, end) of all that stood on a cell at a slot, whose rest from then on is taken off."""
        first, end = int(self.board.nest.first[cell]), int(self.board.nest.end[cell])
        starts, ends, firsts, lasts = self.row_of_window
        here = (starts <= at) & (ends > at) & (firsts < end) & (lasts > first) & (self.rows[:, 2] > 0)
        moved: list[tuple[int, int]] = []
        for row in np.flatnonzero(here).tolist():
            for _ in range(int(self.rows[row, 2])):
                number = self._unpacked(row)
                moved.append((number, self._cut(number, at)))
        others = [
            number
            for number, (_, pieces) in self.split.items()
            for piece in pieces
            if piece.i <= at < piece.j
            and self.board.nest.first[piece.cell] < end
            and self.board.nest.end[piece.cell] > first
            and number not in {lot for lot, _ in moved}
        ]
        moved += [(number, self._cut(number, at)) for number in others]
        return sorted(moved, key=lambda lot: (-self._level(lot[0]), lot))

    def _unpacked(self, row: int) -> int:
        """One whole lot of a row as a lot in pieces, of which it has one."""
        g, cell = int(self.rows[row, 0]), int(self.rows[row, 1])
        number = self._begun(g)
        piece = Piece(cell, int(self.groups.i[g]), int(self.groups.j[g]))
        self.rows[row, 2] -= 1
        self.split[number][1].append(piece)
        self.n_pieces += 1
        self.undo.append(("unpacked", number, Piece(row, 0, 0)))
        return number

    def _cut(self, number: int, at: int) -> int:
        """Takes off what a lot holds at a slot from there to the piece's end, and gives that end."""
        piece = next(piece for piece in self.split[number][1] if piece.i <= at < piece.j)
        self._off(number, piece)
        if piece.i < at:
            self._put(number, Piece(piece.cell, piece.i, at))
        return piece.j

    def _free_until(self, number: int, cell: int, at: int, j: int) -> int:
        level = self._level(number)
        low, high = at + 1, j
        while low < high:
            middle = (low + high + 1) // 2
            if room(self.board.nest, self.taken, level, cell, at, middle) > 0:
                low = middle
            else:
                high = middle - 1
        return low

    def _put(self, number: int, piece: Piece) -> None:
        put(self.board.nest, self.taken, self._level(number), piece.cell, piece.i, piece.j, 1)
        self.split[number][1].append(piece)
        self.n_pieces += 1
        self.undo.append(("put", number, piece))

    def _off(self, number: int, piece: Piece) -> None:
        put(self.board.nest, self.taken, self._level(number), piece.cell, piece.i, piece.j, -1)
        self.split[number][1].remove(piece)
        self.n_pieces -= 1
        self.undo.append(("off", number, piece))

    def _take_back(self, mark: int) -> None:
        """Everything done since, undone in reverse."""
        while len(self.undo) > mark:
            what, number, piece = self.undo.pop()
            pieces = self.split[number][1]
            if what == "put":
                put(self.board.nest, self.taken, self._level(number), piece.cell, piece.i, piece.j, -1)
                pieces.remove(piece)
                self.n_pieces -= 1
            elif what == "off":
                put(self.board.nest, self.taken, self._level(number), piece.cell, piece.i, piece.j, 1)
                pieces.append(piece)
                self.n_pieces += 1
            else:
                self.rows[piece.cell, 2] += 1
                self.n_pieces -= 1
                del self.split[number]
