"""One pool during a window, as counts: which whole cells are free throughout, what is sold, and what a loss would take.

The calendar of a window is replaced by its *envelope*: one lot on each largest cell that holds anything in it. What
finds other cells for the envelope finds them for every lot inside, at every instant, since each may keep its place in
the cell; at a single instant the envelope is the lots themselves. Laws: a free cell is usable and covers nobody at any
instant of the window; envelope lots never overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns
from scheduler.core.coverage.topology import LEVELS, expanded, topology_of

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class PoolCells:
    """The cells that lie wholly in a pool, by level, each level ascending by rank (see `topology`)."""

    cells: tuple[IntArray, ...]
    """The fleet's numbers."""
    first: tuple[IntArray, ...]
    """The rank of each cell's first GPU."""
    end: tuple[IntArray, ...]
    """The rank after its last."""
    at_rank: tuple[IntArray, ...]
    """(n_gpus): the place in this pool's list of the cell that the GPU at each rank lies in; -1: in none."""
    most_inside: tuple[tuple[int, ...], ...]
    """`[outer][inner]`: cells of the inner level in the outer one's largest cell; 1 where there is none."""
    least_inside: tuple[tuple[int, ...], ...]
    """The same in its smallest."""
    inside: tuple[tuple[IntArray, ...], ...]
    """`[outer][inner]`, (outer cells): how many inner cells each holds."""

    @property
    def alike(self) -> bool:
        """Whether all cells of a level hold equally many of each lower one."""
        return self.most_inside == self.least_inside

    def outer(self, inner: Level, outer: Level) -> IntArray:
        """(inner cells): the place of the outer cell that each lies in; -1: in none that is wholly in the pool."""
        return np.asarray(self.at_rank[outer][self.first[inner]])


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """See the module. Lists are by level, their masks by the cell's place in `cells`."""

    cells: PoolCells
    healthy: tuple[Mask, ...]
    """Cells whose GPUs are all usable."""
    free: tuple[Mask, ...]
    """Of those, the ones that cover nobody in the window."""
    lots: tuple[Mask, ...]
    """Cells that an envelope lot stands on."""
    pure: tuple[Mask, ...]
    """Of those, the ones that hold lots of this very level alone: if the cell is left, all of it is left. Told above
    NODE only, since no failure domain is smaller than a node.
    """

    def sold(self, level: Level) -> int:
        """Envelope lots of a level."""
        return int(self.lots[level].sum())

    def short(self, level: Level) -> int:
        """Envelope lots of a level that stand on a cell which is not whole: they wait for another one."""
        return int((self.lots[level] & ~self.healthy[level]).sum())


@lru_cache(maxsize=32)
def pool_cells(fleet: Fleet, pool: int) -> PoolCells:
    """The cells of a pool. Kept for the last few pools, since a fleet is one value from one join to the next."""
    topology = topology_of(fleet)
    cells, first, end, at_rank = [], [], [], []
    for level in LEVELS:
        numbers = np.flatnonzero(topology.pool[level] == pool).astype(np.int64)
        numbers = numbers[np.argsort(topology.first_gpu[level][numbers], kind="stable")]
        starts, ends = topology.first_gpu[level][numbers], topology.end_gpu[level][numbers]
        which, ranks = expanded(starts, ends)
        places = np.full(fleet.n_gpus, -1, dtype=np.int64)
        places[ranks] = which
        cells.append(numbers)
        first.append(starts)
        end.append(ends)
        at_rank.append(places)
    made = PoolCells(tuple(cells), tuple(first), tuple(end), tuple(at_rank), (), (), ())
    inside = tuple(tuple(_inside(made, outer, inner) for inner in LEVELS) for outer in LEVELS)
    most = tuple(tuple(int(counts.max(initial=1)) for counts in row) for row in inside)
    least = tuple(tuple(max(1, int(counts.min())) if len(counts) else 1 for counts in row) for row in inside)
    return replace(made, most_inside=most, least_inside=least, inside=inside)


