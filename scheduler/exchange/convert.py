"""Instruments, positions, their events and cursors: from the core's values to the wire's messages, and back.

The terms of an instrument travel as their canonical JSON bytes with their SHA-256: what is hashed is what is sent. What
comes in is believed only where the hash fits, the terms are in canonical form, and the fields that repeat them agree.
Everything that comes from the wire is validated: it is a value of the core, or it is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import ValidationError

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.listing import parse_terms
from scheduler.core.metering.disputes import Disputed
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Cursor, Position, PositionEvent, PositionEventKind
from scheduler.exchange.settling_leaves import STATE_NUMBERS, dispute_from_wire, dispute_to_wire, state_from_wire
from scheduler.exchange.v1 import disputes_pb2, instruments_pb2, positions_pb2

_CELL_NUMBERS = {
    Level.GPU: instruments_pb2.CELL_GPU,
    Level.NODE: instruments_pb2.CELL_NODE,
    Level.NVLINK_DOMAIN: instruments_pb2.CELL_NVLINK_DOMAIN,
    Level.FABRIC_BLOCK: instruments_pb2.CELL_FABRIC_BLOCK,
    Level.SITE: instruments_pb2.CELL_SITE,
}
_KIND_NUMBERS = {
    PositionEventKind.TRADE: positions_pb2.POSITION_EVENT_KIND_TRADE,
    PositionEventKind.TRANSFER: positions_pb2.POSITION_EVENT_KIND_TRANSFER,
    PositionEventKind.SPLIT: positions_pb2.POSITION_EVENT_KIND_SPLIT,
    PositionEventKind.EXPIRY: positions_pb2.POSITION_EVENT_KIND_EXPIRY,
    PositionEventKind.CORRECTION: positions_pb2.POSITION_EVENT_KIND_CORRECTION,
    PositionEventKind.CONSENT: positions_pb2.POSITION_EVENT_KIND_CONSENT,
}
_KINDS = {int(number): kind for kind, number in _KIND_NUMBERS.items()}


def instrument_to_wire(terms: InstrumentTerms, lots_listed: int = 0) -> instruments_pb2.Instrument:
    """A listing as it is sent. `lots_listed`: how many lots may be sold; 0: as many as the venue lets."""
    encoded = canonical_bytes(terms)
    return instruments_pb2.Instrument(
        symbol=terms.symbol,
        version=terms.version,
        terms=encoded,
        spec_hash=hashlib.sha256(encoded).digest(),
        cell=_CELL_NUMBERS[terms.lot.cell],
        gpus_per_lot=terms.lot.gpus,
        window_start_ms=terms.window.start_ms,
        window_end_ms=terms.window.end_ms,
        lots_listed=lots_listed,
    )


def terms_from_bytes(encoded: bytes, which: str) -> InstrumentTerms:
    """Terms from their canonical bytes. Raises InvalidInstrument, and InvalidValue where they are not canonical."""
    terms = parse_terms(encoded)
    if canonical_bytes(terms) != encoded:
        raise InvalidValue("terms", which, f"{len(encoded)} bytes of JSON", "the canonical bytes of every term")
    return terms


def instrument_from_wire(sent: instruments_pb2.Instrument) -> InstrumentTerms:
    """The terms that were sent. Raises InvalidInstrument for terms of the wrong form, InvalidValue where the hash or a
    repeated field is not that of the terms.
    """
    which = f"{sent.symbol[:253]}@{sent.version}"
    terms = terms_from_bytes(sent.terms, which)
    expected = instrument_to_wire(terms, sent.lots_listed)
    for field in expected.DESCRIPTOR.fields:
        was, wanted = getattr(sent, field.name), getattr(expected, field.name)
        if was != wanted:
            shown = [value.hex() if isinstance(value, bytes) else value for value in (was, wanted)]
            raise InvalidValue(field.name, which, shown[0], f"{shown[1]}, as the terms say")
    return terms


def cursor_to_wire(cursor: Cursor) -> positions_pb2.Cursor:
    """A place in a stream as it is sent."""
    return positions_pb2.Cursor(stream=cursor.stream, epoch=cursor.epoch, seq=cursor.seq)


def cursor_from_wire(sent: positions_pb2.Cursor) -> Cursor:
    """The place that was sent. Raises InvalidValue."""
    try:
        return Cursor(stream=sent.stream, epoch=sent.epoch, seq=sent.seq)
    except ValidationError as error:
        raise _refused("a cursor", error) from error


def event_to_wire(event: PositionEvent) -> positions_pb2.PositionEvent:
    """A position event as it is sent."""
    return positions_pb2.PositionEvent(
        cursor=cursor_to_wire(event.cursor),
        kind=_KIND_NUMBERS[event.kind],
        position=event.position,
        source=event.source or "",
        account=event.account,
        instrument=event.instrument,
        lots=event.lots,
        effective_ms=event.effective_ms,
        committed_ms=event.committed_ms,
        grades=event.grades,
    )


def event_from_wire(sent: positions_pb2.PositionEvent) -> PositionEvent:
    """The position event that was sent. Raises InvalidValue; a kind that is not known is refused, never guessed."""
    which = f"the position event at {sent.cursor.stream[:253]}/{sent.cursor.epoch}/{sent.cursor.seq}"
    kind = _KINDS.get(sent.kind)
    if kind is None:
        raise InvalidValue("kind", which, sent.kind, f"one of {sorted(_KINDS)}")
    try:
        return PositionEvent(
            cursor=cursor_from_wire(sent.cursor),
            kind=kind,
            position=sent.position,
            source=sent.source or None,
            account=sent.account,
            instrument=sent.instrument,
            lots=sent.lots,
            effective_ms=sent.effective_ms,
            committed_ms=sent.committed_ms,
            grades=tuple(sent.grades),
        )
    except ValidationError as error:
        raise _refused(which, error) from error


def position_to_wire(position: Position) -> positions_pb2.Position:
    """A position as it is sent in a snapshot."""
    return positions_pb2.Position(
        id=position.id,
        account=position.account,
        instrument=position.instrument,
        acquired_ms=position.acquired_ms,
        lots=[positions_pb2.LotStep(from_ms=from_ms, lots=lots) for from_ms, lots in position.lots],
        consents=[positions_pb2.GradeConsent(grade=grade, from_ms=from_ms) for grade, from_ms in position.consents],
    )


def position_from_wire(sent: positions_pb2.Position) -> Position:
    """The position that was sent. Raises InvalidValue."""
    which = f"the position {sent.id[:253]}"
    try:
        position = Position(
            id=sent.id,
            account=sent.account,
            instrument=sent.instrument,
            acquired_ms=sent.acquired_ms,
            lots=tuple((step.from_ms, step.lots) for step in sent.lots),
            consents=tuple((each.grade, each.from_ms) for each in sent.consents),
        )
    except ValidationError as error:
        raise _refused(which, error) from error
    position.lots_over_time  # noqa: B018 - raises InvalidValue where the steps are no step function
    return position


def positions_from_wire(sent: Iterable[positions_pb2.Position]) -> tuple[Position, ...]:
    """All of them. Raises InvalidValue for the first that is wrong."""
    return tuple(position_from_wire(each) for each in sent)


def _refused(which: str, error: ValidationError) -> InvalidValue:
    first = error.errors(include_url=False)[0]
    return InvalidValue(".".join(map(str, first["loc"])) or "value", which, first["input"], first["msg"].lower())


def disputed_to_wire(disputed: Disputed) -> disputes_pb2.DisputeStatus:
    """A dispute as it stands, as its message."""
    return disputes_pb2.DisputeStatus(
        seq=disputed.seq,
        dispute=dispute_to_wire(disputed.dispute),
        stream=disputed.stream,
        reason=disputed.reason,
        state=STATE_NUMBERS[disputed.state],
        answer=disputed.answer,
        corrected=disputed.corrected or 0,
        answered_ms=disputed.answered_ms,
    )


def disputed_from_wire(sent: disputes_pb2.DisputeStatus) -> Disputed:
    """A dispute as it stands, from its message. Raises InvalidValue."""
    return Disputed(
        seq=sent.seq,
        dispute=dispute_from_wire(sent.dispute),
        stream=sent.stream,
        reason=sent.reason,
        state=state_from_wire(sent.state, f"dispute {sent.dispute.id[:80]}"),
        answer=sent.answer,
        corrected=sent.corrected or None,
        answered_ms=sent.answered_ms,
    )
