"""Delivery out: a thread that sends the log's leaves until the exchange has acknowledged every one of them.

It sends what the journal holds durably and nothing else, in batches, each under a checkpoint that was signed and kept
before it was sent; it has no more on the way than the exchange grants. Where there is nothing to send it says so, as
often as the exchange asks for. What is acknowledged is noted in the journal, so that any crash of either side leads
back to the same place. An exchange that says that this log contradicts itself, or that another publisher has taken
over, ends the publisher, visibly: going on would only make it worse.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc

from scheduler.core.errors import Conflict, Refused, SequenceGap, TenorError, Unavailable
from scheduler.exchange.channels import CHANNEL_OPTIONS, STREAM_S
from scheduler.exchange.dialling import Dialling, said_of
from scheduler.exchange.handshakes import failure
from scheduler.exchange.silence import QUIET_S
from scheduler.exchange.tls import Tls, opened
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc
from scheduler.exchange.witnessing import keep_cosigned
from scheduler.ledger.journal import Journal
from scheduler.ledger.keyring import LogSigner
from scheduler.ledger.notes import Checkpoint, sign_checkpoint

BATCH_LEAVES = 512
BATCH_BYTES = 2**20
"""A batch ends with the leaf that reaches this; the longest leaf alone is far below what a message may have."""
_IDLE_S = 0.2
"""How soon new leaves are noticed where nobody calls `wake`."""
_KEPT_REJECTIONS = 100


class PublishState(StrEnum):
    """How the publisher stands."""

    CONNECTING = "connecting"
    PUBLISHING = "publishing"
    REFUSED = "refused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RejectedLeaf:
    """A leaf that the exchange keeps and does not settle."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class PublishStatus:
    """`acknowledged`: leaves that the exchange has. `outbox`: those it does not have yet. `detail`: the last error."""

    state: PublishState
    acknowledged: int
    outbox: int
    detail: str = ""
    rejected: int = 0
    rejections: tuple[RejectedLeaf, ...] = ()


