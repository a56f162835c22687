"""The cheapest room for a want among what accounts over their count hold, of all cells or of the whole pool.

A want that is bound to a cell is tried cell by cell, those first that may be the cheapest; a cell that cannot be
cheaper than what was found is left out. The answer is that of `scheduler.core.placement.reclaim.cheapest_room`.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.bounds import BOUND, NODE, OPEN, ROOM, catch_up, leaf_of, open_up, put, put_root, remove
from scheduler.core.placement.cheapest import (
    Ask,
    Ground,
    add_row,
    available,
    price_of,
    tidy,
)
from scheduler.core.placement.excess import DEAREST
from scheduler.core.placement.floor import FIRST_GPU, HOLDER, LEAVER, USABLE
from scheduler.core.placement.victims import ENDED


@kernel
def least_by_cell(ground: Ground, ask: Ask, numbers: IntArray) -> IntArray:
    """(n_cells of the pool): what room in each cell costs at the least, at a glance; DEAREST: there is none. `numbers`
    (the same): how many of its leaves that takes at the least, each of which costs its share in one part more.
    """
    bounds, cells, size = ground.bounds, ground.cells, ask.size
    n_cells, shares, first = len(numbers), BOUND + bounds.least.shape[2], cells.of_pool[ask.row, ground.pool]
    room, most, least = np.zeros(n_cells, dtype=np.int64), np.ones(n_cells, dtype=np.int64), np.full(n_cells, DEAREST)
    numbers[:] = ask.parts
    for leaf in range(len(bounds.leaves)):
        is_open, parts = bounds.leaves[leaf, OPEN], bounds.leaves[leaf, ROOM]
        if parts < size:
            continue
        parts = 1 if parts < 2 * size else parts // size
        here = 0 if is_open < size else is_open // size
        cell = cells.of_node[ask.row, bounds.leaves[leaf, NODE]] - first
        room[cell] += parts
        numbers[cell] -= here
        most[cell] = max(most[cell], parts - here)
        if parts > here:
            least[cell] = min(least[cell], bounds.leaves[leaf, shares + (here + 1) * size])
    for cell in range(n_cells):
        if room[cell] < ask.parts:
            least[cell] = DEAREST
        else:
            numbers[cell] = max(0, -(-numbers[cell] // most[cell]))
            least[cell] = least[cell] * numbers[cell] if numbers[cell] else 0
    return least


@kernel
def least_in(ground: Ground, ask: Ask, number: int) -> int:
    """What room in the cell costs at the least, where so many leaves are needed: the smallest of their shares."""
    bounds, cells = ground.bounds, ground.cells
    shares = BOUND + bounds.least.shape[2]
    smallest = np.full(number, DEAREST)
    for at in range(cells.first[ask.row, ask.cell], cells.first[ask.row, ask.cell + 1]):
        leaf = leaf_of(ground.floor, bounds, cells.nodes[ask.row, at])
        more = (bounds.leaves[leaf, OPEN] // ask.size + 1) * ask.size
        if more > bounds.leaves[leaf, ROOM]:
            continue
        share, to = bounds.leaves[leaf, shares + more], number
        while to > 0 and smallest[to - 1] > share:
            if to < number:
                smallest[to] = smallest[to - 1]
            to -= 1
        if to < number:
            smallest[to] = share
    return int(smallest.sum())


@kernel
def in_some_cell(ground: Ground, ask: Ask) -> tuple[int, int]:
    """(cell, number of rows to end) of the cheapest room in one cell, ties by number, the rows as the best at the desk;
    cell -1: there is none.
    """
    best, best_cell, best_count = DEAREST, -1, 0
    first, behind = ground.cells.of_pool[ask.row, ground.pool], ground.cells.of_pool[ask.row, ground.pool + 1]
    numbers = np.empty(behind - first, dtype=np.int64)
    least = least_by_cell(ground, ask, numbers)
    order = np.array([least.argmin()], dtype=np.int64)
    for stage in range(2):
        for cell in order:
            if least[cell] >= DEAREST or least[cell] > best or (least[cell] == best and cell > best_cell):
                continue
            in_cell = Ask(ask.size, ask.parts, ask.row, first + cell)
            if least_in(ground, in_cell, numbers[cell]) > best:
                continue
            price, count = price_of(ground, in_cell)
            if price < best or (price == best and price < DEAREST and cell < best_cell):
                best, best_cell, best_count = price, cell, count
                ground.desk.best[:count] = ground.desk.ended[:count]
            tidy(ground)
        if stage == 0:
            least[order[0]] = DEAREST
            others = np.flatnonzero(least <= min(best, DEAREST - 1))
            order = others[least[others].argsort(kind="mergesort")]
    return (first + best_cell if best_cell >= 0 else -1), best_count


@kernel
def picked(ground: Ground, node: int, number: int, gpus: IntArray, found: int) -> None:
    """Write so many GPUs of the node, ascending, behind those found: free ones first, then leavers', then those of
    ended rows.
    """
    floor, rows = ground.floor, ground.victims.rows
    low, high = floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]
    left = np.zeros(3, dtype=np.int64)
    ranks = np.full(high - low, 3, dtype=np.int64)
    for gpu in range(low, high):
        row = floor.gpus[gpu, HOLDER]
        if floor.gpus[gpu, USABLE] and (row < 0 or rows[row, ENDED]):
            rank = 2 if row >= 0 else int(floor.gpus[gpu, LEAVER] >= 0)
            ranks[gpu - low] = rank
            left[rank] += 1
    for rank in range(3):
        left[rank] = min(left[rank], number)
        number -= left[rank]
    for gpu in range(low, high):
        rank = ranks[gpu - low]
        if rank < 3 and left[rank] > 0:
            left[rank] -= 1
            gpus[found] = gpu
            found += 1


@kernel
def chosen(ground: Ground, ask: Ask, count: int) -> IntArray:
    """GPUs for all parts once the best rows at the desk are gone, ascending: on leaves with least room first, ties by
    number.
    """
    bounds, cells, desk = ground.bounds, ground.cells, ground.desk
    for at in range(count):
        desk.ended[at] = desk.best[at]
        add_row(ground, ask, desk.ended[at], 1)
    desk.used[1] = count
    if ask.cell >= 0:
        for at in range(cells.first[ask.row, ask.cell], cells.first[ask.row, ask.cell + 1]):
            leaf = leaf_of(ground.floor, bounds, cells.nodes[ask.row, at])
            if available(bounds, leaf) >= ask.size:
                put(bounds, leaf, available(bounds, leaf), leaf)
    else:
        for at in range(bounds.used[1]):
            leaf = bounds.seen[at]
            if available(bounds, leaf) >= ask.size:
                put(bounds, leaf, available(bounds, leaf), leaf)
        put_root(bounds, ask.size, 1)
    taken, n_taken, parts = np.empty((ask.parts, 2), dtype=np.int64), 0, ask.parts
    while parts > 0:
        leaf = bounds.heap[0]
        if leaf >= len(bounds.leaves):
            open_up(bounds, leaf, ask.size, 1)
            continue
        remove(bounds, leaf)
        taken[n_taken, 0], taken[n_taken, 1] = leaf, min(parts, available(bounds, leaf) // ask.size)
        parts -= taken[n_taken, 1]
        n_taken += 1
    gpus, found = np.empty(ask.parts * ask.size, dtype=np.int64), 0
    for at in taken[:n_taken, 0].argsort():
        number = taken[at, 1] * ask.size
        picked(ground, bounds.leaves[taken[at, 0], NODE], number, gpus, found)
        found += number
    tidy(ground)
    return gpus


@kernel
def cheapest_room(ground: Ground, size: int, parts: int, row: int, seen: int, more: IntArray) -> IntArray:
    """GPUs for so many parts of a size, in one cell of the row's level if it has any, at the least lost work; none
    where nothing makes room. `seen` and `more`: see `bounds.catch_up`.
    """
    catch_up(ground.floor, ground.bounds, ground.victims, ground.excess, ground.desk, ground.pool, seen, more)
    if size >= ground.bounds.least.shape[2]:
        return np.empty(0, dtype=np.int64)
    ask = Ask(size, parts, row, -1)
    if row >= 0:
        cell, count = in_some_cell(ground, ask)
        return chosen(ground, Ask(size, parts, row, cell), count) if cell >= 0 else np.empty(0, dtype=np.int64)
    price, count = price_of(ground, ask)
    ground.desk.best[:count] = ground.desk.ended[:count]
    tidy(ground)
    return chosen(ground, ask, count) if price < DEAREST else np.empty(0, dtype=np.int64)
