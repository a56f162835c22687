"""Adjustments: what a later version set of the same records changes in money, and how cut-off parts are carried on.

A statement is made again when records are corrected or settled. What was invoiced by the one before stands; the
adjustment says the exact change of each line, and what is to be paid now so that nothing is lost to rounding: the
remainder of one payment goes into the next. Laws (tested): the lines of an adjustment add up to the later statement
less the earlier one, exactly; over any chain of statements what was paid, with the last remainder, is the last total.
"""

from __future__ import annotations

from pydantic import Field

from scheduler.core.ids import Name
from scheduler.core.models import Model
from scheduler.core.settlement import PARTS_PER_MICRO, Line, Statement, difference


class Payment(Model):
    """What is to be paid, rounded towards zero to micro-units, and what was cut off, in parts of `PARTS_PER_MICRO`."""

    amount_micro: int
    remainder: int


class Adjustment(Model):
    """From one statement of a position and period to a later one; the roots are those of their version sets."""

    position: Name
    instrument: str
    currency: str
    start_ms: int
    end_ms: int
    before_root: str = Field(pattern=r"^[0-9a-f]{64}$")
    after_root: str = Field(pattern=r"^[0-9a-f]{64}$")
    lines: tuple[Line, ...]
    amount_micro: int
    """What is to be paid now, the remainder that was carried included."""
    remainder: int
    """What is carried on, in parts of `PARTS_PER_MICRO`."""


def payment(parts: int, carried: int = 0) -> Payment:
    """A payment of an exact amount and what is carried from the one before, both in parts of `PARTS_PER_MICRO`."""
    total = parts + carried
    whole, rest = divmod(abs(total), PARTS_PER_MICRO)
    sign = -1 if total < 0 else 1
    return Payment(amount_micro=sign * whole, remainder=sign * rest)


def first_payment(statement: Statement) -> Payment:
    """What a statement on its own comes to."""
    return payment(sum(line.parts for line in statement.lines))


def adjustment(before: Statement, after: Statement, carried: int | None = None) -> Adjustment:
    """What changes from one statement to a later one. `carried`: the remainder of what was paid last; None: of the
    first payment, by `before`. Raises Conflict where the two are not of one position and period.
    """
    lines = difference(before, after)
    rest = first_payment(before).remainder if carried is None else carried
    paid = payment(sum(line.parts for line in lines), rest)
    return Adjustment(
        position=after.position,
        instrument=after.instrument,
        currency=after.currency,
        start_ms=after.start_ms,
        end_ms=after.end_ms,
        before_root=before.versions_root,
        after_root=after.versions_root,
        lines=lines,
        amount_micro=paid.amount_micro,
        remainder=paid.remainder,
    )
