"""Positions: how many lots of one instrument one account owns, as the exchange says, over time.

An exchange tells of positions in sequenced events; `fold` turns them into positions. A position is a step function of
lots: it begins with a trade, a transfer or a split at `effective_ms` and ends at expiry. Laws: transfers and splits
conserve lots at every instant; no position is ever negative; the fold of a snapshot and the events after it equals the
fold of all; the same event twice is the same as once; what is refused changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, assert_never

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from scheduler.core.errors import Conflict, Equivocation, Fenced, InvalidValue, Oversold, SequenceGap, UnknownName
from scheduler.core.ids import Name
from scheduler.core.intervals import StepFunction
from scheduler.core.models import Model

MOST_GRADES = 64
"""As many as terms may list."""


class PositionEventKind(StrEnum):
    """What happened to a position."""

    TRADE = "trade"
    TRANSFER = "transfer"
    SPLIT = "split"
    EXPIRY = "expiry"
    CORRECTION = "correction"
    CONSENT = "consent"


class Cursor(Model):
    """A place in an exchange's stream: `seq` is dense from 1 within an epoch; a new epoch fences the old publisher."""

    stream: Name
    epoch: int = Field(ge=1)
    seq: int = Field(ge=0)


class PositionEvent(Model):
    """One sequenced fact about positions, in one form for all kinds.

    TRADE: `position` comes into being with `lots` for `account` from `effective_ms`. TRANSFER: `lots` leave `source`
    for the new `position` of another `account`. SPLIT: the same for the same account. EXPIRY: `position` has no lots
    from `effective_ms` on (`lots` is 0). CORRECTION: `position` has `lots` from `effective_ms` on, as the exchange now
    says. CONSENT: `position` may be delivered in `grades` from `effective_ms` on, where its terms ask for consent
    (`lots` is 0). `source` is given for TRANSFER and SPLIT alone, `grades` for CONSENT alone.
    """

    cursor: Cursor
    kind: PositionEventKind
    position: Name
    source: Name | None = None
    account: Name
    instrument: str = Field(min_length=1, max_length=300)
    lots: int = Field(ge=0, le=10_000_000)
    effective_ms: int = Field(ge=0)
    committed_ms: int = Field(ge=0, description="When the exchange made it durable.")
    grades: tuple[Name, ...] = Field(default=(), max_length=MOST_GRADES)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Came later than the other fields: events without it keep the bytes that they had."""
        plain: dict[str, Any] = written(self)
        if not self.grades:
            del plain["grades"]
        return plain


class Position(Model):
    """One position: `lots` are (instant, lots from then on) steps, `consents` (grade, from when on its owner agrees to
    it), by grade.
    """

    id: Name
    account: Name
    instrument: str
    acquired_ms: int
    lots: tuple[tuple[int, int], ...]
    consents: tuple[tuple[Name, int], ...] = Field(default=(), max_length=MOST_GRADES)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As of position events."""
        plain: dict[str, Any] = written(self)
        if not self.consents:
            del plain["consents"]
        return plain

    @property
    def lots_over_time(self) -> StepFunction:
        """Lots as a step function."""
        return StepFunction(self.lots)

    def lots_at(self, at_ms: int) -> int:
        """Lots at an instant."""
        return self.lots_over_time.at(at_ms)


REMEMBERED = 100_000
"""How many applied events a book can still tell from others with the same `seq`; older repeats pass as repeats."""


