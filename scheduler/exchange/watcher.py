"""Positions in: a thread that keeps the scheduler's positions those of the exchange, across every loss of either.

It takes a snapshot where there is no cursor yet or the exchange keeps the events after it no longer, and watches from
the cursor otherwise. Losing the exchange takes nothing from anybody: positions stay as last known and the watcher dials
again, with longer and longer pauses. An exchange that contradicts itself (a gap, another event at a known place, more
lots than there are) is refused: the watcher freezes, visibly, and what was known stays.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from scheduler.core.errors import Refused, SequenceGap, TenorError, Unavailable
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.positions import Cursor, Position, PositionEvent
from scheduler.exchange.client import Alive, ExchangeClient, Told, Watch
from scheduler.exchange.dialling import Dialling, said_of
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.silence import QUIET_S, Silence
from scheduler.exchange.tls import Tls

GAP_TRIES = 5
"""So often in a row the same events may be missing: what a connection lost comes when it is asked for again, and an
exchange that lacks them leaves them out each time."""


class Learner(Protocol):
    """Who is told: the scheduler. Each call is durable when it returns; a Refused one changed nothing."""

    def learn_instruments(self, terms: Iterable[InstrumentTerms]) -> None:
        """Terms that the exchange lists; known ones change nothing."""

    def learn_positions(self, cursor: Cursor, positions: Sequence[Position]) -> None:
        """All positions as of a cursor."""

    def learn_event(self, event: PositionEvent) -> None:
        """One event; one that is known changes nothing."""


class WatchState(StrEnum):
    """How the watcher stands."""

    CONNECTING = "connecting"
    WATCHING = "watching"
    FROZEN = "frozen"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """`detail`: the last error, or why it is frozen. `heard_ms`: the exchange's clock when it was last heard."""

    state: WatchState
    cursor: Cursor | None
    detail: str = ""
    heard_ms: int = 0
    snapshots: int = 0


class Watcher(Dialling):
    """See the module. `cursor`: the last event that the learner has; None: take a snapshot first. `clock_heard`: told
    of the exchange's clock with every heartbeat.
    """

    def __init__(
        self,
        address: str,
        learner: Learner,
        stream: str = "",
        *,
        cursor: Cursor | None = None,
        chance: random.Random | None = None,
        tls: Tls | None = None,
        clock_heard: Callable[[int], None] = lambda _: None,
        quiet_s: float = QUIET_S,
    ) -> None:
        super().__init__("exchange-watcher", chance=chance)
        self._address = address
        self._clock_heard = clock_heard
        self._tls = tls
        self._quiet_s = quiet_s
        self._learner = learner
        self._stream = stream
        self._guard = threading.Lock()
        self._status = WatchStatus(WatchState.CONNECTING, cursor)
        self._open: Watch | None = None
        self._heard = 0  # how many messages
        self._gap: tuple[Cursor | None, int] = (None, 0)  # after which cursor, and how often in a row

    def status(self) -> WatchStatus:
        """How it stands."""
        with self._guard:
            return self._status

    def _hang_up(self) -> None:
        with self._guard:
            watch = self._open
        if watch is not None:
            watch.cancel()

    def _stopped(self) -> None:
        if self.status().state is not WatchState.FROZEN:
            self._note(state=WatchState.STOPPED)

    def _progress(self) -> object:
        return self._heard

    def _dial(self) -> None:
        if self._tls is not None:
            self._tls.check()
        with ExchangeClient(self._address, tls=self._tls) as client:
            self._follow(client)

    def _told(self, error: Exception) -> bool:
        match error:
            case CursorCompacted():
                self._note(state=WatchState.CONNECTING, cursor=None, detail=str(error))
                return True
            case SequenceGap():
                cursor = self.status().cursor
                self._gap = (cursor, self._gap[1] + 1 if self._gap[0] == cursor else 1)
                goes_on = self._gap[1] < GAP_TRIES
            case _:
                goes_on = isinstance(error, TenorError) and not isinstance(error, Refused)
        self._note(state=WatchState.CONNECTING if goes_on else WatchState.FROZEN, detail=said_of(error))
        return goes_on

    def _follow(self, client: ExchangeClient) -> None:
        """Learns until the exchange is lost. Raises what the exchange or the learner raises."""
        cursor = self.status().cursor
        if cursor is None:
            cursor = self._take_snapshot(client)
        watch = client.watch(cursor)
        with self._guard:
            self._open = watch
        if self._stop.is_set():
            watch.cancel()
        silence = Silence(watch.cancel, self._quiet_s)
        try:
            with silence:
                for told in watch:
                    self._heard += 1
                    silence.heard()
                    self._learn(told)
        except Unavailable as error:
            if silence.broken:
                raise Unavailable(f"the exchange said nothing for {self._quiet_s:g} s") from error
            raise
        finally:
            with self._guard:
                self._open = None

    def _take_snapshot(self, client: ExchangeClient) -> Cursor:
        snapshot = client.snapshot(self._stream)
        self._learner.learn_instruments(snapshot.instruments)
        self._learner.learn_positions(snapshot.cursor, snapshot.positions)
        self._note(cursor=snapshot.cursor, snapshots=self.status().snapshots + 1)
        return snapshot.cursor

    def _learn(self, told: Told) -> None:
        match told:
            case PositionEvent():
                self._learner.learn_event(told)
                self._note(state=WatchState.WATCHING, cursor=told.cursor, detail="", heard_ms=told.committed_ms)
            case InstrumentTerms():
                self._learner.learn_instruments((told,))
            case Alive():
                self._check_next(told.next)
                self._note(state=WatchState.WATCHING, detail="", heard_ms=told.at_ms)
                self._clock_heard(told.at_ms)

    def _check_next(self, following: Cursor) -> None:
        """A heartbeat names the event that comes next: one that is further on means that some were left out."""
        cursor = self.status().cursor
        if cursor is not None and (following.epoch, following.seq) != (cursor.epoch, cursor.seq + 1):
            raise SequenceGap(f"{following.stream} epoch {following.epoch}", cursor.seq + 1, following.seq)

    def _note(self, **changes: object) -> None:
        with self._guard:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
