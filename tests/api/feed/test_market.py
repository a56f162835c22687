"""The feed of a scheduler that sold, metered and owes: statements, offers, backing, and who may ask for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler.api import messages, selling
from scheduler.api.feed.access import EVIDENCE, FEED, rules
from scheduler.api.feed.log import epoch_of
from scheduler.api.feed.server import FeedServer, FeedSettings
from scheduler.api.feed.services import MOST_SEARCHES, Feed, FeedSources
from scheduler.core.errors import InvalidValue, Unauthorised, UnknownName
from scheduler.core.models import canonical_bytes
from scheduler.delivery import statement
from scheduler.exchange.admission import Limits
from scheduler.exchange.channels import server_options
from scheduler.exchange.denied import LOOKED_AT_S, Denied
from scheduler.exchange.errors import Exhausted
from scheduler.exchange.feed_client import FeedClient
from scheduler.exchange.tls import Tls
from scheduler.exchange.v1 import delivery_pb2, feed_pb2, instruments_pb2
from tests.api.world import HOUR_MS, START_MS, SYMBOL, World
from tests.exchange.trust import Trust


@contextmanager
def served(
    world: World, tls: Tls | None = None, limits: Limits | None = None, denied: Denied | None = None
) -> Iterator[FeedServer]:
    """The feed of a market."""
    sources = FeedSources(
        clock_ms=world.clock_ms,
        keys=lambda: ((world.signer.verifier.encode(), -1),),
        cosign=lambda note, _vkey: note,
        heartbeat_ms=50,
    )
    settings = FeedSettings(
        "local", epoch_of(world.journal, "local", 1), tls=tls, limits=limits or Limits(), denied=denied
    )
    path = Path(world.journal._location)
    server = FeedServer(world.scheduler, path, settings, sources)
    server.start()
    try:
        yield server
    finally:
        server.stop(grace_s=0.2)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


def test_a_statement_is_the_one_that_the_log_gives(sold: World) -> None:
    with served(sold) as server, FeedClient(server.address) as client:
        position = next(iter(sold.scheduler.state.book.positions))
        found, checkpoint = client.statement(position)
        assert found == canonical_bytes(statement(sold.journal, "local", sold.scheduler.state, position))
        assert checkpoint == client.head().checkpoint
        owed = json.loads(found)
        earlier = json.loads(client.statement(position, owed["through_ms"] - 1)[0])
        assert earlier["through_ms"] < owed["through_ms"]


def test_what_may_be_sold_and_what_backs_it_are_the_api_s_numbers(sold: World) -> None:
    instrument = f"{SYMBOL}@1"
    state, spares = sold.scheduler.state, sold.scheduler.settings.spares
    question = selling.Question(None, None, selling.risk_of(1, None))
    with served(sold) as server, FeedClient(server.address) as client:
        offered = client.deliverable(feed_pb2.DeliveryFeedGetDeliverableRequest(instrument=instrument, losses=1))
        facts = selling.offer_facts(state, sold.now_ms, spares, instrument)
        expected: messages.Deliverable = selling.deliverable(facts, question, plan=True)
        assert (offered.proven_lots, offered.planned_lots) == (expected.proven_lots, expected.planned_lots)
        assert [row.accredited for row in offered.intervals] == [row.accredited for row in expected.intervals]
        assert offered.cell == instruments_pb2.CELL_NODE
        backed = client.backing(feed_pb2.DeliveryFeedGetBackingRequest(subject=instrument))
        assert [each.account for each in backed.positions] == ["acme", "borealis"]
        assert all(row.sold <= row.cells for row in backed.intervals)
        with pytest.raises(UnknownName, match="instrument was 'NONE@1'"):
            client.deliverable(feed_pb2.DeliveryFeedGetDeliverableRequest(instrument="NONE@1"))
        with pytest.raises(InvalidValue, match="losses"):
            client.backing(feed_pb2.DeliveryFeedGetBackingRequest(subject=instrument, losses=-1))
        unknown = feed_pb2.DeliveryFeedGetBackingRequest(subject=instrument)
        unknown.MergeFromString(b"\x28\x63")  # domain 99
        with pytest.raises(InvalidValue, match=r"Cell of a message was 99, expected 0\.\.5: a newer peer sent it"):
            client.backing(unknown)
        with pytest.raises(InvalidValue, match="window"):
            client.backing(
                feed_pb2.DeliveryFeedGetBackingRequest(subject=instrument, from_ms=START_MS, to_ms=START_MS - HOUR_MS)
            )


def test_every_method_has_its_rule_and_no_rule_is_for_another(sold: World) -> None:
    services = [feed_pb2.DESCRIPTOR.services_by_name["DeliveryFeed"]]
    services.append(delivery_pb2.DESCRIPTOR.services_by_name["EvidenceService"])
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert set(rules(sold.scheduler)) == methods
    assert {service.full_name for service in services} == {FEED, EVIDENCE}


def test_roles_read_what_is_theirs(sold: World, trust: Trust) -> None:
    named = {each.account: each.id for each in sold.scheduler.state.book.positions.values()}
    with served(sold, trust.of("cluster/local")) as server:

        def client(peer: str) -> FeedClient:
            return FeedClient(server.address, tls=trust.of(peer))

        for peer in ("exchange/venue", "auditor/klm", "admin/ann"):
            with client(peer) as reader:
                assert reader.head().cursor.stream == "local"
                assert list(reader.replay(None))
                assert reader.statement(named["acme"])[0]
        for peer in ("account/acme", "cluster/other"):
            with client(peer) as closed:
                for ask in (
                    closed.head,
                    lambda: next(iter(closed.subscribe(None))),
                    lambda: list(closed.replay(None)),
                    lambda: closed.deliverable(feed_pb2.DeliveryFeedGetDeliverableRequest()),
                    lambda: closed.backing(feed_pb2.DeliveryFeedGetBackingRequest()),
                    lambda: closed.add_cosignature("local", b"", ""),
                ):
                    with pytest.raises(Unauthorised, match=f"{peer} may not ask this"):
                        ask()
                assert closed.checkpoint("local")[0] > 0  # proofs are hashes, and for everybody
        with client("account/acme") as owner:
            assert owner.statement(named["acme"])[0]
            for other in (named["borealis"], "nobody"):
                with pytest.raises(Unauthorised, match=f"may not ask for the statement of {other}: it is not its own"):
                    owner.statement(other)
        with client("cluster/other") as neighbour, pytest.raises(Unauthorised):
            neighbour.statement(named["acme"])


def test_plaintext_stays_on_this_machine(sold: World) -> None:
    sources = FeedSources(sold.clock_ms, lambda: (), lambda note, _: note)
    settings = FeedSettings("local", 1, listen="0.0.0.0:0")
    with pytest.raises(Unauthorised, match=r"the feed was to listen on 0\.0\.0\.0:0 in plaintext"):
        FeedServer(sold.scheduler, Path(sold.journal._location), settings, sources)


def test_a_peer_has_so_many_calls_and_streams(sold: World, trust: Trust) -> None:
    limits = Limits(calls_per_s=1, burst=3, streams=1)
    with served(sold, trust.of("cluster/local"), limits) as server:
        with FeedClient(server.address, tls=trust.of("auditor/klm")) as client:
            subscription = client.subscribe(None)
            told = iter(subscription)
            next(told)
            with pytest.raises(Exhausted, match="auditor/klm has 1 streams open"):
                next(iter(client.subscribe(None)))
            subscription.cancel()
        with FeedClient(server.address, tls=trust.of("auditor/many")) as client:
            client.checkpoint("local")
            client.checkpoint("local")
            client.checkpoint("local")
            with pytest.raises(Exhausted, match="auditor/many made more than 1 calls a second"):
                list(client.replay(None))


def test_a_peer_on_the_list_is_refused_by_the_feed_also_while_it_reads(
    sold: World, trust: Trust, tmp_path: Path
) -> None:
    listed, now_s = tmp_path / "denied", [0.0]
    listed.write_text("auditor/other\n")
    with (
        served(sold, trust.of("cluster/local"), denied=Denied(listed, lambda: now_s[0])) as server,
        FeedClient(server.address, tls=trust.of("auditor/klm")) as client,
    ):
        client.head()
        listed.write_text("auditor/klm\n")
        now_s[0] += LOOKED_AT_S
        for ask in (client.head, lambda: list(client.replay(None)), lambda: next(iter(client.subscribe(None)))):
            with pytest.raises(Unauthorised, match="auditor/klm is denied here"):
                ask()


def test_searches_are_few_at_a_time(sold: World) -> None:
    with served(sold) as server, FeedClient(server.address) as client:
        feed: Feed = server._feed
        for _ in range(MOST_SEARCHES):
            assert feed._searches.acquire(blocking=False)
        with pytest.raises(Exhausted, match="2 others ask for snapshots, statements or offers") as told:
            client.snapshot()
        assert client.head().cursor.seq
        assert told.value.retry_ms == 1_000
        for _ in range(MOST_SEARCHES):
            feed._searches.release()
        assert list(client.snapshot()[1])


def test_the_feed_is_healthy_tells_no_methods_and_pings(sold: World) -> None:
    with served(sold) as server, grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", FEED, EVIDENCE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflect: Any = channel.unary_unary("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as absent:
            reflect(b"", timeout=5)
        assert absent.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert ("grpc.http2.min_ping_interval_without_data_ms", 5_000) in server_options()
