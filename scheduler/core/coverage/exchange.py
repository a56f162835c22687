"""Idle cells for busy ones: swaps of names, so that what cannot be preempted finds room on its account's own cells.

An account's own work that can be preempted fills its cells, while equal cells of others stand idle. Two such nodes swap
places: the account owns the idle one, and its work is a guest on the other, whose owner takes it back as it would have
taken back the idle one's guests. Nobody is evicted. Laws: no node trades that holds what cannot be preempted, that is
not all well, or that a lot above NODE ties; each node trades at most once in a call; nobody gives away what its own
gangs of that kind wait for; ties by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.coverage.follow import Swap

BoolArray = npt.NDArray[np.bool_]
MIXED = -2


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
    untied: BoolArray
    """(n_nodes): no lot above NODE ties the node."""


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


def idle_for_busy(fleet: Fleet, ground: Ground, waiting: Sequence[Asked]) -> tuple[Swap, ...]:
    """The swaps that give those who wait their room, the first in line first; nobody gets a part of it. The right node
    is the account's own before the swap.
    """
    sizes, owner = np.diff(fleet.first_gpu), ground.whole.owner
    movable = ground.untied & (_count(fleet, np.flatnonzero(ground.fixed | ~ground.usable)) == 0)
    free = _count(fleet, ground.free)
    swaps: list[Swap] = []
    served: set[int] = set()
    given = movable & (owner >= 0) & ~np.isin(owner, [asked.account for asked in waiting])
    for asked in waiting:
        missing = asked.parts - int(room(fleet, ground, asked).sum())
        if missing <= 0 or asked.account in served:
            continue
        own = np.flatnonzero((owner == asked.account) & movable & (fleet.pool_of_node == asked.pool))
        own = own[ground.whole.until_ms[own] >= asked.end_ms]
        mine: list[int] = own[np.lexsort((own, free[own]))].tolist()
        found: list[Swap] = []
        theirs = np.flatnonzero(given & (free >= asked.size) & (fleet.pool_of_node == asked.pool)) if mine else own
        for left in theirs[np.lexsort((theirs, free[theirs]))].tolist():
            right = next((right for right in mine if sizes[right] == sizes[left]), None)
            gain = 0 if right is None else free[left] // asked.size - free[right] // asked.size
            if right is None or gain <= 0:
                continue
            found.append((Level.NODE, left, right))
            mine.remove(right)
            missing -= int(gain)
            if missing <= 0:
                break
        if missing <= 0:
            served.add(asked.account)
            swaps += found
            given[[node for _, left, right in found for node in (left, right)]] = False
    return tuple(swaps)


def _count(fleet: Fleet, gpus: IntArray) -> IntArray:
    """(n_nodes): how many of these GPUs each node has."""
    return np.bincount(fleet.node_of_gpu[gpus], minlength=len(fleet.nodes))
