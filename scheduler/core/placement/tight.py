"""Which nodes a want gets of those that a tier of free GPUs allows, tightest first. The one place that chooses.

Listed nodes come from the tier's order (`scheduler.core.placement.orders`). What one account owns is looked at unit by
unit: few nodes as a rule, and of no use to others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.cells import Cells, shift, smallest
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
    Floor,
)
from scheduler.core.placement.orders import (
    ANY,
    COUNT,
    FREE,
    LASTING_OWN,
    LASTING_OWN_OR_UNSOLD,
    NONE,
    OF_FREE,
    OF_UNSOLD,
    OWN,
    OWN_OR_UNSOLD,
    UNSOLD,
    Order,
    Orders,
    allows,
    catch_up,
    count_slots,
    counted,
    order_at,
    refresh,
    slots_of,
    tightest,
)


class Ask(NamedTuple):
    """What is looked for: so many parts of a size, in the tier of a kind, an account and an end (0: none)."""

    pool: int
    row: int
    """Of the level whose cell binds (`cells.ROW_OF_LEVEL`); -1: none."""
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
    """Room to work in: results, and zeros by cell, left so."""

    by_cell: IntArray
    """(n_cells)."""
    keys: IntArray
    """(n_nodes + 1): the chosen nodes and their parts, node × FACTOR + parts, ascending."""
    gpus: IntArray
    """(n_gpus): the chosen GPUs."""
    none: IntArray
    """(0): no GPUs."""


FACTOR = 128
"""More than the parts of any node."""


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
    slots = 0 if not ask.listed else slots_of(order, ask.pool, ask.size)
    for unit in range(ask.low, ask.high):
        slots += floor.units[unit, MARK_HERE] // ask.size
        if ask.listed:
            slots -= order.leaves[floor.nodes[floor.units[unit, ON_NODE], PLACE], COUNT] // ask.size
    return slots


@kernel
def spread(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells, only_whether: int) -> int:
    """Nodes for all parts, tightest first, or 0 where they do not fit: how many nodes, and `desk.keys`.

    The order is that of the tier, or of what is not own in it, and has caught up. Where a cell binds, all parts go to
    the smallest one that suffices, ties by number.
    """
    own_counts(floor, ask)
    if anywhere(floor, order, ask) < ask.parts:
        return 0
    if ask.row >= 0:
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
        leaf = tightest(order, ask.pool, ask.size) if ask.listed else -1
        other = -1
        if leaf >= 0:
            other = order.ranks[ask.pool, ask.size, order.leaves[leaf, FREE]] * n_nodes + order.nodes[leaf]
        unit = tightest_own(floor, order, ask, other)
        node = order.nodes[leaf] if unit < 0 else floor.units[unit, ON_NODE]
        count = order.leaves[leaf, COUNT] if unit < 0 else floor.units[unit, MARK_HERE]
        here = min(count // ask.size, parts)
        parts -= here
        desk.keys[taken] = node * FACTOR + here
        taken += 1
        if parts > 0:
            set_aside(floor, order, ask, node, unit)
    if taken > 1:
        if ask.listed:
            put_back(floor, order, desk, ask, taken)
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
            key = order.ranks[ask.pool, ask.size, floor.nodes[node, N_FREE]] * n_nodes + node
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
        refresh(order, ask.pool, leaf, order.leaves[leaf, COUNT])


@kernel
def put_back(floor: Floor, order: Order, desk: Desk, ask: Ask, taken: int) -> None:
    """Chosen nodes were set aside by their tightness; they are given nobody yet."""
    for i in range(taken):
        leaf = floor.nodes[desk.keys[i] // FACTOR, PLACE]
        if order.leaves[leaf, FREE] >= NONE:
            order.leaves[leaf, FREE] -= NONE
            refresh(order, ask.pool, leaf, order.leaves[leaf, COUNT])


@kernel
def in_cell(floor: Floor, order: Order, desk: Desk, ask: Ask, cells: Cells, cell: int) -> int:
    """The tightest nodes of the cell, which has enough. How many nodes."""
    n_nodes, parts = len(floor.nodes) - 1, ask.parts
    for unit in range(ask.low, ask.high):
        floor.nodes[floor.units[unit, ON_NODE], MARK] = unit + 1
    found = 0
    for i in range(cells.first[ask.row, cell], cells.first[ask.row, cell + 1]):
        node = cells.nodes[ask.row, i]
        count = 0
        if floor.nodes[node, MARK] > 0:
            count = floor.units[floor.nodes[node, MARK] - 1, MARK_HERE]
        elif ask.listed:
            count = order.leaves[floor.nodes[node, PLACE], COUNT]
        if count >= ask.size:
            rank = order.ranks[ask.pool, ask.size, floor.nodes[node, N_FREE]]
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
    if ask.listed:
        count_slots(order, cells, ask.row, ask.size)
        slots, by_slots = order.slots[ask.row, ask.size], order.by_slots[ask.row, ask.size, ask.pool]
        low, high = cells.of_pool[ask.row, ask.pool], cells.of_pool[ask.row, ask.pool + 1]
        shift_own(floor, order, ask, cells, 1)
        best = smallest(slots, by_slots, low, high, ask.parts)
        shift_own(floor, order, ask, cells, -1)
        return best
    best, least = -1, NONE * FACTOR
    for unit in range(ask.low, ask.high):
        desk.by_cell[cells.of_node[ask.row, floor.units[unit, ON_NODE]]] += floor.units[unit, MARK_HERE] // ask.size
    for unit in range(ask.low, ask.high):
        cell = cells.of_node[ask.row, floor.units[unit, ON_NODE]]
        slots_here = desk.by_cell[cell]
        if slots_here >= ask.parts and (slots_here < least or (slots_here == least and cell < best)):
            best, least = cell, slots_here
    for unit in range(ask.low, ask.high):
        desk.by_cell[cells.of_node[ask.row, floor.units[unit, ON_NODE]]] = 0
    return best


@kernel
def shift_own(floor: Floor, order: Order, ask: Ask, cells: Cells, sign: int) -> None:
    """Put into the cells what own units have beside what the order says of their nodes, or take it out again (-1)."""
    slots, by_slots = order.slots[ask.row, ask.size], order.by_slots[ask.row, ask.size, ask.pool]
    for unit in range(ask.low, ask.high):
        node = floor.units[unit, ON_NODE]
        more = floor.units[unit, MARK_HERE] // ask.size
        more -= order.leaves[floor.nodes[node, PLACE], COUNT] // ask.size
        if more != 0:
            shift(slots, by_slots, cells.of_node[ask.row, node], sign * more)


@kernel
def fit(
    floor: Floor,
    orders: Orders,
    desk: Desk,
    cells: Cells,
    kinds: int,
    lasting: int,
    pool: int,
    row: int,
    parts: int,
    size: int,
    account: int,
    end_ms: int,
    low: int,
    high: int,
    only_whether: int,
) -> int:
    """GPUs for all parts (see `spread`) of the first tier that has room, at the desk; how many, 0 where none has.

    `kinds`: a bit for each tier to try; `lasting`: the order of those that ask how long ownership lasts. On a node the
    account's own GPUs go first, then unsold ones, then others'. `only_whether`: choose no GPUs, only say that there are
    some.
    """
    for kind in range(LASTING_OWN_OR_UNSOLD + 1):
        if not kinds >> kind & 1:
            continue
        at = OF_FREE if kind == ANY else OF_UNSOLD if kind <= UNSOLD else lasting
        owns = kind in (OWN, OWN_OR_UNSOLD, LASTING_OWN, LASTING_OWN_OR_UNSOLD)
        listed = kind not in (OWN, LASTING_OWN)
        if listed:
            catch_up(floor, orders, cells, at)
        elif low == high:
            continue
        ask = Ask(pool, row, parts, size, kind, account, end_ms, low, high if owns else low, listed)
        nodes = spread(floor, order_at(orders, at), desk, ask, cells, only_whether)
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
