"""Who may ask the exchange for what, by role, through real certificates; and how often, each for itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from scheduler.core.errors import InvalidValue, Refused, TenorError, Unauthorised
from scheduler.core.positions import Cursor
from scheduler.exchange.admission import HEALTH, Admission, Limits, anybody, only
from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.denied import Denied
from scheduler.exchange.errors import Exhausted, error_of
from scheduler.exchange.peers import LOCAL, Peer, Role
from scheduler.exchange.probe_client import ProbeClient
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.reference.access import rules
from scheduler.exchange.reference.server import Server, ServerSettings, serve
from scheduler.exchange.reference.services import Pace
from scheduler.exchange.tls import bind, opened
from scheduler.exchange.v1 import delivery_pb2, disputes_pb2, positions_pb2, positions_pb2_grpc, probes_pb2
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import cosign
from tests.exchange.test_trust import WAIT_S, until, venue
from tests.exchange.trust import Trust
from tests.exchange.world import SIGNER, START_MS, STREAM, delivered, terms, trade_all, write_log


@dataclass
class Market:
    """An exchange with three accounts and their delivery, by the cluster called STREAM."""

    server: Server
    trust: Trust

    def client(self, peer: str) -> ExchangeClient:
        """A client with that peer's identity."""
        return ExchangeClient(self.server.address, timeout_s=5, tls=self.trust.of(peer))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    trust, leaves = Trust(folder / "certs"), delivered()
    with (
        venue(folder / "exchange.db", trust.of("exchange/venue")) as server,
        Journal.open(folder / "journal.db", durable=False) as journal,
    ):
        market = Market(server, trust)
        with market.client("exchange/venue") as operator:
            trade_all(operator)
        write_log(journal, leaves)
        cluster = trust.of(f"cluster/{STREAM}")
        with Publisher(server.address, journal, STREAM, SIGNER, 1, chance=random.Random(1), tls=cluster) as publisher:
            assert publisher.wait_acknowledged(len(leaves), WAIT_S)
        yield market


def test_every_method_has_a_rule_and_every_rule_a_method(market: Market) -> None:
    files = (positions_pb2.DESCRIPTOR, delivery_pb2.DESCRIPTOR, disputes_pb2.DESCRIPTOR, probes_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert set(rules(market.server.venue, market.server.intake)) == methods


Ask = Callable[[ExchangeClient], object]
WITNESS = SignerKey("witness.test/klm", bytes(range(1, 33)))


def cosigned(on: ExchangeClient) -> object:
    """The latest checkpoint with one more witness."""
    note = on.checkpoint(STREAM)[1]
    return on.add_cosignature(STREAM, cosign(note, WITNESS, START_MS // 1_000), WITNESS.witness.encode())


OWNER, MARKET = "account/account-0", "exchange"
READERS = "cluster exchange auditor"
EVERYBODY = f"{OWNER} account/nobody {READERS} admin"
CALLS: tuple[tuple[str, Ask, str], ...] = (
    ("instruments", lambda on: on.instruments(), EVERYBODY),
    ("snapshot", lambda on: on.snapshot(), f"{OWNER} account/nobody {READERS}"),
    ("snapshot of one", lambda on: on.snapshot(account="account-0"), f"{OWNER} {READERS}"),
    ("watch", lambda on: next(iter(on.watch(on.snapshot().cursor))), READERS),
    ("statement", lambda on: on.statement("pos-1"), f"{OWNER} {READERS}"),
    ("checkpoint", lambda on: on.checkpoint(STREAM), EVERYBODY),
    ("inclusion", lambda on: on.inclusion_proof(STREAM, 1, 9), EVERYBODY),
    ("consistency", lambda on: on.consistency_proof(STREAM, 1, 9), EVERYBODY),
    ("cosign", cosigned, "exchange auditor"),
    ("list", lambda on: on.list_instrument(terms("OTHER")), MARKET),
    ("correct", lambda on: on.correct("pos-3", 1, effective_ms=START_MS, request_id="c"), MARKET),
    (
        "buy",
        lambda on: on.trade("account-0", "H100.BASE@1", 1, request_id="b", effective_ms=START_MS),
        f"{OWNER} {MARKET}",
    ),
    ("sell", lambda on: on.transfer("pos-1", "x", 1, request_id="s", effective_ms=START_MS), f"{OWNER} {MARKET}"),
    ("consent to what is not asked for", lambda on: on.consent("pos-1", ["A100SXM"], request_id="a"), OWNER),
    ("sell what is not there", lambda on: on.transfer("pos-9", "x", 1, request_id="t"), ""),
)
PEERS = {
    "account/account-0": "account/account-0",
    "account/nobody": "account/nobody",
    "cluster": f"cluster/{STREAM}",
    "exchange": "exchange/venue",
    "auditor": "auditor/klm",
    "admin": "admin/root",
    "another cluster": "cluster/other",
}


@pytest.mark.parametrize(("what", "ask", "allowed"), CALLS, ids=[what for what, _, _ in CALLS])
def test_each_may_what_is_its_own(market: Market, what: str, ask: Ask, allowed: str) -> None:
    wanted = set(allowed.split())
    if wanted & {"cluster"} and what != "statement":
        wanted.add("another cluster")  # it hears of positions, and owes nobody a statement of this one
    let_in = set()
    for name, peer in PEERS.items():
        with market.client(peer) as client:
            try:
                ask(client)
            except Unauthorised as error:
                assert f"{peer} may not ask" in str(error)  # noqa: PT017 - others must pass
                continue
            except InvalidValue:
                assert "not asked for" in what
            except Refused as error:
                assert error.code == "UNKNOWN_NAME"  # noqa: PT017 - let in, and nothing of that name is there
                continue
            let_in.add(name)
    assert let_in == wanted


def test_a_cluster_lets_its_own_devices_compute_and_readers_read_what_was_found(market: Market) -> None:
    asked, read = set(), set()
    for name, peer in PEERS.items():
        with ProbeClient(market.server.address, tls=market.trust.of(peer)) as client:
            with suppress(Unauthorised):
                client.next(STREAM)
                asked.add(name)
            with suppress(Unauthorised):
                client.listed(stream=STREAM)
                read.add(name)
    assert asked == {"cluster"}
    assert read == {"cluster", "exchange", "auditor"}


def test_a_method_without_a_rule_is_open_to_nobody() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1), interceptors=[Admission({"/a.B/Other": anybody})])
    echo: Any = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"Forgotten": echo, "Other": echo}),))
    port = bind(server, "127.0.0.1:0", None)
    server.start()
    with opened(f"127.0.0.1:{port}", None, CHANNEL_OPTIONS) as channel:
        forgotten: Any = channel.unary_unary("/a.B/Forgotten")
        other: Any = channel.unary_unary("/a.B/Other")
        assert other(b"x", timeout=5) == b"x"
        with pytest.raises(grpc.RpcError) as failed:
            forgotten(b"x", timeout=5)
    server.stop(None).wait()
    assert isinstance(error_of(failed.value), Unauthorised)
    assert "/a.B/Forgotten is open to nobody" in str(error_of(failed.value))


