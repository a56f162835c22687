"""Tightest nodes first: which nodes a want gets of those that a tier of free GPUs allows. The one place that chooses.

An *order* keeps, of one pool and one tier, how many GPUs each node has for it (`count`) and how tight the node is
(`tight`: the fewer free GPUs, the sooner it is used, so that whole nodes stay whole; ties by number). Over these leaves
stands a tree that knows, for each size, the tightest node with a part of that size: to find it takes a walk down, to
change a node a walk up. Orders catch up with the floor by the nodes that it says were touched.

What one account owns is looked at unit by unit: few nodes as a rule, and of no use to others.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.floor import (
    FIRST_GPU,
    FREE_HERE,
    IS_FREE,
    MARK,
    MARK_HERE,
    N_FREE,
    N_UNSOLD,
    ON_NODE,
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


NODE, FREE, COUNT = range(3)


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


class Order(NamedTuple):
    """See the module; leaf `i` is the pool's `i`-th node."""

    leaves: IntArray
    """(n_leaves, 3): the node, ascending; its free GPUs; how many of them the tier allows."""
    least: IntArray
    """(n_inner, most + 1): by inner node of the tree and size, the tightness of its tightest node with such a part."""
    head: IntArray
    """[pool, kind, end_ms, how many touched nodes were taken in], then from LEVELS on how many levels the tree has and
    where each begins in `least`, from below, and where the last one ends; from TALLY on how many nodes have each count.
    """
    ranks: IntArray
    """(most + 1, most + 1): the tightness of a node by the size of a part and its free GPUs (`preference.ranks`)."""


LEVELS, STARTS, TALLY = 4, 5, 16


class Cells(NamedTuple):
    """The cells of one level: the cell of each node, and the nodes of each cell, ascending."""

    of_node: IntArray
    first: IntArray
    nodes: IntArray


class Ask(NamedTuple):
    """What is looked for: so many parts of a size, in the tier of a kind, an account and an end (0: none)."""

    parts: int
    size: int
    kind: int
    account: int
    end_ms: int
    low: int
    """First of the account's own units in the pool."""
    high: int
    """Behind its last."""
    listed: bool
    """Whether the tier has more than own GPUs: they stand in an order."""


class Desk(NamedTuple):
    """Room to work in, left as it was found: zeros by cell; results."""

    by_cell: IntArray
    keys: IntArray
    """(n_nodes + 1): the chosen nodes and their parts, node × FACTOR + parts, ascending."""
    gpus: IntArray
    """(n_gpus): the chosen GPUs."""


FACTOR = 128
"""More than the parts of any node."""


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
def tightest_of_leaves(order: Order, at: int) -> IntArray:
    """(most + 1): by size, the tightness of the tightest leaf below an inner node of the lowest level."""
    best = np.full(order.least.shape[1], NONE, dtype=np.int64)
    for leaf in range(at * FAN, min(at * FAN + FAN, len(order.leaves))):
        free = order.leaves[leaf, FREE]
        if free < NONE:  # else it is set aside
            for size in range(1, order.leaves[leaf, COUNT] + 1):
                best[size] = min(best[size], order.ranks[size, free])
    return best


@kernel
def refresh(order: Order, leaf: int) -> None:
    """Carry a changed leaf up the tree, as far as it makes a difference."""
    most = order.least.shape[1] - 1
    at = leaf // FAN
    best = tightest_of_leaves(order, at)
    level = 0
    while True:
        row = order.head[STARTS + level] + at
        same = True
        for size in range(1, most + 1):
            if order.least[row, size] != best[size]:
                same = False
                order.least[row, size] = best[size]
        level += 1
        if same or level == order.head[LEVELS]:
            return
        at //= FAN
        low = order.head[STARTS + level - 1] + at * FAN
        high = min(low + FAN, order.head[STARTS + level])
        for size in range(1, most + 1):
            best[size] = order.least[low, size]
        for below in range(low + 1, high):
            for size in range(1, most + 1):
                best[size] = min(best[size], order.least[below, size])


