"""The conformance suite: the reference exchange passes all of it, and each check fails on a server that is wrong."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from scheduler.core.errors import InvalidValue, UnknownName
from scheduler.exchange.admission import anybody
from scheduler.exchange.channels import server_options
from scheduler.exchange.conformance import access, transport
from scheduler.exchange.conformance.callers import Options
from scheduler.exchange.conformance.outcome import Failed, Skipped
from scheduler.exchange.conformance.report import counts, document, write_junit
from scheduler.exchange.conformance.suite import CHECKS, Check, Result, Status, chosen, run
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.reference import server as reference
from scheduler.exchange.reference.access import rules
from scheduler.exchange.reference.faults.faults import Faults
from scheduler.exchange.reference.server import Server, ServerSettings, serve
from scheduler.exchange.reference.services import Pace
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc, positions_pb2, positions_pb2_grpc
from tests.exchange.mutations import WRONG, Mutating
from tests.exchange.trust import Trust

ELSEWHERE = {
    "reflection_is_off",
    "abandoned_streams_are_freed",
    "strangers_get_nothing",
    "large_message_is_refused",
    "pings_are_taken",
    "account_sees_its_own",
    "account_trades_for_itself",
    "cluster_publishes_its_own",
    "auditor_only_reads",
    "statement_is_its_owners",
}
"""Checks that no changed message makes fail: each has a test of its own below."""


@dataclass
class Mutable:
    """A reference exchange around which mutations may be put."""

    server: Server
    mutating: Mutating


@pytest.fixture(scope="module")
def mutable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mutable]:
    mutating = Mutating()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reference, "FaultyCalls", lambda _faults, _venue: mutating)
        db = tmp_path_factory.mktemp("mutable") / "exchange.db"
        settings = ServerSettings(db, pace=Pace(heartbeat_ms=50), durable=False, faults=Faults())
        with serve(settings) as server:
            server.venue.begin_epoch()
            with target(server.address) as first:
                first.market.buy()  # some checks are about events, whichever test comes first
            yield Mutable(server, mutating)


def target(address: str, **options: Any) -> Target:
    return Target(Options(address, quick=True, **options), pause=lambda _: None)


def results(target: Target, *names: str) -> dict[str, Result]:
    return {result.check.name: result for result in run(target, chosen(names, quick=True))}


def not_passed(found: dict[str, Result]) -> dict[str, tuple[Status, str]]:
    return {name: (it.status, it.seen) for name, it in found.items() if it.status is not Status.PASS}


def test_an_honest_exchange_passes_in_plaintext(mutable: Mutable) -> None:
    with target(mutable.server.address) as honest:
        honest.reach(5)
        found = results(honest)
    assert found.keys() == {check.name for check in CHECKS} - {"pings_are_taken"}
    skipped = {name for name, (status, _) in not_passed(found).items() if status is Status.SKIPPED}
    assert not_passed(found).keys() == skipped == {check.name for check in CHECKS if check.area == "access"}


def test_every_check_is_shown_to_fail_somewhere() -> None:
    assert WRONG.keys() | ELSEWHERE == {check.name for check in CHECKS}
    assert not WRONG.keys() & ELSEWHERE


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_exchange_is_found_by_the_check_that_is_there_for_it(mutable: Mutable, name: str) -> None:
    needs_delivery = {"leaves", "evidence", "settling"}
    (check,) = chosen([name])
    with target(mutable.server.address, timeout_s=1.0) as wrong:
        if check.area in needs_delivery:
            wrong.delivered()  # soundly, before the mutation
        mutable.mutating.now = WRONG[name]
        try:
            (found,) = run(wrong, [check])
        finally:
            mutable.mutating.now = None
    assert found.status is Status.FAIL, found.seen
    assert found.seen
    assert "could not read what came" not in found.seen


# -- over mutual TLS ---------------------------------------------------------------------------------------------------

PEERS = ("cluster/one", "cluster/two", "cluster/three", "exchange/venue", "account/acme", "auditor/klm")


@contextmanager
def secured(folder: Path) -> Iterator[tuple[Server, Trust]]:
    trust = Trust(folder / "certs")
    settings = ServerSettings(
        folder / "exchange.db", pace=Pace(heartbeat_ms=50), durable=False, tls=trust.of("exchange/venue")
    )
    with serve(settings) as server:
        yield server, trust


def identities(trust: Trust, *peers: str) -> dict[str, Any]:
    return {"identities": tuple(trust.of(peer).identity for peer in peers), "authority": trust.authority}


def test_an_honest_exchange_passes_over_mutual_tls_and_says_what_a_second_run_lacks(tmp_path: Path) -> None:
    with secured(tmp_path) as (server, trust):
        given = identities(trust, *PEERS)
        with target(server.address, **given) as honest:
            honest.reach(5)
            assert not_passed(results(honest)).keys() == {"cursor_of_an_epoch_that_is_over"}
        with target(server.address, **given) as again:
            found = results(again, "delivery")
        assert {it.status for it in found.values()} == {Status.SKIPPED}
        assert "stream one was used before" in found["gap_is_refused"].seen
        with target(server.address, **identities(trust, "account/acme")) as alone:
            found = results(alone, "gap_is_refused", "account_sees_its_own", "health_is_told")
        assert found["gap_is_refused"].seen == "needs an --identity of cluster/NAME"
        assert found["account_sees_its_own"].status is Status.PASS


def test_an_exchange_that_lets_everybody_do_everything_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "rules", lambda venue, intake: dict.fromkeys(rules(venue, intake), anybody))
    with secured(tmp_path) as (server, trust), target(server.address, **identities(trust, *PEERS)) as open_to_all:
        found = results(open_to_all, "access")
    assert {name: it.status for name, it in found.items()} == dict.fromkeys(found, Status.FAIL)
    assert len(found) == 5


def test_strangers_that_are_answered_are_found(tmp_path: Path, mutable: Mutable) -> None:
    trust = Trust(tmp_path / "certs")
    with (
        target(mutable.server.address, **identities(trust, "cluster/one")) as open_to_all,
        pytest.raises(Failed, match="a caller without a certificate was answered"),
    ):
        access.strangers_get_nothing(open_to_all)


# -- servers that are another program altogether -----------------------------------------------------------------------


class TakesAnything(delivery_pb2_grpc.DeliveryServiceServicer):
    """Acknowledges whatever comes."""

    def Publish(self, requests: Iterator[Any], context: object) -> Iterator[Any]:  # noqa: D102, N802, ARG002
        for request in requests:
            batch = request.batch
            yield delivery_pb2.PublishResponse(acknowledged=batch.first_index + len(batch.leaves), credits=1)


class NeverLetsGo(positions_pb2_grpc.PositionServiceServicer):
    """Keeps a place for each watch, whether anybody listens or not."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def GetSnapshot(self, request: object, context: object) -> positions_pb2.GetSnapshotResponse:  # noqa: D102, N802, ARG002
        return positions_pb2.GetSnapshotResponse()

    def Watch(self, request: object, context: object) -> Iterator[Any]:  # noqa: D102, N802, ARG002
        yield positions_pb2.WatchResponse()
        self.over.wait()


