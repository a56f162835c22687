"""Delivery profiles as UTC intervals: when exactly an instrument is delivered, daylight saving included.

A profile is written as people think of it (weekdays, 08:00 to 20:00 in Berlin) but metered in UTC, so it is expanded
once and hashed: two parties with the same `profile_hash` meter the same milliseconds. An instant is in a PEAK profile
exactly when a clock on the wall there and then shows a time inside. So where clocks go back, an hour that is shown
twice counts twice; where they go forward, an hour that is not shown is not delivered.

Time zones are read from the `tzdata` distribution alone, never from the machine, so the result is the same everywhere.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from typing import assert_never
from zoneinfo import ZoneInfo

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.core.instruments import (
    BaseProfile,
    CustomProfile,
    InstrumentTerms,
    PeakProfile,
    SwingProfile,
    Weekday,
)
from scheduler.core.intervals import Interval, intersect, normalise, total_ms
from scheduler.core.models import canonical_hash
from scheduler.core.quantities import MS_PER_DAY, MS_PER_HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MS_PER_MINUTE = 60_000
_WEEKDAYS = tuple(Weekday)

_LOOK_MS = 3 * MS_PER_HOUR
"""How far apart offsets are looked up; no zone ever changed its offset twice in so short a time."""


@cache
def time_zones() -> frozenset[str]:
    """The names of all time zones that a profile may use."""
    return frozenset(importlib.resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@cache
def time_zone(name: str) -> ZoneInfo:
    """The rules of a time zone. Raises UnknownName."""
    if name not in time_zones():
        raise UnknownName("time zone", name)
    with importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)


@lru_cache(maxsize=4_096)
def delivery_intervals(terms: InstrumentTerms) -> tuple[Interval, ...]:
    """When the instrument is delivered: sorted, disjoint intervals inside the window, no two touching.

    SWING: the whole window, in which the owner nominates. Raises UnknownName for a time zone that does not exist.
    """
    window = terms.window.interval
    match terms.profile:
        case BaseProfile() | SwingProfile():
            return (window,)
        case PeakProfile():
            return intersect(_peaks(terms.profile, window), (window,))
        case CustomProfile():
            return intersect((step.interval for step in terms.profile.steps), (window,))
        case _:
            assert_never(terms.profile)


def delivery_ms(terms: InstrumentTerms) -> int:
    """How long the instrument is delivered in all."""
    return total_ms(delivery_intervals(terms))


def profile_hash(terms: InstrumentTerms) -> str:
    """Lower-case hex SHA-256 of the canonical bytes of the expanded intervals, `[[start_ms, end_ms], ...]`."""
    return canonical_hash([[interval.start_ms, interval.end_ms] for interval in delivery_intervals(terms)])


def local_month(zone: str, year: int, month: int) -> Interval:
    """A month as calendars in the zone show it: 743, 744 or 745 hours where it has 31 days, 672 at the least.

    Raises UnknownName for the zone, InvalidValue for a year or month outside 1970..2199 and 1..12.
    """
    if not (1970 <= year < 2200 and 1 <= month <= 12):
        raise InvalidValue("month", zone, f"{year}-{month}", "1970-1 to 2199-12")
    first_ms = (date(year, month, 1).toordinal() - _EPOCH_DAY) * MS_PER_DAY
    next_month = date(year + month // 12, month % 12 + 1, 1)
    last_ms = (next_month.toordinal() - _EPOCH_DAY) * MS_PER_DAY
    local = Interval(first_ms, last_ms)
    around = Interval(first_ms - 2 * MS_PER_DAY, last_ms + 2 * MS_PER_DAY)
    shown = [both for piece, ahead_ms in _offsets(zone, around) if (both := _utc(local, ahead_ms, piece)) is not None]
    return Interval(min(piece.start_ms for piece in shown), max(piece.end_ms for piece in shown))


def _peaks(profile: PeakProfile, window: Interval) -> tuple[Interval, ...]:
    """All peaks that touch the window, normalised: of every stretch with one UTC offset, every local day's."""
    from_ms, to_ms = _ms_of_day(profile.start_local), _ms_of_day(profile.end_local)
    if to_ms <= from_ms:
        to_ms += MS_PER_DAY
    days = frozenset(_WEEKDAYS.index(day) for day in profile.days)
    holidays = frozenset(holiday.toordinal() - _EPOCH_DAY for holiday in profile.holidays)
    peaks: list[Interval] = []
    for piece, ahead_ms in _offsets(profile.time_zone, window):
        first_day = (piece.start_ms + ahead_ms) // MS_PER_DAY - 1  # yesterday's peak may end today
        last_day = (piece.end_ms + ahead_ms) // MS_PER_DAY
        for day in range(first_day, last_day + 1):
            if (day + _EPOCH_DAY - 1) % 7 in days and day not in holidays:
                midnight_ms = day * MS_PER_DAY
                peak = _utc(Interval(midnight_ms + from_ms, midnight_ms + to_ms), ahead_ms, piece)
                if peak is not None:
                    peaks.append(peak)
    return normalise(peaks)


def _utc(local: Interval, ahead_ms: int, piece: Interval) -> Interval | None:
    """The part of a local interval that falls into a stretch of UTC in which local time is `ahead_ms` ahead."""
    return Interval(local.start_ms - ahead_ms, local.end_ms - ahead_ms).intersection(piece)


def _ms_of_day(local_time: str) -> int:
    hours, minutes = local_time.split(":")
    return int(hours) * MS_PER_HOUR + int(minutes) * _MS_PER_MINUTE


def _offsets(zone_name: str, within: Interval) -> Iterator[tuple[Interval, int]]:
    """Stretches that tile `within`, each with the milliseconds by which local time is ahead of UTC in it."""
    zone = time_zone(zone_name)
    start_ms, ahead_ms = within.start_ms, _ahead_ms(zone, within.start_ms)
    looked_ms = start_ms
    while looked_ms < within.end_ms:
        next_ms = min(looked_ms + _LOOK_MS, within.end_ms)
        then_ms = _ahead_ms(zone, next_ms)
        if then_ms != ahead_ms:
            change_ms = _change_ms(zone, looked_ms, next_ms)
            yield Interval(start_ms, change_ms), ahead_ms
            start_ms, ahead_ms = change_ms, then_ms
        looked_ms = next_ms
    if start_ms < within.end_ms:
        yield Interval(start_ms, within.end_ms), ahead_ms


def _change_ms(zone: ZoneInfo, before_ms: int, after_ms: int) -> int:
    """The first instant of the offset at `after_ms`, by bisection; the offset changes once in between."""
    old_ms = _ahead_ms(zone, before_ms)
    while after_ms - before_ms > 1:
        middle_ms = (before_ms + after_ms) // 2
        if _ahead_ms(zone, middle_ms) == old_ms:
            before_ms = middle_ms
        else:
            after_ms = middle_ms
    return after_ms


def _ahead_ms(zone: ZoneInfo, at_ms: int) -> int:
    """By how much local time is ahead of UTC at an instant (negative west of Greenwich)."""
    ahead = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone).utcoffset()
    return 0 if ahead is None else ahead // timedelta(milliseconds=1)
