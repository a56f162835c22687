"""The fleet's GPUs as one round changes them: who holds which, what is free where, and which nodes were touched.

Flat arrays, changed by `hold` and `let_go` alone, in time that depends on the GPUs given and never on the fleet. Every
node whose GPUs change is written to a ring, so that whatever is kept about nodes (`scheduler.core.placement.tight`)
catches up by reading what is new there.

A *unit* is one account's GPUs on one node. Units are sorted by (account, pool, node), so that an account's part
of a pool is a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.snapshot import Snapshot

BoolArray = npt.NDArray[np.bool_]

NOBODY = -1
RING = 1 << 14
"""Touched nodes that are remembered; whoever lags further behind starts anew."""


AT_NODE, OWNER, UNTIL_MS, UNIT, USABLE, HOLDER, LEAVER, IS_FREE = range(8)
"""Columns of `Floor.gpus`."""
FIRST_GPU, POOL, PLACE, N_FREE, N_UNSOLD, N_OPEN, MARK = range(7)
"""Columns of `Floor.nodes`."""
ON_NODE, FREE_HERE, ROOM_HERE, MARK_HERE = range(4)
"""Columns of `Floor.units`."""


class Floor(NamedTuple):
    """Tables by GPU, node and unit (see the module), one row each, so that what is read together lies together."""

    gpus: IntArray
    """(n_gpus, 8): its node; owner, -1 unsold, and until when; its unit, -1 where it is unsold; whether it is usable;
    the row that has or has claimed it, -1 none; the stopping row that is still on it, -1 none; whether it
    is free: usable, nobody's and nobody there.
    """
    nodes: IntArray
    """(n_nodes + 1, 7): first GPU; pool, and its place among all nodes pool by pool; free GPUs, and those that nobody
    owns; usable GPUs without a holder; zeros.
    """
    units: IntArray
    """(n_units, 4): its node; free GPUs; usable GPUs that hold nothing non-preemptible; scratch."""
    ring: IntArray
    """(RING + 1 + n_pools): touched nodes, the latest over the oldest; how many ever were; free GPUs of each pool."""

    @property
    def node_of_gpu(self) -> IntArray:
        """(n_gpus): its node."""
        return self.gpus[:, AT_NODE]

    @property
    def owner(self) -> IntArray:
        """(n_gpus): index of the owning account, -1 unsold."""
        return self.gpus[:, OWNER]

    @property
    def until_ms(self) -> IntArray:
        """(n_gpus): until when that lasts."""
        return self.gpus[:, UNTIL_MS]

    @property
    def holder(self) -> IntArray:
        """(n_gpus): the row that has the GPU or has claimed it, -1 none."""
        return self.gpus[:, HOLDER]

    @property
    def leaver(self) -> IntArray:
        """(n_gpus): the stopping row that is still on it, -1 none."""
        return self.gpus[:, LEAVER]

    @property
    def usable(self) -> BoolArray:
        """(n_gpus): whether a gang may be put there. A copy."""
        usable: BoolArray = self.gpus[:, USABLE] != 0
        return usable

    @property
    def free(self) -> BoolArray:
        """(n_gpus): usable, nobody's and nobody there. A copy."""
        free: BoolArray = self.gpus[:, IS_FREE] != 0
        return free

    @property
    def first_gpu(self) -> IntArray:
        """(n_nodes + 1): its first GPU."""
        return self.nodes[:, FIRST_GPU]

    @property
    def pool_of_node(self) -> IntArray:
        """(n_nodes): its pool."""
        return self.nodes[:-1, POOL]

    def gpus_of_pool(self, pool: int) -> IntArray:
        """Numbers of the pool's usable GPUs, ascending."""
        return np.flatnonzero(self.usable & (self.pool_of_node[self.node_of_gpu] == pool))

    @property
    def free_by_node(self) -> IntArray:
        """(n_nodes): free GPUs."""
        return self.nodes[:-1, N_FREE]


