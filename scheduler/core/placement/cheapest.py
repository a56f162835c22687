"""The least lost work that makes room for a want in one region, a cell or a whole pool: greedy by marginal node.

Kernels over `bounds` and `excess`; the rules are those of `scheduler.core.placement.reclaim`. Always the node whose
next part costs least given what was already ended; then *fill back*: whoever turns out not to be needed stays, the
costliest first. A leaf stands in the walk by its bound until that comes up, then by what its next part costs.
"""

from __future__ import annotations

from typing import NamedTuple

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.bounds import (
    BOUND,
    FIRST,
    MORE,
    NODE,
    OFFERED,
    OPEN,
    PARTS,
    ROOM,
    ROUND,
    Bounds,
    clear,
    leaf_of,
    note,
    note_leaf,
    open_up,
    put,
    put_root,
    refresh,
    remove,
)
from scheduler.core.placement.cells import Cells
from scheduler.core.placement.excess import DEAREST, Desk, lawful_rows, offer
from scheduler.core.placement.floor import AT_NODE, HOLDER, POOL, USABLE, Floor
from scheduler.core.placement.victims import ACCOUNT, ENDED, HELD, N_HELD, PRICE, RANK, Victims


class Ground(NamedTuple):
    """All that there is to read and to work with."""

    floor: Floor
    bounds: Bounds
    victims: Victims
    excess: IntArray
    """(n_accounts): by how much each is over its count in the pool."""
    desk: Desk
    cells: Cells
    pool: int


class Ask(NamedTuple):
    """What is looked for: so many parts of a size."""

    size: int
    parts: int
    row: int
    """Of the level whose cell binds (`cells.ROW_OF_LEVEL`)."""
    cell: int
    """Which cell; -1: anywhere in the pool."""


@kernel
def leaf_under(ground: Ground, ask: Ask, row: int, at: int) -> int:
    """The leaf under the row's GPU that stands there among those held; -1 where the row lost it, it is not usable, or
    not in the cell.
    """
    gpu = ground.victims.held[at]
    if ground.floor.gpus[gpu, HOLDER] != row or not ground.floor.gpus[gpu, USABLE]:
        return -1
    node = ground.floor.gpus[gpu, AT_NODE]
    if ground.floor.nodes[node, POOL] != ground.pool:  # nodes may have become others' under a gang that runs
        return -1
    if ask.cell >= 0 and ground.cells.of_node[ask.row, node] != ask.cell:
        return -1
    return leaf_of(ground.floor, ground.bounds, node)


@kernel
def available(bounds: Bounds, leaf: int) -> int:
    """Open GPUs of the leaf once the rows that were ended are gone."""
    return int(bounds.leaves[leaf, OPEN] + bounds.scratch[leaf, MORE])


@kernel
def add_row(ground: Ground, ask: Ask, row: int, sign: int) -> int:
    """The row counts as ended, or not any more (-1). By how many parts that changes what the leaves have room for."""
    bounds, parts = ground.bounds, 0
    ground.victims.rows[row, ENDED] = int(sign > 0)
    first = ground.victims.rows[row, HELD]
    for at in range(first, first + ground.victims.rows[row, N_HELD]):
        leaf = leaf_under(ground, ask, row, at)
        if leaf >= 0:
            note(bounds, leaf)
            parts -= available(bounds, leaf) // ask.size
            bounds.scratch[leaf, MORE] += sign
            parts += available(bounds, leaf) // ask.size
    return parts


@kernel
def put_offer(ground: Ground, ask: Ask, leaf: int, state: int) -> bool:
    """Put the leaf where the price of its next part belongs (`state`: see `excess.offer`); the rows at the desk.
    Whether it stood there.
    """
    bounds = ground.bounds
    note(bounds, leaf)
    parts = bounds.scratch[leaf, PARTS]
    need = ask.size * (parts + 1) - available(bounds, leaf)
    node = bounds.leaves[leaf, NODE]
    price, count = offer(ground.floor, ground.victims, ground.excess, ground.desk, node, need, state)
    ground.desk.used[0] = count
    if price >= DEAREST:
        remove(bounds, leaf)
        return False
    tie = leaf - parts * len(bounds.leaves)
    stood = bounds.scratch[leaf, OFFERED] and bounds.place[leaf] >= 0
    if stood and bounds.keys[leaf, 0] == price and bounds.keys[leaf, 1] == tie:
        return True
    bounds.scratch[leaf, OFFERED] = 1
    put(bounds, leaf, price, tie)
    return False


@kernel
def put_stale(ground: Ground, ask: Ask, row: int) -> None:
    """Put the leaves on which the row stood, which is ended, where they belong now."""
    last, first = -1, ground.victims.rows[row, HELD]
    for at in range(first, first + ground.victims.rows[row, N_HELD]):
        leaf = leaf_under(ground, ask, row, at)
        if leaf >= 0 and leaf != last:
            put_offer(ground, ask, leaf, 0)
            last = leaf