class Publisher(Dialling):
    """See the module. `epoch`: of the process that owns the journal; a higher one fences those before it."""

    def __init__(
        self,
        address: str,
        journal: Journal,
        stream: str,
        signer: LogSigner,
        epoch: int,
        *,
        chance: random.Random | None = None,
        batch_leaves: int = BATCH_LEAVES,
        tls: Tls | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        super().__init__("exchange-publisher", chance=chance)
        self._address = address
        self._quiet_s = quiet_s
        self._heard_s = 0.0
        self._tls = tls
        self._journal = journal
        self._stream = stream
        self._signer = signer
        self._epoch = epoch
        self._batch_leaves = batch_leaves
        self._guard = threading.Condition()
        self._acknowledged = journal.acknowledged(stream)
        self._sent = 0
        self._credits = 0  # 0: the exchange has not answered to the opening yet
        self._heartbeat_s = 0.0  # 0: the exchange did not ask for heartbeats
        self._turn = 0
        self._failure: TenorError | None = None
        self._state = PublishState.CONNECTING
        self._detail = ""
        self._rejections: deque[RejectedLeaf] = deque(maxlen=_KEPT_REJECTIONS)
        self._rejected = 0
        self._call: Any = None

    def wake(self) -> None:
        """There are new leaves: send them now rather than a little later."""
        with self._guard:
            self._guard.notify_all()

    def status(self) -> PublishStatus:
        """How it stands."""
        size = self._journal.log_size(self._stream)
        with self._guard:
            return PublishStatus(
                self._state,
                self._acknowledged,
                size - self._acknowledged,
                self._detail,
                self._rejected,
                tuple(self._rejections),
            )

    def wait_acknowledged(self, size: int, timeout_s: float) -> bool:
        """Whether the exchange has the first `size` leaves: waits until it has, the timeout, or the end."""
        over = (PublishState.REFUSED, PublishState.STOPPED)
        with self._guard:
            self._guard.wait_for(lambda: self._acknowledged >= size or self._state in over, timeout_s)
            return self._acknowledged >= size

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        with self._guard:
            call = self._call
            self._guard.notify_all()
        if call is not None:
            call.cancel()

    def _stopped(self) -> None:
        with self._guard:
            if self._state is not PublishState.REFUSED:
                self._state = PublishState.STOPPED
            self._guard.notify_all()

    def _progress(self) -> object:
        return self._acknowledged

    def _told(self, error: Exception) -> bool:
        """After a gap the exchange says where to go on, when it is asked again."""
        is_over = not isinstance(error, TenorError) or (
            isinstance(error, Refused) and not isinstance(error, SequenceGap)
        )
        self._note(PublishState.REFUSED if is_over else PublishState.CONNECTING, said_of(error))
        return not is_over

    def _note(self, state: PublishState, detail: str) -> None:
        with self._guard:
            self._state, self._detail = state, detail
            self._guard.notify_all()

    def _dial(self) -> None:
        """Sends until the exchange is lost. Raises what the exchange or the journal raises."""
        with self._guard:
            self._turn += 1
            self._credits, self._failure, self._heartbeat_s = 0, None, 0.0
            self._heard_s = time.monotonic()
            turn = self._turn
        if self._tls is not None:
            self._tls.check()
        with opened(self._address, self._tls, CHANNEL_OPTIONS) as channel:
            call: Any = delivery_pb2_grpc.DeliveryServiceStub(channel).Publish(self._requests(turn), timeout=STREAM_S)
            with self._guard:
                self._call = call
                if self._stop.is_set():
                    call.cancel()
            try:
                for response in call:
                    self._receive(response)
            except grpc.RpcError as failed:
                mine: TenorError | None = self._failure  # set meanwhile, where it was we who ended it
                raise mine or failure(failed, self._address, self._tls) from failed
            finally:
                with self._guard:
                    self._call = None
                    self._turn += 1  # ends the requests of this connection
                    self._guard.notify_all()
        if self._failure is not None:
            raise self._failure

    def _receive(self, response: delivery_pb2.PublishResponse) -> None:
        """Notes what the exchange has, durably, and lets more be sent."""
        held = response.acknowledged
        with self._guard:
            self._heard_s = time.monotonic()
            if self._credits:  # of this connection not the first: they add up, whatever order they come in
                if held > self._sent:
                    raise Conflict(f"{held} leaves of stream {self._stream} were acknowledged, {self._sent} were sent")
                held = max(held, self._acknowledged)
        self._journal.acknowledge(self._stream, held)
        if response.cosigned:
            keep_cosigned(self._journal, self._stream, self._signer.verifiers, response.cosigned, response.witness)
        with self._guard:
            if not self._credits:
                self._sent = held  # what is there already, from before, is not sent again
                self._heartbeat_s = response.heartbeat_ms / 1_000
            self._credits = max(1, response.credits)
            self._acknowledged = held
            self._state, self._detail = PublishState.PUBLISHING, ""
            self._rejected += len(response.rejections)
            self._rejections.extend(RejectedLeaf(it.index, it.reason, it.detail) for it in response.rejections)
            self._guard.notify_all()

    def _requests(self, turn: int) -> Iterator[delivery_pb2.PublishRequest]:
        """The opening, then batches as long as the connection lasts; gRPC takes them in a thread of its own."""
        key = self._signer.opening(self._journal.acknowledged(self._stream))
        opening = delivery_pb2.PublishOpen(stream=self._stream, epoch=self._epoch, vkey=key.encode())
        yield delivery_pb2.PublishRequest(open=opening)
        spoke_s = time.monotonic()
        while not self._over(turn):
            try:
                self._check_answered()
                may_send = self._may_send(turn)
                batch = self._next_batch(turn) if may_send else None
            except TenorError as error:
                self._fail(turn, error)
                return
            if not may_send:
                continue
            if batch is not None:
                yield delivery_pb2.PublishRequest(batch=batch)
            elif self._heartbeat_s and time.monotonic() - spoke_s >= self._heartbeat_s:
                yield delivery_pb2.PublishRequest(heartbeat=self._heartbeat())
            else:
                with self._guard:
                    self._guard.wait(_IDLE_S)
                continue
            spoke_s = time.monotonic()

    def _heartbeat(self) -> delivery_pb2.PublishHeartbeat:
        """Nothing new: what would come next, and the log as it was last signed."""
        _, note = self._journal.checkpoint(self._stream) or (0, b"")
        return delivery_pb2.PublishHeartbeat(next_index=self._sent, checkpoint=note)

    def _fail(self, turn: int, error: TenorError) -> None:
        """Ends the connection, also one at whose other end nobody listens."""
        with self._guard:
            call = self._call if self._turn == turn else None
            self._failure = error
        if call is not None:
            call.cancel()

    def _check_answered(self) -> None:
        """Raises Unavailable where an answer is owed, and none came for long."""
        with self._guard:
            on_the_way = self._sent - self._acknowledged if self._credits else 0
            quiet_s = time.monotonic() - self._heard_s
            owed = on_the_way > 0 or not self._credits
            if owed and quiet_s > self._quiet_s:
                raise Unavailable(
                    f"the exchange said nothing for {self._quiet_s:g} s: {on_the_way} leaves are on the way"
                )

    def _may_send(self, turn: int) -> bool:
        """Waits a little for the exchange to grant a batch; False where it did not, or the connection is over."""

        def granted() -> bool:
            on_the_way = self._sent - self._acknowledged
            room = self._credits - on_the_way
            return self._over(turn) or (self._credits > 0 and (room >= self._batch_leaves or on_the_way <= 0))

        with self._guard:
            return self._guard.wait_for(granted, _IDLE_S) and not self._over(turn)

    def _over(self, turn: int) -> bool:
        return self._stop.is_set() or self._turn != turn

    def _next_batch(self, turn: int) -> delivery_pb2.Batch | None:
        """The next leaves under a checkpoint that covers them; None where there are none."""
        with self._guard:
            first, limit = self._sent, min(self._batch_leaves, self._credits)
        leaves: list[bytes] = []
        length = 0
        for _, leaf in self._journal.leaves(self._stream, first, limit):
            leaves.append(leaf)
            length += len(leaf)
            if length >= BATCH_BYTES:
                break
        if not leaves:
            return None
        end = first + len(leaves)
        size, note = self._covering(end)
        proof = self._journal.consistency_proof(self._stream, end, size)
        with self._guard:
            if self._over(turn):
                return None
            if self._sent <= self._acknowledged:  # nothing was owed until now
                self._heard_s = time.monotonic()
            self._sent = end
        return delivery_pb2.Batch(first_index=first, leaves=leaves, checkpoint=note, consistency=proof)

    def _covering(self, end: int) -> tuple[int, bytes]:
        """A checkpoint over at least `end` leaves, kept in the journal before anybody sees it."""
        kept = self._journal.checkpoint(self._stream)
        if kept is not None and kept[0] >= end:
            return kept
        size = self._journal.log_size(self._stream)
        root = self._journal.root(self._stream, size)
        signers = self._signer.signers(self._journal.acknowledged(self._stream))
        note = sign_checkpoint(Checkpoint(self._signer.name, size, root), *signers)
        try:
            self._journal.save_checkpoint(self._stream, size, note)
        except Conflict:  # whoever writes the log has signed a longer one meanwhile
            kept = self._journal.checkpoint(self._stream)
            if kept is None or kept[0] < end:
                raise
            return kept
        return size, note
