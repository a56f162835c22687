"""What teams and tools ask of an exchange: list, trade, transfer, correct; snapshots, statements and proofs.

Every method raises the error that the exchange raised, of the same class, or Unavailable where it did not answer. A
request id makes a trade safe to send again; where none is given, a random one is made. Calls that the exchange could
not answer for the moment are tried again, a few times.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from scheduler.core.causes import Cause
from scheduler.core.errors import InvalidValue, TenorError
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.metering.disputes import Disputed
from scheduler.core.positions import Cursor, Position, PositionEvent
from scheduler.exchange import convert
from scheduler.exchange.channels import STREAM_S
from scheduler.exchange.connection import Connection
from scheduler.exchange.errors import error_of
from scheduler.exchange.settling_leaves import losses_to_wire
from scheduler.exchange.tls import Tls
from scheduler.exchange.v1 import (
    delivery_pb2,
    delivery_pb2_grpc,
    disputes_pb2,
    disputes_pb2_grpc,
    positions_pb2,
    positions_pb2_grpc,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All positions and instruments at a cursor."""

    cursor: Cursor
    positions: tuple[Position, ...]
    instruments: tuple[InstrumentTerms, ...]


@dataclass(frozen=True, slots=True)
class Alive:
    """A heartbeat: nothing happened, and the next event will have this cursor."""

    next: Cursor
    at_ms: int


Told = PositionEvent | InstrumentTerms | Alive
"""What a watch tells."""


