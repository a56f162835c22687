"""What people type on a command line, as values: lengths of time, instants, variables. Nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import typer

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+)(ms|min|[smhd])")
_LONGEST_MS = 315_360_000_000
_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S")


def duration_ms(text: str) -> int:
    """`90s`, `10m`, `1h30m`, `2d` or `500ms` in ms. Raises BadParameter."""
    parts = _PART.findall(text)
    length_ms = sum(int(number) * _UNIT_MS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"was {text!r}, expected a length of time with its unit, as 90s, 10m, 2h or 1h30m")
    if length_ms > _LONGEST_MS:
        raise typer.BadParameter(f"was {text!r}, expected ten years at most")
    return length_ms


def instant_ms(text: str) -> int:
    """`2027-01-01`, `2027-01-01T12:00[:00]` (UTC; `Z` may follow) or ms since 1970. Raises BadParameter."""
    if text.isdecimal() and len(text) >= 12:
        return int(text)
    for form in _FORMS:
        try:
            at = datetime.strptime(text.removesuffix("Z"), form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return int(at.timestamp()) * 1_000
    raise typer.BadParameter(f"was {text!r}, expected an instant in UTC as 2027-01-01 or 2027-01-01T12:00")


def moment_ms(text: str) -> int:
    """An instant, or a length of time from now on (`10m`). Raises BadParameter."""
    if _PART.match(text) and not text[:4].isdecimal():
        return now_ms() + duration_ms(text)
    try:
        return instant_ms(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error.message}, or a length of time from now on, as 10m") from None


def now_ms() -> int:
    """UTC ms now, by this machine's clock."""
    from scheduler.clock import wall_clock_ms

    return wall_clock_ms()


def variables(given: Sequence[str]) -> dict[str, str]:
    """`K=V` each, the last one of a name counts. Raises BadParameter."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise typer.BadParameter(f"was {each!r}, expected NAME=VALUE", param_hint="'--env'")
        found[name] = value
    return found


_LEVELS = {"node": "node", "domain": "nvlink_domain", "block": "fabric_block", "site": "site"}


def failure_domain(given: str) -> str:
    """The level's name on the wire of `node`, `domain`, `block` or `site`. Raises BadParameter."""
    if given and given not in _LEVELS:
        raise typer.BadParameter(f"was {given!r}, expected one of {', '.join(_LEVELS)}")
    return _LEVELS.get(given, "")


def topology(given: str, option: str = "--topology") -> tuple[str, bool]:
    """(level, required) of `node`, `domain`, `block` or `site`, `:required` or not. Raises BadParameter."""
    level, colon, strictness = given.partition(":")
    if level not in _LEVELS or (colon and strictness != "required"):
        raise typer.BadParameter(
            f"was {given!r}, expected one of {', '.join(_LEVELS)}, as domain or domain:required",
            param_hint=f"'{option}'",
        )
    return _LEVELS[level], bool(colon)


def gpu_count(text: str) -> Decimal:
    """`8`, or a part of one GPU in thousandths at the finest: `0.25`. Raises BadParameter."""
    try:
        count = Decimal(text)
    except InvalidOperation:
        count = Decimal(-1)
    whole = count == count.to_integral_value() if count.is_finite() else False
    if not count.is_finite() or count <= 0 or (not whole and (count > 1 or count * 1_000 % 1 != 0)):
        raise typer.BadParameter(f"was {text!r}, expected a number of GPUs, or a part of one as 0.25")
    return count


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers a job starts with: `least` where not all of the `most` fit."""

    least: int
    most: int


def worker_counts(text: str) -> Workers:
    """`4`, or `2..4` for the least and the most. Raises BadParameter."""
    least, dots, most = text.partition("..")
    if not least.isdecimal() or (dots and not most.isdecimal()) or not 1 <= int(least) <= int(most or least):
        raise typer.BadParameter(f"was {text!r}, expected a number of workers, or the least and the most as 2..4")
    return Workers(int(least), int(most or least))


@dataclass(frozen=True, slots=True)
class Size:
    """How large a job is: as the client's `submit` takes it."""

    workers: int
    gpus_per_worker: int
    min_workers: int | None
    gpu_milli: int | None


def size(gpus: Decimal | None, workers: Workers | None, gpus_per_worker: int | None) -> Size:
    """The size of a job from what was given of the three. Raises BadParameter."""
    milli = int(gpus * 1_000) if gpus is not None and gpus < 1 else None
    whole = 1 if milli else None if gpus is None else int(gpus)
    most, each = gang_shape(whole, workers.most if workers else None, gpus_per_worker)
    least = workers.least if workers and workers.least < workers.most else None
    return Size(most, each, least, milli)


def gang_shape(gpus: int | None, workers: int | None, gpus_per_worker: int | None) -> tuple[int, int]:
    """(workers, GPUs of each) from what was given of the three; one GPU where nothing was. Raises BadParameter."""
    if gpus is None:
        return workers or 1, gpus_per_worker or 1
    if gpus_per_worker is not None and workers is None:
        workers = -(-gpus // gpus_per_worker)
    workers = workers or 1
    each = gpus_per_worker or gpus // workers
    if workers * each != gpus:
        raise typer.BadParameter(
            f"{gpus} GPUs are not {workers} workers of {each}: give numbers that multiply", param_hint="'--gpus'"
        )
    return workers, each
