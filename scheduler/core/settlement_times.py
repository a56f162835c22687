"""When a record is provisional, initial and final, and until when it may change: instants, from the terms alone.

A settlement period is the window (DELIVERY_END), a UTC day or a UTC month of it. For an interval that ends at `e` in a
period that ends at `p`:

    e                                       PROVISIONAL or INITIAL: as it is closed, with or without all facts
    e + initial_after                       INITIAL at the latest: what is missing now counts as it was seen
    p + final_after                         FINAL
    p + final_after + dispute               what was final changes no more; disputes opened before are still answered

Law: the four never decrease, in this order, and never as intervals go on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_never

from scheduler.core.instruments import InstrumentTerms, SettlementCalendar
from scheduler.core.quantities import MS_PER_DAY, ceil_div, floor_div


def period_end_ms(terms: InstrumentTerms, end_ms: int) -> int:
    """The end of the settlement period of the interval that ends at `end_ms`; never after the window's."""
    match terms.settlement_calendar:
        case SettlementCalendar.DELIVERY_END:
            return terms.window.end_ms
        case SettlementCalendar.DAILY:
            return min(ceil_div(end_ms, MS_PER_DAY) * MS_PER_DAY, terms.window.end_ms)
        case SettlementCalendar.MONTHLY:
            return min(_month_after_ms(end_ms - 1), terms.window.end_ms)
        case _:
            assert_never(terms.settlement_calendar)


def initial_ms(terms: InstrumentTerms, end_ms: int) -> int:
    """When the record of the interval that ends at `end_ms` is INITIAL at the latest."""
    return end_ms + terms.settlement.initial_after_s * 1_000


def final_ms(terms: InstrumentTerms, end_ms: int) -> int:
    """When it is FINAL."""
    return period_end_ms(terms, end_ms) + terms.settlement.final_after_s * 1_000


def last_change_ms(terms: InstrumentTerms, end_ms: int) -> int:
    """Until when a dispute may be opened, and something learnt late correct it."""
    return final_ms(terms, end_ms) + terms.settlement.dispute_s * 1_000


def final_through_ms(terms: InstrumentTerms, now_ms: int) -> int:
    """Until when intervals are due to be FINAL: all that end by then are, and no other. 0: none yet."""
    known_ms = now_ms - terms.settlement.final_after_s * 1_000
    if known_ms >= terms.window.end_ms:
        return terms.window.end_ms
    match terms.settlement_calendar:
        case SettlementCalendar.DELIVERY_END:
            return 0
        case SettlementCalendar.DAILY:
            return max(0, floor_div(known_ms, MS_PER_DAY) * MS_PER_DAY)
        case SettlementCalendar.MONTHLY:
            return _month_ms(known_ms)
        case _:
            assert_never(terms.settlement_calendar)


def next_final_ms(terms: InstrumentTerms, now_ms: int) -> int | None:
    """The next instant after `now_ms` at which more becomes FINAL; None: all is."""
    through_ms = max(final_through_ms(terms, now_ms), terms.window.start_ms)
    return None if through_ms >= terms.window.end_ms else final_ms(terms, through_ms + 1)


def _month_ms(at_ms: int) -> int:
    """The beginning of the UTC month; 0 before the epoch."""
    if at_ms < 0:
        return 0
    month = datetime.fromtimestamp(floor_div(at_ms, 1_000), UTC)
    return int(datetime(month.year, month.month, 1, tzinfo=UTC).timestamp()) * 1_000


def _month_after_ms(at_ms: int) -> int:
    month = datetime.fromtimestamp(floor_div(at_ms, 1_000), UTC)
    year, number = (month.year + 1, 1) if month.month == 12 else (month.year, month.month + 1)
    return int(datetime(year, number, 1, tzinfo=UTC).timestamp()) * 1_000


def unchangeable_until_ms(terms: InstrumentTerms, now_ms: int) -> int | None:
    """Until when nothing can change records any more, neither a late fact nor a dispute that may still be opened;
    None: all of the window is beyond change.
    """
    settled_ms = final_through_ms(terms, now_ms - terms.settlement.dispute_s * 1_000)
    return settled_ms if settled_ms < terms.window.end_ms else None