@kernel
def tightest(order: Order, size: int) -> int:
    """The leaf of the tightest node with a part of that size, ties by number; -1 none."""
    if size >= order.least.shape[1]:
        return -1
    level = order.head[LEVELS] - 1
    row = order.head[STARTS + level]
    tight = order.least[row, size]
    if tight == NONE:
        return -1
    at = 0
    while level > 0:
        level -= 1
        row = order.head[STARTS + level] + at * FAN
        at *= FAN
        while order.least[row, size] != tight:
            row += 1
            at += 1
    leaf = at * FAN
    while not is_as_tight(order, leaf, size, tight):
        leaf += 1
    return leaf


@kernel
def is_as_tight(order: Order, leaf: int, size: int, tight: int) -> bool:
    """Whether the leaf has a part of that size, is not set aside, and is just so tight."""
    free = order.leaves[leaf, FREE]
    return bool(free < NONE and order.leaves[leaf, COUNT] >= size and order.ranks[size, free] == tight)


@kernel
def begin(floor: Floor, order: Order) -> None:
    """Look at every node of the pool."""
    order.head[TALLY:] = 0
    for leaf in range(len(order.leaves)):
        node = order.leaves[leaf, NODE]
        order.leaves[leaf, COUNT] = counted(floor, node, order.head[1], -2, order.head[2])
        order.leaves[leaf, FREE] = floor.nodes[node, N_FREE]
        order.head[TALLY + order.leaves[leaf, COUNT]] += 1
    for leaf in range(0, len(order.leaves), FAN):
        refresh(order, leaf)
    order.head[3] = floor.ring[RING]


@kernel
def catch_up(floor: Floor, order: Order) -> None:
    """Take in what was touched since the last time; everything, where that is more than the ring holds."""
    pool, kind, end_ms = order.head[0], order.head[1], order.head[2]
    if floor.ring[RING] - order.head[3] > RING:
        begin(floor, order)
        return
    for i in range(order.head[3], floor.ring[RING]):
        node = floor.ring[i % RING]
        if floor.nodes[node, POOL] != pool:
            continue
        leaf = floor.nodes[node, PLACE]
        count = counted(floor, node, kind, -2, end_ms)
        free = floor.nodes[node, N_FREE]
        if count != order.leaves[leaf, COUNT] or free != order.leaves[leaf, FREE]:
            order.head[TALLY + order.leaves[leaf, COUNT]] -= 1
            order.head[TALLY + count] += 1
            order.leaves[leaf, COUNT] = count
            order.leaves[leaf, FREE] = free
            refresh(order, leaf)
    order.head[3] = floor.ring[RING]