class PositionBook:
    """All positions of one exchange's stream, folded in place event by event.

    It is mutable so that an event costs the same whatever the number of positions; it has one writer, and readers see
    `positions` (a live, read-only view) or take `snapshot`. `apply` either changes everything that an event says or,
    where it raises, nothing.
    """

    __slots__ = ("_cursor", "_digests", "_positions")

    def __init__(self) -> None:
        self._positions: dict[str, Position] = {}
        self._cursor: Cursor | None = None
        self._digests: dict[int, bytes] = {}  # by seq, of the current epoch's events that were applied here

    @classmethod
    def of(
        cls, cursor: Cursor, positions: Iterable[Position], digests: Mapping[int, bytes] = MappingProxyType({})
    ) -> PositionBook:
        """The book as a snapshot says it is at a cursor; `digests` as that of another book, to tell repeats by.

        Raises Conflict where two positions share a name, InvalidValue where a position's steps are not lots over time.
        """
        book = cls()
        book._cursor = cursor
        book._digests = dict(digests)
        for position in positions:
            if position.id in book._positions:
                raise Conflict(f"position {position.id!r} is twice in the snapshot at {_shown(cursor)}")
            if any(lots < 0 for _, lots in position.lots_over_time.steps):
                raise InvalidValue("lots", position.id, position.lots, "0 or more at every instant")
            book._positions[position.id] = position
        return book

    @property
    def cursor(self) -> Cursor | None:
        """The last event that is in the book; None while it is empty and new."""
        return self._cursor

    @property
    def positions(self) -> Mapping[str, Position]:
        """All positions by name, ended ones too, in order of first appearance: a live, read-only view."""
        return MappingProxyType(self._positions)

    @property
    def digests(self) -> Mapping[int, bytes]:
        """SHA-256 by `seq` of the current epoch's remembered events: what a repeat is held against."""
        return MappingProxyType(self._digests)

    def snapshot(self) -> tuple[Position, ...]:
        """All positions as they are now, by name."""
        return tuple(self._positions[name] for name in sorted(self._positions))

    def copy(self) -> PositionBook:
        """A book that goes its own way from here."""
        other = PositionBook()
        other._positions = dict(self._positions)
        other._cursor = self._cursor
        other._digests = dict(self._digests)
        return other

    def check_snapshot(self, cursor: Cursor, positions: Iterable[Position]) -> None:
        """Looks whether a snapshot may take this book's place.

        Raises Conflict where it would take events back that are known, Equivocation where it is at this book's cursor
        and has other positions.
        """
        last = self._cursor
        if last is None:
            return
        if cursor.stream != last.stream or (cursor.epoch, cursor.seq) < (last.epoch, last.seq):
            raise Conflict(f"the snapshot is at {_shown(cursor)}, expected {_shown(last)} or later")
        told = {each.id: each for each in positions}
        for name in sorted(told.keys() | self._positions.keys()) if cursor == last else ():
            ours, theirs = self._positions.get(name), told.get(name)
            if ours is None or theirs is None:
                either = ours or theirs
                agree = either is not None and _end_ms(either) is not None  # who is over may be left out
            else:
                agree = _content(ours) == _content(theirs)
            if not agree:
                raise Equivocation(f"the snapshot at {_shown(cursor)} says something else of {name} than the events do")

    def apply(self, event: PositionEvent, instruments: Container[str] | None = None) -> bool:
        """Fold one event in; False where it was in the book already. `instruments`: those there are; None: not checked.

        Raises SequenceGap, Fenced or Equivocation for an event that is out of order, Oversold for more lots than the
        source holds at any instant from `effective_ms` to its end, UnknownName for an instrument or position that is
        not there, Conflict for a position that is there already, InvalidValue for fields that contradict each other.
        """
        digest = hashlib.sha256(event.model_dump_json().encode()).digest()
        if self._is_repeat(event.cursor, digest):
            return False
        if instruments is not None and event.instrument not in instruments:
            raise UnknownName("instrument", event.instrument)
        for position in self._changed(event):
            self._positions[position.id] = position
        if self._cursor is None or event.cursor.epoch != self._cursor.epoch:
            self._digests.clear()
        self._cursor = event.cursor
        self._digests[event.cursor.seq] = digest
        self._digests.pop(event.cursor.seq - REMEMBERED, None)
        return True

    def _is_repeat(self, cursor: Cursor, digest: bytes) -> bool:
        """Whether the event is in the book already; False: it is the next one. Raises where it is neither."""
        last = self._cursor
        if last is None or (cursor.stream == last.stream and cursor.epoch > last.epoch):
            if cursor.seq != 1:  # an epoch that is new to us begins at its beginning
                raise SequenceGap(f"{cursor.stream} epoch {cursor.epoch}", 1, cursor.seq)
            return False
        if cursor.stream != last.stream:
            raise Conflict(f"stream of {_shown(cursor)} was {cursor.stream!r}, expected {last.stream!r}")
        if cursor.epoch < last.epoch:
            raise Fenced(f"epoch of {_shown(cursor)} was {cursor.epoch}, expected {last.epoch} or later")
        if cursor.seq > last.seq + 1:
            raise SequenceGap(f"{cursor.stream} epoch {cursor.epoch}", last.seq + 1, cursor.seq)
        if cursor.seq == last.seq + 1:
            return False
        if cursor.seq < 1:
            raise InvalidValue("seq", f"an event of {cursor.stream}", cursor.seq, "1 or more")
        if self._digests.get(cursor.seq, digest) != digest:
            raise Equivocation(f"the event at {_shown(cursor)} came again with other content")
        return True

    def _changed(self, event: PositionEvent) -> tuple[Position, ...]:
        """The positions as they are after the event, those that it changes."""
        if event.grades and event.kind is not PositionEventKind.CONSENT:
            raise InvalidValue("grades", _which(event), event.grades, "none: it is no consent")
        match event.kind:
            case PositionEventKind.TRADE:
                self._require_new(event)
                _require_lots(event)
                _require_source(event, wanted=False)
                return (_position(event, event.committed_ms, ((event.effective_ms, event.lots),)),)
            case PositionEventKind.TRANSFER | PositionEventKind.SPLIT:
                return self._moved(event)
            case PositionEventKind.EXPIRY:
                if event.lots:
                    raise InvalidValue("lots", f"the expiry of {event.position}", event.lots, "0")
                return (_from_then_on(self._known(event), event),)
            case PositionEventKind.CORRECTION:
                return (_from_then_on(self._known(event), event),)
            case PositionEventKind.CONSENT:
                return (_consented(self._known(event), event),)
            case _:
                assert_never(event.kind)

    def _moved(self, event: PositionEvent) -> tuple[Position, Position]:
        """The source and the new position after a transfer or a split."""
        self._require_new(event)
        _require_lots(event)
        _require_source(event, wanted=True)
        source = self._positions.get(event.source or "")
        if source is None:
            raise UnknownName("source", str(event.source))
        if source.instrument != event.instrument:
            raise InvalidValue("instrument", _which(event), event.instrument, f"{source.instrument}, the source's")
        same = source.account == event.account
        if event.kind is PositionEventKind.TRANSFER and same:
            raise InvalidValue("account", _which(event), event.account, "another account than the source's")
        if event.kind is PositionEventKind.SPLIT and not same:
            raise InvalidValue("account", _which(event), event.account, f"{source.account}, the source's")
        end_ms = _end_ms(source)
        moved: tuple[tuple[int, int], ...] = ((event.effective_ms, event.lots),)
        if end_ms is not None:
            moved = (*moved, (end_ms, 0))
        left = _less(source, event, end_ms)
        # The buyer of a transfer acquires now; a split is still what its owner acquired then.
        # What it agreed to, too; the buyer of a transfer has agreed to nothing.
        if event.kind is PositionEventKind.TRANSFER:
            return left, _position(event, event.committed_ms, moved)
        return left, _position(event, source.acquired_ms, moved, source.consents)

    def _known(self, event: PositionEvent) -> Position:
        """The position that an expiry or a correction is about."""
        _require_source(event, wanted=False)
        position = self._positions.get(event.position)
        if position is None:
            raise UnknownName("position", event.position)
        if position.account != event.account:
            raise InvalidValue("account", _which(event), event.account, f"{position.account}, the position's")
        if position.instrument != event.instrument:
            raise InvalidValue("instrument", _which(event), event.instrument, f"{position.instrument}, the position's")
        return position

    def _require_new(self, event: PositionEvent) -> None:
        if event.position in self._positions:
            raise Conflict(f"position of {_which(event)} was {event.position!r}, expected a new name: it is taken")


