"""What exchanges and auditors ask of a cluster's feed: its log from a cursor on, what is owed and what may be sold.

Values come as they were sent and checked for form only; whether they are the log's is for `following` to say. Every
method raises the error that the cluster raised, of the same class, or Unavailable where it did not answer.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from scheduler.core.errors import InvalidValue, TenorError
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.merkle import HASH_BYTES, CompactRange
from scheduler.core.positions import Cursor
from scheduler.exchange import convert
from scheduler.exchange.channels import STREAM_S
from scheduler.exchange.connection import Connection
from scheduler.exchange.leaves import KeyChangeLeaf, decode
from scheduler.exchange.tls import Tls
from scheduler.exchange.unknown import refuse_unknown
from scheduler.exchange.v1 import delivery_pb2, feed_pb2, feed_pb2_grpc, positions_pb2
from scheduler.ledger.keyring import KeyChange
from scheduler.ledger.keys import VerifierKey

CREDITS = 4_096
"""How many leaves may be on the way where nobody says how many."""


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Leaves in order, with the cursor of the last; `checkpoint` is a signed note over at least all of them, and
    `consistency` the RFC 9162 proof from the batch's end to it.
    """

    last: Cursor
    leaves: tuple[bytes, ...]
    checkpoint: bytes
    consistency: tuple[bytes, ...]

    @property
    def first_seq(self) -> int:
        """Of the first leaf."""
        return self.last.seq - len(self.leaves) + 1


@dataclass(frozen=True, slots=True)
class FeedAlive:
    """A heartbeat: the leaf that comes next will have this cursor, and the log is as the checkpoint (a note; empty
    before the first) says.
    """

    next: Cursor
    checkpoint: bytes
    at_ms: int


FeedTold = FeedBatch | FeedAlive
"""What a subscription tells."""


@dataclass(frozen=True, slots=True)
class FeedHead:
    """Where a log stands: `cursor` is of the last leaf under `checkpoint`, `edge` the compact range up to there. The
    oldest leaf that can be asked for is that of `oldest`.
    """

    cursor: Cursor
    checkpoint: bytes
    edge: CompactRange
    vkeys: tuple[VerifierKey, ...]
    key_changes: tuple[KeyChange, ...]
    cosigned: bytes
    witnesses: tuple[str, ...]
    instruments: tuple[InstrumentTerms, ...]
    oldest: Cursor


class FeedClient(Connection):
    """Calls to the feed of one cluster at `HOST:PORT`. Safe for threads. A context manager that closes its channel.

    Raises Unauthorised for plaintext off loopback, and what `Tls.valid` raises.
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0, tls: Tls | None = None) -> None:
        super().__init__(address, timeout_s=timeout_s, tls=tls, of="the feed")
        self._feed = feed_pb2_grpc.DeliveryFeedStub(self._channel)

    def head(self) -> FeedHead:
        """Where the log stands, its keys and its instruments' terms."""
        request = feed_pb2.DeliveryFeedGetSnapshotRequest(head_only=True)
        (answer,) = self._asked(lambda: list(self._feed.GetSnapshot(request, timeout=self._timeout_s)))
        return _head(answer.head)

    def snapshot(self) -> tuple[FeedHead, Iterator[feed_pb2.FeedLeaf]]:
        """The head, and every leaf up to its cursor; of those that were superseded the hash. An hour at most."""
        call: Any = self._feed.GetSnapshot(feed_pb2.DeliveryFeedGetSnapshotRequest(), timeout=STREAM_S)
        answers = self._streamed(call)
        head = _head(next(answers, feed_pb2.DeliveryFeedGetSnapshotResponse()).head)
        return head, (leaf for answer in answers for leaf in answer.leaves)

    def replay(self, after: Cursor | None, to_seq: int = 0) -> Iterator[FeedBatch]:
        """The leaves after a cursor (None: from the first on) to that number; 0: to the last that is signed. Raises
        CursorCompacted where they are gone.
        """
        request = feed_pb2.ReplayRequest(after=_after(after), to_seq=to_seq)
        for answer in self._streamed(self._feed.Replay(request, timeout=STREAM_S)):
            yield _batch(answer.batch)

    def subscribe(self, after: Cursor | None, granted: int = CREDITS) -> FeedSubscription:
        """The leaves after a cursor as they come, for an hour at most: then ask again. No more than `granted` are
        sent; grant as many as were dealt with.
        """
        return FeedSubscription(self._feed.Subscribe, after, granted, self._failure)

    def statement(self, position: str, until_ms: int = 0) -> tuple[bytes, bytes]:
        """The canonical bytes of the statement, and the checkpoint that it was made under. Raises as
        `ExchangeClient.statement`.
        """
        request = delivery_pb2.GetStatementRequest(position=position, until_ms=until_ms)
        answer = self._asked(lambda: self._feed.GetStatement(request, timeout=self._timeout_s))
        return answer.statement, answer.checkpoint

    def deliverable(
        self, request: feed_pb2.DeliveryFeedGetDeliverableRequest
    ) -> feed_pb2.DeliveryFeedGetDeliverableResponse:
        """What more may be sold of an instrument. Raises UnknownName, InvalidValue."""
        return refuse_unknown(self._asked(lambda: self._feed.GetDeliverable(request, timeout=self._timeout_s)))

    def backing(self, request: feed_pb2.DeliveryFeedGetBackingRequest) -> feed_pb2.DeliveryFeedGetBackingResponse:
        """What is sold, against what is accredited. Raises UnknownName, InvalidValue."""
        return refuse_unknown(self._asked(lambda: self._feed.GetBacking(request, timeout=self._timeout_s)))

    def _streamed(self, call: Any) -> Iterator[Any]:
        """What a call answers. Raises what the cluster raised."""
        try:
            yield from call
        except grpc.RpcError as failed:
            raise self._failure(failed) from failed
        finally:
            call.cancel()


