"""What a node costs: which gangs of accounts over their count to end there, as kernels over tables by row and node.

The rules are those of `scheduler.core.placement.reclaim`: the cheapest subset that frees enough, ties by rank; where
that would take an account below its count, the cheapest gangs one by one, as far as each of them may be ended.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.floor import FIRST_GPU, HOLDER, POOL, RING, USABLE, Floor

PRICE, RANK, ACCOUNT, GPUS, FIRM, MILLI, STARTED_MS, CHECKPOINT_MS, OVERHEAD_MS, MIN_RUN_MS, EVICTED_MS = range(11)
"""Columns by row."""
OPEN, ROOM, BOUND = range(3)
"""Columns by node."""
DEAREST = 1 << 61
MOST_VICTIMS = 64


class Desk(NamedTuple):
    """Room to work in: by account, zeros; victims of a node; the best subsets for each need."""

    total: IntArray
    largest: IntArray
    victims: IntArray
    """(MOST_VICTIMS, 4): price, rank, GPUs on the node, row; the cheapest first."""
    price: IntArray
    """(MOST_VICTIMS + 1): by GPUs freed, the least price; DEAREST: impossible."""
    chosen: IntArray
    """(MOST_VICTIMS + 1, MOST_VICTIMS + 1): how many victims that takes, and which."""
    rows: IntArray
    """(MOST_VICTIMS): the rows to end."""


def desk_of(n_accounts: int) -> Desk:
    """A desk for so many accounts."""
    shapes: tuple[tuple[int, ...], ...] = (
        (n_accounts,),
        (n_accounts,),
        (MOST_VICTIMS, 4),
        (MOST_VICTIMS + 1,),
        (MOST_VICTIMS + 1, MOST_VICTIMS + 1),
        (MOST_VICTIMS,),
    )
    return Desk(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


@kernel
def victims_of(floor: Floor, rows: IntArray, excess: IntArray, desk: Desk, node: int, ended: IntArray) -> int:
    """The node's displaceable gangs but those ended, the cheapest first, at the desk. How many."""
    found = 0
    for gpu in range(floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]):
        row = floor.gpus[gpu, HOLDER]
        if row < 0 or not floor.gpus[gpu, USABLE] or rows[row, FIRM] or excess[rows[row, ACCOUNT]] <= 0:
            continue
        at = 0
        while at < found and desk.victims[at, 3] != row:
            at += 1
        if at < found:
            desk.victims[at, 2] += 1
            continue
        gone = False
        for other in ended:
            gone = gone or other == row
        if gone:
            continue
        price, rank = rows[row, PRICE], rows[row, RANK]
        while at > 0 and (
            desk.victims[at - 1, 0] > price or (desk.victims[at - 1, 0] == price and desk.victims[at - 1, 1] > rank)
        ):
            desk.victims[at] = desk.victims[at - 1]
            at -= 1
        desk.victims[at, 0], desk.victims[at, 1], desk.victims[at, 2], desk.victims[at, 3] = price, rank, 1, row
        found += 1
    return found


@kernel
def note_node(floor: Floor, rows: IntArray, excess: IntArray, desk: Desk, nodes: IntArray, node: int) -> None:
    """What is known of a node, anew."""
    is_open = 0
    for gpu in range(floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]):
        if floor.gpus[gpu, USABLE] and floor.gpus[gpu, HOLDER] < 0:
            is_open += 1
    found = victims_of(floor, rows, excess, desk, node, desk.rows[:0])
    room = is_open
    for at in range(found):
        room += desk.victims[at, 2]
    nodes[node, OPEN], nodes[node, ROOM] = is_open, room
    nodes[node, BOUND] = desk.victims[0, 0] if found else DEAREST


@kernel
def catch_up(
    floor: Floor, rows: IntArray, excess: IntArray, desk: Desk, nodes: IntArray, seen: int, more: IntArray
) -> int:
    """Look anew at nodes touched since `seen`, and at these; at all where the ring lost some. What is seen now."""
    if seen < 0 or floor.ring[RING] - seen > RING:
        for node in range(len(nodes)):
            note_node(floor, rows, excess, desk, nodes, node)
        return int(floor.ring[RING])
    for at in range(seen, floor.ring[RING]):
        note_node(floor, rows, excess, desk, nodes, floor.ring[at % RING])
    for node in more:
        note_node(floor, rows, excess, desk, nodes, node)
    return int(floor.ring[RING])


@kernel
def end_at_desk(rows: IntArray, desk: Desk, row: int) -> None:
    """Count the row as ended."""
    account, gpus = rows[row, ACCOUNT], rows[row, GPUS]
    desk.total[account] += gpus
    desk.largest[account] = max(desk.largest[account], gpus)


