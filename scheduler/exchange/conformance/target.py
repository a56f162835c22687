"""The server under test, and what the checks share: what is traded there, the logs, what stands delivered."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from scheduler.exchange.conformance.callers import Callers, Calls
from scheduler.exchange.conformance.log import Log
from scheduler.exchange.conformance.market import Market, Owned
from scheduler.exchange.conformance.outcome import Failed, Skipped, refusal_of
from scheduler.exchange.conformance.session import Session
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.v1 import delivery_pb2


@dataclass(frozen=True, slots=True)
class Delivered:
    """A position that was delivered to until an instant, and the leaves in the log that settle it."""

    owned: Owned
    log: Log
    until_ms: int
    settled: list[bytes]
    aside: Owned | None
    """Another position, bought at the same time and not delivered to; None where there is but one."""


@dataclass(slots=True)
class Target(Callers):
    """See the module."""

    _logs: list[Log] = field(default_factory=list)
    _market: Market | None = None
    _delivered: Delivered | None = None
    _counted: int = 0
    told_aside: list[bytes] = field(default_factory=list)
    """What was settled of the position that is `aside`, in order."""

    @property
    def market(self) -> Market:
        """What is traded there."""
        if self._market is None:
            self._market = Market(self)
        return self._market

    def count(self) -> int:
        """A number that was not given before."""
        self._counted += 1
        return self._counted

    # -- delivery ------------------------------------------------------------------------------------------------------

    def log(self) -> Log:
        """The log that all checks share which leave it sound. Raises Skipped where nobody may publish."""
        if not self._logs:
            self._logs.append(self._new_log(0))
        return self._logs[0]

    def spare_log(self) -> Log:
        """A log of its own, for a check that may freeze it. Raises Skipped where there is no identity left for one."""
        self.log()
        self._logs.append(self._new_log(len(self._logs)))
        return self._logs[-1]

    def publisher(self, log: Log) -> Calls:
        """Whoever may publish on that stream."""
        return self.as_peer(Peer(Role.CLUSTER, log.stream) if self.secure else None)

    def session(self, log: Log, *, epoch: int = 0, vkey: str = "") -> Session:
        """A turn on the stream, of a newer epoch than all before, or as given."""
        log.epoch += 1
        channel = self.publisher(log).channel
        try:
            session = Session.on(channel, log.stream, epoch or log.epoch, vkey or log.vkey, self.timeout_s)
        except grpc.RpcError as failed:
            refusal = refusal_of(failed)
            if not (log.fresh or log.opened) and refusal.reason in ("UNAUTHORISED", "EQUIVOCATION"):
                raise Skipped(f"{_used(log.stream)} ({refusal})") from failed
            raise
        if not (log.fresh or log.opened) and session.acknowledged:
            session.close()
            raise Skipped(f"{_used(log.stream)} ({session.acknowledged} leaves)")
        log.opened = True
        return session

    def deliver(self, log: Log, *leaves: bytes) -> Session:
        """A session, ended, in which the leaves were delivered under one checkpoint over all."""
        first = log.add(*leaves)
        with self.session(log) as session:
            session.deliver(log.batch(first))
        return session

    def held(self, log: Log) -> int:
        """How many leaves the server says that it holds."""
        return self.checkpoint(log).size

    def checkpoint(self, log: Log) -> delivery_pb2.GetCheckpointResponse:
        """What the server says of a log."""
        request = delivery_pb2.GetCheckpointRequest(stream=log.stream)
        answer: delivery_pb2.GetCheckpointResponse = self.reader().evidence.GetCheckpoint(
            request, timeout=self.timeout_s
        )
        return answer

    def proof(self, log: Log, index: int, size: int, *, inclusion: bool) -> tuple[bytes, ...]:
        """The hashes of a proof."""
        request = delivery_pb2.GetProofRequest(stream=log.stream, index=index, size=size)
        evidence = self.reader().evidence
        ask = evidence.GetInclusionProof if inclusion else evidence.GetConsistencyProof
        return tuple(ask(request, timeout=self.timeout_s).hashes)

    def statement(self, position: str, until_ms: int = 0) -> delivery_pb2.GetStatementResponse:
        """What the server says is owed."""
        request = delivery_pb2.GetStatementRequest(position=position, until_ms=until_ms)
        calls = self.called_by(Role.EXCHANGE, Role.AUDITOR, Role.CLUSTER)
        answer: delivery_pb2.GetStatementResponse = calls.delivery.GetStatement(request, timeout=self.timeout_s)
        return answer

    def wait_over(self, end_ms: int) -> None:
        """Returns once an interval is over, unless the suite is to be quick."""
        while not self.options.quick and self.now_ms() < end_ms:
            left_s = (end_ms - self.now_ms()) / 1_000
            self.note(f"waiting {left_s:.0f} s until the delivered intervals are over")
            self.pause(min(left_s, 1.0))

    def delivered(self) -> Delivered:
        """A position with its first intervals delivered, one of them corrected: made once, for all who ask."""
        if self._delivered is None:
            owned, log = self.market.owned(), self.log()
            aside = None if self.market.given else self.market.owned()
            last = owned.interval(2)
            self.wait_over(last.end_ms)
            leaves = [self.market.leaf(owned, index) for index in (0, 1, 2)]
            leaves.append(self.market.leaf(owned, 1, estimated_gpu_ms=1))
            session = self.deliver(log, *leaves)
            if session.rejections:
                raise Failed(f"a sound record was rejected: {session.rejections[0]}".replace("\n", " "))
            self._delivered = Delivered(owned, log, last.end_ms, leaves, aside)
        return self._delivered

    def settled(self, leaf: bytes) -> None:
        """A later record of what is delivered, which was taken."""
        self.delivered().settled.append(leaf)

    def aside(self) -> Owned:
        """A position beside the one that is delivered to, whose first intervals are over too. Raises Skipped."""
        aside = self.delivered().aside
        if aside is None:
            raise Skipped("needs TradingService, for a position of its own")
        return aside

    def settled_aside(self, *leaves: bytes) -> None:
        """Leaves about that position that were settled."""
        self.told_aside += leaves

    def _new_log(self, number: int) -> Log:
        if not self.secure:
            suffix = f"-{number}" if number else ""
            return Log(f"{self.options.stream}-{self.run}{suffix}", 1, fresh=True)
        clusters = self.peers(Role.CLUSTER)
        if number >= len(clusters):
            which = f"{number + 1} identities of cluster/NAME: this check may freeze the stream of one"
            raise Skipped("needs an --identity of cluster/NAME" if not number else f"needs {which}")
        return Log(clusters[number].name, self.now_ms(), fresh=False)


def _used(stream: str) -> str:
    return f"stream {stream} was used before: give an identity of a cluster that has published nothing yet"
