"""Whole cells: a lot that asks for one loses all of it to a single sick GPU. The sickness of each cell over time.

A cell's cause is the lowest value among its sick GPUs (the seller's causes come first), 0 while all are healthy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.intervals import Interval
from scheduler.core.metering.history import FieldHistory

CODES: IntArray = np.array([0, *sorted(Cause)], dtype=np.int64)
"""Every cause code, ascending, after 0 for healthy."""


def cell_of_gpu(fleet: Fleet, level: Level) -> IntArray:
    """(n_gpus) int64: the number of each GPU's cell of a level."""
    match level:
        case Level.GPU:
            return np.arange(fleet.n_gpus, dtype=np.int64)
        case Level.NODE:
            return fleet.node_of_gpu
        case Level.NVLINK_DOMAIN:
            return fleet.domain_of_node[fleet.node_of_gpu]
        case Level.FABRIC_BLOCK:
            return fleet.block_of_node[fleet.node_of_gpu]
        case Level.SITE:
            sites = {name: i for i, name in enumerate(dict.fromkeys(node.site for node in fleet.nodes))}
            numbers = np.array([sites[node.site] for node in fleet.nodes], dtype=np.int64)
            return numbers[fleet.node_of_gpu]


@dataclass(frozen=True, slots=True, eq=False)
class CellCauses:
    """The cause of every cell of one level over a span. `keys[i]` = cell × width + offset_ms, ascending; `codes[i]`
    from then.
    """

    cell_of_gpu: IntArray
    width: int
    keys: IntArray
    codes: IntArray

    def at(self, gpus: IntArray, offsets_ms: IntArray) -> IntArray:
        """The cause of the cells of these GPUs at offsets from the span's start."""
        sought = self.cell_of_gpu[gpus] * self.width + offsets_ms
        return self.codes[np.searchsorted(self.keys, sought, side="right") - 1]

    def cuts(self, gpus: IntArray) -> tuple[IntArray, IntArray]:
        """(GPU, offset_ms) of every change that these GPUs (ascending) share in."""
        changed = np.flatnonzero((self.keys % self.width > 0) & (self.codes != np.roll(self.codes, 1)))
        cells = self.keys[changed] // self.width
        by_cell = gpus[np.argsort(self.cell_of_gpu[gpus], kind="stable")]
        cells_sorted = self.cell_of_gpu[by_cell]
        first = np.searchsorted(cells_sorted, cells, side="left")
        counts = np.searchsorted(cells_sorted, cells, side="right") - first
        ends = np.cumsum(counts)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
        return by_cell[np.repeat(first, counts) + within], np.repeat(self.keys[changed] % self.width, counts)


def cell_causes(causes: FieldHistory, cells: IntArray, span: Interval) -> CellCauses | None:
    """The cells' causes over a span, from the GPUs' own; `cells` is each GPU's cell. None: all are healthy."""
    width = span.length_ms
    initial = causes.at(span.start_ms)
    instants, gpus, values = causes.between(span.start_ms, span.end_ms)
    if not values.any() and not initial.any():
        return None
    n_cells = int(cells.max()) + 1
    lowest = _lowest_in_each(cells, initial, n_cells)
    by_gpu = np.argsort(gpus, kind="stable")
    gpus, values, offsets = gpus[by_gpu], values[by_gpu], instants[by_gpu] - span.start_ms
    before = np.where(np.concatenate([[False], gpus[1:] == gpus[:-1]])[: len(gpus)], np.roll(values, 1), initial[gpus])
    hit = np.unique(cells[gpus])
    changes = cells[gpus] * width + offsets
    grid = np.unique(np.concatenate([hit * width, changes]))
    codes = np.unique(np.concatenate([np.zeros(1, dtype=np.int64), initial, values]))
    counts = np.zeros((len(grid), len(codes)), dtype=np.int64)
    members = np.flatnonzero(np.isin(cells, hit))
    np.add.at(counts, (np.searchsorted(grid, cells[members] * width), np.searchsorted(codes, initial[members])), 1)
    where = np.searchsorted(grid, changes)
    np.add.at(counts, (where, np.searchsorted(codes, before)), -1)
    np.add.at(counts, (where, np.searchsorted(codes, values)), 1)
    sick = _running_in_each(counts, np.flatnonzero(grid % width == 0))[:, 1:] > 0
    lowest_hit = np.where(sick.any(axis=1), codes[1:][sick.argmax(axis=1)], 0)
    calm = np.setdiff1d(np.arange(n_cells), hit)
    keys = np.concatenate([calm * width, grid])
    order = np.argsort(keys)
    return CellCauses(cells, width, keys[order], np.concatenate([lowest[calm], lowest_hit])[order])


def _lowest_in_each(cells: IntArray, causes: IntArray, n_cells: int) -> IntArray:
    none = np.iinfo(np.int64).max
    lowest = np.full(n_cells, none, dtype=np.int64)
    sick = np.flatnonzero(causes)
    np.minimum.at(lowest, cells[sick], causes[sick])
    lowest[lowest == none] = 0
    return lowest


def _running_in_each(counts: IntArray, firsts: IntArray) -> IntArray:
    """Running sums down the rows, begun afresh at each row in `firsts`, of which row 0 is one."""
    running = np.cumsum(counts, axis=0)
    if not len(firsts):
        return running
    carried = np.zeros((len(firsts), counts.shape[1]), dtype=np.int64)
    carried[1:] = running[firsts[1:] - 1]
    return running - np.repeat(carried, np.diff(np.append(firsts, len(counts))), axis=0)
