"""Payments along a chain of statements: nothing is lost to rounding, whatever was corrected in between."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.adjustments import adjustment, first_payment, payment
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.records import MeterRecord
from scheduler.core.settlement import PARTS_PER_MICRO, Statement
from tests.core.test_settlement import contracts, metered_hours, settled


def exact(statement: Statement) -> int:
    return sum(line.parts for line in statement.lines)


@given(contracts, st.lists(metered_hours(), min_size=2, max_size=4))
def test_what_was_paid_with_the_last_remainder_is_the_last_total(
    of: InstrumentTerms, sets: list[list[MeterRecord]]
) -> None:
    chain = [settled(records, of) for records in sets]
    paid = first_payment(chain[0])
    total, carried = paid.amount_micro, paid.remainder
    for before, after in pairwise(chain):
        changed = adjustment(before, after, carried)
        assert sum(line.parts for line in changed.lines) == exact(after) - exact(before)
        total, carried = total + changed.amount_micro, changed.remainder
        assert abs(carried) < PARTS_PER_MICRO
    assert total * PARTS_PER_MICRO + carried == exact(chain[-1])


@given(st.lists(st.integers(-(10**30), 10**30), min_size=1, max_size=6))
def test_payments_of_statement_after_statement_carry_what_was_cut_off(amounts: list[int]) -> None:
    paid = carried = 0
    for parts in amounts:
        each = payment(parts, carried)
        paid, carried = paid + each.amount_micro, each.remainder
    assert paid * PARTS_PER_MICRO + carried == sum(amounts)
    assert abs(carried) < PARTS_PER_MICRO


@given(contracts, metered_hours())
def test_nothing_is_adjusted_where_nothing_changed(of: InstrumentTerms, records: list[MeterRecord]) -> None:
    same = adjustment(settled(records, of), settled(records, of), 0)
    assert (same.lines, same.amount_micro, same.remainder) == ((), 0, 0)
