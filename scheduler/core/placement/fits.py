"""Where a want fits, given how many GPUs of each node it may use. Tightest nodes first, so that whole nodes stay whole.

All functions are pure over arrays of one number a node; nothing here knows owners, occupants or money.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.placement.wants import Want

Spread = list[tuple[int, int]]
"""(node, parts there), ascending by node."""


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
    cells = cells_of_nodes(fleet, want.level)
    if cells is None:
        return int(slots.sum()) >= want.parts
    return bool((slots_by_cell(cells, slots) >= want.parts).any())


def spread(counts: IntArray, tightness: IntArray, want: Want, cells: IntArray | None) -> Spread | None:
    """Nodes for all parts, or None where they do not fit.

    `counts` (n_nodes): GPUs that may be used; `tightness` (n_nodes): nodes with less go first, ties by number; `cells`:
    `cells_of_nodes` of the want's level. The smallest cell that suffices is taken.
    """
    slots = counts // want.size
    if cells is not None:
        in_cell = slots_by_cell(cells, slots)
        enough = np.flatnonzero(in_cell >= want.parts)
        if not len(enough):
            return None
        slots = np.where(cells == enough[in_cell[enough].argmin()], slots, 0)
    nodes = np.flatnonzero(slots)
    if want.parts == 1:
        return [(int(nodes[tightness[nodes].argmin()]), 1)] if len(nodes) else None
    if int(slots.sum()) < want.parts:
        return None
    nodes = nodes[tightness[nodes].argsort(kind="stable")]
    return sorted(_filled(nodes.tolist(), slots[nodes].tolist(), want.parts))


def _filled(nodes: list[int], slots: list[int], parts: int) -> Spread:
    taken: Spread = []
    for node, room in zip(nodes, slots, strict=True):
        taken.append((node, min(room, parts)))
        parts -= room
        if parts <= 0:
            break
    return taken
