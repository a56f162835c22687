"""Every law, after every event: what `--check` verifies. Each violation is a sentence; none is a warning."""

from __future__ import annotations

from scheduler.core.coverage.ownership import check as coverage_faults
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

    def finish(self, live: bytes, refolded: bytes, chain_ok: bool, now_ms: int) -> None:  # noqa: FBT001
        """The journal folds to the live state, byte for byte, and its chain holds."""
        if live != refolded:
            self._note(now_ms, ("the fold of the journal is not the live state",))
        if not chain_ok:
            self._note(now_ms, ("the journal's chain does not hold",))

    def _note(self, now_ms: int, faults: tuple[str, ...]) -> None:
        self.count += len(faults)
        room = SHOWN - len(self.found)
        self.found += [f"{now_ms}: {fault}" for fault in faults[:room]]
