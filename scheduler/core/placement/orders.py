"""Nodes by tightness, kept up to date: what one kind of free GPUs offers on every node of every pool.

An *order* keeps, for one tier, how many GPUs each node has for it (`COUNT`) and how many are free at all (`FREE`), from
which follows how tight it is: the tighter, the sooner it is used, so that whole nodes stay whole; ties by number. Over
these leaves stands a tree for each pool that knows, for each size, the tightest node with a part of that size: to find
it takes a walk down, to change a node a walk up. Beside it stand, for levels and sizes that were asked for, how many
parts each cell has. Orders catch up with the floor by the nodes that it says were touched.

All orders of a round stand in one stack of arrays, so that machine code is handed few of them, and picks the order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.cells import Cells, shift, tally_slots
from scheduler.core.placement.floor import (
    FIRST_GPU,
    IS_FREE,
    N_FREE,
    N_UNSOLD,
    OWNER,
    PLACE,
    POOL,
    RING,
    UNTIL_MS,
    Floor,
)

FAN = 16
NONE = 1 << 20
"""Tighter than this is every node that has room."""

FREE, COUNT = range(2)
"""Columns of leaves."""
KIND, END_MS, TAKEN_IN, BY_CELL = range(4)
"""Of heads: the tier's; how many touched nodes were taken in; for how many levels and sizes cells are counted."""
FIRST_LEAF, AFTER_LEAF, LEVELS, STARTS = range(4)
"""Columns of `trees`; from STARTS on: where each level begins in `least`, from below, and where the last one ends."""
MOST_LEVELS = 9


class Kind(IntEnum):
    """Which free GPUs a tier allows, in the order in which tiers are tried."""

    OWN = 0
    OWN_OR_UNSOLD = 1
    UNSOLD = 2
    UNSOLD_OR_LASTING = 3
    ANY = 4
    LASTING_OWN = 5
    LASTING_UNSOLD = 6
    LASTING_OWN_OR_UNSOLD = 7


OWN, OWN_OR_UNSOLD, UNSOLD, UNSOLD_OR_LASTING, ANY, LASTING_OWN, LASTING_UNSOLD, LASTING_OWN_OR_UNSOLD = map(int, Kind)
OF_UNSOLD, OF_FREE = range(2)
"""The orders that always are, at the stack's bottom: of unsold GPUs, and of all that are free."""


class Orders(NamedTuple):
    """The stack (see the module); nodes are leaves by pool, ascending."""

    leaves: IntArray
    """(n_orders, n_nodes, 2): the node's free GPUs, and how many of them the tier allows."""
    least: IntArray
    """(n_orders, n_inner, most + 1): by inner node of a tree and size, the tightness of its tightest node with such a
    part.
    """
    heads: IntArray
    """(n_orders, 4): see KIND."""
    tally: IntArray
    """(n_orders, n_pools, most + 1): how many nodes have each count."""
    slots: IntArray
    """(n_orders, 2, most + 1, n_cells): by level and size, how many parts each cell has; see `counts`."""
    by_slots: IntArray
    """(n_orders, 2, most + 1, n_pools, MANY_SLOTS + 1, 2): see `cells.HOW_MANY`, of each pool's cells."""
    counts: IntArray
    """(n_orders, 2, most + 1): whether slots are counted."""
    nodes: IntArray
    """(n_nodes): the node of each leaf."""
    trees: IntArray
    """(n_pools, STARTS + MOST_LEVELS + 1): see FIRST_LEAF."""
    ranks: IntArray
    """(n_pools, most + 1, most + 1): the tightness of a node by the size of a part and its free GPUs
    (`preference.ranks`).
    """


class Order(NamedTuple):
    """One of them."""

    leaves: IntArray
    least: IntArray
    head: IntArray
    tally: IntArray
    slots: IntArray
    by_slots: IntArray
    counts: IntArray
    nodes: IntArray
    trees: IntArray
    ranks: IntArray