class FeedSubscription:
    """An open subscription: iterate over it, `grant` what was dealt with; `cancel` from any thread ends it."""

    def __init__(
        self, method: Any, after: Cursor | None, granted: int, failure: Callable[[grpc.RpcError], TenorError]
    ) -> None:
        self._failure = failure
        self._grants: queue.SimpleQueue[int] = queue.SimpleQueue()
        opening = feed_pb2.SubscribeOpen(after=_after(after), credits=granted)
        self._call: Any = method(self._requests(opening), timeout=STREAM_S)

    def __iter__(self) -> Iterator[FeedTold]:
        """What is told, in order. Raises what the cluster raised, Unavailable where it is lost or this is cancelled."""
        try:
            for response in self._call:
                yield _told(response)
        except grpc.RpcError as failed:
            raise self._failure(failed) from failed
        finally:
            self.cancel()

    def grant(self, leaves: int) -> None:
        """So many more may be sent."""
        if leaves:
            self._grants.put(leaves)

    def cancel(self) -> None:
        """Ends the subscription."""
        self._call.cancel()
        self._grants.put(0)

    def _requests(self, opening: feed_pb2.SubscribeOpen) -> Iterator[feed_pb2.SubscribeRequest]:
        """GRPC takes them on a thread of its own."""
        yield feed_pb2.SubscribeRequest(open=opening)
        while granted := self._grants.get():
            yield feed_pb2.SubscribeRequest(grant=feed_pb2.SubscribeGrant(credits=granted))


def _after(cursor: Cursor | None) -> positions_pb2.Cursor | None:
    return None if cursor is None else convert.cursor_to_wire(cursor)


def _told(response: feed_pb2.SubscribeResponse) -> FeedTold:
    match response.WhichOneof("kind"):
        case "batch":
            return _batch(response.batch)
        case "heartbeat":
            beat = response.heartbeat
            return FeedAlive(convert.cursor_from_wire(beat.next), beat.checkpoint, beat.at_ms)
        case _:
            raise TenorError("the feed told something that this version does not know")


def _batch(sent: feed_pb2.FeedBatch) -> FeedBatch:
    last, batch = convert.cursor_from_wire(sent.last), sent.batch
    if not batch.leaves or last.seq != batch.first_index + len(batch.leaves):
        expected = f"{last.seq - len(batch.leaves)}, as its {len(batch.leaves)} leaves (1 or more) and its cursor say"
        raise InvalidValue("first_index", f"a batch up to {last.stream}/{last.seq}", batch.first_index, expected)
    return FeedBatch(last, tuple(batch.leaves), batch.checkpoint, tuple(batch.consistency))


def _head(sent: feed_pb2.FeedHead) -> FeedHead:
    cursor = convert.cursor_from_wire(sent.cursor)
    return FeedHead(
        cursor=cursor,
        checkpoint=sent.checkpoint,
        edge=CompactRange(cursor.seq, tuple(sent.edge)),
        vkeys=tuple(map(VerifierKey.parse, sent.vkeys)),
        key_changes=tuple(map(_key_change, sent.key_changes)),
        cosigned=sent.cosigned,
        witnesses=tuple(sent.witnesses),
        instruments=tuple(map(convert.instrument_from_wire, sent.instruments)),
        oldest=convert.cursor_from_wire(sent.oldest),
    )


def _key_change(leaf: bytes) -> KeyChange:
    decoded = decode(leaf)
    if not isinstance(decoded, KeyChangeLeaf):
        raise InvalidValue("key_changes", "the head of a feed", type(decoded).__name__, "leaves that change the key")
    return decoded.change


def hash_of(sent: feed_pb2.FeedLeaf) -> bytes:
    """The hash that stands for a superseded leaf. Raises InvalidValue where there is neither a leaf nor a hash."""
    if len(sent.hash) != HASH_BYTES:
        raise InvalidValue("hash", f"leaf {sent.seq} of a snapshot", sent.hash.hex(), f"{HASH_BYTES} bytes, or a leaf")
    return sent.hash
