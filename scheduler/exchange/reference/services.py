"""The gRPC face of the reference exchange: requests become calls, values become messages, errors become statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from scheduler.core.errors import InvalidValue
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Cursor
from scheduler.exchange import convert
from scheduler.exchange.errors import answers, streams
from scheduler.exchange.reference.disputes import Disputes, Wish
from scheduler.exchange.reference.intake import Intake, Receipt, Session
from scheduler.exchange.reference.venue import Venue
from scheduler.exchange.settling_leaves import losses_from_wire
from scheduler.exchange.v1 import (
    delivery_pb2,
    delivery_pb2_grpc,
    disputes_pb2,
    disputes_pb2_grpc,
    positions_pb2,
    positions_pb2_grpc,
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a quiet stream says that it lives, and how many leaves a publisher may have on the way."""

    heartbeat_ms: int = 1_000
    credits: int = 20_000


class Positions(positions_pb2_grpc.PositionServiceServicer):
    """Snapshots, and events from a cursor on. `stopping` ends the streams when the server stops."""

    def __init__(self, venue: Venue, clock_ms: Callable[[], int], pace: Pace, stopping: Callable[[], bool]) -> None:
        self._venue = venue
        self._clock_ms = clock_ms
        self._pace = pace
        self._stopping = stopping

    @answers
    def ListInstruments(  # noqa: N802 - the wire's name
        self, request: positions_pb2.ListInstrumentsRequest
    ) -> positions_pb2.ListInstrumentsResponse:
        """Every listing whose symbol begins with the prefix."""
        listings = self._venue.listings(request.prefix)
        return positions_pb2.ListInstrumentsResponse(
            instruments=[convert.instrument_to_wire(listing.terms, listing.lots_listed) for listing in listings]
        )

    @answers
    def GetSnapshot(  # noqa: N802 - the wire's name
        self, request: positions_pb2.GetSnapshotRequest
    ) -> positions_pb2.GetSnapshotResponse:
        """All positions and instruments, and the cursor that they are at."""
        self._venue.check_stream(request.stream)
        cursor, positions, listings = self._venue.snapshot()
        return positions_pb2.GetSnapshotResponse(
            cursor=convert.cursor_to_wire(cursor),
            positions=[
                convert.position_to_wire(position)
                for position in positions
                if request.account in ("", position.account)
            ],
            instruments=[convert.instrument_to_wire(listing.terms, listing.lots_listed) for listing in listings],
        )

    @streams
    def Watch(  # noqa: N802 - the wire's name
        self, request: positions_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[positions_pb2.WatchResponse]:
        """All instruments, the events after the cursor, then what comes, with heartbeats in between."""
        cursor, told = convert.cursor_from_wire(request.cursor), 0
        while context.is_active() and not self._stopping():
            events = self._venue.events_after(cursor)
            listings = self._venue.listings(after=told)  # read after the events: theirs are among them
            for listing in listings:
                yield positions_pb2.WatchResponse(
                    instrument=convert.instrument_to_wire(listing.terms, listing.lots_listed)
                )
            told += len(listings)
            for event in events:
                yield positions_pb2.WatchResponse(event=convert.event_to_wire(event))
                cursor = event.cursor
            if not events and not listings:
                yield positions_pb2.WatchResponse(heartbeat=self._heartbeat(cursor))
                self._venue.wait(cursor.seq, told, self._pace.heartbeat_ms)

    def _heartbeat(self, cursor: Cursor) -> positions_pb2.Heartbeat:
        following = Cursor(stream=cursor.stream, epoch=cursor.epoch, seq=cursor.seq + 1)
        return positions_pb2.Heartbeat(next=convert.cursor_to_wire(following), at_ms=self._clock_ms())


class Trading(positions_pb2_grpc.TradingServiceServicer):
    """Listings and trades."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    @answers
    def ListInstrument(  # noqa: N802 - the wire's name
        self, request: positions_pb2.ListInstrumentRequest
    ) -> positions_pb2.ListInstrumentResponse:
        """Lists an instrument, or refuses it with every fault named."""
        terms = convert.instrument_from_wire(request.instrument)
        self._venue.list_instrument(terms, request.instrument.lots_listed)
        return positions_pb2.ListInstrumentResponse(instrument=terms.id, spec_hash=bytes.fromhex(terms.spec_hash))

    @answers
    def Trade(  # noqa: N802 - the wire's name
        self, request: positions_pb2.TradeRequest
    ) -> positions_pb2.TradeResponse:
        """A new position."""
        event = self._venue.trade(
            request.request_id, request.account, request.instrument, request.lots, request.effective_ms
        )
        return positions_pb2.TradeResponse(event=convert.event_to_wire(event))

    @answers
    def Transfer(  # noqa: N802 - the wire's name
        self, request: positions_pb2.TransferRequest
    ) -> positions_pb2.TradeResponse:
        """Lots of a position to another account, or a split."""
        event = self._venue.transfer(
            request.request_id, request.source, request.account, request.lots, request.effective_ms
        )
        return positions_pb2.TradeResponse(event=convert.event_to_wire(event))

    @answers
    def Correct(  # noqa: N802 - the wire's name
        self, request: positions_pb2.CorrectRequest
    ) -> positions_pb2.TradeResponse:
        """So many lots from an instant on."""
        event = self._venue.correct(request.request_id, request.position, request.lots, request.effective_ms)
        return positions_pb2.TradeResponse(event=convert.event_to_wire(event))

    @answers
    def Consent(  # noqa: N802 - the wire's name
        self, request: positions_pb2.ConsentRequest
    ) -> positions_pb2.TradeResponse:
        """The owner agrees to substitutes."""
        event = self._venue.consent(request.request_id, request.position, tuple(request.grades), request.effective_ms)
        return positions_pb2.TradeResponse(event=convert.event_to_wire(event))


class Delivery(delivery_pb2_grpc.DeliveryServiceServicer):
    """Logs of delivery in, statements out."""

    def __init__(self, intake: Intake, pace: Pace) -> None:
        self._intake = intake
        self._pace = pace

    @streams
    def Publish(  # noqa: N802 - the wire's name
        self,
        requests: Iterator[delivery_pb2.PublishRequest],
        context: grpc.ServicerContext,  # noqa: ARG002 - `streams` wants it
    ) -> Iterator[delivery_pb2.PublishResponse]:
        """A publisher's turn: the opening, then batches, each acknowledged once it is durable."""
        session: Session | None = None
        for request in requests:
            match request.WhichOneof("kind"):
                case "open" if session is None:
                    opening = request.open
                    session, receipt = self._intake.open(opening.stream, opening.epoch, opening.vkey)
                    first = self._response(receipt)
                    first.heartbeat_ms = self._pace.heartbeat_ms
                    yield first
                    continue
                case "batch" if session is not None:
                    batch = request.batch
                    receipt = self._intake.take(
                        session, batch.first_index, list(batch.leaves), batch.checkpoint, list(batch.consistency)
                    )
                case "heartbeat" if session is not None:
                    beat = request.heartbeat
                    receipt = self._intake.heartbeat(session, beat.next_index, beat.checkpoint)
                case other:
                    expected = "open first, then batches and heartbeats"
                    raise InvalidValue("kind", "a publish request", other, expected)
            yield self._response(receipt)

    @answers
    def GetStatement(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetStatementRequest
    ) -> delivery_pb2.GetStatementResponse:
        """What is owed for a position, recomputed from the leaves that are here."""
        statement, checkpoint = self._intake.statement(request.position, request.until_ms, request.as_of)
        return delivery_pb2.GetStatementResponse(statement=canonical_bytes(statement), checkpoint=checkpoint)

    def _response(self, receipt: Receipt) -> delivery_pb2.PublishResponse:
        return delivery_pb2.PublishResponse(
            acknowledged=receipt.acknowledged,
            credits=self._pace.credits,
            rejections=[
                delivery_pb2.Rejection(index=index, reason=rejected.reason.value, detail=rejected.detail)
                for index, rejected in receipt.rejections
            ],
            cosigned=receipt.cosigned,
            witness=self._intake.witness if receipt.cosigned else "",
        )


class Disputing(disputes_pb2_grpc.DisputeServiceServicer):
    """Disputes of records: opened here, answered by the log."""

    def __init__(self, disputes: Disputes, positions_of: Callable[[str], frozenset[str]]) -> None:
        self._disputes = disputes
        self._positions_of = positions_of

    @answers
    def OpenDispute(  # noqa: N802 - the wire's name
        self, request: disputes_pb2.OpenDisputeRequest
    ) -> disputes_pb2.OpenDisputeResponse:
        """A dispute of the last version of a record."""
        opened = self._disputes.open(
            Wish(
                request_id=request.request_id,
                position=request.position,
                start_ms=request.start_ms,
                version=request.version,
                losses=losses_from_wire(request.losses, "a dispute"),
                evidence=_evidence(request.evidence),
                reason=request.reason,
            )
        )
        return disputes_pb2.OpenDisputeResponse(dispute=convert.disputed_to_wire(opened))

    @answers
    def ListDisputes(  # noqa: N802 - the wire's name
        self, request: disputes_pb2.ListDisputesRequest
    ) -> disputes_pb2.ListDisputesResponse:
        """A page of those after a place."""
        positions = None if not request.account else self._positions_of(request.account)
        if request.position:
            positions = frozenset({request.position}) & (
                frozenset({request.position}) if positions is None else positions
            )
        found = self._disputes.after(request.after, positions=positions, stream=request.stream)
        return disputes_pb2.ListDisputesResponse(disputes=[convert.disputed_to_wire(each) for each in found])


def _evidence(digest: bytes) -> str:
    if len(digest) not in (0, 32):
        raise InvalidValue("evidence", "a dispute", f"{len(digest)} bytes", "a SHA-256 of 32 bytes, or none")
    return digest.hex()


class Evidence(delivery_pb2_grpc.EvidenceServiceServicer):
    """What the exchange holds of a log, provable to anyone."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    @answers
    def GetCheckpoint(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetCheckpointRequest
    ) -> delivery_pb2.GetCheckpointResponse:
        """The latest checkpoint that the leaves here reach."""
        size, note = self._intake.checkpoint(request.stream)
        witnesses = self._intake.cosigners(request.stream)
        return delivery_pb2.GetCheckpointResponse(checkpoint=note, size=size, witnesses=witnesses)

    @answers
    def AddCosignature(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.AddCosignatureRequest
    ) -> delivery_pb2.AddCosignatureResponse:
        """Another witness's cosignature beside the exchange's own."""
        merged = self._intake.add_cosignature(request.stream, request.checkpoint, request.vkey)
        return delivery_pb2.AddCosignatureResponse(checkpoint=merged)

    @answers
    def GetInclusionProof(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetProofRequest
    ) -> delivery_pb2.GetProofResponse:
        """That leaf `index` is among the first `size`."""
        return delivery_pb2.GetProofResponse(hashes=self._intake.inclusion(request.stream, request.index, request.size))

    @answers
    def GetConsistencyProof(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetProofRequest
    ) -> delivery_pb2.GetProofResponse:
        """That the first `index` leaves are a prefix of the first `size`."""
        return delivery_pb2.GetProofResponse(
            hashes=self._intake.consistency(request.stream, request.index, request.size)
        )
