"""One pool's calendar as arrays over compressed time: which GPUs are taken in which slot, and what is still untouched
above.

Time is cut at every start and end; between two cuts lies a *slot*, in which nothing changes. A GPU lot counts on its
node only: which GPU of the node it gets is decided last, since any lots that never exceed the node's GPUs can be told
apart by start. Laws: `used` never exceeds `size`; `place` and then the same with `times=-1` changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.columns import Columns
from scheduler.core.coverage.topology import LEVELS, Topology, expanded, topology_of
from scheduler.core.errors import Conflict
from scheduler.core.holdings import Demand

PARENTS = (Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK, Level.SITE)


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """The cells of one level that the pool has nodes in, ascending by rank. Node numbers are the board's (see
    `Board`).
    """

    cells: IntArray
    """The fleet's numbers."""
    first: IntArray
    """The cell's first node."""
    end: IntArray
    """After its last node."""
    of_node: IntArray
    """(n_nodes): the place in this tier of the cell that each node lies in."""
    whole: npt.NDArray[np.bool_]
    """Whether all of the cell lies in the pool: only such cells can be given."""


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """See the module. A node's number here is its place among the pool's nodes by rank; every cell is a range of
    them.
    """

    pool: int
    topology: Topology
    cuts: IntArray
    """(n_slots + 1): ascending instants."""
    length_ms: IntArray
    """(n_slots): how long each slot lasts."""
    size: npt.NDArray[np.uint8]
    """(n_nodes): GPUs."""
    used: npt.NDArray[np.uint8]
    """(n_nodes, n_slots): GPUs taken or unusable."""
    tiers: tuple[Tier, ...]
    """By level from NODE; `tiers[0]` is an empty stand-in for GPU."""
    touched: tuple[npt.NDArray[np.int32], ...]
    """By level, (cells, n_slots): how many lots lie in or over each cell of the parent levels (empty below them)."""

    first_row: IntArray
    """(n_nodes + 1): each node's first row in `pinned_gpus`."""
    pinned_gpus: npt.NDArray[np.bool_]
    """(GPUs of the pool by rank, n_slots), where a pinned holding or ill health takes each; no rows where all pinned
    GPU lots are in force from the first slot on: then counts alone decide.
    """

    @property
    def n_nodes(self) -> int:
        """How many nodes the pool has."""
        return len(self.size)

    def slots(self, start_ms: int, end_ms: int) -> tuple[int, int]:
        """The slots `[i, j)` of a window; its ends must be cuts."""
        i, j = np.searchsorted(self.cuts, (start_ms, end_ms))
        return int(i), int(j)

    def room(self, level: Level, i: int, j: int) -> IntArray:
        """(cells of the tier; nodes at GPU) int64: how many lots each can still take throughout the slots `[i, j)`."""
        if level >= Level.NVLINK_DOMAIN:
            tier = self.tiers[level]
            free = ~self.touched[level][:, i:j].any(axis=1) & tier.whole
            return free.astype(np.int64)
        most = self.used[:, i:j].max(axis=1)
        if level == Level.GPU:
            return np.asarray(
                np.minimum(self.size.astype(np.int64) - most, self._gpus_never_pinned(0, self.n_nodes, i, j))
            )
        return np.asarray((most == 0).astype(np.int64))

    def room_at(self, level: Level, at: int, i: int, j: int) -> int:
        """`room` of one cell."""
        if level >= Level.NVLINK_DOMAIN:
            return int(self.tiers[level].whole[at] and not self.touched[level][at, i:j].any())
        most = int(self.used[at, i:j].max())
        if level == Level.NODE:
            return int(most == 0)
        return int(min(int(self.size[at]) - most, self._gpus_never_pinned(at, at + 1, i, j)[0]))

    def _gpus_never_pinned(self, first: int, end: int, i: int, j: int) -> IntArray:
        """For the nodes `[first, end)`: how many of their GPUs no pinned holding takes in the slots."""
        if not len(self.pinned_gpus):
            return self.size[first:end].astype(np.int64)
        rows = slice(int(self.first_row[first]), int(self.first_row[end]))
        free = ~self.pinned_gpus[rows, i:j].any(axis=1)
        return np.add.reduceat(free.astype(np.int64), self.first_row[first:end] - self.first_row[first])

    def copy(self) -> Board:
        """A board that can be changed apart from this one."""
        return replace(self, used=self.used.copy(), touched=tuple(counts.copy() for counts in self.touched))

    def newly_broken_ms(self, level: Level, cells: IntArray, i: int, j: int) -> IntArray:
        """(len(cells)) int64: how long, of the slots `[i, j)`, each of these cells of a tier is still untouched."""
        taken = self.used if level == Level.NODE else self.touched[level]
        untouched = taken[cells, i:j] == 0
        return np.asarray(untouched @ self.length_ms[i:j])

    def place(self, level: Level, at: int, i: int, j: int, times: int = 1) -> None:
        """Take the cell at that place of its tier (a GPU of that node) for the slots, so many times; negative gives
        back.
        """
        if level == Level.GPU:
            first, end = at, at + 1
            self.used[at, i:j] += np.uint8(times % 256)
        else:
            first, end = self.nodes_of(level, at)
            whole = self.size[first:end, None]
            self.used[first:end, i:j] += whole if times > 0 else np.uint8(0) - whole
        for parent in PARENTS:
            cells = self.tiers[parent].of_node
            self.touched[parent][cells[first] : cells[end - 1] + 1, i:j] += times

    def nodes_of(self, level: Level, at: int) -> tuple[int, int]:
        """The nodes `[first, end)` of the cell at that place of its tier."""
        if level <= Level.NODE:
            return at, at + 1
        tier = self.tiers[level]
        return int(tier.first[at]), int(tier.end[at])

    def place_in_tier(self, level: Level, cell: int) -> int:
        """Where a cell of the fleet stands in its tier (its node, at GPU), or -1 where the pool has no part of it."""
        first = self.topology.first_gpu[level]
        if not 0 <= cell < len(first):
            return -1
        tier_level = max(level, Level.NODE)
        cells = self.tiers[tier_level].cells
        number = int(self.topology.cell_of_rank[tier_level][first[cell]])
        found = np.flatnonzero(cells == number)
        return int(found[0]) if len(found) else -1


