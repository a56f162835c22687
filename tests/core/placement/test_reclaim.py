"""The cheapest room, against trying every subset of gangs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.placement.books import Books
from scheduler.core.placement.reclaim import Ground, cheapest_room
from scheduler.core.placement.snapshot import Policy
from scheduler.core.placement.wants import Want
from tests.core.placement.world import World, fleet_of, spec_of


def books_with(nodes: list[list[int]]) -> Books:
    """A fleet of 8-GPU nodes with gangs of these sizes on each."""
    world = World(fleet_of([8] * len(nodes)), ["a"] * 8 * len(nodes))
    for node, sizes in enumerate(nodes):
        at = 8 * node
        for size in sizes:
            if at + size <= 8 * node + 8:
                world.running(spec_of("b", 1, size), range(at, at + size))
                at += size
    return Books(world.snapshot(), Policy())


def slots(books: Books, want: Want, ended: set[int]) -> int:
    held = np.array([row not in ended for row in range(len(books.rows))] + [False])[books.floor.holder]
    return int((np.bincount(books.floor.node_of_gpu[~held], minlength=books.n_nodes) // want.size).sum())


crowds = st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=3)


@settings(deadline=None)
@given(crowds, st.integers(1, 8), st.data())
def test_one_part_is_made_room_for_at_the_least_price(nodes: list[list[int]], size: int, data: st.DataObject) -> None:
    books = books_with(nodes)
    rows = range(len(books.rows))
    prices = {row: data.draw(st.integers(0, 20)) for row in rows}
    want = Want(1, size, None)
    room = cheapest_room(Ground.of(books, books.floor.gpus_of_pool(0), prices, None), want)
    assert room is not None
    assert len(set(room.gpus)) == size
    least = min(
        sum(prices[row] for row in subset)
        for count in range(len(rows) + 1)
        for subset in combinations(rows, count)
        if slots(books, want, set(subset)) >= 1
    )
    assert sum(prices[row] for row in room.victims) == least


@settings(deadline=None)
@given(crowds, st.integers(1, 4), st.integers(1, 8), st.data())
def test_every_victim_of_a_large_gang_is_needed(
    nodes: list[list[int]], parts: int, size: int, data: st.DataObject
) -> None:
    books = books_with(nodes)
    prices = {row: data.draw(st.integers(1, 20)) for row in range(len(books.rows))}
    want = Want(parts, size, None)
    room = cheapest_room(Ground.of(books, books.floor.gpus_of_pool(0), prices, None), want)
    fits = slots(books, want, set(prices)) >= parts
    assert (room is not None) == fits
    if room is not None:
        victims = set(room.victims)
        assert slots(books, want, victims) >= parts
        assert all(slots(books, want, victims - {row}) < parts for row in victims)


@settings(deadline=None)
@given(crowds, st.integers(1, 8), st.integers(1, 12))
def test_an_account_loses_only_until_it_is_at_its_count(nodes: list[list[int]], size: int, over: int) -> None:
    books = books_with(nodes)
    prices = dict.fromkeys(range(len(books.rows)), 1)
    account = books.account_index["b"]
    room = cheapest_room(Ground.of(books, books.floor.gpus_of_pool(0), prices, {account: over}), Want(1, size, None))
    if room is not None and room.victims:
        sizes = [books.rows[row].shape.gpus for row in room.victims]
        assert sum(sizes) - max(sizes) < over
