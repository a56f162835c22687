"""Calendar days as milliseconds since 1970, UTC: the traces speak in dates, the scheduler in instants."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import MS_PER_DAY

_EPOCH = date(1970, 1, 1)


def day_start_ms(day: date) -> int:
    """The day's first instant."""
    return (day - _EPOCH).days * MS_PER_DAY


def day_of(at_ms: int) -> date:
    """The day that holds an instant."""
    return _EPOCH + timedelta(days=at_ms // MS_PER_DAY)


def parse_day(text: str, what: str, which: str) -> date:
    """A day written as 2017-10-02. Raises InvalidValue that names `what` of `which`."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise InvalidValue(what, which, text, "a date as 2017-10-02") from None
