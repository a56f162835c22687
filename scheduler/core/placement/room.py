"""Room for a gang: on free GPUs, or made by ending others' work, under the rules of who may be ended for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.core.placement.books import Books, BoolArray, picked
from scheduler.core.placement.fits import cells_of_nodes, spread
from scheduler.core.placement.reclaim import Ground, Room, cheapest_room
from scheduler.core.placement.wants import Want
from scheduler.core.workloads import Gang


def free_fit(books: Books, wished: tuple[Want, ...], tiers: Sequence[BoolArray], first: BoolArray) -> list[int] | None:
    """GPUs for the best wish that fits the earliest tier; on a node `first` goes first, then unsold, then others."""
    for want in wished:
        cells = cells_of_nodes(books.fleet, want.level)
        for tier in tiers:
            where = spread(books.by_node(tier), books.free_by_node, want, cells)
            if where is not None:
                rank = np.where(first, 0, np.where(books.owner < 0, 1, 2))
                return picked(books, where, want.size, tier, rank)
    return None


def take_room(books: Books, gang: Gang, room: Room) -> None:
    """End the victims and place the gang, inside its entitlement, in the room that they leave."""
    # The smallest first: an account is over its count until its last victim, or it would not be one.
    for row in sorted(room.victims, key=lambda row: (books.rows[row].shape.gpus, row)):
        books.stop(row, gang)
    books.place(gang, room.gpus, inside=True)


def room_from_accounts_over_count(books: Books, want: Want, pool: int) -> Room | None:
    """The least lost work, anywhere in the pool, of accounts over their count; each loses until it is at its count."""
    excess = {
        account: -books.headroom(account, pool)
        for account in range(len(books.account_index))
        if books.headroom(account, pool) < 0
    }
    prices = {
        row: books.price(row)
        for row, gang in enumerate(books.rows)
        if books.account_of_row[row] in excess
        and gang.shape.preemptible
        and books.pool_of_row[row] == pool
        and books.is_placed(row)
    }
    return cheapest_room(Ground.of(books, books.of_pool(pool), prices, excess), want)


def room_from_others(books: Books, want: Want, account: int, pool: int, ground: BoolArray) -> Room | None:
    """The least lost work on this ground, of all but the account itself; accounts within their count come last."""
    prices = {
        row: books.price(row) + (0 if books.headroom(books.account_of_row[row], pool) < 0 else _LAST)
        for row, gang in enumerate(books.rows)
        if books.account_of_row[row] != account
        and gang.shape.preemptible
        and books.pool_of_row[row] == pool
        and books.is_placed(row)
    }
    return cheapest_room(Ground.of(books, ground, prices, None), want)


_LAST = 1 << 62
"""More than any work that can be lost."""
