"""Who calls the server under test, as whom, and what is asked of it often."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from scheduler.clock import wall_clock_ms
from scheduler.core.errors import InvalidValue
from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.conformance.outcome import Failed, Skipped
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.tls import Tls, opened
from scheduler.exchange.v1 import delivery_pb2_grpc, instruments_pb2, positions_pb2, positions_pb2_grpc

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the suite is told. `identities`: certificates, each of which says whose it is; none: plaintext, on loopback.
    `quick`: do not wait until intervals are over before records of them are sent, nor for slow checks.
    """

    address: str
    identities: tuple[Path, ...] = ()
    authority: Path | None = None
    instrument: str = ""
    account: str = ""
    stream: str = "conformance"
    grade: str = "LOGICAL"
    site: str = "local"
    quick: bool = False
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Calls:
    """The services, as one peer calls them."""

    channel: grpc.Channel
    positions: Any
    trading: positions_pb2_grpc.TradingServiceStub
    delivery: Any
    evidence: Any
    health: Any

    @classmethod
    def over(cls, channel: grpc.Channel) -> Calls:
        """All of them over one channel."""
        return cls(
            channel,
            positions_pb2_grpc.PositionServiceStub(channel),
            positions_pb2_grpc.TradingServiceStub(channel),
            delivery_pb2_grpc.DeliveryServiceStub(channel),
            delivery_pb2_grpc.EvidenceServiceStub(channel),
            health_pb2_grpc.HealthStub(channel),
        )


@dataclass(slots=True)
class Callers:
    """See the module. A context manager that closes its channels. `note` is told what is waited for, and `pause` waits
    for so many seconds.
    """

    options: Options
    note: Callable[[str], None] = lambda _: None
    pause: Callable[[float], object] = time.sleep
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    _open: ExitStack = field(default_factory=ExitStack)
    _calls: dict[Peer | None, Calls] = field(default_factory=dict)
    _peers: dict[Peer, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.options.identities:
            tls = self._tls(path)
            peer = tls.valid().peer
            if peer is None:
                raise InvalidValue("identity", str(path), "a certificate that names no peer", "one of ROLE/NAME")
            self._peers[peer] = path

    def reach(self, timeout_s: float) -> None:
        """Returns once the server answers. Raises Unavailable after the timeout, Untrusted where one end does not know
        the other.
        """
        tls = next(map(self.tls_of, self._peers), None)
        with ExchangeClient(self.options.address, tls=tls) as client:
            client.wait_ready(timeout_s)

    @property
    def timeout_s(self) -> float:
        """The longest that one call may take."""
        return self.options.timeout_s

    @property
    def secure(self) -> bool:
        """Whether it is called over mutual TLS."""
        return bool(self.options.identities)

    @property
    def account(self) -> str:
        """Whose positions are bought: the account that was named, else one with an identity, else one made up."""
        own = [peer.name for peer in self._peers if peer.role is Role.ACCOUNT]
        return self.options.account or (own[0] if own else "conformance")

    def now_ms(self) -> int:
        """UTC ms by this machine's clock."""
        return wall_clock_ms()

    def written_ms(self, end_ms: int) -> int:
        """When a leaf of an interval that ends then is written: after its end, or now where that is later."""
        return max(end_ms, self.now_ms())

    # -- who calls -----------------------------------------------------------------------------------------------------

    def called_by(self, *roles: Role) -> Calls:
        """The services as called by a peer of the first of the roles that there is an identity of; without identities
        by a process of this machine. Raises Skipped where there is none.
        """
        if not self.secure:
            return self.as_peer(None)
        for role in roles:
            for peer in self._peers:
                if peer.role is role:
                    return self.as_peer(peer)
        raise Skipped("needs an --identity of " + " or ".join(f"{role}/NAME" for role in roles))

    def peers(self, role: Role) -> tuple[Peer, ...]:
        """The peers of a role that there are identities of."""
        return tuple(peer for peer in self._peers if peer.role is role)

    def as_peer(self, peer: Peer | None) -> Calls:
        """The services as called by that peer."""
        if peer not in self._calls:
            tls = None if peer is None else self._tls(self._peers[peer])
            channel = self._open.enter_context(opened(self.options.address, tls, CHANNEL_OPTIONS, "the target"))
            self._calls[peer] = Calls.over(channel)
        return self._calls[peer]

    def reader(self) -> Calls:
        """Whoever may see all positions and evidence."""
        return self.called_by(Role.EXCHANGE, Role.AUDITOR, Role.CLUSTER)

    def venue(self) -> Calls:
        """Whoever may list and trade for any account."""
        return self.called_by(Role.EXCHANGE)

    def tls_of(self, peer: Peer) -> Tls:
        """How that peer is known."""
        return self._tls(self._peers[peer])

    # -- what is asked often -------------------------------------------------------------------------------------------

    def snapshot(self, **asked: str) -> positions_pb2.GetSnapshotResponse:
        """All positions and instruments."""
        request = positions_pb2.GetSnapshotRequest(**asked)
        answer: positions_pb2.GetSnapshotResponse = self.reader().positions.GetSnapshot(request, timeout=self.timeout_s)
        return answer

    def instruments(self, prefix: str = "") -> list[instruments_pb2.Instrument]:
        """All listings."""
        request = positions_pb2.ListInstrumentsRequest(prefix=prefix)
        return list(self.reader().positions.ListInstruments(request, timeout=self.timeout_s).instruments)

    def watch(self, cursor: positions_pb2.Cursor, calls: Calls | None = None) -> Any:
        """An open watch, which ends by itself after the longest time that a call may take."""
        request = positions_pb2.WatchRequest(cursor=cursor)
        return (calls or self.reader()).positions.Watch(request, timeout=self.timeout_s)

    def told_since(self, cursor: positions_pb2.Cursor) -> list[positions_pb2.WatchResponse]:
        """What a watch tells until the first heartbeat, which is the last of them. Raises grpc.RpcError."""
        told: list[positions_pb2.WatchResponse] = []
        watch = self.watch(cursor)
        try:
            for each in watch:
                told.append(each)
                if each.HasField("heartbeat"):
                    return told
        finally:
            watch.cancel()
        raise Failed("the watch ended without an error and without a heartbeat")

    def events_since(self, cursor: positions_pb2.Cursor) -> list[positions_pb2.PositionEvent]:
        """The events of it."""
        return [each.event for each in self.told_since(cursor) if each.HasField("event")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def _tls(self, identity: Path) -> Tls:
        if self.options.authority is None:
            raise InvalidValue("authority", "TLS", None, "a file: who signs the server's certificate (--authority)")
        return Tls(identity, self.options.authority)
