"""Where a want fits, given how many GPUs of each node it may use.

All functions are pure over numbers by node; nothing here knows owners, occupants or money.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.placement.wants import Want


@dataclass(frozen=True, slots=True)
class Room:
    """Room made for a want: its GPUs, ascending by node, and the rows to end first."""

    gpus: IntArray
    victims: tuple[int, ...]


def cells_of_nodes(fleet: Fleet, level: Level | None) -> IntArray | None:
    """(n_nodes) int64: the cell of that level around each node. None where the level binds nothing."""
    match level:
        case Level.NVLINK_DOMAIN:
            return fleet.domain_of_node
        case Level.FABRIC_BLOCK:
            return fleet.block_of_node
        case _:
            return None


def slots_by_cell(cells: IntArray, slots: IntArray) -> IntArray:
    """(n_cells) int64: the sum of the nodes' slots in each cell."""
    return np.bincount(np.repeat(cells, slots))


def has_slots(fleet: Fleet, counts: IntArray, want: Want) -> bool:
    """Whether nodes with so many GPUs ((n_nodes)) have room for the want."""
    slots = counts // want.size
    if want.apart is not None:
        slots = one_a_cell(fleet, want, slots, np.arange(len(slots)))
    cells = cells_of_nodes(fleet, want.level)
    if cells is None:
        return int(slots.sum()) >= want.parts
    return bool((slots_by_cell(cells, slots) >= want.parts).any())


def one_a_cell(fleet: Fleet, want: Want, slots: IntArray, order: IntArray) -> IntArray:
    """(n_nodes) int64: 1 on the first node, in this order of all nodes, with a slot in each cell of the want's `apart`
    level, 0 elsewhere.
    """
    able = order[slots[order] > 0]
    cells = cells_of_nodes(fleet, want.apart)
    if cells is not None:
        able = able[np.unique(cells[able], return_index=True)[1]]
    only = np.zeros_like(slots)
    only[able] = 1
    return only


def parts_on(fleet: Fleet, want: Want, rooms: Iterable[tuple[int, int]]) -> int:
    """How many parts the nodes with so many GPUs each, (node, GPUs), hold, wherever they are."""
    if want.apart is None:
        return sum(gpus // want.size for _, gpus in rooms)
    cells = cells_of_nodes(fleet, want.apart)
    return len({node if cells is None else int(cells[node]) for node, gpus in rooms if gpus >= want.size})
