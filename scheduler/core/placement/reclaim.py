"""The cheapest way to make room: which gangs to end so that a want fits, at the least lost work.

Part by part, always on the node whose next part costs least given what was already ended, there the exact cheapest
subset of gangs; ties by number. Then *fill back*: whoever turns out not to be needed stays, the costliest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scheduler.core.cluster import Fleet, IntArray
from scheduler.core.placement.fits import Room, cells_of_nodes, parts_on
from scheduler.core.placement.wants import Want
from scheduler.core.workloads import Gang

Victim = tuple[int, int, int]
"""(price, rank of the row, GPUs that it frees on the node)."""


class Floor(Protocol):
    """Who is where, by GPU (`scheduler.core.placement.floor`)."""

    @property
    def node_of_gpu(self) -> IntArray:
        """Its node."""
        ...

    @property
    def first_gpu(self) -> IntArray:
        """(n_nodes + 1): its first GPU."""
        ...

    @property
    def holder(self) -> IntArray:
        """The row that has it, -1 none."""
        ...

    @property
    def leaver(self) -> IntArray:
        """The stopping row that is still on it, -1 none."""
        ...


class Rows(Protocol):
    """What this asks of the books, or of whoever stands in for them."""

    @property
    def fleet(self) -> Fleet:
        """The fleet."""
        ...

    @property
    def floor(self) -> Floor:
        """Who is where."""
        ...

    @property
    def rows(self) -> Sequence[Gang]:
        """Gangs by row."""
        ...

    @property
    def account_of_row(self) -> Sequence[int]:
        """Their accounts."""
        ...

    @property
    def rank_of_row(self) -> Sequence[int]:
        """What ties go by."""
        ...

    def holders(self, gpus: IntArray) -> list[int]:
        """The rows that hold any of these GPUs, in order of rank."""
        ...


@dataclass(slots=True)
class Ground:
    """Where a want may stand and whom it may displace, laid out by node."""

    books: Rows
    allowed: IntArray
    """GPUs that may be used, ascending."""
    prices: Mapping[int, int]
    """Price of each row that may be ended, by rank."""
    row_of_rank: Mapping[int, int]
    excess: Mapping[int, int] | None
    """By account: how far it is over its count; its rows are ended only until it is there. None: no such limit."""
    open_by_node: dict[int, int]
    """Every node of the ground, ascending."""
    victims_by_node: dict[int, list[Victim]]
    nodes_of_row: dict[int, dict[int, int]]

    @classmethod
    def of(cls, books: Rows, allowed: IntArray, prices: Mapping[int, int], excess: Mapping[int, int] | None) -> Ground:
        """Lay out the ground: open GPUs and displaceable gangs of each node, the cheapest first."""
        nodes = books.floor.node_of_gpu[allowed]
        holder = books.floor.holder[allowed]
        open_by_node = dict.fromkeys(nodes.tolist(), 0)
        opens, numbers = np.unique(nodes[holder < 0], return_counts=True)
        open_by_node.update(zip(opens.tolist(), numbers.tolist(), strict=True))
        ranks = {books.rank_of_row[row]: row for row in prices}
        by_rank = {rank: prices[row] for rank, row in ranks.items()}
        victims: dict[int, list[Victim]] = {}
        nodes_of_row: dict[int, dict[int, int]] = {}
        n_nodes = len(books.fleet.nodes)
        priced = np.zeros(len(books.rows) + 1, dtype=np.bool_)
        priced[list(prices)] = True
        held = priced[holder]
        pairs, numbers = np.unique(holder[held] * n_nodes + nodes[held], return_counts=True)
        for key, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
            row, node = divmod(key, n_nodes)
            rank = books.rank_of_row[row]
            nodes_of_row.setdefault(rank, {})[node] = number
            victims.setdefault(node, []).append((by_rank[rank], rank, number))
        for there in victims.values():
            there.sort()
        return cls(books, allowed, by_rank, ranks, excess, open_by_node, victims, nodes_of_row)

    def capacity(self) -> dict[int, int]:
        """GPUs of each node once everybody displaceable is gone."""
        freed = {node: sum(number for _, _, number in there) for node, there in self.victims_by_node.items()}
        return {node: count + freed.get(node, 0) for node, count in self.open_by_node.items()}

    def lawful(self, rows: set[int]) -> bool:
        """Whether the rows can be ended in an order in which each account is over its count before each of its own."""
        if self.excess is None:
            return True
        total: dict[int, int] = {}
        largest: dict[int, int] = {}
        for rank in rows:
            row = self.row_of_rank[rank]
            account, gpus = self.books.account_of_row[row], self.books.rows[row].shape.gpus
            total[account] = total.get(account, 0) + gpus
            largest[account] = max(largest.get(account, 0), gpus)
        return all(total[account] - largest[account] < self.excess[account] for account in total)


def cheapest_room(ground: Ground, want: Want) -> Room | None:
    """The least lost work that makes the want fit on the ground, or None where nothing does."""
    fleet = ground.books.fleet
    room = {node: count for node, count in ground.capacity().items() if count >= want.size}
    if parts_on(fleet, want, room.items()) < want.parts:
        return None
    regions = _regions(fleet, room, want)
    found = (_victims_in(ground, want, region) for region in regions)
    best = min(
        ((sum(ground.prices[rank] for rank in rows), i, rows) for i, rows in enumerate(found) if rows is not None),
        default=None,
        key=lambda offer: offer[:2],
    )
    return None if best is None else _room(ground, want, regions[best[1]], best[2])


def _regions(fleet: Fleet, room: Mapping[int, int], want: Want) -> list[list[int]]:
    """The nodes with room, by cell where the want is bound to one: cells with enough, in order of number."""
    cells = cells_of_nodes(fleet, want.level)
    if cells is None:
        return [list(room)]
    nodes_of_cell: dict[int, list[int]] = {}
    for node, cell in zip(room, cells[list(room)].tolist(), strict=True):
        nodes_of_cell.setdefault(cell, []).append(node)
    return [
        nodes
        for _, nodes in sorted(nodes_of_cell.items())
        if parts_on(fleet, want, ((node, room[node]) for node in nodes)) >= want.parts
    ]


def _victims_in(ground: Ground, want: Want, nodes: list[int]) -> set[int] | None:
    rows = _ended_for(ground, want, nodes)
    return None if rows is None else _filled_back(ground, want, nodes, rows)


def _node_offer(ground: Ground, need: int, node: int, ended: set[int]) -> tuple[int, set[int]] | None:
    """(price, further rows) to free `need` more GPUs of the node, on top of the rows already ended."""
    if need <= 0:
        return (0, set())
    victims = [victim for victim in ground.victims_by_node.get(node, ()) if victim[1] not in ended]
    if sum(number for _, _, number in victims) < need:
        return None
    price, rows = _least(victims, need)
    if ground.lawful(ended | rows):
        return (price, rows)
    rows = set()
    for _, row, number in victims:
        if need > 0 and ground.lawful(ended | rows | {row}):
            rows.add(row)
            need -= number
    return (sum(ground.prices[rank] for rank in rows), rows) if need <= 0 else None


def _least(victims: list[Victim], need: int) -> tuple[int, set[int]]:
    """The cheapest subset that frees at least `need` (a knapsack of at most a node's GPUs), ties by row."""
    table: list[tuple[int, tuple[int, ...]] | None] = [(0, ())] + [None] * need
    for price, row, number in victims:
        for have in range(need - 1, -1, -1):
            so_far = table[have]
            if so_far is None:
                continue
            to = min(need, have + number)
            offer = (so_far[0] + price, (*so_far[1], row))
            known = table[to]
            if known is None or offer < known:
                table[to] = offer
    best = table[need]
    return (0, set()) if best is None else (best[0], set(best[1]))


def _ended_for(ground: Ground, want: Want, nodes: list[int]) -> set[int] | None:
    """Greedy by marginal node: take the cheapest next part until all parts have room."""
    ended: set[int] = set()
    placed = dict.fromkeys(nodes, 0)
    used = _Used(ground.books.fleet, want)
    available = {node: ground.open_by_node[node] for node in nodes}
    offers = {node: _node_offer(ground, want.size - available[node], node, ended) for node in nodes}
    for _ in range(want.parts):
        while True:
            priced = [
                (offer[0], -placed[node], node)
                for node, offer in offers.items()
                if offer is not None and not used.bars(node)
            ]
            if not priced:
                return None
            node = min(priced)[2]
            offer = offers[node]
            if offer is not None and ground.lawful(ended | offer[1]):
                break
            offers[node] = _node_offer(ground, want.size * (placed[node] + 1) - available[node], node, ended)
        stale = {node}
        for row in offer[1]:
            ended.add(row)
            for there, number in ground.nodes_of_row[row].items():
                if there in available:
                    available[there] += number
                    stale.add(there)
        placed[node] += 1
        used.by(node)
        for there in stale:
            need = want.size * (placed[there] + 1) - available[there]
            offers[there] = _node_offer(ground, need, there, ended)
    return ended


class _Used:
    """The cells that have a part of a want whose parts are apart; none where they need not be."""

    def __init__(self, fleet: Fleet, want: Want) -> None:
        self._apart = want.apart is not None
        self._cells = cells_of_nodes(fleet, want.apart)
        self._taken: set[int] = set()

    def _cell(self, node: int) -> int:
        return node if self._cells is None else int(self._cells[node])

    def bars(self, node: int) -> bool:
        """Whether no part may go there any more."""
        return self._apart and self._cell(node) in self._taken

    def by(self, node: int) -> None:
        """A part goes there."""
        if self._apart:
            self._taken.add(self._cell(node))


def _filled_back(ground: Ground, want: Want, nodes: list[int], rows: set[int]) -> set[int]:
    kept = set(rows)
    for row in sorted(rows, key=lambda row: (-ground.prices[row], row)):
        if _parts_without(ground, want, nodes, kept - {row}) >= want.parts:
            kept.discard(row)
    return kept


def _parts_without(ground: Ground, want: Want, nodes: list[int], rows: set[int]) -> int:
    return parts_on(ground.books.fleet, want, _available(ground, nodes, rows).items())


def _available(ground: Ground, nodes: list[int], rows: set[int]) -> dict[int, int]:
    """GPUs of each node once these rows are gone."""
    available = {node: ground.open_by_node[node] for node in nodes}
    for row in rows:
        for node, number in ground.nodes_of_row[row].items():
            if node in available:
                available[node] += number
    return available


def _room(ground: Ground, want: Want, nodes: list[int], rows: set[int]) -> Room | None:
    """Choose the GPUs, on nodes with least room first: free ones first, then leavers', then victims'; victims that end
    up untouched stay.
    """
    available = _available(ground, nodes, rows)
    taken: list[tuple[int, int]] = []
    parts, used = want.parts, _Used(ground.books.fleet, want)
    for node in sorted(nodes, key=lambda node: (available[node], node)):
        if parts > 0 and available[node] >= want.size and not used.bars(node):
            most = 1 if want.apart is not None else available[node] // want.size
            taken.append((node, min(most, parts)))
            parts -= taken[-1][1]
            used.by(node)
    if parts > 0:
        return None
    gpus = [gpu for node, here in sorted(taken) for gpu in _picked(ground, node, here * want.size, rows)]
    chosen = np.array(gpus, dtype=np.int64)
    return Room(chosen, tuple(ground.books.holders(chosen)))


def _picked(ground: Ground, node: int, number: int, rows: set[int]) -> list[int]:
    """So many GPUs of the node, ascending: free ones first, then leavers', then those of these rows."""
    floor = ground.books.floor
    ended = {ground.row_of_rank[rank] for rank in rows}
    low, high = ground.allowed.searchsorted(floor.first_gpu[node : node + 2])
    ranked: list[tuple[int, int]] = []
    for gpu in ground.allowed[low:high].tolist():
        row = int(floor.holder[gpu])
        if row < 0:
            ranked.append((1 if floor.leaver[gpu] >= 0 else 0, gpu))
        elif row in ended:
            ranked.append((2, gpu))
    return sorted(gpu for _, gpu in sorted(ranked)[:number])
