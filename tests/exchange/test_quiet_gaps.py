"""A quiet publisher says that it lives and where its log stands, where the exchange asks for that; lies are found."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from scheduler.core.errors import Equivocation, InvalidValue, SequenceGap, Unauthorised
from scheduler.exchange.leaves import encode_record
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint
from tests.exchange.sender import leaf_of
from tests.exchange.world import SIGNER, STREAM, Embedded, metered, write_log

LEAVES = [leaf_of(index) for index in range(3)]


class Listening(delivery_pb2_grpc.DeliveryServiceServicer):
    """An exchange of another make: it has everything that it was sent, and remembers what kinds came."""

    def __init__(self, heartbeat_ms: int) -> None:
        self._heartbeat_ms = heartbeat_ms
        self.came: list[delivery_pb2.PublishRequest] = []
        self.changed = threading.Condition()

    def Publish(  # noqa: N802 - the wire's name
        self,
        requests: Iterator[delivery_pb2.PublishRequest],
        context: grpc.ServicerContext,  # noqa: ARG002 - as gRPC calls it
    ) -> Iterator[delivery_pb2.PublishResponse]:
        """Acknowledges everything."""
        held = 0
        for request in requests:
            with self.changed:
                self.came.append(request)
                self.changed.notify_all()
            first = request.HasField("open")
            held += len(request.batch.leaves)
            yield delivery_pb2.PublishResponse(
                acknowledged=held, credits=100, heartbeat_ms=self._heartbeat_ms if first else 0
            )

    def GetStatement(  # noqa: N802 - the wire's name
        self, request: delivery_pb2.GetStatementRequest, context: grpc.ServicerContext
    ) -> delivery_pb2.GetStatementResponse:
        """Nobody asks for one."""
        raise NotImplementedError

    def heartbeats(self) -> list[delivery_pb2.PublishHeartbeat]:
        """Those that came."""
        return [each.heartbeat for each in self.came if each.HasField("heartbeat")]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", durable=False) as made:
        write_log(made, LEAVES)
        yield made


@pytest.mark.parametrize("heartbeat_ms", [0, 1])
def test_heartbeats_come_where_they_are_asked_for(journal: Journal, heartbeat_ms: int) -> None:
    exchange = Listening(heartbeat_ms)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    delivery_pb2_grpc.add_DeliveryServiceServicer_to_server(exchange, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Publisher(f"127.0.0.1:{port}", journal, STREAM, SIGNER, 1, chance=random.Random(1)) as publisher:
        assert publisher.wait_acknowledged(3, 10)
        with exchange.changed:
            came = exchange.changed.wait_for(lambda: len(exchange.heartbeats()) >= 2, 10 if heartbeat_ms else 0.5)
        assert came == bool(heartbeat_ms)
        write_log(journal, [leaf_of(3)])
        publisher.wake()
        assert publisher.wait_acknowledged(4, 10)
    server.stop(0).wait()
    kept = journal.checkpoint(STREAM)
    assert kept is not None
    for beat in exchange.heartbeats()[:2]:
        assert beat.next_index == 3
        assert b"\n3\n" in beat.checkpoint


def test_the_reference_exchange_asks_for_heartbeats_and_takes_them(exchange: Embedded, journal: Journal) -> None:
    with Publisher(exchange.server.address, journal, STREAM, SIGNER, 1, chance=random.Random(1)) as publisher:
        assert publisher.wait_acknowledged(3, 10)
        assert publisher._heartbeat_s == 0.05
        sent = threading.Event()
        made = publisher._heartbeat

        def noted() -> delivery_pb2.PublishHeartbeat:
            sent.set()
            return made()

        publisher._heartbeat = noted  # type: ignore[method-assign]
        assert sent.wait(10)
        write_log(journal, [leaf_of(3)])
        publisher.wake()
        assert publisher.wait_acknowledged(4, 10)
        assert publisher.status().state is PublishState.PUBLISHING


def told(exchange: Embedded, journal: Journal) -> Any:
    """A session of a publisher whose leaves are all there."""
    intake = exchange.server.intake
    session, _ = intake.open(STREAM, 1, SIGNER.verifier.encode())
    _, note = journal.checkpoint(STREAM) or (0, b"")
    intake.take(session, 0, LEAVES, note, [])
    assert intake.heartbeat(session, 3, note).acknowledged == 3
    assert intake.heartbeat(session, 3, b"").acknowledged == 3
    return session


def test_a_heartbeat_beyond_what_came_is_a_gap(exchange: Embedded, journal: Journal) -> None:
    session = told(exchange, journal)
    with pytest.raises(SequenceGap, match="was 4, expected 3"):
        exchange.server.intake.heartbeat(session, 4, b"")


def test_a_heartbeat_of_another_s_key_is_refused(exchange: Embedded, journal: Journal) -> None:
    session = told(exchange, journal)
    stranger = SignerKey(SIGNER.name, bytes(32))
    note = sign_checkpoint(Checkpoint(SIGNER.name, 3, bytes(32)), stranger)
    with pytest.raises(Unauthorised):
        exchange.server.intake.heartbeat(session, 3, note)
    with pytest.raises(InvalidValue):
        exchange.server.intake.heartbeat(session, 3, b"no note")


@pytest.mark.parametrize("size", [3, 4])
def test_a_heartbeat_that_tells_another_history_freezes_the_stream(
    exchange: Embedded, journal: Journal, tmp_path: Path, size: int
) -> None:
    intake = exchange.server.intake
    if size == 3:
        session = told(exchange, journal)
    else:  # the checkpoint that came was over more leaves than came
        with Journal.open(tmp_path / "longer.db", durable=False) as longer:
            write_log(longer, [*LEAVES, leaf_of(3)])
            _, note = longer.checkpoint(STREAM) or (0, b"")
            session, _ = intake.open(STREAM, 1, SIGNER.verifier.encode())
            intake.take(session, 0, LEAVES, note, list(longer.consistency_proof(STREAM, 3, 4)))
    with Journal.open(tmp_path / "other.db", durable=False) as other:
        write_log(other, [encode_record(metered("pos-1", 3, index), 1) for index in range(size)])
        _, lie = other.checkpoint(STREAM) or (0, b"")
    with pytest.raises(Equivocation, match="different roots"):
        intake.heartbeat(session, 3, lie)
    with pytest.raises(Equivocation, match="is frozen"):
        intake.open(STREAM, 2, SIGNER.verifier.encode())
