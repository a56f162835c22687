"""One wrong server for each check of the conformance suite: what it does otherwise than the rules say.

A mutation stands around the honest reference exchange, on the way of one method: it changes a request, an answer or an
error, or answers itself. `WRONG` says which check must find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from scheduler.exchange.admission import replaced
from scheduler.exchange.reference.faults import lies
from scheduler.exchange.v1 import delivery_pb2, positions_pb2

POSITIONS, TRADING = "tenor.exchange.v1.PositionService/", "tenor.exchange.v1.TradingService/"
DISPUTES = "tenor.exchange.v1.DisputeService/"
DELIVERY, EVIDENCE = "tenor.exchange.v1.DeliveryService/", "tenor.exchange.v1.EvidenceService/"

Change = Callable[[Any], Any]
"""A message to the one that takes its place; None: none does."""


def same(message: Any) -> Any:
    return message


@dataclass(frozen=True, slots=True)
class Mutation:
    """Of the methods whose name begins so. `code`: what an error's code is instead; `bare`: without details.
    `taken`: an answer in place of an error.
    """

    method: str
    asked: Change = same
    told: Change = same
    code: grpc.StatusCode | None = None
    bare: bool = False
    taken: Callable[[Any], Any] | None = None


class Mutating(grpc.ServerInterceptor):
    """Puts one mutation at a time around the services. `now` may be set from any thread."""

    def __init__(self) -> None:
        self.now: Mutation | None = None

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The method, with the mutation around it where there is one of it."""
        found = continuation(handler_call_details)
        mutation = self.now
        if found is None or mutation is None or not handler_call_details.method[1:].startswith(mutation.method):
            return found
        if found.response_streaming:
            inner = found.unary_stream or found.stream_stream
            return replaced(found, streamed(inner, mutation, many=found.request_streaming))
        return replaced(found, answered(found.unary_unary, mutation))


def answered(inner: Any, mutation: Mutation) -> Any:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        request = mutation.asked(request)
        try:
            return mutation.told(inner(request, Otherwise(context, mutation)))
        except Taken:
            assert mutation.taken is not None
            return mutation.taken(request)

    return call


def streamed(inner: Any, mutation: Mutation, *, many: bool) -> Any:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        seen: list[Any] = []
        asked = changed(request, mutation.asked, seen) if many else mutation.asked(request)
        try:
            for message in inner(asked, Otherwise(context, mutation)):
                told = mutation.told(message)
                yield from told if isinstance(told, list) else () if told is None else (told,)
        except Taken:
            assert mutation.taken is not None
            yield mutation.taken(seen[-1] if many else request)

    return call


def changed(requests: Iterator[Any], change: Change, seen: list[Any]) -> Iterator[Any]:
    for request in requests:
        seen.append(request)
        asked = change(request)
        if asked is not None:
            yield asked


class Taken(Exception):
    """The service would have refused."""


class Otherwise:
    """A context whose refusals are told otherwise."""

    def __init__(self, context: grpc.ServicerContext, mutation: Mutation) -> None:
        self._context = context
        self._mutation = mutation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort_with_status(self, status: Any) -> None:
        """Refuses, as the mutation has it."""
        mutation = self._mutation
        if mutation.taken is not None:
            raise Taken
        if mutation.bare:
            self._context.abort(mutation.code or status.code, status.details)
        if mutation.code is not None:
            self._context.abort(mutation.code, status.details)
        self._context.abort_with_status(status)


def copied(change: Callable[[Any], object]) -> Change:
    """A change in place, of a copy."""

    def on_copy(message: Any) -> Any:
        other = type(message).FromString(message.SerializeToString())
        change(other)
        return other

    return on_copy


