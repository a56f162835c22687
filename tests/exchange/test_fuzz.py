"""The exchange against messages that nobody would send: typed errors, and a state that only valid ones change."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given

from scheduler.core.causes import Cause
from scheduler.core.positions import Cursor
from scheduler.exchange import convert
from scheduler.exchange.admission import Limits
from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.client import ExchangeClient
from scheduler.exchange.publisher import Publisher
from scheduler.exchange.reference.faults.faults import Fault, Faults
from scheduler.exchange.tls import opened
from scheduler.exchange.v1 import delivery_pb2, disputes_pb2, faults_pb2, positions_pb2, probes_pb2
from scheduler.ledger.journal import Journal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, cosign, sign_checkpoint
from tests.exchange.test_trust import venue
from tests.exchange.trust import Trust
from tests.exchange.world import (
    END_MS,
    SIGNER,
    START_MS,
    STREAM,
    Embedded,
    delivered,
    embedded,
    terms,
    trade_all,
    write_log,
)
from tests.fuzzing import TRIES, Answer, Words, anything, ask, chances, fuzz, methods_of

METHODS = methods_of(
    *positions_pb2.DESCRIPTOR.services_by_name.values(),
    *delivery_pb2.DESCRIPTOR.services_by_name.values(),
    *disputes_pb2.DESCRIPTOR.services_by_name.values(),
    *probes_pb2.DESCRIPTOR.services_by_name.values(),
)
READING = ("Get", "Watch", "List")
"""How the names of methods begin that change nothing, but for ListInstrument."""
WITNESS = SignerKey("witness.test/klm", bytes(range(1, 33)))
LEAVES = delivered()
FIRST, SECOND = 20, len(LEAVES)
"""Where the two batches of a log end."""
WAIT_S = 20.0
COUNTED = frozenset({"tree_leaf", "tree_tile", "rejection"})
"""Tables that grow with the logs, whose content the edges in `tree_log` fix."""
INSTANTS = (0, 1, START_MS - 60_000, START_MS, END_MS, END_MS + 1, 4_102_444_800_000, 2**53)
"""Where the exchange's clock jumps to."""


FAULTS = ("drop:watch:0.1", "compact:watch:1x", "delay:acks:0.5:200ms", "lie:statement", "cut:snapshot:3x")
FAULT_WORDS = Words(
    texts=(*FAULTS, "drop", "drop:", "lie:watch", "delay:acks:2", "delay:acks:1:99999s", "cut:trade:0x")
)


@dataclass
class Log:
    """A real log in two batches, and every note that could be mistaken for one of its own."""

    batches: tuple[delivery_pb2.Batch, ...]
    notes: tuple[bytes, ...]

    @classmethod
    def made(cls) -> Log:
        """The log of the world."""
        with Journal.open(":memory:") as journal:
            journal.commit((), leaves=LEAVES, stream=STREAM)
            notes = [
                sign_checkpoint(Checkpoint(SIGNER.name, size, journal.root(STREAM, size)), signer)
                for size in (FIRST, SECOND)
                for signer in (SIGNER, SignerKey(SIGNER.name, bytes(32)), WITNESS)
            ]
            other = sign_checkpoint(Checkpoint(SIGNER.name, SECOND, bytes(32)), SIGNER)
            proof = journal.consistency_proof(STREAM, FIRST, SECOND)
        batches = (
            delivery_pb2.Batch(first_index=0, leaves=LEAVES[:FIRST], checkpoint=notes[0]),
            delivery_pb2.Batch(first_index=0, leaves=LEAVES[:FIRST], checkpoint=notes[3], consistency=proof),
            delivery_pb2.Batch(first_index=FIRST, leaves=LEAVES[FIRST:], checkpoint=notes[3]),
        )
        return cls(batches, (*notes, other))


LOG = Log.made()
WORDS = Words(
    texts=(STREAM, "pos-1", "pos-3", "account-0", terms().id, "exchange", SIGNER.verifier.encode(), "r1"),
    bodies=(*LOG.notes, LEAVES[0], LEAVES[-1], bytes(32)),
    integers=(START_MS, END_MS, FIRST, SECOND),
)


@dataclass
class Target:
    """An exchange that has sold and taken delivery, with a real message of every kind."""

    exchange: Embedded
    real: dict[str, list[Message]]
    channel: grpc.Channel
    numbers: Iterator[int] = field(default_factory=count)

    def digests(self) -> dict[str, str]:
        """Of each table of the exchange's database."""
        database = self.exchange.server.intake._database
        tables = database.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        what = {table: "count(*)" if table in COUNTED else "*" for (table,) in tables}
        rows = {table: database.all(f"SELECT {every} FROM {table}") for table, every in what.items()}  # noqa: S608
        return {table: hashlib.sha256(repr(found).encode()).hexdigest() for table, found in rows.items()}


def reads(name: str) -> bool:
    """Whether the method of this name changes nothing."""
    return name.startswith(READING) and name != "ListInstrument"