class Units(NamedTuple):
    """Where each account's units and GPUs begin, by account × n_pools + pool; one entry more at the end."""

    first_unit: list[int]
    first_gpu: list[int]
    gpus: IntArray
    """Owned GPUs by (account, pool, number)."""


def floor_of(
    snapshot: Snapshot, holder: IntArray, leaver: IntArray, firm: npt.NDArray[np.bool_], n_accounts: int
) -> tuple[Floor, Units]:
    """The floor at a round's start; `firm` (n_gpus): held by a gang that cannot be preempted."""
    fleet = snapshot.fleet
    n_nodes, n_gpus, n_pools = len(fleet.nodes), fleet.n_gpus, len(fleet.pools)
    node_of_gpu = fleet.node_of_gpu
    free = snapshot.usable & (holder < 0) & (leaver < 0)
    owned = np.flatnonzero(snapshot.owner >= 0)
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
    gpus = np.empty((n_gpus, 8), dtype=np.int64)
    for column, values in (
        (AT_NODE, node_of_gpu),
        (OWNER, snapshot.owner),
        (UNTIL_MS, snapshot.until_ms),
        (UNIT, unit_of_gpu),
        (USABLE, snapshot.usable),
        (HOLDER, holder),
        (LEAVER, leaver),
        (IS_FREE, free),
    ):
        gpus[:, column] = values
    by_node = np.zeros((n_nodes + 1, 7), dtype=np.int64)
    by_node[:, FIRST_GPU] = fleet.first_gpu
    by_node[:-1, POOL] = fleet.pool_of_node
    by_node[leaves_of(fleet)[0], PLACE] = np.arange(n_nodes)
    by_node[:-1, N_FREE] = np.bincount(node_of_gpu[free], minlength=n_nodes)
    by_node[:-1, N_UNSOLD] = np.bincount(node_of_gpu[free & (snapshot.owner < 0)], minlength=n_nodes)
    by_node[:-1, N_OPEN] = np.bincount(node_of_gpu[snapshot.usable & (holder < 0)], minlength=n_nodes)
    by_unit = np.zeros((n_units, 4), dtype=np.int64)
    by_unit[:, ON_NODE] = nodes[starts]
    by_unit[:, FREE_HERE] = np.bincount(unit[free[owned]], minlength=n_units)
    by_unit[:, ROOM_HERE] = np.bincount(unit[(snapshot.usable & ~firm)[owned]], minlength=n_units)
    ring = np.zeros(RING + 1 + n_pools, dtype=np.int64)
    ring[RING + 1 :] = np.bincount(_pool_of_gpu(fleet)[free], minlength=n_pools)
    floor = Floor(gpus, by_node, by_unit, ring)
    units = Units(part[starts].searchsorted(parts).tolist(), part.searchsorted(parts).tolist(), owned)
    return floor, units


def held_rows(snapshot: Snapshot, ascending: Sequence[int], leaving: BoolArray) -> tuple[IntArray, IntArray]:
    """(n_gpus) holder and leaver rows, -1 none, where rows are gangs of these numbers, and some are leaving."""
    n_gpus = len(snapshot.occupant)
    if not ascending:
        return np.full(n_gpus, -1), np.full(n_gpus, -1)
    numbers = np.array(ascending, dtype=np.int64)
    stopping = np.append(leaving, False)
    occupant = np.where(snapshot.occupant >= 0, np.searchsorted(numbers, snapshot.occupant), -1)
    claimant = np.where(snapshot.claimant >= 0, np.searchsorted(numbers, snapshot.claimant), -1)
    leaves = stopping[occupant]
    claimed = (claimant >= 0) & ~stopping[claimant]
    holder = np.where(claimed, claimant, np.where(leaves, -1, occupant))
    return holder, np.where(leaves, occupant, -1)


def _pool_of_gpu(fleet: Fleet) -> IntArray:
    return fleet.pool_of_node[fleet.node_of_gpu] if fleet.nodes else fleet.node_of_gpu


