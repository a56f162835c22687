"""Intervals as leaves and events: those that are due are closed, those that something learnt late changes corrected.

Both give, for each interval, the leaves that go into the log and the event that says where they are; the caller appends
the leaves and folds the event in before it asks for the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scheduler.core.events import IntervalClosed, IntervalCorrected
from scheduler.core.metering.closing import Closing
from scheduler.core.rounds import closing
from scheduler.core.state.state import State
from scheduler.delivery import LogWriter
from scheduler.ledger.journal import Journal


def closed(
    state: State, log: LogWriter, journal: Journal, unsaved: Sequence[bytes], now_ms: int, lag_ms: int
) -> Iterator[tuple[Closing, list[bytes], IntervalClosed]]:
    """Every interval that ended `lag_ms` ago or more. `unsaved`: the leaves that follow those of the journal, as they
    grow.
    """
    for due in closing.due_intervals(state, now_ms, lag_ms):
        found = closing.close(state, due)
        leaves = log.leaves_of(found, now_ms)
        event = IntervalClosed(
            at_ms=now_ms,
            interval_ms=due.interval_ms,
            end_ms=due.interval.end_ms,
            first_leaf=log.size(journal) + len(unsaved),
            leaves=len(leaves),
            planned=closing.planned_in(state, found.records),
        )
        yield found, leaves, event


def corrected(
    state: State,
    log: LogWriter,
    journal: Journal,
    unsaved: Sequence[bytes],
    names: Sequence[str],
    from_ms: int,
    now_ms: int,
) -> Iterator[tuple[list[bytes], IntervalCorrected]]:
    """The records of positions in closed intervals, from an instant on, that are other than they were issued."""
    for interval_ms, again in closing.closed_again(state, names, from_ms):
        end_ms = again.interval.end_ms
        issued = log.issued(journal, unsaved, state.closings, interval_ms, end_ms)
        records = tuple(closing.corrections(again, issued))
        if records:
            event = IntervalCorrected(
                at_ms=now_ms,
                interval_ms=interval_ms,
                end_ms=end_ms,
                first_leaf=log.size(journal) + len(unsaved),
                leaves=len(records),
                planned=closing.planned_in(state, records),
            )
            yield log.leaves_of(replace(again, records=records, pools=()), now_ms), event