def real_messages(exchange: Embedded) -> dict[str, list[Message]]:
    """By method, what its callers send."""
    listing = convert.instrument_to_wire(terms())
    held = exchange.client.snapshot().cursor
    first = convert.cursor_to_wire(Cursor(stream=held.stream, epoch=held.epoch, seq=0))
    proof = delivery_pb2.GetProofRequest(stream=STREAM, index=3, size=FIRST)
    checkpoint = exchange.client.checkpoint(STREAM)[1]
    witnessed = cosign(checkpoint, WITNESS, START_MS // 1_000)
    return {
        "ListInstruments": [positions_pb2.ListInstrumentsRequest(prefix="H")],
        "GetSnapshot": [positions_pb2.GetSnapshotRequest(stream=held.stream)],
        "Watch": [
            positions_pb2.WatchRequest(cursor=convert.cursor_to_wire(held)),
            positions_pb2.WatchRequest(cursor=first),
        ],
        "ListInstrument": [positions_pb2.ListInstrumentRequest(instrument=listing)],
        "Trade": [positions_pb2.TradeRequest(request_id="r1", account="a", instrument=terms().id, lots=1)],
        "Transfer": [positions_pb2.TransferRequest(request_id="r2", source="pos-1", account="b", lots=1)],
        "Correct": [positions_pb2.CorrectRequest(request_id="r3", position="pos-2", lots=1)],
        "Consent": [positions_pb2.ConsentRequest(request_id="r5", position="pos-1", grades=["A100"])],
        "GetStatement": [delivery_pb2.GetStatementRequest(position="pos-1")],
        "GetCheckpoint": [delivery_pb2.GetCheckpointRequest(stream=STREAM)],
        "GetInclusionProof": [proof],
        "GetConsistencyProof": [proof],
        "AddCosignature": [
            delivery_pb2.AddCosignatureRequest(stream=STREAM, checkpoint=witnessed, vkey=WITNESS.witness.encode())
        ],
        "OpenDispute": [
            disputes_pb2.OpenDisputeRequest(
                request_id="r4",
                position="pos-1",
                start_ms=START_MS,
                losses=[delivery_pb2.Loss(cause=Cause.ECC, gpu_ms=1_000)],
                evidence=bytes(32),
                reason="it was slow",
            )
        ],
        "ListDisputes": [
            disputes_pb2.ListDisputesRequest(),
            disputes_pb2.ListDisputesRequest(after=1, account="account-0", position="pos-1", stream=STREAM),
        ],
        "NextProbe": [probes_pb2.NextProbeRequest(stream=STREAM)],
        "RevealNonce": [probes_pb2.RevealNonceRequest(stream=STREAM, probe="probe-1")],
        "AnswerProbe": [probes_pb2.AnswerProbeRequest(stream=STREAM, probe="probe-1", root=bytes(32))],
        "OpenRows": [
            probes_pb2.OpenRowsRequest(stream=STREAM, probe="probe-1", rows=[delivery_pb2.ProbedRow(values=bytes(8))])
        ],
        "DeclineProbe": [
            probes_pb2.DeclineProbeRequest(stream=STREAM, probe="probe-1", why=probes_pb2.PROBE_DECLINE_BUSY)
        ],
        "ListProbes": [probes_pb2.ListProbesRequest(stream=STREAM)],
        "Publish": [delivery_pb2.PublishRequest(batch=batch) for batch in LOG.batches],
    }


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    db = tmp_path_factory.mktemp("fuzzed") / "exchange.db"
    with embedded(db) as exchange, Journal.open(":memory:") as journal:
        trade_all(exchange.client)
        write_log(journal, LEAVES)
        with Publisher(exchange.server.address, journal, STREAM, SIGNER, 1, chance=random.Random(1)) as publisher:
            assert publisher.wait_acknowledged(len(LEAVES), WAIT_S)
        with grpc.insecure_channel(exchange.server.address, CHANNEL_OPTIONS) as channel:
            yield Target(exchange, real_messages(exchange), channel)


def test_every_method_has_a_real_message(target: Target) -> None:
    assert set(target.real) == {method.name for method in METHODS}


@fuzz
@given(chance=chances)
def test_a_call_is_answered_or_refused_by_name_and_what_is_refused_changes_nothing(
    target: Target, chance: random.Random
) -> None:
    method = chance.choice([each for each in METHODS if not each.client_streaming])
    target.exchange.clock.now_ms = chance.choice(INSTANTS)
    sent, before = anything(chance, method, target.real[method.name], WORDS), target.digests()
    if ask(target.channel, method, [sent]).reason or reads(method.name):
        assert target.digests() == before


@fuzz
@given(chance=chances)
def test_what_publishers_send_is_taken_or_refused_by_name_and_only_valid_batches_change_the_log(
    target: Target, chance: random.Random
) -> None:
    (method,) = [each for each in METHODS if each.client_streaming]
    target.exchange.clock.now_ms = chance.choice(INSTANTS)
    stream = f"fuzzed-{next(target.numbers)}" if chance.random() < 0.8 else STREAM
    opening = delivery_pb2.PublishOpen(stream=stream, epoch=1, vkey=SIGNER.verifier.encode())
    opening_sent = delivery_pb2.PublishRequest(open=opening).SerializeToString()
    real = target.real["Publish"]
    good = [chance.choice(real).SerializeToString() for _ in range(chance.randrange(2))]
    payloads = [
        *([opening_sent] if chance.random() < 0.9 else []),
        *good,
        *(anything(chance, method, real, WORDS) for _ in range(chance.randrange(3))),
    ]
    before = target.digests()
    answer = ask(target.channel, method, payloads)
    changed = {table for table, digest in target.digests().items() if digest != before[table]}
    if not answer.responses:
        assert changed == set()
    elif answer.reason == "EQUIVOCATION":
        assert answer.responses > 1 or changed <= {"stream", "evidence"}
    elif answer.responses == 1:
        assert changed <= {"stream"}


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, Faults, grpc.Channel]]:
    """An exchange whose faults may be set while it runs."""
    faults = Faults(seed=7)
    with (
        embedded(tmp_path_factory.mktemp("fuzzed") / "exchange.db", faults=faults) as exchange,
        grpc.insecure_channel(exchange.server.address, CHANNEL_OPTIONS) as channel,
    ):
        trade_all(exchange.client)
        yield exchange, faults, channel