@kernel
def least(desk: Desk, found: int, need: int) -> None:
    """The cheapest subset of the node's victims that frees at least `need`, ties by rank, at the desk."""
    desk.price[: need + 1] = DEAREST
    desk.price[0], desk.chosen[0, 0] = 0, 0
    for at in range(found):
        for have in range(need - 1, -1, -1):
            if desk.price[have] == DEAREST:
                continue
            to = min(need, have + desk.victims[at, 2])
            price = desk.price[have] + desk.victims[at, 0]
            if price < desk.price[to] or (price == desk.price[to] and comes_first(desk, have, at, to)):
                count = desk.chosen[have, 0]
                for i in range(1, count + 1):
                    desk.chosen[to, i] = desk.chosen[have, i]
                desk.chosen[to, 0], desk.chosen[to, count + 1] = count + 1, at
                desk.price[to] = price


@kernel
def comes_first(desk: Desk, have: int, at: int, to: int) -> bool:
    """Whether the ranks of the subset for `have` and the victim come before those of the subset for `to`."""
    count, other = desk.chosen[have, 0], desk.chosen[to, 0]
    for i in range(1, min(count + 1, other) + 1):
        mine = desk.victims[desk.chosen[have, i] if i <= count else at, 1]
        theirs = desk.victims[desk.chosen[to, i], 1]
        if mine != theirs:
            return bool(mine < theirs)
    return bool(count + 1 < other)


@kernel
def offer(
    floor: Floor, rows: IntArray, excess: IntArray, desk: Desk, node: int, need: int, ended: IntArray
) -> tuple[int, int]:
    """(price, number of further rows) to free `need` more GPUs of the node on top of the rows already ended, which
    stand at the desk's totals; the rows at the desk. DEAREST: not possible.
    """
    if need <= 0:
        return 0, 0
    found, freed = victims_of(floor, rows, excess, desk, node, ended), 0
    for at in range(found):
        freed += desk.victims[at, 2]
    if freed < need:
        return DEAREST, 0
    least(desk, found, need)
    count, price = desk.chosen[need, 0], desk.price[need]
    for i in range(count):
        desk.rows[i] = desk.victims[desk.chosen[need, i + 1], 3]
    if lawful_rows(rows, excess, desk, count, 0):
        return price, count
    price, count = 0, 0
    for at in range(found):
        desk.rows[count] = desk.victims[at, 3]
        if need > 0 and lawful_rows(rows, excess, desk, count + 1, 0):
            need -= desk.victims[at, 2]
            price += desk.victims[at, 0]
            count += 1
    return (price, count) if need <= 0 else (DEAREST, 0)


@kernel
def lawful_rows(rows: IntArray, excess: IntArray, desk: Desk, count: int, keep: int) -> bool:
    """Whether those ended and the first rows of the desk can be ended while each one's account is over its count;
    `keep`: if so, count them as ended.
    """
    before = np.zeros((count, 2), dtype=np.int64)
    for i in range(count):
        account = rows[desk.rows[i], ACCOUNT]
        before[i, 0], before[i, 1] = desk.total[account], desk.largest[account]
        end_at_desk(rows, desk, desk.rows[i])
    lawful = True
    for i in range(count):
        account = rows[desk.rows[i], ACCOUNT]
        lawful = lawful and desk.total[account] - desk.largest[account] < excess[account]
    if not (keep and lawful):
        for i in range(count - 1, -1, -1):
            account = rows[desk.rows[i], ACCOUNT]
            desk.total[account], desk.largest[account] = before[i, 0], before[i, 1]
    return bool(lawful)


@kernel
def one_part(
    floor: Floor, rows: IntArray, excess: IntArray, desk: Desk, nodes: IntArray, pool: int, size: int
) -> tuple[int, int]:
    """(node, number of rows to end) of the cheapest room for one part, the rows at the desk; node -1: there is none.

    Ties: nodes whose cheapest gang costs less than the whole first, then by number.
    """
    best, best_node, best_even = DEAREST, -1, False
    none = desk.rows[:0]
    for node in range(len(nodes)):
        if nodes[node, ROOM] < size or floor.nodes[node, POOL] != pool:
            continue
        bound = 0 if nodes[node, OPEN] >= size else nodes[node, BOUND]
        if bound > best or (bound == best and best_node >= 0):
            continue
        price, _ = offer(floor, rows, excess, desk, node, size - nodes[node, OPEN], none)
        even = price == bound
        if price < best or (price == best and price < DEAREST and best_even and not even):
            best, best_node, best_even = price, node, even
    if best_node < 0:
        return -1, 0
    return best_node, offer(floor, rows, excess, desk, best_node, size - nodes[best_node, OPEN], none)[1]
