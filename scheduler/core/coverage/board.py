"""One pool's calendar as arrays over compressed time: which GPUs are taken in which slot, before anything is planned.

Time is cut at every start and end; between two cuts lies a *slot*, in which nothing changes. A GPU lot counts on its
node only: which GPU of the node it gets is decided last, since any lots that never exceed the node's GPUs can be told
apart by start. Cells are numbered flat (see `search`). Law: `used` never exceeds a node's GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns
from scheduler.core.coverage.nest import Nest, Taken
from scheduler.core.coverage.topology import LEVELS, Topology, expanded, topology_of
from scheduler.core.errors import Conflict
from scheduler.core.holdings import Demand

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """See the module. A node's number here is its place among the pool's nodes by rank; every cell is a range of
    them.
    """

    pool: int
    topology: Topology
    cuts: IntArray
    """(n_slots + 1): ascending instants."""
    nest: Nest
    base: Taken
    """What is pinned or unusable. Copied before anything is put on it."""
    cell_number: IntArray
    """(n_cells): the fleet's number of each cell."""
    gpu_number: IntArray
    """(GPUs of the pool): the fleet's number of each, by rank."""
    node_of_rank: IntArray
    """(nodes of the fleet): the number here of the node at each rank; -1 outside the pool."""

    @property
    def n_nodes(self) -> int:
        """How many nodes the pool has."""
        return len(self.nest.size)

    def slots(self, start_ms: int, end_ms: int) -> tuple[int, int]:
        """The slots `[i, j)` of a window; its ends must be cuts."""
        i, j = np.searchsorted(self.cuts, (start_ms, end_ms))
        return int(i), int(j)

    def fresh(self) -> Taken:
        """A copy of what is taken before anything is planned, to be changed."""
        return Taken(self.base.used.copy(), self.base.held.copy())

    def places(self, level: Level, cells: Sequence[int]) -> IntArray:
        """Where cells of the fleet stand here (their nodes, at GPU); -1 for those that the pool has no part of."""
        numbers = np.array(cells, dtype=np.int64)
        first = self.topology.first_node[level]
        known = (numbers >= 0) & (numbers < len(first))
        nodes = np.full(len(numbers), -1, dtype=np.int64)
        nodes[known] = self.node_of_rank[first[numbers[known]]]
        return np.where(nodes >= 0, self.nest.above[level][nodes], -1)

    def lot_gpus(self, level: Level) -> int:
        """GPUs of the largest cell of a level: how much a lot weighs in orders and repairs."""
        if level == Level.GPU:
            return 1
        return int(self.nest.gpus[self.nest.offset[level] : self.nest.offset[level + 1]].max(initial=1))


def board_of(fleet: Fleet, pool: int, demands: Sequence[Demand], pinned: Columns, usable: Mask) -> Board:
    """The board of a pool with the pinned holdings on it. Raises Conflict where two of them share a GPU and an
    instant.
    """
    topology = topology_of(fleet)
    node_ranks = np.flatnonzero(fleet.pool_of_node[topology.node_at] == pool)
    node_of_rank = np.full(len(topology.node_at), -1, dtype=np.int64)
    node_of_rank[node_ranks] = np.arange(len(node_ranks))
    cuts = _cuts(pool, demands, pinned)
    nodes = topology.node_at[node_ranks]
    _, ranks = expanded(topology.first_gpu[Level.NODE][nodes], topology.end_gpu[Level.NODE][nodes])
    gpu_number = topology.gpu_at[ranks]
    rows = _pinned_gpus(topology, ranks, cuts, pinned, usable)
    nest, cell_number = _nest(fleet, topology, pool, node_ranks, np.diff(cuts), rows)
    used = np.zeros((len(node_ranks), max(0, len(cuts) - 1)), dtype=np.int64)
    if len(node_ranks):
        used += np.add.reduceat((~usable[gpu_number]).astype(np.int64), nest.first_row[:-1])[:, None]
    _pin(topology, nest, node_of_rank, cuts, used, pinned, usable)
    if (used > nest.size[:, None]).any():
        node = int(nodes[int(np.flatnonzero((used > nest.size[:, None]).any(axis=1))[0])])
        raise Conflict(f"the pinned holdings on node number {node} need more GPUs than it has")
    above = nest.first[len(nest.size) :], nest.end[len(nest.size) :]
    running = np.concatenate((np.zeros((1, used.shape[1]), dtype=np.int32), np.cumsum(used, axis=0, dtype=np.int32)))
    base = Taken(used.astype(np.int8), np.ascontiguousarray(running[above[1]] - running[above[0]]))
    return Board(pool, topology, cuts, nest, base, cell_number, gpu_number, node_of_rank)


def _cuts(pool: int, demands: Sequence[Demand], pinned: Columns) -> IntArray:
    windows = [(d.start_ms, d.end_ms) for d in demands if d.pool == pool]
    if not windows:
        return np.zeros(0, dtype=np.int64)
    instants = np.unique(np.array(windows, dtype=np.int64))
    inside = (pinned.start_ms < instants[-1]) & (pinned.end_ms > instants[0])
    theirs = np.concatenate((pinned.start_ms[inside], pinned.end_ms[inside]))
    return np.unique(np.concatenate((instants, np.clip(theirs, instants[0], instants[-1]))))