@fuzz
@given(chance=chances)
def test_faults_are_set_as_they_are_written_or_refused_by_name(
    misbehaving: tuple[Embedded, Faults, grpc.Channel], chance: random.Random
) -> None:
    _, faults, channel = misbehaving
    method = chance.choice(methods_of(*faults_pb2.DESCRIPTOR.services_by_name.values()))
    real: dict[str, list[Message]] = {
        "SetFaults": [faults_pb2.SetFaultsRequest(faults=[chance.choice(FAULTS)])],
        "ClearFaults": [faults_pb2.ClearFaultsRequest(), faults_pb2.ClearFaultsRequest(faults=[FAULTS[0]])],
        "ListFaults": [faults_pb2.ListFaultsRequest()],
    }
    before = {text for text, _, _ in faults.counts()}
    reason = ask(channel, method, [anything(chance, method, real[method.name], FAULT_WORDS)]).reason
    after = {text for text, _, _ in faults.counts()}
    if reason or method.name == "ListFaults":
        assert after == before
    elif method.name == "SetFaults":
        assert {Fault.parse(text).text for text in after} == after
        assert len({(each.kind, each.place) for each in map(Fault.parse, after)}) == len(after)
    else:
        assert after <= before


def test_an_exchange_whose_faults_are_cleared_is_honest(
    misbehaving: tuple[Embedded, Faults, grpc.Channel],
) -> None:
    exchange, faults, _ = misbehaving
    faults.clear()
    assert faults.counts() == ()
    assert len(exchange.client.snapshot().positions) == 3


def test_it_still_works_after_all_that(target: Target) -> None:
    target.exchange.clock.now_ms = START_MS - 60_000
    assert target.exchange.client.checkpoint(STREAM)[0] >= len(LEAVES)
    assert len(target.exchange.client.snapshot().positions) >= 3


@pytest.mark.parametrize("peer", ["account/nobody", "cluster/other", "admin/root"])
def test_who_may_change_nothing_changes_nothing_whatever_it_sends(tmp_path: Path, peer: str) -> None:
    trust, chance = Trust(tmp_path / "certs"), random.Random(peer)
    many = Limits(calls_per_s=10**6, burst=10**6, streams=10**3)
    with venue(tmp_path / "exchange.db", trust.of("exchange/venue"), limits=many) as server:
        with ExchangeClient(server.address, tls=trust.of("exchange/venue")) as client:
            trade_all(client)
            exchange = Embedded(server, client)
            with opened(server.address, trust.of(f"cluster/{STREAM}"), CHANNEL_OPTIONS) as channel:
                (publish,) = [each for each in METHODS if each.client_streaming]
                opening = delivery_pb2.PublishOpen(stream=STREAM, epoch=1, vkey=SIGNER.verifier.encode())
                sent = [
                    delivery_pb2.PublishRequest(open=opening),
                    *(delivery_pb2.PublishRequest(batch=batch) for batch in LOG.batches),
                ]
                assert ask(channel, publish, [each.SerializeToString() for each in sent]) == Answer(len(sent), None)
            real = real_messages(exchange)
        with opened(server.address, trust.of(peer), CHANNEL_OPTIONS) as channel:
            target = Target(exchange, real, channel)
            before = target.digests()
            for _ in range(TRIES):
                method = chance.choice(METHODS)
                reason = ask(channel, method, [anything(chance, method, real[method.name], WORDS)]).reason
                assert reason or reads(method.name)
            assert target.digests() == before