@contextmanager
def other_program(*, reflects: bool = False, **options: Any) -> Iterator[str]:
    given = dict(server_options()) | {f"grpc.{name.replace('__', '.')}": value for name, value in options.items()}
    server = grpc.server(futures.ThreadPoolExecutor(4), options=tuple(given.items()), maximum_concurrent_rpcs=4)
    positions = NeverLetsGo()  # type: ignore[abstract] # the rest is not asked for
    delivery_pb2_grpc.add_DeliveryServiceServicer_to_server(TakesAnything(), server)  # type: ignore[abstract] # the rest is not asked for
    positions_pb2_grpc.add_PositionServiceServicer_to_server(positions, server)
    if reflects:
        method: Any = grpc.stream_stream_rpc_method_handler(lambda requests, _: (b"" for _ in requests))
        name = "grpc.reflection.v1.ServerReflection"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        positions.over.set()
        server.stop(0).wait()


def test_reflection_is_found() -> None:
    with (
        other_program(reflects=True) as address,
        target(address) as reflecting,
        pytest.raises(Failed, match="reflection v1 answered"),
    ):
        transport.reflection_is_off(reflecting)


def test_places_that_are_never_freed_are_found() -> None:
    with (
        other_program() as address,
        target(address, timeout_s=1.0) as full,
        pytest.raises(Failed, match="after 20 streams whose deadline was over: RESOURCE_EXHAUSTED"),
    ):
        transport.abandoned_streams_are_freed(full)