def leaves_of(fleet: Fleet) -> tuple[IntArray, IntArray]:
    """(n_nodes) its nodes pool by pool, ascending, and (n_pools + 1) where each pool begins there."""
    nodes = fleet.pool_of_node.argsort(kind="stable")
    return nodes, fleet.pool_of_node[nodes].searchsorted(np.arange(len(fleet.pools) + 1))


@kernel
def touch(floor: Floor, node: int) -> None:
    """Write down that the node's GPUs changed."""
    floor.ring[floor.ring[RING] % RING] = node
    floor.ring[RING] += 1


@kernel
def count_gpu(floor: Floor, gpu: int, firm: int, sign: int) -> None:
    """Take the GPU as it is into the counts, or out of them (-1); firm: its holder cannot be preempted."""
    if not floor.gpus[gpu, USABLE]:
        return
    node, unit = floor.gpus[gpu, AT_NODE], floor.gpus[gpu, UNIT]
    if floor.gpus[gpu, HOLDER] < 0:
        floor.nodes[node, N_OPEN] += sign
    if floor.gpus[gpu, IS_FREE]:
        floor.nodes[node, N_FREE] += sign
        floor.ring[RING + 1 + floor.nodes[node, POOL]] += sign
        if unit >= 0:
            floor.units[unit, FREE_HERE] += sign
        else:
            floor.nodes[node, N_UNSOLD] += sign
    if unit >= 0 and not firm:
        floor.units[unit, ROOM_HERE] += sign


@kernel
def hold(floor: Floor, gpus: IntArray, row: int, firm: int) -> int:
    """The row gets these GPUs, ascending by node, none of which has a holder. On how many somebody else still is."""
    last, left = NOBODY, 0
    for gpu in gpus:
        count_gpu(floor, gpu, 0, -1)
        floor.gpus[gpu, HOLDER] = row
        floor.gpus[gpu, IS_FREE] = 0
        count_gpu(floor, gpu, firm, 1)
        if floor.gpus[gpu, LEAVER] >= 0:
            left += 1
        node = floor.gpus[gpu, AT_NODE]
        if node != last:
            touch(floor, node)
            last = node
    return left


@kernel
def let_go(floor: Floor, gpus: IntArray, row: int, firm: int, occupied: BoolArray) -> int:
    """The row loses the GPUs that it holds of these; on those that it occupies (none given: nowhere) it still is. How
    many.
    """
    held = 0
    for i in range(len(gpus)):
        gpu = gpus[i]
        if floor.gpus[gpu, HOLDER] != row:
            continue
        held += 1
        count_gpu(floor, gpu, firm, -1)
        floor.gpus[gpu, HOLDER] = NOBODY
        if len(occupied) and occupied[i]:
            floor.gpus[gpu, LEAVER] = row
        floor.gpus[gpu, IS_FREE] = int(floor.gpus[gpu, LEAVER] < 0 and floor.gpus[gpu, USABLE] != 0)
        count_gpu(floor, gpu, 0, 1)
        touch(floor, floor.gpus[gpu, AT_NODE])
    return held


@kernel
def set_anew(floor: Floor, gpus: IntArray, now: IntArray) -> None:
    """Make these GPUs what they are now; `now` (n, 5): usable, holder, leaver, whether the holder was firm, and is."""
    for i in range(len(gpus)):
        gpu = gpus[i]
        count_gpu(floor, gpu, now[i, 3], -1)
        floor.gpus[gpu, USABLE] = now[i, 0]
        floor.gpus[gpu, HOLDER] = now[i, 1]
        floor.gpus[gpu, LEAVER] = now[i, 2]
        floor.gpus[gpu, IS_FREE] = int(now[i, 0] != 0 and now[i, 1] < 0 and now[i, 2] < 0)
        count_gpu(floor, gpu, now[i, 4], 1)
        touch(floor, floor.gpus[gpu, AT_NODE])