def setting(**fields: Any) -> Change:
    """Some fields set."""

    def change(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return copied(change)


def watched(kind: str, change: Callable[[Any], object]) -> Mutation:
    """A watch whose messages of a kind are changed."""
    return Mutation(POSITIONS + "Watch", told=copied(lambda it: change(it) if it.HasField(kind) else None))


def refusing(method: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Mutation:
    """Refusals with a code that says something else."""
    return Mutation(method, code=code)


def settle_all() -> Mutation:
    """Nothing is ever rejected."""
    return Mutation(DELIVERY + "Publish", told=copied(lambda it: it.ClearField("rejections")))


def taking(method: str, answer: Callable[[Any], Any]) -> Mutation:
    """What should be refused is taken."""
    return Mutation(method, taken=answer)


def acknowledging(request: Any) -> delivery_pb2.PublishResponse:
    """A batch acknowledged that nobody took; an opening granted."""
    if request.HasField("batch"):
        batch = request.batch
        return delivery_pb2.PublishResponse(acknowledged=batch.first_index + len(batch.leaves), credits=100)
    return delivery_pb2.PublishResponse(acknowledged=0, credits=100)


def no_event(response: Any) -> Any:
    """Events are left out of a watch."""
    return None if response.HasField("event") else response


def _flip(snapshot: Any) -> None:
    snapshot.instruments[0].spec_hash = bytes(32)


def _taken_event(_: Any) -> positions_pb2.TradeResponse:
    return positions_pb2.TradeResponse(event=positions_pb2.PositionEvent(position="pos-x", lots=1))


_seen: list[int] = []
"""How often something was changed: what is never the same twice."""


def _growing(event: Any) -> None:
    """Another content each time."""
    _seen.append(1)
    event.event.committed_ms += len(_seen)


def _growing_size(checkpoint: Any) -> None:
    """One leaf more each time."""
    _seen.append(1)
    checkpoint.size += len(_seen)


def _all_lots(snapshot: Any) -> None:
    """Nobody ever gives anything away."""
    for position in snapshot.positions:
        for step in position.lots:
            step.lots = 3


def _all_open(listed: Any) -> None:
    """No dispute is ever answered."""
    for each in listed.disputes:
        each.state = delivery_pb2.DISPUTE_STATE_OPEN


def _numbered(trade: Any) -> None:
    _seen.append(1)
    trade.request_id += f"-{len(_seen)}"


def _listing(_: Any) -> positions_pb2.ListInstrumentResponse:
    return positions_pb2.ListInstrumentResponse(instrument="X@1")


def _no_epoch(request: Any) -> Any:
    """Every opening is of the latest epoch: nobody is fenced."""
    return setting_epoch(request, 2**62)


def setting_epoch(request: Any, epoch: int) -> Any:
    if not request.HasField("open"):
        return request
    other = delivery_pb2.PublishRequest.FromString(request.SerializeToString())
    other.open.epoch = epoch
    return other


_PUBLISH = DELIVERY + "Publish"
_UNTYPED = grpc.StatusCode.INTERNAL

WRONG: Mapping[str, Mutation] = {
    "health_is_told": Mutation("grpc.health.v1.Health/Check", told=setting(status=2)),
    "instruments_are_sound": Mutation(
        POSITIONS + "ListInstruments", told=copied(lambda it: setattr(it.instruments[0], "gpus_per_lot", 9))
    ),
    "instruments_by_prefix": Mutation(POSITIONS + "ListInstruments", asked=setting(prefix="")),
    "snapshot_is_sound": Mutation(POSITIONS + "GetSnapshot", told=copied(_flip)),
    "snapshot_of_an_account": Mutation(POSITIONS + "GetSnapshot", asked=setting(account="")),
    "other_streams_are_unknown": Mutation(POSITIONS + "GetSnapshot", asked=setting(stream="")),
    "cursor_is_dense": watched("event", lambda it: setattr(it.event.cursor, "seq", it.event.cursor.seq * 2)),
    "watch_goes_on_from_a_snapshot": watched("event", lambda it: setattr(it.event, "lots", it.event.lots + 1)),
    "watch_repeats_itself": watched("event", _growing),
    "watch_tells_events_as_they_come": Mutation(POSITIONS + "Watch", told=no_event),
    "instruments_come_before_their_events": Mutation(
        POSITIONS + "Watch", told=lambda it: None if it.HasField("instrument") else it
    ),
    "events_are_sound": watched("event", lambda it: setattr(it.event, "kind", 42)),
    "heartbeats_name_what_comes_next": watched("heartbeat", lambda it: setattr(it.heartbeat.next, "seq", 0)),
    "cursor_ahead_is_refused": refusing(POSITIONS + "Watch"),
    "cursor_of_an_epoch_that_is_over": refusing(POSITIONS + "Watch", _UNTYPED),
    "cursor_that_is_none": Mutation(POSITIONS + "Watch", bare=True, code=grpc.StatusCode.INVALID_ARGUMENT),
    "listing_repeats": Mutation(TRADING + "ListInstrument", told=setting(spec_hash=bytes(32))),
    "listing_never_changes": taking(TRADING + "ListInstrument", _listing),
    "listing_names_every_fault": Mutation(TRADING + "ListInstrument", bare=True, code=grpc.StatusCode.INVALID_ARGUMENT),
    "listing_hash_is_checked": taking(TRADING + "ListInstrument", _listing),
    "listing_fields_agree": taking(TRADING + "ListInstrument", _listing),
    "listing_terms_are_canonical": taking(TRADING + "ListInstrument", _listing),
    "listing_enum_is_known": taking(TRADING + "ListInstrument", _listing),
    "trade_repeats": Mutation(TRADING + "Trade", asked=copied(_numbered)),
    "trade_changed_is_refused": Mutation(TRADING + "Trade", asked=copied(_numbered)),
    "trade_in_the_past_is_refused": taking(TRADING + "Trade", _taken_event),
    "trade_of_the_unknown_is_refused": refusing(TRADING + "Trade", grpc.StatusCode.RESOURCE_EXHAUSTED),
    "trade_id_is_bounded": taking(TRADING + "Trade", _taken_event),
    "oversold_is_refused": taking(TRADING + "Trade", _taken_event),
    "transfer_conserves": Mutation(POSITIONS + "GetSnapshot", told=copied(_all_lots)),
    "split_stays_in_the_account": Mutation(TRADING + "Transfer", told=copied(lambda it: setattr(it.event, "kind", 2))),
    "correction_to_nothing_ends": Mutation(TRADING + "Correct", told=copied(lambda it: setattr(it.event, "kind", 5))),
    "opening_says_what_is_held": Mutation(_PUBLISH, told=setting(credits=0)),
    "opening_comes_first": refusing(_PUBLISH),
    "opening_is_checked": Mutation(_PUBLISH, asked=lambda it: setting_epoch(it, it.open.epoch or 7)),
    "acknowledged_survives": Mutation(EVIDENCE + "GetCheckpoint", told=setting(size=0)),
    "acknowledgements_add_up": Mutation(
        _PUBLISH, told=copied(lambda it: setattr(it, "acknowledged", it.acknowledged % 5))
    ),
    "credits_are_kept": Mutation(_PUBLISH, told=lies.false_ack),
    "resent_is_acknowledged_again": Mutation(EVIDENCE + "GetCheckpoint", told=copied(_growing_size)),
    "usual_batch_is_taken": Mutation(
        _PUBLISH, told=copied(lambda it: it.rejections.add(index=0, reason="MALFORMED", detail="none of ours"))
    ),
    "gap_is_refused": taking(_PUBLISH, acknowledging),
    "older_epoch_is_fenced": Mutation(_PUBLISH, asked=_no_epoch),
    "newer_epoch_fences": taking(_PUBLISH, acknowledging),
    "later_of_equals_speaks": refusing(_PUBLISH),
    "key_is_kept": taking(_PUBLISH, acknowledging),
    "checkpoint_is_signed": taking(_PUBLISH, acknowledging),
    "checkpoint_is_over_the_leaves": taking(_PUBLISH, acknowledging),
    "checkpoint_reaches_the_batch": taking(_PUBLISH, acknowledging),
    "checkpoint_ahead_is_proved": taking(_PUBLISH, acknowledging),
    "leaf_equivocation_freezes": taking(_PUBLISH, acknowledging),
    "checkpoint_equivocation_freezes": refusing(_PUBLISH, _UNTYPED),
    "bad_leaf_alone": settle_all(),
    "enum_value_is_known": settle_all(),
    "leaf_kind_is_known": settle_all(),
    "states_add_up": settle_all(),
    "pool_adds_up": settle_all(),
    "position_is_known": settle_all(),
    "instrument_is_the_positions": settle_all(),
    "interval_is_the_instruments": settle_all(),
    "version_is_the_next": settle_all(),
    "certificate_follows": settle_all(),
    "device_is_pledged_once": settle_all(),
    "promotion_is_the_next_version": settle_all(),
    "final_waits_for_its_time": settle_all(),
    "final_changes_for_a_reason": settle_all(),
    "dispute_is_answered_by_the_log": Mutation(DISPUTES + "ListDisputes", told=copied(_all_open)),
    "dispute_repeats": Mutation(DISPUTES + "OpenDispute", asked=copied(_numbered)),
    "dispute_of_the_unknown_is_refused": refusing(DISPUTES + "OpenDispute"),
    "answer_is_to_a_dispute": settle_all(),
    "notices_are_read": settle_all(),
    "planned_is_settled": Mutation(DELIVERY + "GetStatement", told=lies.false_statement),
    "checkpoint_verifies": Mutation(EVIDENCE + "GetCheckpoint", told=lies.false_checkpoint),
    "checkpoint_of_the_unknown": refusing(EVIDENCE + "GetCheckpoint"),
    "cosignature_verifies": Mutation(_PUBLISH, told=lies.missigned_ack),
    "inclusion_is_proved": Mutation(EVIDENCE + "GetInclusionProof", told=lies.false_proof),
    "consistency_is_proved": Mutation(EVIDENCE + "GetConsistencyProof", told=lies.false_proof),
    "proofs_outside_are_refused": taking(EVIDENCE + "Get", lambda _: delivery_pb2.GetProofResponse()),
    "other_witnesses_are_taken": taking(
        EVIDENCE + "AddCosignature", lambda it: delivery_pb2.AddCosignatureResponse(checkpoint=it.checkpoint)
    ),
    "statement_is_recomputed": Mutation(DELIVERY + "GetStatement", told=lies.false_statement),
    "statement_has_its_checkpoint": Mutation(DELIVERY + "GetStatement", told=setting(checkpoint=b"none")),
    "statement_of_the_unknown": taking(DELIVERY + "GetStatement", lambda _: delivery_pb2.GetStatementResponse()),
    "statement_before_any_record": taking(DELIVERY + "GetStatement", lambda _: delivery_pb2.GetStatementResponse()),
}
