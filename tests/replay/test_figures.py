"""What a replay shows, against a run that is small enough to add up by hand."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.events import Event, GangEnded, GangPlaced, GangStarted, GangStopAsked, GangSubmitted
from scheduler.core.metering.records import MeterRecord, PoolRecord
from scheduler.core.workloads import GangSpec, Piece, StopCause
from scheduler.replay.figures import Figures, Waits


def waits_of(lengths_ms: list[int]) -> Waits:
    waits = Waits()
    for wait_ms in lengths_ms:
        waits.add(wait_ms)
    return waits


@given(st.lists(st.integers(0, 50), min_size=1, max_size=250), st.integers(0, 100))
def test_a_percentile_is_the_least_wait_that_so_many_do_not_exceed(lengths_ms: list[int], percent: int) -> None:
    enough = (
        wait_ms
        for wait_ms in sorted(lengths_ms)
        if Fraction(sum(each <= wait_ms for each in lengths_ms), len(lengths_ms)) >= Fraction(percent, 100)
    )
    assert waits_of(lengths_ms).percentile_ms(percent) == next(enough)


@pytest.mark.parametrize(("percent", "rank"), [(0, 1), (1, 1), (20, 1), (21, 2), (50, 3), (99, 5), (100, 5)])
def test_percentiles_are_of_the_nearest_rank(percent: int, rank: int) -> None:
    assert rank == max(1, ceil(percent * 5 / 100))
    assert waits_of([50, 10, 40, 20, 30]).percentile_ms(percent) == 10 * rank


def test_waits_add_up() -> None:
    waits = waits_of([3, 9, 4])
    assert (waits.count, waits.total_ms, waits.max_ms, waits.mean_ms) == (3, 16, 9, 5)
    assert (Waits().mean_ms, Waits().max_ms, Waits().percentile_ms(99)) == (0, 0, 0)


def submitted(gang: str, at_ms: int) -> GangSubmitted:
    return GangSubmitted(at_ms=at_ms, gang=gang, spec=GangSpec(account="a", name="t", command=("run",)))


def placed(gang: str, at_ms: int, attempt: int = 1, *, inside: bool = True, gpus: int = 2) -> GangPlaced:
    piece = Piece(node="n", gpus=tuple(range(gpus)))
    return GangPlaced(at_ms=at_ms, gang=gang, attempt=attempt, pieces=(piece, piece), inside=inside)


def started(gang: str, at_ms: int, attempt: int = 1) -> GangStarted:
    return GangStarted(at_ms=at_ms, gang=gang, attempt=attempt)


def ended(gang: str, at_ms: int, attempt: int = 1) -> GangEnded:
    return GangEnded(at_ms=at_ms, gang=gang, attempt=attempt)


def stopped(gang: str, at_ms: int, cause: StopCause) -> GangStopAsked:
    return GangStopAsked(at_ms=at_ms, gang=gang, attempt=1, cause=cause, deadline_ms=at_ms)


STORY: tuple[Event, ...] = (
    submitted("own", 0),
    placed("own", 100),
    started("own", 130),
    submitted("borrows", 200),
    placed("borrows", 250, inside=False, gpus=1),
    started("borrows", 260),
    stopped("borrows", 300, StopCause.RECLAIMED),
    ended("borrows", 360),
    placed("borrows", 400, 2, inside=False, gpus=1),
    started("borrows", 460, 2),
    stopped("own", 500, StopCause.DRAINED),
    ended("own", 530),
    submitted("never", 540),
    placed("never", 550),
    ended("never", 560),
)


def told(*events: Event) -> Figures:
    figures = Figures()
    for event in events:
        figures.on_event(event)
    return figures


def test_owners_wait_from_their_placement_and_borrowers_from_the_queue() -> None:
    figures = told(*STORY)
    assert figures.owned.all_ms == [30]
    assert figures.borrowed.all_ms == [60, 100]
    assert figures.reclaimed == 1
    assert figures.events["gang_placed"] == 4
    assert figures.events.total() == len(STORY)


def test_a_gang_that_is_told_to_hurry_was_reclaimed_once() -> None:
    told_twice = (*STORY[:7], stopped("borrows", 310, StopCause.RECLAIMED), *STORY[7:])
    assert told(*told_twice).reclaimed == 1
    again = (stopped("borrows", 700, StopCause.RECLAIMED), ended("borrows", 710, 2))
    assert told(*told_twice, *again).reclaimed == 2


def test_time_is_occupied_from_start_to_end_and_what_still_runs_counts_to_the_end() -> None:
    figures = told(*STORY)
    so_far = 4 * (530 - 130) + 2 * (360 - 260)
    assert figures.occupied_gpu_ms == so_far
    figures.finish(1_000)
    figures.finish(2_000)
    assert figures.occupied_gpu_ms == so_far + 2 * (1_000 - 460)


def test_records_and_pools_add_up() -> None:
    fields = {"position": "p", "instrument": "I@1", "start_ms": 0, "end_ms": 10, "contracted_gpu_ms": 80}
    losses = ((Cause.NODE_LOST, 8), (Cause.DRAIN, 2))
    record = MeterRecord(used_gpu_ms=70, out_forced_gpu_ms=8, out_planned_gpu_ms=2, losses=losses, **fields)  # type: ignore[arg-type]
    pool = PoolRecord(
        grade="H100",
        site="s",
        start_ms=0,
        end_ms=10,
        total_gpu_ms=160,
        sold_gpu_ms=80,
        covered_gpu_ms=80,
        unsold_used_gpu_ms=30,
        unsold_idle_gpu_ms=50,
        unsold_unhealthy_gpu_ms=0,
        unknown_gpu_ms=0,
    )
    figures = told(*STORY)
    figures.on_records([record, record], [pool])
    figures.on_records([], [pool])
    assert figures.contracted_gpu_ms == 160
    assert {state: gpu_ms for state, gpu_ms in figures.states.items() if gpu_ms} == {
        "used": 140,
        "out_forced": 16,
        "out_planned": 4,
    }
    assert figures.lost_by_cause == {"NODE_LOST": 16, "DRAIN": 4}
    assert figures.seller_shortfall_gpu_ms({cause.name: cause.bearer for cause in Cause}) == 16
    assert (figures.pool["total_gpu_ms"], figures.pool["unsold_used_gpu_ms"]) == (320, 60)
    assert figures.utilisation_ppm == figures.occupied_gpu_ms * 1_000_000 // 320


def test_nothing_metered_is_nothing_used() -> None:
    assert Figures().utilisation_ppm == 0
