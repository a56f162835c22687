"""The fleet's GPUs as one round changes them: who holds which, what is free where, and which nodes were touched.

Flat arrays, changed by `hold` and `let_go` alone, in time that depends on the GPUs given and never on the fleet. Every
node whose GPUs change is written to a ring, so that whatever is kept about nodes (`scheduler.core.placement.tight`)
catches up by reading what is new there.

A *unit* is one account's usable GPUs on one node. Units are sorted by (account, pool, node), so that an account's part of
a pool is a slice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.snapshot import Snapshot

NOBODY = -1
RING = 1 << 14
"""Touched nodes that are remembered; whoever lags further behind starts anew."""


class Floor(NamedTuple):
    """Arrays by GPU, node and unit (see the module)."""

    first_gpu: IntArray
    """(n_nodes + 1)"""
    node_of_gpu: IntArray
    pool_of_node: IntArray
    place_of_node: IntArray
    """(n_nodes): which of its pool's nodes it is, ascending."""
    usable: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.int32]
    until_ms: IntArray
    unit_of_gpu: IntArray
    """(n_gpus): the unit of a usable owned GPU, -1 of all others."""
    holder: IntArray
    """(n_gpus): the row that has the GPU or has claimed it, -1 none."""
    leaver: IntArray
    """(n_gpus): the stopping row that is still on it, -1 none."""
    free: npt.NDArray[np.bool_]
    """(n_gpus): usable, nobody's and nobody there."""
    free_by_node: IntArray
    unsold_by_node: IntArray
    """(n_nodes): free GPUs that nobody owns."""
    unit_node: IntArray
    """(n_units)"""
    unit_free: IntArray
    """(n_units): free GPUs."""
    unit_room: IntArray
    """(n_units): GPUs that hold nothing non-preemptible."""
    free_by_pool: IntArray
    ring: IntArray
    """(RING): touched nodes, the latest over the oldest."""
    counts: IntArray
    """[nodes ever touched, times that anything became free]."""


class Units(NamedTuple):
    """Where each account's units and GPUs begin, by account × n_pools + pool; one entry more at the end."""

    first_unit: list[int]
    first_gpu: list[int]
    gpus: IntArray
    """Usable owned GPUs by (account, pool, number)."""


def floor_of(
    snapshot: Snapshot, holder: IntArray, leaver: IntArray, firm: npt.NDArray[np.bool_], n_accounts: int
) -> tuple[Floor, Units]:
    """The floor at a round's start; `firm` (n_gpus): held by a gang that cannot be preempted."""
    fleet = snapshot.fleet
    n_nodes, n_gpus, n_pools = len(fleet.nodes), fleet.n_gpus, len(fleet.pools)
    node_of_gpu = fleet.node_of_gpu
    free = snapshot.usable & (holder < 0) & (leaver < 0)
    owned = np.flatnonzero(snapshot.usable & (snapshot.owner >= 0))
    part = snapshot.owner[owned].astype(np.int64) * n_pools + _pool_of_gpu(fleet)[owned]
    order = part.argsort(kind="stable")
    owned, part = owned[order], part[order]
    nodes = node_of_gpu[owned]
    starts = np.ones(len(owned), dtype=np.bool_)
    starts[1:] = (part[1:] != part[:-1]) | (nodes[1:] != nodes[:-1])
    unit = starts.cumsum() - 1
    unit_of_gpu = np.full(n_gpus, NOBODY, dtype=np.int64)
    unit_of_gpu[owned] = unit
    n_units = int(unit[-1]) + 1 if len(unit) else 0
    parts = np.arange(n_accounts * n_pools + 1)
    floor = Floor(
        first_gpu=fleet.first_gpu,
        node_of_gpu=node_of_gpu,
        pool_of_node=fleet.pool_of_node,
        place_of_node=_places(fleet),
        usable=snapshot.usable,
        owner=snapshot.owner,
        until_ms=snapshot.until_ms,
        unit_of_gpu=unit_of_gpu,
        holder=holder,
        leaver=leaver,
        free=free,
        free_by_node=np.bincount(node_of_gpu[free], minlength=n_nodes),
        unsold_by_node=np.bincount(node_of_gpu[free & (snapshot.owner < 0)], minlength=n_nodes),
        unit_node=nodes[starts],
        unit_free=np.bincount(unit[free[owned]], minlength=n_units),
        unit_room=np.bincount(unit[~firm[owned]], minlength=n_units),
        free_by_pool=np.bincount(_pool_of_gpu(fleet)[free], minlength=n_pools),
        ring=np.zeros(RING, dtype=np.int64),
        counts=np.zeros(2, dtype=np.int64),
    )
    units = Units(part[starts].searchsorted(parts).tolist(), part.searchsorted(parts).tolist(), owned)
    return floor, units


def _pool_of_gpu(fleet: Fleet) -> IntArray:
    return fleet.pool_of_node[fleet.node_of_gpu] if fleet.nodes else fleet.node_of_gpu


def _places(fleet: Fleet) -> IntArray:
    places = np.zeros(len(fleet.nodes), dtype=np.int64)
    for pool in range(len(fleet.pools)):
        nodes = np.flatnonzero(fleet.pool_of_node == pool)
        places[nodes] = np.arange(len(nodes))
    return places


@kernel
def touch(floor: Floor, node: int) -> None:
    """Write down that the node's GPUs changed."""
    floor.ring[floor.counts[0] % RING] = node
    floor.counts[0] += 1


@kernel
def hold(floor: Floor, gpus: IntArray, row: int, firm: bool) -> None:
    """The row gets these GPUs, ascending by node, none of which has a holder."""
    last = NOBODY
    for gpu in gpus:
        node = floor.node_of_gpu[gpu]
        unit = floor.unit_of_gpu[gpu]
        floor.holder[gpu] = row
        if floor.free[gpu]:
            floor.free[gpu] = False
            floor.free_by_node[node] -= 1
            floor.free_by_pool[floor.pool_of_node[node]] -= 1
            if unit >= 0:
                floor.unit_free[unit] -= 1
            elif floor.owner[gpu] < 0:
                floor.unsold_by_node[node] -= 1
        if firm and unit >= 0:
            floor.unit_room[unit] -= 1
        if node != last:
            touch(floor, node)
            last = node


@kernel
def let_go(floor: Floor, gpus: IntArray, row: int, firm: bool, occupied: npt.NDArray[np.bool_], leaves: bool) -> int:
    """The row loses the GPUs that it holds of these; where it occupies one and leaves, it is still there. How many."""
    held = 0
    for i in range(len(gpus)):
        gpu = gpus[i]
        if floor.holder[gpu] != row:
            continue
        held += 1
        node = floor.node_of_gpu[gpu]
        unit = floor.unit_of_gpu[gpu]
        floor.holder[gpu] = NOBODY
        if leaves and occupied[i]:
            floor.leaver[gpu] = row
        if floor.leaver[gpu] < 0 and floor.usable[gpu]:
            floor.free[gpu] = True
            floor.free_by_node[node] += 1
            floor.free_by_pool[floor.pool_of_node[node]] += 1
            if unit >= 0:
                floor.unit_free[unit] += 1
            elif floor.owner[gpu] < 0:
                floor.unsold_by_node[node] += 1
        if firm and unit >= 0:
            floor.unit_room[unit] += 1
        touch(floor, node)
    floor.counts[1] += 1
    return held
