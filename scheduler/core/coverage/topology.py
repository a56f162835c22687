"""Cells as ranges: with the nodes sorted by site, block, domain and number, every cell is one range of GPUs.

Then "inside", "over" and "apart" are comparisons of two integers, a holding is a rectangle of GPUs and time, and two
equal cells trade their contents by adding a difference. *Rank* is a GPU's or node's place in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level

LEVELS = tuple(Level)


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """The nesting of a fleet's cells. Lists are indexed by level; their arrays by the cell's number in the fleet."""

    node_at: IntArray
    """(n_nodes): the fleet's number of the node at each rank."""
    gpu_at: IntArray
    """(n_gpus): the fleet's number of the GPU at each rank."""
    rank_of_gpu: IntArray
    """(n_gpus): the rank of each GPU."""
    first_gpu: list[IntArray]
    """The rank of the cell's first GPU."""
    end_gpu: list[IntArray]
    """The rank after the cell's last GPU."""
    first_node: list[IntArray]
    """The rank of the cell's first node (of its node, for a GPU)."""
    end_node: list[IntArray]
    """The rank after the cell's last node."""
    pool: list[IntArray]
    """The pool that the whole cell lies in; -1 where it lies in several."""
    cell_of_rank: list[IntArray]
    """(n_gpus): the number of the cell that the GPU at each rank lies in."""

    def n_cells(self, level: Level) -> int:
        """How many cells the fleet has at a level."""
        return len(self.first_gpu[level])

    def gpus(self, level: Level, cell: int) -> IntArray:
        """The fleet's numbers of a cell's GPUs, by rank."""
        return self.gpu_at[self.first_gpu[level][cell] : self.end_gpu[level][cell]]

    def contains(self, level: Level, cell: int, inner_level: Level, inner: int) -> bool:
        """Whether the inner cell lies in the other one, or is it."""
        if inner_level > level:
            return False
        return int(self.cell_of_rank[level][self.first_gpu[inner_level][inner]]) == cell

    def shape(self, level: Level, cell: int) -> bytes:
        """What must be equal where two cells trade places: the sizes of all cells inside, in order."""
        lo, hi = self.first_gpu[level][cell], self.end_gpu[level][cell]
        inner = [np.flatnonzero(np.diff(self.cell_of_rank[below][lo:hi])) for below in LEVELS[1:level]]
        return b"|".join([str(hi - lo).encode(), *(cuts.tobytes() for cuts in inner)])

    def counterpart(self, level: Level, cell: int, shift: int) -> int:
        """The cell of that level whose first GPU is `shift` ranks away."""
        return int(self.cell_of_rank[level][self.first_gpu[level][cell] + shift])

    def spread(self, level: Level, cells: IntArray) -> tuple[IntArray, IntArray]:
        """(which, ranks): for each GPU of each of the cells, the cell's place in `cells`, and the GPU's rank."""
        return expanded(self.first_gpu[level][cells], self.end_gpu[level][cells])

    def counted(self, level: Level, chosen: npt.NDArray[np.bool_]) -> IntArray:
        """(n_cells): how many GPUs of each cell are chosen. `chosen` is (n_gpus) by the fleet's numbers."""
        before = np.concatenate(([0], np.cumsum(chosen[self.gpu_at])))
        return np.asarray(before[self.end_gpu[level]] - before[self.first_gpu[level]])

    def whole_and_usable(self, level: Level, usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(n_cells) bool: whether all GPUs of each cell are usable. `usable` is (n_gpus) bool by the fleet's
        numbers.
        """
        return np.asarray(self.counted(level, ~usable) == 0)


def expanded(first: IntArray, end: IntArray) -> tuple[IntArray, IntArray]:
    """(which, item): all integers of many ranges, one range after the other, with the range that each comes from."""
    sizes = end - first
    which = np.repeat(np.arange(len(sizes)), sizes)
    before = np.cumsum(sizes) - sizes
    return which, np.arange(len(which)) - before[which] + first[which]


@lru_cache(maxsize=8)
def topology_of(fleet: Fleet) -> Topology:
    """The topology of a fleet. Kept for the last few fleets, since a fleet is one value from one join to the next."""
    n_nodes = len(fleet.nodes)
    sites = {site: i for i, site in enumerate(dict.fromkeys(node.site for node in fleet.nodes))}
    site_of_node = np.array([sites[node.site] for node in fleet.nodes], dtype=np.int64)
    node_at = np.lexsort((np.arange(n_nodes), fleet.domain_of_node, fleet.block_of_node, site_of_node)).astype(np.int64)
    sizes = np.diff(fleet.first_gpu)[node_at]
    node_rank_of_gpu_rank, gpu_at = expanded(fleet.first_gpu[node_at], fleet.first_gpu[node_at] + sizes)
    rank_of_gpu = np.empty(fleet.n_gpus, dtype=np.int64)
    rank_of_gpu[gpu_at] = np.arange(fleet.n_gpus)
    pool_of_rank = fleet.pool_of_node[node_at][node_rank_of_gpu_rank]
    above = [np.arange(n_nodes), fleet.domain_of_node, fleet.block_of_node, site_of_node]
    cell_of_rank = [gpu_at, *(cells[node_at][node_rank_of_gpu_rank].astype(np.int64) for cells in above)]
    first_gpu, end_gpu, pool = [], [], []
    for cells in cell_of_rank:
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        ends = np.append(starts[1:], len(cells)).astype(np.int64)
        first, end, of_pool = (np.empty(len(starts), dtype=np.int64) for _ in range(3))
        first[cells[starts]], end[cells[starts]] = starts, ends
        lowest = np.minimum.reduceat(pool_of_rank, starts) if len(starts) else starts
        highest = np.maximum.reduceat(pool_of_rank, starts) if len(starts) else starts
        of_pool[cells[starts]] = np.where(lowest == highest, lowest, -1)
        first_gpu.append(first)
        end_gpu.append(end)
        pool.append(of_pool)
    first_node = [node_rank_of_gpu_rank[first] for first in first_gpu]
    end_node = [node_rank_of_gpu_rank[end - 1] + 1 for end in end_gpu]
    return Topology(node_at, gpu_at, rank_of_gpu, first_gpu, end_gpu, first_node, end_node, pool, cell_of_rank)
