"""Gangs that cannot be preempted stand only where ownership lasts to their declared end; no own work moves for them.

Inside its entitlement is such a gang of k GPUs of account `a` when its count holds it now, the GPUs of `a`'s gangs of
its kind plus k are at most the owned GPUs that last to its declared end, it fits `a`'s own GPUs that last that long
(or unsold ones), and what the count holds besides still repacks without the GPUs that it takes.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.placement.books import Books, BoolArray, picked
from scheduler.core.placement.fits import cells_of_nodes, has_slots, spread
from scheduler.core.placement.inside import packs
from scheduler.core.placement.room import room_from_others, take_room
from scheduler.core.placement.wants import wants
from scheduler.core.workloads import Gang


def lasting(books: Books, gang: Gang) -> BoolArray:
    """(n_gpus): GPUs whose owner stays until the gang's declared end."""
    return books.until_ms >= books.now_ms + gang.shape.runtime_ms


def place_firm(books: Books, gang: Gang, account: int, pool: int) -> bool:
    """Place the gang if it is inside its entitlement; the count was checked. Whether it was placed."""
    end_ms = books.now_ms + gang.shape.runtime_ms
    if books.firm_used[account][pool] + gang.shape.gpus > books.owned_lasting(account, pool, end_ms):
        return False
    own = books.own(account, pool) & lasting(books, gang)
    if not _may_fit(books, gang, account, pool, own):
        return False
    if not packs(books.repack_room(account, pool), books.counted(account, pool), books.fleet):
        return False
    return _on_free(books, gang, account, pool, own) or _by_reclaim(books, gang, account, pool, own)


def _may_fit(books: Books, gang: Gang, account: int, pool: int, own: BoolArray) -> bool:
    """Whether own lasting GPUs without own or firm work, and free unsold ones, have room: no way out without it."""
    stays = [
        books.account_of_row[row] == account or not placed.shape.preemptible for row, placed in enumerate(books.rows)
    ]
    held = np.array([*stays, False], dtype=np.bool_)[books.holder]
    unsold = books.free & books.of_pool(pool) & (books.owner < 0) & lasting(books, gang)
    return has_slots(books.fleet, books.by_node((own & ~held) | unsold), wants(gang.shape)[-1])


def _on_free(books: Books, gang: Gang, account: int, pool: int, own: BoolArray) -> bool:
    unsold = books.of_pool(pool) & (books.owner < 0) & lasting(books, gang)
    rank = np.where(own, 0, 1)
    for want in wants(gang.shape):
        cells = cells_of_nodes(books.fleet, want.level)
        for tier in (books.free & own, books.free & unsold, books.free & (own | unsold)):
            where = spread(books.by_node(tier), books.free_by_node, want, cells)
            if where is None:
                continue
            gpus = picked(books, where, want.size, tier, rank)
            if _rest_repacks(books, gpus, account, pool):
                books.place(gang, gpus, inside=True)
                return True
    return False


def _by_reclaim(books: Books, gang: Gang, account: int, pool: int, own: BoolArray) -> bool:
    """End others' work on the account's own lasting cells; its own work stays where it is."""
    room = room_from_others(books, wants(gang.shape)[-1], account, pool, own)
    if room is None or not _rest_repacks(books, list(room.gpus), account, pool):
        return False
    take_room(books, gang, room)
    return True


def _rest_repacks(books: Books, gpus: list[int], account: int, pool: int) -> bool:
    taken = np.zeros_like(books.usable)
    taken[gpus] = True
    room = books.repack_room(account, pool) - books.by_node(taken & books.own(account, pool))
    return packs(room, books.counted(account, pool), books.fleet)
