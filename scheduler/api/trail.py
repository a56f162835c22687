"""What happened to each gang's attempts before, as the journal has it: the state keeps only the current one.

Read from the journal on demand and kept, so that an answer costs only the events that are new; and only durable ones,
so that nobody is told what a crash could undo. The last few attempts of each gang are kept.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from scheduler.core.events import GangEnded, GangPlaced, GangStarted, GangStopAsked, decode
from scheduler.core.workloads import StopCause
from scheduler.ledger.journal import Journal

REMEMBERED = 5
_KINDS = frozenset({"gang_placed", "gang_started", "gang_stop_asked", "gang_ended"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a gang.

    `waits_for`: who made way for it; `for_gang`: whom it made way for; `is_over` without an exit code: it was lost.
    """

    number: int
    placed_ms: int
    nodes: tuple[str, ...]
    inside: bool
    waits_for: tuple[str, ...] = ()
    started_ms: int | None = None
    stop_cause: StopCause | None = None
    stop_asked_ms: int | None = None
    deadline_ms: int | None = None
    for_gang: str | None = None
    ended_ms: int | None = None
    exit_code: int | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether its end was seen."""
        return self.ended_ms is not None


class Trail:
    """The attempts of every gang. May be asked from any thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._guard = threading.Lock()
        self._seq = 0
        self._attempts: dict[str, list[Attempt]] = {}

    def of(self, gang: str) -> tuple[Attempt, ...]:
        """The last attempts of a gang, oldest first, as the journal is now."""
        with self._guard:
            self._catch_up()
            return tuple(self._attempts.get(gang, ()))

    def _catch_up(self) -> None:
        for entry in self._journal.read(self._seq, verify=False):
            if entry.kind in _KINDS:
                self._note(decode(entry.version, entry.body))
            self._seq = entry.seq

    def _note(self, event: object) -> None:
        match event:
            case GangPlaced():
                nodes = tuple(dict.fromkeys(piece.node for piece in event.pieces))
                attempts = self._attempts.setdefault(event.gang, [])
                attempts.append(Attempt(event.attempt, event.at_ms, nodes, event.inside, event.waits_for))
                del attempts[:-REMEMBERED]
            case GangStarted():
                self._change(event.gang, event.attempt, started_ms=event.at_ms)
            case GangStopAsked():
                self._change(
                    event.gang,
                    event.attempt,
                    stop_cause=event.cause,
                    stop_asked_ms=event.at_ms,
                    deadline_ms=event.deadline_ms,
                    for_gang=event.for_gang,
                )
            case GangEnded():
                self._change(
                    event.gang,
                    event.attempt,
                    ended_ms=event.at_ms,
                    exit_code=event.exit_code,
                    detail=event.detail,
                )
            case _:
                pass

    def _change(self, gang: str, number: int, **changes: object) -> None:
        attempts = self._attempts.get(gang, [])
        for at, attempt in enumerate(attempts):
            if attempt.number == number and not attempt.is_over:
                attempts[at] = replace(attempt, **changes)  # type: ignore[arg-type]