def fold(
    events: Iterable[PositionEvent], start: PositionBook | None = None, instruments: Container[str] | None = None
) -> PositionBook:
    """The book after all events, in order; `start` is left as it was. Raises what `PositionBook.apply` raises."""
    book = PositionBook() if start is None else start.copy()
    for event in events:
        book.apply(event, instruments)
    return book


def _content(position: Position) -> tuple[object, ...]:
    return position.account, position.instrument, position.lots_over_time, position.consents


def _end_ms(position: Position) -> int | None:
    """The instant from which a position has no lots for good; None: no end is known."""
    if not position.lots:
        return 0
    at_ms, lots = position.lots[-1]
    return at_ms if lots == 0 else None


def _less(source: Position, event: PositionEvent, end_ms: int | None) -> Position:
    """The source without the event's lots from its effect to the source's end. Raises Oversold."""
    if end_ms is not None and event.effective_ms >= end_ms:
        raise Oversold(f"lots of {_which(event)} was {event.lots}, {source.id} has ended at {end_ms}")
    steps = [step for step in source.lots if step[0] < event.effective_ms]
    held = source.lots_at(event.effective_ms)
    after = [(event.effective_ms, held), *(step for step in source.lots if step[0] > event.effective_ms)]
    for at_ms, lots in after:
        if end_ms is not None and at_ms >= end_ms:
            steps.append((at_ms, 0))
        elif lots < event.lots:
            raise Oversold(f"lots of {_which(event)} was {event.lots}, {source.id} holds {lots} at {at_ms}")
        else:
            steps.append((at_ms, lots - event.lots))
    return source.model_validate(_fields(source, steps))


