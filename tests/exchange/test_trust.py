"""Mutual TLS between real servers and real callers: who gets in, what is said to who does not, what a renewal needs."""

from __future__ import annotations

import importlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler.core.errors import InvalidValue, Refused, Unauthorised, Unavailable
from scheduler.exchange import certs
from scheduler.exchange.channels import CHANNEL_OPTIONS, server_options
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.errors import Untrusted, error_of
from scheduler.exchange.handshakes import leads_back
from scheduler.exchange.peers import Peer
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.reference.server import Server, ServerSettings, serve
from scheduler.exchange.reference.services import Pace
from scheduler.exchange.tls import Tls, opened, tls_of
from scheduler.exchange.v1 import positions_pb2, positions_pb2_grpc
from scheduler.exchange.watcher import Watcher, WatchState
from scheduler.ledger.journal import Journal
from tests.exchange.test_watcher import Book
from tests.exchange.trust import Trust, now_ms
from tests.exchange.world import SIGNER, STREAM, ManualClock, delivered, trade_all, write_log

WAIT_S = 20.0


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("certs"))


@contextmanager
def venue(db: Path, tls: Tls | None, **more: Any) -> Iterator[Server]:
    """An exchange with that identity."""
    settings = ServerSettings(db, pace=Pace(heartbeat_ms=50), clock_ms=ManualClock(), durable=False, tls=tls, **more)
    with serve(settings) as server:
        yield server


