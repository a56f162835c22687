"""The last resort: an account's own work moves within its own cells, so that one more gang of its count fits there.

The gangs that stay keep their GPUs; those that move are stopped and come back to the queue, still counted, to the room
that this arrangement keeps for them. As few and as cheap gangs move as the published packing rule allows; at worst all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books, BoolArray, picked
from scheduler.core.placement.inside import packed, packing_order
from scheduler.core.placement.wants import Want, demand
from scheduler.core.workloads import Gang, StopCause

Arrangement = dict[int, list[tuple[int, int]]]
"""By gang number: (node, parts there), ascending by node."""


def go_home(books: Books, gang: Gang, account: int, pool: int) -> bool:
    """Place the gang on its account's own cells, moving the account's own work and ending everybody else's there.

    Always succeeds for a gang that is inside its entitlement.
    """
    ground = books.own(account, pool) & ~books.firm_ground()
    found = _fewest_moves(books, gang, account, pool, ground)
    if found is None:
        return False
    movers, arrangement = found
    replaced: list[tuple[Gang, bool]] = []
    for row in movers:
        if row in books.decided:
            replaced.append(books.decided[row])
            books.withdraw(row)
            books.withdrawn.pop()
        else:
            books.stop(row, gang, StopCause.CONSOLIDATED)
    for each, inside in [(gang, True), *replaced]:
        _settle(books, each, arrangement[each.number], ground, account, inside=inside)
    return True


def _settle(
    books: Books, gang: Gang, where: Sequence[tuple[int, int]], ground: BoolArray, account: int, *, inside: bool
) -> None:
    """Place the gang as arranged: on free GPUs, then those of leavers, then of other accounts' gangs, which end."""
    of_account = np.array([*(i == account for i in books.account_of_row), False], dtype=np.bool_)
    standing = ground & ~of_account[books.holder]
    rank = np.where(books.holder >= 0, 2, np.where(books.leaver >= 0, 1, 0))
    gpus = picked(books, where, _item(gang)[0].size, standing, rank)
    victims = {int(row) for row in books.holder[gpus] if row >= 0}
    for row in sorted(victims, key=lambda row: (books.rows[row].shape.gpus, row)):
        books.stop(row, gang)
    books.place(gang, gpus, inside=inside)


def _fewest_moves(
    books: Books, gang: Gang, account: int, pool: int, ground: BoolArray
) -> tuple[list[int], Arrangement] | None:
    own = [
        row
        for row in range(len(books.rows))
        if books.account_of_row[row] == account
        and books.pool_of_row[row] == pool
        and books.counts_of_row[row]
        and books.rows[row].shape.preemptible
    ]
    taken = {row: _taken(books, row, ground) for row in own}
    home = sorted((row for row in own if taken[row].any()), key=lambda row: (books.price(row), row))
    coming = [row for row in own if row in books.stopped]
    new = _item(gang)
    room = books.by_node(ground)

    def arranged(movers: Sequence[int]) -> Arrangement | None:
        left = room.copy()
        for row in home:
            if row not in movers:
                left -= taken[row]
        return _arranged(books, left, [new, *(_item(books.rows[row]) for row in (*movers, *coming))])

    for count in range(1, len(home) + 1):
        found = arranged(home[:count])
        if found is not None:
            return _without_needless(books, home[:count], found, arranged)
    # The rule itself: everything that counts, also what stands elsewhere, arranged anew.
    found = _arranged(books, books.by_node(ground), [new, *(_item(books.rows[row]) for row in own)])
    return None if found is None else (home, found)


def _without_needless(
    books: Books, movers: list[int], found: Arrangement, arranged: Callable[[list[int]], Arrangement | None]
) -> tuple[list[int], Arrangement]:
    for row in sorted(movers, key=lambda row: (-books.price(row), row)):
        fewer = [other for other in movers if other != row]
        better = arranged(fewer)
        if better is not None:
            movers, found = fewer, better
    return movers, found


def _taken(books: Books, row: int, ground: BoolArray) -> IntArray:
    """(n_nodes) int64: how many GPUs of the ground the row holds."""
    return books.by_node(ground & (books.holder == row))


def _item(gang: Gang) -> tuple[Want, int]:
    want = demand(gang.shape)
    return (Want(gang.shape.workers, gang.shape.gpus_per_worker, None) if want is None else want, gang.number)


def _arranged(books: Books, room: IntArray, items: Iterable[tuple[Want, int]]) -> Arrangement | None:
    """The published packing of these gangs, told apart: gangs of one want take their parts in order of number."""
    numbers: dict[Want, list[int]] = {}
    for want, number in sorted(items, key=lambda item: (packing_order(item[0]), item[1])):
        numbers.setdefault(want, []).append(number)
    steps = packed(room, [(want, len(gangs)) for want, gangs in numbers.items()], books.fleet)
    if steps is None:
        return None
    arrangement: Arrangement = {}
    for want, parts in steps:
        nodes = [node for node in np.flatnonzero(parts).tolist() for _ in range(int(parts[node]))]
        for at in range(0, len(nodes), want.parts):
            number = numbers[want].pop(0)
            arrangement[number] = sorted(Counter(nodes[at : at + want.parts]).items())
    return arrangement