def test_a_server_without_a_limit_of_sizes_is_found() -> None:
    with (
        other_program(max_receive_message_length=-1) as address,
        target(address) as limitless,
        pytest.raises(Failed, match="it was taken"),
    ):
        transport.large_message_is_refused(limitless)


@pytest.mark.slow
def test_a_server_that_takes_no_pings_is_found() -> None:
    with (
        other_program(http2__min_ping_interval_without_data_ms=300_000, http2__max_ping_strikes=1) as address,
        Target(Options(address, quick=True)) as pinging,
        pytest.raises(Failed, match="Too many pings"),
    ):
        transport.held_through_pings(pinging, ping_ms=1_000, pings=6)  # a client sends none more often


def test_without_trading_a_position_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(ServerSettings(tmp_path / "exchange.db", pace=Pace(heartbeat_ms=50), durable=False)) as server:
        with target(server.address, account="acme") as trading:
            name = trading.market.terms().id
            trading.market.buy()
        with target(server.address, account="acme", instrument=name) as given:
            monkeypatch.setattr(given.market, "_traded", no_trading)  # as without the service
            found = results(given, "delivery", "leaves", "settling", "evidence", "trading", "positions")
        skipped = {found[it].check.area for it, (status, _) in not_passed(found).items() if status is Status.SKIPPED}
        assert not [it for it, (status, _) in not_passed(found).items() if status is Status.FAIL]
        assert skipped == {"trading", "positions", "settling", "evidence"}
        assert found["statement_is_recomputed"].status is Status.PASS


def no_trading(_: object) -> Any:
    raise Skipped("needs TradingService")


# -- reports -----------------------------------------------------------------------------------------------------------


def test_checks_are_chosen_by_name_or_area() -> None:
    assert [check.name for check in chosen(["gap_is_refused"])] == ["gap_is_refused"]
    assert {check.area for check in chosen(["leaves", "access"])} == {"leaves", "access"}
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert set(chosen((), quick=True)) == {check for check in CHECKS if not check.slow}
    with pytest.raises(UnknownName, match="check was 'gap', expected one of"):
        chosen(["gap"])


def test_results_are_told_to_programs(tmp_path: Path) -> None:
    checks = {check.name: check for check in CHECKS}
    told = [
        Result(checks["gap_is_refused"], Status.PASS, "it was", 1_234),
        Result(checks["key_is_kept"], Status.FAIL, "it was taken: \x00 <b>", 5),
        Result(checks["account_sees_its_own"], Status.SKIPPED, "needs an identity", 0),
    ]
    assert counts(told) == {"pass": 1, "fail": 1, "skipped": 1}
    report = document("10.0.0.1:7", told, complete=True)
    assert report["results"][1]["seen"] == told[1].seen
    write_junit(tmp_path / "report.xml", "10.0.0.1:7", told)
    root = ET.parse(tmp_path / "report.xml").getroot()  # noqa: S314 - ours
    assert {name: root.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
    }
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == "it was taken: ? <b>"
    cases = {case.get("name"): case.get("time") for case in root.iter("testcase")}
    assert cases["gap_is_refused"] == "1.234"


def test_an_identity_that_names_nobody_is_refused(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "certs")
    given = Options("127.0.0.1:1", identities=(trust.of("cluster/one").identity,))
    with pytest.raises(InvalidValue, match="authority of TLS was None"):
        Target(given)
    with pytest.raises(InvalidValue):
        Target(replace(given, identities=(trust.authority,), authority=trust.authority))


def test_a_check_that_breaks_is_a_failure_and_ends_no_others() -> None:
    def broken(_: Target) -> str:
        raise ValueError("what")

    checks = [Check("a", "x", "r", "e", broken), Check("b", "x", "r", "e", lambda _: "well")]
    with target("127.0.0.1:1") as unreached:
        found = list(run(unreached, checks))
    assert [it.status for it in found] == [Status.FAIL, Status.PASS]
    assert found[0].seen == "the check could not read what came: ValueError: what"
