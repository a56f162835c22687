"""The faults of messages: an interceptor behind the door, around the honest services, which know nothing of it.

A stream that was opened before a fault was set meets it too. Order where several strike one message: it is late, the
stream is cut, what is told is changed, then it is dropped, repeated, or passed after the one that follows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

from scheduler.core.errors import TenorError, Unavailable
from scheduler.exchange.admission import replaced
from scheduler.exchange.errors import CursorCompacted, refuse
from scheduler.exchange.reference.faults import lies
from scheduler.exchange.reference.faults.faults import Faults, Kind, Place
from scheduler.exchange.reference.venue import Venue
from scheduler.exchange.v1 import delivery_pb2, positions_pb2

_PACKAGE = "/tenor.exchange.v1."
_UNARY: Mapping[str, Place] = {
    "PositionService/GetSnapshot": Place.SNAPSHOT,
    "DeliveryService/GetStatement": Place.STATEMENT,
    "EvidenceService/GetCheckpoint": Place.CHECKPOINT,
    "EvidenceService/GetInclusionProof": Place.PROOFS,
    "EvidenceService/GetConsistencyProof": Place.PROOFS,
    "TradingService/Trade": Place.TRADE,
    "TradingService/Transfer": Place.TRADE,
    "TradingService/Correct": Place.TRADE,
    "TradingService/Consent": Place.TRADE,
}
_LIES: Mapping[tuple[Place, Kind], Callable[[Any], Any]] = {
    (Place.WATCH, Kind.OVERSELL): lies.oversold_event,
    (Place.SNAPSHOT, Kind.EQUIVOCATE): lies.equivocal_snapshot,
    (Place.ACKS, Kind.MISSIGN): lies.missigned_ack,
    (Place.ACKS, Kind.LIE): lies.false_ack,
    (Place.STATEMENT, Kind.LIE): lies.false_statement,
    (Place.CHECKPOINT, Kind.LIE): lies.false_checkpoint,
    (Place.CHECKPOINT, Kind.MISSIGN): lies.missigned_checkpoint,
    (Place.PROOFS, Kind.LIE): lies.false_proof,
}
_CHANGES = (Kind.EQUIVOCATE, Kind.MISSIGN, Kind.OVERSELL, Kind.LIE)


class FaultyCalls(grpc.ServerInterceptor):
    """See the module. `venue`: whose epochs a restart ends."""

    def __init__(self, faults: Faults, venue: Venue) -> None:
        self._faults = faults
        self._venue = venue

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method, with what may go wrong around it."""
        found: grpc.RpcMethodHandler[Any, Any] | None = continuation(handler_call_details)
        method = str(handler_call_details.method).removeprefix(_PACKAGE)
        if found is None:
            return None
        if method == "PositionService/Watch":
            return replaced(found, _told(self._watched(_inner(found))))
        if method == "DeliveryService/Publish":
            return replaced(found, _told(self._published(_inner(found))))
        if method in _UNARY:
            return replaced(found, self._answered(_inner(found), _UNARY[method]))
        return found

    def _answered(self, inner: Callable[[Any, Any], Any], place: Place) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answered(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                self._arrive(place)
            except TenorError as error:
                refuse(context, error)
            return self._changed(place, inner(request, context))

        return answered

    def _watched(self, inner: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
        def watched(request: positions_pb2.WatchRequest, context: grpc.ServicerContext) -> Iterator[Any]:
            asked = request.cursor
            if self._faults.struck(Place.WATCH, Kind.COMPACT):
                raise CursorCompacted(f"{asked.stream} epoch {asked.epoch}", asked.seq + 2, asked.seq + 1)
            late: list[Any] = []
            for told in inner(request, context):
                if told.HasField("event"):
                    yield from self._passed(Place.WATCH, told, late)
                    if self._faults.struck(Place.WATCH, Kind.EQUIVOCATE):
                        yield lies.equivocal_event(told)
                elif told.HasField("heartbeat"):
                    yield from self._passed(Place.HEARTBEATS, told, late)
                else:
                    yield told

        return watched

    def _published(self, inner: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
        """The service answers each request with one response: so each is given to it and its answer taken."""

        def published(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            given: deque[Any] = deque()
            answers = inner(iter(given.popleft, None), context)
            last = delivery_pb2.PublishResponse()
            late: list[Any] = []
            late_acks: list[Any] = []
            for request in requests:
                if not request.HasField("batch"):
                    given.append(request)
                    last = next(answers)
                    yield from self._passed(Place.ACKS, last, late_acks)
                    continue
                if self._faults.struck(Place.BATCHES, Kind.LIE):
                    last = lies.kept_nothing(request.batch, last)
                    yield last
                    continue
                for passed in self._passed(Place.BATCHES, request, late):
                    given.append(passed)
                    last = next(answers)
                    yield from self._passed(Place.ACKS, last, late_acks)

        return published

    def _passed(self, place: Place, message: Any, late: list[Any]) -> Iterator[Any]:
        """What comes through in its stead. `late`: what is held back until another one has passed."""
        self._arrive(place)
        told = self._changed(place, message)
        struck = self._faults.struck(place, Kind.DROP, Kind.REORDER, Kind.REPEAT)
        kind = struck.kind if struck is not None else None
        if kind is Kind.REORDER and not late:
            late.append(told)
            return
        if kind is not Kind.DROP:
            yield told
        if kind is Kind.REPEAT:
            yield told
        while late:
            yield late.pop(0)

    def _arrive(self, place: Place) -> None:
        """Raises Unavailable where the message does not come through, and the stream with it."""
        delay = self._faults.struck(place, Kind.DELAY)
        if delay is not None:
            self._faults.pause(delay.length_ms)
        if self._faults.struck(place, Kind.RESTART):
            self._venue.begin_epoch()
            raise Unavailable("the exchange starts again: a fault that was asked for")
        if self._faults.struck(place, Kind.CUT):
            raise Unavailable("the connection is cut: a fault that was asked for")

    def _changed(self, place: Place, message: Any) -> Any:
        for kind in _CHANGES:
            change = _LIES.get((place, kind))
            if change is not None and self._faults.struck(place, kind):
                message = change(message)
        return message


def _inner(found: Any) -> Callable[[Any, Any], Any]:
    behaviour: Callable[[Any, Any], Any] = found.unary_unary or found.unary_stream or found.stream_stream
    return behaviour


def _told(call: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    """The faults that are errors, as the honest services tell theirs."""

    def told(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from call(request, context)
        except TenorError as error:
            refuse(context, error)

    return told
