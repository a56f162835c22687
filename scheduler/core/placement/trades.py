"""Nodes that traded owners, followed by books that stand: the rest of the floor stays as it is.

Only where every account owns as many GPUs on as many nodes as before, as after a swap of whole nodes of a pool: its
units then stand where they stood, in another order. Where ownership changed otherwise, books are opened anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.floor import (
    FIRST_GPU,
    FREE_HERE,
    HOLDER,
    IS_FREE,
    N_UNSOLD,
    NOBODY,
    ON_NODE,
    OWNER,
    ROOM_HERE,
    UNIT,
    UNTIL_MS,
    USABLE,
    Floor,
    Units,
    touch,
)
from scheduler.core.placement.search import Search
from scheduler.core.placement.snapshot import Snapshot


class Rows(Protocol):
    """What this asks of the books, and changes."""

    floor: Floor
    units: Units
    search: Search
    n_pools: int
    firm_of_row: list[bool]
    ownership: tuple[IntArray, IntArray]

    def entitle(self, account: int, pool: int, gpus: int) -> None:
        """The account's usable own GPUs of the pool are others, and so many."""
        ...


Parts = dict[int, IntArray]
"""By account × n_pools + pool: the GPUs that it owns now, ascending."""


def traded_parts(books: Rows, snapshot: Snapshot, nodes: Collection[int]) -> Parts | None:
    """What the owners of these nodes own now, before and after; None where they own other numbers of GPUs or nodes."""
    floor, units = books.floor, books.units
    gpus = _gpus_of(floor, nodes)
    pool = floor.pool_of_node[floor.node_of_gpu[gpus]]
    was, now = floor.owner[gpus], snapshot.owner[gpus].astype(np.int64)
    parts: Parts = {}
    there = [np.where(owner >= 0, owner * books.n_pools + pool, NOBODY) for owner in (was, now)]
    for part in np.unique(np.concatenate(there)).tolist():
        if part == NOBODY:
            continue
        own = units.gpus[units.first_gpu[part] : units.first_gpu[part + 1]]
        owns = np.sort(np.concatenate([own[~np.isin(own, gpus)], gpus[there[1] == part]]))
        n_units = units.first_unit[part + 1] - units.first_unit[part]
        if len(owns) != len(own) or len(np.unique(floor.node_of_gpu[owns])) != n_units:
            return None
        parts[part] = owns
    return parts


def trade(books: Rows, snapshot: Snapshot, nodes: Collection[int], parts: Parts) -> set[int]:
    """Make the owners of these nodes those of the snapshot, `parts` as `traded_parts` gave them. The accounts whose own
    GPUs are others.
    """
    floor, units = books.floor, books.units
    gpus = _gpus_of(floor, nodes)
    until_ms = floor.until_ms[gpus]
    floor.gpus[gpus, OWNER], floor.gpus[gpus, UNTIL_MS] = snapshot.owner[gpus], snapshot.until_ms[gpus]
    floor.gpus[gpus, UNIT] = NOBODY
    # Reasons of earlier rounds keep what they were given.
    owners, untils_ms = (known.copy() for known in books.ownership)
    owners[gpus], untils_ms[gpus] = snapshot.owner[gpus], snapshot.until_ms[gpus]
    books.ownership = owners, untils_ms
    if not np.array_equal(np.sort(until_ms), np.sort(floor.until_ms[gpus])):
        books.search.forget_changes()
    for part, owns in parts.items():
        units.gpus[units.first_gpu[part] : units.first_gpu[part + 1]] = owns
        low, high = units.first_unit[part], units.first_unit[part + 1]
        there = floor.gpus[owns]
        on_node = floor.node_of_gpu[owns]
        starts = np.flatnonzero(np.diff(on_node, prepend=NOBODY))
        floor.gpus[owns, UNIT] = low + np.diff(on_node, prepend=NOBODY).astype(np.bool_).cumsum() - 1
        floor.units[low:high, ON_NODE] = on_node[starts]
        floor.units[low:high, FREE_HERE] = np.add.reduceat(there[:, IS_FREE], starts)
        firm = [row >= 0 and books.firm_of_row[row] for row in there[:, HOLDER].tolist()]
        room = (there[:, USABLE] != 0) & ~np.array(firm, dtype=np.bool_)
        floor.units[low:high, ROOM_HERE] = np.add.reduceat(room.astype(np.int64), starts)
        books.entitle(part // books.n_pools, part % books.n_pools, int(there[:, USABLE].sum()))
    unsold = (floor.gpus[gpus, IS_FREE] != 0) & (floor.owner[gpus] < 0)
    count = np.bincount(floor.node_of_gpu[gpus[unsold]], minlength=len(floor.nodes))
    for node in nodes:
        floor.nodes[node, N_UNSOLD] = count[node]
        touch(floor, node)
    return {part // books.n_pools for part in parts}


def _gpus_of(floor: Floor, nodes: Collection[int]) -> IntArray:
    ranges = [np.arange(*floor.nodes[node : node + 2, FIRST_GPU].tolist()) for node in sorted(nodes)]
    return np.concatenate(ranges)