def test_an_account_sees_its_own_positions_and_no_others(market: Market) -> None:
    with market.client("account/account-1") as mine, market.client("auditor/klm") as auditor:
        seen, whole = mine.snapshot(), auditor.snapshot()
        assert [each.account for each in seen.positions] == ["account-1"]
        assert seen.instruments == whole.instruments
        assert len(auditor.snapshot(account="account-1").positions) == 1 < len(whole.positions)
        for others in ("pos-1", "pos-3", "pos-99"):
            with pytest.raises(Unauthorised, match=f"account/account-1 may not ask for the statement of {others}"):
                mine.statement(others)
        assert mine.statement("pos-2")[0] == auditor.statement("pos-2")[0]


@pytest.mark.parametrize("peer", ["cluster/other", "exchange/venue", "account/account-0", "auditor/klm", "admin/root"])
def test_nobody_publishes_on_anothers_stream(market: Market, tmp_path: Path, peer: str) -> None:
    size = market.server.intake.checkpoint(STREAM)[0]
    with Journal.open(tmp_path / "journal.db", durable=False) as journal:
        write_log(journal, delivered())
        tls = market.trust.of(peer)
        with Publisher(
            market.server.address, journal, STREAM, SIGNER, 9, chance=random.Random(1), tls=tls
        ) as publisher:
            until(lambda: publisher.status().state is PublishState.REFUSED)
            assert f"{peer} may not publish on stream '{STREAM}'" in publisher.status().detail
    assert market.server.intake.checkpoint(STREAM)[0] == size


def test_too_many_calls_are_told_when_to_come_again_and_come_again(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "certs")
    limits = Limits(calls_per_s=20, burst=5, streams=1)
    with venue(tmp_path / "exchange.db", trust.of("exchange/venue"), limits=limits) as server:
        tls = trust.of("account/acme")
        with opened(server.address, tls, CHANNEL_OPTIONS) as channel:
            stub = positions_pb2_grpc.PositionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as failed:
                [stub.ListInstruments(positions_pb2.ListInstrumentsRequest(), timeout=5) for _ in range(50)]
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = error_of(failed.value)
        assert isinstance(error, Exhausted)
        assert (error.subject, 0 < error.retry_ms <= 60) == ("account/acme", True)
        details = rpc_status.from_call(failed.value)  # type: ignore[arg-type] # it is a call too
        assert details is not None
        retry, quota = error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
        assert any(each.Unpack(retry) for each in details.details)
        assert any(each.Unpack(quota) for each in details.details)
        assert retry.retry_delay.ToMilliseconds() == error.retry_ms
        assert "more than 20 calls a second" in quota.violations[0].description
        with ExchangeClient(server.address, timeout_s=5, tls=tls) as patient:
            for _ in range(20):  # four times what is granted at once: the client waits as it is told
                assert patient.instruments() == ()


