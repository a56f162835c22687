"""What a pool's GPUs will be free for, by declared ends: when a gang that waits should start, and what it needs kept.

A *profile* says how many GPUs each node has free now and how many more at which instants, should every gang end as it
declared and every stopping one by its deadline; what declares no end never becomes free. It is a promise of nobody:
owners may come meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.fits import cells_of_nodes, has_slots
from scheduler.core.placement.floor import FIRST_GPU, HOLDER, LEAVER, USABLE, Floor
from scheduler.core.placement.wants import Want
from scheduler.core.quantities import INT64_MAX

Freed = tuple[int, int, int]
"""(instant, node, GPUs that become free there)."""
AT_MS, NODE, NUMBER = range(3)
"""Columns of what becomes free."""


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Free GPUs of a pool by node over time (see the module)."""

    now: IntArray
    """(n_nodes) int64: free GPUs now."""
    table: IntArray
    """(n, 3) int64: instant, node and GPUs of what becomes free, ascending."""

    @property
    def freed(self) -> tuple[Freed, ...]:
        """What becomes free, ascending."""
        return tuple((at_ms, node, number) for at_ms, node, number in self.table.tolist())


def released(
    floor: Floor, nodes: IntArray, ends_ms: IntArray, now_ms: int, now: IntArray, *, compiled: bool
) -> IntArray:
    """(n, 3) What becomes free on these nodes, ascending, whose free GPUs are counted in `now` (n_nodes); `ends_ms`
    (n_rows + 1): when each row's GPUs are free of it, by `now_ms`: they are, INT64_MAX: never; the last entry is
    nobody's, and free.
    """
    table = np.zeros((int((floor.first_gpu[nodes + 1] - floor.first_gpu[nodes]).sum()), 3), dtype=np.int64)
    found = (freed_by_node.compiled if compiled else freed_by_node)(floor, nodes, ends_ms, now_ms, now, table)
    return table[table[:found, AT_MS].argsort(kind="stable")]


@kernel
def freed_by_node(floor: Floor, nodes: IntArray, ends_ms: IntArray, now_ms: int, now: IntArray, table: IntArray) -> int:
    """Count free GPUs of these nodes, and list node by node what becomes free; how many entries. What `ends_ms` frees
    by `now_ms` is free.
    """
    found = 0
    for node in nodes:
        first = found
        now[node] = 0
        for gpu in range(floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]):
            if not floor.gpus[gpu, USABLE]:
                continue
            # -1, nobody, picks the last entry.
            free_ms = max(ends_ms[floor.gpus[gpu, HOLDER]], ends_ms[floor.gpus[gpu, LEAVER]])
            if free_ms <= now_ms:
                now[node] += 1
            elif free_ms < INT64_MAX:
                at = first
                while at < found and table[at, AT_MS] != free_ms:
                    at += 1
                if at == found:
                    table[at, AT_MS], table[at, NODE] = free_ms, node
                    found += 1
                table[at, NUMBER] += 1
    return found


def expected_start(
    fleet: Fleet, profile: Profile, want: Want, *, compiled: bool = False
) -> tuple[int, IntArray] | None:
    """(the first instant at which the want has room, free GPUs of each node then); None: it never has. An instant of 0
    says that it has room now.
    """
    if has_slots(fleet, profile.now, want):
        return 0, profile.now
    left = profile.now.copy()
    cells = cells_of_nodes(fleet, want.level)
    cell_of_node = np.zeros(len(left), dtype=np.int64) if cells is None else cells
    slots = np.zeros(int(cell_of_node.max(initial=0)) + 1, dtype=np.int64)
    until = grow_until.compiled if compiled else grow_until
    at = 0
    while at < len(profile.table):
        at = until(profile.table, at, left, cell_of_node, slots, want.size, want.parts)
        if at < 0:
            return None
        # Slots alone do not say whether there are enough distinct cells.
        if want.apart is None or has_slots(fleet, left, want):
            return int(profile.table[at - 1, AT_MS]), left
    return None


@kernel
def grow_until(
    table: IntArray, at: int, left: IntArray, cell_of_node: IntArray, slots: IntArray, size: int, parts: int
) -> int:
    """Add what becomes free to what is left, from the entry at `at` on, until after some instant a cell has enough
    slots and one more than before: the entry behind it, or -1 where that never comes. `slots` (n_cells): room to work
    in.
    """
    slots[:] = 0
    for node in range(len(left)):
        slots[cell_of_node[node]] += left[node] // size
    while at < len(table):
        at_ms, enough = table[at, AT_MS], False
        while at < len(table) and table[at, AT_MS] == at_ms:
            node, number = table[at, NODE], table[at, NUMBER]
            more = (left[node] + number) // size - left[node] // size
            left[node] += number
            slots[cell_of_node[node]] += more
            enough = enough or (more > 0 and slots[cell_of_node[node]] >= parts)
            at += 1
        if enough:
            return at
    return -1
