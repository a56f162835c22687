"""What the meter may say of time that it did not see: the gap rule.

The validation, estimation and editing of power meters, reduced to what a fleet needs: up to two missing readings
between equal states are taken to have been as before and after, and say so (ESTIMATED); any longer gap, or one across
which something changed, is unknown, and what is unknown at FINAL counts against the owner of the meter.
"""

from __future__ import annotations

from enum import IntEnum

from scheduler.core.quantities import ceil_div

MOST_ESTIMATED_READINGS = 2
MOST_CLOCK_ERROR_MS = 1_000


class Sight(IntEnum):
    """How the meter knows the fleet's state at an instant. The numbers are stored in snapshots."""

    OBSERVED = 0
    ESTIMATED = 1
    NOT_OBSERVED = 2
    SUSPECT = 3
    """Observed by a clock that was more than `MOST_CLOCK_ERROR_MS` wrong: states are kept, the record is SUSPECT."""


def missing_readings(gap_ms: int, reading_ms: int) -> int:
    """How many readings, due every `reading_ms`, are missing between two that are `gap_ms` apart."""
    return max(0, ceil_div(gap_ms, reading_ms) - 1)


def bridged(gap_ms: int, reading_ms: int, *, same_state: bool) -> bool:
    """Whether the gap between two readings may be estimated; `same_state`: the one after it equals the one before."""
    return same_state and missing_readings(gap_ms, reading_ms) <= MOST_ESTIMATED_READINGS


def sight_of_clock(error_ms: int) -> Sight:
    """How readings by a clock with this error are to be taken."""
    return Sight.SUSPECT if abs(error_ms) > MOST_CLOCK_ERROR_MS else Sight.OBSERVED
