"""The feed's gRPC face: the log as a stream, its snapshots, what is owed, what may be sold, and proofs of all of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import grpc

from scheduler.api import asked, codec, selling
from scheduler.api.feed.log import FeedLog, Key
from scheduler.api.feed.subscription import Subscription
from scheduler.core.errors import InvalidValue
from scheduler.core.models import canonical_bytes
from scheduler.exchange import convert
from scheduler.exchange.errors import Exhausted, answers, streams
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc, feed_pb2, feed_pb2_grpc
from scheduler.service import Scheduler

MOST_STREAMS = 32
MOST_SEARCHES = 2
"""Snapshots, statements and questions of what may be sold at a time: each keeps a processor busy for a while."""
_POLL_S = 0.2
"""How soon new leaves are noticed where nobody calls `wake`."""
_SEARCH_RETRY_MS = 1_000


@dataclass(frozen=True, slots=True)
class FeedSources:
    """What the feed tells of beyond the scheduler and the log; whoever composes them gives it. `clock_ms`: UTC.

    `keys`: the log's verifier keys, oldest first, each with the leaf that brought it. `cosign` keeps a checkpoint that
    the witness of a verifier key has cosigned, and gives it with all cosignatures; it raises TenorErrors.
    """

    clock_ms: Callable[[], int]
    keys: Callable[[], tuple[Key, ...]]
    cosign: Callable[[bytes, str], bytes]
    heartbeat_ms: int = 1_000


class Feed(feed_pb2_grpc.DeliveryFeedServicer):
    """See the module."""

    def __init__(self, scheduler: Scheduler, log: FeedLog, sources: FeedSources) -> None:
        self._scheduler = scheduler
        self._log = log
        self._sources = sources
        self._guard = threading.Lock()
        self._open: set[Subscription] = set()
        self._closing = False
        self._searches = threading.Semaphore(MOST_SEARCHES)

    def wake(self) -> None:
        """There may be new leaves: subscribers get them now rather than a little later."""
        with self._guard:
            subscriptions = tuple(self._open)
        for subscription in subscriptions:
            subscription.wake()

    def close(self) -> None:
        """Let every subscription end."""
        with self._guard:
            self._closing = True
            for subscription in self._open:
                subscription.end()

    @streams
    def Subscribe(  # noqa: N802 - the wire's name
        self, requests: Iterator[feed_pb2.SubscribeRequest], context: grpc.ServicerContext
    ) -> Iterator[feed_pb2.SubscribeResponse]:
        """See the proto."""
        first = next(requests, feed_pb2.SubscribeRequest())
        if first.WhichOneof("kind") != "open":
            raise InvalidValue("kind", "a subscription", first.WhichOneof("kind"), "open first, then grants")
        after = self._log.after(first.open.after)
        subscription = Subscription(first.open.credits)
        with self._place(subscription, context):
            subscription.follow(requests)
            yield from self._sent(subscription, after)

    @streams
    def Replay(  # noqa: N802 - the wire's name
        self,
        request: feed_pb2.ReplayRequest,
        context: grpc.ServicerContext,
    ) -> Iterator[feed_pb2.ReplayResponse]:
        """See the proto."""
        after, signed = self._log.after(request.after), self._log.signed()
        end = request.to_seq or signed.size
        if not after <= end <= signed.size:
            raise InvalidValue("to_seq", "a replay", request.to_seq, f"0, or a number in {after}..{signed.size}")
        while after < end and context.is_active() and not self._closing:
            batch = self._log.batch(after, end - after, signed)
            yield feed_pb2.ReplayResponse(batch=batch)
            after = batch.last.seq

    @streams
    def GetSnapshot(  # noqa: N802 - the wire's name
        self, request: feed_pb2.DeliveryFeedGetSnapshotRequest, context: grpc.ServicerContext
    ) -> Iterator[feed_pb2.DeliveryFeedGetSnapshotResponse]:
        """See the proto."""
        with nullcontext() if request.head_only else self._searching():
            head = self._log.head(self._sources.keys())
            with self._scheduler.guard:
                listed = sorted(self._scheduler.state.instruments.items())
            head.instruments.extend(convert.instrument_to_wire(terms) for _, terms in listed)
            yield feed_pb2.DeliveryFeedGetSnapshotResponse(head=head)
            for page in () if request.head_only else self._log.in_force(head.cursor.seq):
                if self._closing or not context.is_active():
                    return
                yield feed_pb2.DeliveryFeedGetSnapshotResponse(leaves=page)

    @answers
    def GetStatement(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetStatementRequest
    ) -> delivery_pb2.GetStatementResponse:
        """See the proto."""
        signed = self._log.signed()
        until_ms = asked.instant("until_ms", "a statement", request.until_ms)
        with self._searching():
            found = self._log.statement(self._scheduler.state, request.position, until_ms, signed.size)
        return delivery_pb2.GetStatementResponse(statement=canonical_bytes(found), checkpoint=signed.note)

    @answers
    def GetDeliverable(  # noqa: N802 - the wire's name
        self, request: feed_pb2.DeliveryFeedGetDeliverableRequest
    ) -> feed_pb2.DeliveryFeedGetDeliverableResponse:
        """See the proto."""
        question = selling.question_of(request, request.instrument)
        scheduler = self._scheduler
        with self._searching():
            with scheduler.guard:
                now_ms = self._sources.clock_ms()
                facts = selling.offer_facts(scheduler.state, now_ms, scheduler.settings.spares, request.instrument)
            found = selling.deliverable(facts, question, plan=not request.bounds_only)
        return codec.to_wire(found, feed_pb2.DeliveryFeedGetDeliverableResponse)

    @answers
    def GetBacking(  # noqa: N802 - the wire's name
        self, request: feed_pb2.DeliveryFeedGetBackingRequest
    ) -> feed_pb2.DeliveryFeedGetBackingResponse:
        """See the proto."""
        question = selling.question_of(request, request.subject)
        scheduler, spares = self._scheduler, self._scheduler.settings.spares
        with self._searching():
            with scheduler.guard:
                now_ms = self._sources.clock_ms()
                facts = selling.backing_facts(scheduler.state, now_ms, spares, request.subject, question)
            found = selling.backing(facts, question)
        return codec.to_wire(found, feed_pb2.DeliveryFeedGetBackingResponse)

    def _sent(self, subscription: Subscription, after: int) -> Iterator[feed_pb2.SubscribeResponse]:
        """Batches as long as there are leaves and credits, and heartbeats in between."""
        heartbeat_s = self._sources.heartbeat_ms / 1_000
        due_s = 0.0  # the first pause says at once that everything was sent
        while not subscription.over:
            signed, granted = self._log.signed(), subscription.credits
            if granted and after < signed.size:
                batch = self._log.batch(after, granted, signed)
                subscription.take(batch.last.seq - after)
                after, due_s = batch.last.seq, 0.0
                yield feed_pb2.SubscribeResponse(batch=batch)
                continue
            now_s = time.monotonic()
            if now_s >= due_s:
                due_s = now_s + heartbeat_s
                heartbeat = feed_pb2.FeedHeartbeat(
                    next=self._log.cursor(after + 1), checkpoint=signed.note, at_ms=self._sources.clock_ms()
                )
                yield feed_pb2.SubscribeResponse(heartbeat=heartbeat)
            subscription.wait(min(_POLL_S, due_s - now_s))

    @contextmanager
    def _place(self, subscription: Subscription, context: grpc.ServicerContext) -> Iterator[None]:
        with self._guard:
            if self._closing or len(self._open) >= MOST_STREAMS:
                was = f"{len(self._open)} subscriptions are open"
                raise Exhausted(f"{was}, expected fewer than {MOST_STREAMS}: try again later")
            self._open.add(subscription)
        try:
            if not context.add_callback(subscription.end):
                subscription.end()
            yield
        finally:
            with self._guard:
                self._open.discard(subscription)

    @contextmanager
    def _searching(self) -> Iterator[None]:
        if not self._searches.acquire(blocking=False):
            raise Exhausted(
                f"{MOST_SEARCHES} others ask for snapshots, statements or offers: try again later",
                subject="searches",
                retry_ms=_SEARCH_RETRY_MS,
            )
        try:
            yield
        finally:
            self._searches.release()


class Evidence(delivery_pb2_grpc.EvidenceServiceServicer):
    """The log, provable to anyone, as its own cluster has it."""

    def __init__(self, log: FeedLog, sources: FeedSources) -> None:
        self._log = log
        self._sources = sources

    @answers
    def GetCheckpoint(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetCheckpointRequest
    ) -> delivery_pb2.GetCheckpointResponse:
        """The latest checkpoint."""
        self._log.check_stream(request.stream)
        signed = self._log.signed()
        if not signed.note:
            raise InvalidValue("checkpoint", f"stream {request.stream}", "missing", "a log that was signed once")
        return delivery_pb2.GetCheckpointResponse(
            checkpoint=signed.note, size=signed.size, witnesses=self._log.witnesses()
        )

    @answers
    def GetInclusionProof(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetProofRequest
    ) -> delivery_pb2.GetProofResponse:
        """That leaf `index` is among the first `size`."""
        self._log.check_stream(request.stream)
        return delivery_pb2.GetProofResponse(hashes=self._log.inclusion(request.index, request.size))

    @answers
    def GetConsistencyProof(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetProofRequest
    ) -> delivery_pb2.GetProofResponse:
        """That the first `index` leaves are a prefix of the first `size`."""
        self._log.check_stream(request.stream)
        return delivery_pb2.GetProofResponse(hashes=self._log.consistency(request.index, request.size))

    @answers
    def AddCosignature(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.AddCosignatureRequest
    ) -> delivery_pb2.AddCosignatureResponse:
        """A witness's cosignature beside those that are there."""
        self._log.check_stream(request.stream)
        return delivery_pb2.AddCosignatureResponse(checkpoint=self._sources.cosign(request.checkpoint, request.vkey))