class ExchangeClient(Connection):
    """Calls to one exchange at `HOST:PORT`, with TLS where `tls` is given. Safe for threads. A context manager that
    closes its channel. Raises Unauthorised for plaintext off loopback, and what `Tls.valid` raises.
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0, tls: Tls | None = None) -> None:
        super().__init__(address, timeout_s=timeout_s, tls=tls, of="the exchange")
        self._positions = positions_pb2_grpc.PositionServiceStub(self._channel)
        self._trading = positions_pb2_grpc.TradingServiceStub(self._channel)
        self._delivery = delivery_pb2_grpc.DeliveryServiceStub(self._channel)
        self._disputes = disputes_pb2_grpc.DisputeServiceStub(self._channel)

    def list_instrument(self, terms: InstrumentTerms, lots_listed: int = 0) -> str:
        """Lists an instrument and gives its id; `lots_listed` 0: no limit. Raises InvalidInstrument, Conflict."""
        request = positions_pb2.ListInstrumentRequest(instrument=convert.instrument_to_wire(terms, lots_listed))
        return self._asked(lambda: self._trading.ListInstrument(request, timeout=self._timeout_s)).instrument

    def instruments(self, prefix: str = "") -> tuple[InstrumentTerms, ...]:
        """The listed instruments whose symbol begins so."""
        request = positions_pb2.ListInstrumentsRequest(prefix=prefix)
        answer = self._asked(lambda: self._positions.ListInstruments(request, timeout=self._timeout_s))
        return tuple(map(convert.instrument_from_wire, answer.instruments))

    def trade(
        self, account: str, instrument: str, lots: int, *, effective_ms: int = 0, request_id: str = ""
    ) -> PositionEvent:
        """A new position; `effective_ms` 0: now. Raises UnknownName, InvalidValue, Oversold, Conflict."""
        request = positions_pb2.TradeRequest(
            request_id=request_id or _request_id(),
            account=account,
            instrument=instrument,
            lots=_number("lots", lots, 2**32 - 1),
            effective_ms=_number("effective_ms", effective_ms, 2**63 - 1),
        )
        answer = self._asked(lambda: self._trading.Trade(request, timeout=self._timeout_s))
        return convert.event_from_wire(answer.event)

    def transfer(
        self, source: str, account: str, lots: int, *, effective_ms: int = 0, request_id: str = ""
    ) -> PositionEvent:
        """Lots of a position to another account, or to a new position of the same one.

        `effective_ms` 0: now, or when the source begins where that is later. Raises as `trade`.
        """
        request = positions_pb2.TransferRequest(
            request_id=request_id or _request_id(),
            source=source,
            account=account,
            lots=_number("lots", lots, 2**32 - 1),
            effective_ms=_number("effective_ms", effective_ms, 2**63 - 1),
        )
        answer = self._asked(lambda: self._trading.Transfer(request, timeout=self._timeout_s))
        return convert.event_from_wire(answer.event)

    def correct(self, position: str, lots: int, *, effective_ms: int = 0, request_id: str = "") -> PositionEvent:
        """The position has `lots` from then on; 0 ends it. Raises as `trade`."""
        request = positions_pb2.CorrectRequest(
            request_id=request_id or _request_id(),
            position=position,
            lots=_number("lots", lots, 2**32 - 1),
            effective_ms=_number("effective_ms", effective_ms, 2**63 - 1),
        )
        answer = self._asked(lambda: self._trading.Correct(request, timeout=self._timeout_s))
        return convert.event_from_wire(answer.event)

    def consent(
        self, position: str, grades: Sequence[str], *, effective_ms: int = 0, request_id: str = ""
    ) -> PositionEvent:
        """The position's owner agrees to delivery in these grades from then on, for good. Raises as `trade`."""
        request = positions_pb2.ConsentRequest(
            request_id=request_id or _request_id(),
            position=position,
            grades=grades,
            effective_ms=_number("effective_ms", effective_ms, 2**63 - 1),
        )
        answer = self._asked(lambda: self._trading.Consent(request, timeout=self._timeout_s))
        return convert.event_from_wire(answer.event)

    def snapshot(self, stream: str = "", account: str = "") -> Snapshot:
        """All positions and instruments as they are now; `stream` empty: the exchange's own; `account` empty: of all
        whose positions the caller may see.
        """
        request = positions_pb2.GetSnapshotRequest(stream=stream, account=account)
        answer = self._asked(lambda: self._positions.GetSnapshot(request, timeout=self._timeout_s))
        return Snapshot(
            convert.cursor_from_wire(answer.cursor),
            convert.positions_from_wire(answer.positions),
            tuple(map(convert.instrument_from_wire, answer.instruments)),
        )

    def watch(self, cursor: Cursor) -> Watch:
        """What happens after a cursor, for as long as somebody listens, an hour at most: then ask again from there."""
        request = positions_pb2.WatchRequest(cursor=convert.cursor_to_wire(cursor))
        return Watch(self._positions.Watch(request, timeout=STREAM_S), self._failure)

    def statement(self, position: str, until_ms: int = 0, as_of: int = 0) -> tuple[bytes, bytes]:
        """The canonical bytes of the statement, and the log's latest checkpoint. `as_of`: by the versions among the
        log's first so many leaves; 0: all. Raises UnknownName, InvalidValue where nothing is metered yet or for more
        leaves than there are, Conflict where records are missing in between.
        """
        _number("as_of", as_of, 2**63 - 1)
        request = delivery_pb2.GetStatementRequest(position=position, until_ms=until_ms, as_of=as_of)
        answer = self._asked(lambda: self._delivery.GetStatement(request, timeout=self._timeout_s))
        return answer.statement, answer.checkpoint

    def open_dispute(
        self,
        position: str,
        start_ms: int,
        losses: Sequence[tuple[Cause, int]],
        *,
        version: int = 0,
        evidence: bytes = b"",
        reason: str = "",
        request_id: str = "",
    ) -> Disputed:
        """Disputes the record of the interval that starts so; `losses`: all that was lost, as it is claimed; `version`
        0: the last one; `evidence`: a SHA-256. Raises UnknownName, InvalidValue, Conflict, Unauthorised.
        """
        request = disputes_pb2.OpenDisputeRequest(
            request_id=request_id or _request_id(),
            position=position,
            start_ms=_number("start_ms", start_ms, 2**63 - 1),
            version=_number("version", version, 2**32 - 1),
            losses=losses_to_wire([(cause, _number(cause.name, gpu_ms, 2**63 - 1)) for cause, gpu_ms in losses]),
            evidence=evidence,
            reason=reason,
        )
        answer = self._asked(lambda: self._disputes.OpenDispute(request, timeout=self._timeout_s))
        return convert.disputed_from_wire(answer.dispute)

    def disputes(
        self, after: int = 0, *, account: str = "", position: str = "", stream: str = ""
    ) -> tuple[Disputed, ...]:
        """A page of the disputes after a place, of all that the caller may see or of those that are named."""
        request = disputes_pb2.ListDisputesRequest(after=after, account=account, position=position, stream=stream)
        answer = self._asked(lambda: self._disputes.ListDisputes(request, timeout=self._timeout_s))
        return tuple(map(convert.disputed_from_wire, answer.disputes))


class Watch:
    """An open watch: iterate over it; `cancel` from any thread ends it."""

    def __init__(self, call: Any, failure: Callable[[grpc.RpcError], TenorError] = error_of) -> None:
        self._call = call
        self._failure = failure

    def __iter__(self) -> Iterator[Told]:
        """What is told, in order. Raises what the exchange raised, Unavailable where it is lost or cancelled."""
        try:
            for response in self._call:
                yield _told(response)
        except grpc.RpcError as failed:
            raise self._failure(failed) from failed

    def cancel(self) -> None:
        """Ends the watch."""
        self._call.cancel()


def _told(response: positions_pb2.WatchResponse) -> Told:
    match response.WhichOneof("kind"):
        case "event":
            return convert.event_from_wire(response.event)
        case "instrument":
            return convert.instrument_from_wire(response.instrument)
        case "heartbeat":
            return Alive(convert.cursor_from_wire(response.heartbeat.next), response.heartbeat.at_ms)
        case _:
            raise TenorError("the exchange told something that this version does not know")


def _request_id() -> str:
    return secrets.token_hex(16)


def _number(what: str, value: int, most: int) -> int:
    """A number that the wire can carry; the exchange says whether it may be."""
    if not 0 <= value <= most:
        raise InvalidValue(what, "a request", value, f"0..{most}")
    return value
