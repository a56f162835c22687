"""Exact numbers in plain English: nothing is rounded here, since a term sheet that rounds says something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scheduler.core.instruments import LocalTime
from scheduler.core.profiles import time_zone
from scheduler.core.quantities import MS_PER_HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms"))


def length(length_ms: int) -> str:
    """`3 d`, `2 h 5 min`, `10 s`, `0 s`: every unit there is."""
    parts = []
    for unit_ms, unit in _UNITS:
        whole, length_ms = divmod(length_ms, unit_ms)
        if whole:
            parts.append(f"{whole:,} {unit}")
    return " ".join(parts) or "0 s"


def decimal(number: int, places: int, least: int = 0) -> str:
    """`number` × 10^-places without needless zeros, with at least so many decimals."""
    whole, rest = divmod(abs(number), 10**places)
    digits = f"{rest:0{places}d}".rstrip("0").ljust(least, "0") if places else ""
    return f"{'-' if number < 0 else ''}{whole:,}{'.' if digits else ''}{digits}"


def percent(ppm: int) -> str:
    """`90 %`, `99.5 %`."""
    return f"{decimal(ppm, 4)} %"


def money(micro: int, currency: str) -> str:
    """`2.00 USD`, `0.333333 USD`."""
    return f"{decimal(micro, 6, 2)} {currency}"


def quantity(gpu_ms: int) -> str:
    """`8 GPU-hours`; in GPU-seconds where hours have no end."""
    if gpu_ms * 1_000 % MS_PER_HOUR == 0:
        hours = gpu_ms * 1_000 // MS_PER_HOUR
        return f"{decimal(hours, 3)} GPU-hour{'' if hours == 1_000 else 's'}"
    return f"{decimal(gpu_ms, 3)} GPU-seconds"


def counted(number: int, noun: str) -> str:
    """`1 GPU`, `8 GPUs`, `1,000 times`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def joined(items: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`: all of them."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


@dataclass(frozen=True, slots=True)
class Clock:
    """How instants are shown: UTC, and beside it what a clock on the wall of `zone` shows; empty: UTC alone."""

    zone: str = ""

    def instant(self, at_ms: int) -> str:
        """`2027-01-01 07:00 UTC (2027-01-01 08:00 Europe/Berlin)`. Raises UnknownName for the zone."""
        at = _EPOCH + timedelta(milliseconds=at_ms)
        shown = f"{_shown(at)} UTC"
        return f"{shown} ({_shown(at.astimezone(time_zone(self.zone)))} {self.zone})" if self.zone else shown


def _shown(at: datetime) -> str:
    digits = f".{at.microsecond // 1_000:03d}" if at.microsecond else ""
    seconds = f":{at.second:02d}{digits}" if at.second or digits else ""
    return f"{at:%Y-%m-%d %H:%M}{seconds}"


def wall(start: LocalTime, end: LocalTime) -> str:
    """`08:00 to 20:00`, and that an end at or before the start is the next day's."""
    return f"{start} to {end}{' of the next day' if end <= start else ''}"
