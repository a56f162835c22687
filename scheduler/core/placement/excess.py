"""What a node costs: which gangs of accounts over their count to end there, as kernels over tables by row and node.

The rules are those of `scheduler.core.placement.reclaim`: the cheapest subset that frees enough, ties by rank; where
that would take an account below its count, the cheapest gangs one by one, as far as each of them may be ended.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.kernels import kernel
from scheduler.core.placement.floor import FIRST_GPU, HOLDER, USABLE, Floor
from scheduler.core.placement.victims import ACCOUNT, ENDED, FIRM, GPUS, N_HELD, PRICE, RANK, Victims

DEAREST = 1 << 61
MOST_VICTIMS = 64


class Desk(NamedTuple):
    """Room to work in: by account, zeros; victims of a node; the best subsets for each need; what is ended."""

    total: IntArray
    """(2, n_accounts): GPUs of each account's rows ended so far; the second row stays zeros: nothing is ended."""
    largest: IntArray
    """(2, n_accounts): and of the largest of them."""
    victims: IntArray
    """(MOST_VICTIMS, 4): price, rank, GPUs on the node, row; the cheapest first."""
    price: IntArray
    """(MOST_VICTIMS + 1): by GPUs freed, the least price; DEAREST: impossible."""
    chosen: IntArray
    """(MOST_VICTIMS + 1, MOST_VICTIMS + 1): how many victims that takes, and which."""
    rows: IntArray
    """(MOST_VICTIMS): the rows to end on a node."""
    ended: IntArray
    """(n_rows): the rows ended in all; those that are not needed after the others."""
    best: IntArray
    """(n_rows): the rows to end for the best room so far."""
    used: IntArray
    """(2): how many of `rows` and of `ended` are meant."""


def desk_of(n_accounts: int, n_rows: int) -> Desk:
    """A desk for so many accounts and rows."""
    shapes: tuple[tuple[int, ...], ...] = (
        (2, n_accounts),
        (2, n_accounts),
        (MOST_VICTIMS, 4),
        (MOST_VICTIMS + 1,),
        (MOST_VICTIMS + 1, MOST_VICTIMS + 1),
        (MOST_VICTIMS,),
        (n_rows,),
        (n_rows,),
        (2,),
    )
    return Desk(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


@kernel
def victims_of(floor: Floor, victims: Victims, excess: IntArray, desk: Desk, node: int) -> int:
    """The node's displaceable gangs but those ended, the cheapest first, at the desk. How many. Rows that nobody took
    in are no victims.
    """
    rows, found = victims.rows, 0
    for gpu in range(floor.nodes[node, FIRST_GPU], floor.nodes[node + 1, FIRST_GPU]):
        row = floor.gpus[gpu, HOLDER]
        if row < 0 or not floor.gpus[gpu, USABLE] or not rows[row, N_HELD]:
            continue
        if rows[row, FIRM] or rows[row, ENDED] or excess[rows[row, ACCOUNT]] <= 0:
            continue
        at = 0
        while at < found and desk.victims[at, 3] != row:
            at += 1
        if at < found:
            desk.victims[at, 2] += 1
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
    floor: Floor, victims: Victims, excess: IntArray, desk: Desk, node: int, need: int, state: int
) -> tuple[int, int]:
    """(price, number of further rows) to free `need` more GPUs of the node on top of the rows already ended; the rows
    at the desk. DEAREST: not possible. `state`: 0 as things are, 1 as if no account had lost any yet.
    """
    if need <= 0:
        return 0, 0
    rows, freed = victims.rows, 0
    found = victims_of(floor, victims, excess, desk, node)
    for at in range(found):
        freed += desk.victims[at, 2]
    if freed < need:
        return DEAREST, 0
    least(desk, found, need)
    count, price = desk.chosen[need, 0], desk.price[need]
    for i in range(count):
        desk.rows[i] = desk.victims[desk.chosen[need, i + 1], 3]
    if lawful_rows(rows, excess, desk, count, state, 0):
        return price, count
    price, count = 0, 0
    for at in range(found):
        desk.rows[count] = desk.victims[at, 3]
        if need > 0 and lawful_rows(rows, excess, desk, count + 1, state, 0):
            need -= desk.victims[at, 2]
            price += desk.victims[at, 0]
            count += 1
    return (price, count) if need <= 0 else (DEAREST, 0)


@kernel
def lawful_rows(rows: IntArray, excess: IntArray, desk: Desk, count: int, state: int, keep: int) -> bool:
    """Whether those ended and the first rows of the desk can be ended while each one's account is over its count;
    `keep`: if so, count them as ended.
    """
    total, largest = desk.total[state], desk.largest[state]
    before = np.zeros((count, 2), dtype=np.int64)
    for i in range(count):
        account, gpus = rows[desk.rows[i], ACCOUNT], rows[desk.rows[i], GPUS]
        before[i, 0], before[i, 1] = total[account], largest[account]
        total[account] += gpus
        largest[account] = max(largest[account], gpus)
    lawful = True
    for i in range(count):
        account = rows[desk.rows[i], ACCOUNT]
        lawful = lawful and total[account] - largest[account] < excess[account]
    if not (keep and lawful):
        for i in range(count - 1, -1, -1):
            account = rows[desk.rows[i], ACCOUNT]
            total[account], largest[account] = before[i, 0], before[i, 1]
    return bool(lawful)
