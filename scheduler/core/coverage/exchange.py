"""Idle cells for busy ones: swaps of names, so that what cannot be preempted finds room on its account's own cells.

An account's own work that can be preempted fills its cells, while equal cells of others stand idle. Two such cells swap
places: the account owns the idle one, and its work is a guest on the other, whose owner takes it back as it would have
taken back the idle one's guests. Nobody is evicted. Nodes trade first, then single GPUs, inside a node or of
two, then domains and blocks. Laws: no cell trades that holds what cannot be preempted, that is not all well, or
that a lot of a higher level ties; each GPU trades at most once in a call; nobody gives away what its own gangs of that
kind wait for; GPUs leave a node only where nobody loses room for workers by it (`neighbours`); ties by number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.follow import Swap
from scheduler.core.coverage.neighbours import Neighbours
from scheduler.core.coverage.topology import topology_of

BoolArray = npt.NDArray[np.bool_]
UNSOLD, MIXED = -1, -2

CELLS = (Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)
NODES_TRIED = 8
"""So many of the account's nodes are tried, beside the node itself, for each node with idle GPUs."""


class Asked(NamedTuple):
    """What waits: `parts` times `size` GPUs of a pool, each part on one node, that its account owns until `end_ms`."""

    account: int
    pool: int
    parts: int
    size: int
    end_ms: int


class Whole(NamedTuple):
    """Nodes as they are owned; every array is (n_nodes)."""

    owner: npt.NDArray[np.int32]
    """Index of the account that owns all of the node, -1 unsold, -2 where it has several owners."""
    until_ms: IntArray
    """Until when all of it stays so."""


class Ground(NamedTuple):
    """The fleet as it is now; arrays are (n_gpus) but for what is said of them."""

    owner: npt.NDArray[np.int32]
    """Index of the account, -1 unsold."""
    until_ms: IntArray
    """Until when it stays with that account, or unsold."""
    whole: Whole
    fixed: BoolArray
    """Whether what cannot be preempted is there."""
    free: IntArray
    """(n): numbers of the GPUs that are usable and where nobody is or is about to be."""
    usable: BoolArray
    untied: Callable[[Level], BoolArray]
    """(n_cells) of a level: no lot of a higher one ties the cell."""
    levels: Collection[Level]
    """Those of which lots are held, now or later: cells of no other level need to be looked at beside nodes."""
    neighbours: Callable[[], Neighbours]
    """Who holds single GPUs beside each other."""


def whole_of(fleet: Fleet, owner: npt.NDArray[np.int32], until_ms: IntArray) -> Whole:
    """Nodes as these owners of GPUs own them."""
    first = fleet.first_gpu[:-1]
    if not len(first):
        return Whole(owner[:0], until_ms[:0])
    least, most = np.minimum.reduceat(owner, first), np.maximum.reduceat(owner, first)
    return Whole(np.where(least == most, least, MIXED), np.minimum.reduceat(until_ms, first))


