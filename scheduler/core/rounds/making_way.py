"""Who makes way for a gang that cannot be preempted and is inside its entitlement: the least loss anywhere, not on its
account's own cells alone, on which such a gang must stand.

Where what reclaim would do on those cells is dear (`scheduler.core.placement.moving`), a node on which less would be
lost trades owners with one of them, and reclaim makes room there. Laws: a trade saves what makes a loss dear, so that
it comes to rest; on what comes, who makes way is over its count until it has, or moves and fits elsewhere; nodes trade
as they do for idle ones (`scheduler.core.coverage.exchange`); only for a gang that its account's count holds, and
beside which its account's other work repacks; ties by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.exchange import Asked, Ground, Nodes
from scheduler.core.coverage.follow import Swap
from scheduler.core.placement import reclaim
from scheduler.core.placement.fits import Room
from scheduler.core.placement.inside import packs
from scheduler.core.placement.moving import Crowd, cheapest_nodes, dear, likely, movable, movers_fit, room_by_moving
from scheduler.core.placement.wants import Want
from scheduler.core.rounds.held import Held
from scheduler.core.state.gangs import NOBODY
from scheduler.core.state.state import State

NODES_TRADED = 4
"""So many nodes trade for one gang."""
_LAST = 1 << 62
"""More than any work that can be lost."""


class Way(NamedTuple):
    """How a gang would come to its GPUs. Sorts cheapest first."""

    lost_ms: int
    """GPU-ms, as reclaim weighs them."""
    gpus: tuple[int, ...]
    victims: tuple[int, ...]
    """Numbers of the gangs that make way."""


NONE = Way(_LAST, (), ())


def cheaper_ways(state: State, ground: Ground, waiting: Sequence[Asked], nodes: Nodes, held: Held) -> list[Swap]:
    """The swaps that let the least loss make way for those who wait and are within their count, the first in line
    first, and one of an account; `nodes`: what may trade. The right node is the account's own before the swap.
    """
    ways = _Ways(state, ground, nodes, held)
    swaps: list[Swap] = []
    served: set[int] = set()
    for asked in waiting:
        found = [] if asked.account in served else ways.found(asked)
        if found:
            served.add(asked.account)
            swaps += found
            nodes.traded(found)
    return swaps


class _Own(NamedTuple):
    """The account's usable GPUs of a pool, ascending, and those of them that it owns until the asked end."""

    gpus: IntArray
    lasting: IntArray

    def traded(self, left: IntArray, right: IntArray) -> _Own:
        """The same where a node of these GPUs came for one of those, which lasts."""
        came = (np.union1d(np.setdiff1d(gpus, right, assume_unique=True), left) for gpus in self)
        return _Own(*came)


