"""The API's server: one port on this machine, a pool of threads, a health service beside it.

It speaks plaintext and asks nobody who they are, so it listens on loopback only. Clients on this machine find it by the
address that it leaves in a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from scheduler.api.address import checked_address, is_loopback, write_address
from scheduler.api.servicer import MOST_STREAMS, ApiSources, Servicer
from scheduler.api.v1 import api_pb2_grpc
from scheduler.core.errors import InvalidValue, Unavailable
from scheduler.ledger.journal import Journal
from scheduler.service import Scheduler

__all__ = ["ApiServer", "ApiSources"]

SERVICE = "tenor.api.v1.Scheduler"
MOST_BYTES = 64 << 20
"""Of one message: a fleet of 10,000 nodes fits with room to spare."""
_THREADS = MOST_STREAMS + 16
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second server would take half of the calls, unnoticed
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.max_receive_message_length", MOST_BYTES),
)


class ApiServer:
    """Serves a scheduler at `address` (`host:port`, port 0: any that is free). `start` it, then `stop` it.

    `address_file`: where the address is left for clients while it runs. `on_stop` is called once it has stopped.
    Raises InvalidValue for an address that others could reach.
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
    ) -> None:
        host, _ = checked_address(address)
        if not is_loopback(host):
            raise InvalidValue("address", "the API", address, "a loopback address: it speaks plaintext")
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
        """Listen and serve; the address with its real port. Raises Unavailable where the port is taken."""
        server = grpc.server(futures.ThreadPoolExecutor(_THREADS, "tenor-api"), options=_OPTIONS)
        api_pb2_grpc.add_SchedulerServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            port = server.add_insecure_port(self._wanted)
        except RuntimeError as error:
            raise Unavailable(f"the API cannot listen on {self._wanted}: the port is taken, or not ours") from error
        server.start()
        self._server = server
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{shown}:{port}"
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
            with contextlib.suppress(OSError):
                if self._file.read_text(encoding="utf-8").strip() == self.address:
                    self._file.unlink()
        if self._on_stop is not None:
            self._on_stop()
