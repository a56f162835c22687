"""The fold: the same events give the same bytes, a loaded dump goes on alike, and every step of a gang's life."""

from __future__ import annotations

import pytest

from scheduler.core.causes import Cause
from scheduler.core.cluster import Level
from scheduler.core.devices import DeviceIdentity
from scheduler.core.errors import Damaged, Equivocation
from scheduler.core.events import (
    BindOverdue,
    CalendarTurned,
    CancelAsked,
    CellsSwapped,
    DevicesSeen,
    DrainOrdered,
    Event,
    ForceMajeureDeclared,
    GangEnded,
    GangStarted,
    GangStopAsked,
    GpusMarked,
    HealthChanged,
    IntervalClosed,
    LotsRecalled,
    LotsReleased,
    MaintenanceAnnounced,
    PerformanceMeasured,
    ScoreChosen,
    ScoredKind,
    ScoreFigure,
    decode,
    encode,
)
from scheduler.core.state.dump import dump, load
from scheduler.core.state.state import State
from scheduler.core.workloads import GangStatus, StopCause
from tests.core.state.folding import END, FLEET, T, assigned, folded, held, placed, submitted, traded

STORY: tuple[Event, ...] = (
    *FLEET,
    traded(1, "acme-1"),
    assigned(held("acme-1", 0)),
    traded(2, "bolt-1", "bolt"),
    assigned(held("bolt-1", 1, T + 5_000)),
    submitted("a"),
    submitted("b", account="bolt", gpus=2, at_ms=T + 10),
    submitted("c", account="bolt", gpus=1, at_ms=T + 11),
    placed("a", 0, at_ms=T + 20, bind_by_ms=T + 30),
    BindOverdue(at_ms=T + 30, gang="a", attempt=1),
    GangStarted(at_ms=T + 40, gang="a", attempt=1),
    CalendarTurned(at_ms=T + 5_000),
    CellsSwapped(at_ms=T + 6_000, level=Level.NODE, left=0, right=1),
    HealthChanged(at_ms=T + 7_000, node="node-1", gpus=(2,), cause=Cause.ECC),
    LotsRecalled(at_ms=T + 7_020, position="acme-1", lots=1, from_ms=T + 50_000, until_ms=T + 60_000),
    LotsReleased(at_ms=T + 7_030, position="bolt-1", lots=1, from_ms=T + 40_000, until_ms=T + 50_000),
    GpusMarked(at_ms=T + 7_050, node="node-1", gpus=(0,), cause=Cause.THERMAL),
    PerformanceMeasured(at_ms=T + 7_100, node="node-0", ppm=900_000, suite="matmul"),
    DevicesSeen(
        at_ms=T + 7_150, node="node-1", source="nvml", devices=(DeviceIdentity(uuid="GPU-1", serial="7"), None)
    ),
    MaintenanceAnnounced(at_ms=T + 7_200, node="node-0", from_ms=T + 60_000, until_ms=T + 90_000),
    DrainOrdered(at_ms=T + 8_000, node="node-1", by_ms=T + 20_000),
    ForceMajeureDeclared(at_ms=T + 8_500, nodes=("node-1",), from_ms=T, until_ms=T + 9_000, evidence="ab" * 32),
    IntervalClosed(
        at_ms=T + 10_000, interval_ms=10_000, end_ms=T + 10_000, first_leaf=0, leaves=3, planned=(("acme-1", 5),)
    ),
    ScoreChosen(
        at_ms=T + 10_500,
        score="fgd",
        seed=7,
        offered_ppm=990_000,
        mix="ab" * 32,
        kinds=(ScoredKind(devices=1, milli=500, count=3, stay_ms=60_000),),
        grades=("H100",),
        values=(0, 5),
        figures=(ScoreFigure(score="fgd", unallocated_ppm=57_400, refused_ppm=56_400),),
    ),
    GangStopAsked(at_ms=T + 11_000, gang="a", attempt=1, cause=StopCause.RECLAIMED, deadline_ms=T + 12_000),
    GangEnded(at_ms=T + 11_500, gang="a", attempt=1, exit_code=143),
    CancelAsked(at_ms=T + 11_600, gang="c"),
    placed("a", 0, at_ms=T + 11_700, attempt=2),
    GangStarted(at_ms=T + 11_800, gang="a", attempt=2),
    GangEnded(at_ms=T + 14_000, gang="a", attempt=2, exit_code=0),
)


def test_the_same_events_give_the_same_bytes() -> None:
    assert dump(folded(*STORY, start=())) == dump(folded(*STORY, start=()))


def test_events_survive_their_own_encoding() -> None:
    assert dump(folded(*(decode(1, encode(event)) for event in STORY), start=())) == dump(folded(*STORY, start=()))


