"""The server itself: where it listens, how it is found, what it does when things fail."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler.api.client import Client
from scheduler.api.server import SERVICE, ApiServer, ApiSources
from scheduler.core.errors import InvalidValue, Refused, Unauthorised, Unavailable
from tests.api.world import World

WAIT_S = 20


def test_the_server_is_found_by_its_file(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENOR_ADDRESS", raising=False)
    monkeypatch.setenv("TENOR_HOME", str(tmp_path / "home"))
    file = tmp_path / "home" / "api.address"
    with world.served(file) as server, Client() as client:
        assert client.address == server.address
        assert client.status().nodes == 4
    assert not file.exists()


def test_the_environment_goes_before_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.served() as server:
        monkeypatch.setenv("TENOR_ADDRESS", server.address)
        with Client() as client:
            assert client.status().nodes == 4


def test_nothing_says_where_the_server_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENOR_ADDRESS", raising=False)
    monkeypatch.setenv("TENOR_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"no Tenor is running here: .*api\.address is missing"):
        Client()


def test_nobody_answers(world: World) -> None:
    with world.served() as server:
        address = server.address
    with Client(address) as client, pytest.raises(Unavailable, match=f"no Tenor answers at {address}"):
        client.status()


@pytest.mark.parametrize("address", ["", "7070", "localhost:", "localhost:port", ":7070", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(world: World, address: str) -> None:
    with pytest.raises(InvalidValue, match="expected host:port"):
        ApiServer(world.scheduler, world.journal, address, ApiSources(world.clock_ms))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.1:7070", "example.com:7070", "[::]:0"])
def test_an_address_that_others_reach_is_refused(world: World, address: str) -> None:
    with pytest.raises(Unauthorised, match="in plaintext, which is for a loopback address only"):
        ApiServer(world.scheduler, world.journal, address, ApiSources(world.clock_ms))


def test_a_busy_port_is_refused(world: World) -> None:
    with world.served() as server:
        second = ApiServer(world.scheduler, world.journal, server.address, ApiSources(world.clock_ms))
        with pytest.raises(Unavailable, match=f"cannot listen on {server.address}"):
            second.start()


def test_stopping_ends_streams_and_tells_whoever_asked(world: World) -> None:
    told: list[str] = []
    sources = ApiSources(world.clock_ms)
    server = ApiServer(world.scheduler, world.journal, "127.0.0.1:0", sources, on_stop=lambda: told.append("stopped"))
    address = server.start()
    with Client(address) as client:
        stream = client.events(0)
        assert next(stream).seq == 1
        server.stop()
        server.stop()
        list(stream)
    assert told == ["stopped"]


def test_a_scheduler_without_logs_and_statements_says_so(world: World) -> None:
    server = ApiServer(world.scheduler, world.journal, "127.0.0.1:0", ApiSources(world.clock_ms))
    address = server.start()
    gang = world.submit("acme")
    with Client(address) as client:
        with pytest.raises(Refused, match="keeps no output"):
            list(client.logs(gang.id))
        with pytest.raises(Refused, match="makes no statements"):
            client.statement("p-acme")
        assert client.status().exchange is None
    server.stop()


def test_the_health_service_answers(world: World) -> None:
    with world.served() as server, grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_scheduler_that_cannot_save_says_that_it_may_be_tried_again(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise Unavailable("journal.db: the disk is full")

    monkeypatch.setattr(world.journal, "commit", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        client.submit(["a"], account="acme")


def test_two_clients_may_submit_at_once(world: World) -> None:
    with world.served() as server:
        ids: queue.Queue[str] = queue.Queue()

        def submit() -> None:
            with Client(server.address) as client:
                for _ in range(10):
                    ids.put(client.submit(["a"], account="acme").id)

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert sorted(ids.queue) == sorted(f"gang-{n}" for n in range(1, 41))
