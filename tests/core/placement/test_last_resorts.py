"""Who makes way when free GPUs do not reach, and in what order: what no scenario comes to."""

from __future__ import annotations

from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Policy, Stop
from scheduler.core.workloads import StopCause
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of

STILL = Policy(consolidate=False)


def stopped(world: World) -> list[tuple[int, StopCause]]:
    """(number, why) of the gangs that the next round stops, in order."""
    made = plan(world.snapshot(), STILL)
    world.apply(made)
    assert violations(world.snapshot()) == ()
    return [(action.gang.number, action.cause) for action in made.actions if isinstance(action, Stop)]


def test_on_the_owners_cells_work_within_its_count_makes_way_last() -> None:
    """Account c is two over its count, so no eight GPUs of it may be taken anywhere; on a's own cells they may be,
    before b's, which is within its count, though b's has run for a minute only and c's for an hour.
    """
    world = World(fleet_of([8, 8, 8, 6]), owners_of({"a": 16, "b": 8, "c": 6}))
    for gpus in (range(4), range(4, 8)):
        world.running(spec_of("c", 1, 4, checkpoint_ms=0), gpus, started_ms=world.now_ms - HOUR_MS)
    world.running(spec_of("b", 1, 8), range(8, 16), started_ms=world.now_ms - 60_000)
    world.running(spec_of("a", 1, 8), range(16, 24))
    world.submit(spec_of("a", 1, 8))
    assert [number for number, _ in stopped(world)] == [0, 1]


def test_an_account_over_its_count_is_reclaimed_from_the_smallest_first_so_that_all_are_its_excess() -> None:
    """Account c is two over its count by gangs of four and of one: without the larger one it would be within it."""
    world = World(fleet_of([8, 3]), owners_of({"a": 8, "c": 3}))
    world.running(spec_of("c", 1, 4), range(4))
    world.running(spec_of("c", 1, 1), range(4, 5))
    world.submit(spec_of("a", 1, 8))
    assert stopped(world) == [(1, StopCause.RECLAIMED), (0, StopCause.RECLAIMED)]
