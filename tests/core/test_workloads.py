"""Gangs: the table of their lives, shapes that share a fate, and what stopping one would waste."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.core.workloads import (
    ENDED,
    EVICTION_MS,
    TRANSITIONS,
    Gang,
    GangSpec,
    GangStatus,
    Piece,
    ends_by_ms,
    evicted_again,
    held_shape,
    lost_work_ms,
    shape_of,
    stop_price_ms,
)

HOUR_MS = 3_600_000


def spec(**wished: Any) -> GangSpec:
    return GangSpec(**{"account": "acme", "name": "train", "command": ("run",), **wished})


def gang(status: GangStatus = GangStatus.WAITING, number: int = 0, submitted_ms: int = 0, **wished: Any) -> Gang:
    asked = spec(**wished)
    shape = shape_of(asked)
    return Gang(id=f"g{number}", number=number, spec=asked, shape=shape, submitted_ms=submitted_ms, status=status)


# -- the table


@pytest.mark.parametrize(("before", "after"), list(product(GangStatus, GangStatus)))
def test_a_gang_takes_the_steps_of_the_table_and_no_other(before: GangStatus, after: GangStatus) -> None:
    if after in TRANSITIONS[before]:
        assert gang(before).moved(after, attempt=3) == replace(gang(before), status=after, attempt=3)
    else:
        with pytest.raises(InvalidValue, match=f"status of g0 was '{before} to {after}'"):
            gang(before).moved(after)


@pytest.mark.parametrize("min_workers", [None, 1])
def test_a_placed_gang_is_the_waiting_one_in_another_status(min_workers: int | None) -> None:
    waiting = replace(
        gang(workers=2, min_workers=min_workers, number=4, submitted_ms=7),
        attempt=1,
        failures=2,
        exit_code=3,
        evictions=4,
        evicted_ms=(5,),
        queued_ms=6,
        ended_ms=8,
    )
    pieces = (Piece("n0", (0,)), Piece("n1", (2,)))
    told: dict[str, Any] = {"inside": True, "bind_by_ms": 90, "waits_for": ("g1",)}
    assert waiting.bound(2, pieces, (0, 10), at_ms=60, **told) == waiting.moved(
        GangStatus.BINDING,
        attempt=2,
        shape=held_shape(waiting.spec, pieces),
        pieces=pieces,
        gpu_numbers=(0, 10),
        placed_ms=60,
        **told,
    )


def test_only_a_waiting_gang_is_bound() -> None:
    with pytest.raises(InvalidValue, match="status of g0 was 'running to binding'"):
        gang(GangStatus.RUNNING).bound(1, (), (), at_ms=0, inside=False, bind_by_ms=None, waits_for=())


def test_a_gang_changes_in_no_field_that_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="a gang has no cheese"):
        gang().changed(attempt=1, cheese=2)


def test_every_status_is_reached_from_waiting_and_only_ended_ones_are_final() -> None:
    reached = {GangStatus.WAITING}
    while more := {after for before in reached for after in TRANSITIONS[before]} - reached:
        reached |= more
    assert reached == set(GangStatus) == set(TRANSITIONS)
    assert {status for status, after in TRANSITIONS.items() if not after} == ENDED


def test_every_gang_can_still_end() -> None:
    ends = set(ENDED)
    while more := {before for before, after in TRANSITIONS.items() if after & ends} - ends:
        ends |= more
    assert ends == set(GangStatus)


def test_nobody_runs_who_was_not_bound_and_no_stop_is_taken_back() -> None:
    assert {before for before, after in TRANSITIONS.items() if GangStatus.RUNNING in after} == {GangStatus.BINDING}
    assert not TRANSITIONS[GangStatus.STOPPING] & {GangStatus.RUNNING, GangStatus.BINDING}


# -- what is asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": ()},
        {"workers": 0},
        {"gpus_per_worker": 65},
        {"account": "a b"},
        {"grace_ms": -1},
        {"grace_ms": HOUR_MS + 1},
        {"max_runtime_ms": 0},
        {"priority": 1_000_001},
        {"gpus": 8},
        {"preemptible": False},
        {"workers": 2, "min_workers": 3},
        {"min_workers": 0},
        {"gpu_milli": 0},
        {"gpu_milli": 1_001},
        {"gpu_milli": 999, "workers": 2},
        {"gpu_milli": 999, "gpus_per_worker": 2},
        {"min_runtime_ms": -1},
        {"deadline_ms": -1},
        {"workers": 2, "spread": Level.NODE, "topology": Level.NODE},
        {"workers": 2, "spread": Level.FABRIC_BLOCK, "topology": Level.NVLINK_DOMAIN},
    ],
)
def test_what_cannot_be_asked_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**wrong)


def test_what_cannot_be_preempted_declares_its_end() -> None:
    assert spec(preemptible=False, max_runtime_ms=1).max_runtime_ms == 1


def test_workers_may_be_apart_in_one_larger_cell() -> None:
    asked = spec(workers=4, spread=Level.NODE, spread_required=True, topology=Level.NVLINK_DOMAIN)
    assert (shape_of(asked).spread, shape_of(asked).topology) == (1, 2)
    assert spec(spread=Level.NODE, topology=Level.NODE).spread is Level.NODE  # of one worker it says nothing


# -- shapes

WISHES: dict[str, st.SearchStrategy[Any]] = {
    "workers": st.integers(1, 2),
    "gpus_per_worker": st.integers(1, 2),
    "grade": st.sampled_from([None, "H100"]),
    "topology": st.sampled_from([None, Level.NODE]),
    "topology_required": st.booleans(),
    "spread": st.sampled_from([None, Level.GPU]),
    "spread_required": st.booleans(),
    "min_workers": st.sampled_from([None, 1]),
    "preemptible": st.booleans(),
    "max_runtime_ms": st.sampled_from([1, HOUR_MS, HOUR_MS + 1]),
    "checkpoint_ms": st.sampled_from([0, 1, 60_000]),
}
UNSEEN: dict[str, st.SearchStrategy[Any]] = {
    "account": st.sampled_from(["acme", "bolt"]),
    "name": st.sampled_from(["a", "b"]),
    "priority": st.integers(-1, 1),
    "min_runtime_ms": st.sampled_from([0, 9]),
    "deadline_ms": st.sampled_from([None, 9]),
    "grace_ms": st.sampled_from([0, 9]),
    "restart_ms": st.sampled_from([0, 9]),
    "max_failures": st.integers(0, 1),
    "env": st.sampled_from([{}, {"A": "b"}]),
}


def fate(asked: GangSpec) -> tuple[object, ...]:
    """What of a gang decides where it may run, in words of its own."""
    declared_ms = asked.max_runtime_ms
    long = declared_ms is None or declared_ms > HOUR_MS
    least = asked.workers if asked.min_workers is None else asked.min_workers
    size = (asked.workers, asked.gpus_per_worker, asked.grade, asked.topology, asked.topology_required)
    return (
        *size,
        least,
        asked.spread,
        asked.spread_required,
        asked.preemptible,
        None if asked.preemptible else declared_ms,
        asked.checkpoint_ms == 0 and long,
    )


wishes = st.fixed_dictionaries(WISHES, optional=UNSEEN)


@given(wishes, wishes, st.sampled_from([*WISHES, None]))
def test_shapes_are_equal_where_nothing_that_the_planner_sees_differs(
    one: dict[str, Any], other: dict[str, Any], only: str | None
) -> None:
    left, right = spec(**one), spec(**(other if only is None else {**one, only: other[only]}))
    assert (shape_of(left) == shape_of(right)) == (fate(left) == fate(right))
    assert shape_of(left).gpus == left.gpus == left.workers * left.gpus_per_worker


@given(wishes, st.fixed_dictionaries({}, optional=UNSEEN))
def test_who_asks_and_how_it_runs_is_no_part_of_the_shape(one: dict[str, Any], unseen: dict[str, Any]) -> None:
    assert shape_of(spec(**one)) == shape_of(spec(**{**one, **unseen}))


@pytest.mark.parametrize(
    ("declared_ms", "checkpoint_ms", "reckless"),
    [(None, 0, True), (HOUR_MS, 0, False), (HOUR_MS + 1, 0, True), (None, 1, False), (HOUR_MS + 1, 1, False)],
)
def test_who_never_checkpoints_and_runs_long_is_reckless(
    declared_ms: int | None, checkpoint_ms: int, *, reckless: bool
) -> None:
    assert shape_of(spec(max_runtime_ms=declared_ms, checkpoint_ms=checkpoint_ms)).reckless is reckless


@given(st.integers(1, 5), st.integers(1, 5))
def test_a_placed_gang_has_the_shape_of_its_pieces(workers: int, placed: int) -> None:
    asked = spec(workers=workers, min_workers=1, gpus_per_worker=2)
    pieces = tuple(Piece(node=f"n{i}", gpus=(0, 1)) for i in range(min(placed, workers)))
    held = held_shape(asked, pieces)
    assert (held.gpus, held.is_elastic) == (2 * len(pieces), False)
    assert held._replace(workers=workers, min_workers=1) == shape_of(asked) == held_shape(asked, ())


# -- the order of service, and what a stop wastes


def test_the_order_is_priority_then_age_then_number() -> None:
    gangs = [
        gang(number=3, submitted_ms=9, priority=1),
        gang(number=0, submitted_ms=5),
        gang(number=4, submitted_ms=5),
        gang(number=1, submitted_ms=6),
        gang(number=2, submitted_ms=0, priority=-1),
    ]
    mixed = gangs[::-1]
    assert sorted(mixed, key=lambda each: each.order) == gangs


DAY_MS = 24 * HOUR_MS


@pytest.mark.parametrize(
    ("deadline_ms", "declared_ms", "head_start_ms"),
    [
        (None, HOUR_MS, 0),
        (9 * DAY_MS, None, 0),
        (9 * DAY_MS, HOUR_MS, 0),  # far off
        (5 * DAY_MS + 2 * HOUR_MS, HOUR_MS, 23 * HOUR_MS),  # must start within the hour
        (5 * DAY_MS + HOUR_MS, HOUR_MS, DAY_MS),  # must start at once
        (5 * DAY_MS + HOUR_MS - 1, HOUR_MS, 0),  # cannot be kept
    ],
)
def test_a_deadline_goes_ahead_the_nearer_the_latest_start_is(
    deadline_ms: int | None, declared_ms: int | None, head_start_ms: int
) -> None:
    late = gang(submitted_ms=5 * DAY_MS, deadline_ms=deadline_ms, max_runtime_ms=declared_ms)
    assert late.head_start_ms == head_start_ms
    assert late.order == (0, 5 * DAY_MS - head_start_ms, 0)


@given(st.integers(0, 9 * DAY_MS), st.integers(0, 20 * DAY_MS), st.integers(1, DAY_MS))
def test_no_deadline_makes_a_gang_more_than_a_day_older(submitted_ms: int, deadline_ms: int, declared_ms: int) -> None:
    asked = gang(submitted_ms=submitted_ms, deadline_ms=deadline_ms, max_runtime_ms=declared_ms)
    assert 0 <= asked.head_start_ms <= DAY_MS


def test_a_share_loses_its_part_of_what_a_whole_gpu_would() -> None:
    ran = {"started_ms": 0, "status": GangStatus.RUNNING}
    lost_ms = [lost_work_ms(replace(gang(gpu_milli=milli, grace_ms=0), **ran), 10_000) for milli in (1_000, 250)]  # type: ignore[arg-type]
    assert lost_ms == [40_000, 10_000]


times = st.integers(0, 10**7)


@given(times, times, times, times, times)
def test_without_checkpoints_every_millisecond_more_is_lost(
    started_ms: int, at_ms: int, later_ms: int, restart_ms: int, grace_ms: int
) -> None:
    running = replace(gang(workers=2, gpus_per_worker=4, restart_ms=restart_ms, grace_ms=grace_ms % HOUR_MS))
    running = replace(running, started_ms=started_ms)
    before, after = lost_work_ms(running, at_ms), lost_work_ms(running, at_ms + later_ms)
    assert before >= 8 * (restart_ms + grace_ms % HOUR_MS)
    assert after >= before
    if at_ms >= started_ms:
        assert after - before == 8 * later_ms


@given(times, st.integers(1, 10**6), times)
def test_no_more_is_lost_than_since_the_last_checkpoint(started_ms: int, checkpoint_ms: int, ran_ms: int) -> None:
    running = replace(gang(checkpoint_ms=checkpoint_ms, restart_ms=0, grace_ms=0), started_ms=started_ms)
    lost_ms = lost_work_ms(running, started_ms + ran_ms)
    assert 0 <= lost_ms < checkpoint_ms
    assert (ran_ms - lost_ms) % checkpoint_ms == 0
    never = replace(gang(restart_ms=0, grace_ms=0), started_ms=started_ms)
    assert lost_ms <= lost_work_ms(never, started_ms + ran_ms) == ran_ms


def test_what_never_ran_loses_its_restart_and_grace_alone() -> None:
    assert lost_work_ms(gang(workers=3, restart_ms=5, grace_ms=7), 10**9) == 36


@pytest.mark.parametrize(("ran_ms", "counts_ms"), [(0, HOUR_MS), (2 * HOUR_MS, HOUR_MS), (5 * HOUR_MS - 7, 7)])
def test_of_a_wish_to_be_left_alone_an_hour_counts_at_most(ran_ms: int, counts_ms: int) -> None:
    wishes = replace(gang(workers=2, min_runtime_ms=5 * HOUR_MS), started_ms=0)
    assert stop_price_ms(wishes, ran_ms) - lost_work_ms(wishes, ran_ms) == 2 * counts_ms


def test_the_latest_end_counts_from_the_start_or_from_the_bind_limit() -> None:
    firm = gang(preemptible=False, max_runtime_ms=100, grace_ms=7)
    assert ends_by_ms(replace(firm, placed_ms=50)) == 157
    assert ends_by_ms(replace(firm, placed_ms=50, bind_by_ms=80)) == 187
    assert ends_by_ms(replace(firm, placed_ms=50, bind_by_ms=80, started_ms=60)) == 167


@given(st.lists(times, max_size=9), times)
def test_each_eviction_of_the_last_hour_makes_the_next_one_dearer(instants_ms: list[int], later_ms: int) -> None:
    evicted = gang(workers=2, gpus_per_worker=4, grace_ms=0)
    for at_ms in sorted(instants_ms):
        evicted = replace(evicted, evicted_ms=evicted_again(evicted, at_ms))
    now_ms = max(instants_ms, default=0) + later_ms
    recent = sum(at_ms > now_ms - HOUR_MS for at_ms in instants_ms)
    assert stop_price_ms(evicted, now_ms) - lost_work_ms(evicted, now_ms) == 8 * EVICTION_MS * recent
    assert all(at_ms > evicted.evicted_ms[-1] - HOUR_MS for at_ms in evicted.evicted_ms)
