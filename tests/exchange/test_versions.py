"""Which versions of the wire are spoken is said with each call, and one that is not served is refused by class."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from scheduler.api.async_client import AsyncClient
from scheduler.core.errors import InvalidValue
from scheduler.exchange import versions
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.errors import VersionNotServed, error_of
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc, positions_pb2, positions_pb2_grpc
from tests.api.world import market
from tests.exchange.world import Embedded

Metadata = tuple[tuple[str, str], ...]


def listed(exchange: Embedded, metadata: Metadata) -> tuple[int, str]:
    """How many instruments are listed, asked as a client of another make would, and what the server says it serves."""
    with grpc.insecure_channel(exchange.server.address) as channel:
        stub = positions_pb2_grpc.PositionServiceStub(channel)
        answer, call = stub.ListInstruments.with_call(
            positions_pb2.ListInstrumentsRequest(), metadata=metadata, timeout=5
        )
        return len(answer.instruments), str(dict(call.initial_metadata())[versions.KEY])


@pytest.mark.parametrize("said", [(), ((versions.KEY, "1"),), ((versions.KEY, "1-1"),), ((versions.KEY, "1-7"),)])
def test_a_version_that_is_served_is_answered_with_what_is(exchange: Embedded, said: Metadata) -> None:
    assert listed(exchange, said) == (1, versions.SPOKEN)


@pytest.mark.parametrize("said", ["2", "2-9"])
def test_a_version_that_is_not_served_is_refused_before_anything_is_done(exchange: Embedded, said: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        listed(exchange, ((versions.KEY, said),))
    error = error_of(failed.value)
    assert isinstance(error, VersionNotServed)
    assert (error.least, error.most) == (1, 1)
    assert "of the wire, expected one of 1 to 1" in str(error)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("said", ["", "0", "one", "2-1", "1-", "-1", "1.0"])
def test_what_says_no_version_is_refused(exchange: Embedded, said: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        listed(exchange, ((versions.KEY, said),))
    assert isinstance(error_of(failed.value), InvalidValue)


def test_a_stream_is_refused_too(exchange: Embedded) -> None:
    opening = delivery_pb2.PublishRequest(open=delivery_pb2.PublishOpen(stream="east", epoch=1, vkey="none"))
    with grpc.insecure_channel(exchange.server.address) as channel:
        call = delivery_pb2_grpc.DeliveryServiceStub(channel).Publish(
            iter([opening]), metadata=((versions.KEY, "3"),), timeout=5
        )
        with pytest.raises(grpc.RpcError) as failed:
            list(call)
    assert isinstance(error_of(failed.value), VersionNotServed)


def test_our_own_clients_say_what_they_speak(
    exchange: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "SPOKEN", "8-9")
    with ExchangeClient(exchange.server.address) as client:
        with pytest.raises(VersionNotServed, match="speaks version 8 to 9"):
            client.instruments()
        with pytest.raises(VersionNotServed):
            next(iter(client.watch(exchange.server.venue.snapshot()[0])))
    world = market(tmp_path)
    with world.served() as server:

        async def asked() -> None:
            async with AsyncClient(server.address) as tenor:
                with pytest.raises(VersionNotServed):
                    await tenor.status()

        asyncio.run(asked())
    world.close()
