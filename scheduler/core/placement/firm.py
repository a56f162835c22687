"""Gangs that cannot be preempted stand only where ownership lasts to their declared end; no own work moves for them.

Inside its entitlement is such a gang of k GPUs of account `a` when its count holds it now, the GPUs of `a`'s gangs of
its kind plus k are at most the owned GPUs that last to its declared end, it fits `a`'s own GPUs that last that long
(or unsold ones), and what the count holds besides still repacks without the GPUs that it takes.

Where only work that can be preempted fills the count, such a gang is outside, and may stand on those GPUs nevertheless
while they are free (`borrowed`): its account then is over its count by that other work, of which the oldest that the
count still holds must repack besides.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books
from scheduler.core.placement.orders import Kind
from scheduler.core.placement.room import milder, room_at_home, room_from_others, take_room
from scheduler.core.placement.search import Tiers, tiers
from scheduler.core.placement.wants import Want, demand, wants
from scheduler.core.workloads import Gang

LASTING = tiers(Kind.LASTING_OWN, Kind.LASTING_UNSOLD, Kind.LASTING_OWN_OR_UNSOLD)


def owns_for(books: Books, gang: Gang, account: int, pool: int, end_ms: int) -> bool:
    """Whether the account owns enough until then for all its gangs that cannot be preempted, this one included."""
    return books.firm_gpus(account, pool) + gang.shape.gpus <= books.owned_lasting(account, pool, end_ms)


def rest_repacks(books: Books, account: int, pool: int, gpus: IntArray) -> bool:
    """Whether the oldest preemptible gangs that the account's count holds beside a firm gang on these GPUs repack."""
    left = books.entitled[account][pool] - books.firm_gpus(account, pool) - len(gpus)
    beyond: Counter[Want] = Counter()
    for row in books.rows_of(account, pool):
        shape = books.rows[row].shape
        want = demand(shape) if books.counts_of_row[row] and shape.preemptible else None
        if want is not None and shape.gpus > left:
            beyond[want] += 1
        elif want is not None:
            left -= shape.gpus
    return books.repacks(account, pool, taken=gpus, beyond=beyond)


def place_firm(books: Books, gang: Gang, account: int, pool: int) -> bool:
    """Place the gang if it is inside its entitlement; the count was checked. Whether it was placed."""
    end_ms = books.now_ms + gang.shape.runtime_ms
    if not owns_for(books, gang, account, pool, end_ms):
        return False
    if not books.repacks(account, pool):
        return False
    return _on_free(books, gang, account, pool, end_ms) or _by_reclaim(books, gang, account, pool, end_ms)


def _on_free(books: Books, gang: Gang, account: int, pool: int, end_ms: int) -> bool:
    for want in wants(gang.shape):
        for kind in (Kind.LASTING_OWN, Kind.LASTING_UNSOLD, Kind.LASTING_OWN_OR_UNSOLD):
            gpus = books.fit(want, Tiers(tiers(kind), pool, account, end_ms))
            if gpus is not None and books.repacks(account, pool, taken=gpus):
                books.place(gang, gpus, inside=True)
                return True
    return False


def _by_reclaim(books: Books, gang: Gang, account: int, pool: int, end_ms: int) -> bool:
    """End others' work on the account's own lasting cells; where that does not do, its own work there moves too."""
    want = wants(gang.shape)[-1]
    for found in (room_from_others, room_at_home):
        room = found(books, want, account, pool, end_ms)
        if room is not None and books.repacks(account, pool, taken=room.gpus):
            lasting = books.own_gpus(account, pool)
            other = milder(books, want, pool, room, lasting[books.floor.until_ms[lasting] >= end_ms])
            take_room(books, gang, other if books.repacks(account, pool, taken=other.gpus) else room)
            return True
    return want.parts == 1 and _on_one_node(books, gang, account, pool, end_ms)


def _on_one_node(books: Books, gang: Gang, account: int, pool: int, end_ms: int) -> bool:
    """On the first of its account's nodes beside which the rest repacks, those with least room for it first."""
    want = wants(gang.shape)[-1]
    gpus = books.own_gpus(account, pool)
    firm = np.array([row >= 0 and books.firm_of_row[row] for row in books.floor.holder[gpus].tolist()], dtype=np.bool_)
    may = gpus[~firm & (books.floor.until_ms[gpus] >= end_ms)]
    nodes, numbers = np.unique(books.floor.node_of_gpu[may], return_counts=True)
    for number, node in sorted(zip(numbers.tolist(), nodes.tolist(), strict=True)):
        taken = may[books.floor.node_of_gpu[may] == node][: want.size]
        if number < want.size or not books.repacks(account, pool, taken=taken):
            continue
        room = room_at_home(books, want, account, pool, end_ms, node)
        if room is not None:
            take_room(books, gang, room)
            return True
    return False
