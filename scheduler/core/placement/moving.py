"""Room made by moving, where ending what may be ended is dear: work of accounts within their count makes way too where
it fits free GPUs elsewhere at once.

Whoever is over its count, until it is there, ends, as ever; whoever is within it is moved (CONSOLIDATED): it keeps its
turn, still counts, and finds that room when it comes back. Only what runs is moved, no shares, what asks for less than
the gang that waits (so that moves end), and only where all of it fits; on few nodes, those on which least is lost. A
way is dear, and another one better, by `WORTH_MS` of each GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.fits import Room, has_slots
from scheduler.core.placement.inside import packs
from scheduler.core.placement.reclaim import Ground, Rows, cheapest_room
from scheduler.core.placement.wants import Want, demand
from scheduler.core.workloads import Gang, GangStatus, Shape

WORTH_MS = 1_800_000
"""Of each GPU that is asked for: about what is lost on average where a checkpoint is written every hour."""
NODES_LOOKED_AT, NODES_TRIED = 64, 16
GANGS_LOOKED_AT = 256
"""So many gangs of accounts over their count are looked at for what they would give back."""


class Crowd(NamedTuple):
    """Who may make way, and where who is moved may go."""

    rows: Rows
    prices: Mapping[int, int]
    """What ending each row weighs, in GPU-ms, of those that may be ended."""
    excess: IntArray
    """(n_accounts): by how much each is over its count."""
    free: IntArray
    """(n_nodes): GPUs that are free, or that accounts over their count would give back (`given_back`)."""


def dear(lost_ms: int, gpus: int) -> bool:
    """Whether so much is lost for so many GPUs that another way is looked for."""
    return lost_ms > gpus * WORTH_MS


def room_by_moving(crowd: Crowd, gpus: IntArray, want: Want) -> tuple[int, Room] | None:
    """(what is lost, the room) on these GPUs, ascending; None where nothing does."""
    if want.level is not None or want.apart is not None:
        return None
    able = movable(crowd, want)
    nodes = cheapest_nodes(able, gpus, want.size)
    node_of_gpu = crowd.rows.floor.node_of_gpu[gpus]
    grounds = [[node] for node in nodes] if want.parts == 1 else [nodes]
    found: list[tuple[int, int, Room]] = []
    for number, ground in enumerate(grounds):
        here = gpus[np.isin(node_of_gpu, ground)]
        prices = {row: able.prices[row] for row in crowd.rows.holders(here) if row in able.prices}
        room = cheapest_room(Ground.of(crowd.rows, here, prices, None), want)
        if room is not None and movers_fit(crowd, room, want):
            found.append((sum(prices[row] for row in room.victims), number, room))
    best = min(found, default=None, key=lambda offer: offer[:2])
    return None if best is None else (best[0], best[2])


def likely(free: IntArray, gpus: IntArray, node_of_gpu: IntArray) -> IntArray:
    """Those of these GPUs that are on the `NODES_LOOKED_AT` of their nodes with most of such as `Crowd.free`."""
    nodes = np.unique(node_of_gpu[gpus])
    chosen = nodes[np.lexsort((nodes, -free[nodes]))[:NODES_LOOKED_AT]]
    return gpus[np.isin(node_of_gpu[gpus], chosen)]


def given_back(priced: Iterable[tuple[Gang, int]]) -> list[int]:
    """GPUs of those (gang, price), of the first `GANGS_LOOKED_AT`, which are ended at no dear loss even for one GPU: so
    whoever is moved there finds them no dearer than that, however few it asks for.
    """
    gangs = [gang for gang, price in islice(priced, GANGS_LOOKED_AT) if not dear(price, 1)]
    return list(chain.from_iterable(gang.gpu_numbers for gang in gangs))


def movable(crowd: Crowd, want: Want) -> Crowd:
    """The same with those alone who may be ended, or may be moved for this and fit somewhere without the others."""
    rows, over, fits = crowd.rows, crowd.excess > 0, dict[Shape, bool]()

    def may_move(gang: Gang) -> bool:
        if gang.shape not in fits:
            its = _moved_for(gang.shape, want)
            fits[gang.shape] = its is not None and has_slots(rows.fleet, crowd.free, its)
        return fits[gang.shape] and gang.status is GangStatus.RUNNING

    able = {
        row: price for row, price in crowd.prices.items() if over[rows.account_of_row[row]] or may_move(rows.rows[row])
    }
    return crowd._replace(prices=able)


def cheapest_nodes(crowd: Crowd, gpus: IntArray, size: int) -> list[int]:
    """The nodes of these GPUs on which one part of a want costs least, gang by gang by what a GPU costs; the cheapest
    first.
    """
    floor, n_nodes = crowd.rows.floor, len(crowd.rows.fleet.nodes)
    nodes, holder = floor.node_of_gpu[gpus], floor.holder[gpus]
    priced = np.full(len(crowd.rows.rows) + 1, -1, dtype=np.int64)
    priced[list(crowd.prices)] = list(crowd.prices.values())
    missing = size - np.bincount(nodes[holder < 0], minlength=n_nodes)
    held = priced[holder] >= 0
    keys, counts = np.unique(holder[held] * n_nodes + nodes[held], return_counts=True)
    row, at = np.divmod(keys, n_nodes)
    order = np.lexsort((row, priced[row] // counts, at))
    at, counts, prices = at[order], counts[order], priced[row[order]]
    before = counts.cumsum() - counts
    needed = before - before[np.searchsorted(at, at)] < missing[at]
    cost = np.zeros(n_nodes, dtype=np.int64)
    np.add.at(cost, at[needed], prices[needed])
    able = np.unique(nodes)
    able = able[np.bincount(np.repeat(at, counts), minlength=n_nodes)[able] >= missing[able]]
    chosen: list[int] = able[np.lexsort((able, cost[able]))][:NODES_TRIED].tolist()
    return chosen


def movers(rows: Sequence[tuple[Gang, int]], excess: IntArray) -> list[Gang]:
    """Which of these (gang, account), all of which make way, the smallest first, are moved and not ended."""
    left = dict[int, int]()
    moved: list[Gang] = []
    for gang, account in sorted(rows, key=lambda row: (row[0].shape.gpus, row[0].number)):
        over = left.setdefault(account, int(excess[account]))
        if over > 0:
            left[account] -= gang.shape.gpus
        else:
            moved.append(gang)
    return moved


def movers_fit(crowd: Crowd, room: Room, want: Want) -> bool:
    """Whether all whom the room moves may be moved for this, and fit elsewhere at once."""
    rows = crowd.rows
    moved = movers([(rows.rows[row], rows.account_of_row[row]) for row in room.victims], crowd.excess)
    wanted = Counter(its for gang in moved if (its := _moved_for(gang.shape, want)) is not None)
    if any(gang.status is not GangStatus.RUNNING for gang in moved):
        return False  # an account over its count may come to it by the smaller ones of its gangs
    left = crowd.free.copy()
    left[np.unique(rows.floor.node_of_gpu[room.gpus])] = 0
    return wanted.total() == len(moved) and packs(left, wanted, rows.fleet)


def _moved_for(shape: Shape, want: Want) -> Want | None:
    """What a gang that is moved asks for elsewhere; None: it does not move for this. What asks for as much as the gang
    that waits would have to move somebody in its turn, and so on in a circle.
    """
    its = None if shape.is_share else demand(shape)
    return its if its is not None and (its.size, its.parts) < (want.size, want.parts) else None
