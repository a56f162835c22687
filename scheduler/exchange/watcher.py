"""Positions in: a thread that keeps the scheduler's positions those of the exchange, across every loss of either.

It takes a snapshot where there is no cursor yet or the exchange keeps the events after it no longer, and watches from
the cursor otherwise. Losing the exchange takes nothing from anybody: positions stay as last known and the watcher dials
again, with longer and longer pauses. An exchange that contradicts itself (a gap, another event at a known place, more
lots than there are) is refused: the watcher freezes, visibly, and what was known stays.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from scheduler.core.errors import Refused, SequenceGap, TenorError, Unavailable
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.positions import Cursor, Position, PositionEvent
from scheduler.exchange.client import Alive, ExchangeClient, Told, Watch
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.silence import QUIET_S, Silence
from scheduler.exchange.tls import Tls

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
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


class Watcher:
    """See the module. `cursor`: the last event that the learner has; None: take a snapshot first."""

    def __init__(
        self,
        address: str,
        learner: Learner,
        stream: str = "",
        *,
        cursor: Cursor | None = None,
        chance: random.Random | None = None,
        tls: Tls | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._address = address
        self._tls = tls
        self._quiet_s = quiet_s
        self._learner = learner
        self._stream = stream
        self._chance = chance or random.Random()
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._status = WatchStatus(WatchState.CONNECTING, cursor)
        self._open: Watch | None = None
        self._heard = 0  # how many messages
        self._gap: tuple[Cursor | None, int] = (None, 0)  # after which cursor, and how often in a row
        self._thread = threading.Thread(target=self._run, name="exchange-watcher", daemon=True)

    def start(self) -> Self:
        """Begins; gives itself."""
        self._thread.start()
        return self

    def status(self) -> WatchStatus:
        """How it stands."""
        with self._guard:
            return self._status

    def stop(self) -> None:
        """Ends the thread and waits for it. Stopping twice does nothing."""
        self._stop.set()
        with self._guard:
            watch = self._open
        if watch is not None:
            watch.cancel()
        if self._thread.is_alive():
            self._thread.join()
        if self.status().state is not WatchState.FROZEN:
            self._note(state=WatchState.STOPPED)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            heard = self._heard
            if not self._followed():
                return
            if self._heard != heard:
                pause_s = FIRST_PAUSE_S
            self._stop.wait(pause_s * self._chance.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _followed(self) -> bool:
        """One connection, from its beginning to its end; False where there must not be another."""
        try:
            if self._tls is not None:
                self._tls.check()
            with ExchangeClient(self._address, tls=self._tls) as client:
                self._follow(client)
        except CursorCompacted as error:
            self._note(state=WatchState.CONNECTING, cursor=None, detail=str(error))
        except SequenceGap as error:
            cursor = self.status().cursor
            self._gap = (cursor, self._gap[1] + 1 if self._gap[0] == cursor else 1)
            if self._gap[1] >= GAP_TRIES:
                self._note(state=WatchState.FROZEN, detail=f"{error.code}: {error}")
                return False
            self._note(state=WatchState.CONNECTING, detail=f"{error.code}: {error}")
        except Refused as error:
            self._note(state=WatchState.FROZEN, detail=f"{error.code}: {error}")
            return False
        except TenorError as error:
            self._note(state=WatchState.CONNECTING, detail=f"{error.code}: {error}")
        except Exception as error:  # noqa: BLE001 - a fault of ours must be seen, not end a thread in silence
            self._note(state=WatchState.FROZEN, detail=f"unexpected {type(error).__name__}: {error}")
            return False
        return True

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

    def _check_next(self, following: Cursor) -> None:
        """A heartbeat names the event that comes next: one that is further on means that some were left out."""
        cursor = self.status().cursor
        if cursor is not None and (following.epoch, following.seq) != (cursor.epoch, cursor.seq + 1):
            raise SequenceGap(f"{following.stream} epoch {following.epoch}", cursor.seq + 1, following.seq)

    def _note(self, **changes: object) -> None:
        with self._guard:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
