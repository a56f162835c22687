"""Room for a gang: on free GPUs, or made by ending others' work, under the rules of who may be ended for whom."""

from __future__ import annotations

from itertools import chain

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.fits import Room
from scheduler.core.placement.moving import Crowd, dear, given_back, likely, room_by_moving
from scheduler.core.placement.reclaim import Ground, cheapest_room
from scheduler.core.placement.search import Tiers
from scheduler.core.placement.wants import Want
from scheduler.core.workloads import Gang


def free_fit(books: Books, wished: tuple[Want, ...], where: Tiers) -> IntArray | None:
    """GPUs for the best wish that fits, in the earliest tier; on a node the account's own first, then unsold ones."""
    for want in wished:
        gpus = books.fit(want, where)
        if gpus is not None:
            return gpus
    return None


def take_room(books: Books, gang: Gang, room: Room) -> None:
    """End the victims and place the gang, inside its entitlement, in the room that they leave."""
    # The smallest first: an account is over its count until its last victim, or it would not be one.
    for row in sorted(room.victims, key=lambda row: (books.rows[row].shape.gpus, books.rank_of_row[row])):
        books.stop(row, gang)
    books.place(gang, room.gpus, inside=True)


def room_from_accounts_over_count(books: Books, want: Want, pool: int) -> Room | None:
    """The least lost work, anywhere in the pool, of accounts over their count; each loses until it is at its count."""
    if want.apart is None:
        return books.room_over_count(want, pool)
    accounts = [account for account in range(len(books.account_index)) if books.headroom(account, pool) < 0]
    excess = {account: -books.headroom(account, pool) for account in accounts}
    prices = {
        row: books.price(row)
        for account in accounts
        for row in books.rows_of(account, pool)
        if books.rows[row].shape.preemptible and books.is_placed(row)
    }
    return cheapest_room(Ground.of(books, books.floor.gpus_of_pool(pool), prices, excess), want)


def room_from_others(books: Books, want: Want, account: int, pool: int, end_ms: int = 0) -> Room | None:
    """The least lost work of all but the account itself on its own GPUs, of those that it owns until then; accounts
    within their count come last.
    """
    return _room_at_home(books, want, account, pool, end_ms, own=False)


def room_at_home(
    books: Books, want: Want, account: int, pool: int, end_ms: int, node: int | None = None
) -> Room | None:
    """The same, and the account's own preemptible work makes way too, as that of others within their count does; on
    one node alone where it is given.
    """
    return _room_at_home(books, want, account, pool, end_ms, own=True, node=node)


def _room_at_home(
    books: Books, want: Want, account: int, pool: int, end_ms: int, *, own: bool, node: int | None = None
) -> Room | None:
    gpus = books.own_gpus(account, pool)
    gpus = gpus[books.floor.until_ms[gpus] >= end_ms]
    if node is not None:
        gpus = gpus[books.floor.node_of_gpu[gpus] == node]
    prices = {
        row: books.price(row) + (0 if books.headroom(books.account_of_row[row], pool) < 0 else _LAST)
        for row in books.holders(gpus)
        if (own or books.account_of_row[row] != account) and books.rows[row].shape.preemptible
    }
    return cheapest_room(Ground.of(books, gpus, prices, None), want)


def milder(books: Books, want: Want, pool: int, room: Room, gpus: IntArray | None = None) -> Room:
    """The room, or where it is dear another one, on these GPUs (None: anywhere in the pool), for which some move."""
    lost_ms = sum(books.price(row) for row in room.victims)
    if not dear(lost_ms, want.gpus):
        return room
    free = _elsewhere(books, pool)
    allowed = likely(free, books.floor.gpus_of_pool(pool), books.floor.node_of_gpu) if gpus is None else gpus
    prices = {
        row: books.price(row)
        for row in books.holders(allowed)
        if books.rows[row].shape.preemptible and books.is_placed(row)
    }
    found = room_by_moving(Crowd(books, prices, books.excess[pool], free), allowed, want)
    return room if found is None or not dear(lost_ms - found[0], want.gpus) else found[1]


def _elsewhere(books: Books, pool: int) -> IntArray:
    """(n_nodes): GPUs of the pool that are free, or that accounts over their count would give back (`given_back`)."""
    its = chain.from_iterable(
        sorted(books.rows_of(account, pool), key=books.rank_of_row.__getitem__)
        for account in np.flatnonzero(books.excess[pool] > 0).tolist()
    )
    able = (row for row in its if books.rows[row].shape.preemptible and books.is_placed(row))
    back = given_back((books.rows[row], books.price(row)) for row in able)
    more = np.bincount(books.floor.node_of_gpu[back], minlength=books.n_nodes)
    return np.where(books.floor.pool_of_node == pool, books.floor.free_by_node + more, 0)


_LAST = 1 << 62
"""More than any work that can be lost."""
