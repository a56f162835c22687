"""Idle cells for busy ones: swaps of names, so that what cannot be preempted finds room on its account's own cells.

An account's own work that can be preempted fills its cells, while equal cells of others stand idle. Two such cells swap
places: the account owns the idle one, and its work is a guest on the other, whose owner takes it back as it would have
taken back the idle one's guests. Nobody is evicted. The smallest cells that suffice trade: GPUs, inside a node or of
two, then nodes, domains, blocks. Laws: no cell trades that holds what cannot be preempted, that is not all well, or
that a lot of a higher level ties; each GPU trades at most once in a call; nobody gives away what its own gangs of that
kind wait for; GPUs leave a node only where nobody loses room for workers by it (`neighbours`); ties by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.follow import Swap
from scheduler.core.coverage.neighbours import Neighbours
from scheduler.core.coverage.topology import topology_of

BoolArray = npt.NDArray[np.bool_]

CELLS = (Level.NODE, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)
NODES_TRIED = 8
"""So many of the account's nodes are tried, beside the node itself, for each node with idle GPUs."""


class Asked(NamedTuple):
    """What waits: `parts` times `size` GPUs of a pool, each part on one node, that its account owns until `end_ms`."""

    account: int
    pool: int
    parts: int
    size: int
    end_ms: int


class Ground(NamedTuple):
    """The fleet as it is now; every array is (n_gpus)."""

    owner: npt.NDArray[np.int32]
    """Index of the account, -1 unsold."""
    until_ms: IntArray
    """Until when it stays with that account, or unsold."""
    fixed: BoolArray
    """Whether what cannot be preempted is there."""
    free: BoolArray
    """Usable, and nobody is there or about to be."""
    usable: BoolArray
    untied: Callable[[Level], BoolArray]
    """(n_cells) of a level: no lot of a higher one ties the cell."""
    neighbours: Callable[[], Neighbours]
    """Who holds single GPUs beside each other."""


def room(fleet: Fleet, ground: Ground, asked: Asked) -> IntArray:
    """(n_nodes): how many parts fit GPUs that are free and lastingly the account's own, or nobody's."""
    lasting = ground.free & (ground.until_ms >= asked.end_ms)
    by_node = _count(fleet, lasting & ((ground.owner == asked.account) | (ground.owner < 0)))
    return np.where(fleet.pool_of_node == asked.pool, by_node // asked.size, 0)


def idle_for_busy(fleet: Fleet, ground: Ground, waiting: Sequence[Asked]) -> tuple[Swap, ...]:
    """The swaps that give those who wait their room, the first in line first; nobody gets a part of it. The right cell
    is the account's own before the swap.
    """
    deal = _Deal(fleet, ground, waiting)
    swaps: list[Swap] = []
    served: set[int] = set()
    for asked in waiting:
        missing = asked.parts - int(room(fleet, ground, asked).sum())
        if missing <= 0 or asked.account in served:
            continue
        found = next((found for found in deal.found(asked, missing) if found), [])
        if found:
            served.add(asked.account)
            swaps += found
            deal.traded(found)
    return tuple(swaps)


class _Deal:
    """What may trade, in one call."""

    def __init__(self, fleet: Fleet, ground: Ground, waiting: Sequence[Asked]) -> None:
        self._fleet = fleet
        self._topology = topology_of(fleet)
        self._ground = ground
        self._movable = ground.usable & ~ground.fixed
        self._given = (ground.owner >= 0) & ~np.isin(ground.owner, [asked.account for asked in waiting])

    def found(self, asked: Asked, missing: int) -> Iterator[list[Swap]]:
        """Trades that make up for all that is missing, or none, by level."""
        yield self._single_gpus(asked, missing)
        for level in CELLS:
            yield self._cells(level, asked, missing)

    def traded(self, swaps: Sequence[Swap]) -> None:
        """These GPUs trade no more."""
        for level, left, right in swaps:
            for cell in (left, right):
                self._movable[self._topology.gpus(level, cell)] = False

    def _cells(self, level: Level, asked: Asked, missing: int) -> list[Swap]:
        topology, ground = self._topology, self._ground
        sizes = topology.end_gpu[level] - topology.first_gpu[level]
        lone = ground.owner[topology.gpu_at[topology.first_gpu[level]]]
        of_cell = np.empty_like(ground.owner)
        of_cell[topology.gpu_at] = lone[topology.cell_of_rank[level]]
        movable = ground.untied(level) & (topology.counted(level, ~self._movable | (ground.owner != of_cell)) == 0)
        movable &= topology.pool[level] == asked.pool
        free = topology.counted(level, ground.free)
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
        movable = self._movable & ground.untied(Level.GPU) & (fleet.pool_of_node[fleet.node_of_gpu] == asked.pool)
        own = movable & (ground.owner == asked.account) & ~ground.free & (ground.until_ms >= asked.end_ms)
        mine = _by_node(fleet, own)
        theirs = _by_node(fleet, movable & self._given & ground.free) if mine else {}
        lasting = ground.free & (ground.until_ms >= asked.end_ms)
        has = _count(fleet, lasting & ((ground.owner == asked.account) | (ground.owner < 0)))
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


def _count(fleet: Fleet, chosen: BoolArray) -> IntArray:
    return np.add.reduceat(chosen.astype(np.int64), fleet.first_gpu[:-1])