@kernel
def slots_of(order: Order, size: int) -> int:
    """How many parts of that size all nodes have."""
    slots = 0
    for count in range(size, len(order.head) - TALLY):
        slots += order.head[TALLY + count] * (count // size)
    return slots


@kernel
def own_counts(floor: Floor, ask: Ask) -> None:
    """How many GPUs the tier allows on the account's own nodes, at the desk by unit."""
    for unit in range(ask.low, ask.high):
        node = floor.units[unit, ON_NODE]
        if ask.kind > ANY:
            floor.units[unit, MARK_HERE] = counted(floor, node, ask.kind, ask.account, ask.end_ms)
        else:
            floor.units[unit, MARK_HERE] = floor.units[unit, FREE_HERE]
            if ask.listed:
                floor.units[unit, MARK_HERE] += floor.nodes[node, N_UNSOLD]


@kernel
def anywhere(floor: Floor, order: Order, ask: Ask) -> int:
    """How many parts of that size there are; counts of own units are at the desk."""
    slots = 0 if not ask.listed else slots_of(order, ask.size)
    for unit in range(ask.low, ask.high):
        slots += floor.units[unit, MARK_HERE] // ask.size
        if ask.listed:
            slots -= order.leaves[floor.nodes[floor.units[unit, ON_NODE], PLACE], COUNT] // ask.size
    return slots


@kernel
def spread(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells, only_whether: int) -> int:
    """Nodes for all parts, tightest first, or 0 where they do not fit: how many nodes, and `desk.keys`.

    The order is that of the tier, or of what is not own in it. With cells, all parts go to the smallest one that
    suffices, ties by number.
    """
    if ask.listed:
        catch_up(floor, order)
    own_counts(floor, ask)
    if anywhere(floor, order, ask) < ask.parts:
        return 0
    if len(cells.of_node):
        cell = smallest_cell(floor, order, desk, ask, cells)
        if cell < 0 or only_whether:
            return cell + 1
        return in_cell(floor, order, desk, ask, cells, cell)
    return 1 if only_whether else filled(floor, order, desk, ask)


@kernel
def filled(floor: Floor, order: Order, desk: Desk, ask: Ask) -> int:
    """Take the tightest node until all parts have room; there is enough. How many nodes."""
    n_nodes, parts, taken = len(floor.nodes) - 1, ask.parts, 0
    while parts > 0:
        leaf = tightest(order, ask.size) if ask.listed else -1
        other = -1
        if leaf >= 0:
            other = order.ranks[ask.size, order.leaves[leaf, FREE]] * n_nodes + order.leaves[leaf, NODE]
        unit = tightest_own(floor, order, ask, other)
        node = order.leaves[leaf, NODE] if unit < 0 else floor.units[unit, ON_NODE]
        count = order.leaves[leaf, COUNT] if unit < 0 else floor.units[unit, MARK_HERE]
        here = min(count // ask.size, parts)
        parts -= here
        desk.keys[taken] = node * FACTOR + here
        taken += 1
        if parts > 0:
            set_aside(floor, order, ask, node, unit)
    if taken > 1:
        if ask.listed:
            put_back(floor, order, desk, taken)
        desk.keys[:taken].sort()
    return taken


@kernel
def tightest_own(floor: Floor, order: Order, ask: Ask, other: int) -> int:
    """The own unit on the tightest node with a part, ties by number; -1 where the other node (tightness × n_nodes +
    node, -1: none) comes before it.
    """
    n_nodes, best, chosen = len(floor.nodes) - 1, other, -1
    for unit in range(ask.low, ask.high):
        if floor.units[unit, MARK_HERE] >= ask.size:
            node = floor.units[unit, ON_NODE]
            key = order.ranks[ask.size, floor.nodes[node, N_FREE]] * n_nodes + node
            if best < 0 or key <= best:
                best, chosen = key, unit
    return chosen


@kernel
def set_aside(floor: Floor, order: Order, ask: Ask, node: int, unit: int) -> None:
    """Look at the node no more in this search."""
    if unit >= 0:
        floor.units[unit, MARK_HERE] = 0
    if ask.listed:
        leaf = floor.nodes[node, PLACE]
        order.leaves[leaf, FREE] += NONE
        refresh(order, leaf)


@kernel
def put_back(floor: Floor, order: Order, desk: Desk, taken: int) -> None:
    """Chosen nodes were set aside by their tightness; they are given nobody yet."""
    for i in range(taken):
        leaf = floor.nodes[desk.keys[i] // FACTOR, PLACE]
        if order.leaves[leaf, FREE] >= NONE:
            order.leaves[leaf, FREE] -= NONE
            refresh(order, leaf)


@kernel
def in_cell(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells, cell: int) -> int:
    """The tightest nodes of the cell, which has enough. How many nodes."""
    n_nodes, parts = len(floor.nodes) - 1, ask.parts
    for unit in range(ask.low, ask.high):
        floor.nodes[floor.units[unit, ON_NODE], MARK] = unit + 1
    found = 0
    for i in range(cells.first[cell], cells.first[cell + 1]):
        node = cells.nodes[i]
        count = 0
        if floor.nodes[node, MARK] > 0:
            count = floor.units[floor.nodes[node, MARK] - 1, MARK_HERE]
        elif ask.listed and floor.nodes[node, POOL] == order.head[0]:
            count = order.leaves[floor.nodes[node, PLACE], COUNT]
        if count >= ask.size:
            rank = order.ranks[ask.size, floor.nodes[node, N_FREE]]
            desk.keys[found] = (rank * n_nodes + node) * FACTOR + count // ask.size
            found += 1
    for unit in range(ask.low, ask.high):
        floor.nodes[floor.units[unit, ON_NODE], MARK] = 0
    desk.keys[:found].sort()
    taken = 0
    while parts > 0:
        here = min(desk.keys[taken] % FACTOR, parts)
        desk.keys[taken] = desk.keys[taken] // FACTOR % n_nodes * FACTOR + here
        parts -= here
        taken += 1
    desk.keys[:taken].sort()
    return taken


@kernel
def smallest_cell(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells) -> int:
    """The cell with the fewest parts that has enough, ties by number; -1 none."""
    best, least = -1, NONE * FACTOR
    add_cells(floor, order, desk, ask, cells)
    if not ask.listed:
        for unit in range(ask.low, ask.high):
            cell = cells.of_node[floor.units[unit, ON_NODE]]
            slots = desk.by_cell[cell]
            if slots >= ask.parts and (slots < least or (slots == least and cell < best)):
                best, least = cell, slots
        for unit in range(ask.low, ask.high):
            desk.by_cell[cells.of_node[floor.units[unit, ON_NODE]]] = 0
        return best
    for cell in range(len(cells.first) - 1):
        slots = desk.by_cell[cell]
        desk.by_cell[cell] = 0
        if slots >= ask.parts and slots < least:
            best, least = cell, slots
    return best


@kernel
def add_cells(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells) -> None:
    """How many parts each cell has, at the desk."""
    if ask.listed:
        for leaf in range(len(order.leaves)):
            if order.leaves[leaf, COUNT] >= ask.size:
                desk.by_cell[cells.of_node[order.leaves[leaf, NODE]]] += order.leaves[leaf, COUNT] // ask.size
    for unit in range(ask.low, ask.high):
        node = floor.units[unit, ON_NODE]
        more = floor.units[unit, MARK_HERE] // ask.size
        if ask.listed:
            more -= order.leaves[floor.nodes[node, PLACE], COUNT] // ask.size
        desk.by_cell[cells.of_node[node]] += more


@kernel
def fit(
    floor: Floor,
    unsold: Order,
    lasting: Order,
    free: Order,
    desk: Desk,
    cells: Cells,
    kinds: int,
    parts: int,
    size: int,
    account: int,
    end_ms: int,
    low: int,
    high: int,
    only_whether: int,
) -> int:
    """GPUs for all parts (see `spread`) of the first tier that has room, at the desk; how many, 0 where none has.

    `kinds`: a bit for each tier to try. On a node the account's own GPUs go first, then unsold ones, then others'.
    `only_whether`: choose no GPUs, only say that there are some.
    """
    for kind in range(LASTING_OWN_OR_UNSOLD + 1):
        if not kinds >> kind & 1:
            continue
        order = free if kind == ANY else unsold if kind <= UNSOLD else lasting
        owns = kind <= OWN_OR_UNSOLD or kind in (LASTING_OWN, LASTING_OWN_OR_UNSOLD)
        listed = kind not in (OWN, LASTING_OWN)
        ask = Ask(parts, size, kind, account, end_ms, low, high if owns else low, listed)
        nodes = spread(floor, order, desk, ask, cells, only_whether)
        if nodes > 0:
            return nodes if only_whether else chosen(floor, desk, ask, nodes)
    return 0


@kernel
def chosen(floor: Floor, desk: Desk, ask: Ask, nodes: int) -> int:
    """GPUs on the chosen nodes, at the desk. How many."""
    found = 0
    ranks = np.zeros(3, dtype=np.int64)
    for i in range(nodes):
        node, need = desk.keys[i] // FACTOR, desk.keys[i] % FACTOR * ask.size
        low, high = floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]
        for gpu in range(low, high):
            if floor.gpus[gpu, IS_FREE] and allows(floor, gpu, ask.kind, ask.account, ask.end_ms):
                ranks[rank_of(floor, gpu, ask.account)] += 1
        for rank in range(3):
            ranks[rank] = min(ranks[rank], need)
            need -= ranks[rank]
        for gpu in range(low, high):
            rank = rank_of(floor, gpu, ask.account)
            if ranks[rank] > 0 and floor.gpus[gpu, IS_FREE] and allows(floor, gpu, ask.kind, ask.account, ask.end_ms):
                ranks[rank] -= 1
                desk.gpus[found] = gpu
                found += 1
    return found


@kernel
def rank_of(floor: Floor, gpu: int, account: int) -> int:
    """0 for the account's own, 1 for unsold, 2 for others'."""
    owner = floor.gpus[gpu, OWNER]
    if owner == account:
        return 0
    return 1 if owner < 0 else 2
