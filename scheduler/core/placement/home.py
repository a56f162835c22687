"""The last resort: an account's own work moves within its own cells, so that one more gang of its count fits there.

The gangs that stay keep their GPUs; those that move are stopped and come back to the queue, still counted, to the room
that this arrangement keeps for them. As few and as cheap gangs move as the published packing rule allows; at worst all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books, BoolArray
from scheduler.core.placement.inside import packed, packing_order
from scheduler.core.placement.wants import Want, demand
from scheduler.core.workloads import Gang, StopCause

Arrangement = dict[int, list[tuple[int, int]]]
"""By gang number: (node, parts there), ascending by node."""


def go_home(books: Books, gang: Gang, account: int, pool: int) -> bool:
    """Place the gang on its account's own cells, moving the account's own work and ending everybody else's there.

    Always succeeds for a gang that is inside its entitlement.
    """
    ground = _Ground.of(books, account, pool)
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


@dataclass(frozen=True, slots=True)
class _Ground:
    """The account's usable own GPUs of the pool that hold nothing non-preemptible, and their nodes, both ascending."""

    gpus: IntArray
    nodes: IntArray
    unit: IntArray
    """By GPU: the index of its node."""

    @classmethod
    def of(cls, books: Books, account: int, pool: int) -> _Ground:
        gpus = books.own_gpus(account, pool)
        firm = np.array([books.firm_of_row[row] if row >= 0 else False for row in books.floor.holder[gpus].tolist()])
        gpus = gpus[~firm.astype(np.bool_)]
        nodes, unit = np.unique(books.floor.node_of_gpu[gpus], return_inverse=True)
        return cls(gpus, nodes, unit)

    def by_node(self, chosen: BoolArray) -> IntArray:
        """(n_nodes of the ground): how many of the chosen GPUs of the ground each has."""
        return np.bincount(self.unit[chosen], minlength=len(self.nodes))


def _settle(
    books: Books, gang: Gang, where: Sequence[tuple[int, int]], ground: _Ground, account: int, *, inside: bool
) -> None:
    """Place the gang as arranged: on free GPUs, then those of leavers, then of other accounts' gangs, which end."""
    floor, size = books.floor, _item(gang)[0].size
    gpus: list[int] = []
    for node, parts in where:
        ranked: list[tuple[int, int]] = []
        low, high = ground.gpus.searchsorted(floor.first_gpu[node : node + 2])
        for gpu in ground.gpus[low:high].tolist():
            row = int(floor.holder[gpu])
            if row < 0 or books.account_of_row[row] != account:
                ranked.append((2 if row >= 0 else 1 if floor.leaver[gpu] >= 0 else 0, gpu))
        gpus += sorted(gpu for _, gpu in sorted(ranked)[: parts * size])
    chosen = np.array(gpus, dtype=np.int64)
    for row in sorted(books.holders(chosen), key=lambda row: (books.rows[row].shape.gpus, books.rank_of_row[row])):
        books.stop(row, gang)
    books.place(gang, chosen, inside=inside)


def _fewest_moves(
    books: Books, gang: Gang, account: int, pool: int, ground: _Ground
) -> tuple[list[int], Arrangement] | None:
    own = [
        row for row in books.rows_of(account, pool) if books.counts_of_row[row] and books.rows[row].shape.preemptible
    ]
    holder = books.floor.holder[ground.gpus]
    taken = {row: ground.by_node(holder == row) for row in own}
    home = sorted((row for row in own if taken[row].any()), key=lambda row: (books.price(row), books.rank_of_row[row]))
    coming = [row for row in own if row in books.stopped]
    new = _item(gang)
    room = ground.by_node(ground.gpus >= 0)

    def arranged(movers: Sequence[int]) -> Arrangement | None:
        left = room.copy()
        for row in home:
            if row not in movers:
                left -= taken[row]
        return _arranged(books, left, ground, [new, *(_item(books.rows[row]) for row in (*movers, *coming))])

    for count in range(1, len(home) + 1):
        found = arranged(home[:count])
        if found is not None:
            return _without_needless(books, home[:count], found, arranged)
    # The rule itself: everything that counts, also what stands elsewhere, arranged anew.
    found = _arranged(books, room, ground, [new, *(_item(books.rows[row]) for row in own)])
    return None if found is None else (home, found)


def _without_needless(
    books: Books, movers: list[int], found: Arrangement, arranged: Callable[[list[int]], Arrangement | None]
) -> tuple[list[int], Arrangement]:
    for row in sorted(movers, key=lambda row: (-books.price(row), books.rank_of_row[row])):
        fewer = [other for other in movers if other != row]
        better = arranged(fewer)
        if better is not None:
            movers, found = fewer, better
    return movers, found


def _item(gang: Gang) -> tuple[Want, int]:
    want = demand(gang.shape)
    return (Want(gang.shape.workers, gang.shape.gpus_per_worker, None) if want is None else want, gang.number)


def _arranged(books: Books, room: IntArray, ground: _Ground, items: Iterable[tuple[Want, int]]) -> Arrangement | None:
    """The published packing of these gangs, told apart: gangs of one want take their parts in order of number."""
    numbers: dict[Want, list[int]] = {}
    for want, number in sorted(items, key=lambda item: (packing_order(item[0]), item[1])):
        numbers.setdefault(want, []).append(number)
    steps = packed(room, [(want, len(gangs)) for want, gangs in numbers.items()], books.fleet, ground.nodes)
    if steps is None:
        return None
    arrangement: Arrangement = {}
    for want, parts in steps:
        nodes = np.repeat(ground.nodes, parts).tolist()
        for at in range(0, len(nodes), want.parts):
            number = numbers[want].pop(0)
            arrangement[number] = sorted(Counter(nodes[at : at + want.parts]).items())
    return arrangement
