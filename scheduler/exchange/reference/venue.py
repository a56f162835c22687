"""The venue: which instruments are listed, who owns how many lots of them, and the sequenced events that say so.

Every rule is checked before anything is written; what is refused changes nothing. Laws: `seq` is dense from 1 within an
epoch; an event is durable before anybody sees it; the same request id with the same content gives the same answer for
ever, with another content it is refused; lots never exceed those listed, and a transfer never gives more than is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pydantic import ValidationError

from scheduler.core.errors import Conflict, InvalidValue, Oversold, UnknownName
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import Interval, StepFunction
from scheduler.core.listing import GradeShapes, check_listing
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Cursor, Position, PositionBook, PositionEvent, PositionEventKind
from scheduler.exchange.consents import unasked
from scheduler.exchange.convert import terms_from_bytes
from scheduler.exchange.errors import CursorCompacted
from scheduler.exchange.reference.database import Database

MAX_LOTS = 10_000_000
_PAGE_EVENTS = 500
_LONGEST_REQUEST_ID = 256


@dataclass(frozen=True, slots=True)
class Listing:
    """Terms as they are listed. `lots_listed`: how many lots may be sold; 0: no limit."""

    terms: InstrumentTerms
    lots_listed: int


@dataclass(frozen=True, slots=True)
class VenueRules:
    """What one venue decides for itself. `keep_events`: how many events it can still replay; `probe_every_ms`: the mean
    time between two probes of a stream's devices, 0: it asks for none.
    """

    stream: str = "exchange"
    keep_events: int = 100_000
    known_grades: Collection[str] | GradeShapes | None = None
    known_sites: Collection[str] | None = None
    probe_every_ms: int = 0


class Venue:
    """See the module. Every method may be called from any thread."""

    def __init__(self, database: Database, clock_ms: Callable[[], int], rules: VenueRules | None = None) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self.rules = rules or VenueRules()
        self._changed = threading.Condition(database.guard)
        self._load()

    def now_ms(self) -> int:
        """The instant by this exchange's clock."""
        return self._clock_ms()

    @property
    def cursor(self) -> Cursor:
        """The last event."""
        with self._database.guard:
            return self._cursor()

    # -- instruments ---------------------------------------------------------------------------------------------------

    def list_instrument(self, terms: InstrumentTerms, lots_listed: int = 0) -> None:
        """Lists an instrument; the same listing again changes nothing.

        Raises InvalidInstrument with every fault named, Conflict where the same version has other terms or lots.
        """
        with self._database.guard:
            known = self._listings.get(terms.id)
            if known is not None:
                if known.terms != terms:
                    raise Conflict(
                        f"{terms.id} is listed with spec_hash {known.terms.spec_hash}, was {terms.spec_hash}: "
                        "a change of terms is a new version"
                    )
                if known.lots_listed != lots_listed:
                    raise Conflict(f"{terms.id} is listed with {known.lots_listed} lots, was {lots_listed}")
                return
            check_listing(terms, self.rules.known_grades, self.rules.known_sites)
            with self._database.transaction():
                row = (terms.id, len(self._listings) + 1, canonical_bytes(terms), lots_listed)
                self._database.write("INSERT INTO instrument VALUES (?, ?, ?, ?)", *row)
            self._listings[terms.id] = Listing(terms, lots_listed)
            self._changed.notify_all()

    def listings(self, prefix: str = "", after: int = 0) -> tuple[Listing, ...]:
        """The listings whose symbol begins so, in the order of listing, without the first `after` of all."""
        with self._database.guard:
            wanted = list(self._listings.values())[after:]
        return tuple(listing for listing in wanted if listing.terms.symbol.startswith(prefix))

    def terms(self, instrument: str) -> InstrumentTerms:
        """The terms of a listed instrument. Raises UnknownName."""
        return self._listing(instrument).terms

    # -- trades --------------------------------------------------------------------------------------------------------

    def trade(self, request_id: str, account: str, instrument: str, lots: int, effective_ms: int = 0) -> PositionEvent:
        """A new position of `account`; `effective_ms` 0: now.

        Raises UnknownName, InvalidValue for what cannot be traded, Oversold beyond the lots listed, Conflict for a
        request id that stands for something else.
        """
        with self._database.guard:
            content = ["trade", account, instrument, lots, effective_ms]
            done = self._done(request_id, content)
            if done is not None:
                return done
            listing = self._listing(instrument)
            now_ms, from_ms = self._instants(listing.terms, effective_ms)
            self._refuse_oversold(listing, StepFunction.of([(from_ms, _checked(lots))]), from_ms)
            event = self._event(
                kind=PositionEventKind.TRADE,
                position=self._next_name(),
                account=account,
                instrument=instrument,
                lots=lots,
                effective_ms=from_ms,
                committed_ms=now_ms,
            )
            return self._commit(request_id, content, event)

    def transfer(self, request_id: str, source: str, account: str, lots: int, effective_ms: int = 0) -> PositionEvent:
        """Lots of a position to another account (TRANSFER) or to a new position of the same one (SPLIT).

        Raises UnknownName, InvalidValue, Oversold for more than is held at any later instant, Conflict.
        """
        with self._database.guard:
            content = ["transfer", source, account, lots, effective_ms]
            done = self._done(request_id, content)
            if done is not None:
                return done
            held = self.position(source)
            now_ms, from_ms = self._instants(self.terms(held.instrument), effective_ms, held)
            event = self._event(
                kind=PositionEventKind.SPLIT if account == held.account else PositionEventKind.TRANSFER,
                position=self._next_name(),
                source=source,
                account=account,
                instrument=held.instrument,
                lots=_checked(lots),
                effective_ms=from_ms,
                committed_ms=now_ms,
            )
            return self._commit(request_id, content, event)

    def correct(self, request_id: str, position: str, lots: int, effective_ms: int = 0) -> PositionEvent:
        """The position has `lots` from `effective_ms` on; 0 lots end it (EXPIRY).

        Raises UnknownName, InvalidValue, Oversold beyond the lots listed, Conflict.
        """
        with self._database.guard:
            content = ["correct", position, lots, effective_ms]
            done = self._done(request_id, content)
            if done is not None:
                return done
            held = self.position(position)
            listing = self._listing(held.instrument)
            now_ms, from_ms = self._instants(listing.terms, effective_ms, held)
            after = [*(step for step in held.lots if step[0] < from_ms), (from_ms, _checked(lots, least=0))]
            self._refuse_oversold(listing, StepFunction.of(after) - held.lots_over_time, from_ms)
            event = self._event(
                kind=PositionEventKind.CORRECTION if lots else PositionEventKind.EXPIRY,
                position=position,
                account=held.account,
                instrument=held.instrument,
                lots=lots,
                effective_ms=from_ms,
                committed_ms=now_ms,
            )
            return self._commit(request_id, content, event)

    def consent(self, request_id: str, position: str, grades: tuple[str, ...], effective_ms: int = 0) -> PositionEvent:
        """The position's owner agrees to delivery in these grades from `effective_ms` on, for good.

        Raises UnknownName, InvalidValue for grades for which the terms ask no consent, Conflict.
        """
        with self._database.guard:
            content = ["consent", position, list(grades), effective_ms]
            done = self._done(request_id, content)
            if done is not None:
                return done
            held = self.position(position)
            terms = self.terms(held.instrument)
            unknown = unasked(grades, terms)
            if unknown or not grades:
                asked = ", ".join(each.grade for each in terms.deliverables if each.needs_consent)
                expected = f"some of {asked}" if asked else f"none: {terms.id} asks for no consent"
                raise InvalidValue("grades", f"the consent of {position}", ", ".join(unknown) or "empty", expected)
            now_ms, from_ms = self._instants(terms, effective_ms, held)
            event = self._event(
                kind=PositionEventKind.CONSENT,
                position=position,
                account=held.account,
                instrument=held.instrument,
                lots=0,
                effective_ms=from_ms,
                committed_ms=now_ms,
                grades=tuple(sorted(set(grades))),
            )
            return self._commit(request_id, content, event)

    # -- what others see -----------------------------------------------------------------------------------------------

    def position(self, name: str) -> Position:
        """A position. Raises UnknownName."""
        with self._database.guard:
            position = self._book.positions.get(name)
        if position is None:
            raise UnknownName("position", name)
        return position

    def positions_of(self, account: str) -> frozenset[str]:
        """The positions of an account."""
        with self._database.guard:
            return frozenset(name for name, held in self._book.positions.items() if held.account == account)

    def position_numbers(self) -> dict[str, int]:
        """The number of each position: a live view, by name. Numbers never change."""
        return self._numbers

    def snapshot(self) -> tuple[Cursor, tuple[Position, ...], tuple[Listing, ...]]:
        """All positions and listings as they are at one cursor."""
        with self._database.guard:
            return self._cursor(), self._book.snapshot(), tuple(self._listings.values())

    def check_stream(self, stream: str) -> None:
        """Raises UnknownName where a caller means another stream than this venue's; empty: whichever there is."""
        if stream not in ("", self.rules.stream):
            raise UnknownName("stream", stream, (self.rules.stream,))

    def events_after(self, cursor: Cursor) -> tuple[PositionEvent, ...]:
        """The events after a cursor, a page at a time; empty where there are none yet.

        Raises UnknownName for another stream, CursorCompacted where they are no longer kept or of an epoch that is
        over, Conflict for a cursor ahead of this exchange, which would mean that one of the two lost something.
        """
        self.check_stream(cursor.stream)
        with self._database.guard:
            last = self._cursor()
            at = f"{cursor.stream}/{cursor.epoch}/{cursor.seq}"
            if cursor.epoch > last.epoch or (cursor.epoch == last.epoch and cursor.seq > last.seq):
                raise Conflict(f"the cursor {at} is ahead of the exchange, which is at {last.epoch}/{last.seq}")
            first = self._database.meta("first_seq", 1)
            if cursor.epoch < last.epoch or cursor.seq + 1 < first:
                raise CursorCompacted(f"{cursor.stream} epoch {last.epoch}", first, cursor.seq + 1)
            query = "SELECT body FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
            rows = self._database.all(query, cursor.seq, _PAGE_EVENTS)
        return tuple(PositionEvent.model_validate_json(body) for (body,) in rows)

    def wait(self, seq: int, listed: int, timeout_ms: int) -> None:
        """Returns when there are events after `seq` or listings after the first `listed`, or after the timeout."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._cursor().seq > seq or len(self._listings) > listed, timeout=timeout_ms / 1_000
            )

    def wake(self) -> None:
        """Lets everybody who waits look again, as when the server stops."""
        with self._changed:
            self._changed.notify_all()

    def compact(self, keep_events: int) -> None:
        """Forgets all but the last events; a cursor before them leads to a snapshot."""
        with self._database.guard:
            first = max(1, self._cursor().seq - keep_events + 1, self._database.meta("first_seq", 1))
            with self._database.transaction():
                self._forget_before(first)

    def begin_epoch(self) -> None:
        """A new epoch, as after restoring from a copy: its events count from 1, older cursors lead to a snapshot."""
        with self._database.guard:
            with self._database.transaction():
                self._database.set_meta("epoch", self._epoch + 1)
                self._database.set_meta("seq", 0)
                self._database.set_meta("first_seq", 1)
                self._database.write("DELETE FROM event")
            self._load()
            self._changed.notify_all()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Everything from the file, as it was last committed."""
        self._epoch = self._database.meta("epoch", 1)
        cursor = Cursor(stream=self.rules.stream, epoch=self._epoch, seq=self._database.meta("seq", 0))
        rows = self._database.all("SELECT terms, lots_listed, id FROM instrument ORDER BY listed")
        self._listings = {name: Listing(terms_from_bytes(terms, name), lots) for terms, lots, name in rows}
        stored = self._database.all("SELECT number, id, body FROM position ORDER BY number")
        positions = [Position.model_validate_json(body) for _, _, body in stored]
        self._numbers = {name: number for number, name, _ in stored}
        self._book = PositionBook.of(cursor, positions)
        self._sold: dict[str, StepFunction] = {}
        for position in positions:
            self._add_sold(position.instrument, position.lots_over_time)

    def _cursor(self) -> Cursor:
        return self._book.cursor or Cursor(stream=self.rules.stream, epoch=self._epoch, seq=0)

    def _listing(self, instrument: str) -> Listing:
        with self._database.guard:
            listing = self._listings.get(instrument)
            if listing is None:
                raise UnknownName("instrument", instrument, self._listings)
            return listing

    def _next_name(self) -> str:
        return f"pos-{len(self._numbers) + 1}"

    def _instants(self, terms: InstrumentTerms, effective_ms: int, held: Position | None = None) -> tuple[int, int]:
        """Now, and the instant of effect: 0 is now, or when the position `held` begins where that is later.

        Raises InvalidValue for the past and for a window that is over.
        """
        now_ms = self._clock_ms()
        begins_ms = held.lots[0][0] if held is not None and held.lots else 0
        from_ms = effective_ms or max(now_ms, begins_ms)
        if from_ms < now_ms:
            raise InvalidValue("effective_ms", terms.id, from_ms, f"0 for now, or {now_ms} or later")
        if from_ms >= terms.window.end_ms:
            raise InvalidValue("effective_ms", terms.id, from_ms, f"before the window's end at {terms.window.end_ms}")
        return now_ms, from_ms

    def _refuse_oversold(self, listing: Listing, added: StepFunction, from_ms: int) -> None:
        if not listing.lots_listed:
            return
        rest = Interval(from_ms, max(from_ms + 1, listing.terms.window.end_ms))
        sold = self._sold.get(listing.terms.id, StepFunction())
        after = (sold + added).maximum(rest)
        if after > max(listing.lots_listed, sold.maximum(rest)):
            raise Oversold(
                f"{after} lots of {listing.terms.id} would be sold, {listing.lots_listed} are listed and "
                f"{sold.maximum(rest)} of them are sold already"
            )

    def _event(self, **fields: object) -> PositionEvent:
        """The next event. Raises InvalidValue for what cannot be one."""
        last = self._cursor()
        cursor = Cursor(stream=last.stream, epoch=last.epoch, seq=last.seq + 1)
        try:
            return PositionEvent.model_validate({"cursor": cursor, **fields})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidValue(field, f"a {fields['kind']}", first["input"], first["msg"].lower()) from error

    def _done(self, request_id: str, content: list[object]) -> PositionEvent | None:
        """The answer that the request was given before; None: it is new. Raises Conflict for another content."""
        if not 0 < len(request_id) <= _LONGEST_REQUEST_ID:
            raise InvalidValue("request_id", "a request", request_id[:80], f"1 to {_LONGEST_REQUEST_ID} characters")
        row = self._database.one("SELECT content, answer FROM request WHERE id = ?", request_id)
        if row is None:
            return None
        if row[0] != canonical_bytes(content):
            raise Conflict(f"request {request_id!r} was made before, with another content")
        return PositionEvent.model_validate_json(row[1])

    def _commit(self, request_id: str, content: list[object], event: PositionEvent) -> PositionEvent:
        """Folds the event in, makes it durable, and lets the watchers see it."""
        touched = [name for name in (event.source, event.position) if name is not None]
        before = {name: held.lots_over_time for name in touched if (held := self._book.positions.get(name))}
        self._book.apply(event, self._listings)
        try:
            with self._database.transaction():
                self._write(request_id, content, event, [self._book.positions[name] for name in touched])
        except BaseException:
            self._load()  # the fold went ahead of the file
            raise
        for name in touched:
            self._numbers.setdefault(name, len(self._numbers) + 1)
            after = self._book.positions[name].lots_over_time
            self._add_sold(event.instrument, after - before.get(name, StepFunction()))
        self._changed.notify_all()
        return event

    def _write(self, request_id: str, content: list[object], event: PositionEvent, positions: list[Position]) -> None:
        body = event.model_dump_json().encode()
        self._database.write("INSERT INTO event VALUES (?, ?)", event.cursor.seq, body)
        self._database.set_meta("seq", event.cursor.seq)
        for position in positions:
            self._database.write(
                "INSERT INTO position (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                position.id,
                position.model_dump_json().encode(),
            )
        self._database.write("INSERT INTO request VALUES (?, ?, ?)", request_id, canonical_bytes(content), body)
        if event.cursor.seq > self.rules.keep_events:
            self._forget_before(event.cursor.seq - self.rules.keep_events + 1)

    def _forget_before(self, first: int) -> None:
        self._database.write("DELETE FROM event WHERE seq < ?", first)
        self._database.set_meta("first_seq", first)

    def _add_sold(self, instrument: str, lots: StepFunction) -> None:
        self._sold[instrument] = self._sold.get(instrument, StepFunction()) + lots


def _checked(lots: int, least: int = 1) -> int:
    if not least <= lots <= MAX_LOTS:
        raise InvalidValue("lots", "a request", lots, f"{least}..{MAX_LOTS}")
    return lots
