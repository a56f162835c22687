"""Profiles against a clock on the wall: every quarter of an hour of a window is looked up one by one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.instruments import (
    CustomProfile,
    InstrumentTerms,
    PeakProfile,
    Profile,
    SwingProfile,
    SwingTerms,
    Weekday,
    Window,
    standard_terms,
)
from scheduler.core.intervals import Interval, total_ms
from scheduler.core.profiles import (
    delivery_intervals,
    delivery_ms,
    local_month,
    profile_hash,
    time_zone,
    time_zones,
)
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR

QUARTER_MS = 900_000
"""All offsets, changes and drawn times below are multiples of it, so nothing can hide between two samples."""


def utc_ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1_000)  # type: ignore[arg-type,misc]


# Days on which clocks change, in zones that do it each in its own way.
CHANGES = {
    "Europe/Berlin": (utc_ms(2027, 3, 28), utc_ms(2027, 10, 31)),
    "America/New_York": (utc_ms(2027, 3, 14), utc_ms(2027, 11, 7)),
    "Australia/Lord_Howe": (utc_ms(2027, 4, 3), utc_ms(2027, 10, 2)),  # half an hour
    "America/Havana": (utc_ms(2027, 3, 14), utc_ms(2027, 11, 7)),  # at midnight
    "Asia/Beirut": (utc_ms(2027, 3, 27), utc_ms(2027, 10, 30)),  # midnight is not shown
    "Asia/Kathmandu": (utc_ms(2027, 6, 1),),  # 5:45 ahead, never changes
    "Pacific/Apia": (utc_ms(2011, 12, 29),),  # left out a whole day
    "UTC": (utc_ms(2027, 3, 28),),
}


def terms_of(profile: Profile, window: Interval, **others: object) -> InstrumentTerms:
    return standard_terms(
        symbol="P",
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        profile=profile,
        **others,  # type: ignore[arg-type]  # any field of the terms
    )


def shown_inside(profile: PeakProfile, at_ms: int) -> bool:
    """Whether a clock on the wall shows a time inside: written without offsets, days or midnights in UTC."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(time_zone(profile.time_zone))
    minute = local.hour * 60 + local.minute
    start, end = (int(time[:2]) * 60 + int(time[3:]) for time in (profile.start_local, profile.end_local))
    yesterday = local.date() - timedelta(days=1)
    if start < end:
        return is_peak_day(profile, local.date()) and start <= minute < end
    return (is_peak_day(profile, local.date()) and minute >= start) or (
        is_peak_day(profile, yesterday) and minute < end
    )


def is_peak_day(profile: PeakProfile, day: date) -> bool:
    return list(Weekday)[day.weekday()] in profile.days and day not in profile.holidays


def quarters(window: Interval) -> Iterator[int]:
    return iter(range(window.start_ms, window.end_ms, QUARTER_MS))


def clock(quarter: int) -> str:
    return f"{quarter // 4:02}:{quarter % 4 * 15:02}"


