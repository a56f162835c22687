"""Rules of a round that no scenario file can tell, since the service never comes there: see `tests/scenarios`."""

from __future__ import annotations

from scheduler.core.cluster import Level
from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place, Policy
from scheduler.core.workloads import GangStatus
from tests.core.placement.test_equal import in_runs, told
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of

STILL = Policy(consolidate=False)


def served(world: World) -> str:
    """The one gang that the next round places, turn by turn and in runs."""
    made = plan(world.snapshot(), STILL)
    assert told(in_runs(world.snapshot(), STILL)) == told(made)
    world.apply(made)
    assert violations(world.snapshot()) == ()
    (place,) = (action for action in made.actions if isinstance(action, Place))
    return place.gang.id


def test_what_cannot_be_preempted_is_never_stopped() -> None:
    world = World(fleet_of([8]), owners_of({None: 8}))
    firm = world.running(spec_of("b", 1, 8, preemptible=False), range(8))
    world.owner[:] = 0
    gang = world.submit(spec_of("a", 1, 8))
    made = plan(world.snapshot(), STILL)
    assert made.actions == ()
    assert world.gangs[firm.number].status is GangStatus.RUNNING
    assert made.waiting["a", gang.shape].reason == "fragmented"


def test_borrowers_come_by_waiting_then_what_they_lent() -> None:
    world = World(fleet_of([1]), owners_of({"c": 1}))
    world.now_ms = 100 * HOUR_MS
    urgent = world.submit(spec_of("a", 1, 1, priority=5), submitted_ms=99 * HOUR_MS)
    lender = world.submit(spec_of("b", 1, 1), submitted_ms=99 * HOUR_MS)
    patient = world.submit(spec_of("a", 1, 1, topology=Level.NODE, priority=-5), submitted_ms=HOUR_MS)
    world.balance_gpu_ms = {"b": 1, "a": -1}
    order = []
    for _ in range(3):
        order.append(served(world))
        world.end(world.in_status(GangStatus.BINDING)[0])
    assert order == [patient.id, lender.id, urgent.id]


def test_the_next_of_equal_gangs_waits_for_its_own_turn() -> None:
    """What account a submitted last is not served before b's because its first was; b lent less than it borrowed."""
    world = World(fleet_of([2]), owners_of({"c": 2}))
    world.now_ms = 100 * HOUR_MS
    first, other, last = (
        world.submit(spec_of(account), submitted_ms=at * HOUR_MS) for at, account in enumerate("aba", start=1)
    )
    world.balance_gpu_ms = {"a": 5, "b": -5}
    made = plan(world.snapshot(), STILL)
    assert told(in_runs(world.snapshot(), STILL)) == told(made)
    world.apply(made)
    assert [world.gangs[gang.number].status for gang in (first, other, last)] == ["binding", "binding", "waiting"]
