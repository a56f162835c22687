"""The feed's server: a port of its own, so that a firewall can let exchanges in here and nowhere else.

Without an identity it speaks plaintext on loopback only; with one it takes those whom its authority signed, and each
may what `access` says. It reads the journal over a connection of its own and takes the scheduler's guard for moments.
"""

from __future__ import annotations

from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from scheduler.api.address import checked_address, shown_address, take_back_address, write_address
from scheduler.api.feed.access import EVIDENCE, FEED, rules
from scheduler.api.feed.log import FeedLog
from scheduler.api.feed.services import MOST_STREAMS, Evidence, Feed, FeedSources
from scheduler.exchange.admission import Admission, Limits
from scheduler.exchange.channels import CONNECTION_AGE_MS, server_options
from scheduler.exchange.denied import Denied
from scheduler.exchange.tls import Tls, bind, refuse_plaintext
from scheduler.exchange.v1 import delivery_pb2_grpc, feed_pb2_grpc
from scheduler.ledger.journal import Journal
from scheduler.service import Scheduler

_THREADS = MOST_STREAMS + 16
_OLD_CONNECTION_GRACE_MS = 10_000
"""Subscribers have this long to finish over a connection that has its age; then they dial again."""


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """How one feed is served. `listen`: `host:port`, port 0: any that is free; `address_file`: where the address is
    left for clients on this machine. `keep_leaves`: how many of the last leaves can be asked for; 0: all. `denied`:
    peers that are refused although their certificates are sound.
    """

    stream: str
    epoch: int
    listen: str = "127.0.0.1:0"
    address_file: Path | None = None
    keep_leaves: int = 0
    tls: Tls | None = None
    limits: Limits = field(default_factory=Limits)
    denied: Denied | None = None
    connection_age_ms: int = CONNECTION_AGE_MS


class FeedServer:
    """Serves the log in the journal at `journal`. `start` it, then `stop` it.

    Raises InvalidValue for what is no address and where there is no journal, Unauthorised for an address that others
    could reach in plaintext.
    """

    def __init__(self, scheduler: Scheduler, journal: Path, settings: FeedSettings, sources: FeedSources) -> None:
        self._host, _ = checked_address(settings.listen, "the feed")
        if settings.tls is None:
            refuse_plaintext(settings.listen, "the feed was to listen on")
        self._settings = settings
        self._journal = Journal.beside(journal)
        log = FeedLog(self._journal, settings.stream, settings.epoch, settings.keep_leaves)
        self._feed = Feed(scheduler, log, sources)
        self._evidence = Evidence(log, sources)
        self._door = Admission(rules(scheduler), settings.limits, denied=settings.denied)
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        self.address = ""
        """Where it listens, once it was started."""

    def start(self) -> str:
        """Listen and serve; the address with its real port. Raises Unavailable where the port is taken, and what
        `Tls.valid` raises.
        """
        settings = self._settings
        age_ms = settings.connection_age_ms
        server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, "tenor-feed"),
            interceptors=[self._door],
            maximum_concurrent_rpcs=_THREADS,  # beyond: RESOURCE_EXHAUSTED, which callers may try again
            options=server_options(age_ms=age_ms, grace_ms=min(age_ms, _OLD_CONNECTION_GRACE_MS)),
        )
        feed_pb2_grpc.add_DeliveryFeedServicer_to_server(self._feed, server)
        delivery_pb2_grpc.add_EvidenceServiceServicer_to_server(self._evidence, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = bind(server, settings.listen, settings.tls, "the feed")
        server.start()
        self._server = server
        self.address = shown_address(self._host, port)
        for name in ("", FEED, EVIDENCE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if settings.address_file is not None:
            write_address(settings.address_file, self.address)
        return self.address

    def wake(self) -> None:
        """There may be new leaves."""
        self._feed.wake()

    def stop(self, grace_s: float = 1.0) -> None:
        """End subscriptions, let calls finish for so long, take the address back. Stopping twice does nothing."""
        server, self._server = self._server, None
        if server is not None:
            self._health.enter_graceful_shutdown()
            self._feed.close()
            server.stop(grace_s).wait()
            if self._settings.address_file is not None:
                take_back_address(self._settings.address_file, self.address)
        self._journal.close()