def _from_then_on(position: Position, event: PositionEvent) -> Position:
    """The position with the event's lots from its effect on, whatever was known of later instants."""
    steps = [step for step in position.lots if step[0] < event.effective_ms]
    return position.model_validate(_fields(position, [*steps, (event.effective_ms, event.lots)]))


def _fields(position: Position, steps: Iterable[tuple[int, int]]) -> dict[str, object]:
    return {
        "id": position.id,
        "account": position.account,
        "instrument": position.instrument,
        "acquired_ms": position.acquired_ms,
        "lots": StepFunction.of(steps).steps,
        "consents": position.consents,
    }


def _consented(position: Position, event: PositionEvent) -> Position:
    """The position with the event's grades; of two consents to one the earlier holds. Raises InvalidValue."""
    if event.lots:
        raise InvalidValue("lots", _which(event), event.lots, "0")
    if not event.grades:
        raise InvalidValue("grades", _which(event), event.grades, "one or more")
    since_ms = dict(position.consents)
    for grade in event.grades:
        since_ms[grade] = min(event.effective_ms, since_ms.get(grade, event.effective_ms))
    return position.model_validate(_fields(position, position.lots) | {"consents": tuple(sorted(since_ms.items()))})


def _position(
    event: PositionEvent,
    acquired_ms: int,
    lots: tuple[tuple[int, int], ...],
    consents: tuple[tuple[str, int], ...] = (),
) -> Position:
    return Position(
        id=event.position,
        account=event.account,
        instrument=event.instrument,
        acquired_ms=acquired_ms,
        lots=lots,
        consents=consents,
    )


def _require_lots(event: PositionEvent) -> None:
    if event.lots < 1:
        raise InvalidValue("lots", _which(event), event.lots, "1 or more")


def _require_source(event: PositionEvent, *, wanted: bool) -> None:
    if (event.source is not None) != wanted:
        raise InvalidValue("source", _which(event), event.source, "a position" if wanted else "none")


def _which(event: PositionEvent) -> str:
    return f"the {event.kind} at {_shown(event.cursor)}"


def _shown(cursor: Cursor) -> str:
    return f"{cursor.stream}/{cursor.epoch}/{cursor.seq}"