def standing(fleet: Fleet, pool: int, held: Columns, start_ms: int, end_ms: int, usable: Mask) -> Standing:
    """The pool in the window `[start_ms, end_ms)`. `usable` is (n_gpus) bool by the fleet's numbers."""
    topology, cells = topology_of(fleet), pool_cells(fleet, pool)
    here = (held.start_ms < end_ms) & (held.end_ms > start_ms)
    on_cell: list[Mask] = []
    touched: list[Mask | None] = []
    for level in LEVELS:
        numbers = held.cell[here & (held.level == level)]
        mark = np.zeros(topology.n_cells(level), dtype=np.bool_)
        mark[numbers] = True
        on_cell.append(mark[cells.cells[level]])
        touched.append(_over(cells, level, on_cell[-1], fleet.n_gpus) if len(numbers) else None)
    lots, taken = _envelope(cells, on_cell, touched, fleet.n_gpus)
    pure = _pure(cells, lots, touched, fleet.n_gpus)
    if usable.all():
        healthy = tuple(np.ones(len(numbers), dtype=np.bool_) for numbers in cells.cells)
    else:
        sick = ~usable[topology.gpu_at]
        counts = counted(sick)
        healthy = tuple(none_of(cells, level, counts) for level in LEVELS)
        taken |= sick
    counts = counted(taken)
    free = tuple(none_of(cells, level, counts) for level in LEVELS)
    return Standing(cells, healthy, free, lots, pure)


def _envelope(
    cells: PoolCells, on_cell: Sequence[Mask], touched: Sequence[Mask | None], n_gpus: int
) -> tuple[tuple[Mask, ...], Mask]:
    """(by level the largest cells that hold anything, (n_gpus) bool by rank whether anything holds the GPU)."""
    lots = list(on_cell)
    above = np.zeros(n_gpus, dtype=np.bool_)
    for level in reversed(LEVELS):
        over = touched[level]
        if over is not None:
            lots[level] = on_cell[level] & ~above[cells.first[level]]
            above |= over
    return tuple(lots), above


def _pure(cells: PoolCells, lots: Sequence[Mask], touched: Sequence[Mask | None], n_gpus: int) -> tuple[Mask, ...]:
    """`Standing.pure`; at GPU and NODE all lots, since no failure domain is smaller."""
    pure = list(lots)
    below = np.zeros(n_gpus, dtype=np.bool_)
    for level in LEVELS:
        if level > Level.NODE and touched[level] is not None:
            pure[level] = lots[level] & none_of(cells, level, counted(below))
        over = touched[level]
        if over is not None:
            below |= over
    return tuple(pure)


def counted(marked: Mask) -> Counts | None:
    """How many GPUs are marked before each rank, and in all; None where none is. `marked` is (n_gpus) bool by rank."""
    if not marked.any():
        return None
    counts = np.zeros(len(marked) + 1, dtype=np.int32)
    np.cumsum(marked, dtype=np.int32, out=counts[1:])
    return counts


def none_of(cells: PoolCells, level: Level, counts: Counts | None) -> Mask:
    """(cells of the level) bool: whether no GPU of the cell is among the counted."""
    if counts is None:
        return np.ones(len(cells.cells[level]), dtype=np.bool_)
    if level == Level.GPU:
        return np.asarray((counts[1:] == counts[:-1])[cells.first[level]])
    return np.asarray(counts[cells.end[level]] == counts[cells.first[level]])


def _inside(cells: PoolCells, outer: Level, inner: Level) -> IntArray:
    if inner > outer:
        return np.zeros(len(cells.cells[outer]), dtype=np.int64)
    places = cells.outer(inner, outer)
    return np.bincount(places[places >= 0], minlength=len(cells.cells[outer])).astype(np.int64)


def _over(cells: PoolCells, level: Level, chosen: Mask, n_gpus: int) -> Mask:
    """(n_gpus) bool by rank: the GPUs of the chosen cells."""
    if level == Level.GPU:
        covered = np.zeros(n_gpus, dtype=np.bool_)
        covered[cells.first[level][chosen]] = True
        return covered
    change = np.zeros(n_gpus + 1, dtype=np.int8)
    # Neighbours may end where the next one begins, so both are added, not set; at most one does each.
    change[cells.first[level][chosen]] += 1
    change[cells.end[level][chosen]] -= 1
    return np.cumsum(change[:-1], dtype=np.int8).astype(np.bool_)