def board_of(
    fleet: Fleet,
    pool: int,
    demands: Sequence[Demand],
    pinned: Columns,
    usable: npt.NDArray[np.bool_],
) -> Board:
    """The board of a pool with the pinned holdings on it. Raises Conflict where two of them share a GPU and an
    instant.
    """
    topology = topology_of(fleet)
    in_pool = fleet.pool_of_node[topology.node_at] == pool
    node_ranks = np.flatnonzero(in_pool)
    cuts = _cuts(pool, demands, pinned)
    n_slots = max(0, len(cuts) - 1)
    size = np.diff(fleet.first_gpu)[topology.node_at[node_ranks]].astype(np.uint8)
    unusable = (
        np.add.reduceat(
            np.append(~usable[topology.gpu_at], False).astype(np.int64),
            np.minimum(topology.first_gpu[Level.NODE][topology.node_at], len(topology.gpu_at)),
        )[node_ranks]
        if len(node_ranks)
        else np.zeros(0, dtype=np.int64)
    )
    tiers = tuple(_tier(topology, level, pool, node_ranks) for level in LEVELS)
    used = np.repeat(unusable.astype(np.uint8)[:, None], n_slots, axis=1)
    touched = tuple(
        np.zeros((len(tiers[level].cells) if level in PARENTS else 0, n_slots), dtype=np.int32) for level in LEVELS
    )
    first_row = np.concatenate(([0], np.cumsum(size, dtype=np.int64)))
    taken = _pinned_gpus(topology, node_ranks, cuts, pinned, usable)
    board = Board(pool, topology, cuts, np.diff(cuts), size, used, tiers, touched, first_row, taken)
    for parent in PARENTS:
        np.add.at(board.touched[parent], tiers[parent].of_node[unusable > 0], 1)
        board.touched[parent][~tiers[parent].whole] += 1
    _pin(board, node_ranks, pinned, usable)
    return board


def _cuts(pool: int, demands: Sequence[Demand], pinned: Columns) -> IntArray:
    windows = [(d.start_ms, d.end_ms) for d in demands if d.pool == pool]
    if not windows:
        return np.zeros(0, dtype=np.int64)
    instants = np.unique(np.array(windows, dtype=np.int64))
    inside = (pinned.start_ms < instants[-1]) & (pinned.end_ms > instants[0])
    theirs = np.concatenate((pinned.start_ms[inside], pinned.end_ms[inside]))
    return np.unique(np.concatenate((instants, np.clip(theirs, instants[0], instants[-1]))))