@pytest.fixture(scope="module")
def server(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with venue(tmp_path_factory.mktemp("venue") / "exchange.db", trust.of("exchange/venue")) as running:
        yield running


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def said(address: str, tls: Tls | None) -> str:
    """What a caller is told where no connection is made."""
    with ExchangeClient(address, timeout_s=5, tls=tls) as client, pytest.raises(Untrusted) as told:
        client.snapshot()
    return str(told.value)


def test_both_ends_know_each_other(trust: Trust, server: Server) -> None:
    with ExchangeClient(server.address, timeout_s=5, tls=trust.of("auditor/klm")) as client:
        client.wait_ready()
        assert client.snapshot().positions == ()


def test_plaintext_meets_tls(server: Server) -> None:
    assert "speaks TLS, and was called in plaintext" in said(server.address, None)


def test_tls_meets_plaintext(trust: Trust, tmp_path: Path) -> None:
    with venue(tmp_path / "exchange.db", None) as plain:
        assert "speaks plaintext, and was called with TLS" in said(plain.address, trust.of("cluster/east"))


def test_nobody_there_is_no_matter_of_trust(trust: Trust, tmp_path: Path) -> None:
    with venue(tmp_path / "exchange.db", None) as plain:
        address = plain.address
    for tls in (None, trust.of("cluster/east")):
        with ExchangeClient(address, timeout_s=1, tls=tls) as client, pytest.raises(Unavailable) as told:
            client.wait_ready(0.2)
        assert type(told.value) is Unavailable


def test_a_connection_that_met_itself_is_told_apart() -> None:
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        alone.connect(alone.getsockname())  # nobody listens, and Linux connects it all the same
        assert leads_back(alone)
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_connection(there.getsockname()) as met:
        assert not leads_back(met)


def test_a_stranger_is_not_let_in(trust: Trust, server: Server, tmp_path: Path) -> None:
    stranger = Tls(Trust(tmp_path).of("cluster/east").identity, trust.authority)
    why = said(server.address, stranger)
    assert "did not take our certificate" in why
    assert "cluster/east, signed by CN=Tenor development authority" in why
    assert "is its authority the one that signed it?" in why


def test_a_server_of_another_authority_is_not_believed(trust: Trust, server: Server, tmp_path: Path) -> None:
    mine = Tls(trust.of("cluster/east").identity, Trust(tmp_path).of("cluster/x").authority)
    assert "has a certificate of another authority than those in" in said(server.address, mine)


def test_a_server_under_another_name_is_not_believed(trust: Trust, server: Server, tmp_path: Path) -> None:
    one_name = Trust(tmp_path)
    certs.make(tmp_path, [Peer.parse("account/acme")], now_ms=now_ms())  # people have no host names
    with venue(tmp_path / "exchange.db", one_name.of("account/acme")) as elsewhere:
        why = said(elsewhere.address, one_name.of("cluster/east"))
    assert "has a certificate for another name: '127.0.0.1' is not among those" in why


def test_an_expired_certificate_is_named_at_either_end(trust: Trust, tmp_path: Path) -> None:
    over = trust.over("cluster/late")
    with pytest.raises(Untrusted, match=r"the certificate in .*cluster-late\.pem expired at"):
        ExchangeClient("127.0.0.1:1", tls=over)
    with pytest.raises(Untrusted, match="expired at"):
        serve(ServerSettings(tmp_path / "exchange.db", tls=trust.over("exchange/late")))


def test_a_server_whose_certificate_expires_goes_on_with_the_renewed_one(trust: Trust, tmp_path: Path) -> None:
    late = Trust(tmp_path / "certs")
    tls = late.of("exchange/venue")
    certs.renew(tls.identity, days=1, now_ms=now_ms() - 86_400_000 + 2_000)  # two seconds are left
    me = late.of("auditor/klm")
    with venue(tmp_path / "exchange.db", tls) as server:
        until(lambda: certs.described(tls.identity).not_after_ms + 1_500 < now_ms())
        assert "has a certificate that expired: its operator must renew it" in said(server.address, me)
        certs.renew(tls.identity, now_ms=now_ms())
        with ExchangeClient(server.address, timeout_s=5, tls=me) as client:
            assert client.snapshot().positions == ()


def test_what_is_half_written_leaves_a_server_as_it_was(trust: Trust, tmp_path: Path) -> None:
    other = Trust(tmp_path / "certs")
    tls = other.of("exchange/venue")
    with venue(tmp_path / "exchange.db", tls) as server:
        tls.identity.write_text("half of a")
        with ExchangeClient(server.address, timeout_s=5, tls=other.of("auditor/klm")) as client:
            assert client.snapshot().positions == ()


@pytest.mark.parametrize(
    "names", [(), ("spiffe://a.b/account/acme", "spiffe://a.b/admin/root"), ("spiffe://a.b/king/x",)]
)
def test_a_certificate_without_one_identity_gets_in_nowhere(
    names: tuple[str, ...], trust: Trust, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "anonymous.pem"
    path.write_bytes(signed(trust, names))
    path.chmod(0o600)
    with (
        ExchangeClient(server.address, timeout_s=5, tls=Tls(path, trust.authority)) as client,
        pytest.raises(Unauthorised, match="the caller's certificate has no identity"),
    ):
        client.instruments()


def signed(trust: Trust, uris: tuple[str, ...]) -> bytes:
    """A certificate of the authority with those URI names, and its key."""
    signer, authority = certs._authority(trust.folder, now_ms())
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    names = x509.SubjectAlternativeName([x509.DNSName("x"), *map(x509.UniformResourceIdentifier, uris)])
    return certs._pem(certs._signed(subject, names, key.public_key(), signer, authority, 1, now_ms())) + certs._key_pem(
        key
    )


def test_off_loopback_nothing_is_plain(trust: Trust, tmp_path: Path) -> None:
    for address in ("10.0.0.1:7001", "exchange.example:7001", "[2001:db8::1]:7001"):
        with pytest.raises(Unauthorised, match="in plaintext, which is for a loopback address only"):
            ExchangeClient(address)
    with pytest.raises(Unauthorised, match="in plaintext, which is for a loopback address only"):
        serve(ServerSettings(tmp_path / "exchange.db", listen="0.0.0.0:0"))
    with venue(tmp_path / "exchange.db", trust.of("exchange/venue"), listen="0.0.0.0:0") as everywhere:
        near = f"127.0.0.1:{everywhere.address.rpartition(':')[2]}"
        with ExchangeClient(near, timeout_s=5, tls=trust.of("auditor/klm")) as client:
            assert client.instruments() == ()


def test_health_is_told_to_whoever_got_in_and_nothing_else_is_there(trust: Trust, server: Server) -> None:
    with opened(server.address, trust.of("account/acme"), CHANNEL_OPTIONS) as channel:
        check: Any = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined] # not in its types
        request = health_pb2.HealthCheckRequest(service="tenor.exchange.v1.PositionService")
        assert check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        for method in ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/tenor.exchange.v1.X/Y"):
            call: Any = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as failed:
                call(b"", timeout=5)
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused_and_not_sent_again(trust: Trust, server: Server) -> None:
    request = positions_pb2.ListInstrumentsRequest(prefix="x" * (17 << 20))
    with opened(server.address, trust.of("account/acme"), CHANNEL_OPTIONS) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            positions_pb2_grpc.PositionServiceStub(channel).ListInstruments(request, timeout=WAIT_S)
        error = error_of(failed.value)
    assert isinstance(error, Refused)
    assert "larger than one end takes" in str(error)


def test_every_option_of_channels_and_servers_is_one_that_grpc_knows() -> None:
    library = Path(importlib.import_module("grpc._cython.cygrpc").__file__ or "").read_bytes()
    names = {name for name, _ in (*CHANNEL_OPTIONS, *server_options(grace_ms=1))}
    assert len(names) > 10
    for name in names:
        assert name.encode() + b"\0" in library, f"gRPC does not know {name}"


def test_delivery_and_positions_flow_over_tls(trust: Trust, tmp_path: Path) -> None:
    leaves, book, cluster = delivered(), Book(), trust.of(f"cluster/{STREAM}")
    with (
        venue(tmp_path / "exchange.db", trust.of("exchange/venue")) as server,
        Journal.open(tmp_path / "journal.db", durable=False) as journal,
    ):
        with ExchangeClient(server.address, timeout_s=5, tls=trust.of("exchange/venue")) as operator:
            trade_all(operator)
        write_log(journal, leaves)
        with (
            Watcher(server.address, book, tls=cluster) as watcher,
            Publisher(server.address, journal, STREAM, SIGNER, 1, chance=random.Random(1), tls=cluster) as publisher,
        ):
            assert publisher.wait_acknowledged(len(leaves), WAIT_S)
            until(lambda: watcher.status().state is WatchState.WATCHING)
        assert server.intake.root(STREAM) == journal.root(STREAM, len(leaves))


def test_a_cluster_goes_on_by_itself_once_its_certificate_is_renewed(trust: Trust, tmp_path: Path) -> None:
    cluster = trust.over(f"cluster/{STREAM}.renewed")
    stream = f"{STREAM}.renewed"
    with (
        venue(tmp_path / "exchange.db", trust.of("exchange/venue")) as server,
        Journal.open(tmp_path / "journal.db", durable=False) as journal,
    ):
        write_log(journal, delivered(), stream)
        with (
            Watcher(server.address, Book(), tls=cluster) as watcher,
            Publisher(server.address, journal, stream, SIGNER, 1, chance=random.Random(1), tls=cluster) as publisher,
        ):
            until(lambda: "expired at" in watcher.status().detail and "expired at" in publisher.status().detail)
            assert watcher.status().state is WatchState.CONNECTING
            assert publisher.status().state is PublishState.CONNECTING
            certs.renew(cluster.identity, now_ms=now_ms())
            assert publisher.wait_acknowledged(journal.log_size(stream), WAIT_S)
            until(lambda: watcher.status().state is WatchState.WATCHING)


def test_connections_that_have_their_age_are_made_again_and_lose_nothing(trust: Trust, tmp_path: Path) -> None:
    cluster, book = trust.of(f"cluster/{STREAM}"), Book()
    with (
        venue(tmp_path / "exchange.db", trust.of("exchange/venue"), connection_age_ms=300) as server,
        Journal.open(tmp_path / "journal.db", durable=False) as journal,
        Watcher(server.address, book, tls=cluster) as watcher,
        Publisher(server.address, journal, STREAM, SIGNER, 1, chance=random.Random(1), tls=cluster) as publisher,
    ):
        leaves = itertools.cycle(delivered())
        while server.intake._turns.get(STREAM, 0) < 3:  # until the log was opened twice again
            write_log(journal, [next(leaves)])
            publisher.wake()
            assert publisher.wait_acknowledged(journal.log_size(STREAM), WAIT_S)
        assert server.intake.root(STREAM) == journal.root(STREAM)
        with ExchangeClient(server.address, timeout_s=5, tls=trust.of("exchange/venue")) as operator:
            trade_all(operator)
        book.wait_for(3)
        assert watcher.status().state is not WatchState.FROZEN


def test_half_of_tls_is_refused() -> None:
    for identity, authority in ((Path("a"), None), (None, Path("a"))):
        with pytest.raises(InvalidValue, match=r"who we are \(identity\) and whom we believe"):
            tls_of(identity, authority)
    assert tls_of(None, None) is None
