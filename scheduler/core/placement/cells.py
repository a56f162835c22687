"""Cells as arrays: domains and blocks of each pool, and how many parts of a size each has, kept once asked for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.kernels import kernel
from scheduler.core.placement.fits import cells_of_nodes

ROW_OF_LEVEL = {None: -1, Level.NVLINK_DOMAIN: 0, Level.FABRIC_BLOCK: 1}
"""Which row of `Cells` a level has; -1: none binds."""
LEVELS = (Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)


MANY_SLOTS = 64
"""Cells with so many slots or more are told apart by looking at them."""
HOW_MANY, FROM = range(2)
"""Columns of a table by slots: how many of a pool's cells have so many, none of which comes before FROM."""


class Cells(NamedTuple):
    """The cells of both levels, pool by pool, and in each pool in order of their numbers in the fleet."""

    of_node: IntArray
    """(2, n_nodes): the cell of each node."""
    first: IntArray
    """(2, n_cells + 1): where each cell's nodes begin in `nodes`."""
    nodes: IntArray
    """(2, n_nodes): the nodes of each cell, ascending."""
    of_pool: IntArray
    """(2, n_pools + 1): where each pool's cells begin."""

    @classmethod
    def of(cls, fleet: Fleet) -> Cells:
        """The fleet's."""
        n_nodes, n_pools = len(fleet.nodes), len(fleet.pools)
        most = max(n_nodes, 1)
        of_node = np.zeros((2, n_nodes), dtype=np.int64)
        first = np.full((2, most + 1), n_nodes, dtype=np.int64)
        nodes = np.zeros((2, n_nodes), dtype=np.int64)
        of_pool = np.zeros((2, n_pools + 1), dtype=np.int64)
        for row, level in enumerate(LEVELS):
            numbers = cells_of_nodes(fleet, level)
            if n_nodes and numbers is not None:
                keys = fleet.pool_of_node * (int(numbers.max()) + 1) + numbers
                known, of_node[row] = np.unique(keys, return_inverse=True)
                nodes[row] = of_node[row].argsort(kind="stable")
                first[row, : len(known)] = of_node[row][nodes[row]].searchsorted(np.arange(len(known)))
                pools = known // (int(numbers.max()) + 1)
                of_pool[row] = pools.searchsorted(np.arange(n_pools + 1))
        n_cells = int(of_pool.max(initial=0))
        return cls(of_node, first[:, : n_cells + 1].copy(), nodes, of_pool)

    @property
    def number(self) -> int:
        """The most cells that a level has."""
        return int(self.first.shape[1]) - 1


@kernel
def tally_slots(slots: IntArray, by_slots: IntArray, low: int, high: int) -> None:
    """Make the table of these cells."""
    by_slots[:, HOW_MANY] = 0
    by_slots[:, FROM] = high
    for cell in range(low, high):
        number = min(slots[cell], MANY_SLOTS)
        by_slots[number, HOW_MANY] += 1
        by_slots[number, FROM] = min(by_slots[number, FROM], cell)


@kernel
def shift(slots: IntArray, by_slots: IntArray, cell: int, more: int) -> None:
    """The cell has so many more slots."""
    by_slots[min(slots[cell], MANY_SLOTS), HOW_MANY] -= 1
    slots[cell] += more
    number = min(slots[cell], MANY_SLOTS)
    by_slots[number, HOW_MANY] += 1
    by_slots[number, FROM] = min(by_slots[number, FROM], cell)


@kernel
def smallest(slots: IntArray, by_slots: IntArray, low: int, high: int, parts: int) -> int:
    """Of these cells, those of a pool, the one with the fewest slots that has enough, ties by number; -1 none."""
    number = parts
    while number < MANY_SLOTS and by_slots[number, HOW_MANY] == 0:
        number += 1
    if number < MANY_SLOTS:
        cell = by_slots[number, FROM]
        while slots[cell] != number:
            cell += 1
        by_slots[number, FROM] = cell
        return int(cell)
    best, least = -1, 0
    for cell in range(low, high):
        if slots[cell] >= parts and (best < 0 or slots[cell] < least):
            best, least = cell, slots[cell]
            if least == parts:
                break
    return best