def _nest(
    fleet: Fleet, topology: Topology, pool: int, node_ranks: IntArray, length_ms: IntArray, pinned: Mask
) -> tuple[Nest, IntArray]:
    """(the pool's cells, the fleet's number of each)."""
    n = len(node_ranks)
    size = np.diff(fleet.first_gpu)[topology.node_at[node_ranks]]
    first_row = np.concatenate(([0], np.cumsum(size)))
    first_gpu = topology.first_gpu[Level.NODE][topology.node_at[node_ranks]]
    firsts, ends, numbers, wholes = [np.arange(n)], [np.arange(n) + 1], [topology.node_at[node_ranks]], [np.ones(n)]
    above, offset = [np.arange(n), np.arange(n)], [0, 0, n]
    for level in LEVELS[Level.NVLINK_DOMAIN :]:
        of_rank = topology.cell_of_rank[level][first_gpu]
        first = np.flatnonzero(np.diff(of_rank, prepend=-1))
        end = np.append(first[1:], n).astype(np.int64) if n else first
        above.append(offset[-1] + np.repeat(np.arange(len(first)), end - first))
        firsts.append(first)
        ends.append(end)
        numbers.append(of_rank[first])
        wholes.append(topology.pool[level][of_rank[first]] == pool)
        offset.append(offset[-1] + len(first))
    first, end = (np.concatenate(parts).astype(np.int64) for parts in (firsts, ends))
    whole = np.concatenate(wholes).astype(np.bool_)
    gpus = first_row[end] - first_row[first]
    given = [gpus[lo:hi][whole[lo:hi]] for lo, hi in pairwise(offset[1:])]
    least = [1, *(int(sizes.min(initial=int(first_row[-1]) + 1)) for sizes in given)]
    nest = Nest(
        size=size.astype(np.int64),
        first=first,
        end=end,
        above=np.stack(above).astype(np.int64),
        offset=np.array(offset, dtype=np.int64),
        gpus=gpus.astype(np.int64),
        least=np.array(least, dtype=np.int64),
        whole=whole,
        length=length_ms.astype(np.int64),
        first_row=first_row.astype(np.int64),
        pinned=pinned,
    )
    return nest, np.concatenate(numbers).astype(np.int64)


def _pin(
    topology: Topology,
    nest: Nest,
    node_of_rank: IntArray,
    cuts: IntArray,
    used: IntArray,
    pinned: Columns,
    usable: Mask,
) -> None:
    """Put pinned holdings on `used`, all at once: +1 at the start, −1 at the end, and a running sum along time."""
    if not len(cuts) or not len(pinned):
        return
    lost = used[:, 0].copy()
    change = np.zeros((used.shape[0], len(cuts)), dtype=np.int64)
    inside = (pinned.start_ms < cuts[-1]) & (pinned.end_ms > cuts[0])
    for level in LEVELS:
        rows = np.flatnonzero(inside & (pinned.level == level))
        cells = pinned.cell[rows]
        which, ranks = expanded(topology.first_node[level][cells], topology.end_node[level][cells])
        nodes = node_of_rank[ranks]
        here = nodes >= 0
        which, nodes = which[here], nodes[here]
        i = np.searchsorted(cuts, np.maximum(pinned.start_ms[rows], cuts[0]))[which]
        j = np.searchsorted(cuts, np.minimum(pinned.end_ms[rows], cuts[-1]))[which]
        # What is unusable counts already.
        taken = usable[cells[which]].astype(np.int64) if level == Level.GPU else nest.size[nodes] - lost[nodes]
        np.add.at(change, (nodes, i), taken)
        np.add.at(change, (nodes, j), -taken)
    used += np.cumsum(change[:, :-1], axis=1)


def _pinned_gpus(topology: Topology, ranks: IntArray, cuts: IntArray, pinned: Columns, usable: Mask) -> Mask:
    """`Nest.pinned`: no rows where all pinned GPU lots are in force from the first slot on."""
    if not len(cuts):
        return np.zeros((0, 0), dtype=np.bool_)
    inside = (pinned.start_ms < cuts[-1]) & (pinned.end_ms > cuts[0])
    if not (inside & (pinned.level == Level.GPU) & (pinned.start_ms > cuts[0])).any():
        return np.zeros((0, len(cuts) - 1), dtype=np.bool_)
    change = np.zeros((len(ranks), len(cuts)), dtype=np.int32)
    change[~usable[topology.gpu_at[ranks]], 0] = 1
    row_of_rank = np.full(len(topology.gpu_at), -1, dtype=np.int64)
    row_of_rank[ranks] = np.arange(len(ranks))
    for level in LEVELS:
        holdings = np.flatnonzero(inside & (pinned.level == level))
        which, theirs = topology.spread(level, pinned.cell[holdings])
        rows = row_of_rank[theirs]
        here = rows >= 0
        which, rows = which[here], rows[here]
        np.add.at(change, (rows, np.searchsorted(cuts, np.maximum(pinned.start_ms[holdings], cuts[0]))[which]), 1)
        np.add.at(change, (rows, np.searchsorted(cuts, np.minimum(pinned.end_ms[holdings], cuts[-1]))[which]), -1)
    return np.asarray(np.cumsum(change[:, :-1], axis=1) > 0)
