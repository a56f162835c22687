"""The checker finds each kind of wrong that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from scheduler.core.cluster import Level
from scheduler.core.placement.laws import violations
from scheduler.core.workloads import GangStatus, StopCause
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of


def lawful_world() -> World:
    """Three nodes; gang 0 of a runs on GPUs 0..3, gang 1 of b leaves 8..11, which gang 2 of a has claimed."""
    world = World(fleet_of([8, 8, 8], ["H100", "H100", "A100"]), owners_of({"a": 16, "b": 8}))
    world.running(spec_of("a", 2, 2), range(4))
    leaver = world.running(spec_of("b", 1, 4), range(8, 12))
    world.gangs[1] = leaver.moved(GangStatus.STOPPING, stop_cause=StopCause.RECLAIMED)
    claimer = world.running(spec_of("a", 1, 4), range(12, 16))
    world.gangs[2] = replace(claimer, status=GangStatus.BINDING, gpu_numbers=(8, 9, 10, 11))
    world.occupant[12:16] = -1
    world.claimant[8:12] = 2
    world.now_ms += 1  # pieces are checked of gangs that were placed at this instant
    assert violations(world.snapshot()) == ()
    return world


def shared_world() -> World:
    """Gangs 0 and 1 of a share GPU 0, gang 2 of a has GPU 2 to itself."""
    world = World(fleet_of([8]), owners_of({"a": 8}))
    for milli, gpu in ((300, 0), (400, 0), (200, 2)):
        world.running(spec_of("a", gpu_milli=milli), [gpu])
    assert violations(world.snapshot()) == ()
    return world


def carried_by_nobody(world: World) -> None:
    world.occupant[0] = -1


def carried_by_a_stranger(world: World) -> None:
    world.occupant[0], world.occupant[2] = 2, -1


def overfilled(world: World) -> None:
    world.gangs[1] = replace(world.gangs[1], spec=spec_of("a", gpu_milli=701))
    world.shares[0][1] = 701


def shared_as_not_asked(world: World) -> None:
    world.shares[0][1] = 1


def shared_with_a_stranger(world: World) -> None:
    world.gangs[1] = replace(world.gangs[1], spec=spec_of("b", gpu_milli=400))


def shared_with_one_that_cannot_be_preempted(world: World) -> None:
    world.gangs[1] = replace(world.gangs[1], shape=world.gangs[1].shape._replace(preemptible=False))


def share_forgotten(world: World) -> None:
    del world.shares[0][1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (carried_by_nobody, "its occupant is none of its gangs"),
        (carried_by_a_stranger, "its occupant is none of its gangs"),
        (overfilled, "shared by 1001 milli"),
        (shared_as_not_asked, "which its gangs were not given"),
        (shared_with_a_stranger, "shared by several accounts"),
        (shared_with_one_that_cannot_be_preempted, "only some can be preempted"),
        (share_forgotten, "share devices, expected"),
    ],
)
def test_each_wrong_of_a_shared_gpu_is_found(wrong: Callable[[World], None], said: str) -> None:
    world = shared_world()
    wrong(world)
    assert any(said in violation for violation in violations(world.snapshot()))


def test_a_shared_gpu_counts_as_one_of_its_accounts() -> None:
    """Two GPUs of a are used by three shares: six are left, and a gang of six is inside and must not wait."""
    world = shared_world()
    world.submit(spec_of("a", 1, 7))
    assert violations(world.snapshot()) == ()
    world.submit(spec_of("a", 1, 6))
    assert any("inside its entitlement and waits" in violation for violation in violations(world.snapshot()))


def leave_unclaimed(world: World) -> None:
    world.occupant[8:12] = -1


def claim_of_running(world: World) -> None:
    world.gangs[2] = replace(world.gangs[2], status=GangStatus.RUNNING)


def stranger(world: World) -> None:
    world.occupant[20] = 0


def not_there(world: World) -> None:
    world.occupant[0] = -1


def worker_missing(world: World) -> None:
    world.gangs[0] = replace(world.gangs[0], gpu_numbers=(0, 1))


def worker_spread(world: World) -> None:
    move(world, (0, 12, 1, 2))


def pool_spread(world: World) -> None:
    move(world, (0, 1, 16, 17))


def wrong_grade(world: World) -> None:
    world.gangs[0] = replace(world.gangs[0], shape=world.gangs[0].shape._replace(grade="A100"))


def topology_broken(world: World) -> None:
    shape = world.gangs[0].shape._replace(topology=int(Level.NODE), topology_required=True)
    world.gangs[0] = replace(world.gangs[0], shape=shape)
    move(world, (0, 1, 12, 13))


def too_few_workers(world: World) -> None:
    world.gangs[0] = replace(world.gangs[0], spec=spec_of("a", 4, 2, min_workers=3))


def workers_together(world: World) -> None:
    shape = world.gangs[0].shape._replace(spread=int(Level.NODE), spread_required=True)
    world.gangs[0] = replace(world.gangs[0], shape=shape)


def pieces_differ(world: World) -> None:
    world.gangs[0] = replace(world.gangs[0], placed_ms=world.now_ms)
    move(world, (2, 3, 0, 1))


def unusable(world: World) -> None:
    world.gangs[0] = replace(world.gangs[0], placed_ms=world.now_ms)
    world.usable[0] = False


def firm_on_lent(world: World) -> None:
    world.gangs[0] = replace(world.gangs[0], shape=world.gangs[0].shape._replace(preemptible=False))
    world.owner[0] = 1


def firm_outlasts(world: World) -> None:
    shape = world.gangs[0].shape._replace(preemptible=False, runtime_ms=HOUR_MS)
    world.gangs[0] = replace(world.gangs[0], shape=shape, placed_ms=world.now_ms)
    world.until_ms[3] = world.now_ms + HOUR_MS - 1


def inside_and_waits(world: World) -> None:
    world.submit(spec_of("a", 1, 8))


def move(world: World, gpus: tuple[int, ...]) -> None:
    world.occupant[world.occupant == 0] = -1
    world.occupant[list(gpus)] = 0
    world.gangs[0] = replace(world.gangs[0], gpu_numbers=gpus)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (leave_unclaimed, "nobody is leaving it"),
        (claim_of_running, "which is not binding"),
        (stranger, "was not given it"),
        (not_there, "neither occupies nor claims it"),
        (worker_missing, "has 2 GPUs, expected 4"),
        (worker_spread, "a worker is spread over several nodes"),
        (pool_spread, "a gang is spread over several pools"),
        (wrong_grade, "asked for grade A100 and is on H100"),
        (topology_broken, "must be inside one cell of level 1"),
        (workers_together, "must have each worker in another cell of level 1"),
        (too_few_workers, "has 2 workers, expected 3..4"),
        (pieces_differ, "which are not its workers"),
        (unusable, "which is not usable"),
        (firm_on_lent, "which another account owns"),
        (firm_outlasts, "outlasts the ownership of GPU 3"),
        (inside_and_waits, "is inside its entitlement and waits"),
    ],
)
def test_every_wrong_is_found(wrong: Callable[[World], None], said: str) -> None:
    world = lawful_world()
    wrong(world)
    assert any(said in violation for violation in violations(world.snapshot())), violations(world.snapshot())


def test_an_account_may_sell_from_under_its_own_work() -> None:
    world = lawful_world()
    firm_outlasts(world)
    world.gangs[0] = replace(world.gangs[0], placed_ms=world.now_ms - 1)
    assert violations(world.snapshot()) == ()


def test_a_gang_that_does_not_repack_may_wait() -> None:
    world = World(fleet_of([4, 4]), owners_of({"a": 8}))
    world.running(spec_of("a", 1, 3), range(3))
    world.running(spec_of("a", 1, 3), range(4, 7))
    world.submit(spec_of("a", 1, 2))
    assert violations(world.snapshot()) == ()


def test_a_gang_over_its_count_may_wait() -> None:
    world = World(fleet_of([4]), owners_of({"a": 2, None: 2}))
    world.submit(spec_of("a", 1, 3))
    assert violations(world.snapshot()) == ()
