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


class Asked(NamedTuple):
    """What waits: `parts` times `size` GPUs of a pool, each part on one node, that its account owns until `end_ms`."""

    account: int
    pool: int
    parts: int
    size: int
    end_ms: int


class Ground(NamedTuple):
    """The fleet as it is now; every array is (n_gpus) but `untied`."""

    owner: npt.NDArray[np.int32]
    """Index of the account, -1 unsold."""
    until_ms: IntArray
    """Until when it stays with that account, or unsold."""
    fixed: BoolArray
    """Whether what cannot be preempted is there."""
    free: BoolArray
    """Usable, and nobody is there or about to be."""
    usable: BoolArray
    untied: BoolArray
    """(n_nodes): no lot above NODE ties the node."""


def room(fleet: Fleet, ground: Ground, asked: Asked) -> IntArray:
    """(n_nodes): how many parts fit GPUs that are free and lastingly the account's own, or nobody's."""
    lasting = ground.free & (ground.until_ms >= asked.end_ms)
    by_node = _count(fleet, lasting & ((ground.owner == asked.account) | (ground.owner < 0)))
    return np.where(fleet.pool_of_node == asked.pool, by_node // asked.size, 0)


def idle_for_busy(fleet: Fleet, ground: Ground, waiting: Sequence[Asked]) -> tuple[Swap, ...]:
    """The swaps that give those who wait their room, the first in line first; nobody gets a part of it. The right node
    is the account's own before the swap.
    """
    first = fleet.first_gpu[:-1]
    sizes = np.diff(fleet.first_gpu)
    least, most = np.minimum.reduceat(ground.owner, first), np.maximum.reduceat(ground.owner, first)
    movable = ground.untied & np.logical_and.reduceat(ground.usable & ~ground.fixed, first)
    free = _count(fleet, ground.free)
    swaps: list[Swap] = []
    served: set[int] = set()
    given = movable & (least == most) & (least >= 0) & ~np.isin(least, [asked.account for asked in waiting])
    for asked in waiting:
        missing = asked.parts - int(room(fleet, ground, asked).sum())
        if missing <= 0 or asked.account in served:
            continue
        here = fleet.pool_of_node == asked.pool
        lasts = np.minimum.reduceat(ground.until_ms, first) >= asked.end_ms
        own = np.flatnonzero(movable & here & (least == asked.account) & (most == asked.account) & lasts)
        mine: list[int] = own[np.lexsort((own, free[own]))].tolist()
        found: list[Swap] = []
        theirs = np.flatnonzero(given & here & (free >= asked.size))
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


def _count(fleet: Fleet, chosen: BoolArray) -> IntArray:
    return np.add.reduceat(chosen.astype(np.int64), fleet.first_gpu[:-1])
