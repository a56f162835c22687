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


NODE, TIGHT, COUNT = range(3)


class Kind(IntEnum):
    """Which free GPUs a tier allows. With an end, all but the last two ask that ownership lasts until then."""

    OWN = 0
    OWN_OR_UNSOLD = 1
    UNSOLD = 2
    LASTING_OR_UNSOLD = 3
    FREE = 4


OWN, OWN_OR_UNSOLD, UNSOLD, LASTING_OR_UNSOLD, FREE = (int(kind) for kind in Kind)


class Order(NamedTuple):
    """See the module; leaf `i` is the pool's `i`-th node."""

    leaves: IntArray
    """(n_leaves, 3): the node, ascending; its free GPUs; how many of them the tier allows."""
    least: IntArray
    """(n_inner, most + 1): by inner node of the tree and size, the tightness of its tightest node with such a part."""
    starts: IntArray
    """Where each level of the tree begins in `least`, from below; one more at the end."""
    tally: IntArray
    """(most + 1): how many nodes have each count."""
    seen: IntArray
    """[pool, kind, end_ms, how many touched nodes were taken in]."""


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
    if kind == FREE:
        return floor.nodes[node, N_FREE]
    if kind == UNSOLD and end_ms == 0:
        return floor.nodes[node, N_UNSOLD]
    number = 0
    for gpu in range(floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]):
        if floor.gpus[gpu, IS_FREE] and allows(floor, gpu, kind, account, end_ms):
            number += 1
    return number


@kernel
def allows(floor: Floor, gpu: int, kind: int, account: int, end_ms: int) -> bool:
    """Whether the tier allows the GPU, which is free."""
    if kind == FREE:
        return True
    owner = floor.gpus[gpu, OWNER]
    if kind == LASTING_OR_UNSOLD:
        return owner < 0 or floor.gpus[gpu, UNTIL_MS] >= end_ms
    if floor.gpus[gpu, UNTIL_MS] < end_ms:
        return False
    if kind == UNSOLD:
        return owner < 0
    return owner == account or (kind == OWN_OR_UNSOLD and owner < 0)


@kernel
def refresh(order: Order, leaf: int) -> None:
    """Carry a changed leaf up the tree, as far as it makes a difference."""
    most = order.least.shape[1] - 1
    best = np.full(most + 1, NONE, dtype=np.int64)
    at = leaf // FAN
    for i in range(at * FAN, min(at * FAN + FAN, len(order.leaves))):
        count = order.leaves[i, COUNT]
        best[count] = min(best[count], order.leaves[i, TIGHT])
    for size in range(most - 1, -1, -1):
        best[size] = min(best[size], best[size + 1])
    level = 0
    while True:
        row = order.starts[level] + at
        same = True
        for size in range(1, most + 1):
            if order.least[row, size] != best[size]:
                same = False
                order.least[row, size] = best[size]
        level += 1
        if same or level + 1 >= len(order.starts):
            return
        at //= FAN
        low = order.starts[level - 1] + at * FAN
        high = min(low + FAN, order.starts[level])
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
    level = len(order.starts) - 2
    row = order.starts[level]
    tight = order.least[row, size]
    if tight == NONE:
        return -1
    at = 0
    while level > 0:
        level -= 1
        row = order.starts[level] + at * FAN
        at *= FAN
        while order.least[row, size] != tight:
            row += 1
            at += 1
    leaf = at * FAN
    while order.leaves[leaf, TIGHT] != tight or order.leaves[leaf, COUNT] < size:
        leaf += 1
    return leaf


@kernel
def begin(floor: Floor, order: Order) -> None:
    """Look at every node of the pool."""
    order.tally[:] = 0
    for leaf in range(len(order.leaves)):
        node = order.leaves[leaf, NODE]
        order.leaves[leaf, COUNT] = counted(floor, node, order.seen[1], -2, order.seen[2])
        order.leaves[leaf, TIGHT] = floor.nodes[node, N_FREE]
        order.tally[order.leaves[leaf, COUNT]] += 1
    for leaf in range(0, len(order.leaves), FAN):
        refresh(order, leaf)
    order.seen[3] = floor.ring[RING]