@pytest.mark.parametrize("cut", range(1, len(STORY)))
def test_a_loaded_dump_goes_on_as_the_state_itself(cut: int) -> None:
    live = folded(*STORY[:cut], start=())
    body = dump(live)
    loaded = load(body)
    assert dump(loaded) == body
    for event in STORY[cut:]:
        live.apply(event)
        loaded.apply(event)
        assert dump(loaded) == dump(live)
    with pytest.raises(Equivocation):
        loaded.apply(traded(1, "acme-1", lots=7))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]\n", b'{"layout": 99}\n', b"\xff\n"])
def test_bytes_that_are_no_dump_are_refused(body: bytes) -> None:
    with pytest.raises(Damaged):
        load(body)


# -- a gang's life


def gang_in(status: GangStatus) -> State:
    """One gang in a status that is not final."""
    state = folded(submitted("g", max_failures=1))
    if status is not GangStatus.WAITING:
        state.apply(placed("g", 0))
    if status in (GangStatus.RUNNING, GangStatus.STOPPING):
        state.apply(GangStarted(at_ms=T, gang="g", attempt=1))
    if status is GangStatus.STOPPING:
        state.apply(stopped(StopCause.RECLAIMED))
    return state


def stopped(cause: StopCause) -> GangStopAsked:
    return GangStopAsked(at_ms=T, gang="g", attempt=1, cause=cause, deadline_ms=T + 9)


def ended(exit_code: int | None) -> GangEnded:
    return GangEnded(at_ms=T + 1, gang="g", attempt=1, exit_code=exit_code)


STEPS: tuple[tuple[GangStatus, tuple[Event, ...], GangStatus, int], ...] = (
    (GangStatus.WAITING, (CancelAsked(at_ms=T, gang="g"),), GangStatus.CANCELLED, 0),
    (GangStatus.WAITING, (placed("g", 1),), GangStatus.BINDING, 0),
    (GangStatus.BINDING, (GangStarted(at_ms=T, gang="g", attempt=1),), GangStatus.RUNNING, 0),
    (GangStatus.BINDING, (ended(None),), GangStatus.WAITING, 1),
    (GangStatus.BINDING, (ended(0),), GangStatus.SUCCEEDED, 0),
    (GangStatus.BINDING, (ended(3),), GangStatus.WAITING, 1),
    (GangStatus.BINDING, (stopped(StopCause.CANCELLED), ended(None)), GangStatus.CANCELLED, 0),
    (GangStatus.RUNNING, (ended(0),), GangStatus.SUCCEEDED, 0),
    (GangStatus.RUNNING, (ended(1),), GangStatus.WAITING, 1),
    (GangStatus.RUNNING, (ended(None),), GangStatus.WAITING, 0),
    (GangStatus.RUNNING, (stopped(StopCause.RECLAIMED),), GangStatus.STOPPING, 0),
    (GangStatus.RUNNING, (stopped(StopCause.RECLAIMED), ended(0)), GangStatus.WAITING, 0),
    (GangStatus.RUNNING, (stopped(StopCause.DRAINED), ended(137)), GangStatus.WAITING, 0),
    (GangStatus.RUNNING, (stopped(StopCause.RUNTIME_OVER), ended(0)), GangStatus.FAILED, 0),
    (GangStatus.RUNNING, (stopped(StopCause.CANCELLED), ended(0)), GangStatus.CANCELLED, 0),
    (GangStatus.STOPPING, (stopped(StopCause.CANCELLED), ended(143)), GangStatus.CANCELLED, 0),
    (GangStatus.STOPPING, (stopped(StopCause.DRAINED), ended(None)), GangStatus.WAITING, 0),
)


@pytest.mark.parametrize(("status", "events", "after", "failures"), STEPS)
def test_each_step_of_a_gangs_life(
    status: GangStatus, events: tuple[Event, ...], after: GangStatus, failures: int
) -> None:
    state = gang_in(status)
    for event in events:
        state.apply(event)
    gang = state.gangs.get("g")
    assert (gang.status, gang.failures) == (after, failures)
    there = after in (GangStatus.BINDING, GangStatus.RUNNING, GangStatus.STOPPING)
    assert bool((state.gangs.occupant == gang.number).any()) is there
    assert (gang.number in state.gangs.placed) is there
    assert [each.id for each in state.gangs.waiting()] == (["g"] if after is GangStatus.WAITING else [])


def test_a_deadline_only_comes_nearer() -> None:
    state = gang_in(GangStatus.RUNNING)
    for deadline_ms, holds_ms in ((T + 9, T + 9), (T + 20, T + 9), (T + 4, T + 4)):
        stop = GangStopAsked(at_ms=T, gang="g", attempt=1, cause=StopCause.RECLAIMED, deadline_ms=deadline_ms)
        state.apply(stop)
        assert state.gangs.get("g").stop_deadline_ms == holds_ms
    gang = state.gangs.get("g")
    assert (gang.evictions, gang.evicted_ms) == (1, (T,))
    assert load(dump(state)).gangs.get("g").evicted_ms == (T,)


