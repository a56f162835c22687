"""Every law, after every event: what `--check` verifies. Each violation is a sentence; none is a warning."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.coverage.ownership import check as coverage_faults
from scheduler.core.errors import Damaged
from scheduler.core.events import Event
from scheduler.core.metering.records import MeterRecord, broken_identities
from scheduler.core.placement.laws import violations
from scheduler.core.state.state import State

SHOWN = 50


class LawChecker:
    """Collects violations over a run; `count` goes on where `found` stops."""

    def __init__(self) -> None:
        self.count = 0
        self.found: list[str] = []
        self._last_end_ms: dict[str, int] = {}
        self._holdings: object = None

    def on_event(self, event: Event) -> None:
        """Single events break no law; see `after_round`."""

    def after_round(self, state: State, now_ms: int) -> None:
        """Placement's laws on every round; the calendar's whenever it changed."""
        self._note(now_ms, violations(state.snapshot(now_ms)))
        if self._holdings is not state.calendar.holdings:
            self._holdings = state.calendar.holdings
            self._note(now_ms, coverage_faults(state.fleet, state.calendar.holdings))

    def on_records(self, records: tuple[MeterRecord, ...], now_ms: int) -> None:
        """Conservation of every record, and that a position's records tile its delivery without overlap."""
        for record in records:
            self._note(now_ms, broken_identities(record))
            last_ms = self._last_end_ms.get(record.position)
            if last_ms is not None and record.start_ms < last_ms:
                self._note(
                    now_ms, (f"{record.position}: records overlap at {record.start_ms}, the last ended {last_ms}",)
                )
            self._last_end_ms[record.position] = record.end_ms

    def finish(self, live: bytes, refold: Callable[[], bytes], now_ms: int) -> None:
        """The journal's chain holds, and it folds to the live state, byte for byte."""
        try:
            if live != refold():
                self._note(now_ms, ("the fold of the journal is not the live state",))
        except Damaged as error:
            self._note(now_ms, (f"the journal cannot be read back: {error}",))

    def _note(self, now_ms: int, faults: tuple[str, ...]) -> None:
        self.count += len(faults)
        room = SHOWN - len(self.found)
        self.found += [f"{now_ms}: {fault}" for fault in faults[:room]]
