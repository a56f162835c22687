"""What each pool's GPUs will be free for, kept from one question to the next: only nodes where something changed are
read anew, so that a round after one event does not sort every declared end.

Kept are instants as they were declared. Those that have passed are the next one, for whoever asks, until they pass
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement import ends
from scheduler.core.placement.ends import RowEnds
from scheduler.core.placement.floor import NOBODY, RING, BoolArray, Floor
from scheduler.core.placement.profile import AT_MS, NODE, Profile, released

MANY_ROWS = 8
"""Where one node in so many may be another by the rows at hand, all are read anew."""


class Rows(ends.Rows, Protocol):
    """What this asks of the books, which keep it."""

    floor: Floor
    gpus_of_row: list[tuple[int, ...]]
    compiled: bool


@dataclass(slots=True)
class _Kept:
    """What is known of a pool, and since when."""

    nodes: IntArray
    """The pool's."""
    now: IntArray
    """(n_nodes): GPUs that are free."""
    table: IntArray
    """What becomes free, ascending (`Profile.table`)."""
    seen: int = -1
    rows: set[int] = field(default_factory=set)
    """Nodes of these rows are to be read anew."""


class Releases:
    """See the module. Whoever puts another gang in a row's place says so (`forget`)."""

    def __init__(self) -> None:
        self._row_ends = RowEnds()
        self._pools: dict[int, _Kept] = {}

    def forget(self, row: int) -> None:
        """The row's gang is another."""
        self._row_ends.forget(row)
        for kept in self._pools.values():
            kept.rows.add(row)

    def profile(self, books: Rows, pool: int) -> Profile:
        """The pool's profile now, valid until this is asked again; what one instant frees stands in any order."""
        kept = self._pools.get(pool)
        if kept is None:
            nodes = np.flatnonzero(books.floor.pool_of_node == pool)
            now, table = np.zeros(len(books.floor.nodes) - 1, dtype=np.int64), np.zeros((0, 3), dtype=np.int64)
            kept = self._pools[pool] = _Kept(nodes, now, table)
        self._catch_up(books, kept)
        table = kept.table
        table[: table[:, AT_MS].searchsorted(books.now_ms, side="right"), AT_MS] = books.now_ms + 1
        return Profile(kept.now.copy(), table)

    def _catch_up(self, books: Rows, kept: _Kept) -> None:
        floor = books.floor
        # Ends of those that stop, of what this round decided and of shared devices are others in each round.
        passing = {*books.stopped, *books.riders, *range(books.first_of_round, len(books.rows))}
        rows, kept.rows = kept.rows | passing, passing
        touched, seen = int(floor.ring[RING]), kept.seen
        kept.seen = touched
        if seen < 0 or touched - seen > RING or len(rows) * MANY_ROWS > len(kept.nodes):
            kept.table = self._read(books, kept, kept.nodes)
            return
        gpus = [gpu for row in rows for gpu in books.gpus_of_row[row]]
        nodes = np.union1d(floor.ring[np.arange(seen, touched) % RING], floor.node_of_gpu[gpus])
        nodes = nodes[floor.pool_of_node[nodes] == floor.pool_of_node[kept.nodes[0]]]
        if len(nodes):
            changed = np.zeros(len(kept.now), dtype=np.bool_)
            changed[nodes] = True
            fresh = self._read(books, kept, nodes)
            table = np.empty((len(kept.table) + len(fresh), 3), dtype=np.int64)
            kept.table = table[: (splice.compiled if books.compiled else splice)(kept.table, changed, fresh, table)]

    def _read(self, books: Rows, kept: _Kept, nodes: IntArray) -> IntArray:
        ends_ms = self._row_ends.declared(books)
        return released(books.floor, nodes, ends_ms, NOBODY, kept.now, compiled=books.compiled)


@kernel
def splice(table: IntArray, changed: BoolArray, fresh: IntArray, into: IntArray) -> int:
    """Write the table without the entries of changed nodes, and with the fresh ones, ascending; how many."""
    at = number = 0
    for row in range(len(table)):
        if changed[table[row, NODE]]:
            continue
        while at < len(fresh) and fresh[at, AT_MS] < table[row, AT_MS]:
            into[number] = fresh[at]
            at += 1
            number += 1
        into[number] = table[row]
        number += 1
    while at < len(fresh):
        into[number] = fresh[at]
        at += 1
        number += 1
    return number
