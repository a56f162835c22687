"""Closing: which intervals are due, side by side, and that they tile what was contracted, without gap or overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.core.causes import Cause
from scheduler.core.events import Event, IntervalClosed
from scheduler.core.instruments import NonFirm, PeakProfile
from scheduler.core.metering.records import MeterRecord
from scheduler.core.rounds import closing, outages
from scheduler.core.state.dump import dump, load
from scheduler.core.state.state import CORRECTION_HORIZON_MS, State
from scheduler.execution.simulated import Fault, NodeDown, NodeUp
from scheduler.replay.checks import LawChecker
from scheduler.service import ServiceSettings
from tests.simulation.site import START_MS, Site, listing, lost, nodes


def spans(site: Site, position: str) -> list[tuple[int, int]]:
    """(start, end) in seconds of a position's records."""
    return [((r.start_ms - START_MS) // 1_000, (r.end_ms - START_MS) // 1_000) for r in site.records(position)]


def test_intervals_of_ten_seconds_and_a_minute_close_side_by_side() -> None:
    site = Site(nodes(2))
    site.round()
    site.listed(listing(), listing("H100.SLOW", metering_interval_s=60, length_ms=180_000))
    site.trade("quick", "acme")
    site.trade("slow", "acme", instrument="H100.SLOW@1")
    site.until(125_000)
    assert spans(site, "quick") == [(10 * k, 10 * k + 10) for k in range(12)]
    assert spans(site, "slow") == [(0, 60), (60, 120)]
    assert site.scheduler.state.closed_ms == {10_000: START_MS + 120_000, 60_000: START_MS + 120_000}
    assert closing.next_close_ms(site.scheduler.state) == START_MS + 130_000


def test_a_position_that_starts_inside_an_interval_contracts_from_its_instant() -> None:
    site = Site(nodes(1))
    site.round()
    site.listed(listing())
    site.until(13_250)
    site.trade("late", "acme")
    site.until(31_000)
    assert [(r.start_ms - START_MS, r.contracted_gpu_ms) for r in site.records("late")] == [
        (10_000, 8 * 6_750),
        (20_000, 80_000),
    ]
    assert not any(record.losses for record in site.records())


def test_a_position_bought_before_any_node_joined_is_short_until_one_does() -> None:
    site = Site(())
    site.listed(listing())
    site.trade("early", "acme")
    site.until(12_000)
    assert [lost(record, Cause.OVERSOLD) for record in site.records()] == [80_000]
    (spec,) = nodes(1)
    other = Site((spec,)).executor.inner
    site.executor.inner._nodes |= other._nodes
    site.executor.inner._queue.extend(other.observe())
    site.until(31_000)
    assert [lost(record, Cause.OVERSOLD) for record in site.records()][1:] == [8 * 2_000, 0]


def test_off_peak_hours_have_no_records_and_peak_hours_are_tiled() -> None:
    start = datetime.fromtimestamp(START_MS // 1_000, UTC)
    assert start.hour == 0
    site = Site(nodes(1))
    site.round()
    peak = PeakProfile(time_zone="UTC", start_local="08:00", end_local="11:00")
    day_ms = 86_400_000
    site.listed(listing("H100.PEAK", length_ms=day_ms, metering_interval_s=3600, profile=peak))
    site.trade("peak", "acme", instrument="H100.PEAK@1")
    while site.now_ms < START_MS + day_ms:
        due_ms = site.scheduler.round()
        if due_ms is None:
            break
        site.now_ms = max(due_ms, site.now_ms + 1)
    assert [(start // 3_600, end // 3_600) for start, end in spans(site, "peak")] == [(8, 9), (9, 10), (10, 11)]
    assert all(record.available_unused_gpu_ms == 8 * 3_600_000 for record in site.records())


def test_a_long_outage_closes_everything_that_fell_due_in_it_of_every_length() -> None:
    site = Site(nodes(1), outage_ms=7_500_000)
    site.round()
    long_ms = 4 * 3_600_000
    site.listed(listing(length_ms=long_ms, gpus=8), listing("H100.HOUR", length_ms=long_ms, metering_interval_s=3600))
    site.trade("quick", "acme")
    site.until(25_000)
    site.trade("hour", "bolt", instrument="H100.HOUR@1")
    site.die_and_return()
    site.round()
    assert spans(site, "hour") == [(0, 3_600), (3_600, 7_200)]
    assert len(spans(site, "quick")) == (site.now_ms - START_MS) // 10_000
    unknown = [record.unknown_gpu_ms for record in site.records("quick")]
    assert set(unknown[3:-1]) == {80_000}


def short_until(end_ms: int | None, lag_ms: int = 0, until_ms: int = 31_000, **loose: Any) -> Site:
    """Two nodes, one sold firm and one not. The firm one's node is lost after 3 s, and is back at an instant."""
    faults: list[Fault] = [NodeDown("node-0", START_MS + 3_000)]
    faults += [] if end_ms is None else [NodeUp("node-0", START_MS + end_ms)]
    site = Site(nodes(2), faults=faults, settings=ServiceSettings(close_lag_ms=lag_ms))
    site.round()
    site.listed(listing(), listing("H100.LOOSE", firmness=NonFirm(), **loose))
    site.trade("firm", "acme")
    site.trade("loose", "bolt", instrument="H100.LOOSE@1")
    assert [held.cell for held in site.scheduler.state.calendar.of("firm")] == [0]
    site.until(until_ms)
    return site


@pytest.mark.parametrize("lag_ms", [0, 1_000])
@pytest.mark.parametrize("end_ms", [7_000, 9_999, 10_000, 10_500, 25_000, None])
def test_a_shortage_is_metered_by_its_rule_whenever_it_ends(end_ms: int | None, lag_ms: int) -> None:
    """Whether it ends in the interval, with it, or before that is closed."""
    site = short_until(end_ms, lag_ms)
    until_ms = 30_000 if end_ms is None else end_ms
    short_ms = [max(0, min(until_ms, start_ms + 10_000) - max(3_000, start_ms)) for start_ms in (0, 10_000, 20_000)]
    records = site.records("loose")[:3]
    assert [dict(record.losses) for record in records] == [
        {Cause.SHORTAGE_RULE: 8 * length_ms} if length_ms else {} for length_ms in short_ms
    ]
    assert not any(record.losses for record in site.records("firm"))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("excuses", [False, True])
def test_who_is_displaced_by_force_majeure_is_excused_as_who_was_hit(*, late: bool, excuses: bool) -> None:
    """The firm lot's node is lost after 3 s; it takes the other one's. Declared before, or of what is closed."""
    site = short_until(25_000, force_majeure_excuses=excuses, until_ms=31_000 if late else 2_000)

    def declared(state: State, now_ms: int) -> Iterator[Event]:
        return outages.declare(state, ["node-0"], START_MS, START_MS + 18_000, "ab" * 32, now_ms)

    site.doing(lambda scheduler: scheduler.carry_out(declared))
    site.until(41_000)
    last = {record.start_ms: record for record in site.records("loose")}
    lost = [dict(last[START_MS + at_ms].losses) for at_ms in (0, 10_000, 20_000)]
    excused = Cause.FORCE_MAJEURE if excuses else Cause.SHORTAGE_RULE
    second = Counter({excused: 64_000}) + Counter({Cause.SHORTAGE_RULE: 16_000})
    assert lost == [{excused: 56_000}, dict(second), {Cause.SHORTAGE_RULE: 40_000}]
    assert not any(record.losses for record in site.records("firm"))
    assert site.refolded() == dump(site.scheduler.state)


def test_what_the_causes_of_shortfalls_were_survives_a_restart_and_is_forgotten_in_the_end() -> None:
    site = short_until(7_000)
    state = site.scheduler.state
    assert state.refusals["loose"].steps == ((START_MS + 3_000, Cause.SHORTAGE_RULE), (START_MS + 7_000, 0))
    again = load(dump(state))
    assert (again.refusals, again.refused, dump(again)) == (state.refusals, {}, dump(state))
    far_ms = START_MS + 7_000 + CORRECTION_HORIZON_MS
    state.apply(IntervalClosed(at_ms=far_ms, interval_ms=60_000, end_ms=far_ms, first_leaf=0, leaves=0))
    state.contracted.clear()
    state.apply(IntervalClosed(at_ms=far_ms + 1, interval_ms=60_000, end_ms=far_ms + 1, first_leaf=0, leaves=0))
    assert state.refusals == {}


def test_the_checker_sees_records_that_overlap() -> None:
    fields = {"position": "p", "instrument": "i", "contracted_gpu_ms": 0}
    first = MeterRecord(start_ms=0, end_ms=10, **fields)  # type: ignore[arg-type]
    second = MeterRecord(start_ms=5, end_ms=15, **fields)  # type: ignore[arg-type]
    laws = LawChecker()
    laws.on_records((first, second), 20)
    assert laws.count == 1


@pytest.mark.parametrize("lag_ms", [0, 1_000])
def test_an_interval_is_due_once_it_has_ended_and_the_lag_has_passed(lag_ms: int) -> None:
    site = Site(nodes(1))
    site.round()
    site.listed(listing())
    site.trade("p", "acme")
    state = site.scheduler.state
    assert list(closing.due_intervals(state, START_MS + 10_000 + lag_ms - 1, lag_ms)) == []
    due = list(closing.due_intervals(state, START_MS + 20_000 + lag_ms, lag_ms))
    assert [each.interval.start_ms - START_MS for each in due] == [0, 10_000]