@kernel
def catch_up(floor: Floor, order: Order) -> None:
    """Take in what was touched since the last time; everything, where that is more than the ring holds."""
    pool, kind, end_ms = order.seen[0], order.seen[1], order.seen[2]
    if floor.ring[RING] - order.seen[3] > RING:
        begin(floor, order)
        return
    for i in range(order.seen[3], floor.ring[RING]):
        node = floor.ring[i % RING]
        if floor.nodes[node, POOL] != pool:
            continue
        leaf = floor.nodes[node, PLACE]
        count = counted(floor, node, kind, -2, end_ms)
        tight = floor.nodes[node, N_FREE]
        if count != order.leaves[leaf, COUNT] or tight != order.leaves[leaf, TIGHT]:
            order.tally[order.leaves[leaf, COUNT]] -= 1
            order.tally[count] += 1
            order.leaves[leaf, COUNT] = count
            order.leaves[leaf, TIGHT] = tight
            refresh(order, leaf)
    order.seen[3] = floor.ring[RING]


@kernel
def slots_of(order: Order, size: int) -> int:
    """How many parts of that size all nodes have."""
    slots = 0
    for count in range(size, len(order.tally)):
        slots += order.tally[count] * (count // size)
    return slots


@kernel
def own_counts(floor: Floor, desk: Desk, ask: Ask) -> None:
    """How many GPUs the tier allows on the account's own nodes, at the desk by unit."""
    for unit in range(ask.low, ask.high):
        node = floor.units[unit, ON_NODE]
        if ask.end_ms > 0:
            floor.units[unit, MARK_HERE] = counted(floor, node, ask.kind, ask.account, ask.end_ms)
        else:
            floor.units[unit, MARK_HERE] = floor.units[unit, FREE_HERE]
            if ask.kind == OWN_OR_UNSOLD:
                floor.units[unit, MARK_HERE] += floor.nodes[node, N_UNSOLD]


@kernel
def anywhere(floor: Floor, order: Order, desk: Desk, ask: Ask) -> int:
    """How many parts of that size there are; counts of own units are at the desk."""
    slots = 0 if ask.kind == OWN else slots_of(order, ask.size)
    for unit in range(ask.low, ask.high):
        slots += floor.units[unit, MARK_HERE] // ask.size
        if ask.kind != OWN:
            slots -= order.leaves[floor.nodes[floor.units[unit, ON_NODE], PLACE], COUNT] // ask.size
    return slots


@kernel
def looked(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells) -> int:
    """Bring order and own counts up to date. How many parts there are, whatever the cells."""
    if ask.kind != OWN:
        catch_up(floor, order)
    own_counts(floor, desk, ask)
    return anywhere(floor, order, desk, ask)


@kernel
def spread(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells) -> int:
    """Nodes for all parts, tightest first, or 0 where they do not fit: how many nodes, and `desk.keys`.

    The order is that of the tier, or of the unsold part of an OWN_OR_UNSOLD tier; an OWN tier does without. With
    cells, all parts go to the smallest one that suffices, ties by number.
    """
    if looked(floor, order, desk, ask, cells) < ask.parts:
        return 0
    if len(cells.of_node):
        return in_cell(floor, order, desk, ask, cells)
    return filled(floor, order, desk, ask)


@kernel
def filled(floor: Floor, order: Order, desk: Desk, ask: Ask) -> int:
    """Take the tightest node until all parts have room; there is enough. How many nodes."""
    n_nodes, parts, taken = len(floor.nodes) - 1, ask.parts, 0
    while parts > 0:
        best, chosen = NONE * n_nodes, -1
        leaf = -1 if ask.kind == OWN else tightest(order, ask.size)
        if leaf >= 0:
            best = order.leaves[leaf, TIGHT] * n_nodes + order.leaves[leaf, NODE]
        for unit in range(ask.low, ask.high):
            if floor.units[unit, MARK_HERE] >= ask.size:
                node = floor.units[unit, ON_NODE]
                key = floor.nodes[node, N_FREE] * n_nodes + node
                if key <= best:
                    best, chosen = key, unit
        node = best % n_nodes
        count = order.leaves[leaf, COUNT] if chosen < 0 else floor.units[chosen, MARK_HERE]
        here = min(count // ask.size, parts)
        parts -= here
        desk.keys[taken] = node * FACTOR + here
        taken += 1
        if parts > 0:
            if chosen >= 0:
                floor.units[chosen, MARK_HERE] = 0
            if ask.kind != OWN:
                leaf = floor.nodes[node, PLACE]
                order.leaves[leaf, TIGHT] += NONE
                refresh(order, leaf)
    if taken > 1:
        if ask.kind != OWN:
            put_back(floor, order, desk, taken)
        desk.keys[:taken].sort()
    return taken


@kernel
def put_back(floor: Floor, order: Order, desk: Desk, taken: int) -> None:
    """Chosen nodes were set aside by their tightness; they are given nobody yet."""
    for i in range(taken):
        leaf = floor.nodes[desk.keys[i] // FACTOR, PLACE]
        if order.leaves[leaf, TIGHT] >= NONE:
            order.leaves[leaf, TIGHT] -= NONE
            refresh(order, leaf)


@kernel
def in_cell(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells) -> int:
    """The smallest cell with enough parts, filled tightest node first. How many nodes, 0 where there is no such cell."""
    n_nodes, parts = len(floor.nodes) - 1, ask.parts
    cell = smallest_cell(floor, order, desk, ask, cells)
    if cell < 0:
        return 0
    for unit in range(ask.low, ask.high):
        floor.nodes[floor.units[unit, ON_NODE], MARK] = unit + 1
    found = 0
    for i in range(cells.first[cell], cells.first[cell + 1]):
        node = cells.nodes[i]
        count = 0
        if floor.nodes[node, MARK] > 0:
            count = floor.units[floor.nodes[node, MARK] - 1, MARK_HERE]
        elif ask.kind != OWN and floor.nodes[node, POOL] == order.seen[0]:
            count = order.leaves[floor.nodes[node, PLACE], COUNT]
        if count >= ask.size:
            desk.keys[found] = (floor.nodes[node, N_FREE] * n_nodes + node) * FACTOR + count // ask.size
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
    if ask.kind == OWN:
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
    if ask.kind != OWN:
        for leaf in range(len(order.leaves)):
            if order.leaves[leaf, COUNT] >= ask.size:
                desk.by_cell[cells.of_node[order.leaves[leaf, NODE]]] += order.leaves[leaf, COUNT] // ask.size
    for unit in range(ask.low, ask.high):
        node = floor.units[unit, ON_NODE]
        more = floor.units[unit, MARK_HERE] // ask.size
        if ask.kind != OWN:
            more -= order.leaves[floor.nodes[node, PLACE], COUNT] // ask.size
        desk.by_cell[cells.of_node[node]] += more


@kernel
def has_parts(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells) -> bool:
    """Whether the tier has room for all parts."""
    if looked(floor, order, desk, ask, cells) < ask.parts:
        return False
    return not len(cells.of_node) or smallest_cell(floor, order, desk, ask, cells) >= 0


@kernel
def fit(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells, first: int) -> int:
    """GPUs for all parts (see `spread`), those of account `first` first, then unsold ones, then others', at the desk.
    How many; 0 where they do not fit.
    """
    nodes, chosen = spread(floor, order, desk, ask, cells), 0
    ranks = np.zeros(3, dtype=np.int64)
    for i in range(nodes):
        node, need = desk.keys[i] // FACTOR, desk.keys[i] % FACTOR * ask.size
        low, high = floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]
        for gpu in range(low, high):
            if floor.gpus[gpu, IS_FREE] and allows(floor, gpu, ask.kind, ask.account, ask.end_ms):
                ranks[rank_of(floor, gpu, first)] += 1
        for rank in range(3):
            ranks[rank] = min(ranks[rank], need)
            need -= ranks[rank]
        for gpu in range(low, high):
            rank = rank_of(floor, gpu, first)
            if ranks[rank] > 0 and floor.gpus[gpu, IS_FREE] and allows(floor, gpu, ask.kind, ask.account, ask.end_ms):
                ranks[rank] -= 1
                desk.gpus[chosen] = gpu
                chosen += 1
    return chosen


@kernel
def rank_of(floor: Floor, gpu: int, first: int) -> int:
    """0 for the account's own, 1 for unsold, 2 for others'."""
    owner = floor.gpus[gpu, OWNER]
    if owner == first:
        return 0
    return 1 if owner < 0 else 2
