"""Errors on the wire: the same class comes back with its fields, and whatever is sent, the answer is a typed error."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.errors import (
    Conflict,
    Damaged,
    Equivocation,
    Fenced,
    InvalidInstrument,
    InvalidValue,
    Oversold,
    Refused,
    SequenceGap,
    TenorError,
    Unauthorised,
    Unavailable,
    UnknownName,
)
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.errors import (
    CursorCompacted,
    Exhausted,
    Overdue,
    VersionNotServed,
    error_of,
    is_retried,
    refuse,
    status_of,
)
from scheduler.exchange.publisher import Publisher, PublishState
from scheduler.exchange.v1 import delivery_pb2, delivery_pb2_grpc, positions_pb2, positions_pb2_grpc
from scheduler.ledger.journal import Journal
from tests.exchange.world import (
    END_MS,
    SIGNER,
    START_MS,
    STREAM,
    Embedded,
    delivered,
    embedded,
    trade_all,
    write_log,
)

ERRORS: list[tuple[TenorError, grpc.StatusCode]] = [
    (InvalidValue("floor_ppm", "H100.BASE", 1_200_000, "0..1000000"), grpc.StatusCode.INVALID_ARGUMENT),
    (InvalidInstrument("H100.BASE", ["grade was X, expected Y", "floor was 2"]), grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownName("account", "acmee", ["acme"]), grpc.StatusCode.NOT_FOUND),
    (CursorCompacted("exchange", 7, 3), grpc.StatusCode.OUT_OF_RANGE),
    (VersionNotServed(2, 3, 1, 1), grpc.StatusCode.FAILED_PRECONDITION),
    (SequenceGap("exchange", 3, 7), grpc.StatusCode.FAILED_PRECONDITION),
    (Fenced("over"), grpc.StatusCode.ABORTED),
    (Equivocation("twice"), grpc.StatusCode.FAILED_PRECONDITION),
    (Oversold("more"), grpc.StatusCode.FAILED_PRECONDITION),
    (Conflict("taken"), grpc.StatusCode.FAILED_PRECONDITION),
    (Unauthorised("not you"), grpc.StatusCode.PERMISSION_DENIED),
    (Refused("no"), grpc.StatusCode.INVALID_ARGUMENT),
    (Exhausted("later"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable("away"), grpc.StatusCode.UNAVAILABLE),
    (Damaged("broken"), grpc.StatusCode.DATA_LOSS),
    (TenorError("other"), grpc.StatusCode.INTERNAL),
]


@pytest.fixture(scope="module")
def failing() -> Iterator[grpc.Channel]:
    """A channel to a server that fails with the error whose number it is sent, or with the code whose name."""

    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        refuse(context, ERRORS[int(request)][0])

    def abort(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode[request.decode()], "so it is")

    server = grpc.server(futures.ThreadPoolExecutor(1))
    methods: dict[str, Any] = {
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Abort": grpc.unary_unary_rpc_method_handler(abort),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Errors", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(0).wait()


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=[error.code for error, _ in ERRORS])
def test_an_error_comes_back_as_it_was(failing: grpc.Channel, number: int) -> None:
    error, code = ERRORS[number]
    call_it: Any = failing.unary_unary("/tests.Errors/Fail")
    with pytest.raises(grpc.RpcError) as failed:
        call_it(b"%d" % number, timeout=10)
    again, call = error_of(failed.value), failed.value
    assert call.code() is code
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert is_retried(again) == (code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


BARE = {
    grpc.StatusCode.INVALID_ARGUMENT: Refused,
    grpc.StatusCode.NOT_FOUND: Refused,
    grpc.StatusCode.ALREADY_EXISTS: Refused,
    grpc.StatusCode.OUT_OF_RANGE: Refused,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.ABORTED: Refused,
    grpc.StatusCode.UNIMPLEMENTED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorised,
    grpc.StatusCode.PERMISSION_DENIED: Unauthorised,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Overdue,
    grpc.StatusCode.CANCELLED: Overdue,
    grpc.StatusCode.INTERNAL: TenorError,
    grpc.StatusCode.UNKNOWN: TenorError,
    grpc.StatusCode.DATA_LOSS: TenorError,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_code_without_details_is_for_good_or_not(failing: grpc.Channel, code: grpc.StatusCode) -> None:
    call_it: Any = failing.unary_unary("/tests.Errors/Abort")
    with pytest.raises(grpc.RpcError) as failed:
        call_it(code.name.encode(), timeout=10)
    error = error_of(failed.value)
    assert type(error) is BARE[code]
    assert code.name in str(error)
    assert "so it is" in str(error)
    assert isinstance(error, Refused) == ("for good, without details of tenor.dev" in str(error))
    assert is_retried(error) == (BARE[code] is Unavailable)


def test_a_server_that_knows_none_of_it_is_not_asked_for_ever() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with Journal.open(":memory:") as journal:
        write_log(journal, delivered())
        with Publisher(address, journal, STREAM, SIGNER, 1) as publisher:
            assert not publisher.wait_acknowledged(1, 10)
            assert publisher.status().state is PublishState.REFUSED
            assert "without details of tenor.dev: UNIMPLEMENTED" in publisher.status().detail
    server.stop(0).wait()


def test_what_came_too_late_is_not_tried_again_by_itself() -> None:
    gate = threading.Event()
    asked: list[int] = []

    def wait(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(1)
        gate.wait(10)
        return request

    server = grpc.server(futures.ThreadPoolExecutor(1))
    methods: dict[str, Any] = {"ListInstruments": grpc.unary_unary_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tenor.exchange.v1.PositionService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with ExchangeClient(f"127.0.0.1:{port}", timeout_s=0.2) as client:
        with pytest.raises(Overdue, match="the exchange did not answer: DEADLINE_EXCEEDED") as late:
            client.instruments()
        assert not is_retried(late.value)
    gate.set()
    server.stop(0).wait()
    assert asked == [1]


def test_a_refused_listing_names_each_fault_as_a_violation() -> None:
    status = status_of(InvalidInstrument("H100.BASE", ["grade was X, expected Y", "floor_ppm was 2, expected 1"]))
    violations = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(violations)
    assert [it.field for it in violations.field_violations] == ["grade", "floor_ppm"]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(tmp_path_factory.mktemp("fuzz") / "exchange.db") as running:
        trade_all(running.client)
        yield running


@pytest.fixture(scope="module")
def channel(exchange: Embedded) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(exchange.server.address) as opened:
        yield opened


words = st.sampled_from(["", "pos-1", "H100.BASE@1", "acme", "exchange", "cluster-1", "\0", "é" * 200]) | st.text()
small = st.sampled_from([0, 1, 2, 8, 2**31, 2**32 - 1])
large = st.sampled_from([0, 1, 2, 50, 2**31, 2**62, 2**63 - 1])
unsigned = large | st.sampled_from([2**63, 2**64 - 1])
signed = large | st.sampled_from([-1, -(2**63), START_MS, END_MS])
noise = st.sampled_from([b"", b"\xff", SIGNER.verifier.encode().encode()]) | st.binary(max_size=60)
typed = {code.name for code in (it[1] for it in ERRORS)} - {"INTERNAL", "DATA_LOSS"}


def assert_answered(call: Callable[[], object]) -> None:
    """It is answered, or refused with an error of ours."""
    refused: Any = None
    try:
        call()
    except grpc.RpcError as failed:
        refused = failed
    if refused is not None:
        assert refused.code().name in typed, refused
        assert type(error_of(refused)) is not TenorError


fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(one=words, two=words, three=words, lots=small, at_ms=signed)
def test_whatever_is_traded_is_answered(
    channel: grpc.Channel, one: str, two: str, three: str, lots: int, at_ms: int
) -> None:
    stub = positions_pb2_grpc.TradingServiceStub(channel)
    trade = positions_pb2.TradeRequest(request_id=one, account=two, instrument=three, lots=lots, effective_ms=at_ms)
    transfer = positions_pb2.TransferRequest(request_id=one, source=two, account=three, lots=lots, effective_ms=at_ms)
    correct = positions_pb2.CorrectRequest(request_id=one, position=two, lots=lots, effective_ms=at_ms)
    assert_answered(lambda: stub.Trade(trade, timeout=10))
    assert_answered(lambda: stub.Transfer(transfer, timeout=10))
    assert_answered(lambda: stub.Correct(correct, timeout=10))


@fuzzed
@given(stream=words, epoch=unsigned, seq=unsigned, at_ms=signed, index=unsigned, size=unsigned)
def test_whatever_is_asked_is_answered(
    channel: grpc.Channel, stream: str, epoch: int, seq: int, at_ms: int, index: int, size: int
) -> None:
    positions = positions_pb2_grpc.PositionServiceStub(channel)
    delivery = delivery_pb2_grpc.DeliveryServiceStub(channel)
    evidence = delivery_pb2_grpc.EvidenceServiceStub(channel)
    cursor = positions_pb2.Cursor(stream=stream, epoch=epoch, seq=seq)
    proof = delivery_pb2.GetProofRequest(stream=stream, index=index, size=size)
    statement = delivery_pb2.GetStatementRequest(position=stream, until_ms=at_ms)
    assert_answered(lambda: next(iter(positions.Watch(positions_pb2.WatchRequest(cursor=cursor), timeout=10))))
    assert_answered(lambda: positions.GetSnapshot(positions_pb2.GetSnapshotRequest(stream=stream), timeout=10))
    assert_answered(lambda: delivery.GetStatement(statement, timeout=10))
    assert_answered(lambda: evidence.GetInclusionProof(proof, timeout=10))
    assert_answered(lambda: evidence.GetConsistencyProof(proof, timeout=10))
    assert_answered(lambda: evidence.GetCheckpoint(delivery_pb2.GetCheckpointRequest(stream=stream), timeout=10))


@fuzzed
@given(
    stream=words,
    epoch=unsigned,
    vkey=st.just(SIGNER.verifier.encode()) | words,
    first=unsigned,
    leaves=st.lists(noise, max_size=3),
    note=noise,
    proof=st.lists(noise, max_size=2),
)
def test_whatever_is_published_is_answered(
    channel: grpc.Channel,
    stream: str,
    epoch: int,
    vkey: str,
    first: int,
    leaves: list[bytes],
    note: bytes,
    proof: list[bytes],
) -> None:
    stub = delivery_pb2_grpc.DeliveryServiceStub(channel)
    opening = delivery_pb2.PublishRequest(open=delivery_pb2.PublishOpen(stream=stream, epoch=epoch, vkey=vkey))
    batch = delivery_pb2.Batch(first_index=first, leaves=leaves, checkpoint=note, consistency=proof)
    requests = [opening, delivery_pb2.PublishRequest(batch=batch)]
    assert_answered(lambda: list(stub.Publish(iter(requests), timeout=10)))


@given(text=st.text(min_size=1, max_size=40), times=st.sampled_from([1, 30, 3_000]), faults=st.integers(1, 300))
def test_every_error_fits_into_the_trailers_of_a_call(text: str, times: int, faults: int) -> None:
    said = text * times
    for error in (
        InvalidValue(said, said, said, said),
        UnknownName(said, said, [said] * 3),
        InvalidInstrument(said, [f"field was {said}"] * faults),
        Exhausted(said, subject=said[:200], retry_ms=1),
        Conflict(said),
    ):
        status = status_of(error)
        header = quote(status.message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")
        assert len(header) + len(b64encode(status.SerializeToString())) < 8_192 - 300
        assert status.details