class _Ways:
    """What is asked in one call."""

    def __init__(self, state: State, ground: Ground, nodes: Nodes, held: Held) -> None:
        self._fleet, self._calendar, self._ground, self._nodes = state.fleet, state.calendar, ground, nodes
        self._held = held
        self._sizes = np.diff(state.fleet.first_gpu)

    def found(self, asked: Asked) -> list[Swap]:
        """The trades that save most, or none."""
        gpus = self._calendar.gpus_of(asked.account)
        gpus = gpus[self._ground.usable[gpus] & (self._fleet.pool_of_node[self._fleet.node_of_gpu[gpus]] == asked.pool)]
        own = _Own(gpus, gpus[self._ground.until_ms[gpus] >= asked.end_ms])
        best = self._way(asked, own)
        if not dear(best.lost_ms, asked.parts * asked.size):
            return []
        mine, theirs = self._dearest(asked), self._cheapest(asked)
        swaps: list[Swap] = []
        chosen = 0
        for _ in range(min(asked.parts, NODES_TRADED)):
            offer = self._best_offer(asked, own, mine, theirs)
            if offer is None:
                break
            way, left, right = offer
            theirs.remove(left)
            mine.remove(right)
            own = own.traded(self._gpus(left), self._gpus(right))
            swaps.append((Level.NODE, left, right))
            if dear(best.lost_ms - way.lost_ms, asked.parts * asked.size):
                best, chosen = way, len(swaps)
        for number in best.victims if chosen else ():
            self._held.make_way(number)
        return swaps[:chosen]

    def _best_offer(
        self, asked: Asked, own: _Own, mine: Sequence[int], theirs: Sequence[int]
    ) -> tuple[Way, int, int] | None:
        """(what would make way, the node that comes, the one that goes); None: no node would do."""
        offers: list[tuple[Way, int, int]] = []
        for left in theirs:
            right = next((node for node in mine if self._sizes[node] == self._sizes[left]), None)
            if right is not None:
                there = own.traded(self._gpus(left), self._gpus(right))
                way = self._way(asked, there)
                if way < NONE and self._is_lawful(asked, there, way):
                    offers.append((way, left, right))
        return min(offers, default=None)

    # ---- what reclaim would do ----

    def _way(self, asked: Asked, own: _Own) -> Way:
        """Others' work makes way; where that does not do, the account's own moves too; where that is dear, whoever fits
        elsewhere.
        """
        crowd = self._crowd(asked.pool, own.lasting)
        first = self._ended(asked, crowd, own, home=False) or self._ended(asked, crowd, own, home=True) or NONE
        gpus = asked.parts * asked.size
        if not dear(first.lost_ms, gpus):
            return first
        crowd = crowd._replace(free=self._held.elsewhere(asked.pool))
        moved = room_by_moving(crowd, own.lasting, Want(asked.parts, asked.size, None))
        return first if moved is None or not dear(first.lost_ms - moved[0], gpus) else _way_of(crowd, moved[1])

    def _crowd(self, pool: int, gpus: IntArray) -> Crowd:
        """Who holds these GPUs; nobody finds room elsewhere."""
        held, rows = self._held, self._held.rows_on(gpus)
        prices = {row: held.price(number) for row, number in enumerate(rows.rank_of_row) if held.preemptible(number)}
        nothing = np.zeros(len(self._fleet.nodes), dtype=np.int64)
        return Crowd(rows, prices, held.excess(rows.account_of_row, pool), nothing)

    def _ended(self, asked: Asked, crowd: Crowd, own: _Own, *, home: bool) -> Way | None:
        rows = crowd.rows
        prices = {
            row: price + (_LAST if crowd.excess[rows.account_of_row[row]] <= 0 else 0)
            for row, price in crowd.prices.items()
            if home or rows.account_of_row[row] != asked.account
        }
        ground = reclaim.Ground.of(rows, own.lasting, prices, None)
        room = reclaim.cheapest_room(ground, Want(asked.parts, asked.size, None))
        return None if room is None else _way_of(crowd, room)

    def _is_lawful(self, asked: Asked, own: _Own, way: Way) -> bool:
        """Whether who makes way is over its count or fits elsewhere, and what else the account's count holds repacks in
        the rest.
        """
        gpus = np.array(way.gpus, dtype=np.int64)
        crowd = self._crowd(asked.pool, gpus)._replace(free=self._held.elsewhere(asked.pool))
        if not movers_fit(crowd, Room(gpus, tuple(crowd.rows.holders(gpus))), Want(asked.parts, asked.size, None)):
            return False
        rest = np.setdiff1d(own.gpus[~self._ground.fixed[own.gpus]], gpus, assume_unique=True)
        room = np.bincount(self._fleet.node_of_gpu[rest], minlength=len(self._fleet.nodes))
        return packs(room, self._held.counted(asked.account, asked.pool), self._fleet)

    # ---- which nodes may trade ----

    def _gpus(self, node: int) -> IntArray:
        return np.arange(self._fleet.first_gpu[node], self._fleet.first_gpu[node + 1])

    def _dearest(self, asked: Asked) -> list[int]:
        """The account's nodes that may go: those that its own work uses least, then where others would lose most."""
        held = self._held

        def keep(node: int) -> tuple[int, int, int]:
            numbers, counts = np.unique(held.holder[self._gpus(node)], return_counts=True)
            here = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            here.pop(NOBODY, None)
            own = [count for number, count in here.items() if held.account(number) == asked.account]
            return (sum(own), -sum(map(held.price, here)), node)

        return sorted(self._nodes.own(asked).tolist(), key=keep)

    def _cheapest(self, asked: Asked) -> list[int]:
        """Others' nodes, or nobody's, on which least would be lost for one part of what is asked."""
        may = np.zeros(len(self._fleet.nodes), dtype=np.bool_)
        may[self._nodes.others(asked)] = True
        free = self._held.elsewhere(asked.pool)
        gpus = likely(free, np.flatnonzero(may[self._fleet.node_of_gpu]), self._fleet.node_of_gpu)
        crowd = self._crowd(asked.pool, gpus)._replace(free=free)
        return cheapest_nodes(movable(crowd, Want(asked.parts, asked.size, None)), gpus, asked.size)


def _way_of(crowd: Crowd, room: Room) -> Way:
    numbers = tuple(crowd.rows.rank_of_row[row] for row in room.victims)
    return Way(sum(crowd.prices[row] for row in room.victims), tuple(room.gpus.tolist()), numbers)
