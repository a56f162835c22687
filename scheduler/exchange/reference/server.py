"""The exchange as a process: a gRPC server over one database, stopped cleanly by SIGTERM or SIGINT.

Without TLS it serves loopback only, and says so; with it, those that its authority signed, each what it may. The
address that it got is printed, and written to a file where one is asked for, so that port 0 works for everybody.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from scheduler.clock import wall_clock_ms
from scheduler.core.errors import InvalidValue, Unavailable
from scheduler.exchange.admission import Admission, Limits
from scheduler.exchange.channels import CONNECTION_AGE_MS, server_options
from scheduler.exchange.denied import Denied
from scheduler.exchange.reference.access import rules
from scheduler.exchange.reference.database import Database
from scheduler.exchange.reference.faults import control
from scheduler.exchange.reference.faults.calls import FaultyCalls
from scheduler.exchange.reference.faults.faults import Faults
from scheduler.exchange.reference.faults.venue import OversellingVenue
from scheduler.exchange.reference.intake import Intake
from scheduler.exchange.reference.probe_service import Probing
from scheduler.exchange.reference.services import Delivery, Disputing, Evidence, Pace, Positions, Trading
from scheduler.exchange.reference.venue import Venue, VenueRules
from scheduler.exchange.reference.witness import Witness
from scheduler.exchange.tls import Tls, bind, refuse_plaintext
from scheduler.exchange.v1 import (
    delivery_pb2,
    delivery_pb2_grpc,
    disputes_pb2,
    disputes_pb2_grpc,
    faults_pb2_grpc,
    positions_pb2,
    positions_pb2_grpc,
    probes_pb2,
    probes_pb2_grpc,
)

_WORKERS = 64
"""Each watcher and each publisher holds one for as long as it stays."""
_OLD_CONNECTION_GRACE_MS = 10_000
"""Publishers and watchers have this long to finish over a connection that has its age; then they dial again."""
_GRACE_S = 1.0
_SERVICES = (
    *positions_pb2.DESCRIPTOR.services_by_name.values(),
    *delivery_pb2.DESCRIPTOR.services_by_name.values(),
    *disputes_pb2.DESCRIPTOR.services_by_name.values(),
    *probes_pb2.DESCRIPTOR.services_by_name.values(),
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How one exchange runs. `listen`: `HOST:PORT`, port 0 for any; `durable=False` only where nobody minds a loss.
    `tls`: its identity and whom it believes; `limits`: of each peer that such a certificate names; `denied`: a file of
    peers that are refused (`Denied`). A connection that has its age is ended, so that who calls is asked again.
    `faults`: what goes wrong on purpose, None in an honest one; with `fault_control` they may be set while it runs.
    """

    db: Path
    listen: str = "127.0.0.1:0"
    address_file: Path | None = None
    rules: VenueRules = field(default_factory=VenueRules)
    pace: Pace = field(default_factory=Pace)
    clock_ms: Callable[[], int] = wall_clock_ms
    durable: bool = True
    tls: Tls | None = None
    limits: Limits = field(default_factory=Limits)
    connection_age_ms: int = CONNECTION_AGE_MS
    denied: Path | None = None
    faults: Faults | None = None
    fault_control: bool = False