def _tier(topology: Topology, level: Level, pool: int, node_ranks: IntArray) -> Tier:
    level = max(level, Level.NODE)
    if not len(node_ranks):
        none = np.zeros(0, dtype=np.int64)
        return Tier(none, none, none, none, np.zeros(0, dtype=np.bool_))
    first_gpu = topology.first_gpu[Level.NODE][topology.node_at[node_ranks]]
    of_rank = topology.cell_of_rank[level][first_gpu]
    first = np.flatnonzero(np.diff(of_rank, prepend=-1))
    end = np.append(first[1:], len(of_rank)).astype(np.int64)
    cells = of_rank[first]
    of_node = np.repeat(np.arange(len(cells)), end - first)
    return Tier(cells, first, end, of_node, topology.pool[level][cells] == pool)


def _pin(board: Board, node_ranks: IntArray, pinned: Columns, usable: npt.NDArray[np.bool_]) -> None:
    """Put pinned holdings on the board, all at once: +1 at the start, −1 at the end, and a running sum along time."""
    if not len(board.cuts) or not len(pinned):
        return
    topology, n_slots = board.topology, len(board.length_ms)
    number_of_rank = np.full(len(topology.node_at), -1, dtype=np.int64)
    number_of_rank[node_ranks] = np.arange(len(node_ranks))
    inside = (pinned.start_ms < board.cuts[-1]) & (pinned.end_ms > board.cuts[0])
    used = np.zeros((board.n_nodes, n_slots + 1), dtype=np.int64)
    touched = {parent: np.zeros((len(board.tiers[parent].cells), n_slots + 1), dtype=np.int64) for parent in PARENTS}
    for level in LEVELS:
        rows = np.flatnonzero(inside & (pinned.level == level))
        cells = pinned.cell[rows]
        which, ranks = expanded(topology.first_node[level][cells], topology.end_node[level][cells])
        nodes = number_of_rank[ranks]
        here = nodes >= 0
        which, nodes = which[here], nodes[here]
        i = np.searchsorted(board.cuts, np.maximum(pinned.start_ms[rows], board.cuts[0]))[which]
        j = np.searchsorted(board.cuts, np.minimum(pinned.end_ms[rows], board.cuts[-1]))[which]
        taken = _usable_gpus(board, level, cells, which, nodes, usable)
        np.add.at(used, (nodes, i), taken)
        np.add.at(used, (nodes, j), -taken)
        for parent in PARENTS:
            of_node = board.tiers[parent].of_node[nodes]
            np.add.at(touched[parent], (of_node, i), 1)
            np.add.at(touched[parent], (of_node, j), -1)
    total = np.cumsum(used[:, :-1], axis=1) + board.used
    if (total > board.size[:, None]).any():
        node = int(topology.node_at[node_ranks[int(np.flatnonzero((total > board.size[:, None]).any(axis=1))[0])]])
        raise Conflict(f"the pinned holdings on node number {node} need more GPUs than it has")
    board.used[:] = total.astype(np.uint8)
    for parent in PARENTS:
        board.touched[parent][:] += np.cumsum(touched[parent][:, :-1], axis=1).astype(np.int32)


def _pinned_gpus(
    topology: Topology, node_ranks: IntArray, cuts: IntArray, pinned: Columns, usable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """`Board.pinned_gpus`."""
    if not len(cuts):
        return np.zeros((0, 0), dtype=np.bool_)
    inside = (pinned.start_ms < cuts[-1]) & (pinned.end_ms > cuts[0])
    if not (inside & (pinned.level == Level.GPU) & (pinned.start_ms > cuts[0])).any():
        return np.zeros((0, len(cuts) - 1), dtype=np.bool_)
    nodes = topology.node_at[node_ranks]
    _, ranks = expanded(topology.first_gpu[Level.NODE][nodes], topology.end_gpu[Level.NODE][nodes])
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


def _usable_gpus(
    board: Board, level: Level, cells: IntArray, which: IntArray, nodes: IntArray, usable: npt.NDArray[np.bool_]
) -> IntArray:
    """For each (holding, node): its GPUs that do not already count as unusable."""
    if level == Level.GPU:
        return usable[cells[which]].astype(np.int64)
    lost = board.used[nodes, 0].astype(np.int64) if board.used.shape[1] else np.zeros(len(nodes), dtype=np.int64)
    return board.size[nodes].astype(np.int64) - lost
