"""Numbers in plain English: lengths of time, instants, GPUs, lists. Deterministic, UTC, nothing but the standard
library.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.core.cluster import Level
    from scheduler.core.workloads import GangSpec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))


def duration(length_ms: int) -> str:
    """`850 ms`, `12 s`, `4 min 10 s`, `2 h 5 min`, `3 d`: the two largest units, rounded down."""
    if abs(length_ms) < _UNITS[-1][1]:
        return f"{length_ms} ms"
    sign, rest = ("-", -length_ms) if length_ms < 0 else ("", length_ms)
    for at, (unit, unit_ms) in enumerate(_UNITS):
        if rest >= unit_ms:
            whole, rest = divmod(rest, unit_ms)
            lesser = f" {rest // _UNITS[at + 1][1]} {_UNITS[at + 1][0]}" if at + 1 < len(_UNITS) else ""
            return f"{sign}{whole} {unit}" + ("" if lesser.startswith(" 0 ") else lesser)
    raise AssertionError("every length has a unit")


def instant(at_ms: int, now_ms: int | None = None) -> str:
    """`2027-01-01 12:00:00 UTC`; where it is the day of `now_ms`, only `12:00:00 UTC`."""
    at = _EPOCH + timedelta(milliseconds=at_ms)
    today = now_ms is not None and (_EPOCH + timedelta(milliseconds=now_ms)).date() == at.date()
    return at.strftime("%H:%M:%S UTC" if today else "%Y-%m-%d %H:%M:%S UTC")


def count(number: int, noun: str) -> str:
    """`1 GPU`, `8 GPUs`, `1 node`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def gpus(number: int) -> str:
    """`1 GPU`, `8 GPUs`."""
    return count(number, "GPU")


def gpu_hours(gpu_ms: int) -> str:
    """`12.5 GPU-hours`, with one digit, rounded down."""
    tenths = gpu_ms * 10 // 3_600_000
    return f"{tenths // 10}.{tenths % 10} GPU-hours"


def level_name(level: Level) -> str:
    """`node`, `NVLink domain`, `fabric block`."""
    return level.name.lower().replace("_", " ").replace("nvlink", "NVLink").replace("gpu", "GPU")


def asked_size(spec: GangSpec) -> str:
    """`1 worker of 8 GPUs`, `2 to 4 workers of 8 GPUs`, `300 milli of 1 GPU`."""
    if spec.is_share:
        return f"{spec.gpu_milli} milli of 1 GPU"
    least = f"{spec.least_workers} to " if spec.is_elastic else ""
    return f"{least}{count(spec.workers, 'worker')} of {gpus(spec.gpus_per_worker)}"


def listed(items: Sequence[str], most: int = 4) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c, d and 7 more`."""
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"{len(items) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `0-3,6`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