def room(fleet: Fleet, ground: Ground, asked: Asked) -> IntArray:
    """(n_nodes): how many parts fit GPUs that are free and lastingly the account's own, or nobody's."""
    owner = ground.owner[ground.free]
    may = (ground.until_ms[ground.free] >= asked.end_ms) & ((owner == asked.account) | (owner < 0))
    return np.where(fleet.pool_of_node == asked.pool, _count(fleet, ground.free[may]) // asked.size, 0)


def idle_for_busy(
    fleet: Fleet, ground: Ground, waiting: Sequence[Asked], nodes: Nodes | None = None
) -> tuple[Swap, ...]:
    """The swaps that give those who wait their room, the first in line first; nobody gets a part of it. The right cell
    is the account's own before the swap. `nodes`: those that may trade, which are fewer afterwards.
    """
    nodes, others = nodes or Nodes(fleet, ground, waiting), _Others(fleet, ground, waiting)
    swaps: list[Swap] = []
    served: set[int] = set()
    for asked in waiting:
        missing = asked.parts - int(room(fleet, ground, asked).sum())
        if missing <= 0 or asked.account in served:
            continue
        found = nodes.found(asked, missing)
        if not found:
            found = next((found for found in others.found(asked, missing) if found), [])
        if found:
            served.add(asked.account)
            swaps += found
            nodes.traded(found)
            others.traded(found)
    return tuple(swaps)


class Nodes:
    """Whole nodes that may trade, in one call."""

    def __init__(self, fleet: Fleet, ground: Ground, waiting: Sequence[Asked]) -> None:
        self._fleet, self._ground = fleet, ground
        self._sizes, owner = np.diff(fleet.first_gpu), ground.whole.owner
        unmovable = _count(fleet, np.flatnonzero(ground.fixed | ~ground.usable)) > 0
        self._movable = ground.untied(Level.NODE) & ~unmovable
        self._free = _count(fleet, ground.free)
        self._given = (owner >= 0) & ~np.isin(owner, [asked.account for asked in waiting])

    def own(self, asked: Asked) -> IntArray:
        """The account's own that it keeps until the asked end."""
        own = np.flatnonzero((self._ground.whole.owner == asked.account) & self._of_pool(asked))
        return own[self._ground.whole.until_ms[own] >= asked.end_ms]

    def others(self, asked: Asked) -> IntArray:
        """Those of one other account that waits for nothing, or nobody's."""
        return np.flatnonzero((self._given | (self._ground.whole.owner == UNSOLD)) & self._of_pool(asked))

    def _of_pool(self, asked: Asked) -> BoolArray:
        here: BoolArray = self._movable & (self._fleet.pool_of_node == asked.pool)
        return here

    def found(self, asked: Asked, missing: int) -> list[Swap]:
        """Trades of idle ones that make up for all that is missing, or none."""
        sizes, free = self._sizes, self._free
        mine = _by_free(self.own(asked), free)
        theirs = np.flatnonzero(self._given & self._of_pool(asked) & (free >= asked.size))
        found: list[Swap] = []
        for left in _by_free(theirs, free):
            right = next((right for right in mine if sizes[right] == sizes[left]), None)
            gain = 0 if right is None else free[left] // asked.size - free[right] // asked.size
            if right is None or gain <= 0:
                continue
            found.append((Level.NODE, left, right))
            mine.remove(right)
            missing -= int(gain)
            if missing <= 0:
                return found
        return []

    def traded(self, swaps: Sequence[Swap]) -> None:
        """The nodes of these cells trade no more."""
        topology = topology_of(self._fleet)
        for level, *cells in swaps:
            for cell in cells:
                self._movable[self._fleet.node_of_gpu[topology.gpus(level, cell)]] = False


class _Others:
    """Single GPUs, domains and blocks that may trade, in one call; looked at once somebody needs them."""

    def __init__(self, fleet: Fleet, ground: Ground, waiting: Sequence[Asked]) -> None:
        self._fleet = fleet
        self._topology = topology_of(fleet)
        self._ground = ground
        self._waiting = [asked.account for asked in waiting]
        self._traded: list[int] = []

    def found(self, asked: Asked, missing: int) -> Iterator[list[Swap]]:
        """Trades that make up for all that is missing, or none, by level."""
        if Level.GPU in self._ground.levels:
            yield self._single_gpus(asked, missing)
        for level in CELLS:
            if level in self._ground.levels:
                yield self._cells(level, asked, missing)

    def traded(self, swaps: Sequence[Swap]) -> None:
        """These GPUs trade no more."""
        for level, left, right in swaps:
            for cell in (left, right):
                self._traded += self._topology.gpus(level, cell).tolist()

    @cached_property
    def _is_free(self) -> BoolArray:
        free = np.zeros(self._fleet.n_gpus, dtype=np.bool_)
        free[self._ground.free] = True
        return free

    @cached_property
    def _given(self) -> BoolArray:
        return (self._ground.owner >= 0) & ~np.isin(self._ground.owner, self._waiting)

    def _movable(self) -> BoolArray:
        movable: BoolArray = self._ground.usable & ~self._ground.fixed
        movable[self._traded] = False
        return movable

    def _cells(self, level: Level, asked: Asked, missing: int) -> list[Swap]:
        topology, ground = self._topology, self._ground
        sizes = topology.end_gpu[level] - topology.first_gpu[level]
        lone = ground.owner[topology.gpu_at[topology.first_gpu[level]]]
        of_cell = np.empty_like(ground.owner)
        of_cell[topology.gpu_at] = lone[topology.cell_of_rank[level]]
        movable = ground.untied(level) & (topology.counted(level, ~self._movable() | (ground.owner != of_cell)) == 0)
        movable &= topology.pool[level] == asked.pool
        free = topology.counted(level, self._is_free)
        slots = self._slots(level, asked.size)
        own = movable & (lone == asked.account) & (topology.counted(level, ground.until_ms < asked.end_ms) == 0)
        theirs = np.flatnonzero(movable & (topology.counted(level, self._given) == sizes) & (slots > 0))
        mine = _by_free(np.flatnonzero(own), free)
        found: list[Swap] = []
        for left in _by_free(theirs, free):
            shape = topology.shape(level, left)
            right = next((right for right in mine if topology.shape(level, right) == shape), None)
            gain = 0 if right is None else int(slots[left] - slots[right])
            if right is None or gain <= 0:
                continue
            found.append((level, left, right))
            mine.remove(right)
            missing -= gain
            if missing <= 0:
                return found
        return []

    def _slots(self, level: Level, size: int) -> IntArray:
        """(n_cells): how many parts of a size the free GPUs of each cell's nodes hold."""
        by_node = _count(self._fleet, self._ground.free) // size
        before = np.concatenate(([0], np.cumsum(by_node[self._topology.node_at])))
        slots: IntArray = before[self._topology.end_node[level]] - before[self._topology.first_node[level]]
        return slots

    def _single_gpus(self, asked: Asked, missing: int) -> list[Swap]:
        """GPUs that GPU lots cover: idle ones of others on a node, for as many busy ones of the account there or on
        another node; no node is part of two trades.
        """
        ground, fleet = self._ground, self._fleet
        movable = self._movable() & ground.untied(Level.GPU) & (fleet.pool_of_node[fleet.node_of_gpu] == asked.pool)
        own = movable & (ground.owner == asked.account) & ~self._is_free & (ground.until_ms >= asked.end_ms)
        mine = _by_node(fleet, own)
        theirs = _by_node(fleet, movable & self._given & self._is_free) if mine else {}
        lasting = self._is_free & (ground.until_ms >= asked.end_ms)
        has = _count(fleet, np.flatnonzero(lasting & ((ground.owner == asked.account) | (ground.owner < 0))))
        found: list[Swap] = []
        taken: set[int] = set()
        for here in sorted(theirs, key=lambda node: (len(theirs[node]), node)):
            there = [node for node in sorted(mine, key=lambda node: (len(mine[node]), node)) if node != here]
            for node in (here, *there[:NODES_TRIED]):
                if node not in mine or {here, node} & taken:
                    continue
                most = min(len(theirs[here]), len(mine[node]))
                gain = min(missing, (has[here] + most) // asked.size - has[here] // asked.size)
                n = (has[here] // asked.size + gain) * asked.size - has[here]
                left, right = theirs[here][:n], mine[node][:n]
                if gain <= 0 or (node != here and not ground.neighbours().keep_room(left, right)):
                    continue
                found += [(Level.GPU, *pair) for pair in zip(left, right, strict=True)]
                taken |= {here, node}
                missing -= int(gain)
                if missing <= 0:
                    return found
        return []


def _by_free(cells: IntArray, free: IntArray) -> list[int]:
    """The cells, those with the fewest free GPUs first."""
    ordered: list[int] = cells[np.lexsort((cells, free[cells]))].tolist()
    return ordered


def _by_node(fleet: Fleet, chosen: BoolArray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for gpu in np.flatnonzero(chosen).tolist():
        found.setdefault(int(fleet.node_of_gpu[gpu]), []).append(gpu)
    return found


def _count(fleet: Fleet, gpus: IntArray) -> IntArray:
    """(n_nodes): how many of these GPUs each node has."""
    return np.bincount(fleet.node_of_gpu[gpus], minlength=len(fleet.nodes))
