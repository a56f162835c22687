"""The cheapest way to make room: which gangs to end so that a want fits, at the least lost work.

One part: the exact cheapest subset of gangs on the best node. Several: node by node, always the one whose next part
costs least given what was already ended; then *fill back*: whoever turns out not to be needed stays, the costliest
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import IntArray
from scheduler.core.placement.books import Books, BoolArray, picked
from scheduler.core.placement.fits import cells_of_nodes, slots_by_cell, spread
from scheduler.core.placement.wants import Want

Victim = tuple[int, int, int]
"""(price, row, GPUs that it frees on the node)."""


@dataclass(frozen=True, slots=True)
class Room:
    """Room made for a want: its GPUs, ascending by node, and the rows to end first."""

    gpus: tuple[int, ...]
    victims: tuple[int, ...]


@dataclass(slots=True)
class Ground:
    """Where a want may stand and whom it may displace, laid out by node."""

    books: Books
    allowed: BoolArray
    """(n_gpus): GPUs that may be used."""
    prices: Mapping[int, int]
    """Price of each row that may be ended."""
    excess: Mapping[int, int] | None
    """By account: how far it is over its count; its rows are ended only until it is there. None: no such limit."""
    open_by_node: list[int]
    victims_by_node: dict[int, list[Victim]]
    nodes_of_row: dict[int, dict[int, int]]

    @classmethod
    def of(
        cls, books: Books, allowed: BoolArray, prices: Mapping[int, int], excess: Mapping[int, int] | None
    ) -> Ground:
        """Lay out the ground: open GPUs and displaceable gangs of each node, the cheapest first."""
        open_by_node: list[int] = books.by_node(allowed & (books.holder < 0)).tolist()
        victims: dict[int, list[Victim]] = {}
        nodes_of_row: dict[int, dict[int, int]] = {}
        priced = np.zeros(len(books.rows) + 1, dtype=np.bool_)
        priced[list(prices)] = True
        held = np.flatnonzero(allowed & priced[books.holder])
        keys = books.holder[held] * books.n_nodes + books.node_of_gpu[held]
        pairs, numbers = np.unique(keys, return_counts=True)
        for key, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
            row, node = divmod(key, books.n_nodes)
            nodes_of_row.setdefault(row, {})[node] = number
            victims.setdefault(node, []).append((prices[row], row, number))
        for there in victims.values():
            there.sort()
        return cls(books, allowed, prices, excess, open_by_node, victims, nodes_of_row)

    def capacity(self) -> IntArray:
        """(n_nodes) int64: GPUs of each node once everybody displaceable is gone."""
        freed = {node: sum(number for _, _, number in there) for node, there in self.victims_by_node.items()}
        return np.array([count + freed.get(node, 0) for node, count in enumerate(self.open_by_node)], dtype=np.int64)

    def lawful(self, rows: set[int]) -> bool:
        """Whether the rows can be ended in an order in which each account is over its count before each of its own."""
        if self.excess is None:
            return True
        total: dict[int, int] = {}
        largest: dict[int, int] = {}
        for row in rows:
            account, gpus = self.books.account_of_row[row], self.books.rows[row].shape.gpus
            total[account] = total.get(account, 0) + gpus
            largest[account] = max(largest.get(account, 0), gpus)
        return all(total[account] - largest[account] < self.excess[account] for account in total)


def cheapest_room(ground: Ground, want: Want) -> Room | None:
    """The least lost work that makes the want fit on the ground, or None where nothing does."""
    books = ground.books
    slots = ground.capacity() // want.size
    if int(slots.sum()) < want.parts:
        return None
    cells = cells_of_nodes(books.fleet, want.level)
    if cells is None:
        regions = [np.flatnonzero(slots).tolist()]
    else:
        enough = np.flatnonzero(slots_by_cell(cells, slots) >= want.parts)
        regions = [np.flatnonzero((cells == cell) & (slots > 0)).tolist() for cell in enough.tolist()]
    found = (_victims_in(ground, want, region) for region in regions)
    best = min(
        ((sum(ground.prices[row] for row in rows), i, rows) for i, rows in enumerate(found) if rows is not None),
        default=None,
        key=lambda offer: offer[:2],
    )
    return None if best is None else _room(ground, want, regions[best[1]], best[2])


def _victims_in(ground: Ground, want: Want, nodes: list[int]) -> set[int] | None:
    rows = _one_part(ground, want.size, nodes) if want.parts == 1 else _many_parts(ground, want, nodes)
    return None if rows is None else _filled_back(ground, want, nodes, rows)


def _one_part(ground: Ground, size: int, nodes: list[int]) -> set[int] | None:
    """Exact: the cheapest subset over all nodes, tried by their cheapest gang, which bounds what they cost."""
    best: tuple[int, int, set[int]] | None = None
    bounds = sorted((_bound(ground, size, node), node) for node in nodes)
    for bound, node in bounds:
        if best is not None and bound >= best[0]:
            break
        offer = _node_offer(ground, size - ground.open_by_node[node], node, set())
        if offer is not None and (best is None or (offer[0], node) < best[:2]):
            best = (offer[0], node, offer[1])
    return None if best is None else best[2]


def _bound(ground: Ground, size: int, node: int) -> int:
    if ground.open_by_node[node] >= size:
        return 0
    return ground.victims_by_node[node][0][0]


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
    return (sum(ground.prices[row] for row in rows), rows) if need <= 0 else None


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


def _many_parts(ground: Ground, want: Want, nodes: list[int]) -> set[int] | None:
    """Greedy by marginal node: take the cheapest next part until all parts have room."""
    ended: set[int] = set()
    parts_on = dict.fromkeys(nodes, 0)
    available = {node: ground.open_by_node[node] for node in nodes}
    offers = {node: _node_offer(ground, want.size - available[node], node, ended) for node in nodes}
    for _ in range(want.parts):
        while True:
            priced = [(offer[0], -parts_on[node], node) for node, offer in offers.items() if offer is not None]
            if not priced:
                return None
            node = min(priced)[2]
            offer = offers[node]
            if offer is not None and ground.lawful(ended | offer[1]):
                break
            offers[node] = _node_offer(ground, want.size * (parts_on[node] + 1) - available[node], node, ended)
        stale = {node}
        for row in offer[1]:
            ended.add(row)
            for there, number in ground.nodes_of_row[row].items():
                if there in available:
                    available[there] += number
                    stale.add(there)
        parts_on[node] += 1
        for there in stale:
            need = want.size * (parts_on[there] + 1) - available[there]
            offers[there] = _node_offer(ground, need, there, ended)
    return ended


def _filled_back(ground: Ground, want: Want, nodes: list[int], rows: set[int]) -> set[int]:
    kept = set(rows)
    for row in sorted(rows, key=lambda row: (-ground.prices[row], row)):
        if _parts_without(ground, want, nodes, kept - {row}) >= want.parts:
            kept.discard(row)
    return kept


def _parts_without(ground: Ground, want: Want, nodes: list[int], rows: set[int]) -> int:
    available = {node: ground.open_by_node[node] for node in nodes}
    for row in rows:
        for node, number in ground.nodes_of_row[row].items():
            if node in available:
                available[node] += number
    return sum(number // want.size for number in available.values())


def _room(ground: Ground, want: Want, nodes: list[int], rows: set[int]) -> Room | None:
    """Choose the GPUs: free ones first, then leavers', then victims'; victims that end up untouched stay."""
    books = ground.books
    ended = np.zeros(len(books.rows) + 1, dtype=np.bool_)
    ended[sorted(rows)] = True
    region = np.zeros(books.n_nodes, dtype=np.bool_)
    region[nodes] = True
    standing = ground.allowed & ((books.holder < 0) | ended[books.holder]) & region[books.node_of_gpu]
    room = books.by_node(standing)
    where = spread(room, room, want, None)
    if where is None:
        return None
    rank = np.where(books.holder >= 0, 2, np.where(books.leaver >= 0, 1, 0))
    gpus = picked(books, where, want.size, standing, rank)
    touched = {int(row) for row in books.holder[gpus] if row >= 0}
    return Room(tuple(gpus), tuple(sorted(touched)))