@st.composite
def peaks_around_changes(draw: st.DrawFn) -> tuple[PeakProfile, Interval]:
    zone = draw(st.sampled_from(sorted(CHANGES)))
    change_ms = draw(st.sampled_from(CHANGES[zone]))
    start_ms = change_ms + QUARTER_MS * draw(st.integers(-300, 100))
    day = datetime.fromtimestamp(change_ms // 1_000, UTC).date()
    profile = PeakProfile(
        time_zone=zone,
        days=tuple(draw(st.lists(st.sampled_from(list(Weekday)), min_size=1, max_size=7, unique=True))),
        start_local=clock(draw(st.integers(0, 95))),
        end_local=clock(draw(st.integers(0, 96))),
        holidays=tuple(day + timedelta(days=ahead) for ahead in draw(st.sets(st.integers(-3, 3), max_size=3))),
    )
    return profile, Interval(start_ms, start_ms + QUARTER_MS * draw(st.integers(1, 400)))


@given(peaks_around_changes())
def test_a_peak_is_on_exactly_when_the_wall_clock_shows_it(drawn: tuple[PeakProfile, Interval]) -> None:
    profile, window = drawn
    intervals = delivery_intervals(terms_of(profile, window))
    for at_ms in quarters(window):
        on = any(interval.contains(at_ms) for interval in intervals)
        assert on == shown_inside(profile, at_ms), at_ms
    assert total_ms(intervals) == QUARTER_MS * sum(shown_inside(profile, at_ms) for at_ms in quarters(window))
    assert all(window.start_ms <= each.start_ms and each.end_ms <= window.end_ms for each in intervals)
    assert all(left.end_ms < right.start_ms for left, right in pairwise(intervals))


@pytest.mark.parametrize(
    ("zone", "year", "month", "half_hours"),
    [
        ("Europe/Berlin", 2027, 1, 744 * 2),
        ("Europe/Berlin", 2027, 2, 672 * 2),
        ("Europe/Berlin", 2028, 2, 696 * 2),
        ("Europe/Berlin", 2027, 3, 743 * 2),
        ("Europe/Berlin", 2027, 10, 745 * 2),
        ("Europe/Berlin", 2027, 12, 744 * 2),
        ("America/New_York", 2027, 3, 743 * 2),
        ("America/New_York", 2027, 11, 721 * 2),
        ("Australia/Lord_Howe", 2027, 4, 720 * 2 + 1),
        ("Australia/Lord_Howe", 2027, 10, 744 * 2 - 1),
        ("Asia/Kolkata", 2027, 10, 744 * 2),
    ],
)
def test_a_local_month_has_the_hours_that_its_calendar_shows(zone: str, year: int, month: int, half_hours: int) -> None:
    window = local_month(zone, year, month)
    assert window.length_ms == half_hours * MS_PER_HOUR // 2
    every_day = PeakProfile(time_zone=zone, days=tuple(Weekday), start_local="00:00", end_local="24:00")
    around = Interval(window.start_ms - 3 * MS_PER_DAY, window.end_ms + 3 * MS_PER_DAY)
    assert delivery_intervals(terms_of(every_day, around)) == (around,)
    local_start, before = (
        datetime.fromtimestamp(at_ms // 1_000, time_zone(zone)) for at_ms in (window.start_ms, window.start_ms - 1_000)
    )
    assert (local_start.month, local_start.day, local_start.hour) == (month, 1, 0)
    assert before.month != month


@pytest.mark.parametrize(("zone", "month"), [("Europe/Berlin", m) for m in range(1, 13)] + [("Asia/Beirut", 3)])
def test_local_months_follow_each_other_without_a_gap(zone: str, month: int) -> None:
    after = local_month(zone, 2027 + month // 12, month % 12 + 1)
    assert local_month(zone, 2027, month).end_ms == after.start_ms


# [local hours of the peak on the day of the change] -> how long it lasts there, in half hours
@pytest.mark.parametrize(
    ("zone", "day", "start", "end", "half_hours"),
    [
        ("Europe/Berlin", date(2027, 3, 28), "00:00", "24:00", 46),
        ("Europe/Berlin", date(2027, 3, 28), "02:00", "03:00", 0),  # an hour that no clock shows
        ("Europe/Berlin", date(2027, 3, 28), "01:30", "03:30", 2),
        ("Europe/Berlin", date(2027, 3, 28), "08:00", "20:00", 24),
        ("Europe/Berlin", date(2027, 10, 31), "00:00", "24:00", 50),
        ("Europe/Berlin", date(2027, 10, 31), "02:00", "03:00", 4),  # an hour that is shown twice
        ("Europe/Berlin", date(2027, 10, 31), "02:30", "03:30", 3),
        ("America/New_York", date(2027, 3, 14), "00:00", "24:00", 46),
        ("America/New_York", date(2027, 11, 7), "01:00", "02:00", 4),
        ("Australia/Lord_Howe", date(2027, 10, 3), "00:00", "24:00", 47),
        ("Australia/Lord_Howe", date(2027, 4, 4), "00:00", "24:00", 49),
        ("Australia/Lord_Howe", date(2027, 4, 4), "01:30", "02:00", 2),
    ],
)
def test_the_day_on_which_clocks_change(zone: str, day: date, start: str, end: str, half_hours: int) -> None:
    profile = PeakProfile(time_zone=zone, days=tuple(Weekday), start_local=start, end_local=end)
    others = tuple(day + timedelta(days=ahead) for ahead in range(-3, 4) if ahead)
    around = Interval(utc_ms(day.year, day.month, day.day) - 2 * MS_PER_DAY, utc_ms(day.year, day.month, day.day))
    window = Interval(around.start_ms, around.end_ms + 3 * MS_PER_DAY)
    only_that_day = PeakProfile(**{**dict(profile), "holidays": others})
    assert total_ms(delivery_intervals(terms_of(only_that_day, window))) == half_hours * MS_PER_HOUR // 2


def test_an_hour_shown_twice_splits_a_peak_that_ends_inside_it() -> None:
    # Berlin, 31 October 2027: 02:00 to 03:00 comes twice, at 00:00 and at 01:00 UTC.
    window = Interval(utc_ms(2027, 10, 30, 22), utc_ms(2027, 10, 31, 12))
    profile = PeakProfile(time_zone="Europe/Berlin", days=(Weekday.SUN,), start_local="00:00", end_local="02:30")
    assert delivery_intervals(terms_of(profile, window)) == (
        Interval(utc_ms(2027, 10, 30, 22), utc_ms(2027, 10, 31, 0, 30)),
        Interval(utc_ms(2027, 10, 31, 1), utc_ms(2027, 10, 31, 1, 30)),
    )


def test_workdays_and_holidays_of_a_month() -> None:
    window = local_month("Europe/Berlin", 2027, 3)
    profile = PeakProfile(time_zone="Europe/Berlin", holidays=(date(2027, 3, 26), date(2027, 3, 29), date(2027, 3, 27)))
    intervals = delivery_intervals(terms_of(profile, window))
    assert len(intervals) == 23 - 2  # Good Friday and Easter Monday; the 27th is a Saturday
    assert intervals[0] == Interval(utc_ms(2027, 3, 1, 7), utc_ms(2027, 3, 1, 19))
    assert intervals[-1] == Interval(utc_ms(2027, 3, 31, 6), utc_ms(2027, 3, 31, 18))


def test_a_night_belongs_to_the_day_on_which_it_starts() -> None:
    window = Interval(utc_ms(2027, 6, 4), utc_ms(2027, 6, 8))  # Friday to Monday
    profile = PeakProfile(time_zone="UTC", days=(Weekday.FRI,), start_local="22:00", end_local="06:00")
    assert delivery_intervals(terms_of(profile, window)) == (Interval(utc_ms(2027, 6, 4, 22), utc_ms(2027, 6, 5, 6)),)


def test_custom_steps_merge_and_stay_inside_the_window() -> None:
    steps = tuple(Window(start_ms=a * 1_000, end_ms=b * 1_000) for a, b in ((0, 30), (30, 40), (60, 200)))
    terms = terms_of(CustomProfile(steps=steps), Interval(10_000, 100_000))
    assert delivery_intervals(terms) == (Interval(10_000, 40_000), Interval(60_000, 100_000))
    assert delivery_ms(terms) == 70_000


def test_base_and_swing_are_the_whole_window() -> None:
    window = Interval(0, MS_PER_HOUR)
    swing = terms_of(SwingProfile(), window, swing=SwingTerms(total_gpu_ms=1, max_rate_gpus=1))
    base = standard_terms(symbol="B", start_ms=0, end_ms=MS_PER_HOUR)
    assert delivery_intervals(base) == delivery_intervals(swing) == (window,)


def test_the_hash_is_of_the_milliseconds_and_not_of_how_they_were_written() -> None:
    window = local_month("Europe/Berlin", 2027, 1)
    summer = local_month("Europe/Berlin", 2027, 7)
    berlin, paris, london = (PeakProfile(time_zone=f"Europe/{city}") for city in ("Berlin", "Paris", "London"))
    assert profile_hash(terms_of(berlin, window)) == profile_hash(terms_of(paris, window))
    assert profile_hash(terms_of(berlin, window)) != profile_hash(terms_of(london, window))
    assert profile_hash(terms_of(berlin, summer)) != profile_hash(terms_of(berlin, window))
    # The hash of `[[0,3600000]]`, as anyone can compute it.
    base = standard_terms(symbol="B", start_ms=0, end_ms=MS_PER_HOUR)
    assert profile_hash(base) == "4bf03775ed97c60aa0b8a6da17e6dbea09dbf7100e9032ff7241dff5ddfbdb4c"


def test_unknown_zones_are_refused_by_name_and_none_is_a_path() -> None:
    assert "Europe/Berlin" in time_zones()
    for name in ("Europe/Berlyn", "../tzdata/zones", "", "Europe", "/etc/localtime", "europe/berlin"):
        with pytest.raises(UnknownName, match="time zone"):
            time_zone(name)


@pytest.mark.parametrize(("year", "month"), [(1969, 1), (2200, 1), (2027, 0), (2027, 13)])
def test_months_outside_the_calendar_are_refused(year: int, month: int) -> None:
    with pytest.raises(InvalidValue, match="month of UTC"):
        local_month("UTC", year, month)