@kernel
def order_at(orders: Orders, at: int) -> Order:
    """One order of the stack, on the same memory."""
    return Order(
        orders.leaves[at],
        orders.least[at],
        orders.heads[at],
        orders.tally[at],
        orders.slots[at],
        orders.by_slots[at],
        orders.counts[at],
        orders.nodes,
        orders.trees,
        orders.ranks,
    )


@kernel
def counted(floor: Floor, node: int, kind: int, account: int, end_ms: int) -> int:
    """How many GPUs of the node the tier allows."""
    if kind == ANY:
        return int(floor.nodes[node, N_FREE])
    if kind == UNSOLD:
        return int(floor.nodes[node, N_UNSOLD])
    number = 0
    for gpu in range(floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]):
        if floor.gpus[gpu, IS_FREE] and allows(floor, gpu, kind, account, end_ms):
            number += 1
    return number


@kernel
def allows(floor: Floor, gpu: int, kind: int, account: int, end_ms: int) -> bool:
    """Whether the tier allows the GPU, which is free."""
    if kind == ANY:
        return True
    owner = floor.gpus[gpu, OWNER]
    if kind == UNSOLD_OR_LASTING:
        return bool(owner < 0 or floor.gpus[gpu, UNTIL_MS] >= end_ms)
    if kind > ANY and floor.gpus[gpu, UNTIL_MS] < end_ms:
        return False
    if kind in (OWN, LASTING_OWN):
        return bool(owner == account)
    return bool(owner < 0 or (owner == account and kind not in (UNSOLD, LASTING_UNSOLD)))


@kernel
def tightness(order: Order, pool: int, leaf: int, size: int) -> int:
    """How tight the leaf is for a part of that size; NONE where it has none, or is set aside."""
    free = order.leaves[leaf, FREE]
    if free >= NONE or order.leaves[leaf, COUNT] < size:
        return NONE
    return int(order.ranks[pool, size, free])


@kernel
def tightest_of_leaves(order: Order, pool: int, at: int, size: int, bound: int) -> int:
    """The tightness of the tightest leaf with a part of that size below the pool's `at`-th inner node of the lowest
    level; none is tighter than the bound.
    """
    best = NONE
    low = order.trees[pool, FIRST_LEAF] + at * FAN
    for leaf in range(low, min(low + FAN, order.trees[pool, AFTER_LEAF])):
        best = min(best, tightness(order, pool, leaf, size))
        if best == bound:
            break
    return best


@kernel
def tightest_of_inner(order: Order, pool: int, level: int, at: int, size: int, bound: int) -> int:
    """The same below the `at`-th inner node of a higher level."""
    best = NONE
    low = order.trees[pool, STARTS + level - 1] + at * FAN
    for below in range(low, min(low + FAN, order.trees[pool, STARTS + level])):
        best = min(best, order.least[below, size])
        if best == bound:
            break
    return best


@kernel
def refresh(order: Order, pool: int, leaf: int, most: int) -> None:
    """Carry a changed leaf up the tree for parts up to that size, as far as it makes a difference."""
    for size in range(1, most + 1):
        at = (leaf - order.trees[pool, FIRST_LEAF]) // FAN
        mine = tightness(order, pool, leaf, size)
        for level in range(order.trees[pool, LEVELS]):
            row = order.trees[pool, STARTS + level] + at
            known = order.least[row, size]
            best = mine
            if mine > known and level == 0:
                best = tightest_of_leaves(order, pool, at, size, known)
            elif mine > known:
                best = tightest_of_inner(order, pool, level, at, size, known)
            if best == known:
                break
            order.least[row, size] = mine = best
            at //= FAN


@kernel
def tightest(order: Order, pool: int, size: int) -> int:
    """The leaf of the pool's tightest node with a part of that size, ties by number; -1 none."""
    if size >= order.least.shape[1]:
        return -1
    level = order.trees[pool, LEVELS] - 1
    row = order.trees[pool, STARTS + level]
    tight = order.least[row, size]
    if tight == NONE:
        return -1
    at = 0
    while level > 0:
        level -= 1
        row = order.trees[pool, STARTS + level] + at * FAN
        at *= FAN
        while order.least[row, size] != tight:
            row += 1
            at += 1
    leaf = order.trees[pool, FIRST_LEAF] + at * FAN
    while tightness(order, pool, leaf, size) != tight:
        leaf += 1
    return int(leaf)


