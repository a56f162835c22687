"""What gangs may wish: elastic sizes, shares of a device, workers apart, to be left alone, and not to be overtaken."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.cluster import Level
from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place, Plan, Policy, Stop
from scheduler.core.workloads import Gang, GangStatus, Reason, StopCause
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of

MINUTE_MS = 60_000
RESTLESS = Policy(grow_after_ms=0, grow_gain_ppm=10_000_000)


def planned(world: World, policy: Policy = Policy()) -> Plan:  # noqa: B008 - frozen
    made = plan(world.snapshot(), policy)
    world.apply(made)
    assert violations(world.snapshot()) == ()
    return made


def settled(world: World, policy: Policy = Policy()) -> int:  # noqa: B008 - frozen
    """Rounds until nothing moves; how many there were."""
    for rounds in range(30):
        for number in world.in_status(GangStatus.STOPPING):
            world.gone(number)
        world.start()
        if not planned(world, policy).actions and not world.in_status(GangStatus.STOPPING, GangStatus.BINDING):
            return rounds
    raise AssertionError("it does not come to rest")


def gpus_of(world: World, gang: Gang) -> tuple[int, ...]:
    return world.gangs[gang.number].gpu_numbers


def reason(world: World, gang: Gang, policy: Policy = Policy()) -> Any:  # noqa: B008 - frozen
    return plan(world.snapshot(), policy).waiting[gang.account, gang.shape]


# -- elastic


def test_an_elastic_gang_gets_the_most_that_its_count_holds() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 10, "b": 6}))
    gang = world.submit(spec_of("a", 8, 2, min_workers=2))
    (action,) = planned(world).actions
    assert isinstance(action, Place)
    assert (len(action.gpu_numbers), action.inside) == (10, True)
    assert world.gangs[gang.number].shape.workers == 5


def test_an_elastic_gang_whose_least_is_over_its_count_borrows_what_there_is() -> None:
    world = World(fleet_of([8, 8]), owners_of({"b": 16}))
    world.running(spec_of("b", 1, 3), range(3))
    world.submit(spec_of("a", 8, 2, min_workers=2))
    (action,) = planned(world).actions
    assert isinstance(action, Place)
    assert (len(action.gpu_numbers), action.inside) == (12, False)


def test_an_elastic_gang_inside_makes_borrowers_give_back_what_is_its_own() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    world.running(spec_of("b", 2, 8), range(16))
    gang = world.submit(spec_of("a", 2, 8, min_workers=1))
    planned(world)
    assert len(gpus_of(world, gang)) == 16


def test_a_reclaimed_elastic_gang_comes_back_smaller_and_grows_again() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    borrower = world.submit(spec_of("b", 16, 1, min_workers=4))
    settled(world, RESTLESS)
    assert len(gpus_of(world, borrower)) == 16
    owner = world.submit(spec_of("a", 1, 8))
    settled(world, RESTLESS)
    assert (len(gpus_of(world, owner)), len(gpus_of(world, borrower))) == (8, 8)
    world.end(owner.number)
    made = plan(world.snapshot(), RESTLESS)
    (stop,) = made.actions
    assert isinstance(stop, Stop)
    assert (stop.gang.number, stop.cause, stop.for_gang) == (borrower.number, StopCause.RESIZED, None)
    settled(world, RESTLESS)
    assert len(gpus_of(world, borrower)) == 16
    assert settled(world, RESTLESS) == 0


@pytest.mark.parametrize(
    ("given", "policy", "grows"),
    [
        ({}, Policy(), True),
        ({}, Policy(grow=False), False),
        ({}, Policy(grow_after_ms=2 * HOUR_MS), False),
        ({"min_runtime_ms": 61 * MINUTE_MS}, Policy(), False),
        ({"min_runtime_ms": 60 * MINUTE_MS}, Policy(), True),
        ({"checkpoint_ms": 0}, Policy(), False),  # an hour of work would be lost
        ({"preemptible": False}, Policy(), False),
    ],
)
def test_it_grows_only_where_that_is_worth_it(given: dict[str, Any], policy: Policy, *, grows: bool) -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    asked = spec_of("a", 8, 1, min_workers=1, **{"max_runtime_ms": 9 * HOUR_MS, **given})
    gang = world.running(asked, range(4), started_ms=world.now_ms - HOUR_MS)
    assert gang.shape.workers == 4
    stops = [action for action in plan(world.snapshot(), policy).actions if isinstance(action, Stop)]
    assert [stop.cause for stop in stops] == ([StopCause.RESIZED] if grows else [])


def test_it_does_not_grow_past_what_waits() -> None:
    """What its own account waits for comes first; what others wait for comes before a borrower's growth alone."""
    for owner, other, grows in (("a", "a", False), ("a", "b", True), ("b", "b", False)):
        world = World(fleet_of([8]), owners_of({owner: 8}))
        world.running(spec_of("a", 8, 1, min_workers=1), range(4), started_ms=0)
        world.submit(spec_of(other, 1, 8) if (owner, other) != ("b", "b") else spec_of("c", 1, 8))
        stops = [a for a in plan(world.snapshot(), RESTLESS).actions if isinstance(a, Stop)]
        assert [stop.cause for stop in stops if stop.cause is StopCause.RESIZED] == [StopCause.RESIZED] * grows