def test_limits_are_each_peers_own(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "certs")
    limits = Limits(calls_per_s=1, burst=4, streams=1)
    with (
        venue(tmp_path / "exchange.db", trust.of("exchange/venue"), limits=limits) as server,
        ExchangeClient(server.address, timeout_s=5, tls=trust.of("auditor/klm")) as loud,
        ExchangeClient(server.address, timeout_s=5, tls=trust.of("cluster/east")) as quiet,
    ):
        cursor = loud.snapshot().cursor
        first = loud.watch(cursor)
        next(iter(first))
        with pytest.raises(Exhausted, match="auditor/klm has 1 streams open, expected fewer than 1"):
            next(iter(loud.watch(cursor)))
        next(iter(quiet.watch(cursor)))
        first.cancel()
        until(lambda: opens(loud, cursor))


def opens(client: ExchangeClient, cursor: Cursor) -> bool:
    """Whether there is room for one more stream."""
    watch = client.watch(cursor)
    try:
        next(iter(watch))
        watch.cancel()
    except Exhausted:
        return False
    return True


def test_a_pace_is_refilled_by_the_clock_and_forgotten() -> None:
    now_s = 0.0
    door = Admission({}, Limits(calls_per_s=10, burst=2), lambda: now_s)
    acme, borealis = Peer(Role.ACCOUNT, "acme"), Peer(Role.ACCOUNT, "borealis")
    for _ in range(2):
        door.admit(acme)
    with pytest.raises(Exhausted, match="account/acme made more than 10 calls a second") as told:
        door.admit(acme)
    assert told.value.retry_ms == 101
    door.admit(borealis)
    for _ in range(1_000):
        door.admit(LOCAL)
    now_s = 0.1
    door.admit(acme)
    with pytest.raises(Exhausted):
        door.admit(acme)
    now_s = 100.0
    for number in range(5_000):
        door.admit(Peer(Role.ACCOUNT, f"a{number}"))
        now_s += 0.01
    assert len(door._paces) < 4_200


def test_rules_say_for_whom_they_are() -> None:
    rule = only(Role.EXCHANGE, Role.AUDITOR)
    assert rule(Peer(Role.AUDITOR, "klm"), 7) == rule(LOCAL, 7) == anybody(LOCAL, 7) == 7
    with pytest.raises(Unauthorised, match="account/acme may not ask this, it is for: exchange, auditor"):
        rule(Peer(Role.ACCOUNT, "acme"), 7)
    assert HEALTH.startswith("/")
    assert issubclass(Exhausted, TenorError)


def test_a_name_on_the_list_is_refused_at_once_also_on_an_open_stream(tmp_path: Path) -> None:
    trust, listed = Trust(tmp_path / "certs"), tmp_path / "denied"
    listed.write_text("# nobody\n\n")
    settings = ServerSettings(
        tmp_path / "exchange.db",
        pace=Pace(heartbeat_ms=50),
        durable=False,
        tls=trust.of("exchange/venue"),
        denied=listed,
    )
    with (
        serve(settings) as server,
        ExchangeClient(server.address, tls=trust.of("cluster/east")) as east,
        ExchangeClient(server.address, tls=trust.of("cluster/west")) as west,
    ):
        watch = iter(east.watch(east.snapshot().cursor))
        next(watch)
        listed.write_text("cluster/east\n")
        with pytest.raises(Unauthorised, match="cluster/east is denied here"):
            for _ in watch:
                pass
        with pytest.raises(Unauthorised):
            east.snapshot()
        west.snapshot()


def test_a_list_that_cannot_be_read_takes_nobody_off(tmp_path: Path) -> None:
    path, now_s = tmp_path / "denied", [0.0]
    with pytest.raises(InvalidValue, match="unreadable"):
        Denied(path)
    path.write_text("cluster/east\n")
    denied = Denied(path, lambda: now_s[0])
    east = Peer.parse("cluster/east")
    path.write_text("who\n")
    now_s[0] += 2
    with pytest.raises(Unauthorised):
        denied.check(east)
    path.write_text("")
    denied.check(Peer.parse("cluster/west"))
    now_s[0] += 2
    denied.check(east)
