"""To which pool a gang is offered that may use several: counts decide, and nobody is offered what he was refused."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.placement.offers import PoolRoom, Tried, offers, wandering_lines
from scheduler.core.placement.pools import Division
from scheduler.core.workloads import Gang, Shape, shape_of
from tests.core.placement.world import spec_of

KINDS = (("A100", "east"), ("H100", "east"), ("H100", "west"))
FLEET = Fleet.of(
    tuple(
        NodeSpec(name=f"n-{i}", grade=KINDS[i % 3][0], site=KINDS[i % 3][1], gpus=8, domain=f"d-{i // 2}")
        for i in range(7)
    )
)
DIVISION = Division.of(FLEET)
Queue = dict[str, dict[Shape, list[Gang]]]


def queue_of(*asked: tuple[str, int, str | None, int]) -> Queue:
    """(account, GPUs, grade, how many gangs), in the order of their submission."""
    queue: Queue = {}
    number = 0
    for account, gpus, grade, count in asked:
        for _ in range(count):
            spec = spec_of(account, size=gpus, grade=grade)
            gang = Gang(f"g-{number}", number, spec, shape_of(spec), submitted_ms=number, queued_ms=number)
            queue.setdefault(account, {}).setdefault(gang.shape, []).append(gang)
            number += 1
    return queue


def dealt(queue: Queue, rooms: list[tuple[int, Mapping[str, int]]], tried: Tried | None = None) -> dict[int, list[int]]:
    lines = wandering_lines(queue, DIVISION)
    room = [PoolRoom(free, headroom) for free, headroom in rooms]
    found = offers(lines, queue, DIVISION, room, [0, 0, 0], tried or Tried())
    return {pool: [gang.number for gang in gangs] for pool, gangs in sorted(found.items())}


def test_a_part_has_the_order_of_the_whole_and_every_node_is_in_one() -> None:
    assert sorted(node for part in DIVISION.parts for node in part.nodes.tolist()) == list(range(7))
    for part in DIVISION.parts:
        assert [node.name for node in part.fleet.nodes] == [f"n-{i}" for i in part.nodes.tolist()]
        assert DIVISION.number_in_part[part.gpus].tolist() == list(range(part.fleet.n_gpus))
        numbers = FLEET.domain_of_node[part.nodes].tolist()
        assert [FLEET.domains.index(part.fleet.domains[d]) for d in part.fleet.domain_of_node.tolist()] == numbers


def test_only_gangs_with_several_pools_are_offered() -> None:
    queue = queue_of(("a", 1, "A100", 2), ("a", 1, "H100", 2), ("b", 2, None, 1), ("b", 1, "B200", 1))
    lines = wandering_lines(queue, DIVISION)
    assert [(account, shape.grade) for account, shape in lines] == [("a", "H100"), ("b", None)]
    assert wandering_lines(queue, Division.of(Fleet.of(FLEET.nodes[1:3]))) != {}
    assert wandering_lines(queue, Division.of(Fleet.of(FLEET.nodes[1:2]))) == {}


def test_a_gang_leaves_room_to_those_that_have_no_other_pool() -> None:
    queue = queue_of(("a", 8, None, 1), ("a", 8, "A100", 1))
    assert dealt(queue, [(0, {"a": 8}), (0, {"a": 8}), (0, {})]) == {1: [0]}


def test_beyond_the_count_gangs_go_where_most_is_free() -> None:
    queue = queue_of(("a", 4, "H100", 4))
    assert dealt(queue, [(8, {}), (4, {}), (8, {})]) == {1: [2], 2: [0, 1]}
    assert dealt(queue, [(8, {"a": 8}), (4, {"a": 4}), (8, {})]) == {1: [0], 2: [1, 2]}


def test_what_was_refused_is_offered_to_the_next_until_the_pool_changes() -> None:
    queue = queue_of(("a", 4, "H100", 1))
    line = next(iter(wandering_lines(queue, DIVISION)))
    rooms: list[tuple[int, Mapping[str, int]]] = [(0, {}), (8, {}), (4, {})]
    assert dealt(queue, rooms) == {1: [0]}
    tried = Tried({(line, 1): 0})
    assert dealt(queue, rooms, tried) == {2: [0]}
    tried.refused[line, 2] = 0
    assert dealt(queue, rooms, tried) == {}
    tried.refused[line, 1] = -1
    assert dealt(queue, rooms, tried) == {1: [0]}


COUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(-8, 30), st.integers(-8, 30)), min_size=3, max_size=3)
ASKED = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from((1, 2, 4, 8)), st.sampled_from((None, "H100")), st.integers(1, 6)),
    max_size=6,
)


@given(ASKED, COUNTS)
def test_each_gang_is_offered_once_in_order_and_all_that_counts_hold_are_offered_inside(
    asked: list[tuple[str, int, str | None, int]], counts: list[tuple[int, int, int]]
) -> None:
    queue = queue_of(*asked)
    rooms: list[tuple[int, Mapping[str, int]]] = [(free, {"a": a, "b": b}) for free, a, b in counts]
    found = dealt(queue, rooms)
    numbers = [number for offered in found.values() for number in offered]
    assert len(set(numbers)) == len(numbers)
    gangs = {gang.number: gang for shapes in queue.values() for each in shapes.values() for gang in each}
    for pool, offered in found.items():
        assert all(pool in DIVISION.pools_for(gangs[number].shape.grade) for number in offered)
    for account in ("a", "b"):
        for pool in range(3):
            inside = rooms[pool][1][account]
            used = sum(gangs[n].shape.gpus for n in found.get(pool, []) if gangs[n].account == account)
            left = inside - used
            waiting = [gang for gang in gangs.values() if gang.account == account and gang.number not in numbers]
            fits = [gang for gang in waiting if pool in DIVISION.pools_for(gang.shape.grade)]
            assert all(gang.shape.gpus > left for gang in fits)
