"""Where a want fits among free GPUs, by looking at all of them: for the few wants that `tight` knows no orders for.

Those are gangs whose workers must be apart, and such as may use only so much of each node. The answers follow the same
rule: the first tier with room; with a level, the smallest cell that suffices; then the tightest nodes; on a node the
account's own GPUs, then unsold ones, then others'.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement.fits import cells_of_nodes, one_a_cell, slots_by_cell
from scheduler.core.placement.floor import Floor
from scheduler.core.placement.orders import Kind
from scheduler.core.placement.search import Tiers
from scheduler.core.placement.wants import Want


def fit_by_scan(
    fleet: Fleet, floor: Floor, tightness: IntArray, want: Want, where: Tiers, most: IntArray | None = None
) -> IntArray | None:
    """GPUs for the want in the first tier that has room, ascending by node, or None. `tightness` (n_nodes): nodes with
    less go first. `most` (n_nodes): how many GPUs of each node it may use.
    """
    free = floor.free
    free &= fleet.pool_of_node[floor.node_of_gpu] == where.pool
    for kind in Kind:
        if where.kinds >> kind & 1:
            allowed = free & _allowed(floor, kind, where)
            counts = np.bincount(floor.node_of_gpu[allowed], minlength=len(fleet.nodes))
            counts = counts if most is None else np.minimum(counts, np.maximum(most, 0))
            found = spread_over(fleet, want, counts, tightness)
            if found is not None:
                return _picked(floor, want, where.account, allowed, found)
    return None


def _allowed(floor: Floor, kind: Kind, where: Tiers) -> npt.NDArray[np.bool_]:
    """(n_gpus): the GPUs that a tier of this kind allows, if they are free."""
    own, unsold, lasting = floor.owner == where.account, floor.owner < 0, floor.until_ms >= where.end_ms
    match kind:
        case Kind.OWN:
            allowed = own
        case Kind.OWN_OR_UNSOLD:
            allowed = own | unsold
        case Kind.UNSOLD:
            allowed = unsold
        case Kind.UNSOLD_OR_LASTING:
            allowed = unsold | lasting
        case Kind.ANY:
            allowed = floor.free
        case Kind.LASTING_OWN:
            allowed = own & lasting
        case Kind.LASTING_UNSOLD:
            allowed = unsold & lasting
        case Kind.LASTING_OWN_OR_UNSOLD:
            allowed = (own | unsold) & lasting
    chosen: npt.NDArray[np.bool_] = allowed
    return chosen


def spread_over(fleet: Fleet, want: Want, counts: IntArray, tightness: IntArray) -> list[tuple[int, int]] | None:
    """(node, parts there), ascending, for all parts on nodes with so many GPUs each, those of the least tightness first
    (both by node); None where they do not fit.
    """
    slots = counts // want.size
    if want.apart is not None:
        slots = one_a_cell(fleet, want, slots, tightness.argsort(kind="stable"))
    cells = cells_of_nodes(fleet, want.level)
    if cells is not None:
        in_cell = slots_by_cell(cells, slots)
        enough = np.flatnonzero(in_cell >= want.parts)
        if not len(enough):
            return None
        slots = np.where(cells == enough[in_cell[enough].argmin()], slots, 0)
    if int(slots.sum()) < want.parts:
        return None
    nodes, parts = np.flatnonzero(slots), want.parts
    taken: list[tuple[int, int]] = []
    for node in nodes[tightness[nodes].argsort(kind="stable")].tolist():
        if parts > 0:
            taken.append((node, min(int(slots[node]), parts)))
            parts -= taken[-1][1]
    return sorted(taken)


def _picked(
    floor: Floor, want: Want, account: int, allowed: npt.NDArray[np.bool_], found: list[tuple[int, int]]
) -> IntArray:
    gpus: list[int] = []
    for node, parts in found:
        low, high = floor.first_gpu[node : node + 2].tolist()
        owner = floor.owner[low:high]
        rank = np.where(owner == account, 0, np.where(owner < 0, 1, 2))
        there = np.flatnonzero(allowed[low:high])
        gpus += sorted((low + there[rank[there].argsort(kind="stable")][: parts * want.size]).tolist())
    return np.array(gpus, dtype=np.int64)
