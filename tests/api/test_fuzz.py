"""The API against messages that nobody would send: typed errors, and a journal that only valid ones write to."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given

from scheduler.api.v1 import api_pb2 as wire
from scheduler.exchange.channels import CHANNEL_OPTIONS
from tests.api.world import DAY_MS, START_MS, SYMBOL, World, market
from tests.fuzzing import Words, anything, ask, chances, fuzz, methods_of

METHODS = methods_of(*wire.DESCRIPTOR.services_by_name.values())
CHANGING = ("Submit", "Cancel", "Drain", "Mark", "DeclareForceMajeure", "Recall", "Release", "AnswerDispute")
REAL: dict[str, list[Message]] = {
    "GetStatus": [wire.GetStatusRequest()],
    "ListPositions": [wire.ListPositionsRequest(account="acme", ended=True)],
    "ListJobs": [wire.ListJobsRequest(account="acme", statuses=[wire.JOB_STATUS_RUNNING], page_size=2, page_token="2")],  # noqa: S106 - of a page
    "GetJob": [wire.GetJobRequest(job="gang-1")],
    "Submit": [
        wire.SubmitRequest(
            request_id="r1",
            spec=wire.JobSpec(account="acme", name="train", command=["train"], workers=1, gpus_per_worker=8),
        )
    ],
    "Cancel": [wire.CancelRequest(job="gang-1")],
    "Why": [wire.WhyRequest(job="gang-2")],
    "Logs": [wire.LogsRequest(job="gang-1", worker=0, attempt=1, follow=False, tail_lines=10)],
    "GetFleet": [wire.GetFleetRequest(node="node-1")],
    "GetCoverage": [wire.GetCoverageRequest(position="p-acme", from_ms=START_MS, to_ms=START_MS + DAY_MS)],
    "GetDeliverable": [wire.GetDeliverableRequest(instrument=f"{SYMBOL}@1", bounds_only=True)],
    "GetBacking": [wire.GetBackingRequest(subject=f"{SYMBOL}@1")],
    "Drain": [wire.DrainRequest(node="node-3", by_ms=START_MS + DAY_MS)],
    "Mark": [wire.MarkRequest(node="node-2", gpus=[0], cause="ecc")],
    "DeclareForceMajeure": [
        wire.DeclareForceMajeureRequest(
            nodes=["node-2"], from_ms=START_MS, until_ms=START_MS + DAY_MS, evidence="ab" * 32
        )
    ],
    "Recall": [wire.RecallRequest(position="p-acme", lots=1, from_ms=START_MS, until_ms=START_MS + DAY_MS)],
    "Release": [wire.ReleaseRequest(position="p-acme", lots=1, from_ms=START_MS, until_ms=START_MS + DAY_MS)],
    "ListDisputes": [wire.ListDisputesRequest(answered=True)],
    "AnswerDispute": [wire.AnswerDisputeRequest(dispute="dispute-1", accept=True, reason="it was so")],
    "GetStatement": [wire.GetStatementRequest(position="p-acme")],
    "WatchEvents": [wire.WatchEventsRequest(after_seq=0, stop_at_head=True, kinds=["gang_started"])],
}
WORDS = Words(
    texts=("acme", "borealis", "gang-1", "gang-2", "node-0", "node-3", "p-acme", f"{SYMBOL}@1", "local", "2"),
    integers=(START_MS, START_MS + DAY_MS),
)


@dataclass
class Target:
    """A scheduler with some gangs, and a channel to it."""

    world: World
    channel: grpc.Channel


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    world = market(tmp_path_factory.mktemp("fuzzed"))
    world.submit("acme")
    world.submit("borealis", gpus=64)
    with world.served() as server, grpc.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        yield Target(world, channel)
    world.close()


def test_every_method_has_a_real_message() -> None:
    assert set(REAL) == {method.name for method in METHODS}


@fuzz
@given(chance=chances)
def test_a_call_is_answered_or_refused_by_name_and_what_is_refused_changes_nothing(
    target: Target, chance: random.Random
) -> None:
    method = chance.choice(METHODS)
    before = target.world.journal.head
    failed = ask(target.channel, method, [anything(chance, method, REAL[method.name], WORDS)]).reason
    if failed or method.name not in CHANGING:
        assert target.world.journal.head == before


def test_what_was_taken_can_be_played_and_the_server_still_answers(target: Target) -> None:
    target.world.rounds()
    (status,) = [each for each in METHODS if each.name == "GetStatus"]
    assert ask(target.channel, status, [b""]).reason == ""