class Server:
    """A running exchange; see `serve`. A context manager that stops itself."""

    def __init__(self, settings: ServerSettings) -> None:
        host, port = checked_listen(settings.listen)
        if settings.tls is None:
            refuse_plaintext(settings.listen, "the exchange was to listen on")
        self._stopping = threading.Event()
        self._database = Database(settings.db, durable=settings.durable)
        try:
            self._faults = settings.faults
            self.venue = _venue(settings, self._database)
            witness = Witness.beside(settings.db, settings.rules.stream, settings.clock_ms)
            self.intake = Intake(self._database, self.venue, witness)
            self._health = health.HealthServicer()
            allowed = rules(self.venue, self.intake) | (control.rules() if settings.fault_control else {})
            between = [] if self._faults is None else [FaultyCalls(self._faults, self.venue)]
            denied = Denied.of(settings.denied)
            door = Admission(allowed, settings.limits, denied=denied)
            self._server = _grpc_server([door, *between], settings.connection_age_ms)
            self._register(settings)
            bound = bind(self._server, f"{host}:{port}", settings.tls)
            self._server.start()
        except BaseException:
            self._database.close()
            raise
        self.address = f"{host}:{bound}"
        """Where it listens."""
        if settings.address_file is not None:
            _write_address(settings.address_file, self.address)

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """Ends the streams, lets calls finish within the grace, closes the database. Stopping twice does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._faults is not None:
            self._faults.close()
        self._health.enter_graceful_shutdown()
        self.venue.wake()
        self._server.stop(grace_s).wait()
        self._database.close()

    def wait(self) -> None:
        """Returns when `stop` was called."""
        self._stopping.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _register(self, settings: ServerSettings) -> None:
        server, pace = self._server, settings.pace
        positions = Positions(self.venue, settings.clock_ms, pace, self._stopping.is_set)
        positions_pb2_grpc.add_PositionServiceServicer_to_server(positions, server)
        positions_pb2_grpc.add_TradingServiceServicer_to_server(Trading(self.venue), server)
        delivery_pb2_grpc.add_DeliveryServiceServicer_to_server(Delivery(self.intake, pace), server)
        disputing = Disputing(self.intake.disputes, self.venue.positions_of)
        disputes_pb2_grpc.add_DisputeServiceServicer_to_server(disputing, server)
        probes_pb2_grpc.add_ProbeServiceServicer_to_server(Probing(self.intake.probes), server)
        delivery_pb2_grpc.add_EvidenceServiceServicer_to_server(Evidence(self.intake), server)
        if self._faults is not None and settings.fault_control:
            faults_pb2_grpc.add_FaultServiceServicer_to_server(control.FaultControl(self._faults), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for name in ("", *(service.full_name for service in _SERVICES)):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)


def serve(settings: ServerSettings) -> Server:
    """A running exchange.

    Raises Unauthorised for plaintext off loopback, InvalidValue for what is no address, Unavailable for a busy port,
    Conflict where another process owns the database, and what opening the database and `Tls.valid` raise.
    """
    return Server(settings)


def run(settings: ServerSettings) -> int:
    """Serves until SIGTERM or SIGINT; the exit status. Prints the address on stdout. Raises as `serve`."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    with serve(settings) as server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        asked.wait()
    return 0


def checked_listen(listen: str) -> tuple[str, int]:
    """Host and port of an address to listen on. Raises InvalidValue."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise InvalidValue("listen", "the exchange", listen, "HOST:PORT, such as 127.0.0.1:0")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        if bare != "localhost":
            ipaddress.ip_address(bare)
    except ValueError as error:
        raise InvalidValue("host", "the exchange", host, "an IP address, or localhost") from error
    return host, int(port)


def _venue(settings: ServerSettings, database: Database) -> Venue:
    if settings.faults is None:
        return Venue(database, settings.clock_ms, settings.rules)
    return OversellingVenue(database, settings.clock_ms, settings.rules, settings.faults)


def _grpc_server(interceptors: Sequence[grpc.ServerInterceptor], age_ms: int) -> grpc.Server:
    return grpc.server(
        futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="exchange"),
        interceptors=list(interceptors),
        maximum_concurrent_rpcs=_WORKERS,  # beyond: RESOURCE_EXHAUSTED, which callers may try again
        options=server_options(age_ms=age_ms, grace_ms=min(age_ms, _OLD_CONNECTION_GRACE_MS)),
    )


def _write_address(path: Path, address: str) -> None:
    """Whole or not at all, so that who waits for the file never reads half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(address + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise Unavailable(f"the address file {path} could not be written: {error.strerror}") from error