# -- shares


def test_shares_fill_a_device_before_they_take_another() -> None:
    world = World(fleet_of([4]), owners_of({"a": 2, "b": 2}))
    shares = [world.submit(spec_of("a", gpu_milli=milli)) for milli in (600, 500, 300, 400)]
    foreign = world.submit(spec_of("b", gpu_milli=100))
    settled(world)
    first, second, third, fourth = (gpus_of(world, share)[0] for share in shares)
    assert (third, fourth) == (first, second)  # 600 + 300, 500 + 400
    assert first != second
    assert gpus_of(world, foreign)[0] not in (first, second)


def test_a_share_costs_its_account_nothing_where_a_device_has_room() -> None:
    world = World(fleet_of([2]), owners_of({"a": 1, "b": 1}))
    world.running(spec_of("a", gpu_milli=300), [0])
    world.running(spec_of("b"), [1])
    joins = world.submit(spec_of("a", gpu_milli=700))
    waits = world.submit(spec_of("a", gpu_milli=200))
    (action,) = planned(world).actions
    assert isinstance(action, Place)
    assert (action.gang.number, action.gpu_numbers, action.inside) == (joins.number, (0,), True)
    assert reason(world, waits).reason is Reason.OVER_ENTITLEMENT


def test_reclaiming_a_shared_device_ends_all_that_share_it() -> None:
    world = World(fleet_of([2]), owners_of({"a": 2}))
    sharers = [world.running(spec_of("b", gpu_milli=300), [0]) for _ in range(3)]
    owner = world.submit(spec_of("a", 1, 2))
    made = planned(world)
    assert {a.gang.number for a in made.actions if isinstance(a, Stop)} == {each.number for each in sharers}
    (place,) = (a for a in made.actions if isinstance(a, Place))
    assert place.waits_for == tuple(each.id for each in sharers)
    for sharer in sharers:
        world.gone(sharer.number)
        assert violations(world.snapshot()) == ()
    world.start()
    assert world.gangs[owner.number].status is GangStatus.RUNNING


def test_what_cannot_be_preempted_joins_no_device_that_changes_owners_before_it_ends() -> None:
    world = World(fleet_of([3]), owners_of({"a": 3}))
    firm: dict[str, Any] = {"gpu_milli": 300, "preemptible": False}
    world.running(spec_of("a", max_runtime_ms=30 * MINUTE_MS, **firm), [0])
    world.until_ms[0] = world.now_ms + HOUR_MS
    short, long = (world.submit(spec_of("a", max_runtime_ms=each, **firm)) for each in (HOUR_MS, HOUR_MS + 1))
    planned(world)
    assert (gpus_of(world, short), gpus_of(world, long)) == ((0,), (1,))


def test_what_cannot_be_preempted_shares_with_its_like_alone() -> None:
    world = World(fleet_of([3]), owners_of({"a": 3}))
    soft = world.running(spec_of("a", gpu_milli=100), [0])
    firm = [world.submit(spec_of("a", gpu_milli=400, preemptible=False)) for _ in range(2)]
    settled(world)
    assert gpus_of(world, firm[0]) == gpus_of(world, firm[1]) != gpus_of(world, soft)


# -- apart


@pytest.mark.parametrize(
    ("level", "parts", "fits"),
    [
        (Level.NODE, 4, True),
        (Level.NODE, 5, False),
        (Level.NVLINK_DOMAIN, 2, True),
        (Level.NVLINK_DOMAIN, 3, False),
        (Level.FABRIC_BLOCK, 2, False),
        (Level.SITE, 2, False),
        (Level.GPU, 8, True),
    ],
)
def test_workers_are_apart_where_they_must_be(level: Level, parts: int, *, fits: bool) -> None:
    """Four nodes in two domains of one block; borrowers make way."""
    world = World(fleet_of([2] * 4), owners_of({"a": 8}))
    world.running(spec_of("b", 4, 2), range(8))
    gang = world.submit(spec_of("a", parts, 1, spread=level, spread_required=True))
    made = planned(world)
    assert bool(gpus_of(world, gang)) is fits
    if not fits:
        assert made.waiting["a", gang.shape].reason is Reason.LARGER_THAN_FLEET


def test_a_spread_that_is_only_preferred_is_done_without() -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    gang = world.submit(spec_of("a", 4, 1, spread=Level.NODE))
    planned(world)
    assert len(gpus_of(world, gang)) == 4


