"""The feed against messages that nobody would send: typed errors, and a log that none of them changes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given

from scheduler.exchange.channels import CHANNEL_OPTIONS
from scheduler.exchange.v1 import delivery_pb2, feed_pb2, positions_pb2
from scheduler.ledger.keys import SignerKey
from tests.api.feed.world import EPOCH, FedLog
from tests.api.world import DAY_MS, START_MS, SYMBOL, World
from tests.exchange.world import STREAM
from tests.fuzzing import Words, anything, ask, chances, fuzz, methods_of

METHODS = methods_of(
    *feed_pb2.DESCRIPTOR.services_by_name.values(), delivery_pb2.DESCRIPTOR.services_by_name["EvidenceService"]
)
WITNESS = SignerKey("auditor.test/one", bytes(range(32, 64)))
LEAVES = 300
AFTER = positions_pb2.Cursor(stream=STREAM, epoch=EPOCH, seq=LEAVES - 5)
PROOF = delivery_pb2.GetProofRequest(stream=STREAM, index=3, size=LEAVES)
REAL: dict[str, list[Message]] = {
    "Subscribe": [
        feed_pb2.SubscribeRequest(open=feed_pb2.SubscribeOpen(after=AFTER, credits=10)),
        feed_pb2.SubscribeRequest(grant=feed_pb2.SubscribeGrant(credits=20)),
    ],
    "Replay": [feed_pb2.ReplayRequest(after=AFTER, to_seq=LEAVES)],
    "GetSnapshot": [feed_pb2.DeliveryFeedGetSnapshotRequest(), feed_pb2.DeliveryFeedGetSnapshotRequest(head_only=True)],
    "GetStatement": [delivery_pb2.GetStatementRequest(position="p-acme")],
    "GetDeliverable": [feed_pb2.DeliveryFeedGetDeliverableRequest(instrument=f"{SYMBOL}@1", bounds_only=True)],
    "GetBacking": [feed_pb2.DeliveryFeedGetBackingRequest(subject=f"{SYMBOL}@1")],
    "GetCheckpoint": [delivery_pb2.GetCheckpointRequest(stream=STREAM)],
    "GetInclusionProof": [PROOF],
    "GetConsistencyProof": [PROOF],
    "AddCosignature": [
        delivery_pb2.AddCosignatureRequest(stream=STREAM, checkpoint=b"note", vkey=WITNESS.witness.encode())
    ],
}
WORDS = Words(
    texts=(STREAM, "local", "p-acme", f"{SYMBOL}@1", WITNESS.witness.encode()),
    integers=(START_MS, START_MS + DAY_MS, LEAVES, EPOCH),
)


@dataclass
class Target:
    """A log of LEAVES leaves behind its feed, and a channel to it."""

    log: FedLog
    channel: grpc.Channel

    def state(self) -> tuple[object, ...]:
        """Of the log, all that anybody is told."""
        journal = self.log.journal
        return journal.head, journal.root(STREAM), journal.checkpoint(STREAM), journal.cosigned(STREAM)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, sold: World) -> Iterator[Target]:
    log = FedLog(tmp_path_factory.mktemp("fuzzed"), sold.scheduler)
    log.grow(LEAVES)
    with log.served() as server, grpc.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        yield Target(log, channel)
    log.journal.close()


def test_every_method_has_a_real_message() -> None:
    assert set(REAL) == {method.name for method in METHODS}


@fuzz
@given(chance=chances)
def test_a_call_is_answered_or_refused_by_name_and_changes_nothing(target: Target, chance: random.Random) -> None:
    method = chance.choice(METHODS)
    real, before = REAL[method.name], target.state()
    payloads = [anything(chance, method, real, WORDS) for _ in range(chance.randint(1, 2))]
    if method.client_streaming and chance.random() < 0.5:
        payloads.insert(0, real[0].SerializeToString())
    assert isinstance(ask(target.channel, method, payloads, ends=False).reason, str)
    assert target.state() == before
