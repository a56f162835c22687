"""Where all that may be ended is dear, others move: only what runs and fits elsewhere, only where that saves enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.placement.books import Books
from scheduler.core.placement.inside import packs
from scheduler.core.placement.moving import Crowd, dear, given_back, movers, room_by_moving
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Policy, Stop
from scheduler.core.placement.wants import Want, demand
from scheduler.core.workloads import StopCause
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of

STILL = Policy(consolidate=False)
Gangs = list[tuple[str, int, bool]]


def world_with(deep_hours: int = 10, small: int = 2, **given: Any) -> World:
    """Of c, over its count by one, a gang of four that never checkpoints; on a's node b's small one, within its count,
    for which two GPUs are free on b's.
    """
    world = World(fleet_of([4, 4, 4]), owners_of({"c": 4, "a": 4, "b": 4}))
    world.now_ms = 100 * HOUR_MS
    ran_ms = deep_hours * HOUR_MS + 60_000
    world.running(spec_of("c", 1, 4, checkpoint_ms=0), range(4), started_ms=world.now_ms - ran_ms)
    world.running(spec_of("b", 1, small, **given), range(4, 4 + small), started_ms=world.now_ms - 60_000)
    world.running(spec_of("b", 1, 1), [8])
    world.running(spec_of("c", 1, 1, checkpoint_ms=0), [9], started_ms=world.now_ms - ran_ms)
    world.submit(spec_of("a", 1, 4))
    return world


def stopped(world: World) -> list[tuple[int, StopCause]]:
    made = plan(world.snapshot(), STILL)
    return [(action.gang.number, action.cause) for action in made.actions if isinstance(action, Stop)]


def test_what_fits_elsewhere_moves_before_dear_work_ends() -> None:
    assert stopped(world_with()) == [(1, StopCause.CONSOLIDATED)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"deep_hours": 0}, "what may be ended is not dear"),
        ({"small": 3}, "it fits nowhere"),
        ({"preemptible": False}, "it cannot move"),
        ({"min_runtime_ms": 40 * HOUR_MS, "deep_hours": 1}, "its wish to run on weighs more"),
    ],
)
def test_it_does_not_move_without_reason(given: dict[str, Any], why: str) -> None:
    assert 1 not in [number for number, _ in stopped(world_with(**given))], why


GANGS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((1, 2, 4)), st.booleans()), max_size=4)


@given(st.lists(GANGS, min_size=1, max_size=5), st.sampled_from((1, 2, 4)), st.integers(1, 2))
def test_whoever_makes_way_is_over_its_count_or_fits_elsewhere(nodes: list[Gangs], size: int, parts: int) -> None:
    world = World(fleet_of([4] * len(nodes)), (["a"] * 4 + ["b"] * 4 + [None] * 12)[: 4 * len(nodes)])
    for node, gangs in enumerate(nodes):
        at = 4 * node
        for account, gpus, preemptible in gangs:
            if at + gpus <= 4 * node + 4:
                world.running(spec_of(account, 1, gpus, preemptible=preemptible), range(at, at + gpus), 0)
                at += gpus
    books, want = Books(world.snapshot(), STILL), Want(parts, size, None)
    prices = {row: books.price(row) for row, gang in enumerate(books.rows) if gang.shape.preemptible}
    crowd = Crowd(books, prices, books.excess[0], books.floor.free_by_node)
    found = room_by_moving(crowd, books.floor.gpus_of_pool(0), want)
    if found is None:
        return
    lost_ms, room = found
    assert len(set(room.gpus.tolist())) == parts * size
    assert set(room.victims) == set(books.holders(room.gpus))
    assert lost_ms == sum(prices[row] for row in room.victims)
    moved = movers([(books.rows[row], books.account_of_row[row]) for row in room.victims], books.excess[0])
    left = books.floor.free_by_node.copy()
    left[np.unique(books.floor.node_of_gpu[room.gpus])] = 0
    wanted: dict[Want, int] = {}
    for gang in moved:
        each = demand(gang.shape)
        assert each is not None
        assert (each.size, each.parts) < (size, parts), "who is moved asks for less"
        wanted[each] = wanted.get(each, 0) + 1
    assert packs(left, wanted, world.fleet)
    for index in range(3):
        its = [books.rows[row] for row in room.victims if books.account_of_row[row] == index]
        ended = [gang.shape.gpus for gang in its if gang not in moved]
        assert not ended or sum(ended) - max(ended) < books.excess[0][index]


def test_half_an_hour_of_each_gpu_is_dear() -> None:
    assert dear(4 * HOUR_MS // 2 + 1, 4)
    assert not dear(4 * HOUR_MS // 2, 4)


def test_what_is_given_back_is_dear_for_nobody_who_moves_there() -> None:
    """Half an hour of each of its four GPUs would be dear to lose for a gang of one GPU."""
    world = World(fleet_of([4, 4]), owners_of({"c": 8}))
    world.running(spec_of("c", 1, 4), range(4), 0)
    world.running(spec_of("c", 1, 2), [4, 5], 0)
    large, small = Books(world.snapshot(), STILL).rows
    assert given_back([(large, 4 * HOUR_MS // 2), (small, HOUR_MS // 2)]) == [4, 5]
    assert given_back([(large, HOUR_MS // 2 + 1)]) == []


def test_gangs_of_one_size_do_not_move_each_other() -> None:
    """What c would lose is dear for a's one GPU, if not for c's three; another gang of one would lose little."""
    world = World(fleet_of([4, 4]), [*"aaaabb", None, None])
    world.now_ms = 100 * HOUR_MS
    for account, gpu in (("a", 0), ("a", 1), ("a", 2), ("b", 4), ("b", 5)):
        world.running(spec_of(account, 1, 1), [gpu], started_ms=world.now_ms - 60_000)
    world.running(spec_of("c", 3, 1, checkpoint_ms=0), (3, 6, 7), started_ms=world.now_ms - HOUR_MS // 3)
    world.submit(spec_of("a", 1, 1))
    assert [cause for _, cause in stopped(world)] == [StopCause.RECLAIMED]
