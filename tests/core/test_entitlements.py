"""Entitlements against brute force over every hour of a week, and what coverage is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.cluster import Level
from scheduler.core.entitlements import Entitlement, account_gpus, demands, derive
from scheduler.core.errors import UnknownName
from scheduler.core.holdings import Demand
from scheduler.core.instruments import (
    CustomProfile,
    InstrumentTerms,
    PeakProfile,
    Weekday,
    Window,
    standard_terms,
)
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.positions import Position
from scheduler.core.profiles import delivery_intervals
from scheduler.core.quantities import MS_PER_HOUR, Ppm

MONDAY_MS = int(datetime(2027, 3, 22, tzinfo=UTC).timestamp()) * 1_000
WEEK = range(MONDAY_MS, MONDAY_MS + 168 * MS_PER_HOUR, MS_PER_HOUR)


def hour(number: int) -> int:
    return MONDAY_MS + number * MS_PER_HOUR


def hours(start: int, end: int) -> Interval:
    return Interval(hour(start), hour(end))


def instruments() -> dict[str, InstrumentTerms]:
    """Three listings of the week, and one of parts of it. Clocks in Berlin change on its Sunday."""
    week = partial(standard_terms, start_ms=hour(0), end_ms=hour(168))
    peak = PeakProfile(time_zone="Europe/Berlin", days=(Weekday.MON, Weekday.TUE, Weekday.SUN), start_local="01:00")
    steps = tuple(Window(start_ms=hour(a), end_ms=hour(b)) for a, b in ((5, 9), (9, 12), (100, 130)))
    listed = (
        week(symbol="BASE", cell=Level.NODE, gpus=8),
        week(symbol="PEAK", gpus=2, profile=peak),
        week(symbol="STEPS", cell=Level.NVLINK_DOMAIN, gpus=32, profile=CustomProfile(steps=steps)),
        standard_terms(symbol="LATE", site="north", start_ms=hour(100), end_ms=hour(120)),
    )
    return {terms.id: terms for terms in listed}


LISTED = instruments()


@st.composite
def positions(draw: st.DrawFn) -> list[Position]:
    found = []
    for number in range(draw(st.integers(0, 6))):
        steps = draw(st.lists(st.tuples(st.integers(-20, 190), st.integers(0, 4)), max_size=6))
        lots = StepFunction.of((hour(at), lots) for at, lots in steps).steps
        account, instrument = draw(st.sampled_from(["acme", "borealis"])), draw(st.sampled_from(sorted(LISTED)))
        found.append(Position(id=f"p{number}", account=account, instrument=instrument, acquired_ms=0, lots=lots))
    return found


windows = st.tuples(st.integers(-5, 170), st.integers(1, 175)).map(lambda two: hours(two[0], two[0] + two[1]))


def pool_of(grade: str, site: str) -> int:
    return {("H100SXM", "local"): 3, ("H100SXM", "north"): 4}[grade, site]


def lots_due(position: Position, at_ms: int) -> int:
    """Lots at an instant if the profile is on, looked up one interval after the other."""
    on = any(interval.contains(at_ms) for interval in delivery_intervals(LISTED[position.instrument]))
    return position.lots_at(at_ms) if on else 0


@given(positions(), windows)
def test_entitlements_tile_exactly_the_profile_where_lots_are_held(owned: list[Position], window: Interval) -> None:
    entitlements = derive(owned, LISTED, window)
    for position in owned:
        own = [each for each in entitlements if each.position == position.id]
        for at_ms in range(window.start_ms, window.end_ms, MS_PER_HOUR):
            lots = [each.lots for each in own if each.interval.contains(at_ms)]
            assert lots == ([lots_due(position, at_ms)] if lots_due(position, at_ms) else [])
        due = sum(lots_due(position, at_ms) for at_ms in range(window.start_ms, window.end_ms, MS_PER_HOUR))
        assert sum(each.gpu_ms for each in own) == due * LISTED[position.instrument].lot.gpus * MS_PER_HOUR


@given(positions(), windows)
def test_entitlements_are_longest_sorted_and_inside_the_window(owned: list[Position], window: Interval) -> None:
    entitlements = derive(owned, LISTED, window)
    assert list(entitlements) == sorted(entitlements, key=lambda each: (each.interval, each.position))
    assert derive(list(reversed(owned)), LISTED, window) == entitlements
    for each in entitlements:
        assert window.start_ms <= each.interval.start_ms < each.interval.end_ms <= window.end_ms
    for position in owned:
        own = [each for each in entitlements if each.position == position.id]
        for left, right in pairwise(own):
            assert (left.interval.end_ms, left.lots) != (right.interval.start_ms, right.lots), "two that should be one"


@given(positions(), windows, st.integers(-5, 340))
def test_entitlements_of_adjacent_windows_add_up(owned: list[Position], window: Interval, cut: int) -> None:
    def gpu_ms(within: Interval) -> int:
        return sum(each.gpu_ms for each in derive(owned, LISTED, within))

    if window.contains(hour(cut)) and hour(cut) > window.start_ms:
        left, right = Interval(window.start_ms, hour(cut)), Interval(hour(cut), window.end_ms)
        assert gpu_ms(left) + gpu_ms(right) == gpu_ms(window)


@given(positions(), st.integers(-5, 175))
def test_an_accounts_gpus_are_the_sum_of_its_positions(owned: list[Position], number: int) -> None:
    expected: dict[str, int] = {}
    for position in owned:
        gpus = lots_due(position, hour(number)) * LISTED[position.instrument].lot.gpus
        if gpus:
            expected[position.account] = expected.get(position.account, 0) + gpus
    assert account_gpus(derive(owned, LISTED, hours(-10, 200)), hour(number)) == expected


@given(positions(), st.integers(-5, 175))
def test_demands_are_the_entitlements_from_an_instant_on_in_whole_cells(owned: list[Position], number: int) -> None:
    for position in owned:
        terms = LISTED[position.instrument]
        asked = demands(position, terms, pool_of, hour(number))
        due = derive([position], LISTED, hours(number, 200))
        cells = terms.lot.gpus if terms.lot.cell == Level.GPU else 1
        assert [(each.start_ms, each.end_ms) for each in asked] == [
            (each.interval.start_ms, each.interval.end_ms) for each in due
        ]
        assert [each.lots for each in asked] == [each.lots * cells for each in due]
        assert {(each.position, each.level, each.pool) for each in asked} <= {
            (position.id, terms.lot.cell, 3 if terms.site == "local" else 4)
        }


def position(lots: tuple[tuple[int, int], ...], instrument: str = "BASE@1") -> Position:
    return Position(id="p", account="acme", instrument=instrument, acquired_ms=0, lots=lots)


def test_an_entitlement_says_what_the_terms_say() -> None:
    held = position(((hour(20), 2), (hour(30), 0)))
    assert derive([held], LISTED, hours(0, 168)) == (
        Entitlement(
            position="p",
            account="acme",
            instrument="BASE@1",
            interval=hours(20, 30),
            lots=2,
            gpus=16,
            cell=Level.NODE,
            grade="H100SXM",
            floor_ppm=Ppm(900_000),
            site="local",
        ),
    )


def test_a_transfer_in_mid_delivery_moves_the_entitlement_at_its_instant() -> None:
    seller = position(((hour(0), 3), (hour(50), 1)))
    buyer = Position(id="q", account="borealis", instrument="BASE@1", acquired_ms=0, lots=((hour(50), 2),))
    entitlements = derive([seller, buyer], LISTED, hours(0, 168))
    assert account_gpus(entitlements, hour(50) - 1) == {"acme": 24}
    assert account_gpus(entitlements, hour(50)) == {"acme": 8, "borealis": 16}
    assert account_gpus(entitlements, hour(168)) == {}


def test_a_demand_of_single_gpus_counts_gpus_and_of_cells_counts_cells() -> None:
    domain, gpus = (LISTED[name] for name in ("STEPS@1", "PEAK@1"))
    held = position(((hour(0), 3),), "STEPS@1")
    assert demands(held, domain, pool_of, hour(7)) == (
        Demand("p", Level.NVLINK_DOMAIN, 3, hour(7), hour(12), 3),
        Demand("p", Level.NVLINK_DOMAIN, 3, hour(100), hour(130), 3),
    )
    assert {each.lots for each in demands(position(((hour(0), 3),), "PEAK@1"), gpus, pool_of, hour(0))} == {6}
    assert demands(held, domain, pool_of, hour(130)) == ()


def test_a_position_of_an_unknown_instrument_is_named() -> None:
    with pytest.raises(UnknownName, match=r"instrument of position p was 'GONE@1', expected one of BASE@1"):
        derive([position(((0, 1),), "GONE@1")], LISTED, hours(0, 1))
