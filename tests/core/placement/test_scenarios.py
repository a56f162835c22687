"""Named situations, one rule each: where a gang goes, who makes way, in which order borrowers come."""

from __future__ import annotations

from scheduler.core.cluster import Level
from scheduler.core.placement.laws import violations
from scheduler.core.placement.plan import plan
from scheduler.core.placement.snapshot import Place, Plan, Policy, Stop
from scheduler.core.workloads import GangStatus, StopCause
from tests.core.placement.world import HOUR_MS, World, fleet_of, owners_of, spec_of

STILL = Policy(consolidate=False)


def round_of(world: World, policy: Policy = STILL) -> Plan:
    made = plan(world.snapshot(), policy)
    world.apply(made)
    assert violations(world.snapshot()) == ()
    return made


def places(made: Plan) -> dict[str, Place]:
    return {action.gang.id: action for action in made.actions if isinstance(action, Place)}


def stops(made: Plan) -> dict[str, StopCause]:
    return {action.gang.id: action.cause for action in made.actions if isinstance(action, Stop)}


def nodes_of(place: Place) -> list[str]:
    return [piece.node for piece in place.pieces]


# ---- inside: where ----


def test_an_inside_gang_takes_its_own_free_cells_on_the_tightest_node() -> None:
    world = World(fleet_of([8, 8, 8]), owners_of({None: 8, "a": 16}))
    world.running(spec_of("a", 1, 4), range(16, 20))
    gang = world.submit(spec_of("a", 1, 4))
    place = places(round_of(world))[gang.id]
    assert (nodes_of(place), place.gpu_numbers, place.inside) == (["node-2"], (20, 21, 22, 23), True)


def test_an_inside_gang_takes_unsold_cells_before_others_idle_ones() -> None:
    world = World(fleet_of([8, 8, 8]), owners_of({"a": 8, "b": 8, None: 8}))
    world.running(spec_of("b", 1, 8), range(8))  # b was lent a's node
    gang = world.submit(spec_of("a", 1, 8))
    made = round_of(world)
    assert nodes_of(places(made)[gang.id]) == ["node-2"]
    assert stops(made) == {}


def test_an_inside_gang_takes_any_free_fit_before_anybody_is_stopped() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 8, "b": 8}))
    world.running(spec_of("b", 1, 8), range(8))
    gang = world.submit(spec_of("a", 1, 8))
    made = round_of(world)
    assert nodes_of(places(made)[gang.id]) == ["node-1"]
    assert places(made)[gang.id].inside
    assert stops(made) == {}


def test_a_gang_without_grade_uses_the_pool_in_which_it_is_inside() -> None:
    world = World(fleet_of([8, 8], ["A100", "H100"]), owners_of({"b": 8, "a": 8}))
    world.running(spec_of("b", 1, 8), range(8))
    world.running(spec_of("b", 1, 4), range(8, 12))
    gang = world.submit(spec_of("a", 1, 8))
    made = round_of(world)
    assert nodes_of(places(made)[gang.id]) == ["node-1"]
    assert stops(made) == {"gang-1": StopCause.RECLAIMED}


def test_count_in_one_pool_is_no_count_in_another() -> None:
    world = World(fleet_of([8, 8], ["A100", "H100"]), owners_of({"a": 8, "b": 8}))
    world.running(spec_of("b", 1, 8), range(8, 16))
    world.submit(spec_of("a", 1, 8, grade="H100"))
    assert round_of(world).actions == ()


# ---- inside: who makes way ----


def test_reclaim_takes_the_least_lost_work_anywhere_from_accounts_over_their_count() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 8, "b": 8}))
    world.now_ms = 3 * HOUR_MS
    world.running(spec_of("b", 1, 4, checkpoint_ms=0), range(4), started_ms=HOUR_MS)
    world.running(spec_of("b", 1, 4, checkpoint_ms=0), range(4, 8), started_ms=2 * HOUR_MS)
    late = world.running(spec_of("b", 1, 4, checkpoint_ms=0), range(8, 12), started_ms=3 * HOUR_MS)
    world.running(spec_of("b", 1, 4, checkpoint_ms=0), range(12, 16), started_ms=2 * HOUR_MS)
    gang = world.submit(spec_of("a", 1, 4))
    made = round_of(world)
    assert stops(made) == {late.id: StopCause.RECLAIMED}  # on b's own node: b is over its count
    assert places(made)[gang.id].waits_for == (late.id,)


