"""The API's server: one port on this machine, a pool of threads, a health service beside it.

Without an identity it speaks plaintext and asks nobody who they are, so it listens on loopback only; with one it takes
those whom its authority signed, and each may what `access` says. Clients on this machine find it by the address that it
leaves in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from scheduler.api.access import SERVICE, rules
from scheduler.api.address import checked_address, shown_address, take_back_address, write_address
from scheduler.api.servicer import MOST_STREAMS, ApiSources, Servicer
from scheduler.api.v1 import api_pb2_grpc
from scheduler.exchange.admission import Admission, Limits
from scheduler.exchange.channels import MOST_ANSWERED_BYTES, server_options
from scheduler.exchange.denied import Denied
from scheduler.exchange.tls import Tls, bind, refuse_plaintext
from scheduler.ledger.journal import Journal
from scheduler.service import Scheduler

__all__ = ["SERVICE", "ApiServer", "ApiSources"]

_THREADS = MOST_STREAMS + 16


class ApiServer:
    """Serves a scheduler at `address` (`host:port`, port 0: any that is free). `start` it, then `stop` it.

    `address_file`: where the address is left for clients while it runs. `on_stop` is called once it has stopped.
    `tls`: its identity and whom it believes; `limits`: of each peer that such a certificate names; `denied`:
    those that are refused all the same. Raises InvalidValue for what is no address, Unauthorised for one that others
    could reach in plaintext.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        journal: Journal,
        address: str,
        sources: ApiSources,
        *,
        address_file: Path | None = None,
        on_stop: Callable[[], None] | None = None,
        tls: Tls | None = None,
        limits: Limits | None = None,
        denied: Denied | None = None,
    ) -> None:
        host, _ = checked_address(address)
        if tls is None:
            refuse_plaintext(address, "the API was to listen on")
        self._tls = tls
        self._door = Admission(rules(scheduler), limits, denied=denied)
        self._wanted = address
        self._host = host
        self._file = address_file
        self._on_stop = on_stop
        self._servicer = Servicer(scheduler, journal, sources)
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        self.address = ""
        """Where it listens, once it was started."""

    def start(self) -> str:
        """Listen and serve; the address with its real port. Raises Unavailable where the port is taken, and what
        `Tls.valid` raises.
        """
        options = server_options(most_received_bytes=MOST_ANSWERED_BYTES)
        threads = futures.ThreadPoolExecutor(_THREADS, "tenor-api")
        server = grpc.server(threads, interceptors=[self._door], options=options)
        api_pb2_grpc.add_SchedulerServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = bind(server, self._wanted, self._tls, "the API")
        server.start()
        self._server = server
        self.address = shown_address(self._host, port)
        for name in ("", SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._file is not None:
            write_address(self._file, self.address)
        return self.address

    def stop(self, grace_s: float = 1.0) -> None:
        """End streams, let calls finish for so long, take the address back. Stopping twice does nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        self._health.enter_graceful_shutdown()
        self._servicer.close()
        server.stop(grace_s).wait()
        if self._file is not None:
            take_back_address(self._file, self.address)
        if self._on_stop is not None:
            self._on_stop()