@kernel
def line_up(ground: Ground, ask: Ask) -> None:
    """Begin a walk over the region by bounds."""
    bounds, cells = ground.bounds, ground.cells
    if ask.cell < 0:
        put_root(bounds, ask.size, 0)
        return
    for at in range(cells.first[ask.row, ask.cell], cells.first[ask.row, ask.cell + 1]):
        leaf = leaf_of(ground.floor, bounds, cells.nodes[ask.row, at])
        if bounds.leaves[leaf, ROOM] >= ask.size:
            put(bounds, leaf, bounds.leaves[leaf, BOUND + ask.size], -FIRST)


@kernel
def end_for(ground: Ground, ask: Ask) -> bool:
    """Take the cheapest next part until all have room; the rows that ends at the desk. Whether there is room."""
    bounds, desk, parts = ground.bounds, ground.desk, ask.parts
    line_up(ground, ask)
    while parts > 0:
        if bounds.used[0] == 0:
            return False
        leaf = bounds.heap[0]
        if leaf >= len(bounds.leaves):
            open_up(bounds, leaf, ask.size, 0)
            continue
        if not bounds.scratch[leaf, OFFERED]:
            put_offer(ground, ask, leaf, 1)
            continue
        if not put_offer(ground, ask, leaf, 0):
            continue
        first, count = desk.used[1], desk.used[0]
        lawful_rows(ground.victims.rows, ground.excess, desk, count, 0, 1)
        desk.ended[first : first + count] = desk.rows[:count]
        desk.used[1] = first + count
        bounds.scratch[leaf, PARTS] += 1
        parts -= 1
        for at in range(first, first + count):
            add_row(ground, ask, desk.ended[at], 1)
        put_offer(ground, ask, leaf, 0)
        for at in range(first, first + count):
            put_stale(ground, ask, desk.ended[at])
    return True


@kernel
def parts_now(ground: Ground, ask: Ask) -> int:
    """For how many parts the region has room."""
    bounds, cells, parts = ground.bounds, ground.cells, 0
    if ask.cell >= 0:
        for at in range(cells.first[ask.row, ask.cell], cells.first[ask.row, ask.cell + 1]):
            parts += available(bounds, leaf_of(ground.floor, bounds, cells.nodes[ask.row, at])) // ask.size
        return parts
    for count in range(ask.size, len(bounds.tally)):
        parts += bounds.tally[count] * (count // ask.size)
    for at in range(bounds.used[1]):
        leaf = bounds.seen[at]
        parts += available(bounds, leaf) // ask.size - bounds.leaves[leaf, OPEN] // ask.size
    return parts


@kernel
def is_dearer(rows: IntArray, row: int, other: int) -> bool:
    """Whether the row is asked to stay before the other."""
    if rows[row, PRICE] != rows[other, PRICE]:
        return bool(rows[row, PRICE] > rows[other, PRICE])
    return bool(rows[row, RANK] < rows[other, RANK])


@kernel
def fill_back(ground: Ground, ask: Ask) -> int:
    """Let stay whoever is not needed. How many of the rows ended are, and stand before the others."""
    desk, parts, needed = ground.desk, parts_now(ground, ask), 0
    for at in range(1, desk.used[1]):
        row, to = desk.ended[at], at
        while to > 0 and is_dearer(ground.victims.rows, row, desk.ended[to - 1]):
            desk.ended[to] = desk.ended[to - 1]
            to -= 1
        desk.ended[to] = row
    for at in range(desk.used[1]):
        row = desk.ended[at]
        fewer = add_row(ground, ask, row, -1)
        if parts + fewer >= ask.parts:
            parts += fewer
        else:
            add_row(ground, ask, row, 1)
            desk.ended[at], desk.ended[needed] = desk.ended[needed], row
            needed += 1
    return needed


@kernel
def price_of(ground: Ground, ask: Ask) -> tuple[int, int]:
    """(price, number of rows to end) of the room for the want, the rows first among those at the desk; DEAREST: there
    is none.
    """
    if not end_for(ground, ask):
        return DEAREST, 0
    price, needed = 0, fill_back(ground, ask)
    for at in range(needed):
        price += ground.victims.rows[ground.desk.ended[at], PRICE]
    return price, needed


@kernel
def tidy(ground: Ground) -> None:
    """Everything is as it was before the search, but that bounds of leaves that it came to are those of this round."""
    desk, rows = ground.desk, ground.victims.rows
    for at in range(desk.used[1]):
        row = desk.ended[at]
        rows[row, ENDED] = 0
        desk.total[0, rows[row, ACCOUNT]] = desk.largest[0, rows[row, ACCOUNT]] = 0
    desk.used[:] = 0
    bounds = ground.bounds
    for at in range(bounds.used[1]):
        leaf = bounds.seen[at]
        if bounds.leaves[leaf, ROUND] != bounds.head[1]:
            note_leaf(ground.floor, bounds, ground.victims, ground.excess, desk, leaf)
            refresh(bounds, leaf)
    clear(bounds)
