"""Devices across logs, as the exchange takes them in: one device backs one log at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.core.devices import DevicePledge, DeviceWithdrawal, device_hash
from scheduler.core.merkle import leaf_hash, root
from scheduler.exchange.leaves import encode_pledge, encode_withdrawal
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, sign_checkpoint
from tests.exchange.world import Embedded, embedded

DEVICE = device_hash("GPU-1")


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Embedded]:
    with embedded(tmp_path / "exchange.db") as running:
        yield running


def rejected(exchange: Embedded, stream: str, *leaves: bytes) -> list[str]:
    """Sends the whole log of a stream; what of the leaves that are new was rejected, and why."""
    key = SignerKey(f"tenor.test/{stream}", bytes(32))
    session, _ = exchange.server.intake.open(stream, 1, key.verifier.encode())
    note = sign_checkpoint(Checkpoint(key.name, len(leaves), root([leaf_hash(leaf) for leaf in leaves])), key)
    receipt = exchange.server.intake.take(session, 0, leaves, note, ())
    return [f"{index} {why.reason}: {why.detail}" for index, why in receipt.rejections]


def pledged(from_ms: int) -> bytes:
    return encode_pledge(DevicePledge(device=DEVICE, grade="G", site="s", cell="s/0", from_ms=from_ms), 1)


def withdrawn(from_ms: int) -> bytes:
    return encode_withdrawal(DeviceWithdrawal(device=DEVICE, from_ms=from_ms), 1)


def test_a_device_backs_one_log_until_it_is_withdrawn_there(exchange: Embedded) -> None:
    named = f"device {DEVICE[:16]}"
    assert rejected(exchange, "east", pledged(10)) == []
    assert rejected(exchange, "west", pledged(50)) == [
        f"0 PLEDGED_TWICE: {named} from 50: it is pledged by leaf 0 of stream east from 10 and is not withdrawn"
    ]
    assert rejected(exchange, "west", pledged(50), withdrawn(60)) == [
        f"1 NOT_PLEDGED: {named} at 60: this stream has not pledged it"
    ]
    assert rejected(exchange, "east", pledged(10), withdrawn(70)) == []
    assert rejected(exchange, "west", pledged(50), withdrawn(60), pledged(69)) == [
        f"2 PLEDGED_TWICE: {named} from 69: it is pledged by leaf 0 of stream east from 10 until 70"
    ]
    assert rejected(exchange, "west", pledged(50), withdrawn(60), pledged(69), pledged(70)) == []


def test_a_log_that_contradicts_itself_is_rejected_leaf_by_leaf(exchange: Embedded) -> None:
    leaves = (pledged(10), pledged(50), withdrawn(9), withdrawn(70), pledged(80))
    assert [each.split(":")[0] for each in rejected(exchange, "east", *leaves)] == ["1 PLEDGED_TWICE", "2 NOT_PLEDGED"]


def test_who_was_first_stays_first_after_a_restart(tmp_path: Path) -> None:
    with embedded(tmp_path / "exchange.db") as exchange:
        assert rejected(exchange, "east", pledged(10)) == []
    with embedded(tmp_path / "exchange.db") as exchange:
        assert len(rejected(exchange, "west", pledged(50))) == 1
