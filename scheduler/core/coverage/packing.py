"""Planning one pool: groups of equal lots onto the cells of a board, in a measured order, each where it breaks least.

Lots of one level and window are interchangeable, so they are placed as a group with a count. Which of four orders is
best depends on the calendar; the first won nearly always, so the others are tried only where lots remain. The last
order, by start with first fit, is interval-graph colouring: for lots of one level it succeeds whenever any plan does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.core.cluster import IntArray, Level
from scheduler.core.coverage.board import Board


class Group(NamedTuple):
    """So many lots of one level in the slots `[i, j)`."""

    level: Level
    i: int
    j: int
    lots: int
    preferred: tuple[int, ...] = ()
    """Places in the tier that are taken first where they are free, each once for every time it is named."""


Places = dict[int, int]
"""How many lots of a group stand on the cell at each place of its tier."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where each group's lots stand on a board (the groups' order is the caller's)."""

    board: Board
    places: tuple[Places, ...]

    def short(self, groups: Sequence[Group]) -> list[int]:
        """How many lots of each group found no cell."""
        return [group.lots - sum(places.values()) for group, places in zip(groups, self.places, strict=True)]


class Order(NamedTuple):
    """A way through the groups: the key that sorts them, and whether a lot goes to the first fit or breaks least."""

    key: Callable[[Board, Group], tuple[int, ...]]
    first_fit: bool


def lot_gpus(board: Board, level: Level) -> int:
    """GPUs of the largest cell of a level in the pool: how much a lot weighs in orders and repairs."""
    match level:
        case Level.GPU:
            return 1
        case Level.NODE:
            return int(board.size.max(initial=1))
        case _:
            tier = board.tiers[level]
            return int(np.add.reduceat(board.size.astype(np.int64), tier.first).max(initial=1))


def length_ms(board: Board, group: Group) -> int:
    """How long the group's window lasts."""
    return int(board.cuts[group.j] - board.cuts[group.i])


def _longest_first(board: Board, group: Group) -> tuple[int, ...]:
    return (-length_ms(board, group), -group.level, group.i)


def _most_gpu_hours_first(board: Board, group: Group) -> tuple[int, ...]:
    return (-length_ms(board, group) * lot_gpus(board, group.level), -group.level, group.i)


def _largest_by_start(_: Board, group: Group) -> tuple[int, ...]:
    return (-group.level, group.i, -group.j)


ORDERS = (
    Order(_longest_first, first_fit=False),
    Order(_largest_by_start, first_fit=True),
    Order(_most_gpu_hours_first, first_fit=False),
    Order(_largest_by_start, first_fit=False),
)


def filled(board: Board, groups: Sequence[Group], order: Order) -> Layout:
    """All groups placed on a copy of the board, in the given order, as far as they fit."""
    board = board.copy()
    places: list[Places] = [{} for _ in groups]
    for g in sorted(range(len(groups)), key=lambda g: (*order.key(board, groups[g]), g)):
        places[g] = _take_preferred(board, groups[g])
        left = groups[g].lots - sum(places[g].values())
        if left:
            for at, lots in chosen(board, groups[g], left, first_fit=order.first_fit):
                board.place(groups[g].level, at, groups[g].i, groups[g].j, lots)
                places[g][at] = places[g].get(at, 0) + lots
    return Layout(board, tuple(places))


def _take_preferred(board: Board, group: Group) -> Places:
    taken: Places = {}
    for at in group.preferred:
        if sum(taken.values()) < group.lots and board.room_at(group.level, at, group.i, group.j) > 0:
            board.place(group.level, at, group.i, group.j)
            taken[at] = taken.get(at, 0) + 1
    return taken


def chosen(board: Board, group: Group, lots: int, *, first_fit: bool = False) -> list[tuple[int, int]]:
    """(place in the tier, lots) for up to `lots` more lots of the group: where they newly break the fewest hours.

    Blocks first, then domains, then nodes, ties by number. Only the parents that are needed are looked into.
    """
    level, i, j = group.level, group.i, group.j
    room = board.room(level, i, j)
    at = np.flatnonzero(room > 0)
    if not len(at):
        return []
    if not first_fit and len(at) > 1:
        for parent in (Level.FABRIC_BLOCK, Level.NVLINK_DOMAIN, Level.NODE):
            if parent > level:
                at = _least_broken(board, group, parent, at, room, lots)
    reached = np.cumsum(room[at])
    n = int(np.searchsorted(reached, lots)) + 1
    counts = room[at[:n]].tolist()
    if n <= len(at):
        counts[-1] -= int(reached[n - 1]) - lots
    return list(zip(at[:n].tolist(), counts, strict=True))


def _least_broken(board: Board, group: Group, parent: Level, at: IntArray, room: IntArray, lots: int) -> IntArray:
    """The candidates inside the least broken parents, as many parents as `lots` need; cells come parent by parent.

    `at` comes sorted by the parents above, whose order is kept: sorting by them again would be the same.
    """
    nodes = at if group.level <= Level.NODE else board.tiers[group.level].first[at]
    cells = board.tiers[parent].of_node[nodes]
    # Candidates of one parent above are neighbours already; a parent's place in that sequence is its first sort key.
    above = np.zeros(len(at), dtype=np.int64)
    if parent < Level.FABRIC_BLOCK:
        grand = board.tiers[Level(parent + 1)].of_node[nodes]
        above = np.cumsum(np.diff(grand, prepend=grand[:1]) != 0)
    distinct, inverse = np.unique(cells, return_inverse=True)
    cost = board.newly_broken_ms(parent, distinct, group.i, group.j)[inverse]
    by_cost = np.lexsort((at, cells, cost, above))
    at, cells = at[by_cost], cells[by_cost]
    n = int(np.searchsorted(np.cumsum(room[at]), lots))
    if n >= len(at) - 1:
        return at
    further = np.flatnonzero(cells[n + 1 :] != cells[n])
    return at[: n + 1 + int(further[0])] if len(further) else at
