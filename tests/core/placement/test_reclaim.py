"""The cheapest room, against trying every subset of gangs; and as it is found without laying out the ground."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core import kernels
from scheduler.core.cluster import Level
from scheduler.core.placement.books import Books
from scheduler.core.placement.reclaim import Ground, cheapest_room
from scheduler.core.placement.snapshot import Policy, Snapshot
from scheduler.core.placement.wants import Want
from tests.benchmarks.crowd import crowd_of
from tests.core.placement.naive import ground_of_accounts_over_count
from tests.core.placement.test_equal import uneven
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


levels = st.sampled_from((None, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK))
wants = st.tuples(st.integers(1, 9), st.integers(1, 9), levels).map(lambda asked: Want(*asked))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000), st.lists(st.tuples(wants, st.booleans()), min_size=1, max_size=12))
def test_room_is_found_as_on_the_ground_laid_out(seed: int, questions: list[tuple[Want, bool]]) -> None:
    """Question by question; again in later rounds, when many prices rose and others fell; and while gangs of accounts
    over their count make way and others go over theirs.
    """
    snapshot = in_one_pool_each(uneven(seed)) if seed % 2 else crowd_of(1_000, seed, crowded=True).snapshot
    books = Books(snapshot, Policy())
    for later_ms in (1_000, 600_000, 4_000_000):
        assert_found(books, [(want, False) for want, _ in questions])
        books.begin_round(replace(snapshot, now_ms=snapshot.now_ms + later_ms))
    assert_found(books, questions)


def in_one_pool_each(snapshot: Snapshot) -> Snapshot:
    """The same without gangs that stand in two pools."""
    pools = snapshot.fleet.pool_of_node[snapshot.fleet.node_of_gpu]
    placed = {number: gang for number, gang in snapshot.placed.items() if len(set(pools[[*gang.gpu_numbers]])) == 1}
    occupant = np.where(np.isin(snapshot.occupant, list(placed)), snapshot.occupant, -1)
    return replace(snapshot, placed=placed, occupant=occupant)


def test_machine_code_finds_the_same_room(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="without numba there is only the plain way")
    monkeypatch.setattr(kernels, "WORTH_COMPILING_STEPS", 0)
    bound = (None, Level.NVLINK_DOMAIN, Level.FABRIC_BLOCK)
    questions = [
        (Want(parts, size, level), parts % 2 == 0) for parts in range(1, 7) for size in (1, 3, 8) for level in bound
    ]
    assert_found(Books(crowd_of(4_000, 3, crowded=True).snapshot, Policy()), questions)


def assert_found(books: Books, questions: list[tuple[Want, bool]]) -> None:
    """The same both ways; what is taken goes to an account that is, or comes to be, over its count."""
    waiting = [gang for shapes in books.snapshot.queue.values() for gangs in shapes.values() for gang in gangs]
    for at, (want, takes) in enumerate(questions):
        pool = at % books.n_pools
        found = books.room_over_count(want, pool)
        laid_out = cheapest_room(ground_of_accounts_over_count(books, pool), want)
        assert (found is None) == (laid_out is None)
        if found is None or laid_out is None:
            continue
        assert found.gpus.tolist() == laid_out.gpus.tolist()
        assert found.victims == laid_out.victims
        if takes:
            for row in sorted(found.victims, key=lambda row: (books.rows[row].shape.gpus, books.rank_of_row[row])):
                books.stop(row, None)
            books.place(waiting[at], found.gpus, inside=True)
