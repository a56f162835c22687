"""The exchange as a process: where it listens, what it refuses, how it stops, what bad input does to it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, Unavailable
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.errors import error_of
from scheduler.exchange.reference.server import ServerSettings, checked_listen, serve
from scheduler.exchange.tls import refuse_plaintext
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc
from tests.exchange.processes import ExchangeProcess
from tests.exchange.world import terms


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExchangeProcess]:
    with ExchangeProcess(tmp_path_factory.mktemp("exchange") / "exchange.db") as running:
        yield running


def started(*arguments: str) -> tuple[int, str]:
    """The exit status and the last words of an exchange that cannot start."""
    command = [sys.executable, "-m", "scheduler.exchange.reference", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stderr


def test_it_says_that_it_is_healthy(process: ExchangeProcess) -> None:
    with grpc.insecure_channel(process.address) as channel:
        check: Any = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined] # not in its types
        for service in ("", "tenor.exchange.v1.PositionService", "tenor.exchange.v1.DeliveryService"):
            request = health_pb2.HealthCheckRequest(service=service)
            answer = check(request, timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_busy_port_and_a_busy_database_are_named(process: ExchangeProcess, tmp_path: Path) -> None:
    status, said = started("--db", str(tmp_path / "other.db"), "--listen", process.address)
    assert (status, process.address in said, "Traceback" in said) == (3, True, False)
    status, said = started("--db", str(process.db))
    assert (status, str(process.pid) in said, "Traceback" in said) == (2, True, False)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--listen", "0.0.0.0:0"), 2, "a loopback address only"),
        (("--listen", "10.1.2.3:5"), 2, "a loopback address only"),
        (("--listen", "nonsense"), 2, "HOST:PORT"),
        (("--listen", "127.0.0.1:70000"), 2, "HOST:PORT"),
        (("--listen", "example.org:1"), 2, "an IP address"),
    ],
)
def test_it_listens_where_only_this_machine_reaches(
    tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    exit_status, said = started("--db", str(tmp_path / "exchange.db"), *arguments)
    assert exit_status == status
    assert says in said
    assert "Traceback" not in said


def test_loopback_has_many_names() -> None:
    assert checked_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert checked_listen("localhost:7") == ("localhost", 7)
    assert checked_listen("[::1]:7") == ("[::1]", 7)
    with pytest.raises(InvalidValue):
        checked_listen("127.0.0.1")
    for own in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
        refuse_plaintext(own, "it was to listen on")
    with pytest.raises(Unauthorised, match="in plaintext, which is for a loopback address only"):
        refuse_plaintext("192.168.0.1:7", "it was to listen on")


def test_a_path_that_cannot_be_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, and quite long ones at that" * 20)
    for path, says in (
        (tmp_path / "no" / "folder.db", "a folder that exists"),
        (tmp_path, "a file"),
        (tmp_path / "notes.db", "not"),
    ):
        status, said = started("--db", str(path))
        assert status in {2, 4}, said
        assert says in said
        assert "Traceback" not in said


def test_one_process_owns_a_database(tmp_path: Path) -> None:
    settings = ServerSettings(tmp_path / "exchange.db")
    with serve(settings) as server:
        with pytest.raises(Conflict, match="owned by"):
            serve(settings)
        with pytest.raises(Unavailable, match=server.address):
            serve(ServerSettings(tmp_path / "other.db", listen=server.address))
    with serve(settings) as server:
        assert server.address


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with ExchangeProcess(tmp_path / "exchange.db") as process, ExchangeClient(process.address) as client:
        client.list_instrument(terms())
        watch = iter(client.watch(client.snapshot().cursor))
        next(watch)
        assert process.signal(number) == 0


def test_noise_is_answered_with_a_typed_error(process: ExchangeProcess) -> None:
    with grpc.insecure_channel(process.address) as channel:
        stub = delivery_pb2_grpc.DeliveryServiceStub(channel)
        noise = delivery_pb2.Batch(first_index=2**64 - 1, leaves=[b"\xff"], checkpoint=b"\x00", consistency=[b"1"])
        opening = delivery_pb2.PublishOpen(stream="noise", epoch=1, vkey="noise+00000000+AAAA")
        for requests in (
            [delivery_pb2.PublishRequest()],
            [delivery_pb2.PublishRequest(batch=noise)],
            [delivery_pb2.PublishRequest(open=opening)],
        ):
            with pytest.raises(grpc.RpcError) as failed:
                list(stub.Publish(iter(requests)))
            assert isinstance(error_of(failed.value), InvalidValue)


def test_a_client_without_an_exchange_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with ExchangeClient(address, timeout_s=0.2) as client, pytest.raises(Unavailable, match=address):
            client.wait_ready(0.3)
