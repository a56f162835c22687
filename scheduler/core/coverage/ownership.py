"""The plan at an instant: whom each GPU covers and until when, when that next changes, and the law that keeps it sound.

A swap relabels: the holdings inside two equal cells trade places from an instant on, and nobody's work moves. It is
lawful where the cells are of one pool and shape and no lot of a higher level needs either cell to stay where it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns, Holdings, columns_of, moved
from scheduler.core.coverage.topology import LEVELS, Topology, topology_of
from scheduler.core.errors import Conflict, UnknownName
from scheduler.core.holdings import Holding
from scheduler.core.quantities import INT64_MAX

SHOWN = 10


def owner_at(
    fleet: Fleet, holdings: Holdings, at_ms: int, position_index: Mapping[str, int]
) -> tuple[npt.NDArray[np.int32], IntArray]:
    """(owner, until_ms) of every GPU at an instant, both (n_gpus).

    `owner` int32: the index of the position that the GPU covers, -1 where it is unsold. `until_ms` int64: when that
    holding ends; for an unsold GPU, when the next one on it starts, or INT64_MAX. Raises UnknownName where a position
    has no index.
    """
    columns, topology = columns_of(holdings), topology_of(fleet)
    owner = np.full(fleet.n_gpus, -1, dtype=np.int32)
    until_ms = np.full(fleet.n_gpus, INT64_MAX, dtype=np.int64)
    later = columns.start_ms > at_ms
    in_force = ~later & (columns.end_ms > at_ms)
    for level in LEVELS:
        at_level = columns.level == level
        rows = np.flatnonzero(later & at_level)
        if len(rows):
            next_ms = np.full(topology.n_cells(level), INT64_MAX, dtype=np.int64)
            np.minimum.at(next_ms, columns.cell[rows], columns.start_ms[rows])
            cells = np.flatnonzero(next_ms < INT64_MAX)
            which, ranks = topology.spread(level, cells)
            gpus = topology.gpu_at[ranks]
            until_ms[gpus] = np.minimum(until_ms[gpus], next_ms[cells][which])
    for level in LEVELS:
        rows = np.flatnonzero(in_force & (columns.level == level))
        if len(rows):
            which, ranks = topology.spread(level, columns.cell[rows])
            gpus = topology.gpu_at[ranks]
            owner[gpus] = _indices(columns, rows, position_index)[which]
            until_ms[gpus] = columns.end_ms[rows][which]
    return owner, until_ms


def may_swap(fleet: Fleet, holdings: Holdings, level: Level, left: int, right: int, at_ms: int) -> bool:
    """Whether the two cells may trade places at an instant: one pool, one shape, no higher lot over either from then
    on.
    """
    topology = topology_of(fleet)
    if left == right or not (0 <= left < topology.n_cells(level) and 0 <= right < topology.n_cells(level)):
        return False
    pools = topology.pool[level]
    if pools[left] != pools[right] or pools[left] < 0 or topology.shape(level, left) != topology.shape(level, right):
        return False
    tied = tied_cells(topology, columns_of(holdings), level, at_ms)
    return not (tied[left] or tied[right])


def tied_cells(topology: Topology, columns: Columns, level: Level, at_ms: int) -> npt.NDArray[np.bool_]:
    """(n_cells) bool: whether a lot of a higher level lies over each cell of `level` at `at_ms` or later."""
    tied = np.zeros(topology.n_cells(level), dtype=np.bool_)
    ahead = columns.end_ms > at_ms
    for above in LEVELS[level + 1 :]:
        held = np.unique(columns.cell[ahead & (columns.level == above)])
        if len(held):
            _, ranks = topology.spread(above, held)
            tied[topology.cell_of_rank[level][ranks]] = True
    return tied


def swap_cells(
    fleet: Fleet, holdings: Holdings, level: Level, left: int, right: int, at_ms: int
) -> tuple[Holding, ...]:
    """All holdings, those inside the two cells in each other's place from `at_ms` on, in the order given.

    Past parts stay as they were and come last. Raises Conflict where `may_swap` says no.
    """
    columns, topology = columns_of(holdings), topology_of(fleet)
    if not may_swap(fleet, columns, level, left, right, at_ms):
        names = f"{_named(fleet, level, left)} and {_named(fleet, level, right)}"
        raise Conflict(f"cells {names} of level {level.name} may not trade places at {at_ms}")
    shift = int(topology.first_gpu[level][right] - topology.first_gpu[level][left])
    shifted: dict[int, int] = {}
    for inner in LEVELS[: level + 1]:
        rows = np.flatnonzero((columns.level == inner) & (columns.end_ms > at_ms))
        outer = topology.cell_of_rank[level][topology.first_gpu[inner][columns.cell[rows]]]
        shifted |= dict.fromkeys(rows[outer == left].tolist(), shift)
        shifted |= dict.fromkeys(rows[outer == right].tolist(), -shift)
    result = list(columns.holdings)
    for row, by in sorted(shifted.items()):
        holding = columns.holdings[row]
        cell = topology.counterpart(holding.level, holding.cell, by)
        result[row] = moved(holding, cell=cell, start_ms=max(at_ms, holding.start_ms))
        if holding.start_ms < at_ms:
            result.append(moved(holding, end_ms=at_ms))
    return tuple(result)


def check(fleet: Fleet, holdings: Holdings) -> tuple[str, ...]:
    """The law in words: each fault found (the first ten of a kind), empty where all cells exist and no GPU is held
    twice.
    """
    columns, topology = columns_of(holdings), topology_of(fleet)
    n_cells = np.array([topology.n_cells(level) for level in LEVELS])
    missing = np.flatnonzero((columns.cell >= n_cells[columns.level]) | (columns.cell < 0))
    if len(missing):
        return tuple(f"cell of {_said(columns, int(row))} does not exist" for row in missing[:SHOWN])
    rows_at = [np.flatnonzero(columns.level == level) for level in LEVELS]
    first_ms = int(columns.start_ms.min()) if len(columns) else 0
    span = int(columns.end_ms.max()) - first_ms + 1 if len(columns) else 1
    starts, ends = columns.start_ms - first_ms, columns.end_ms - first_ms
    if span * max(1, int(n_cells.max(initial=1))) >= INT64_MAX:
        instants = np.unique(np.concatenate((starts, ends)))
        starts, ends, span = np.searchsorted(instants, starts), np.searchsorted(instants, ends), len(instants) + 1
    faults: list[str] = []
    for level in LEVELS:
        rows = rows_at[level]
        if not len(rows):
            continue
        # One line of keys for all cells of the level: cell by cell, time inside. Holdings must not overlap on it.
        keys = columns.cell[rows] * span + starts[rows]
        by_key = np.argsort(keys, kind="stable")
        rows, keys = rows[by_key], keys[by_key]
        key_ends = keys + (ends[rows] - starts[rows])
        twice = np.flatnonzero(key_ends[:-1] > keys[1:])
        faults += [_overlap(columns, int(rows[k]), int(rows[k + 1])) for k in twice[:SHOWN]]
        if len(twice):
            continue
        for below in LEVELS[:level]:
            inner = rows_at[below]
            if len(inner):
                outer_cell = topology.cell_of_rank[level][topology.first_gpu[below][columns.cell[inner]]]
                from_key = outer_cell * span + starts[inner]
                until_key = from_key + (ends[inner] - starts[inner])
                # The last holding to start before the inner one ends: they overlap if it ends after the inner starts.
                before = np.searchsorted(keys, until_key) - 1
                hit = np.flatnonzero((before >= 0) & (key_ends[before] > from_key))
                faults += [_overlap(columns, int(inner[k]), int(rows[before[k]])) for k in hit[:SHOWN]]
    return tuple(faults)


def _indices(columns: Columns, rows: IntArray, position_index: Mapping[str, int]) -> npt.NDArray[np.int32]:
    try:
        return np.array([position_index[columns.holdings[row].position] for row in rows.tolist()], dtype=np.int32)
    except KeyError as error:
        raise UnknownName("position of a holding", str(error.args[0]), position_index) from None


def _said(columns: Columns, row: int) -> str:
    held = columns.holdings[row]
    return f"{held.position} on {held.level.name} {held.cell} in [{held.start_ms}, {held.end_ms})"


def _overlap(columns: Columns, row: int, other: int) -> str:
    return f"{_said(columns, row)} and {_said(columns, other)} share a GPU and an instant"


def _named(fleet: Fleet, level: Level, cell: int) -> str:
    return fleet.cell_name(level, cell) if 0 <= cell < topology_of(fleet).n_cells(level) else f"number {cell}"