@kernel
def begin(floor: Floor, orders: Orders, at: int) -> None:
    """Look at every node."""
    order = order_at(orders, at)
    order.tally[:] = 0
    order.counts[:] = 0
    order.head[BY_CELL] = 0
    most = order.least.shape[1] - 1
    for leaf in range(len(order.leaves)):
        node = order.nodes[leaf]
        count = counted(floor, node, order.head[KIND], -2, order.head[END_MS])
        order.leaves[leaf, COUNT] = count
        order.leaves[leaf, FREE] = floor.nodes[node, N_FREE]
        order.tally[floor.nodes[node, POOL], count] += 1
    for pool in range(len(order.trees)):
        for at_level in range(order.trees[pool, LEVELS]):
            low = order.trees[pool, STARTS + at_level]
            for inner in range(order.trees[pool, STARTS + at_level + 1] - low):
                for size in range(1, most + 1):
                    if at_level == 0:
                        order.least[low + inner, size] = tightest_of_leaves(order, pool, inner, size, -1)
                    else:
                        order.least[low + inner, size] = tightest_of_inner(order, pool, at_level, inner, size, -1)
    order.head[TAKEN_IN] = floor.ring[RING]


@kernel
def catch_up(floor: Floor, orders: Orders, cells: Cells, at: int) -> None:
    """Take in what was touched since the last time; everything, where that is more than the ring holds."""
    taken_in, touched = orders.heads[at, TAKEN_IN], floor.ring[RING]
    if taken_in == touched:
        return
    if touched - taken_in > RING:
        begin(floor, orders, at)
        return
    order = order_at(orders, at)
    for i in range(taken_in, touched):
        node = floor.ring[i % RING]
        pool, leaf = floor.nodes[node, POOL], floor.nodes[node, PLACE]
        count = counted(floor, node, order.head[KIND], -2, order.head[END_MS])
        free = floor.nodes[node, N_FREE]
        before = order.leaves[leaf, COUNT]
        if count != before or free != order.leaves[leaf, FREE]:
            order.tally[pool, before] -= 1
            order.tally[pool, count] += 1
            order.leaves[leaf, COUNT] = count
            order.leaves[leaf, FREE] = free
            refresh(order, pool, leaf, max(before, count))
            if count != before and order.head[BY_CELL]:
                move_slots(order, cells, pool, node, before, count)
    order.head[TAKEN_IN] = touched


@kernel
def slots_of(order: Order, pool: int, size: int) -> int:
    """How many parts of that size all nodes of the pool have."""
    slots = 0
    for count in range(size, order.tally.shape[1]):
        slots += order.tally[pool, count] * (count // size)
    return int(slots)


@kernel
def move_slots(order: Order, cells: Cells, pool: int, node: int, before: int, count: int) -> None:
    """The node had so many GPUs, and has so many now: its cells have other parts, of the sizes that are counted."""
    for row in range(2):
        for size in range(1, max(before, count) + 1):
            if order.counts[row, size]:
                more = count // size - before // size
                if more != 0:
                    shift(order.slots[row, size], order.by_slots[row, size, pool], cells.of_node[row, node], more)


@kernel
def count_slots(order: Order, cells: Cells, row: int, size: int) -> None:
    """Count the parts of every cell of a level, from now on."""
    if order.counts[row, size]:
        return
    order.counts[row, size] = 1
    order.head[BY_CELL] += 1
    order.slots[row, size] = 0
    for leaf in range(len(order.leaves)):
        if order.leaves[leaf, COUNT] >= size:
            order.slots[row, size, cells.of_node[row, order.nodes[leaf]]] += order.leaves[leaf, COUNT] // size
    for pool in range(cells.of_pool.shape[1] - 1):
        low, high = cells.of_pool[row, pool], cells.of_pool[row, pool + 1]
        tally_slots(order.slots[row, size], order.by_slots[row, size, pool], low, high)
