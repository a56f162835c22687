"""What is remembered of intervals that were closed, and of what coverage certificates tell of them."""

from __future__ import annotations

from typing import NamedTuple, Self

from scheduler.core.events import IntervalClosed, IntervalCorrected


class ClosedInterval(NamedTuple):
    """A closed metering interval of one length: leaves `first_leaf` .. `first_leaf + leaves - 1` say what it held."""

    interval_ms: int
    end_ms: int
    first_leaf: int
    leaves: int

    @classmethod
    def of(cls, event: IntervalClosed | IntervalCorrected) -> Self:
        """The one that an event tells of."""
        return cls(event.interval_ms, event.end_ms, event.first_leaf, event.leaves)


class Bind(NamedTuple):
    """A gang inside its account's entitlement was bound: when, in which pool, and how long after it was placed."""

    at_ms: int
    pool: int
    took_ms: int