def test_apart_and_yet_together() -> None:
    world = World(fleet_of([8] * 8, nodes_a_domain=2), owners_of({"a": 64}))
    world.running(spec_of("a", 1, 8), range(8))
    world.running(spec_of("a", 1, 8), range(16, 24))
    wished: dict[str, Any] = {"spread": Level.NODE, "spread_required": True, "topology": Level.NVLINK_DOMAIN}
    gang = world.submit(spec_of("a", 2, 1, topology_required=True, **wished))
    planned(world)
    nodes = [gpu // 8 for gpu in gpus_of(world, gang)]
    assert nodes == [4, 5]  # the first two domains have one free node each


# -- to be left alone


def test_who_has_not_run_as_long_as_it_wished_is_not_the_first_to_go() -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    wishes = world.running(spec_of("b", 1, 4, min_runtime_ms=HOUR_MS), range(4))
    costs_more = world.running(spec_of("b", 1, 4), range(4, 8), started_ms=world.now_ms - 9 * MINUTE_MS)
    world.submit(spec_of("a", 1, 4))
    stops = [a.gang.number for a in planned(world).actions if isinstance(a, Stop)]
    assert stops == [costs_more.number]
    world.submit(spec_of("a", 1, 4))
    stops = [a.gang.number for a in planned(world).actions if isinstance(a, Stop)]
    assert stops == [wishes.number]  # an owner waits for nobody's wish


@pytest.mark.parametrize(("ran_ms", "moves"), [(HOUR_MS - 1, 0), (HOUR_MS, 1)])
def test_it_is_not_moved_for_a_whole_node_before_it_ran_as_long_as_it_wished(ran_ms: int, moves: int) -> None:
    world = World(fleet_of([8, 8]), owners_of({None: 16}))
    world.now_ms = 10 * HOUR_MS
    for first in (0, 8):
        wish = {"min_runtime_ms": HOUR_MS, "checkpoint_ms": 1}
        world.running(spec_of("b", 1, 2, **wish), range(first, first + 2), started_ms=world.now_ms - ran_ms)
    world.submit(spec_of("c", 1, 8))
    assert sum(isinstance(action, Stop) for action in planned(world).actions) == moves


# -- to be moved for a whole node


@pytest.mark.parametrize(
    ("waits", "moved", "size", "moves"),
    [
        ({}, {}, 2, 1),
        ({"max_runtime_ms": MINUTE_MS}, {}, 2, 0),  # in a minute it gains less than is lost
        ({}, {"checkpoint_ms": 0}, 2, 1),  # it declares two minutes
        ({}, {"checkpoint_ms": 0, "max_runtime_ms": None}, 2, 0),  # reckless: it would lose all that it ever did
        ({}, {}, 5, 0),  # enough is free in all, but a mover would have nowhere to go
    ],
)
def test_it_is_moved_where_that_is_worth_it_and_it_has_room_elsewhere(
    waits: dict[str, Any], moved: dict[str, Any], size: int, moves: int
) -> None:
    world = World(fleet_of([8, 8, 8]), owners_of({None: 24}))
    for first in (0, 8, 16):
        moving = {"max_runtime_ms": 2 * MINUTE_MS, **moved}
        gpus = range(first, first + size)
        world.running(spec_of("b", 1, size, **moving), gpus, started_ms=world.now_ms - MINUTE_MS)
    world.submit(spec_of("c", 1, 8, **waits))
    stops = [action.cause for action in planned(world).actions if isinstance(action, Stop)]
    assert stops == [StopCause.CONSOLIDATED] * moves


# -- not to be overtaken

LONG, SHORT = {"max_runtime_ms": 5 * HOUR_MS}, {"max_runtime_ms": 30 * MINUTE_MS}


def crowded() -> tuple[World, Gang]:
    """Two nodes of nobody: one is used for two hours more, and a gang has waited for both since long."""
    world = World(fleet_of([8, 8]), owners_of({None: 16}))
    world.now_ms = 10 * HOUR_MS
    world.running(spec_of("b", 1, 8, max_runtime_ms=2 * HOUR_MS), range(8))
    large = world.submit(spec_of("a", 2, 8), submitted_ms=HOUR_MS)
    return world, large


def test_only_what_has_ended_by_then_goes_before_one_that_waited_long() -> None:
    world, large = crowded()
    long = world.submit(spec_of("c", 1, 8, **LONG))
    behind = world.submit(spec_of("c", 1, 8, **SHORT))
    made = planned(world)
    assert not gpus_of(world, long)
    assert gpus_of(world, behind) == tuple(range(8, 16))
    held = made.waiting["c", long.shape]
    assert held.reason is Reason.HELD_BACK
    start_ms = world.now_ms + 2 * HOUR_MS
    assert {**dict(held.numbers)}["protected_start_ms"] == start_ms
    told = made.waiting["a", large.shape]
    assert (told.expected_start_ms, dict(told.numbers)["protected_start_ms"]) == (start_ms, start_ms)


def test_of_those_who_waited_long_the_first_is_protected_and_no_other() -> None:
    world, large = crowded()
    later = world.submit(spec_of("c", 4, 4), submitted_ms=2 * HOUR_MS)
    waiting = planned(world).waiting
    told = [dict(waiting[gang.account, gang.shape].numbers).get("protected_start_ms") for gang in (large, later)]
    assert told == [world.now_ms + 2 * HOUR_MS, None]


def test_nobody_is_moved_for_another_than_the_protected_one() -> None:
    """Emptying a node for a gang of eight would cost nothing; but another waits for three nodes since long."""
    world = World(fleet_of([8, 8, 8]), owners_of({None: 24}))
    world.now_ms = 10 * HOUR_MS
    world.running(spec_of("b", 1, 8, max_runtime_ms=2 * HOUR_MS), range(8))
    for first in (8, 16):
        world.running(spec_of("b", 1, 2, max_runtime_ms=2 * HOUR_MS), range(first, first + 2))
    behind = world.submit(spec_of("c", 1, 8, **LONG))
    (stop,) = (action for action in plan(world.snapshot()).actions if isinstance(action, Stop))
    assert (stop.cause, stop.for_gang) == (StopCause.CONSOLIDATED, behind.id)
    world.submit(spec_of("a", 3, 8), submitted_ms=HOUR_MS)
    assert planned(world).actions == ()


def test_a_long_gang_may_have_what_the_protected_one_does_not_need() -> None:
    world = World(fleet_of([8, 8, 8]), owners_of({None: 24}))
    world.now_ms = 10 * HOUR_MS
    world.running(spec_of("b", 1, 8, max_runtime_ms=2 * HOUR_MS), range(8))
    world.running(spec_of("b", 1, 2, max_runtime_ms=None), range(8, 10))
    world.submit(spec_of("a", 2, 8), submitted_ms=HOUR_MS)
    long = [world.submit(spec_of("c", 1, 4, **LONG)) for _ in range(2)]
    planned(world)
    assert set(gpus_of(world, long[0])) <= set(range(10, 16))
    assert not gpus_of(world, long[1])


def test_what_a_long_gang_took_of_that_is_gone_for_the_next_one() -> None:
    """Four GPUs of the free node are not needed: two long gangs share them, and four stay free."""
    world = World(fleet_of([8, 8]), owners_of({None: 16}))
    world.now_ms = 10 * HOUR_MS
    world.running(spec_of("b", 1, 8, max_runtime_ms=2 * HOUR_MS), range(8))
    world.submit(spec_of("a", 3, 4), submitted_ms=HOUR_MS)
    long = [world.submit(spec_of("c", 1, 2, **LONG)) for _ in range(3)]
    planned(world)
    assert [len(gpus_of(world, each)) for each in long] == [2, 2, 0]


@pytest.mark.parametrize(("grace_ms", "goes"), [(30 * MINUTE_MS, True), (30 * MINUTE_MS + 1, False)])
def test_a_gang_has_ended_when_its_grace_is_over_too(grace_ms: int, *, goes: bool) -> None:
    world, _ = crowded()
    short = world.submit(spec_of("c", 1, 8, grace_ms=grace_ms, max_runtime_ms=90 * MINUTE_MS))
    planned(world)
    assert bool(gpus_of(world, short)) is goes


def test_nobody_is_held_back_for_one_that_has_not_waited_long() -> None:
    world, _ = crowded()
    long = world.submit(spec_of("c", 1, 8, **LONG))
    planned(world, Policy(protect_after_ms=9 * HOUR_MS))
    assert gpus_of(world, long)


def test_nor_where_nobody_knows_when_it_would_start() -> None:
    world = World(fleet_of([8, 8]), owners_of({None: 16}))
    world.now_ms = 10 * HOUR_MS
    world.running(spec_of("b", 1, 8, max_runtime_ms=None), range(8))
    world.submit(spec_of("a", 2, 8), submitted_ms=HOUR_MS)
    long = world.submit(spec_of("c", 1, 8, **LONG))
    planned(world)
    assert gpus_of(world, long)


def test_a_near_deadline_borrows_first() -> None:
    world = World(fleet_of([8]), owners_of({None: 8}))
    world.now_ms = 50 * HOUR_MS
    world.submit(spec_of("b", 1, 8), submitted_ms=world.now_ms - HOUR_MS)
    urgent = world.submit(spec_of("c", 1, 8, deadline_ms=world.now_ms + 3 * HOUR_MS))
    planned(world)
    assert gpus_of(world, urgent)
