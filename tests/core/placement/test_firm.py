"""What cannot be preempted beside work that can: how much of it an account may have, and what must still have room."""

from __future__ import annotations

import pytest

from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place, Plan, Policy
from scheduler.core.workloads import Gang
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of

STILL = Policy(consolidate=False)


def planned(world: World) -> Plan:
    made = plan(world.snapshot(), STILL)
    world.apply(made)
    assert violations(world.snapshot()) == ()
    return made


def placed(world: World, gang: Gang) -> tuple[int, ...]:
    return world.gangs[gang.number].gpu_numbers


def test_it_is_never_more_than_its_account_owns_to_its_end() -> None:
    """Eight GPUs of it run on unsold ones: the account's own eight are free, and are for work that can be preempted."""
    world = World(fleet_of([8, 8]), owners_of({None: 8, "a": 8}))
    world.running(spec_of("a", 1, 8, preemptible=False), range(8))
    world.now_ms += 1
    more = world.submit(spec_of("a", 1, 1, preemptible=False))
    soft = world.submit(spec_of("a", 1, 4))
    planned(world)
    assert placed(world, more) == ()
    assert len(placed(world, soft)) == 4


def test_the_checker_finds_more_of_it_than_its_account_owns_to_its_end() -> None:
    world = World(fleet_of([8, 8]), owners_of({None: 8, "a": 8}))
    world.running(spec_of("a", 1, 8, preemptible=False, max_runtime_ms=3 * HOUR_MS), range(8))
    world.now_ms += 1
    world.running(spec_of("a", 1, 1, preemptible=False), [8])
    (found,) = violations(world.snapshot())
    assert "makes 9 GPUs of work that cannot be preempted, 8 last as long" in found


def test_an_hour_of_it_may_use_what_is_sold_after_that() -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    world.until_ms[4:] = world.now_ms + 2 * HOUR_MS
    long, short = (world.submit(spec_of("a", 1, 4, preemptible=False, max_runtime_ms=n * HOUR_MS)) for n in (3, 1))
    late = world.submit(spec_of("a", 1, 1, preemptible=False, max_runtime_ms=3 * HOUR_MS))
    planned(world)
    assert placed(world, long) == (0, 1, 2, 3)
    assert placed(world, short) == (4, 5, 6, 7)
    assert placed(world, late) == ()


def full_house() -> World:
    """16 GPUs of a: of the first node it holds all with four that cannot be preempted and four that can, the second is
    free; eight more that came before run on b's. So its count is full.
    """
    world = World(fleet_of([8, 8, 8]), owners_of({"a": 16, "b": 8}))
    world.running(spec_of("a", 1, 8), range(16, 24))
    world.running(spec_of("a", 1, 4, preemptible=False), range(4))
    world.running(spec_of("a", 1, 4), range(4, 8))
    world.now_ms += 1
    return world


@pytest.mark.parametrize(("size", "fits"), [(8, True), (4, False)])
def test_beside_a_full_count_the_oldest_that_it_still_holds_must_repack(size: int, fits: bool) -> None:  # noqa: FBT001
    """Beside eight more the count holds the gang of four, which repacks. Beside four more it holds the older one of
    eight, and no node would have room for that.
    """
    world = full_house()
    serve = world.submit(spec_of("a", 1, size, preemptible=False))
    planned(world)
    assert bool(placed(world, serve)) == fits


def test_an_elastic_one_gets_what_its_account_has_free_of_its_own() -> None:
    """The count is full of work that can be preempted and runs on b's node: the account's own node is free, three GPUs
    are unsold. All eight workers stand on its own, not three on the unsold ones.
    """
    world = World(fleet_of([8, 8, 3]), owners_of({"a": 8, "b": 8, None: 3}))
    world.running(spec_of("a", 1, 8), range(8, 16))
    world.now_ms += 1
    gang = world.submit(spec_of("a", 8, 1, min_workers=1, preemptible=False))
    (action,) = planned(world).actions
    assert isinstance(action, Place)
    assert (placed(world, gang), action.inside) == (tuple(range(8)), False)


def test_an_elastic_one_is_as_large_as_its_account_owns_to_its_end() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 8, "b": 8}))
    world.running(spec_of("a", 1, 8), range(8, 16))
    world.until_ms[5:8] = world.now_ms + HOUR_MS
    world.now_ms += 1
    gang = world.submit(spec_of("a", 8, 1, min_workers=2, preemptible=False))
    planned(world)
    assert placed(world, gang) == tuple(range(5))


def test_an_elastic_one_without_own_room_borrows_what_is_unsold() -> None:
    world = World(fleet_of([8, 8, 5]), owners_of({"a": 8, "b": 8, None: 5}))
    world.running(spec_of("b", 1, 8), range(8))
    world.running(spec_of("a", 1, 8), range(8, 16))
    world.now_ms += 1
    gang = world.submit(spec_of("a", 8, 1, min_workers=2, preemptible=False))
    planned(world)
    assert placed(world, gang) == tuple(range(16, 21))