def test_the_cheapest_subset_of_a_node_is_exact() -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    world.now_ms = 10 * HOUR_MS
    hours = {"b": 1, "c": 2}
    small = world.running(spec_of("b", 1, 3, checkpoint_ms=0), range(3), started_ms=world.now_ms - hours["b"] * HOUR_MS)
    large = world.running(
        spec_of("b", 1, 4, checkpoint_ms=0), range(3, 7), started_ms=world.now_ms - hours["b"] * HOUR_MS
    )
    tiny = world.running(spec_of("c", 1, 1, checkpoint_ms=0), [7], started_ms=world.now_ms - hours["c"] * HOUR_MS)
    world.submit(spec_of("a", 1, 4))
    made = round_of(world)
    # 4 × 1 h beats 3 × 1 h + 1 × 2 h.
    assert stops(made) == {large.id: StopCause.RECLAIMED}
    assert {small.id, tiny.id}.isdisjoint(stops(made))


def test_victims_that_turn_out_not_to_be_needed_stay() -> None:
    world = World(fleet_of([8, 8, 8]), owners_of({"a": 16, None: 8}))
    world.now_ms = 10 * HOUR_MS
    cheap = world.running(spec_of("b", 1, 4, checkpoint_ms=0), range(4), started_ms=world.now_ms - HOUR_MS)
    wide = world.running(spec_of("b", 2, 8, checkpoint_ms=0), [*range(8, 24)], started_ms=world.now_ms - HOUR_MS // 4)
    world.running(spec_of("b", 1, 4, checkpoint_ms=0), range(4, 8), started_ms=world.now_ms - 9 * HOUR_MS)
    gang = world.submit(spec_of("a", 2, 8))
    made = round_of(world)
    assert stops(made) == {wide.id: StopCause.RECLAIMED}
    assert nodes_of(places(made)[gang.id]) == ["node-1", "node-2"]
    assert cheap.id not in stops(made)


def test_a_gpu_that_is_being_freed_is_claimed_before_anybody_is_stopped() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    leaving = world.running(spec_of("b", 1, 8), range(8))
    world.running(spec_of("b", 1, 8), range(8, 16))
    world.gangs[leaving.number] = leaving.moved(GangStatus.STOPPING, stop_cause=StopCause.RUNTIME_OVER)
    gang = world.submit(spec_of("a", 1, 8))
    made = round_of(world)
    assert stops(made) == {}
    assert places(made)[gang.id].waits_for == (leaving.id,)
    world.gone(leaving.number)
    world.start()
    assert world.gangs[gang.number].status is GangStatus.RUNNING


def test_accounts_within_their_count_make_way_on_others_cells_only() -> None:
    """The last resort: b is within its count, but stands on a's cells."""
    world = World(fleet_of([4, 4]), owners_of({"a": 4, "b": 4}))
    one = world.running(spec_of("b", 1, 2), range(2))
    world.running(spec_of("b", 1, 2), range(4, 6))
    gang = world.submit(spec_of("a", 1, 4))
    made = round_of(world)
    assert places(made)[gang.id].gpu_numbers == (0, 1, 2, 3)
    assert stops(made) == {one.id: StopCause.CONSOLIDATED}
    world.gone(one.number)
    world.start()
    assert places(round_of(world))[one.id].gpu_numbers == (6, 7)


def test_an_accounts_own_work_moves_together_as_the_last_resort() -> None:
    world = World(fleet_of([4, 4]), owners_of({"a": 8}), ("a",))
    world.now_ms = 2 * HOUR_MS
    world.running(spec_of("a", 1, 2, checkpoint_ms=0), range(2), started_ms=HOUR_MS)
    young = world.running(spec_of("a", 1, 2, checkpoint_ms=0), range(4, 6), started_ms=2 * HOUR_MS)
    gang = world.submit(spec_of("a", 1, 4))
    made = round_of(world)
    assert stops(made) == {young.id: StopCause.CONSOLIDATED}
    assert places(made)[gang.id].gpu_numbers == (4, 5, 6, 7)
    late = world.submit(spec_of("a", 1, 2))
    assert round_of(world).actions == (), "what moves keeps its turn"
    world.gone(young.number)
    assert list(places(round_of(world))) == [young.id]
    assert world.gangs[late.number].status is GangStatus.WAITING


def test_an_account_whose_use_fell_is_served_in_the_same_round() -> None:
    """Account b loses its large borrowed gang to a; then its small one is inside."""
    world = World(fleet_of([8, 8]), owners_of({"a": 12, "b": 4}))
    large = world.running(spec_of("b", 2, 6), [*range(6), *range(8, 14)])
    small = world.submit(spec_of("b", 1, 2))
    gang = world.submit(spec_of("a", 1, 8))
    made = round_of(world)
    assert set(stops(made)) == {large.id}
    assert set(places(made)) == {gang.id, small.id}


def test_what_cannot_be_preempted_is_never_stopped() -> None:
    world = World(fleet_of([8]), owners_of({None: 8}))
    firm = world.running(spec_of("b", 1, 8, preemptible=False), range(8))
    world.owner[:] = 0
    gang = world.submit(spec_of("a", 1, 8))
    made = plan(world.snapshot(), STILL)
    assert made.actions == ()
    assert world.gangs[firm.number].status is GangStatus.RUNNING
    assert made.waiting["a", gang.shape].reason == "fragmented"


# ---- what cannot be preempted ----


def test_a_firm_gang_goes_where_ownership_lasts_to_its_declared_end() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    world.until_ms[:8] = world.now_ms + HOUR_MS
    gang = world.submit(spec_of("a", 1, 8, preemptible=False, max_runtime_ms=2 * HOUR_MS))
    assert nodes_of(places(round_of(world))[gang.id]) == ["node-1"]
    other = world.submit(spec_of("a", 1, 8, preemptible=False, max_runtime_ms=2 * HOUR_MS))
    made = round_of(world)
    assert made.actions == ()
    assert made.waiting["a", other.shape].reason == "outlasts_window"


def test_a_firm_gang_reclaims_its_own_lasting_cells() -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    victim = world.running(spec_of("b", 1, 8), range(8))
    gang = world.submit(spec_of("a", 1, 8, preemptible=False))
    made = round_of(world)
    assert stops(made) == {victim.id: StopCause.RECLAIMED}
    assert places(made)[gang.id].inside


def test_a_firm_gang_borrows_unsold_cells_only_and_by_the_calendar() -> None:
    world = World(fleet_of([4, 4, 4]), owners_of({"a": 4, None: 8}))
    world.until_ms[4:8] = world.now_ms + HOUR_MS
    world.submit(spec_of("b", 1, 4, preemptible=False))
    other = world.submit(spec_of("b", 1, 4, preemptible=False))
    made = round_of(world)
    assert [nodes_of(place) for place in places(made).values()] == [["node-2"]]
    assert made.waiting["b", other.shape].reason == "outlasts_window"


# ---- borrowing ----


def test_borrowers_take_unsold_cells_then_lasting_ones_then_any() -> None:
    world = World(fleet_of([4, 4, 4]), owners_of({"a": 8, None: 4}))
    world.until_ms[:4] = world.now_ms + HOUR_MS
    asked = [world.submit(spec_of("b", 1, 4, max_runtime_ms=2 * HOUR_MS)) for _ in range(3)]
    placed = places(round_of(world))
    assert [nodes_of(placed[gang.id]) for gang in asked] == [["node-2"], ["node-1"], ["node-0"]]
    assert not any(place.inside for place in placed.values())


def test_borrowers_fill_the_fullest_nodes_first() -> None:
    world = World(fleet_of([8, 8, 8]), owners_of({"a": 24}))
    world.running(spec_of("a", 1, 5), range(8, 13))
    gang = world.submit(spec_of("b", 1, 2))
    assert nodes_of(places(round_of(world))[gang.id]) == ["node-1"]


def test_borrowers_come_by_starving_then_waiting_then_what_they_lent() -> None:
    world = World(fleet_of([1]), owners_of({"c": 1}))
    world.now_ms = 100 * HOUR_MS
    urgent = world.submit(spec_of("a", 1, 1, priority=5), submitted_ms=99 * HOUR_MS)
    lender = world.submit(spec_of("b", 1, 1), submitted_ms=99 * HOUR_MS)
    starving = world.submit(spec_of("a", 1, 1, topology=Level.NODE, priority=-5), submitted_ms=HOUR_MS)
    world.balance_gpu_ms = {"b": 1, "a": -1}
    served = []
    for _ in range(3):
        (first,) = places(round_of(world))
        served.append(first)
        world.end(world.in_status(GangStatus.BINDING)[0])
    assert served == [starving.id, lender.id, urgent.id]


def test_reckless_gangs_borrow_only_while_the_pool_is_roomy() -> None:
    world = World(fleet_of([8]), owners_of({"a": 8}))
    first = world.submit(spec_of("b", 1, 6, checkpoint_ms=0))
    second = world.submit(spec_of("b", 1, 1, checkpoint_ms=0))
    made = round_of(world, Policy(reckless_idle_ppm=250_000))
    assert set(places(made)) == {first.id}
    assert made.waiting["b", second.shape].reason == "borrowing_restricted"


def test_nobody_borrows_what_is_being_freed() -> None:
    world = World(fleet_of([4]), owners_of({"a": 4}))
    leaving = world.running(spec_of("b", 1, 4), range(4))
    world.gangs[leaving.number] = leaving.moved(
        GangStatus.STOPPING, stop_cause=StopCause.RUNTIME_OVER, stop_deadline_ms=world.now_ms + 5_000
    )
    gang = world.submit(spec_of("b", 1, 2))
    made = round_of(world)
    assert made.actions == ()
    waiting = made.waiting["b", gang.shape]
    assert (waiting.reason, waiting.expected_start_ms) == ("awaiting_reclaim", world.now_ms + 5_000)


# ---- topology ----


def test_required_topology_keeps_all_workers_in_one_domain() -> None:
    world = World(fleet_of([8, 8, 8, 8]), owners_of({"a": 32}))
    world.running(spec_of("b", 1, 8), range(8))
    world.running(spec_of("b", 1, 8), range(16, 24))
    gang = world.submit(spec_of("a", 2, 8, topology=Level.NVLINK_DOMAIN, topology_required=True))
    made = round_of(world)
    assert nodes_of(places(made)[gang.id]) in (["node-0", "node-1"], ["node-2", "node-3"])
    assert len(stops(made)) == 1


def test_preferred_topology_is_tried_and_not_waited_for() -> None:
    world = World(fleet_of([8, 8, 8, 8]), owners_of({"a": 32}))
    world.running(spec_of("b", 1, 8), range(8))
    world.running(spec_of("b", 1, 8), range(16, 24))
    gang = world.submit(spec_of("a", 2, 8, topology=Level.NVLINK_DOMAIN))
    made = round_of(world)
    assert nodes_of(places(made)[gang.id]) == ["node-1", "node-3"]
    assert stops(made) == {}


def test_workers_required_on_one_node_share_it() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    world.running(spec_of("b", 1, 2), range(2))
    gang = world.submit(spec_of("a", 4, 2, topology=Level.NODE, topology_required=True))
    place = places(round_of(world))[gang.id]
    assert nodes_of(place) == ["node-1"] * 4
    assert [piece.gpus for piece in place.pieces] == [(0, 1), (2, 3), (4, 5), (6, 7)]


# ---- consolidation ----


def test_a_node_is_emptied_where_that_is_worth_the_lost_work() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    mover = world.running(spec_of("a", 1, 2), range(2))
    world.running(spec_of("a", 1, 4), range(8, 12))
    gang = world.submit(spec_of("b", 1, 8))
    assert round_of(world).actions == ()
    made = round_of(world, Policy())
    assert stops(made) == {mover.id: StopCause.CONSOLIDATED}
    assert nodes_of(places(made)[gang.id]) == ["node-0"]
    world.gone(mover.number)
    world.start()
    assert nodes_of(places(round_of(world))[mover.id]) == ["node-1"]


def test_a_node_is_not_emptied_at_too_high_a_price() -> None:
    world = World(fleet_of([8, 8]), owners_of({"a": 16}))
    world.now_ms = 9 * HOUR_MS
    for first in (0, 8):
        world.running(spec_of("a", 1, 2, checkpoint_ms=0, max_runtime_ms=HOUR_MS), range(first, first + 2), HOUR_MS)
    world.submit(spec_of("b", 1, 8))
    assert round_of(world, Policy()).actions == ()