@pytest.mark.parametrize("cause", [StopCause.CONSOLIDATED, StopCause.DRAINED, StopCause.CANCELLED])
def test_other_stops_are_no_evictions(cause: StopCause) -> None:
    state = gang_in(GangStatus.RUNNING)
    state.apply(GangStopAsked(at_ms=T, gang="g", attempt=1, cause=cause, deadline_ms=T + 9))
    assert (state.gangs.get("g").evictions, state.gangs.get("g").evicted_ms) == (0, ())


def test_a_gang_that_fails_too_often_has_failed() -> None:
    state = gang_in(GangStatus.RUNNING)
    state.apply(ended(1))
    state.apply(placed("g", 0, attempt=2))
    state.apply(GangEnded(at_ms=T + 2, gang="g", attempt=2, exit_code=1))
    assert state.gangs.get("g").status is GangStatus.FAILED


def test_a_claimant_gets_the_gpus_when_the_last_of_those_it_waits_for_is_gone() -> None:
    state = folded(
        submitted("left"), submitted("right"), submitted("heir", workers=2),
        placed("left", 0), placed("right", 1),
        GangStopAsked(at_ms=T, gang="left", attempt=1, cause=StopCause.RECLAIMED, deadline_ms=T),
        GangStopAsked(at_ms=T, gang="right", attempt=1, cause=StopCause.RECLAIMED, deadline_ms=T),
        placed("heir", 0, 1),
    )  # fmt: skip
    assert state.gangs.get("heir").waits_for == ("left", "right")
    assert state.gangs.occupant.tolist() == [0] * 4 + [1] * 4
    state.apply(GangEnded(at_ms=T, gang="right", attempt=1))
    assert state.gangs.get("heir").waits_for == ("left",)
    assert state.gangs.occupant.tolist() == [0] * 4 + [2] * 4
    state.apply(GangEnded(at_ms=T, gang="left", attempt=1))
    assert state.gangs.get("heir").waits_for == ()
    assert state.gangs.claimant.tolist() == [-1] * 8


def test_a_claimant_that_is_stopped_gives_its_claims_back() -> None:
    state = folded(
        submitted("left"), submitted("heir", workers=2), placed("left", 0),
        GangStopAsked(at_ms=T, gang="left", attempt=1, cause=StopCause.RECLAIMED, deadline_ms=T),
        placed("heir", 0, 1),
        GangStopAsked(at_ms=T, gang="heir", attempt=1, cause=StopCause.CANCELLED, deadline_ms=T),
        GangEnded(at_ms=T, gang="heir", attempt=1),
    )  # fmt: skip
    assert state.gangs.claimant.tolist() == [-1] * 8
    assert state.gangs.occupant.tolist() == [0] * 4 + [-1] * 4


# -- late coverage


def test_coverage_that_is_learnt_late_is_retold_to_the_meter_from_its_instant() -> None:
    state = folded(traded(1, "acme-1"), traded(2, "bolt-1", "bolt"), assigned(held("acme-1", 0)))
    state.apply(CellsSwapped(at_ms=T + 4_000, level=Level.NODE, left=0, right=1))
    late = (held("bolt-1", 0, T + 2_000, T + 4_000), held("bolt-1", 1, T + 4_000))
    state.apply(assigned(*late, positions=("acme-1", "bolt-1"), at_ms=T + 9_000, from_ms=T + 2_000))
    instants = (0, 1_999, 2_000, 3_999, 4_000, 9_000)
    owners = {at_ms: state.meter.history.owner.at(T + at_ms).tolist() for at_ms in instants}
    acme, bolt, none = [0] * 4, [1] * 4, [-1] * 4
    assert owners == {
        0: acme + none,
        1_999: acme + none,
        2_000: bolt + none,
        3_999: bolt + none,
        4_000: none + bolt,
        9_000: none + bolt,
    }
    assert state.calendar.owner_position.tolist() == none + bolt


def test_a_window_that_opened_before_a_late_event_opened_at_its_own_instant() -> None:
    state = folded(traded(1, "acme-1"), assigned(held("acme-1", 0, T + 3_000)), traded(2, "bolt-1", at_ms=T + 8_000))
    state.apply(assigned(held("bolt-1", 1, T + 8_000), at_ms=T + 8_000, from_ms=T + 8_000))
    assert state.meter.history.owner.at(T + 3_000).tolist() == [0] * 4 + [-1] * 4
    assert state.calendar.turns == (END,)


def test_history_is_forgotten_only_where_no_interval_needs_it() -> None:
    hour_ms = 3_600_000
    state = folded(traded(1, "acme-1"))
    closed = IntervalClosed(at_ms=T + 3 * hour_ms, interval_ms=60_000, end_ms=T + 3 * hour_ms, first_leaf=0, leaves=0)
    state.apply(closed)  # all of another length; of ten seconds nothing is closed yet
    assert state.meter.history.horizon_ms == T - hour_ms
