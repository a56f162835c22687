"""Recalls, releases and answers to disputes through the API, from the call to the leaves that they leave in the log."""

from __future__ import annotations

import json

import pytest

from scheduler.api.client import Client
from scheduler.cli.__main__ import main
from scheduler.core.causes import Cause
from scheduler.core.errors import Conflict
from scheduler.core.instruments import Recallable, ReleaseUnused
from scheduler.core.metering.disputes import Answer, Dispute, DisputeState
from scheduler.core.metering.records import MeterRecord
from scheduler.exchange.leaves import Leaf, RecordLeaf, SettlingLeaf, decode
from scheduler.exchange.outages import WithheldLeaf
from tests.api.world import HOUR_MS, MINUTE_MS, START_MS, World

STEP_MS = 5 * MINUTE_MS
"""An interval of the world's instruments."""


def leaves(world: World) -> list[Leaf]:
    return [decode(leaf) for _, leaf in world.journal.leaves("local", 0, world.journal.log_size("local"))]


def records(world: World, position: str) -> list[MeterRecord]:
    found = [leaf.record for leaf in leaves(world) if isinstance(leaf, RecordLeaf)]
    return [record for record in found if record.position == position]


def test_a_recall_is_in_the_log_before_it_counts_and_its_cells_come_back(world: World, client: Client) -> None:
    firmness = Recallable(notice_ms=STEP_MS, max_events=1, max_quantity_gpu_ms=8 * HOUR_MS)
    world.instrument("RECALL", firmness=firmness)
    world.trade("p-cobalt", "cobalt", 1, "RECALL@1")
    world.rounds()
    from_ms, until_ms = START_MS + 2 * STEP_MS, START_MS + 3 * STEP_MS
    assert client.recall("p-cobalt", 1, from_ms, until_ms).entitled_gpus == 8
    (said,) = [leaf for leaf in leaves(world) if isinstance(leaf, WithheldLeaf)]
    assert (said.recalled, said.said.position, said.said.lots, said.written_ms) == (True, "p-cobalt", 1, START_MS)
    assert (said.said.from_ms, said.said.until_ms) == (from_ms, until_ms)
    world.pass_ms(2 * STEP_MS)
    (held,) = [each for each in client.positions() if each.id == "p-cobalt"]
    assert held.covered_gpus == 0
    world.pass_ms(2 * STEP_MS)
    (held,) = [each for each in client.positions() if each.id == "p-cobalt"]
    assert held.covered_gpus == 8
    told = records(world, "p-cobalt")
    assert [record.recalled_gpu_ms for record in told] == [0, 0, 8 * STEP_MS, 0]
    assert dict(told[2].losses) == {Cause.RECALL: 8 * STEP_MS}
    with pytest.raises(Conflict, match="it was recalled 1 times, as often as"):
        client.recall("p-cobalt", 1, START_MS + 8 * STEP_MS, START_MS + 9 * STEP_MS)


def test_what_is_released_serves_others_and_is_owed_to_nobody(
    world: World, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    world.instrument("RELEASE", unused_rule=ReleaseUnused())
    world.trade("p-cobalt", "cobalt", 1, "RELEASE@1")
    world.rounds()
    asked = ("--lots", "1", "--at", "2027-01-01T12:05", "--until", "2027-01-01T12:10")
    assert main(["release", "p-cobalt", *asked, "--address", client.address]) == 0
    assert "1 lot of p-cobalt released from 2027-01-01 12:05" in capsys.readouterr().err
    world.pass_ms(3 * STEP_MS)
    (said,) = [leaf for leaf in leaves(world) if isinstance(leaf, WithheldLeaf)]
    assert (said.recalled, said.said.from_ms) == (False, START_MS + STEP_MS)
    told = records(world, "p-cobalt")
    assert [record.released_gpu_ms for record in told] == [0, 8 * STEP_MS, 0]
    assert [record.losses for record in told] == [(), (), ()]


def test_a_dispute_is_answered_by_the_command_and_the_record_is_corrected(
    world: World, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    world.pass_ms(2 * STEP_MS)
    index, first = next(
        (index, leaf.record)
        for index, leaf in enumerate(leaves(world))
        if isinstance(leaf, RecordLeaf) and leaf.record.position == "p-acme"
    )
    dispute = Dispute(
        id="dispute-1",
        position="p-acme",
        start_ms=first.start_ms,
        end_ms=first.end_ms,
        version=first.version,
        leaf=index,
        losses=((Cause.ECC, 80_000),),
        opened_ms=world.now_ms,
        answer_by_ms=world.now_ms + HOUR_MS,
    )
    world.scheduler.learn_dispute(1, dispute)
    at = ("--address", client.address)
    asked = ("dispute", "answer", "dispute-1", "--accept", "--reason", "so it was", "--output", "json")
    assert main([*asked, *at]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["corrected"]) == ("accepted", first.version + 1)
    (answer,) = [
        leaf.told for leaf in leaves(world) if isinstance(leaf, SettlingLeaf) and isinstance(leaf.told, Answer)
    ]
    assert (answer.dispute, answer.state, answer.reason) == ("dispute-1", DisputeState.ACCEPTED, "so it was")
    corrected = [record for record in records(world, "p-acme") if record.start_ms == first.start_ms][-1]
    assert (corrected.version, dict(corrected.losses)) == (first.version + 1, {Cause.ECC: 80_000})
    assert [each.state for each in client.disputes(answered=True)] == ["accepted"]
    no = ("--reject", "--reason", "it was not so")
    assert main(["dispute", "answer", "dispute-1", *no, *at]) == 2
    assert "dispute dispute-1 is accepted already: so it was" in capsys.readouterr().err
    assert main(["dispute", "answer", "dispute-9", *no, *at]) == 2
    assert "dispute was 'dispute-9'" in capsys.readouterr().err
